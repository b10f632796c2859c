"""Closed forms of inverse and forward warping: shifts, ramps, homographies, z-order, occlusion, gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from textured_wall import NORMAL, OFFSET, moved, view  # noqa: E402
from torch.autograd import gradcheck  # noqa: E402
from torch.nn import functional  # noqa: E402

from fathom.errors import ConfigError, ShapeError  # noqa: E402
from fathom.geometry.camera import pixel_grid, project, unproject  # noqa: E402
from fathom.geometry.pose import invert_pose, pose_from_axis_angle, transform_points  # noqa: E402
from fathom.geometry.warp import (  # noqa: E402
    sample_horizontal,
    splat,
    visible_by_depth,
    visible_by_disparity,
    warp_by_depth,
    warp_by_disparity,
)

DOUBLE = torch.float64
K = np.array([[60.0, 0, 30.0], [0, 58, 26.0], [0, 0, 1]])
HEIGHT, WIDTH = 48, 64


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def intrinsics(k=K, dtype=DOUBLE):
    return torch.from_numpy(k).to(dtype)[None]


def ramps(height, width, dtype=DOUBLE):
    """Return the picture whose two channels are x and y."""
    return pixel_grid(height, width, torch.empty(0, dtype=dtype))[None]


# By disparity


@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize("k", [1, 3])
def test_a_constant_disparity_is_a_shift(k, direction):
    source = random(2, 3, 4, 9)
    disparity = torch.full((2, 1, 4, 9), float(k), dtype=DOUBLE)
    border, in_view = warp_by_disparity(source, disparity, direction=direction)
    zeros, _ = warp_by_disparity(source, disparity, direction=direction, padding="zeros")
    expected = torch.roll(source, -direction * k, dims=-1)
    filled = slice(0, k) if direction < 0 else slice(9 - k, 9)
    edge = source[..., :1] if direction < 0 else source[..., -1:]
    kept = [i for i in range(9) if i not in range(9)[filled]]
    assert torch.equal(border[..., kept], expected[..., kept]) and torch.equal(zeros[..., kept], expected[..., kept])
    assert torch.equal(border[..., filled], edge.expand(2, 3, 4, k))
    assert not zeros[..., filled].any()
    assert in_view[..., kept].all() and not in_view[..., filled].any()


def test_half_a_pixel_on_a_ramp():
    ramp = torch.arange(8, dtype=torch.float32).expand(1, 1, 2, 8)
    warped, in_view = warp_by_disparity(ramp, torch.full((1, 1, 2, 8), 0.5))
    assert torch.equal(warped[..., 1:], ramp[..., 1:] - 0.5) and in_view.all()


def test_forward_and_inverse_warping_agree_where_both_see():
    """The forward warp leaves k columns empty where the inverse one repeats the border."""
    left = random(1, 2, 3, 10)
    k, z = 3, torch.ones(1, 1, 3, 10, dtype=DOUBLE)
    disparity = torch.full((1, 1, 3, 10), float(k), dtype=DOUBLE)
    pixels = pixel_grid(3, 10, left)[None].clone()
    pixels[:, 0] -= k  # from the left picture to where the right camera sees it
    forward, hit = splat(left, pixels, z, (3, 10))
    inverse, in_view = warp_by_disparity(left, disparity, direction=1)
    assert not hit[..., 10 - k :].any() and hit[..., : 10 - k].all()
    assert torch.equal(hit, in_view) and torch.equal(forward[..., : 10 - k], inverse[..., : 10 - k])
    assert not forward[..., 10 - k :].any()


def test_horizontal_sampling_in_half_precision_keeps_its_positions():
    """At column 1500 half precision counts in whole pixels; the position is computed in single precision."""
    image = torch.zeros(1, 1, 1, 2000, dtype=torch.float16)
    image[..., 1500:] = 1
    read = sample_horizontal(image, torch.full((1, 1, 1, 2000), -0.25, dtype=torch.float16))
    assert read.dtype == torch.float16 and read[0, 0, 0, 1499:1502].tolist() == [0, 0.75, 1]


# By depth


def test_identity_motion_gives_the_picture_back():
    source = random(2, 3, HEIGHT, WIDTH)
    motion = torch.eye(4, dtype=DOUBLE).repeat(2, 1, 1)
    cameras = intrinsics().repeat(2, 1, 1)
    warped, in_view = warp_by_depth(source, 1 + random(2, 1, HEIGHT, WIDTH, seed=1), motion, cameras)
    assert torch.allclose(warped, source, atol=1e-10) and in_view.all()
    # The last row and column, which SfMLearner's sampler drops, are there too, and in single precision.
    single, in_view = warp_by_depth(
        source.float(), torch.full((2, 1, HEIGHT, WIDTH), 7.0), motion.float(), cameras.float(), padding="zeros"
    )
    assert torch.allclose(single, source.float(), atol=2e-5) and in_view.all()


def test_a_sideways_camera_is_a_disparity():
    """With t = (-b, 0, 0) the warp reads at x - f b / z: the same as warping by that disparity."""
    right, z, baseline = random(1, 3, HEIGHT, WIDTH), 2 + random(1, 1, HEIGHT, WIDTH, seed=1), 0.2
    motion = torch.eye(4, dtype=DOUBLE)[None].clone()
    motion[:, 0, 3] = -baseline
    for padding in ("border", "zeros"):
        by_depth, seen = warp_by_depth(right, z, motion, intrinsics(), padding=padding)
        by_disparity, also_seen = warp_by_disparity(right, K[0, 0] * baseline / z, padding=padding)
        assert torch.allclose(by_depth, by_disparity, atol=1e-10) and torch.equal(seen, also_seen)


def homography_positions(matrix):
    """Return where a homography of pixel coordinates (first centre at 0.5) sends every pixel, as array places."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    sent = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T
    return torch.from_numpy(np.moveaxis(sent[..., :2] / sent[..., 2:] - 0.5, -1, 0))[None]


