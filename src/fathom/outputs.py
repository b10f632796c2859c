"""What `predict` can write beside each other for one picture: depth files, colour pictures, point clouds.

Every file of one picture starts with the same stem; `FORMATS` says how each goes on.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fathom.errors import ConfigError, KindError, ShapeError
from fathom.io import DEPTH_FORMATS, Picture, metadata_text, write_depth, write_picture
from fathom.pointcloud import MAX_RELATIVE_JUMP, point_cloud, write_glb, write_ply
from fathom.types import Depth, DepthKind
from fathom.viz import COLORMAPS, DEFAULT_COLORMAP, colorize, side_by_side, with_legend

ANY_KIND = frozenset(DepthKind)
METRIC_KINDS = frozenset(kind for kind in DepthKind if kind.is_metric)


@dataclass(frozen=True)
class OutputFormat:
    """One kind of file that can be written for a picture.

    Args:
        suffix: What follows the stem; no two formats share one.
        reads: Whether `fathom.io.read_depth` gives the map back.
        needs: Kinds of depth that the format can be made from.
        needs_picture: Whether the photo is part of it.
        description: One line for a list of formats.
    """

    suffix: str
    reads: bool
    description: str
    needs: frozenset[DepthKind] = ANY_KIND
    needs_picture: bool = False


FORMATS: dict[str, OutputFormat] = {
    **{name: OutputFormat(entry.suffixes[0], True, entry.description) for name, entry in DEPTH_FORMATS.items()},
    "color": OutputFormat("_color.png", False, "colour picture, near is warm or bright"),
    "color_jpg": OutputFormat("_color.jpg", False, "colour picture as JPEG"),
    "panel": OutputFormat("_panel.png", False, "photo, colour picture and legend side by side", needs_picture=True),
    "panel_jpg": OutputFormat("_panel.jpg", False, "photo, colour picture and legend as JPEG", needs_picture=True),
    "ply": OutputFormat(".ply", False, "point cloud or mesh in metres, camera axes", METRIC_KINDS),
    "glb": OutputFormat(".glb", False, "point cloud or mesh in metres, glTF axes", METRIC_KINDS),
}
"""Every format that `write_outputs` writes."""


@dataclass(frozen=True)
class OutputOptions:
    """How files are written.

    Args:
        png16_scale: Unit of the map for each count of a 16-bit PNG; default: millimetres for metric depth, else the
            range of each map.
        colormap: Colour map of pictures.
        value_range: Values of the two ends of the colour map; default: those of each map.
        legend: Whether colour pictures get a legend; panels always have one.
        mesh: Whether PLY and GLB hold triangles and not points only.
        max_relative_jump: Largest relative step in depth kept in PLY and GLB.

    Raises:
        ConfigError: If a value makes no sense.
    """

    png16_scale: float | None = None
    colormap: str = DEFAULT_COLORMAP
    value_range: tuple[float, float] | None = None
    legend: bool = False
    mesh: bool = False
    max_relative_jump: float = MAX_RELATIVE_JUMP

    def __post_init__(self) -> None:
        if self.colormap not in COLORMAPS:
            raise ConfigError(f"Expected one of the colour maps {', '.join(COLORMAPS)}; got {self.colormap!r}.")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(f"A colour range must be two numbers, the smaller first; got {self.value_range}.")
        if self.png16_scale is not None and not self.png16_scale > 0:
            raise ConfigError(f"The scale of a 16-bit PNG must be positive; got {self.png16_scale}.")
        if not self.max_relative_jump > 0:
            raise ConfigError(f"The largest relative step in depth must be positive; got {self.max_relative_jump}.")


def parse_formats(text: str | Iterable[str]) -> tuple[str, ...]:
    """Return the format names in a comma-separated text or a sequence, each once, in order.

    Raises:
        ConfigError: If a name is unknown, or there is none.

    Example:
        >>> parse_formats("png16, npy,png16")
        ('png16', 'npy')
    """
    parts = text.split(",") if isinstance(text, str) else text
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    for name in names:
        if name not in FORMATS:
            close = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"Did you mean '{close[0]}'? " if close else ""
            raise ConfigError(f"Unknown format '{name}'. {hint}Known: {', '.join(FORMATS)}.")
    if not names:
        raise ConfigError(f"Expected at least one format; got none. Known: {', '.join(FORMATS)}.")
    return names


def check_formats(formats: Sequence[str], kind: DepthKind) -> None:
    """Refuse formats that cannot be made from a kind of depth; needs no model and no map.

    Raises:
        ConfigError: If a format is unknown.
        KindError: If a format needs metres and the kind is relative.

    Example:
        >>> check_formats(["png16", "color"], DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
    """
    for name in parse_formats(formats):
        if kind not in FORMATS[name].needs:
            raise KindError(
                f"The format {name} needs metres; this model gives {kind}. "
                "Leave the format out, use a metric model such as fathom-indoor, or calibrate the map first."
            )


def output_paths(stem_path: str | os.PathLike[str], formats: Sequence[str]) -> list[Path]:
    """Return the file of each format for a stem, in order; sidecars, which are written first, are not among them.

    Example:
        >>> [path.name for path in output_paths("out/room.v2", ["png16", "color"])]
        ['room.v2.png', 'room.v2_color.png']
    """
    stem = Path(stem_path)
    return [stem.with_name(stem.name + FORMATS[name].suffix) for name in parse_formats(formats)]


def write_outputs(
    depth: Depth,
    picture: Picture | None,
    stem_path: str | os.PathLike[str],
    formats: Sequence[str],
    options: OutputOptions | None = None,
) -> list[Path]:
    """Write every asked-for file of one picture, each whole or not at all.

    Args:
        depth: The map.
        picture: The photo it was made from; panels need it, point clouds are grey without it.
        stem_path: Folder and start of the file names; the folder is made where it is missing.
        formats: Names in `FORMATS`.
        options: How to write; default: `OutputOptions()`.

    Returns:
        Every file written, in the order of `formats`, a sidecar after its map.

    Raises:
        ConfigError: If a format is unknown.
        KindError: If a format cannot be made from this kind of depth, or a point cloud lacks a camera.
        ShapeError: If the photo is missing for a panel or differs in size.
        OutputError: If a file cannot be written.
        EmptyMaskError: If no point is left for a point cloud.
    """
    options = options or OutputOptions()
    check_formats(formats, depth.kind)
    written: list[Path] = []
    for name, path in zip(parse_formats(formats), output_paths(stem_path, formats), strict=True):
        if name in DEPTH_FORMATS:
            scale = {"scale": options.png16_scale} if name == "png16" and options.png16_scale is not None else {}
            written += write_depth(depth, path, name, **scale)
        elif name in ("ply", "glb"):
            written.append(_write_cloud(depth, picture, path, name, options))
        else:
            written.append(_write_colors(depth, picture, path, FORMATS[name].needs_picture, options))
    return written


def _write_cloud(depth: Depth, picture: Picture | None, path: Path, name: str, options: OutputOptions) -> Path:
    cloud = point_cloud(
        depth,
        picture.rgb if picture is not None else None,
        mesh=options.mesh,
        max_relative_jump=options.max_relative_jump,
    )
    return (write_ply if name == "ply" else write_glb)(cloud, path)


def _write_colors(depth: Depth, picture: Picture | None, path: Path, as_panel: bool, options: OutputOptions) -> Path:
    painted = colorize(depth, colormap=options.colormap, value_range=options.value_range)
    low, high = painted.value_range
    encoding = {"colormap": painted.colormap, "value_range": [low, high], "near": "warm or bright end"}
    if as_panel:
        if picture is None:
            raise ShapeError("A panel shows the photo beside the map; no photo was given. Give the picture.")
        rgb = side_by_side(picture.rgb, painted)
    else:
        rgb = with_legend(painted) if options.legend else painted.rgb
    return write_picture(rgb, path, metadata_text(depth, encoding))
