"""Depth and colours as points or a mesh in metres: PLY and GLB.

Axes. A `PointCloud` and a PLY file keep the axes of the camera: x right, y down, z forward, the camera at the origin.
A GLB file has the axes that glTF 2.0 prescribes (section 3.4): x right, y up, z backward; the camera looks along -z.

Edges. Networks smear the step between a near and a far surface over a few pixels; seen from the side these pixels fly
between the two. A pixel is taken out when the depths in its 3 x 3 neighbourhood differ by more than `max_relative_jump`
times its own depth.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fathom.errors import ConfigError, EmptyMaskError, ShapeError
from fathom.io import metadata_text, write_atomic
from fathom.types import BoolMap, Depth, InvalidReason

RgbImage = npt.NDArray[np.uint8]

MAX_RELATIVE_JUMP = 0.05
"""Relative step in depth beyond which a pixel counts as flying; a floor seen from eye height steps 1 % at 8 m."""

_GREY = (200, 200, 200)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Coloured points in metres, and the triangles between them for a mesh.

    Args:
        points: Positions [m] in the axes of the camera (x right, y down, z forward), float32, shape (N, 3).
        colors: sRGB colours, uint8, shape (N, 3).
        faces: Three points of each triangle, anticlockwise seen from the camera, int32, shape (M, 3); None for points
            only.
        metadata: What the map was (`Depth.metadata`), and the rule by which points were taken out.
    """

    points: npt.NDArray[np.float32]
    colors: npt.NDArray[np.uint8]
    faces: npt.NDArray[np.int32] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def flying_pixels(depth: Depth, *, max_relative_jump: float = MAX_RELATIVE_JUMP) -> BoolMap:
    """Return which pixels lie on a step in depth: ``max - min > max_relative_jump * depth`` over 3 x 3 valid pixels.

    Args:
        depth: A map that can be turned into metric depth.
        max_relative_jump: Largest step kept, relative to the depth of the pixel.

    Returns:
        True where a valid pixel lies on a step, bool, shape (H, W).

    Raises:
        KindError: If the map is relative.
        ConfigError: If the step is not positive.

    Example:
        >>> from fathom.types import DepthKind
        >>> depth = Depth(np.array([[1.0, 1.01, 1.5, 2.0, 2.01]]), DepthKind.METRIC_DEPTH)
        >>> flying_pixels(depth).tolist()
        [[False, True, True, True, False]]
    """
    if not max_relative_jump > 0:
        raise ConfigError(f"The largest relative step must be positive; got {max_relative_jump}. Try 0.05.")
    metric = depth.to_metric_depth()
    nearest = _over_3x3(np.where(metric.valid_mask, metric.values, np.float32(np.inf)), np.minimum)
    farthest = _over_3x3(np.where(metric.valid_mask, metric.values, np.float32(-np.inf)), np.maximum)
    flying = np.zeros(metric.values.shape, np.bool_)
    np.greater(farthest - nearest, max_relative_jump * metric.values, out=flying, where=metric.valid_mask)
    return flying


def _over_3x3(values: npt.NDArray[np.float32], pick: np.ufunc) -> npt.NDArray[np.float32]:
    """Return the least or greatest of each 3 x 3 neighbourhood; the border has a smaller one."""
    for axis in (0, 1):
        lines = np.moveaxis(values, axis, 0)
        result = lines.copy()
        pick(result[1:], lines[:-1], out=result[1:])
        pick(result[:-1], lines[1:], out=result[:-1])
        values = np.moveaxis(result, 0, axis)
    return values


def point_cloud(
    depth: Depth,
    rgb: RgbImage | None = None,
    *,
    mesh: bool = False,
    max_relative_jump: float = MAX_RELATIVE_JUMP,
) -> PointCloud:
    """Turn a depth map into coloured points in metres, or a mesh of them.

    Sky and other pixels without depth are left out, and so are flying pixels (`flying_pixels`). In a mesh each 2 x 2
    block of pixels gives two triangles, where all corners of a triangle are left.

    Args:
        depth: A metric map (or one that can be turned into metres) with a camera.
        rgb: The photo, uint8, shape (H, W, 3); without it points are grey.
        mesh: Whether to join neighbours by triangles.
        max_relative_jump: Largest relative step in depth that is kept.

    Returns:
        The points, in the order of pixels, row by row.

    Raises:
        KindError: If the map is relative, or has no camera.
        ShapeError: If photo and map differ in size.
        EmptyMaskError: If no point is left.

    Example:
        >>> from fathom.types import Camera, DepthKind
        >>> camera = Camera.assumed(height=2, width=2)
        >>> cloud = point_cloud(Depth(np.full((2, 2), 2.0), DepthKind.METRIC_DEPTH, camera=camera), mesh=True)
        >>> cloud.points.shape, cloud.faces.tolist()
        ((4, 3), [[0, 2, 1], [1, 2, 3]])
    """
    if rgb is not None and rgb.shape != (depth.height, depth.width, 3):
        raise ShapeError(
            f"Photo and depth map must have the same size; got {rgb.shape[:2]} and {depth.values.shape}. Resize one."
        )
    points = depth.points()
    metric = depth.to_metric_depth()
    flying = flying_pixels(metric, max_relative_jump=max_relative_jump)
    kept = metric.valid_mask & ~flying
    if not kept.any():
        raise EmptyMaskError(
            f"No point is left of {kept.size} pixels: {int((~metric.valid_mask).sum())} are not valid and "
            f"{int(flying.sum())} lie on steps in depth. Raise max_relative_jump."
        )
    colors = rgb[kept] if rgb is not None else np.full((int(kept.sum()), 3), _GREY, np.uint8)
    faces = _faces(kept) if mesh else None
    if faces is not None and not len(faces):
        raise EmptyMaskError("No triangle is left: no three neighbours are valid. Write points, or raise the step.")
    metadata = json.loads(metadata_text(depth)) | {
        "points_unit": "m",
        "num_sky_removed": int((depth.invalid_reason == InvalidReason.SKY).sum()),
        "num_flying_removed": int(flying.sum()),
        "max_relative_jump": max_relative_jump,
    }
    return PointCloud(points[kept], colors, faces, metadata)