def inside(positions):
    x, y = positions[:, 0], positions[:, 1]
    return ((x >= 0) & (x <= WIDTH - 1) & (y >= 0) & (y <= HEIGHT - 1))[:, None]


def test_a_pure_rotation_is_a_homography_whatever_the_depth():
    motion = pose_from_axis_angle(torch.tensor([[0.05, -0.08, 0.1]], dtype=DOUBLE), torch.zeros(1, 3, dtype=DOUBLE))
    expected = homography_positions(K @ motion[0, :3, :3].numpy() @ np.linalg.inv(K))
    for seed in (1, 2):
        depth = 0.5 + 50 * random(1, 1, HEIGHT, WIDTH, seed=seed)
        warped, _ = warp_by_depth(ramps(HEIGHT, WIDTH), depth, motion, intrinsics())
        seen = inside(expected)
        assert seen.float().mean() > 0.6
        assert torch.allclose(warped[seen.expand_as(warped)], expected[seen.expand_as(warped)], atol=1e-9)


def test_a_plane_induces_its_homography():
    """``H = K (R - t n^T / o) K^-1`` for the plane n . X = -o of the target: Hartley and Zisserman, result 13.1."""
    pose = moved(0.2, -0.1, 0.25, turn=0.06)
    motion = np.linalg.inv(pose)
    _, depth = view(K, np.eye(4), HEIGHT, WIDTH)
    matrix = K @ (motion[:3, :3] + np.outer(motion[:3, 3], NORMAL) / OFFSET) @ np.linalg.inv(K)
    expected = homography_positions(matrix)
    warped, in_view = warp_by_depth(
        ramps(HEIGHT, WIDTH),
        torch.from_numpy(depth)[None, None],
        torch.from_numpy(motion)[None],
        intrinsics(),
    )
    seen = inside(expected)
    assert 0.6 < seen.float().mean() < 1 and bool((in_view | ~seen).all())
    assert torch.allclose(warped[seen.expand_as(warped)], expected[seen.expand_as(warped)], atol=1e-9)


