"""Geometry-true changes of one sample: picture, depth, companions and camera move together.

Rules, everywhere in this file: pictures are resampled by area where they shrink and bilinearly where they grow; depth,
masks, labels and normals are never interpolated, so no value is invented between two surfaces or across a hole; the
camera describes the new pixels. What each change does to depth is in its docstring. The batch form for training is
`fathom.data.batch_transforms`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fathom.data.base import PIXEL_COMPANIONS
from fathom.errors import KindError, ShapeError
from fathom.geometry import resize_image
from fathom.types import Camera, DepthKind, Sample

_IMAGES = ("image_right",)
_MASKED_DEPTHS = {"target_right": "valid_mask_right"}


def resize_depth(
    values: npt.NDArray[np.float32], valid_mask: npt.NDArray[np.bool_], height: int, width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Resize a depth map by the nearest valid pixel; a sparse map keeps its points.

    Each new pixel takes the old pixel under its centre. Where that one is not valid, it takes the valid one nearest to
    its centre among those that lie inside it, so that shrinking a lidar map does not lose most of its returns.

    Args:
        values: Depth, shape (H, W).
        valid_mask: True where it may be used, shape (H, W).
        height: Rows wanted.
        width: Columns wanted.

    Returns:
        values: Shape (height, width), 0 where not valid.
        valid_mask: Shape (height, width).

    Example:
        >>> depth = np.zeros((4, 4), np.float32)
        >>> depth[3, 0] = 7.0
        >>> resize_depth(depth, depth > 0, 2, 2)[0].tolist()
        [[0.0, 0.0], [7.0, 0.0]]
    """
    rows, columns = _nearest(values.shape[0], height), _nearest(values.shape[1], width)
    mask = valid_mask[rows[:, None], columns]
    out = np.where(mask, values[rows[:, None], columns], np.float32(0))
    if (height < values.shape[0] or width < values.shape[1]) and not mask.all():
        # Only points whose new pixel is still empty; for a dense map those are few.
        old_rows, old_columns = np.nonzero(valid_mask)
        y = (old_rows + 0.5) * (height / values.shape[0])
        x = (old_columns + 0.5) * (width / values.shape[1])
        new_rows, new_columns = y.astype(np.intp), x.astype(np.intp)
        empty = ~mask[new_rows, new_columns]
        old_rows, old_columns, new_rows, new_columns = (
            a[empty] for a in (old_rows, old_columns, new_rows, new_columns)
        )
        distance = (y[empty] - new_rows - 0.5) ** 2 + (x[empty] - new_columns - 0.5) ** 2
        farthest_first = np.argsort(-distance, kind="stable")
        target = new_rows[farthest_first], new_columns[farthest_first]
        out[target] = values[old_rows[farthest_first], old_columns[farthest_first]]
        mask[target] = True
    return out, mask


def _nearest(size_in: int, size_out: int) -> npt.NDArray[np.intp]:
    """Return the old pixel under the centre of each new one."""
    return ((np.arange(size_out) + 0.5) * (size_in / size_out)).astype(np.intp)


