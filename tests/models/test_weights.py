"""Strict loading, and the key maps of published checkpoints on synthetic tensors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from fathom.errors import ModelError, WeightsError
from fathom.models import build
from fathom.models.convert import (
    depth_anything_from_hugging_face,
    depth_anything_to_hugging_face,
    fcrn_from_tensorflow,
    monodepth2_depth,
    monodepth2_pose,
    sfmlearner_dispnet,
    sfmlearner_pose,
)
from fathom.models.fcrn import RELEASE_OPTIONS
from fathom.models.weights import guess_family, load_trunk, load_weights, read_state_dict

SMALL_FCRN = {"width": 4, "blocks": (1, 1, 1, 1)}


def test_every_key_that_does_not_fit_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    given = dict(before)
    for key in ("0.weight", "1.running_mean", "2.bias"):
        del given[key]
    given |= {"head.weight": torch.zeros(1), "fc.bias": torch.zeros(1), "2.weight": torch.zeros(4, 4, 3, 3)}
    with pytest.raises(WeightsError) as caught:
        load_weights(network, given)
    message = str(caught.value)
    assert message.startswith("3 keys missing, 2 unexpected and 1 of another shape in the given tensors.")
    for part in ("0.weight", "1.running_mean", "2.bias", "head.weight", "fc.bias"):
        assert part in message
    assert "2.weight is (4, 4, 3, 3), expected (4, 4, 1, 1)" in message
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), "a refused checkpoint must change nothing"


def test_batch_counters_are_no_weights() -> None:
    network = nn.BatchNorm2d(3)
    weights = {key: torch.full((3,), 2.0) for key in ("weight", "bias", "running_mean", "running_var")}
    load_weights(network, weights)
    assert network.running_var.tolist() == [2.0] * 3


def test_half_precision_files_load_into_float32(tmp_path: Path) -> None:
    source = build("fcrn-compact", base_channels=4)
    save_file({key: value.half() for key, value in source.state_dict().items()}, tmp_path / "half.safetensors")
    target = build("fcrn-compact", base_channels=4, pretrained=str(tmp_path / "half.safetensors"))
    assert target.head.weight.dtype == torch.float32
    torch.testing.assert_close(target.head.weight, source.head.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "network"])
def test_wrappers_and_parallel_prefix_come_off(wrapper: str | None, tmp_path: Path) -> None:
    weights = {f"module.{key}": value for key, value in nn.Linear(2, 3).state_dict().items()}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "net.pth")
    assert {key: tuple(value.shape) for key, value in read_state_dict(tmp_path / "net.pth").items()} == {
        "weight": (3, 2),
        "bias": (3,),
    }


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no weights file"):
        read_state_dict(tmp_path / "absent.pth")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state_dict(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds list, not tensors by name"):
        read_state_dict(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_state_dict(tmp_path / "empty.pth")


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        read_state_dict(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


def test_classifier_of_a_trunk_is_left_out(tmp_path: Path) -> None:
    trunk = build("fcrn-deconv2", **SMALL_FCRN).trunk
    weights = {**trunk.state_dict(), "fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}
    save_file(weights, tmp_path / "trunk.safetensors")
    again = build("fcrn-deconv2", trunk_weights=str(tmp_path / "trunk.safetensors"), **SMALL_FCRN)
    assert torch.equal(again.trunk.layer4[0].conv3.weight, trunk.layer4[0].conv3.weight)
    with pytest.raises(ModelError, match="No package publishes weights"):
        load_trunk(trunk, "imagenet")


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("res2a_branch1/weights", "FCRN, TensorFlow"),
        ("pretrained.blocks.0.norm1.weight", "Depth Anything, original"),
        ("neck.reassemble_stage.layers.0.projection.weight", "Hugging Face"),
        ("decoder.0.conv.conv.weight", "monodepth2 depth.pth"),
        ("encoder.layer1.0.conv1.weight", "monodepth2 encoder.pth"),
        ("predict_disp1.0.weight", "SfMLearner-PyTorch DispNetS"),
        ("layer1.0.conv3.weight", "ResNet-50"),
        ("layer1.0.conv2.weight", "ResNet-18"),
        ("features.28.weight", "VGG-16"),
        ("something.else", "unknown"),
    ],
)
def test_families(key: str, family: str) -> None:
    assert family in guess_family([key])


def tensorflow_fcrn(width: int) -> dict[str, dict[str, np.ndarray]]:
    """Random weights in the layout of the released TensorFlow graph, one block per stage."""
    rng = np.random.default_rng(0)
    content: dict[str, dict[str, np.ndarray]] = {}

    def convolution(name: str, rows: int, columns: int, inputs: int, outputs: int, *, bias: bool) -> None:
        spread = (2.0 / (rows * columns * inputs)) ** 0.5
        content[name] = {"weights": rng.normal(0, spread, (rows, columns, inputs, outputs))}
        if bias:
            content[name]["biases"] = rng.normal(0, 0.1, outputs)

    def normalisation(name: str, channels: int) -> None:
        content[name] = {
            "scale": rng.uniform(0.5, 1.5, channels),
            "offset": rng.normal(0, 0.1, channels),
            "mean": rng.normal(0, 0.1, channels),
            "variance": rng.uniform(0.5, 1.5, channels),
        }

    convolution("conv1", 7, 7, 3, width, bias=True)
    normalisation("bn_conv1", width)
    inputs = width
    for stage in range(4):
        inner = width * 2**stage
        for part, rows, before, after in (
            ("branch1", 1, inputs, 4 * inner),
            ("branch2a", 1, inputs, inner),
            ("branch2b", 3, inner, inner),
            ("branch2c", 1, inner, 4 * inner),
        ):
            convolution(f"res{stage + 2}a_{part}", rows, rows, before, after, bias=False)
            normalisation(f"bn{stage + 2}a_{part}", after)
        inputs = 4 * inner
    convolution("layer1", 1, 1, inputs, inputs // 2, bias=True)
    normalisation("layer1_BN", inputs // 2)
    channels = inputs // 2
    for size in ("2x", "4x", "8x", "16x"):
        for branch in ("br1", "br2"):
            for letter, (rows, columns) in {"A": (3, 3), "B": (2, 3), "C": (3, 2), "D": (2, 2)}.items():
                convolution(f"layer{size}_{branch}_Conv{letter}", rows, columns, channels, channels // 2, bias=True)
            normalisation(f"layer{size}_{branch}_BN", channels // 2)
        convolution(f"layer{size}_Conv", 3, 3, channels // 2, channels // 2, bias=True)
        normalisation(f"layer{size}_BN", channels // 2)
        channels //= 2
    convolution("ConvPred", 3, 3, channels, 1, bias=True)
    return content


def test_fcrn_from_tensorflow_is_complete_and_reorders_kernels() -> None:
    content = tensorflow_fcrn(4)
    network = build("fcrn-upproj", **RELEASE_OPTIONS, **SMALL_FCRN)
    weights = fcrn_from_tensorflow(content)
    load_weights(network, weights)
    assert weights["trunk.conv1.weight"][2, 1, 3, 5] == np.float32(content["conv1"]["weights"][3, 5, 1, 2])
    branch = content["layer4x_br2_ConvB"]
    assert weights["decoder.1.up2.weight_b"][3, 2, 1, 2] == np.float32(branch["weights"][1, 2, 2, 3])
    assert weights["decoder.1.up2.bias"][3, 1] == np.float32(branch["biases"][3])
    assert weights["trunk.layer3.0.downsample.1.running_var"][7] == np.float32(content["bn4a_branch1"]["variance"][7])
    flat = {f"{name}/{part}": value for name, parts in content.items() for part, value in parts.items()}
    assert all(torch.equal(value, weights[key]) for key, value in fcrn_from_tensorflow(flat).items())


def test_fcrn_from_tensorflow_computes_what_the_graph_computes() -> None:
    """One up-projection written out in the graph's own layout and order of operations."""
    content = tensorflow_fcrn(4)
    network = build("fcrn-upproj", **RELEASE_OPTIONS, **SMALL_FCRN)
    load_weights(network, fcrn_from_tensorflow(content))
    network.eval()
    maps = torch.randn(1, 64, 3, 5)

    def convolve(name: str, source: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
        kernel = torch.tensor(content[name]["weights"]).float().permute(3, 2, 0, 1)
        return functional.conv2d(functional.pad(source, pad), kernel, torch.tensor(content[name]["biases"]).float())

    def normalise(name: str, source: Tensor) -> Tensor:
        part = {key: torch.tensor(value).float().view(1, -1, 1, 1) for key, value in content[name].items()}
        return (source - part["mean"]) / (part["variance"] + 1e-4).sqrt() * part["scale"] + part["offset"]

    def up(branch: str) -> Tensor:
        out = torch.zeros(1, 32, 6, 10)
        out[:, :, 0::2, 0::2] = convolve(f"{branch}_ConvA", maps, (1, 1, 1, 1))
        out[:, :, 1::2, 0::2] = convolve(f"{branch}_ConvB", maps, (1, 1, 1, 0))
        out[:, :, 0::2, 1::2] = convolve(f"{branch}_ConvC", maps, (1, 0, 1, 1))
        out[:, :, 1::2, 1::2] = convolve(f"{branch}_ConvD", maps, (1, 0, 1, 0))
        return normalise(f"{branch}_BN", out)

    main = normalise("layer2x_BN", convolve("layer2x_Conv", up("layer2x_br1").relu(), (1, 1, 1, 1)))
    expected = (main + up("layer2x_br2")).relu()
    with torch.no_grad():
        torch.testing.assert_close(network.decoder[0](maps), expected, rtol=1e-4, atol=1e-5)
        depth = network(torch.rand(1, 3, 64, 96) * 255)
    assert tuple(depth.shape) == (1, 1, 32, 48) and (depth >= 0).all()


def test_fcrn_from_tensorflow_refuses_strangers() -> None:
    content = tensorflow_fcrn(4)
    del content["layer8x_br1_ConvC"]
    content["layer32x_BN"] = {"scale": np.ones(3)}
    with pytest.raises(WeightsError, match=r"layer32x_BN/scale; these up-convolutions lack a bias: decoder\.2\.up1"):
        fcrn_from_tensorflow(content)


def renamed(network: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Give a network's weights published names, by prefix; every weight must get one."""
    result = {}
    for key, value in network.state_dict().items():
        prefix = max((prefix for prefix in names if key.startswith(prefix)), key=len)
        result[names[prefix] + key.removeprefix(prefix)] = value
    return result


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert set(left) == set(right)
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_monodepth2_depth() -> None:
    network = build("monodepth2-resnet18", base_channels=4, decoder_channels=(2, 3, 4, 5, 6))
    # Published order: for level 4 to 0 the convolution before and after the enlargement, then predictions 0 to 3.
    order = [f"{part}.{level}" for level in (4, 3, 2, 1, 0) for part in ("before", "after")]
    names = {f"decoder.{place}.conv": f"decoder.{index}.conv.conv" for index, place in enumerate(order)}
    names |= {f"decoder.predict.{scale}.conv": f"decoder.{10 + scale}.conv" for scale in range(4)}
    published = renamed(network, {"encoder.": "encoder.", **names})
    depth = {key: value for key, value in published.items() if key.startswith("decoder.")}
    encoder = {key: value for key, value in published.items() if key.startswith("encoder.")}
    assert len(depth) == 28
    encoder |= {"encoder.fc.weight": torch.zeros(10, 32), "encoder.fc.bias": torch.zeros(10)}
    same(monodepth2_depth(encoder, depth), network.state_dict())
    with pytest.raises(WeightsError, match=r"not of the monodepth2 depth.pth layout: decoder.14"):
        monodepth2_depth(encoder, {**depth, "decoder.14.conv.weight": torch.zeros(1)})


def test_monodepth2_pose() -> None:
    from fathom.models.monodepth2 import build_monodepth2_pose

    network = build_monodepth2_pose(base_channels=4, decoder_channels=8, num_motions=2)
    names = {f"decoder.{2 * index}": f"net.{index}" for index in range(4)}
    published = renamed(network, {"encoder.": "encoder.", **names})
    pose = {key: value for key, value in published.items() if key.startswith("net.")}
    assert pose["net.3.weight"].shape[0] == 12
    encoder = {key: value for key, value in published.items() if key.startswith("encoder.")}
    same(monodepth2_pose(encoder, pose), network.state_dict())


def test_sfmlearner_dispnet() -> None:
    network = build("dispnet-s", base_channels=4)
    names = {f"encoder.{level}.": f"conv{level + 1}." for level in range(7)}
    names |= {f"{part}.{level}.": f"{part}{7 - level}." for level in range(7) for part in ("upconv", "iconv")}
    names |= {f"predict.{level}.": f"predict_disp{4 - level}.0." for level in range(4)}
    published = renamed(network, names)
    # Channels of the port, at an eighth of its width: the finest prediction reads 16 / 8 maps.
    assert published["predict_disp1.0.weight"].shape[:2] == (1, 2)
    assert published["predict_disp4.0.weight"].shape[:2] == (1, 16)
    assert published["conv1.0.weight"].shape == (4, 3, 7, 7) and published["conv1.2.weight"].shape == (4, 4, 7, 7)
    same(sfmlearner_dispnet(published), network.state_dict())
    whole = build("sfmlearner", base_channels=4)
    load_weights(whole, {f"disparity.{key}": value for key, value in sfmlearner_dispnet(published).items()})
    with pytest.raises(WeightsError, match="conv8"):
        sfmlearner_dispnet({"conv8.0.weight": torch.zeros(1)})


def test_sfmlearner_pose() -> None:
    from fathom.models.sfmlearner import build_sfmlearner_pose

    network = build_sfmlearner_pose(explainability=False, base_channels=4)
    names = {f"trunk.{level}.": f"conv{level + 1}." for level in range(5)}
    names |= {"pose.0.": "conv6.", "pose.1.": "conv7.", "pose.2.": "pose_pred."}
    published = renamed(network, names)
    published |= {"upconv5.0.weight": torch.zeros(1), "predict_mask1.bias": torch.zeros(1)}
    same(sfmlearner_pose(published), network.state_dict())


def depth_anything_config() -> object:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.Dinov2Config(
        hidden_size=12,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    return transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=12,
        neck_hidden_sizes=[4, 6, 8, 10],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_depth_anything_both_ways_on_a_tiny_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = transformers.DepthAnythingForDepthEstimation(depth_anything_config()).eval()
    network.save_pretrained(tmp_path)
    theirs = load_file(tmp_path / "model.safetensors")
    original = depth_anything_from_hugging_face(theirs)
    assert original["pretrained.blocks.3.attn.qkv.weight"].shape == (36, 12)
    # Query, key and value of four layers become one, weights and biases alike.
    assert len(theirs) - len(original) == 4 * 2 * 2
    same(depth_anything_to_hugging_face(original), theirs)
    same(depth_anything_from_hugging_face(network.state_dict()), original)
    for key in (
        "pretrained.patch_embed.proj.weight",
        "pretrained.blocks.0.ls1.gamma",
        "depth_head.projects.3.bias",
        "depth_head.resize_layers.3.weight",
        "depth_head.scratch.layer1_rn.weight",
        "depth_head.scratch.refinenet4.resConfUnit1.conv2.bias",
        "depth_head.scratch.output_conv2.2.weight",
    ):
        assert key in original
    save_file(depth_anything_to_hugging_face(original), tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = transformers.DepthAnythingForDepthEstimation.from_pretrained(tmp_path).eval()
    image = torch.randn(1, 3, 28, 42)
    with torch.no_grad():
        assert torch.equal(again(image).predicted_depth, network(image).predicted_depth)


@pytest.mark.slow
def test_depth_anything_both_ways_on_the_published_model(pretrained_folder: Path) -> None:
    folder = pretrained_folder / "depth-anything-v2-small"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is absent")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "depth_anything"
    theirs = load_file(folder / "model.safetensors")
    original = depth_anything_from_hugging_face(theirs)
    assert len(theirs) == 287 and len(original) == 287 - 4 * 12
    same(depth_anything_to_hugging_face(original), theirs)
    assert guess_family(original).startswith("Depth Anything, original")


def test_depth_anything_refuses_strangers() -> None:
    with pytest.raises(WeightsError, match=r"not of the original Depth Anything layout: decode_head\.bias"):
        depth_anything_to_hugging_face({"decode_head.bias": torch.zeros(1)})
    lone = {"backbone.encoder.layer.0.attention.attention.query.bias": torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"missing for: pretrained\.blocks\.0\.attn\.qkv\.bias"):
        depth_anything_from_hugging_face(lone)