def test_a_source_of_another_size_and_camera():
    """A wall seen by a second camera with a longer lens and a larger picture is rebuilt to interpolation error."""
    k = np.array([[130.0, 0, 66.0], [0, 125, 41.0], [0, 0, 1]])
    pose = moved(0.15, 0.05, -0.6, turn=-0.05)
    source, _ = view(k, pose, 90, 128)
    target, depth = view(K, np.eye(4), HEIGHT, WIDTH)
    where = (
        torch.from_numpy(depth)[None, None],
        torch.from_numpy(np.linalg.inv(pose))[None],
        intrinsics(),
        intrinsics(k),
    )
    picture = torch.from_numpy(source).permute(2, 0, 1)[None]
    warped, in_view = warp_by_depth(picture, *where)
    # Half a pixel beyond the outermost centres is in view, too, but there the border is repeated.
    between_centres = warp_by_depth(torch.ones_like(picture), *where, padding="zeros")[0] > 1 - 1e-9
    error = (warped - torch.from_numpy(target).permute(2, 0, 1)).abs()[between_centres]
    assert 0.5 < between_centres.float().mean() < in_view.float().mean() and error.max() < 2e-3


def test_the_other_way_of_writing_align_corners_reads_the_same():
    """Places divided by W - 1 with align_corners=True, as older code has it, against outer edges without it."""
    source, depth = random(1, 3, HEIGHT, WIDTH), 2 + random(1, 1, HEIGHT, WIDTH, seed=1)
    motion = pose_from_axis_angle(
        torch.tensor([[0.02, 0.03, -0.05]], dtype=DOUBLE), torch.tensor([[0.3, 0.1, 0.2]], dtype=DOUBLE)
    )
    pixels, _ = project(transform_points(unproject(depth, intrinsics()), motion), intrinsics())
    scale = torch.tensor([2 / (WIDTH - 1), 2 / (HEIGHT - 1)], dtype=DOUBLE)
    grid = pixels.permute(0, 2, 3, 1) * scale - 1
    for padding in ("border", "zeros"):
        expected = functional.grid_sample(source, grid, padding_mode=padding, align_corners=True)
        warped, _ = warp_by_depth(source, depth, motion, intrinsics(), padding=padding)
        assert torch.allclose(warped, expected, atol=1e-9)


def test_what_lies_behind_the_source_is_not_in_view():
    source = random(1, 1, HEIGHT, WIDTH)
    motion = torch.eye(4, dtype=DOUBLE)[None].clone()
    motion[:, 2, 3] = -3.0  # the source camera has driven 3 m ahead, past everything at 2 m
    depth = torch.full((1, 1, HEIGHT, WIDTH), 2.0, dtype=DOUBLE)
    depth[..., 40:] = 9.0
    depth.requires_grad_()
    warped, in_view = warp_by_depth(source, depth, motion, intrinsics())
    assert not in_view[..., :40].any() and in_view[..., 20:30, 40:44].all() and warped.isfinite().all()
    warped.square().sum().backward()
    assert depth.grad.isfinite().all() and not depth.grad[..., :39].any()


def test_gradients_reach_source_depth_motion_and_cameras():
    source = random(1, 2, 5, 6).requires_grad_()
    depth = (1.5 + random(1, 1, 4, 4, seed=1)).requires_grad_()
    motion = pose_from_axis_angle(
        torch.tensor([[0.021, -0.013, 0.034]], dtype=DOUBLE), torch.tensor([[0.11, -0.07, 0.13]], dtype=DOUBLE)
    ).requires_grad_()
    own = torch.tensor([[[4.0, 0, 2.1], [0, 4.2, 1.9], [0, 0, 1]]], dtype=DOUBLE).requires_grad_()
    other = torch.tensor([[[5.0, 0, 3.2], [0, 5.1, 2.3], [0, 0, 1]]], dtype=DOUBLE).requires_grad_()

    def warped(*inputs):
        return warp_by_depth(*inputs, padding="zeros")[0]

    assert gradcheck(warped, (source, depth, motion, own, other))
    shift = (0.31 + random(1, 1, 5, 6, seed=3)).requires_grad_()
    assert gradcheck(lambda s, d: warp_by_disparity(s, d)[0], (source, shift))


