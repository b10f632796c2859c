"""The batch form of the augmentation, and the adapter to torch."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from planes import NORMAL, OFFSET, check_plane, plane_sample

from fathom.config import parse_config
from fathom.data.base import DepthDataset
from fathom.data.batch_transforms import AugmentConfig, augment_batch, augment_colour, augment_geometry
from fathom.data.torch_adapter import TensorSamples, collate, make_loader
from fathom.data.transforms import crop_sample, flip_sample, resize_sample
from fathom.errors import ConfigError, KindError, ShapeError
from fathom.types import DepthKind, Sample


def unbatch(batch: dict, index: int) -> Sample:
    """Return one sample of a batch as the NumPy form has it."""
    from fathom.types import Camera, FocalSource

    image = (batch["image"][index].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    camera = Camera(batch["intrinsics"][index].numpy(), FocalSource.USER, float(batch["baseline_m"][index]))
    meta = {"normals": batch["normals"][index].permute(1, 2, 0).numpy(), "labels": batch["labels"][index].numpy()}
    return Sample(
        image, batch["target"][index].numpy(), batch["valid_mask"][index].numpy(), camera, meta, batch["kind"]
    )


@pytest.mark.parametrize("kind", [DepthKind.METRIC_DEPTH, DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY])
@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(),
        AugmentConfig(flip=1.0),
        AugmentConfig(rotate_deg=20.0),
        AugmentConfig(zoom=(1.37, 1.37), crop=(80, 100)),
        AugmentConfig(zoom=(0.7, 1.6), rotate_deg=10.0, flip=0.5, crop=(90, 120)),
    ],
)
def test_geometry_keeps_the_plane(kind: DepthKind, config: AugmentConfig) -> None:
    samples = [plane_sample(kind)] * 4
    out = augment_geometry(collate(samples), config, torch.Generator().manual_seed(3))
    assert out["image"].dtype == torch.float32 and out["image"].max() <= 1.0
    for i in range(4):
        sample = unbatch(out, i)
        assert sample.image.shape[:2] == (config.crop or (120, 160)) == sample.target.shape
        # The normals say how the world was turned; the baseline, how much it shrank.
        normal = sample.meta["normals"][sample.valid_mask][0].astype(np.float64)
        assert np.linalg.norm(normal) == pytest.approx(1.0, abs=1e-5)
        assert sample.camera is not None and sample.camera.baseline_m is not None
        shrunk = 0.2 / sample.camera.baseline_m
        assert config.zoom[0] - 1e-5 <= shrunk <= config.zoom[1] + 1e-5
        check_plane(sample, normal, OFFSET / shrunk)
        assert abs(normal[0]) <= np.hypot(*NORMAL[:2]) + 1e-5
        # Picture and labels moved alike.
        inner = np.zeros(sample.valid_mask.shape, bool)
        inner[3:-3, 3:-3] = sample.valid_mask[3:-3, 3:-3]
        assert (sample.image[..., 0][inner] // 10 == sample.meta["labels"][inner]).mean() > 0.85


def test_same_as_the_numpy_form() -> None:
    sample = plane_sample()
    flipped = unbatch(augment_geometry(collate([sample]), AugmentConfig(flip=1.0)), 0)
    expected = flip_sample(sample)
    np.testing.assert_array_equal(flipped.target, expected.target)
    np.testing.assert_array_equal(flipped.image, expected.image)
    np.testing.assert_allclose(flipped.camera.intrinsics, expected.camera.intrinsics, rtol=1e-6)  # type: ignore[union-attr]
    cut = unbatch(augment_geometry(collate([sample]), AugmentConfig(crop=(60, 80), random_crop=False)), 0)
    np.testing.assert_array_equal(cut.target, crop_sample(sample, 30, 40, 60, 80).target)
    np.testing.assert_array_equal(cut.image, crop_sample(sample, 30, 40, 60, 80).image)


def test_the_sparse_to_dense_chain() -> None:
    # Resize by 250 / 480, roll within 5 degrees, zoom by U(1, 1.5), cut 228 x 304 from the middle, mirror, jitter 0.4.
    image = np.zeros((480, 640, 3), np.uint8)
    frame = Sample(image, np.full((480, 640), 3.0, np.float32), np.ones((480, 640), np.bool_), meta={"id": "a"})
    chain = {"rotate_deg": 5.0, "zoom": [1.0, 1.5], "crop": [228, 304], "random_crop": False, "flip": 0.5}
    config = parse_config(chain | {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}, AugmentConfig)
    batch = collate([resize_sample(frame, 250, round(640 * 250 / 480))] * 8)
    out = augment_batch(batch, config, torch.Generator().manual_seed(0))
    assert out["image"].shape == (8, 3, 228, 304) and out["target"].shape == (8, 228, 304)
    depths = [float(out["target"][i][out["valid_mask"][i]].unique()) for i in range(8)]  # one value: 3 m over the zoom
    assert all(2.0 <= depth <= 3.0 for depth in depths) and len(set(depths)) == 8


def test_the_same_seed_gives_the_same_batch() -> None:
    config = AugmentConfig(zoom=(1.0, 1.5), rotate_deg=5, flip=0.5, brightness=0.4, contrast=0.4, noise=0.05, blur=0.5)
    batch = collate([plane_sample()] * 3)
    first, again, other = (augment_batch(batch, config, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["target"], again["target"])
    assert not torch.equal(first["image"], other["image"])
    assert not torch.equal(first["image"][0], first["image"][1])  # each sample has its own draw
    assert batch["image"].dtype == torch.uint8  # the batch given is left alone


def test_colour_is_that_of_torchvision() -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    batch = {"image": torch.rand(3, 3, 8, 9, generator=torch.Generator().manual_seed(0))}
    for name in ("brightness", "contrast", "saturation"):
        out = augment_colour(batch, AugmentConfig(**{name: 0.5}), torch.Generator().manual_seed(5))["image"]
        generator = torch.Generator().manual_seed(5)
        for drawn in ("brightness", "contrast", "saturation"):
            strength = 0.5 if drawn == name else 0.0
            numbers = torch.rand(3, generator=generator, dtype=torch.float64) * 2 * strength + 1 - strength
            if drawn == name:
                factors = numbers
        adjust = getattr(functional, f"adjust_{name}")
        for i in range(3):
            torch.testing.assert_close(out[i], adjust(batch["image"][i], float(factors[i])), atol=2e-4, rtol=0)
    hue = augment_colour(batch, AugmentConfig(hue=0.3, blur=1.0))["image"]
    assert hue.min() >= 0 and hue.max() <= 1 and not torch.equal(hue, batch["image"])


def test_stereo_pairs() -> None:
    sample = plane_sample()
    left, right = sample.image, sample.image + 50
    pair = Sample(left, sample.target * 0, sample.valid_mask & False, sample.camera, {"image_right": right})
    out = augment_geometry(collate([pair] * 2), AugmentConfig(flip=1.0))
    np.testing.assert_array_equal((out["image"][0] * 255).round().byte().permute(1, 2, 0), right[:, ::-1])
    np.testing.assert_array_equal((out["image_right"][0] * 255).round().byte().permute(1, 2, 0), left[:, ::-1])
    with pytest.raises(KindError, match="rows"):
        augment_geometry(collate([pair]), AugmentConfig(rotate_deg=1.0))
    truth = Sample(left, sample.target, sample.valid_mask, sample.camera, {"image_right": right})
    with pytest.raises(KindError, match="ground truth for one"):
        augment_geometry(collate([truth]), AugmentConfig(flip=0.5))
    both = AugmentConfig(brightness=0.5)
    bright = augment_colour(collate([pair]), both, torch.Generator().manual_seed(0))
    ratios = [
        float(bright[key][0, 0, 20, 20]) * 255 / view[20, 20, 0]
        for key, view in (("image", left), ("image_right", right))
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4) and ratios[0] != pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_sliding_the_second_view_adds_to_disparity(flip: float) -> None:
    rng = np.random.default_rng(0)
    wall = rng.integers(0, 256, (12, 60, 3), np.uint8)
    views = [wall[:, 10:50], wall[:, 13:53]]  # disparity 3
    three, everywhere = np.full((12, 40), 3.0, np.float32), np.ones((12, 40), bool)
    meta = {"image_right": views[1], "target_right": three, "valid_mask_right": everywhere}
    pair = Sample(views[0], three, everywhere, plane_sample().camera, meta, DepthKind.DISPARITY)
    out = augment_geometry(collate([pair]), AugmentConfig(flip=flip, slide=(5.0, 5.0)))
    for key in ("", "_right"):
        values = out[f"target{key}"][out[f"valid_mask{key}"]]
        assert len(values) > 300 and (values == 8.0).all()
    # What the first view shows at x, the second shows at x - 8.
    torch.testing.assert_close(out["image"][..., 13:35], out["image_right"][..., 5:27])
    metres = Sample(views[0], three, everywhere, plane_sample().camera, {"image_right": views[1]})
    with pytest.raises(KindError, match="Set slide to"):
        augment_geometry(collate([metres]), AugmentConfig(slide=(0.0, 5.0)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"zoom": [1.5, 1.0]}, "smaller first"),
        ({"slide": [2.0, 1.0]}, "smaller first"),
        ({"crop": [0, 5]}, "positive rows"),
        ({"flip": 2.0}, "less than or equal to 1"),
        ({"rotate": 5.0}, "Did you mean 'rotate_deg'"),
    ],
)
def test_configuration_sentences(values: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, AugmentConfig)
    assert sentence in str(caught.value)
    with pytest.raises(ShapeError, match="must fit"):
        augment_geometry(collate([plane_sample()]), AugmentConfig(crop=(200, 200)))


class Planes(DepthDataset):
    """Seven planes of two sizes."""

    name, split, kind = "planes", "all", DepthKind.METRIC_DEPTH

    def __len__(self) -> int:
        return 7

    def read(self, index: int) -> Sample:
        sample = plane_sample()
        return resize_sample(sample, 60, 80) if index == 6 else sample


def half(sample: Sample) -> Sample:
    return resize_sample(sample, 60, 80)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where the tests may use one core only
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_loader(workers: int) -> None:
    loader = make_loader(Planes(), 3, shuffle=True, num_workers=workers, transform=half, seed=1)
    batches = list(loader)
    assert [len(batch["id"]) for batch in batches] == [3, 3, 1]
    batch = batches[0]
    assert batch["image"].shape == (3, 3, 60, 80) and batch["image"].dtype == torch.uint8
    assert batch["valid_mask"].dtype == torch.bool and batch["labels"].dtype == torch.int64
    assert batch["intrinsics"].shape == (3, 3, 3) and batch["baseline_m"].tolist() == pytest.approx([0.2] * 3)
    with pytest.raises(ShapeError, match="one size"):
        collate(list(TensorSamples(Planes())[i] for i in (5, 6)))


def test_data_imports_without_torch() -> None:
    code = "import sys, fathom.data, fathom.data.torch_adapter, fathom.data.batch_transforms, fathom.data.doctor\n"
    code += "assert not {'torch', 'h5py', 'scipy', 'cv2'} & sys.modules.keys(), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
