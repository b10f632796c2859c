"""A tilted wall with camera, normals and labels, and the check that a changed sample still shows it."""

import numpy as np
import numpy.typing as npt

from fathom.types import Camera, DepthKind, FocalSource, Sample

HEIGHT, WIDTH, FOCAL = 120, 160, 500.0
NORMAL = np.array([0.3, -0.2, -0.93])
NORMAL /= np.linalg.norm(NORMAL)
OFFSET = -2.0  # NORMAL . X = OFFSET: a tilted wall about 2 m away, its normal towards the camera


def plane_sample(kind: DepthKind = DepthKind.METRIC_DEPTH) -> Sample:
    k = np.array([[FOCAL, 0, 77.0], [0, FOCAL, 63.0], [0, 0, 1]])
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(x - k[0, 2]) / FOCAL, (y - k[1, 2]) / FOCAL, np.ones_like(x)], -1)
    depth = (OFFSET / (rays @ NORMAL)).astype(np.float32)
    # The picture paints the ray's direction, so that it can be checked that picture and camera still agree.
    image = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    mask = np.ones(depth.shape, np.bool_)
    mask[:5, :5] = False
    values = {DepthKind.METRIC_DEPTH: depth, DepthKind.INVERSE_DEPTH: 1 / depth}.get(kind)
    if values is None:
        values = FOCAL * 0.2 / depth
    normals = np.broadcast_to(NORMAL.astype(np.float32), (*depth.shape, 3)).copy()
    labels = (x // 10).astype(np.int64)
    camera = Camera(k, FocalSource.USER, 0.2)
    meta = {"id": "plane", "normals": normals, "labels": labels, "pose": np.eye(4)}
    return Sample(image, np.where(mask, values, 0).astype(np.float32), mask, camera, meta, kind)


def metres(sample: Sample) -> npt.NDArray[np.float64]:
    assert sample.camera is not None
    values = sample.target.astype(np.float64)
    with np.errstate(divide="ignore"):
        if sample.kind is DepthKind.INVERSE_DEPTH:
            return 1 / values
        if sample.kind is DepthKind.DISPARITY:
            assert sample.camera.baseline_m is not None
            return sample.camera.focal_px * sample.camera.baseline_m / values
    return values


def check_plane(sample: Sample, normal: np.ndarray, offset: float) -> None:
    """Every valid pixel lies on the plane, to what the nearest pixel allows, and without bias."""
    assert sample.camera is not None and sample.valid_mask.any()
    k = sample.camera.intrinsics
    rows, columns = np.nonzero(sample.valid_mask)
    z = metres(sample)[rows, columns]
    points = np.stack([(columns + 0.5 - k[0, 2]) / k[0, 0] * z, (rows + 0.5 - k[1, 2]) / k[1, 1] * z, z], -1)
    error = (points @ normal - offset) / offset
    assert np.abs(error).max() < 2e-3  # one pixel of this wall is 0.7 mm per metre
    assert abs(error.mean()) < 2e-5  # half a pixel of shift would be 3e-4
    np.testing.assert_allclose(sample.meta["normals"][rows, columns], normal[None].repeat(len(rows), 0), atol=1e-6)