def test_autocast_does_not_round_positions():
    """In bfloat16 the positions of a picture 600 pixels wide would be off by up to 2 pixels."""
    source = ramps(8, 600, torch.float32)
    motion = torch.eye(4)[None].clone()
    motion[:, 0, 3] = -0.7
    k = torch.tensor([[[500.0, 0, 300], [0, 500, 4], [0, 0, 1]]])
    depth = torch.full((1, 1, 8, 600), 35.0)
    expected, _ = warp_by_depth(source, depth, motion, k)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warped, _ = warp_by_depth(source, depth, motion, k)
        points = transform_points(unproject(depth, k), motion)
    assert torch.allclose(warped.float(), expected, atol=1e-3)
    assert torch.allclose(points[0, 0, 0, :2] + 0.7, (torch.arange(2) + 0.5 - 300) / 500 * 35)


def test_half_pictures_keep_exact_positions():
    source = ramps(4, 200, torch.float32)
    k = torch.tensor([[[150.0, 0, 100], [0, 150, 2], [0, 0, 1]]])
    motion = torch.eye(4)[None].clone()
    motion[:, 0, 3] = -0.1
    depth = torch.full((1, 1, 4, 200), 20.0)
    warped, _ = warp_by_depth(source.half(), depth.half(), motion, k)
    assert warped.dtype == torch.float16 and warped[0, 0, 0, 150].item() == pytest.approx(149.25, abs=0.07)


# Forward


def test_the_nearer_surface_wins_whatever_its_order():
    values = torch.tensor([1.0, 2, 3, 4]).reshape(1, 1, 2, 2)
    pixels = torch.zeros(1, 2, 2, 2)  # all land on one pixel
    for order in ([4.0, 1, 2, 3], [3.0, 2, 1, 4], [2.0, 2, 2, 2]):
        z = torch.tensor(order).reshape(1, 1, 2, 2)
        splatted, hit = splat(values, pixels, z, (1, 2))
        assert splatted.flatten().tolist() == [1.0 + int(np.argmin(order)), 0] and hit.flatten().tolist() == [
            True,
            False,
        ]


def test_splat_leaves_out_what_is_behind_or_outside_or_unknown():
    values = torch.ones(1, 1, 1, 6)
    x = torch.tensor([0.0, 1, 2, -0.51, 3.5, 3.49])
    z = torch.tensor([-1.0, 0, float("nan"), 1, 1, 1]).reshape(1, 1, 1, 6)
    _, hit = splat(values, torch.stack([x, torch.zeros(6)]).reshape(1, 2, 1, 6), z, (1, 4))
    assert hit.flatten().tolist() == [False, False, False, True]


def test_splatting_forth_and_reading_back():
    """A view that is splatted into another camera is what that camera sees, where it lands, to half a pixel."""
    pose = moved(0.1, 0.05, -0.2, turn=0.03)
    motion = torch.from_numpy(np.linalg.inv(pose))[None]
    target, depth = (torch.from_numpy(a) for a in view(K, np.eye(4), HEIGHT, WIDTH))
    seen, seen_depth = (torch.from_numpy(a) for a in view(K, pose, HEIGHT, WIDTH))
    points = transform_points(unproject(depth[None, None], intrinsics()), motion)
    pixels, z = project(points, intrinsics())
    splatted, hit = splat(torch.cat([target.permute(2, 0, 1)[None], z], 1), pixels, z, (HEIGHT, WIDTH))
    assert hit.float().mean() > 0.7
    both = hit.expand(1, 4, HEIGHT, WIDTH)
    wanted = torch.cat([seen.permute(2, 0, 1)[None], seen_depth[None, None]], 1)
    error = (splatted - wanted).abs()
    assert error[:, :3][both[:, :3]].max() < 0.12 and error[:, 3:][hit].max() < 0.05
    assert error[:, :3][both[:, :3]].mean() < 0.03


