"""What is rewritten in the ONNX that torch makes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from fathom.export.onnx import program_to_onnx  # noqa: E402
from fathom.models.layers import interleave  # noqa: E402


class Interleaved(torch.nn.Module):
    """Four maps woven into one of twice the size; with `twice` the stack of them is read, too."""

    def __init__(self, twice):
        super().__init__()
        self.twice = twice
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 5, 1) for _ in range(4))

    def forward(self, image):
        maps = [conv(image) for conv in self.convs]
        if self.twice:
            stack = torch.stack(maps, dim=2)
            return torch.nn.functional.pixel_shuffle(stack.flatten(1, 2), 2) + stack.sum()
        return interleave(maps)


@pytest.mark.parametrize("twice", [False, True])
def test_interleaving_needs_four_dimensions_only(twice):
    torch.manual_seed(0)
    network = Interleaved(twice).eval()
    image = torch.rand(2, 3, 6, 7)
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("rows"), 3: torch.export.Dim("columns")}
    model = program_to_onnx(torch.export.export(network, (image,), dynamic_shapes=(free,), strict=False))
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert ("Unsqueeze" in kinds) == twice and ("Reshape" in kinds) == twice
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for size in ((2, 3, 6, 7), (1, 3, 4, 9)):
        picture = torch.rand(size)
        found = session.run(None, {"image": picture.numpy()})[0]
        with torch.no_grad():
            np.testing.assert_allclose(found, network(picture).numpy(), rtol=1e-5, atol=1e-5)
