"""What is rewritten before coremltools sees a network; the packages themselves are in test_formats."""

import pytest

torch = pytest.importorskip("torch")

from fathom.export.coreml import _without_cubic  # noqa: E402


class Positions(torch.nn.Module):
    """Adds a stored grid, resized with a cubic to the picture's size, and resizes the picture likewise if asked."""

    def __init__(self, whole):
        super().__init__()
        self.grid = torch.nn.Parameter(torch.randn(1, 3, 4, 5))
        self.whole = whole

    def forward(self, image):
        cubic = {"size": image.shape[-2:], "mode": "bicubic", "align_corners": False}
        grown = torch.nn.functional.interpolate(self.grid * 2, **cubic)
        if self.whole:
            image = torch.nn.functional.interpolate(image[..., ::2, ::2], **cubic)
        return image + grown


@pytest.mark.parametrize("whole", [False, True])
def test_stored_values_are_resized_ahead(whole):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 12)
    program = torch.export.export(Positions(whole), (image,), strict=False)
    changed = _without_cubic(program)
    left = [node for node in changed.graph.nodes if "bicubic" in str(node.target)]
    assert len(left) == whole  # what depends on the picture stays
    torch.testing.assert_close(changed.module()(image), program.module()(image))
    again = torch.rand(1, 3, 8, 12)
    torch.testing.assert_close(changed.module()(again), program.module()(again))


def test_a_network_without_cubic_stays_as_it_is():
    program = torch.export.export(torch.nn.ReLU(), (torch.rand(1, 3, 4, 4),), strict=False)
    assert _without_cubic(program) is program
