"""A slanted wall with a smooth texture, seen by any camera from anywhere: every view and its depth in closed form."""

import numpy as np
import numpy.typing as npt

from fathom.types import Camera, FocalSource, Sample

NORMAL = np.array([0.25, -0.15, -0.95])
NORMAL /= np.linalg.norm(NORMAL)
OFFSET = -3.0
"""The wall is NORMAL . X = OFFSET: some 3 m in front of the world's origin."""
WAVES = np.array([[5.0, 1.5, 0.5], [-2.0, 4.0, 1.0], [3.0, -3.5, 0.7]])
"""Wave vectors of the three channels [rad/m]: waves of a metre and more, so that linear interpolation is close."""


def view(
    intrinsics: npt.NDArray[np.float64], pose: npt.NDArray[np.float64], height: int, width: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the picture (H, W, 3) in 0..1 and the depth (H, W) that a camera with this pose (to world) sees."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    depth = (OFFSET - pose[:3, 3] @ NORMAL) / (rays @ NORMAL)
    points = pose[:3, 3] + depth[..., None] * rays
    return 0.5 + 0.4 * np.sin(points @ WAVES.T), depth


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, *, turn: float = 0.0) -> npt.NDArray[np.float64]:
    """Return a pose: a shift [m] and a turn about the vertical axis [rad]."""
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    pose[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)
    return pose


def wall_sample(height: int = 48, width: int = 64, *, stereo: bool = False, neighbours: bool = False) -> Sample:
    """Return the view from the origin, with a second one 0.2 m to the right and two frames of a drive."""
    k = np.array([[60.0, 0, 30.0], [0, 60, 26.0], [0, 0, 1]])

    def picture(pose: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        return np.rint(255 * view(k, pose, height, width)[0]).astype(np.uint8)

    here = np.eye(4)
    depth = view(k, here, height, width)[1].astype(np.float32)
    meta = {"id": "wall", "scene": "wall"}
    if stereo:
        meta["image_right"] = picture(moved(0.2))
        meta["target_right"] = view(k, moved(0.2), height, width)[1].astype(np.float32)
        meta["valid_mask_right"] = np.ones((height, width), np.bool_)
    if neighbours:
        poses = [moved(0.05, 0.02, -0.15, turn=0.02), moved(-0.04, 0.01, 0.12, turn=-0.03)]
        meta["neighbours"] = [picture(pose) for pose in poses]
        meta["neighbour_poses"] = np.linalg.inv(np.stack(poses)) @ here
    return Sample(picture(here), depth, np.ones((height, width), np.bool_), Camera(k, FocalSource.USER, 0.2), meta)