def test_gradients_of_splat_reach_the_values_that_land():
    values = random(1, 2, 2, 3).requires_grad_()
    pixels = pixel_grid(2, 3, values)[None] * 0.6
    z = 1 + random(1, 1, 2, 3, seed=1)
    assert gradcheck(lambda v: splat(v, pixels, z, (2, 2))[0], (values,))
    splat(values, pixels, z, (2, 2))[0].sum().backward()
    assert values.grad.sum() == 2 * splat(values, pixels, z, (2, 2))[1].sum()


# Occlusion


def two_layers():
    """Return a pair: a wall at disparity 2 and a post at disparity 6 before it, with each view's disparity."""
    left = torch.full((1, 1, 4, 24), 2.0)
    left[..., 10:14] = 6.0
    right = torch.full((1, 1, 4, 24), 2.0)
    right[..., 4:8] = 6.0
    return left, right


def test_half_occlusions_of_a_pair():
    left, right = two_layers()
    # The left view sees wall at 6..9 that the post, at 4..7 in the right view, hides there: x - 2 in 4..7.
    hidden = torch.zeros_like(left, dtype=torch.bool)
    hidden[..., 6:10] = True
    hidden[..., :2] = True  # out of the right picture
    assert torch.equal(visible_by_disparity(left, right), ~hidden)
    hidden_right = torch.zeros_like(left, dtype=torch.bool)
    hidden_right[..., 8:12] = True
    hidden_right[..., 22:] = True
    assert torch.equal(visible_by_disparity(right, left, direction=1), ~hidden_right)


def test_occlusion_by_splatting_finds_the_same_pixels():
    left, right = two_layers()
    k = torch.tensor([[[20.0, 0, 12], [0, 20, 2], [0, 0, 1]]])
    motion = torch.eye(4)[None].clone()
    motion[:, 0, 3] = -0.5
    seen = visible_by_depth(20 * 0.5 / left, motion, k)
    assert torch.equal(seen, visible_by_disparity(left, right))
    back = visible_by_depth(20 * 0.5 / right, invert_pose(motion), k)
    assert torch.equal(back, visible_by_disparity(right, left, direction=1))


def test_a_slanted_wall_does_not_hide_itself():
    _, depth = view(K, np.eye(4), HEIGHT, WIDTH)
    motion = torch.from_numpy(np.linalg.inv(moved(0.1, 0.0, 0.3, turn=0.05)))[None]
    depth = torch.from_numpy(depth)[None, None]
    seen = visible_by_depth(depth, motion, intrinsics())
    pixels, _ = project(transform_points(unproject(depth, intrinsics()), motion), intrinsics())
    inside = ((pixels + 0.5 >= 0) & (pixels + 0.5 < torch.tensor([WIDTH, HEIGHT])[:, None, None])).all(1, keepdim=True)
    assert torch.equal(seen, inside) and 0.5 < seen.float().mean() < 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: warp_by_disparity(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), direction=0),
            ConfigError,
            "-1 .*or 1",
        ),
        (lambda: warp_by_disparity(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 3)), ShapeError, "shift_px"),
        (
            lambda: warp_by_depth(
                torch.ones(1, 1, 3, 2), torch.ones(1, 1, 2, 2), torch.eye(4)[None], torch.eye(3)[None]
            ),
            ShapeError,
            "Give `source_intrinsics`",
        ),
        (
            lambda: warp_by_depth(
                torch.ones(2, 1, 2, 2), torch.ones(1, 1, 2, 2), torch.eye(4)[None], torch.eye(3)[None]
            ),
            ShapeError,
            "must hold 1 pictures",
        ),
        (
            lambda: splat(torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2, 2), torch.ones(1, 1, 2, 3), (2, 2)),
            ShapeError,
            "`z`",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# Real pictures


