import pytest
import torch
from checks_b import EXPORT_WARNINGS, check_evaluation, check_export, check_gradients, check_oracles

from fathom.errors import ConfigError, ShapeError
from fathom.models.unet import UNet, UNetPaper, UNetTrunk


def test_oracles_of_the_specification():
    check_oracles(("6.",))


@pytest.mark.parametrize("skip", ["concat", "add"])
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_every_form_learns_and_is_steady(skip, up):
    network = UNet(base_channels=2, skip=skip, up=up)
    pictures = torch.rand(3, 3, 37, 53)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)
    assert network(pictures).shape == (3, 1, 37, 53)


@pytest.mark.parametrize(
    ("head", "options", "channels"),
    [("linear", {}, 1), ("sigmoid", {"max_depth": 80.0}, 1), ("log_depth", {}, 1), ("classes", {"num_classes": 5}, 5)],
)
def test_depth_and_segmentation_heads(head, options, channels):
    network = UNet(base_channels=2, head=head, head_options=options)
    assert network(torch.rand(2, 3, 33, 18)).shape == (2, channels, 33, 18)


def test_a_head_with_a_distribution_returns_a_dictionary_in_both_modes():
    network = UNet(base_channels=2, head="ordinal", head_options={"num_intervals": 5})
    for mode in (True, False):
        outputs = network.train(mode)(torch.rand(2, 3, 20, 20))
        assert {key: value.shape for key, value in outputs.items()} == {
            "depth": (2, 1, 20, 20),
            "ordinal_logits": (2, 4, 20, 20),
        }


def test_default_depth_is_positive():
    assert (UNet(base_channels=2).eval()(torch.randn(1, 3, 16, 32)) > 0).all()


def test_skips_leave_before_the_pooling():
    # With the path through the bottom cut off, one changed pixel still changes itself only if the skip has full size.
    trunk = UNetTrunk(3, base_channels=2).eval()
    for layer in trunk.enlarge:
        torch.nn.init.zeros_(layer.weight)
    first = torch.rand(1, 3, 32, 32)
    second = first.clone()
    second[..., 16, 16] += 5.0
    with torch.no_grad():
        rows, columns = (trunk(first) - trunk(second)).abs().sum((0, 1)).nonzero().unbind(1)
    # Four 3x3 convolutions reach four pixels.
    assert rows.numel() > 0
    assert ((rows - 16).abs() <= 4).all() and ((columns - 16).abs() <= 4).all()


def test_padding_does_not_change_a_picture_that_fits():
    trunk = UNetTrunk(3, base_channels=2).eval()
    picture = torch.rand(1, 3, 32, 48)
    repeated = torch.cat([picture, picture[..., -1:].expand(-1, -1, -1, 16)], dim=-1)
    with torch.no_grad():
        # A picture 49 wide is padded to 64 by repeating its last column: the same as repeating it by hand.
        torch.testing.assert_close(trunk(repeated[..., :49]), trunk(repeated)[..., :49])


@pytest.mark.parametrize(("options", "text"), [({"skip": "sum"}, "'concat' or 'add'"), ({"up": "nearest"}, "bilinear")])
def test_a_wrong_option_is_told(options, text):
    with pytest.raises(ConfigError, match=text):
        UNet(**options)


def test_paper_form_learns_and_is_steady():
    network = UNetPaper(base_channels=2)
    pictures = torch.rand(2, 3, 189, 205)
    check_gradients(network, pictures)
    check_evaluation(network, pictures)
    assert network(pictures).shape == (2, 1, 4, 20)


def test_paper_form_drops_at_the_bottom_only_while_training():
    network = UNetPaper(base_channels=2)
    picture = torch.rand(1, 3, 188, 188)
    with torch.no_grad():
        assert not torch.equal(network(picture), network(picture))
        network.eval()
        assert torch.equal(network(picture), network(picture))


def test_paper_form_refuses_a_picture_that_leaves_no_output():
    with pytest.raises(ShapeError, match=r"at least 188 .* got \(187, 300\)"):
        UNetPaper(base_channels=2)(torch.zeros(1, 3, 187, 300))


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_padded_form(self):
        network = UNet(base_channels=2, up="bilinear", head="ordinal", head_options={"num_intervals": 6})
        check_export(network, (torch.rand(2, 3, 37, 53),), [(torch.rand(1, 3, 64, 33),)])
