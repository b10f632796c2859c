import pytest
import torch
from checks_b import EXPORT_WARNINGS, check_evaluation, check_export, check_gradients, check_oracles

from fathom.errors import ModelError
from fathom.models.smp_grid import build_deeplabv3plus, build_grid

# timm's own test networks: a few hundred thousand parameters.
RESNET, VIT = "test_resnet", "test_vit"
DECODERS = {
    "Unet": {"decoder_channels": (16, 8, 8, 4, 4)},
    "UnetPlusPlus": {"decoder_channels": (16, 8, 8, 4, 4)},
    "MAnet": {"decoder_channels": (16, 8, 8, 4, 4), "decoder_pab_channels": 4},
    "Linknet": {},
    "FPN": {"decoder_pyramid_channels": 8, "decoder_segmentation_channels": 32, "decoder_dropout": 0.0},
    "PSPNet": {"psp_out_channels": 8},
    "DeepLabV3": {"decoder_channels": 8},
    "DeepLabV3Plus": {"decoder_channels": 8},
    "PAN": {"decoder_channels": 8},
    "UPerNet": {"decoder_channels": 8},
    "Segformer": {"decoder_segmentation_channels": 8},
    "DPT": {"decoder_intermediate_channels": (8, 8, 8, 8), "decoder_fusion_channels": 8},
}


def cell(decoder: str, **options):
    return build_grid(decoder, VIT if decoder == "DPT" else RESNET, **DECODERS[decoder], **options)


def test_oracles_of_the_specification():
    check_oracles(("5.5",))


def test_every_decoder_of_the_library_is_tried():
    smp = pytest.importorskip("segmentation_models_pytorch")
    assert {name.lower() for name in DECODERS} == set(smp.MODEL_ARCHITECTURES_MAPPING)


@pytest.mark.parametrize("decoder", list(DECODERS))
def test_every_decoder_takes_any_size_and_learns(decoder):
    network = cell(decoder)
    check_gradients(network, torch.rand(2, 3, 37, 70))
    check_evaluation(network, torch.rand(2, 3, 33, 65))
    with torch.no_grad():
        for size in ((37, 53), (1, 40)):
            depth = network(torch.rand(1, 3, *size))
            assert depth.shape == (1, 1, *size) and (depth > 0).all()


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
def test_encoders_of_both_libraries(encoder):
    assert build_grid("FPN", encoder).eval()(torch.rand(1, 3, 40, 33)).shape == (1, 1, 40, 33)


@pytest.mark.parametrize("name", ["unet++", "UNet++", "U-Net-Plus-Plus", "unet_plus_plus"])
def test_decoder_names_may_be_written_loosely(name):
    network = build_grid(name, RESNET, **DECODERS["UnetPlusPlus"])
    assert type(network.trunk.decoder).__name__ == "UnetPlusPlusDecoder"


def test_heads_with_a_distribution_come_at_full_size():
    network = cell("FPN", head="ordinal", head_options={"num_intervals": 6})
    outputs = network(torch.rand(2, 3, 37, 53))
    assert {key: value.shape for key, value in outputs.items()} == {
        "depth": (2, 1, 37, 53),
        "ordinal_logits": (2, 5, 37, 53),
    }
    outputs = cell("FPN", head="bins", head_options={"num_bins": 6})(torch.rand(2, 3, 37, 53))
    assert {key: value.shape for key, value in outputs.items()} == {"depth": (2, 1, 37, 53), "bin_centers": (2, 6)}


def test_other_channels_than_three():
    assert cell("Unet", in_channels=4).eval()(torch.rand(1, 4, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("decoder", "encoder", "options", "text"),
    [
        ("Unett", RESNET, {}, "Expected a decoder out of unet, .* got 'Unett'"),
        ("Unet", "resnet1888", {}, "got 'resnet1888'. Did you mean resnet"),
        ("DPT", RESNET, {}, "cannot be built on the encoder 'test_resnet'"),
        ("Unet", RESNET, {"decoder_channels": (4,)}, "cannot be built"),
        ("Unet", "resnet18", {"decoder_chanels": (4,)}, "no option 'decoder_chanels'. Did you mean 'decoder_channels'"),
        ("DPT", VIT, {"nonsense": 1}, "nonsense"),
    ],
)
def test_what_does_not_fit_is_told(decoder, encoder, options, text):
    with pytest.raises(ModelError, match=text):
        build_grid(decoder, encoder, **options)


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_deeplab_has_the_rates_of_the_paper(stride, rates):
    network = build_deeplabv3plus(encoder="resnet18", output_stride=stride, decoder_channels=8)
    branches = network.trunk.decoder.aspp[0].convs
    assert [branch[0][0].dilation[0] for branch in branches[1:4]] == rates
    encoded = network.trunk.encoder(torch.zeros(1, 3, 64, 64))[-1]
    assert encoded.shape[-1] == 64 // stride


def test_deeplab_refuses_another_stride():
    with pytest.raises(ModelError, match="8 or 16; got 32"):
        build_deeplabv3plus(encoder="resnet18", output_stride=32)


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_grid(self):
        check_export(cell("FPN"), (torch.rand(2, 3, 70, 97),), [(torch.rand(1, 3, 128, 65),)])
