"""One tester for every network of the list: what is promised of all of them holds for each of them."""

import copy
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import SMALL, tensors_of
from oracles_a import ORACLES, matches
from safetensors.torch import save_file
from torch import Tensor, nn

from fathom.errors import ModelError
from fathom.models import MODELS, build, entry, list_models
from fathom.models.base import count_parameters, main_output
from fathom.models.weights import load_weights
from fathom.types import DepthKind

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = [*MODELS, "smp:Unet:test_resnet"]
TASKS = {"depth", "normals", "labels", "segmentation", "pose"}
# The packaged networks leave padding to the shared preprocessing, to keep their exported files plain.
NEEDS_MULTIPLES = {"fathom-general", "fathom-indoor"}


def small(name: str) -> nn.Module:
    """Build a small version with random weights that leave no layer silent."""
    return build(name, **SMALL[name])


def sizes_of(name: str, network: nn.Module) -> list[tuple[int, int]]:
    """Two sizes that the network promises to take: odd ones, unless it is tied to one or to multiples."""
    if entry(name).fixed_size:
        assert isinstance(network.input_size, tuple)
        return [network.input_size]
    if name in NEEDS_MULTIPLES:
        return [(56, 84), (98, 70)]
    if name == "unet-paper":
        return [(188, 205), (203, 190)]
    return [(37, 53), (76, 101)]


