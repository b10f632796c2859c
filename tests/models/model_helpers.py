"""Small options for every network of the list, and a uniform view of what networks return."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Options that keep a network's structure but make it small; the list of networks is tested with these.
SMALL: dict[str, dict[str, Any]] = {
    "vgg16-regressor": {"width": 0.0625, "hidden": 16},
    "multiscale-conv": {"width": 0.0625, "channels": 16},
    "unet": {"base_channels": 4},
    "unet-paper": {"base_channels": 4},
    "eigen2014": {"width": 0.125, "hidden": 24, "input_size": (92, 108)},
    "eigen2015-alexnet": {"width": 0.125, "hidden": 24, "input_size": (92, 108)},
    "eigen2015-vgg": {"width": 0.0625, "hidden": 24, "input_size": (100, 132)},
    "eigen2015-net12": {"width": 0.0625, "hidden": 24, "input_size": (100, 132)},
    "fcrn-upproj": {"width": 4, "blocks": (1, 1, 1, 1)},
    "fcrn-upconv": {"width": 4, "blocks": (1, 1, 1, 1)},
    "fcrn-deconv2": {"width": 4, "blocks": (1, 1, 1, 1)},
    "fcrn-deconv3": {"width": 4, "blocks": (1, 1, 1, 1)},
    "fcrn-compact": {"base_channels": 8},
    "dispnet": {"base_channels": 8},
    "dispnet-s": {"base_channels": 4},
    "garg2016": {"base_channels": 8, "fc_channels": 16},
    "monodepth-vgg": {"base_channels": 4},
    "monodepth-resnet50": {"base_channels": 4},
    "sfmlearner": {"base_channels": 4},
    "monodepth2-resnet18": {"base_channels": 4, "decoder_channels": (4, 4, 8, 8, 8)},
    "deeplabv3plus": {"encoder": "test_resnet"},
    "fathom-general": {"taps": (1, 2, 3, 4), "heads": 2, "hidden": 32, "grid": (4, 6)},
    "fathom-indoor": {"taps": (1, 2, 3, 4), "heads": 2, "hidden": 32, "grid": (4, 6)},
    "depth-anything": {"hidden_size": 24, "heads": 2, "layers": 4, "neck": (4, 4, 8, 8), "fusion": 8},
    "smp:Unet:test_resnet": {},
}


def tensors_of(output: Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Name every tensor that a network returned."""
    if isinstance(output, Tensor):
        return {"output": output}
    if isinstance(output, Mapping):
        return dict(output)
    return {str(index): item for index, item in enumerate(output)}