def _faces(kept: BoolMap) -> npt.NDArray[np.int32]:
    """Return two triangles for each 2 x 2 block of pixels, where their corners are kept."""
    index = np.cumsum(kept, dtype=np.int32).reshape(kept.shape) - 1
    top_left, top_right = index[:-1, :-1], index[:-1, 1:]
    low_left, low_right = index[1:, :-1], index[1:, 1:]
    diagonal = kept[:-1, 1:] & kept[1:, :-1]
    # y points down, so this order runs anticlockwise on the screen and the front faces the camera.
    upper = np.stack([top_left, low_left, top_right], axis=-1)[kept[:-1, :-1] & diagonal]
    lower = np.stack([top_right, low_left, low_right], axis=-1)[kept[1:, 1:] & diagonal]
    return np.concatenate([upper, lower])


def write_ply(cloud: PointCloud, path: str | Path) -> Path:
    """Write a binary PLY, little endian: float32 positions in the axes of the camera, uchar colours.

    The metadata is one line of JSON in a comment that starts with ``fathom``.

    Raises:
        OutputError: If the file cannot be written.
    """
    import trimesh

    content: bytes = trimesh.exchange.ply.export_ply(_trimesh(cloud, cloud.points, cloud.colors))
    first_line, second_line, rest = content.split(b"\n", 2)
    comments = [
        b"comment x right, y down, z forward, metres; camera at the origin",
        b"comment fathom " + json.dumps(dict(cloud.metadata), sort_keys=True).encode("ascii"),
    ]
    return write_atomic(path, [b"\n".join([first_line, second_line, *comments, rest])])


def write_glb(cloud: PointCloud, path: str | Path) -> Path:
    """Write a binary glTF 2.0: x right, y up, z backward; the camera looks along -z. Metadata is in ``asset.extras``.

    glTF colours of points are linear (section 3.7.2.1), so sRGB is undone. The material is unlit
    (KHR_materials_unlit): a photo already holds its light.

    Raises:
        OutputError: If the file cannot be written.
    """
    import trimesh

    points = cloud.points * np.array([1, -1, -1], np.float32)
    scene = trimesh.Scene(_trimesh(cloud, points, _linear_table()[cloud.colors]))

    def complete(tree: dict[str, Any]) -> None:
        tree["asset"] = {"version": "2.0", "generator": "Fathom", "extras": dict(cloud.metadata)}
        tree["materials"] = [
            {
                "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0, "roughnessFactor": 1},
                "extensions": {"KHR_materials_unlit": {}},
            }
        ]
        tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), "KHR_materials_unlit"})
        for shape in tree["meshes"]:
            for primitive in shape["primitives"]:
                primitive["material"] = 0

    content: bytes = trimesh.exchange.gltf.export_glb(scene, include_normals=False, tree_postprocessor=complete)
    return write_atomic(path, [content])


def _linear_table() -> npt.NDArray[np.uint8]:
    """Return the linear 8-bit value of each sRGB value (IEC 61966-2-1), uint8, shape (256,)."""
    value = np.arange(256) / 255
    linear: npt.NDArray[np.float64] = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.rint(linear * 255).astype(np.uint8)


def _trimesh(cloud: PointCloud, points: npt.NDArray[np.float32], colors: npt.NDArray[np.uint8]) -> Any:
    import trimesh

    rgba = np.full((len(colors), 4), 255, np.uint8)
    rgba[:, :3] = colors
    if cloud.faces is None:
        return trimesh.PointCloud(points, rgba)
    return trimesh.Trimesh(points, cloud.faces, vertex_colors=rgba, process=False)
