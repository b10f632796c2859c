"""Eigen 2014 and Eigen and Fergus 2015: counts, shapes, alignment, normalisation, two-phase training."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fathom.errors import ModelError, ShapeError
from fathom.models import MODELS, build
from fathom.models.base import count_parameters
from fathom.models.eigen2014 import (
    INPUT_MEAN,
    INPUT_STD,
    LOG_DEPTH_STD,
    AlexTrunk,
    Eigen2014,
    conv_size,
    cuda_convnet_padding,
    fine_size,
    sample_target,
)
from fathom.models.eigen2015 import EigenFergus2015, build_eigen2015, build_net12
from fathom.models.layers import OldDropout

TINY = {"width": 0.125, "hidden": 16}


def meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return build(name, **options)


@pytest.mark.parametrize(
    ("size", "paddings", "coarse", "flat", "fine"),
    [
        ((228, 304), (2, 2), [(56, 75), (27, 37), (13, 18), (6, 8)], 12_288, [(111, 149), (55, 74)]),
        ((172, 576), (2, 2), [(42, 143), (20, 71), (9, 35), (4, 17)], 17_408, [(83, 285), (41, 142)]),
    ],
)
def test_eigen2014_shapes(
    size: tuple[int, int],
    paddings: tuple[int, int],
    coarse: list[tuple[int, int]],
    flat: int,
    fine: list[tuple[int, int]],
) -> None:
    with torch.device("meta"):
        network = Eigen2014(size)
        image = torch.empty(1, 3, *size)
    trunk = network.coarse.trunk
    assert trunk.conv1.padding == paddings
    maps = trunk.conv1(image)
    shapes = [tuple(maps.shape[2:])]
    for layer in (trunk.conv2, nn.Sequential(trunk.conv3, trunk.conv4, trunk.conv5), None):
        maps = trunk.pool(maps)
        shapes.append(tuple(maps.shape[2:]))
        maps = maps if layer is None else layer(maps)
    assert shapes == coarse
    assert tuple(trunk(image).flatten(1).shape) == (1, flat) and network.coarse.full1.in_features == flat
    assert network.fine.conv1.padding == (1, 1)
    local = network.fine.conv1(image)
    assert [tuple(local.shape[2:]), tuple(network.fine.pool(local).shape[2:])] == fine
    assert tuple(network(image).shape) == (1, 1, *fine[-1]) == tuple(network.coarse_depth(image).shape)


def test_eigen2014_counts() -> None:
    network = meta("eigen2014")
    assert count_parameters(network.coarse.trunk) == 3_747_200
    assert count_parameters(network.coarse.full1) + count_parameters(network.coarse.full2) == 67_010_534
    assert (network.coarse.full1.out_features, network.coarse.full2.out_features) == (4096, 4070)
    assert count_parameters(network.fine) == 119_437 and network.fine.conv1.out_channels == 63
    assert count_parameters(network) == 70_877_171
    # The release computes a 64th map and overwrites it: one more 9x9x3 filter and bias.
    assert count_parameters(network) + 3 * 9 * 9 + 1 == 70_877_415


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(228, 11, 4), (304, 9, 2), (172, 11, 4), (57, 5, 3), (11, 11, 4)]
)
def test_old_padding_gives_the_rounded_up_size(size: int, kernel: int, stride: int) -> None:
    padding = cuda_convnet_padding(size, kernel, stride)
    assert conv_size(size, kernel, stride, padding) >= math.ceil((size - kernel) / stride) + 1
    assert padding < stride


def test_target_positions_are_the_centres_of_the_output_pixels() -> None:
    rows, columns = torch.arange(228.0).view(228, 1), torch.arange(304.0).view(1, 304)
    sampled = sample_target((1000 * rows + columns).expand(228, 304))
    assert sampled.shape == (55, 74)
    assert torch.equal(sampled, 1000 * (5 + 4 * torch.arange(55.0)).view(55, 1) + 5 + 4 * torch.arange(74.0))
    # The published form: crop rows 4:224 and columns 4:300, then every fourth from 1.
    assert torch.equal(sampled, (1000 * rows + columns)[4:224, 4:300][1::4, 1::4])
    assert (5 + 4 * 54, 5 + 4 * 73) == (221, 297)
    third = sample_target(columns.expand(228, 304), (109, 147), stride=2)
    assert third.shape == (109, 147) and third[0, :3].tolist() == [5.0, 7.0, 9.0] and third[0, -1] == 297.0
    # Cut from 640x480 the region is rows 20:460 and columns 24:616: twice the 320x240 region 10:230, 12:308.
    assert [2 * (edge + 6) for edge in (4, 224)] == [20, 460] and [2 * (edge + 8) for edge in (4, 300)] == [24, 616]
    with pytest.raises(ShapeError, match="at least"):
        sample_target(torch.zeros(220, 304))


@pytest.mark.parametrize("stride", [4, 2])
def test_receptive_fields_are_centred_on_the_target_positions(stride: int) -> None:
    """Ones through 9x9 stride 2 padding 1 and the pool's mean see a patch around 5 + stride * i."""
    convolution = nn.Conv2d(1, 1, 9, stride=2, padding=1, bias=False, dtype=torch.float64)
    nn.init.ones_(convolution.weight)
    image = torch.zeros(1, 1, 61, 61, dtype=torch.float64, requires_grad=True)
    pooled = functional.avg_pool2d(convolution(image), 3, stride // 2)
    pooled[0, 0, 4, 5].backward()
    weight = image.grad[0, 0]
    centre = [float((weight.sum(1 - axis) * torch.arange(61.0)).sum() / weight.sum()) for axis in (0, 1)]
    assert centre == pytest.approx([5 + stride * 4, 5 + stride * 5])


def test_both_forms_of_scale_3_have_one_size_and_one_centre() -> None:
    for size in (228, 304):
        assert conv_size(conv_size(size, 9, 2, 1), 3, 1) == conv_size(conv_size(size, 9, 2, 0), 2, 1)
    centres = []
    for padding, pool in ((1, 3), (0, 2)):
        convolution = nn.Conv2d(1, 1, 9, stride=2, padding=padding, bias=False, dtype=torch.float64)
        nn.init.ones_(convolution.weight)
        image = torch.zeros(1, 1, 41, 41, dtype=torch.float64, requires_grad=True)
        functional.avg_pool2d(convolution(image), pool, 1)[0, 0, 6, 6].backward()
        weight = image.grad[0, 0].sum(1)
        centres.append(float((weight * torch.arange(41.0)).sum() / weight.sum()))
    assert centres == pytest.approx([5 + 2 * 6] * 2)


def test_response_normalisation_is_the_original_formula() -> None:
    """x * (2 + 1e-4 * sum over 5 channels of squares) ** -0.75, not divided by 5."""
    maps = 50 * torch.randn(2, 9, 3, 4, dtype=torch.float64)
    squares = functional.pad(maps**2, (0, 0, 0, 0, 2, 2))
    total = sum(squares[:, shift : shift + 9] for shift in range(5))
    expected = maps * (2 + 1e-4 * total) ** -0.75
    torch.testing.assert_close(AlexTrunk((228, 304), 0.125).normalise(maps), expected)


def test_dropout_is_not_inverted() -> None:
    layer = OldDropout(0.5)
    values = torch.ones(10_000)
    dropped = layer.train()(values)
    assert set(dropped.tolist()) == {0.0, 1.0}
    assert 0.45 < float(dropped.mean()) < 0.55
    assert set(layer.eval()(values).tolist()) == {0.5}


def test_eigen2014_space_is_log_depth_over_its_spread() -> None:
    network = Eigen2014(**TINY).eval()
    with torch.no_grad():
        for part in (network.fine.conv3, network.coarse.full2):
            part.weight.zero_()
            part.bias.fill_(2.0)
    image = torch.randn(1, 3, 228, 304)
    for depth in (network(image), network.coarse_depth(image)):
        torch.testing.assert_close(depth, torch.full_like(depth, math.exp(2.0 * LOG_DEPTH_STD)))


def test_eigen2014_coarse_network_sees_the_pixel_minus_128() -> None:
    network = Eigen2014(**TINY).eval()
    pixels = torch.rand(1, 3, 228, 304) * 255
    with torch.no_grad():
        got = network.coarse_depth((pixels - INPUT_MEAN) / INPUT_STD)
        expected = torch.exp(network.coarse(pixels - 128) * LOG_DEPTH_STD)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    law = MODELS["eigen2014"].input_law
    assert law.mean == (INPUT_MEAN,) * 3 and law.std == (INPUT_STD,) * 3 and law.value_range == (0.0, 255.0)


def test_eigen2014_second_phase_trains_the_fine_network_alone() -> None:
    network = Eigen2014(**TINY).train()
    rates = {group["name"]: group["lr"] for group in network.parameter_groups(1.0)}
    assert rates == {
        "coarse.trunk": 0.001,
        "coarse.full1": 0.1,
        "coarse.full2": 0.1,
        "fine.conv1": 0.001,
        "fine.conv2": 0.01,
        "fine.conv3": 0.001,
    }
    network.freeze_coarse()
    assert [group["name"] for group in network.parameter_groups(1.0)] == ["fine.conv1", "fine.conv2", "fine.conv3"]
    image = torch.randn(1, 3, 228, 304)
    network(image).mean().backward()
    assert all(parameter.grad is None for parameter in network.coarse.parameters())
    assert all(parameter.grad is not None for parameter in network.fine.parameters())
    assert torch.equal(network.coarse_depth(image), network.coarse_depth(image)), "frozen dropout must stand still"


def test_fixed_size_is_told() -> None:
    with pytest.raises(ShapeError, match=r"takes only height and width \(228, 304\); got \(64, 64\)"):
        Eigen2014(**TINY)(torch.zeros(1, 3, 64, 64))


def test_eigen2015_counts() -> None:
    network = meta("eigen2015-vgg")
    assert count_parameters(network.scale1.trunk) == 14_714_688
    assert count_parameters(network.scale1.full) == 132_124_672
    assert count_parameters(network.scale1.seed) == 69_747_328
    assert count_parameters(network.scale1) == 216_586_688
    assert count_parameters(network.scale2) == 486_017
    assert count_parameters(network.scale3) == 282_753
    assert count_parameters(network) == 217_355_458
    assert count_parameters(meta("eigen2015-vgg", task="normals")) == 217_365_062
    assert count_parameters(meta("eigen2015-alexnet")) == 124_599_042


def test_net12_counts() -> None:
    network = meta("eigen2015-net12")
    assert count_parameters(network.scale1) + count_parameters(network.scale2) == 217_072_705
    assert count_parameters(network.scale3) == 282_753
    appendix = meta("eigen2015-net12", scale2_hidden=2)
    assert count_parameters(appendix.scale1) + count_parameters(appendix.scale2) == 216_970_241


@pytest.mark.parametrize("name", ["eigen2015-vgg", "eigen2015-net12"])
def test_vgg_trunk_shapes_with_two_unpadded_convolutions(name: str) -> None:
    network = meta(name)
    image = torch.empty(1, 3, 228, 304, device="meta")
    stages = network.scale1.trunk.vgg(image)
    assert tuple(stages[0].shape[2:]) == (224, 300)
    pooled = [functional.max_pool2d(maps, 2) for maps in stages[:5]]
    assert [tuple(maps.shape[1:]) for maps in pooled] == [
        (64, 112, 150),
        (128, 56, 75),
        (256, 28, 37),
        (512, 14, 18),
        (512, 7, 9),
    ]
    assert network.scale1.full.in_features == 32_256
    assert tuple(network.scale1.seed_maps(image).shape) == (1, 64, 14, 19)
    assert tuple(network.scale1(image).shape) == (1, 64, 55, 74)
    assert network.scale2.local({"rgb": image}).shape[1:] == (96, 55, 74)
    assert network.scale3.local({"rgb": image}).shape[1:] == (96, 109, 147)
    outputs = network(image)
    assert {key: tuple(maps.shape) for key, maps in outputs.items()} == {
        "depth": (1, 1, 109, 147),
        "depth_scale2": (1, 1, 55, 74),
    }


def test_alexnet_trunk_shapes() -> None:
    network = meta("eigen2015-alexnet")
    image = torch.empty(1, 3, 228, 304, device="meta")
    assert tuple(network.scale1.trunk(image).shape) == (1, 256, 6, 8)
    assert tuple(network(image)["depth"].shape) == (1, 1, 109, 147)


def test_padding_everywhere_is_silent_at_the_fully_connected_layer() -> None:
    """Why the trunk's shapes are tested one by one: a padded trunk gives the same 7x9 and 32,256."""
    side = {"unpadded": (228 - 4, 304 - 4), "padded": (228, 304)}
    ends = {}
    for name, (height, width) in side.items():
        for _ in range(5):
            height, width = height // 2, width // 2
        ends[name] = (height, width, 512 * height * width)
    assert ends["padded"] == ends["unpadded"] == (7, 9, 32_256)
    # Width first: the same flat length too.
    assert 512 * 9 * 7 == 32_256
    assert [(152, 114), (76, 57), (38, 28), (19, 14), (9, 7)][-1] == (9, 7)


def test_other_input_sizes_of_the_variant_do_not_fit() -> None:
    assert 512 * ((220 - 4) // 32) * ((296 - 4) // 32) == 27_648
    assert (fine_size(220), fine_size(296)) == (53, 72)
    with pytest.raises(ShapeError, match="takes only"):
        build_net12(width=0.0625, hidden=8)(torch.zeros(1, 3, 304, 228))


def test_a_horizontal_ramp_stays_horizontal() -> None:
    """Rows are rows: where only columns differ, the reshaped scale 1 and the upsampling keep it so."""
    network = build_eigen2015(trunk="vgg", width=0.0625, hidden=8).eval()
    maps = torch.linspace(0.0, 1.0, 19).expand(1, 4, 14, 19)
    with torch.no_grad():
        network.scale1.seed.weight.zero_()
        network.scale1.seed.bias.copy_(maps.flatten())
        up = network.scale1(torch.zeros(1, 3, 228, 304))
    assert up.shape == (1, 4, 55, 74)
    assert float(up.var(dim=2).max()) < 1e-10
    assert (up.diff(dim=3) >= 0).all()


def test_scale_2_meets_scale_3_at_every_second_pixel() -> None:
    network = build_eigen2015(trunk="alexnet", **TINY).eval()
    raw = torch.randn(1, 1, 55, 74)
    torch.testing.assert_close(network._upsampled(raw)[:, :, ::2, ::2], raw, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", ["depth", "normals", "labels"])
def test_tasks(task: str) -> None:
    network = build("eigen2015-alexnet", task=task, num_classes=13, **TINY).eval()
    outputs = network(torch.randn(2, 3, 228, 304))
    channels = {"depth": 1, "normals": 3, "labels": 13}[task]
    assert [tuple(maps.shape) for maps in outputs.values()] == [(2, channels, 109, 147), (2, channels, 55, 74)]
    assert list(outputs) == [task, f"{task}_scale2"]
    if task == "depth":
        assert (outputs["depth"] > 0).all()
    if task == "normals":
        norms = outputs["normals"].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert network.scale1.dropout.p == (0.8 if task == "labels" else 0.5)


def test_label_network_sees_depth_and_normals_with_32_filters_each() -> None:
    inputs = ("rgb", "depth", "normals")
    network = build("eigen2015-vgg", task="labels", inputs=inputs, num_classes=4, width=1 / 16, hidden=8).eval()
    with torch.device("meta"):
        full = build("eigen2015-vgg", task="labels", inputs=inputs, num_classes=4)
    assert {name: tuple(layer.weight.shape) for name, layer in full.scale2.local.convolutions.items()} == {
        "rgb": (32, 3, 9, 9),
        "depth": (32, 1, 9, 9),
        "normals": (32, 3, 9, 9),
    }
    assert next(iter(full.scale1.trunk.parameters())).shape[1] == 3
    image, depth, normals = torch.randn(1, 3, 228, 304), torch.rand(1, 1, 228, 304), torch.randn(1, 3, 228, 304)
    outputs = network(image, depth, normals)
    assert tuple(outputs["labels"].shape) == (1, 4, 109, 147)
    assert not torch.equal(outputs["labels"], network(image, depth + 1, normals)["labels"])
    with pytest.raises(ShapeError, match=r"'depth' was not given"):
        network(image)
    with pytest.raises(ShapeError, match=r"'depth' was given too"):
        build("eigen2015-vgg", width=1 / 16, hidden=8)(image, depth)


def test_two_phases() -> None:
    network = build_eigen2015(trunk="alexnet", **TINY).train()
    rates = {group["name"]: group["lr"] for group in network.parameter_groups(1.0)}
    assert rates == {
        "scale1.trunk": 0.001,
        "scale1.full": 0.1,
        "scale1.seed": 0.1,
        "scale2.local": 0.001,
        "scale2.conv2": 0.01,
        "scale2.conv3": 0.01,
        "scale2.conv4": 0.01,
        "scale2.conv5": 0.001,
        "scale3.local": 0.001,
        "scale3.conv2": 0.01,
        "scale3.conv3": 0.01,
        "scale3.conv4": 0.001,
    }
    normals = build_eigen2015(trunk="alexnet", task="normals", **TINY)
    assert normals.parameter_groups(1.0)[0]["lr"] == pytest.approx(0.01)
    labels = build_eigen2015(trunk="alexnet", task="labels", **TINY)
    assert [group["lr"] for group in labels.parameter_groups(1.0)][1:3] == [1.0, 0.01]
    network.freeze_coarse()
    image = torch.randn(2, 3, 228, 304)
    network(image)["depth"].mean().backward()
    trained = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert trained == {"scale3"}
    assert {group["name"].split(".")[0] for group in network.parameter_groups(1.0)} == {"scale3"}


def test_window_of_scale_3_is_a_part_of_the_whole() -> None:
    network = build_eigen2015(trunk="alexnet", **TINY).eval()
    image = torch.randn(1, 3, 228, 304)
    generator = torch.Generator().manual_seed(3)
    windows = [network.random_window(generator) for _ in range(50)]
    assert all(rows.stop - rows.start == 55 and columns.stop - columns.start == 74 for rows, columns in windows)
    assert all(0 <= rows.start and rows.stop <= 109 and columns.stop <= 147 for rows, columns in windows)
    assert len({(rows.start, columns.start) for rows, columns in windows}) > 30
    rows, columns = windows[0]
    with torch.no_grad():
        part = network.predict_window(image, (rows, columns))
        whole = network(image)["depth"][..., rows, columns]
    assert part.shape == whole.shape == (1, 1, 55, 74)
    # Three 5x5 convolutions reach 6 pixels; inside that the window is the whole.
    torch.testing.assert_close(part[..., 6:-6, 6:-6], whole[..., 6:-6, 6:-6], rtol=1e-4, atol=1e-5)


def test_net12_differs_from_the_paper_only_in_the_first_layer_of_scale_3() -> None:
    paper, variant = build_eigen2015(width=0.0625, hidden=8).eval(), build_net12(width=0.0625, hidden=8).eval()
    variant.load_state_dict(paper.state_dict())
    assert isinstance(variant, EigenFergus2015)
    assert (variant.scale3.local.pool.kernel_size, paper.scale3.local.pool.kernel_size) == (2, 3)
    image = torch.randn(1, 3, 228, 304)
    with torch.no_grad():
        one, two = paper(image), variant(image)
    assert torch.equal(one["depth_scale2"], two["depth_scale2"])
    assert one["depth"].shape == two["depth"].shape and not torch.equal(one["depth"], two["depth"])


def test_last_layers_are_linear_and_no_batch_normalisation() -> None:
    network = build_net12(width=0.0625, hidden=8)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    image = torch.randn(1, 3, 228, 304)
    with torch.no_grad():
        network.scale2.conv5.weight.zero_()
        network.scale2.conv5.bias.fill_(-3.0)
        depth = network.eval()(image)["depth_scale2"]
    torch.testing.assert_close(depth, torch.full_like(depth, math.exp(-3.0)))


def test_disparity_oracle_of_the_article() -> None:
    assert 721.5377 * 0.54 / 10 == pytest.approx(38.963, abs=5e-4)


def test_wrong_options_are_told() -> None:
    with pytest.raises(ModelError, match=r"`task` must be"):
        build("eigen2015-vgg", task="pose")
    with pytest.raises(ModelError, match=r"`trunk` must be"):
        EigenFergus2015("resnet")
    with pytest.raises(ModelError, match=r"`inputs` must be"):
        build("eigen2015-vgg", inputs=("depth",))
    with pytest.raises(ModelError, match=r"no published weights for this AlexNet"):
        build("eigen2015-alexnet", trunk_weights="imagenet", **TINY)