@pytest.mark.shared_data
def test_real_views_are_rebuilt_from_true_depth_and_motion(shared_data):
    """Kinect depth and poses, and Middlebury's disparities: warping explains most of the difference between views."""
    from fathom.data import open_dataset
    from fathom.data.torch_adapter import collate
    from fathom.data.transforms import resize_sample

    room = open_dataset("7-scenes", shared_data / "7scenes-redkitchen", neighbours=(-2, 2))
    ratios = []
    for index in (20, 40, 60):
        batch = collate([resize_sample(room[index], 240, 320)])
        image, depth = batch["image"].float() / 255, batch["target"][:, None]
        for other, motion in zip(batch["neighbours"].unbind(1), batch["neighbour_poses"].unbind(1), strict=True):
            other = other.float() / 255
            warped, in_view = warp_by_depth(other, depth.clamp(min=0.1), motion, batch["intrinsics"])
            used = in_view & batch["valid_mask"][:, None] & visible_by_depth(depth, motion, batch["intrinsics"])
            before, after = ((seen - image).abs().mean(1, keepdim=True)[used].mean() for seen in (other, warped))
            ratios.append(float(after / before))
    assert np.median(ratios) < 0.45

    scenes = open_dataset("middlebury", shared_data / "middlebury", scenes=("Art", "Teddy"))
    for sample in scenes:
        batch = collate([sample])
        left, right = batch["image"].float() / 255, batch["image_right"].float() / 255
        disparity, other = batch["target"][:, None], batch["target_right"][:, None]
        warped, in_view = warp_by_disparity(right, disparity)
        back, _ = warp_by_disparity(left, other, direction=1)
        used = visible_by_disparity(disparity, other) & batch["valid_mask"][:, None]
        used_right = visible_by_disparity(other, disparity, direction=1) & batch["valid_mask_right"][:, None]
        for before, after, mask in ((right - left, warped - left, used), (left - right, back - right, used_right)):
            errors = [difference.abs().mean(1, keepdim=True)[mask].mean() for difference in (before, after)]
            assert errors[1] < 0.35 * errors[0]
        assert in_view.float().mean() > 0.85


@pytest.mark.shared_data
def test_a_real_drive_is_rebuilt_from_stereo_depth(shared_data):
    """Depth by a classical matcher explains the second view and the frames around; inverted motions do not."""
    cv2 = pytest.importorskip("cv2")
    from fathom.data import open_dataset
    from fathom.data.torch_adapter import collate
    from fathom.geometry.camera import disparity_to_depth

    drive = open_dataset(
        "kitti-odometry", shared_data / "kitti-stereo", sequences=("b",), stereo=True, neighbours=(-1, 1)
    )
    sample = drive[25]
    grey = [cv2.cvtColor(view, cv2.COLOR_RGB2GRAY) for view in (sample.image, sample.meta["image_right"])]
    matcher = cv2.StereoSGBM_create(0, 128, 5, 8 * 25, 32 * 25, 1, uniquenessRatio=10, speckleWindowSize=100)
    disparity = torch.from_numpy(matcher.compute(*grey).astype(np.float32) / 16)[None, None]
    batch = collate([sample])
    image, k = batch["image"].float() / 255, batch["intrinsics"]
    depth = disparity_to_depth(disparity.clamp(min=1), k[:, 0, 0], batch["baseline_m"])
    aside = torch.eye(4)[None].clone()
    aside[:, 0, 3] = -batch["baseline_sign"] * batch["baseline_m"]
    views = [
        (batch["image_right"], aside),
        *zip(batch["neighbours"][0].split(1), batch["neighbour_poses"][0].split(1), strict=True),
    ]
    for picture, motion in views:
        other = picture.float() / 255
        warped, in_view = warp_by_depth(other, depth, motion, k)
        wrong, also_in_view = warp_by_depth(other, depth, invert_pose(motion), k)
        used = in_view & also_in_view & (disparity > 1)
        still, right, reverse = (
            (seen - image).abs().mean(1, keepdim=True)[used].mean() for seen in (other, warped, wrong)
        )
        assert right < 0.45 * still < 0.45 * reverse