def images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def close(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    """Compare output by output, relative to the largest value."""
    assert list(left) == list(right)
    for key in left:
        assert left[key].shape == right[key].shape, key
        scale = max(1.0, float(left[key].abs().max()))
        assert float((left[key].float() - right[key].float()).abs().max()) <= tolerance * scale, key


def test_list_has_every_promised_name() -> None:
    promised = (
        "vgg16-regressor multiscale-conv unet unet-paper eigen2014 eigen2015-alexnet eigen2015-vgg eigen2015-net12 "
        "fcrn-upproj fcrn-upconv fcrn-deconv2 fcrn-deconv3 fcrn-compact dispnet dispnet-s garg2016 monodepth-vgg "
        "monodepth-resnet50 sfmlearner monodepth2-resnet18 deeplabv3plus fathom-general fathom-indoor "
        "depth-anything"
    )
    assert list(MODELS) == promised.split()
    assert set(SMALL) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete(name: str) -> None:
    row = entry(name)
    assert row.name == name and row.paper and row.licence
    assert row.kind in {kind.value for kind in DepthKind}
    assert set(row.tasks) <= TASKS and "depth" in row.tasks
    assert row.input_multiple >= 1 and row.input_law.height > 0 and row.input_law.width > 0
    assert all(deviation > 0 for deviation in row.input_law.std)
    if row.recipe is not None:
        assert (REPOSITORY / "configs" / row.recipe).is_file()
    losses = importlib.import_module("fathom.losses")
    assert row.default_loss in losses.LOSSES


@pytest.mark.parametrize("name", [row.name for row in list_models() if row.parameters is not None])
def test_parameter_count_is_the_oracle(name: str) -> None:
    with torch.device("meta"):
        assert count_parameters(build(name)) == MODELS[name].parameters


@pytest.mark.parametrize("name", NAMES)
def test_runs_wherever_it_is_built(name: str) -> None:
    with torch.device("meta"):
        network = small(name).eval()
    for maps in tensors_of(network(images(1, sizes_of(name, network)[0]).to("meta"))).values():
        assert maps.device.type == "meta"


@pytest.mark.parametrize("name", NAMES)
def test_any_size_any_batch_each_picture_for_itself(name: str) -> None:
    network = small(name).eval()
    for size in sizes_of(name, network):
        batch = images(3, size)
        with torch.no_grad():
            together = tensors_of(network(batch))
            again = tensors_of(network(batch))
            alone = [tensors_of(network(batch[index : index + 1])) for index in range(3)]
        for key, maps in together.items():
            assert maps.ndim == 4 and maps.shape[0] == 3, key
            assert torch.isfinite(maps).all(), key
            assert torch.equal(maps, again[key]), f"{key} changes from call to call"
        close(together, {key: torch.cat([one[key] for one in alone]) for key in together}, 1e-4)
        assert "depth" not in together or next(iter(together)) == "depth"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = small(name).train()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                # Positive biases keep rectifiers open in networks this narrow.
                parameter.add_(0.1)
    usual = not entry(name).fixed_size and name not in {"unet-paper", *NEEDS_MULTIPLES}
    outputs = tensors_of(network(images(3, (128, 160) if usual else sizes_of(name, network)[0])))
    sum((maps * torch.randn_like(maps)).mean() for maps in outputs.values()).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{key} gets no gradient"
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, f"{key} gets a zero gradient"


@pytest.mark.parametrize("name", NAMES)
def test_weights_travel_through_a_file(name: str, tmp_path: Path) -> None:
    first, second = small(name).eval(), small(name).eval()
    image = images(1, sizes_of(name, first)[0])
    save_file({key: value.contiguous() for key, value in first.state_dict().items()}, tmp_path / "net.safetensors")
    load_weights(second, tmp_path / "net.safetensors")
    with torch.no_grad():
        close(tensors_of(first(image)), tensors_of(second(image)), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_near(name: str) -> None:
    network = small(name).eval()
    image = images(1, sizes_of(name, network)[0])
    with torch.no_grad():
        exact = tensors_of(network(image))
        with torch.autocast("cpu", torch.bfloat16):
            short = tensors_of(network(image))
    close(exact, short, 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_is_the_same(name: str) -> None:
    network = small(name).eval()
    image = images(2, sizes_of(name, network)[0])
    with torch.no_grad():
        exact = tensors_of(network(image))
        other = copy.deepcopy(network).to(memory_format=torch.channels_last)
        close(exact, tensors_of(other(image.to(memory_format=torch.channels_last))), 1e-4)


def export(network: nn.Module, name: str) -> tuple[torch.export.ExportedProgram, list[tuple[int, ...]]]:
    """Export with batch, height and width dynamic, in steps of the entry's multiple; tell shapes to try."""
    row = entry(name)
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=64)}
    if row.fixed_size:
        first = second = sizes_of(name, network)[0]
    else:
        step = row.input_multiple
        smallest = 188 if name == "unet-paper" else 33
        for axis, word in ((2, "height"), (3, "width")):
            unit = torch.export.Dim(word, min=-(-smallest // step), max=2048 // step)
            dynamic[axis] = unit * step if step > 1 else unit
        units = max(2, -(-smallest // step))
        first, second = (units * step, (units + 1) * step), ((units + 2) * step, units * step)
    program = torch.export.export(network, (torch.randn(2, 3, *first),), dynamic_shapes=(dynamic,), strict=False)
    return program, [(2, 3, *first), (1, 3, *second)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_exports_with_dynamic_height_and_width(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = small(name).eval()
    program, shapes = export(network, name)
    for shape in shapes:
        image = torch.randn(shape)
        with torch.no_grad():
            close(tensors_of(network(image)), tensors_of(program.module()(image)), 1e-4)
    model = torch.onnx.export(program, dynamo=True, verbose=False)
    assert model is not None
    buffer = io.BytesIO()
    model.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for shape in shapes:
        image = torch.randn(shape)
        with torch.no_grad():
            expected = tensors_of(network(image))
        got = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        assert len(got) == len(expected)
        close(
            expected, {key: torch.from_numpy(np.asarray(item)) for key, item in zip(expected, got, strict=True)}, 1e-4
        )


def test_unknown_names_and_options_are_told_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"'fcrn-upproj'"):
        build("fcrn-uproj")
    with pytest.raises(ModelError, match=r"Unknown option 'decodr'.*Did you mean 'decoder'"):
        build("fcrn-compact", decodr="upproj")
    with pytest.raises(ModelError, match="smp:DECODER:ENCODER"):
        build("smp:Unet")
    with pytest.raises(ModelError, match="Expected one of the tasks"):
        list_models("cooking")


def test_imagenet_is_refused_where_nobody_publishes_it() -> None:
    with pytest.raises(ModelError, match="No package publishes"):
        build("eigen2014", pretrained="imagenet")
    with pytest.raises(ModelError, match="No package publishes"):
        build("fcrn-upproj", pretrained="imagenet", width=4, blocks=(1, 1, 1, 1))


def test_pretrained_path_loads_the_whole_network(tmp_path: Path) -> None:
    first = small("fcrn-compact")
    torch.save({"state_dict": first.state_dict()}, tmp_path / "net.pth")
    second = build("fcrn-compact", pretrained=str(tmp_path / "net.pth"), **SMALL["fcrn-compact"])
    assert torch.equal(first.head.weight, second.head.weight)


def test_main_output_is_the_first() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    assert main_output(one) is one
    assert main_output({"depth": one, "depth_scale2": two}) is one
    assert main_output((one, two)) is one


@pytest.mark.parametrize(("name", "expected", "compute"), ORACLES, ids=[row[0] for row in ORACLES])
def test_oracle(name: str, expected: Any, compute: Any) -> None:
    assert matches(expected, compute())
