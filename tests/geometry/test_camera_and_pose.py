"""Closed forms of cameras and rigid motions, and their gradients."""

import math

import pytest

torch = pytest.importorskip("torch")
expm = pytest.importorskip("scipy.linalg").expm

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

from fathom.errors import ShapeError  # noqa: E402
from fathom.geometry.camera import (  # noqa: E402
    NEAREST_Z,
    depth_to_disparity,
    disparity_to_depth,
    pixel_grid,
    project,
    scale_intrinsics,
    unproject,
)
from fathom.geometry.pose import (  # noqa: E402
    invert_pose,
    pose_from_axis_angle,
    pose_from_euler,
    transform_points,
)
from fathom.types import Camera, Depth, DepthKind, FocalSource  # noqa: E402

DOUBLE = torch.float64
CAMERAS = torch.tensor(
    [[[60.0, 0, 4.5], [0, 55, 3.2], [0, 0, 1]], [[30.0, 0, 3.9], [0, 31, 2.8], [0, 0, 1]]], dtype=DOUBLE
)


def random(*shape, seed=0, low=0.0, high=1.0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) * (high - low) + low


# Cameras


def test_unproject_agrees_with_the_depth_object():
    depth = random(1, 1, 6, 8, low=1, high=9).float()
    camera = Camera(CAMERAS[0].numpy(), FocalSource.USER)
    expected = Depth(depth[0, 0].numpy(), DepthKind.METRIC_DEPTH, camera=camera).points()
    points = unproject(depth, CAMERAS[:1].float())[0].permute(1, 2, 0)
    assert torch.allclose(points, torch.from_numpy(expected), atol=1e-5)


def test_project_undoes_unproject():
    depth = random(2, 1, 6, 8, low=0.5, high=90)
    pixels, z = project(unproject(depth, CAMERAS), CAMERAS)
    assert torch.allclose(pixels, pixel_grid(6, 8, depth).expand(2, 2, 6, 8), atol=1e-12)
    assert torch.equal(z, depth)


def test_a_point_behind_the_camera_lies_far_outside_and_says_so():
    points = torch.tensor([0.3, -0.2, -2.0], dtype=DOUBLE).reshape(1, 3, 1, 1).requires_grad_()
    pixels, z = project(points, CAMERAS[:1])
    assert z.item() == -2 and pixels.abs().min() > 100 / NEAREST_Z / 10
    pixels.sum().backward()
    assert points.grad.isfinite().all()


def test_intrinsics_follow_the_picture():
    """The ray through the middle of a pixel block goes through the middle of the pixel it becomes."""
    small = scale_intrinsics(CAMERAS, (6, 8), (3, 4))
    coarse = unproject(torch.ones(2, 1, 3, 4, dtype=DOUBLE), small)
    fine = unproject(torch.ones(2, 1, 6, 8, dtype=DOUBLE), CAMERAS)
    assert torch.allclose(coarse, torch.nn.functional.avg_pool2d(fine, 2))
    assert torch.allclose(scale_intrinsics(small, (3, 4), (6, 8)), CAMERAS)
    scaled = Camera(CAMERAS[0].numpy(), FocalSource.USER).scaled(0.5, 0.5).intrinsics
    assert torch.allclose(small[0], torch.from_numpy(scaled.copy()))


def test_disparity_is_focal_times_baseline_over_depth():
    focal, baseline = torch.tensor([721.5377, 100.0], dtype=DOUBLE), torch.tensor([0.54, 0.2], dtype=DOUBLE)
    disparity = torch.full((2, 1, 1, 1), 10.0, dtype=DOUBLE)
    depth = disparity_to_depth(disparity, focal, baseline)
    assert depth.flatten().tolist() == pytest.approx([38.963036, 2.0])  # the oracle of monodepth, and by hand
    assert disparity_to_depth(torch.full((1, 1, 1, 1), 372.6), 721.5377, 0.54).item() == pytest.approx(1.0457, abs=5e-5)
    assert torch.allclose(depth_to_disparity(depth, focal, baseline), disparity)
    assert disparity_to_depth(torch.zeros(1, 1, 1, 1), 700.0, 0.5).isinf().all()


def test_gradients_of_cameras():
    depth = random(2, 1, 2, 3, low=1, high=3).requires_grad_()
    cameras = CAMERAS.clone().requires_grad_()
    assert gradcheck(unproject, (depth, cameras))
    points = unproject(depth, CAMERAS).detach().requires_grad_()
    assert gradcheck(project, (points, cameras))
    assert gradcheck(lambda d: disparity_to_depth(d, 700.0, 0.5), (depth,))


# Poses