def resize_sample(sample: Sample, height: int, width: int) -> Sample:
    """Resize a sample; depth stays, disparity [px] follows the width, intrinsics follow both axes."""
    rows, columns = sample.image.shape[:2]
    if (rows, columns) == (height, width):
        return sample
    row_index, column_index = _nearest(rows, height)[:, None], _nearest(columns, width)
    stretch = width / columns if sample.kind is DepthKind.DISPARITY else 1.0

    def picture(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.rint(resize_image(image, height, width)).astype(np.uint8)

    def depth(values: npt.NDArray[Any], mask: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        values, mask = resize_depth(values, mask, height, width)
        return values * np.float32(stretch), mask

    camera = sample.camera.scaled(width / columns, height / rows) if sample.camera is not None else None
    return _apply(sample, picture, depth, lambda array: array[row_index, column_index], camera)


def crop_sample(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut a rectangle out of a sample; the principal point moves with it.

    Raises:
        ShapeError: If the rectangle does not lie inside the picture.
    """
    rows, columns = sample.image.shape[:2]
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise ShapeError(
            f"The crop of {height} x {width} at row {top}, column {left} must lie inside {rows} x {columns}."
        )
    camera = _moved(sample.camera, np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]))

    def cut(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array[top : top + height, left : left + width]

    return _apply(sample, cut, lambda values, mask: (cut(values), cut(mask)), cut, camera)


def flip_sample(sample: Sample) -> Sample:
    """Mirror a sample left to right.

    The x of normals changes sign, and poses are mirrored. The two views of a stereo pair change places: the mirrored
    right view is the left view of the mirrored world, and the ground truth is then that of the right view. A pair with
    neighbours, which are frames of the first camera, keeps its order, and its `baseline_sign` changes.

    Raises:
        KindError: If the sample is a stereo pair whose ground truth belongs to one view only.
    """
    width = sample.image.shape[1]
    stereo = sample.meta.get("image_right") is not None
    swaps = stereo and sample.meta.get("neighbours") is None
    has_depth = bool(sample.valid_mask.any())
    if swaps and has_depth and sample.meta.get("target_right") is None:
        raise KindError(
            "Mirroring a stereo pair swaps its views, and this pair has ground truth for one view only. "
            "Read it without its second view, or do not flip it."
        )

    def mirror(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array[:, ::-1]

    camera = None
    if sample.camera is not None:
        k = sample.camera.intrinsics.copy()
        k[0, 2] = width - k[0, 2]
        k[0, 1] = -k[0, 1]
        camera = replace(sample.camera, intrinsics=k)
    flipped = _apply(sample, mirror, lambda values, mask: (mirror(values), mirror(mask)), mirror, camera)
    meta = dict(flipped.meta)
    if meta.get("normals") is not None:
        meta["normals"] = meta["normals"] * np.array([-1, 1, 1], meta["normals"].dtype)
    image, target, mask = flipped.image, flipped.target, flipped.valid_mask
    if swaps and "pose" in meta:
        pose = meta.pop("pose")  # stays away where nobody knows how far away the other camera is
        if sample.camera is not None and sample.camera.baseline_m is not None:
            to_other = np.eye(4)
            to_other[0, 3] = meta.get("baseline_sign", 1) * sample.camera.baseline_m
            meta["pose"] = pose @ to_other
    mirrored = np.diag([-1.0, 1, 1, 1])
    for key in ("pose", "neighbour_poses"):
        if key in meta:
            meta[key] = mirrored @ meta[key] @ mirrored
    if stereo and not swaps:
        meta["baseline_sign"] = -meta.get("baseline_sign", 1)
    if swaps:
        image, meta["image_right"] = meta["image_right"], image
        if meta.get("target_right") is not None:
            target, meta["target_right"] = meta["target_right"], target
            mask, meta["valid_mask_right"] = meta["valid_mask_right"], mask
        # Labels and normals were those of the view that is now the other one.
        for key in ("labels", "instances", "normals"):
            meta.pop(key, None)
    return replace(flipped, image=image, target=target, valid_mask=mask, meta=meta)


def zoom_sample(sample: Sample, scale: float) -> Sample:
    """Enlarge the picture by `scale` and bring the scene nearer by it.

    Depth is divided by `scale` while the focal length grows with the picture: the points of the result are those of the
    sample divided by `scale`, so all angles and normals stay true. Inverse depth is multiplied; disparity [px] grows
    with the picture; the baseline and the translations of poses shrink with the scene.

    Args:
        sample: What to enlarge.
        scale: Factor; the size is rounded to whole pixels.

    Raises:
        ShapeError: If the scale is not positive.
    """
    if not scale > 0:
        raise ShapeError(f"The scale must be positive; got {scale}.")
    height, width = (max(1, round(size * scale)) for size in sample.image.shape[:2])
    resized = resize_sample(sample, height, width)
    factor = np.float32(depth_factor(sample.kind, scale))
    camera, meta = resized.camera, dict(resized.meta)
    if camera is not None and camera.baseline_m is not None:
        camera = replace(camera, baseline_m=camera.baseline_m / scale)
    if meta.get("target_right") is not None:
        meta["target_right"] = meta["target_right"] * factor
    for key in ("pose", "neighbour_poses"):
        if key in meta:
            poses = np.array(meta[key])
            poses[..., :3, 3] /= scale
            meta[key] = poses
    return replace(resized, target=resized.target * factor, camera=camera, meta=meta)


def depth_factor(kind: DepthKind, scale: float) -> float:
    """Return what the values of a kind are multiplied by when the scene comes nearer by `scale`.

    Disparity is not changed here: resizing the picture has changed it already, and the focal length, baseline and depth
    of the smaller scene leave it as it is.

    Example:
        >>> depth_factor(DepthKind.METRIC_DEPTH, 2.0), depth_factor(DepthKind.INVERSE_DEPTH, 2.0)
        (0.5, 2.0)
    """
    match kind:
        case DepthKind.METRIC_DEPTH | DepthKind.SCALE_INVARIANT_DEPTH:
            return 1.0 / scale
        case DepthKind.INVERSE_DEPTH | DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH:
            return scale
    return 1.0


def rotate_sample(sample: Sample, degrees: float) -> Sample:
    """Turn the picture about its middle, as if the camera had been rolled; pixels from outside are black and invalid.

    Depth along the optical axis does not change under a roll. Normals turn with the picture, and so does a principal
    point off the middle. The camera is exact for square pixels.

    Args:
        sample: What to turn.
        degrees: Counter-clockwise as seen.

    Raises:
        KindError: If the sample is a stereo pair, whose rows would no longer match.
    """
    if sample.meta.get("image_right") is not None:
        raise KindError(
            "A stereo pair cannot be turned: its rows would no longer match. Read it without its second view."
        )
    height, width = sample.image.shape[:2]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    # Rows run down: counter-clockwise as seen is x' = cos x + sin y, y' = -sin x + cos y about the middle.
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
    move = np.array([[1.0, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    forward = move @ turn @ np.linalg.inv(move)
    back = np.linalg.inv(forward)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    column = np.floor(back[0, 0] * x + back[0, 1] * y + back[0, 2]).astype(np.intp)
    row = np.floor(back[1, 0] * x + back[1, 1] * y + back[1, 2]).astype(np.intp)
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    column, row = np.clip(column, 0, width - 1), np.clip(row, 0, height - 1)

    def nearest(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        taken: npt.NDArray[Any] = array[row, column]
        taken[~inside] = 0
        return taken

    def picture(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # Pillow, too, puts the centre of the first pixel at (0.5, 0.5).
        turned = Image.fromarray(image).transform(
            (width, height), Image.Transform.AFFINE, tuple(back[:2].ravel()), Image.Resampling.BILINEAR
        )
        return np.asarray(turned)

    camera = sample.camera
    if camera is not None:
        # The camera rolls with the picture, so its matrix stays upper triangular: K' = A K R^-1.
        matrix = forward @ camera.intrinsics @ np.linalg.inv(turn)
        camera = replace(
            camera, intrinsics=np.array([[matrix[0, 0], 0, matrix[0, 2]], [0, matrix[1, 1], matrix[1, 2]], [0, 0, 1]])
        )
    turned = _apply(sample, picture, lambda values, mask: (nearest(values), nearest(mask)), nearest, camera)
    meta = dict(turned.meta)
    if meta.get("normals") is not None:
        meta["normals"] = (meta["normals"] @ turn.T).astype(meta["normals"].dtype)
    if "pose" in meta:
        roll = np.eye(4)
        roll[:3, :3] = turn
        meta["pose"] = meta["pose"] @ np.linalg.inv(roll)
    if "neighbour_poses" in meta:
        raise KindError("Turning one frame of a clip breaks its motion. Turn no frame, or read without neighbours.")
    return replace(turned, meta=meta)


def _moved(camera: Camera | None, matrix: npt.NDArray[np.float64]) -> Camera | None:
    return None if camera is None else replace(camera, intrinsics=matrix @ camera.intrinsics)


def _apply(
    sample: Sample,
    picture: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    depth: Callable[[npt.NDArray[Any], npt.NDArray[Any]], tuple[npt.NDArray[Any], npt.NDArray[Any]]],
    nearest: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    camera: Camera | None,
) -> Sample:
    """Apply the three ways of moving pixels to everything that has pixels."""
    target, mask = depth(sample.target, sample.valid_mask)
    meta = dict(sample.meta)
    for key in PIXEL_COMPANIONS:
        if meta.get(key) is None or key == "valid_mask_right":
            continue
        if key in _IMAGES:
            meta[key] = picture(meta[key])
        elif key in _MASKED_DEPTHS:
            meta[key], meta[_MASKED_DEPTHS[key]] = depth(meta[key], meta[_MASKED_DEPTHS[key]])
        else:
            meta[key] = nearest(meta[key])
    if meta.get("neighbours") is not None:
        meta["neighbours"] = [picture(image) for image in meta["neighbours"]]
    return Sample(picture(sample.image), target, mask, camera, meta, sample.kind)
