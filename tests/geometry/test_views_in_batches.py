"""Other views in samples and batches: whatever is drawn, warping still rebuilds the picture from them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from textured_wall import wall_sample  # noqa: E402

from fathom.data.batch_transforms import AugmentConfig, augment_batch, augment_colour, augment_geometry  # noqa: E402
from fathom.data.torch_adapter import collate  # noqa: E402
from fathom.data.transforms import crop_sample, flip_sample, resize_sample, zoom_sample  # noqa: E402
from fathom.errors import ShapeError  # noqa: E402
from fathom.geometry.warp import warp_by_depth  # noqa: E402

CLOSE = 0.012
"""Largest error of 8-bit pictures that are read linearly twice; half a pixel of shift would be 0.04."""


def rebuild_errors(batch, motions, pictures):
    """Return the mean and largest error of the first picture rebuilt from others, and the share that is in view."""
    errors, seen = [], []
    for motion, picture in zip(motions, pictures, strict=True):
        warped, in_view = warp_by_depth(picture, batch["target"][:, None], motion, batch["intrinsics"])
        in_view = in_view & batch["valid_mask"][:, None]
        # The picture of a zoomed or rolled sample is black outside; keep away from there.
        full = torch.nn.functional.max_pool2d((picture.amin(1, keepdim=True) == 0).float(), 5, 1, 2) == 0
        whole, _ = warp_by_depth(full.float(), batch["target"][:, None], motion, batch["intrinsics"], padding="zeros")
        used = (in_view & (whole > 0.999)).expand_as(warped)
        errors.append((warped - batch["image"]).abs()[used])
        seen.append(used.float().mean())
    return torch.cat(errors).mean().item(), torch.cat(errors).max().item(), torch.stack(seen).min().item()


def neighbours_of(batch):
    return batch["neighbour_poses"].unbind(1), batch["neighbours"].unbind(1)


def stereo_of(batch):
    motion = torch.eye(4).repeat(len(batch["image"]), 1, 1)
    motion[:, 0, 3] = -batch["baseline_sign"] * batch["baseline_m"]
    return [motion], [batch["image_right"]]


def as_floats(batch):
    return augment_batch(batch, AugmentConfig())


@pytest.mark.parametrize(
    "change",
    [
        lambda sample: sample,
        flip_sample,
        lambda sample: zoom_sample(sample, 1.5),
        lambda sample: resize_sample(sample, 36, 48),
        lambda sample: crop_sample(sample, 6, 9, 36, 48),
        lambda sample: flip_sample(crop_sample(zoom_sample(sample, 1.25), 3, 9, 40, 60)),
    ],
    ids=["none", "flip", "zoom", "resize", "crop", "all"],
)
@pytest.mark.parametrize("views", ["stereo", "neighbours", "both"])
def test_changed_samples_keep_their_motion(change, views):
    sample = wall_sample(stereo=views != "neighbours", neighbours=views != "stereo")
    batch = as_floats(collate([change(sample)]))
    for of in [of for of, kind in ((stereo_of, "stereo"), (neighbours_of, "neighbours")) if views in (kind, "both")]:
        mean, largest, seen = rebuild_errors(batch, *of(batch))
        assert seen > 0.6 and mean < CLOSE / 2 and largest < 5 * CLOSE


FLIP, ZOOM = AugmentConfig(flip=1.0), AugmentConfig(flip=0.5, zoom=(1.0, 1.4), crop=(40, 52))


@pytest.mark.parametrize(
    ("config", "views"),
    [(config, views) for config in (FLIP, ZOOM) for views in ("stereo", "neighbours", "both")]
    + [(AugmentConfig(rotate_deg=8.0, crop=(30, 40)), "neighbours")],
)
def test_changed_batches_keep_their_motion(config, views):
    sample = wall_sample(stereo=views != "neighbours", neighbours=views != "stereo")
    batch = augment_geometry(collate([sample] * 4), config, torch.Generator().manual_seed(1))
    for of in [of for of, kind in ((stereo_of, "stereo"), (neighbours_of, "neighbours")) if views in (kind, "both")]:
        mean, largest, seen = rebuild_errors(batch, *of(batch))
        # Depth takes the nearest pixel here, so positions are off by up to half a pixel's slant.
        assert seen > 0.5 and mean < CLOSE / 2 and largest < 6 * CLOSE


def test_a_wrong_motion_would_be_noticed():
    batch = as_floats(collate([wall_sample(stereo=True, neighbours=True)]))
    for motions, pictures in (neighbours_of(batch), stereo_of(batch)):
        mean, _, _ = rebuild_errors(batch, [torch.linalg.inv(motion) for motion in motions], pictures)
        assert mean > 4 * CLOSE


def test_mirroring_swaps_a_pair_but_not_a_pair_with_neighbours():
    pair, both = wall_sample(stereo=True), wall_sample(stereo=True, neighbours=True)
    swapped, kept = flip_sample(pair), flip_sample(both)
    assert np.array_equal(swapped.image, pair.meta["image_right"][:, ::-1])
    assert np.array_equal(kept.image, both.image[:, ::-1])
    assert swapped.meta.get("baseline_sign", 1) == 1 and kept.meta["baseline_sign"] == -1
    batch = augment_geometry(collate([pair]), AugmentConfig(flip=1.0))
    assert batch["baseline_sign"].tolist() == [1.0]
    assert augment_geometry(collate([both]), AugmentConfig(flip=1.0))["baseline_sign"].tolist() == [-1.0]


def test_the_pose_of_a_mirrored_pair_is_that_of_the_other_camera():
    sample = wall_sample(stereo=True)
    sample.meta["pose"] = np.eye(4)
    pose = flip_sample(sample).meta["pose"]
    np.testing.assert_allclose(pose[:3, 3], [-0.2, 0, 0])  # 0.2 m to the right, mirrored
    np.testing.assert_allclose(pose[:3, :3], np.eye(3))


def test_colour_changes_all_views_of_a_sample_alike():
    batch = collate([wall_sample(stereo=True, neighbours=True)] * 2)
    batch["neighbours"] = batch["image"][:, None].repeat(1, 2, 1, 1, 1)
    batch["image_right"] = batch["image"]
    config = AugmentConfig(brightness=0.4, contrast=0.3, saturation=0.3, hue=0.1, blur=1.0)
    out = augment_colour(batch, config, torch.Generator().manual_seed(0))
    assert out["neighbours"].shape == (2, 2, 3, 48, 64)
    for view in (out["image_right"], out["neighbours"][:, 0], out["neighbours"][:, 1]):
        assert torch.equal(view, out["image"])
    assert not torch.equal(out["image"][0], out["image"][1])


def test_batches_refuse_different_numbers_of_neighbours():
    one, two = wall_sample(neighbours=True), wall_sample(neighbours=True)
    one.meta["neighbours"] = one.meta["neighbours"][:1]
    with pytest.raises(ShapeError, match=r"same number of neighbours; got \[1, 2\]"):
        collate([one, two])