def rotation_of(axis, angle):
    """Rotate by the exponential of the skew matrix, which no formula of the package uses."""
    x, y, z = torch.tensor(axis, dtype=DOUBLE) * angle
    zero = torch.zeros((), dtype=DOUBLE)
    # torch's own matrix_exp is off by 6e-14 at angles around 0.01 on some CPUs.
    return torch.from_numpy(expm(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3).numpy()))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 9.9e-3, 1.01e-2, 0.3, 2.0, math.pi, 6.0])
def test_axis_angle_is_the_matrix_exponential(angle):
    axis = torch.tensor([2.0, -1, 2], dtype=DOUBLE) / 3
    pose = pose_from_axis_angle((axis * angle)[None], torch.tensor([[1.0, 2, 3]], dtype=DOUBLE))
    assert torch.allclose(pose[0, :3, :3], rotation_of(axis.tolist(), angle), atol=1e-14, rtol=0)
    assert pose[0, :, 3].tolist() == [1, 2, 3, 1] and pose[0, 3].tolist() == [0, 0, 0, 1]
    single = pose_from_axis_angle((axis * angle)[None].float(), torch.zeros(1, 3))
    assert torch.allclose(single[0, :3, :3].double(), pose[0, :3, :3], atol=3e-7, rtol=0)


def test_axis_angle_is_smooth_at_zero():
    """First and second derivatives exist where training starts; a plain Rodrigues formula divides 0 by 0 there."""
    rotation = torch.zeros(2, 3, dtype=DOUBLE, requires_grad=True)
    translation = torch.zeros(2, 3, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(pose_from_axis_angle, (rotation, translation))
    assert gradgradcheck(pose_from_axis_angle, (rotation, translation))
    pose_from_axis_angle(rotation, translation)[:, 2, 1].sum().backward()
    assert rotation.grad.tolist() == [[1, 0, 0]] * 2  # d R_zy / d r_x
    across = torch.tensor([[9.9999e-3, 0, 0], [1.00001e-2, 0, 0]], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(pose_from_axis_angle, (across, translation))


def test_euler_angles_turn_about_z_then_y_then_x():
    angles = random(4, 3, low=-3, high=3)
    x, y, z = ([0.0] * i + [1.0] + [0.0] * (2 - i) for i in range(3))
    for (a, b, c), pose in zip(angles, pose_from_euler(angles, torch.zeros(4, 3, dtype=DOUBLE)), strict=True):
        expected = rotation_of(x, a) @ rotation_of(y, b) @ rotation_of(z, c)
        assert torch.allclose(pose[:3, :3], expected, atol=1e-14)
    assert gradcheck(pose_from_euler, (angles.requires_grad_(), random(4, 3).requires_grad_()))


def test_inverse_and_points():
    pose = pose_from_axis_angle(random(3, 3, low=-2, high=2), random(3, 3, seed=1, low=-5, high=5))
    assert torch.allclose(invert_pose(pose), torch.linalg.inv(pose), atol=1e-12)
    points = random(3, 3, 2, 4, seed=2)
    moved = transform_points(points, pose)
    one = torch.cat([points[1, :, 1, 3], torch.ones(1, dtype=DOUBLE)])
    assert torch.allclose(moved[1, :, 1, 3], (pose[1] @ one)[:3])
    assert torch.allclose(transform_points(moved, invert_pose(pose)), points)
    assert gradcheck(transform_points, (points.requires_grad_(), pose.clone().requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept(dtype):
    zero = torch.zeros(1, 3, dtype=dtype)
    assert pose_from_axis_angle(zero, zero).dtype == pose_from_euler(zero, zero).dtype == dtype
    assert invert_pose(pose_from_euler(zero, zero)).dtype == dtype
    assert unproject(torch.ones(1, 1, 2, 2, dtype=dtype), CAMERAS[:1].to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: unproject(torch.ones(2, 3, 4), CAMERAS), "`depth` must be"),
        (lambda: unproject(torch.ones(1, 1, 3, 4), CAMERAS), r"`intrinsics` must be \(1, 3, 3\)"),
        (lambda: project(torch.ones(2, 2, 3, 4), CAMERAS), r"`points` must be \(B, 3, H, W\)"),
        (lambda: scale_intrinsics(CAMERAS, (0, 2), (2, 2)), "must be positive"),
        (lambda: disparity_to_depth(torch.ones(2, 1, 1, 1), torch.ones(3), 0.5), "each of the 2 pictures"),
        (lambda: pose_from_axis_angle(torch.zeros(2, 3), torch.zeros(1, 3)), "must both be"),
        (lambda: pose_from_euler(torch.zeros(2, 4), torch.zeros(2, 4)), "must both be"),
        (lambda: invert_pose(torch.eye(4)), r"`pose` must be \(B, 4, 4\)"),
        (lambda: transform_points(torch.ones(1, 3, 2, 2), torch.eye(4).repeat(2, 1, 1)), r"\(1, 4, 4\)"),
    ],
)
def test_wrong_shapes_are_refused(call, words):
    with pytest.raises(ShapeError, match=words):
        call()
