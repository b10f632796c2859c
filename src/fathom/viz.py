"""Depth as colours: near is warm or bright whatever the kind, and a pixel without depth is never a colour of the map.

Colours are for looking at; they cannot be turned back into depth. No plotting library is needed: the colour maps are
small tables.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fathom.errors import ConfigError, EmptyMaskError, ShapeError
from fathom.types import BoolMap, Depth, DepthKind

RgbImage = npt.NDArray[np.uint8]

COLORMAPS = ("turbo", "magma", "spectral", "gray")
"""Names of the colour maps; each runs from far (cold or dark) to near (warm or bright)."""
DEFAULT_COLORMAP = "turbo"

_NEUTRAL_RGB = (128, 128, 128)
_NEUTRAL_RGB_FOR_GRAY = (62, 84, 112)
"""Colours of pixels without depth: grey, which no colourful map contains, and a muted blue beside the grey map."""

_RANGE_PERCENTILES = (1.0, 99.0)
_NUM_SAMPLED = 100_000
"""Pixels looked at to find the range of a picture; a percentile needs no more."""

_LEGEND_MIN_HEIGHT = 120
_PANEL_GAP = 8
_NUM_TICKS = 5

_LABELS = {
    DepthKind.METRIC_DEPTH: "depth [m]",
    DepthKind.INVERSE_DEPTH: "1/depth [1/m]",
    DepthKind.SCALE_INVARIANT_DEPTH: "depth, no scale",
    DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH: "nearness, no unit",
    DepthKind.DISPARITY: "disparity [px]",
}

# Turbo: Anton Mikhailov, Google, 2019, Apache-2.0
# (research.google/blog/turbo-an-improved-rainbow-colormap-for-visualization).
_TURBO = bytes.fromhex(
    "30123b32154333184a341b51351e5836215f37246638276d392a733a2d793b2f803c32863d358b3e38913f3b973f3e9c"
    "4040a24143a74146ac4249b1424bb5434eba4451bf4454c34456c74559cb455ccf455ed34661d64664da4666dd4669e0"
    "466be3476ee64771e94773eb4776ee4778f0477bf2467df44680f64682f84685fa4687fb458afc458cfd448ffe4391fe"
    "4294ff4196ff4099ff3e9bfe3d9efe3ba0fd3aa3fc38a5fb37a8fa35abf833adf731aff52fb2f42eb4f22cb7f02ab9ee"
    "28bceb27bee925c0e723c3e422c5e220c7df1fc9dd1ecbda1ccdd81bd0d51ad2d21ad4d019d5cd18d7ca18d9c818dbc5"
    "18ddc218dec018e0bd19e2bb19e3b91ae4b61ce6b41de7b21fe9af20eaac22ebaa25eca727eea42aefa12cf09e2ff19b"
    "32f29835f39438f4913cf58e3ff68a43f78746f8844af8804ef97d52fa7a55fa7659fb735dfc6f61fc6c65fd6969fd66"
    "6dfe6271fe5f75fe5c79fe597dff5680ff5384ff5188ff4e8bff4b8fff4992ff4796fe4499fe429cfe409ffd3fa1fd3d"
    "a4fc3ca7fc3aa9fb39acfb38affa37b1f936b4f836b7f735b9f635bcf534bef434c1f334c3f134c6f034c8ef34cbed34"
    "cdec34d0ea34d2e935d4e735d7e535d9e436dbe236dde037dfdf37e1dd37e3db38e5d938e7d739e9d539ebd339ecd13a"
    "eecf3aefcd3af1cb3af2c93af4c73af5c53af6c33af7c13af8be39f9bc39faba39fbb838fbb637fcb336fcb136fdae35"
    "fdac34fea933fea732fea431fea130fe9e2ffe9b2dfe992cfe962bfe932afe9029fd8d27fd8a26fc8725fc8423fb8122"
    "fb7e21fa7b1ff9781ef9751df8721cf76f1af66c19f56918f46617f36315f26014f15d13f05b12ef5811ed5510ec530f"
    "eb500eea4e0de84b0ce7490ce5470be4450ae2430ae14109df3f08dd3d08dc3b07da3907d83706d63506d43305d23105"
    "d02f05ce2d04cc2b04ca2a04c82803c52603c32503c12302be2102bc2002b91e02b71d02b41b01b21a01af1801ac1701"
    "a91601a71401a41301a112019e10019b0f01980e01950d01920b018e0a018b09028808028507028106027e05027a0403"
)

# Magma: Nathaniel Smith and Stefan van der Walt, 2015, CC0 (bids.github.io/colormap).
_MAGMA = bytes.fromhex(
    "00000401000501010601010802010902020b02020d03030f03031204041405041606051806051a07061c08071e090720"
    "0a08220b09240c09260d0a290e0b2b100b2d110c2f120d31130d34140e36150e38160f3b180f3d19103f1a10421c1044"
    "1d11471e114920114b21114e22115024125325125527125829115a2a115c2c115f2d11612f1163311165331067341069"
    "36106b38106c390f6e3b0f703d0f713f0f72400f74420f75440f764510774710784910784a10794c117a4e117b4f127b"
    "51127c52137c54137d56147d57157e59157e5a167e5c167f5d177f5f187f601880621980641a80651a80671b80681c81"
    "6a1c816b1d816d1d816e1e81701f81721f817320817521817621817822817922827b23827c23827e2482802582812581"
    "8326818426818627818827818928818b29818c29818e2a81902a81912b81932b80942c80962c80982d80992d809b2e7f"
    "9c2e7f9e2f7fa02f7fa1307ea3307ea5317ea6317da8327daa337dab337cad347cae347bb0357bb2357bb3367ab5367a"
    "b73779b83779ba3878bc3978bd3977bf3a77c03a76c23b75c43c75c53c74c73d73c83e73ca3e72cc3f71cd4071cf4070"
    "d0416fd2426fd3436ed5446dd6456cd8456cd9466bdb476adc4869de4968df4a68e04c67e24d66e34e65e44f64e55064"
    "e75263e85362e95462ea5661eb5760ec5860ed5a5fee5b5eef5d5ef05f5ef1605df2625df2645cf3655cf4675cf4695c"
    "f56b5cf66c5cf66e5cf7705cf7725cf8745cf8765cf9785df9795df97b5dfa7d5efa7f5efa815ffb835ffb8560fb8761"
    "fc8961fc8a62fc8c63fc8e64fc9065fd9266fd9467fd9668fd9869fd9a6afd9b6bfe9d6cfe9f6dfea16efea36ffea571"
    "fea772fea973feaa74feac76feae77feb078feb27afeb47bfeb67cfeb77efeb97ffebb81febd82febf84fec185fec287"
    "fec488fec68afec88cfeca8dfecc8ffecd90fecf92fed194fed395fed597fed799fed89afdda9cfddc9efddea0fde0a1"
    "fde2a3fde3a5fde5a7fde7a9fde9aafdebacfcecaefceeb0fcf0b2fcf2b4fcf4b6fcf6b8fcf7b9fcf9bbfcfbbdfcfdbf"
)

# Spectral, 11 classes from blue to red: Cynthia Brewer, Mark Harrower, Penn State, 2002, Apache-2.0 (colorbrewer2.org).
_SPECTRAL_11 = bytes.fromhex("5e4fa23288bd66c2a5abdda4e6f598ffffbffee08bfdae61f46d43d53e4f9e0142")


@dataclass(frozen=True, eq=False)
class ColorPicture:
    """A map as colours, and what the colours mean.

    Args:
        rgb: The picture, uint8, shape (H, W, 3).
        value_range: Values of the two ends of the colour map, smaller first, in the unit of the map. Values beyond are
            shown as the end they exceed.
        colormap: Name of the colour map.
        label: What the values are, with their unit; the title of the legend.
        high_is_top: Whether the upper end of the colour map (warm, bright) is the larger value.
    """

    rgb: RgbImage
    value_range: tuple[float, float]
    colormap: str
    label: str
    high_is_top: bool


def colormap_table(name: str) -> RgbImage:
    """Return the colours of a map from far to near, uint8, shape (256, 3).

    Raises:
        ConfigError: If there is no map of that name.

    Example:
        >>> colormap_table("gray")[[0, 255]].tolist()
        [[0, 0, 0], [255, 255, 255]]
    """
    if name not in COLORMAPS:
        raise ConfigError(f"Expected one of the colour maps {', '.join(COLORMAPS)}; got {name!r}. Choose one of them.")
    return _table(name)


@cache
def _table(name: str) -> RgbImage:
    match name:
        case "turbo":
            table = np.frombuffer(_TURBO, np.uint8).reshape(256, 3)
        case "magma":
            table = np.frombuffer(_MAGMA, np.uint8).reshape(256, 3)
        case "spectral":
            anchors = np.frombuffer(_SPECTRAL_11, np.uint8).reshape(11, 3)
            steps = np.linspace(0, 10, 256)
            columns = [np.interp(steps, np.arange(11), anchors[:, channel]) for channel in range(3)]
            table = np.rint(np.stack(columns, axis=1)).astype(np.uint8)
        case _:
            table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    table.setflags(write=False)
    return table


def display_range(depth: Depth) -> tuple[float, float]:
    """Return the range of values that a picture of this map shows: the 1st to the 99th percentile of valid pixels.

    Large maps are sampled on a regular grid, so the same map always gives the same range. Without any valid pixel it
    is (0, 1).

    Example:
        >>> display_range(Depth(np.array([[1.0, 1.0, 5.0, 5.0]]), DepthKind.METRIC_DEPTH))
        (1.0, 5.0)
    """
    step = max(1, math.isqrt(depth.values.size // _NUM_SAMPLED))
    valid = depth.values[::step, ::step][depth.valid_mask[::step, ::step]]
    if valid.size == 0:
        valid = depth.values[depth.valid_mask]
    if valid.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(valid, _RANGE_PERCENTILES)
    return float(low), float(high)


def colorize(
    depth: Depth, *, colormap: str = DEFAULT_COLORMAP, value_range: tuple[float, float] | None = None
) -> ColorPicture:
    """Paint a depth map: near is warm (turbo, spectral) or bright (magma, gray), whatever the kind.

    Args:
        depth: The map.
        colormap: A name in `COLORMAPS`.
        value_range: Values of the two ends in the unit of the map, for pictures that are to be compared; default: see
            `display_range`.

    Returns:
        The picture with the range that was used. Pixels without depth have a neutral colour.

    Raises:
        ConfigError: If the colour map is unknown, or the range is not two finite numbers, the smaller first.

    Example:
        >>> depth = Depth(np.array([[1.0, 9.0, np.nan]]), DepthKind.METRIC_DEPTH)
        >>> picture = colorize(depth, colormap="gray", value_range=(1.0, 9.0))
        >>> picture.rgb[0].tolist()
        [[255, 255, 255], [0, 0, 0], [62, 84, 112]]
    """
    low, high = _checked_range(value_range) if value_range is not None else display_range(depth)
    rgb = _paint(depth.values, depth.valid_mask, (low, high), colormap, high_is_top=depth.larger_is_nearer)
    return ColorPicture(rgb, (low, high), colormap, _LABELS[depth.kind], depth.larger_is_nearer)


def error_map(
    pred: npt.NDArray[np.floating],
    target: npt.NDArray[np.floating],
    valid_mask: BoolMap,
    *,
    max_error: float | None = None,
    unit: str = "m",
) -> ColorPicture:
    """Paint the absolute error ``|pred - target|``: dark where it is small, bright where it is large (magma).

    Args:
        pred: Prediction, shape (H, W), aligned to the unit of `target`.
        target: Target, shape (H, W).
        valid_mask: Pixels to paint, shape (H, W); True = use. The others are grey.
        max_error: Error of the brightest colour, in the unit of the maps; default: the 99th percentile.
        unit: Unit of the maps, for the legend.

    Returns:
        The picture with its range (0, max_error).

    Raises:
        ShapeError: If the three arrays do not share one (H, W).
        EmptyMaskError: If no pixel is valid and `max_error` is not given.
        ConfigError: If `max_error` is not positive.

    Example:
        >>> picture = error_map(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]), np.array([[True, True]]), max_error=2.0)
        >>> picture.rgb[0].tolist()
        [[0, 0, 4], [252, 253, 191]]
    """
    if pred.ndim != 2 or not pred.shape == target.shape == valid_mask.shape:
        raise ShapeError(
            f"`pred`, `target` and `valid_mask` must share one shape (H, W); got {pred.shape}, {target.shape} and "
            f"{valid_mask.shape}. Resize the prediction to the target."
        )
    error = np.abs(np.subtract(pred, target, dtype=np.float64), where=valid_mask, out=np.zeros(pred.shape))
    if max_error is None:
        if not valid_mask.any():
            raise EmptyMaskError("The range of an error map needs a valid pixel; none is. Give max_error.")
        max_error = float(np.percentile(error[valid_mask], _RANGE_PERCENTILES[1])) or 1.0
    value_range = _checked_range((0.0, max_error))
    rgb = _paint(error, valid_mask, value_range, "magma", high_is_top=True)
    return ColorPicture(rgb, value_range, "magma", f"error [{unit}]" if unit else "error", True)


def _checked_range(value_range: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(value) for value in value_range)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"A colour range must be two finite numbers, the smaller first; got {low:g} and {high:g}. Change them."
        )
    return low, high


def _paint(
    values: npt.NDArray[np.floating],
    valid_mask: BoolMap,
    value_range: tuple[float, float],
    colormap: str,
    *,
    high_is_top: bool,
) -> RgbImage:
    table = colormap_table(colormap)
    low, high = value_range
    start, stop = (low, high) if high_is_top else (high, low)
    # A flat map gets the middle of the colour map.
    step = 255.0 / (stop - start) if stop != start else 0.0
    shown = np.where(valid_mask, values, np.float32(start))
    # float64, because two ends that fit float32 may be further apart than it reaches.
    level = np.clip(np.subtract(shown, start, dtype=np.float64) * step, 0, 255) if step else np.full(shown.shape, 127.5)
    rgb = table[(level + 0.5).astype(np.uint8)]
    if not valid_mask.all():
        rgb[~valid_mask] = _NEUTRAL_RGB_FOR_GRAY if colormap == "gray" else _NEUTRAL_RGB
    return rgb


def with_legend(picture: ColorPicture) -> RgbImage:
    """Return the picture with a legend at its right: a bar with five values and what they are.

    The warm or bright end is at the top. A picture lower than 120 pixels gets white space below.

    Returns:
        RGB, uint8, shape (H', W', 3), with the picture unchanged at the top left.
    """
    height = max(picture.rgb.shape[0], _LEGEND_MIN_HEIGHT)
    font = ImageFont.load_default(size=max(10.0, round(height / 36)))
    line = int(font.getbbox("0g")[3])
    low, high = picture.value_range
    top, bottom = (high, low) if picture.high_is_top else (low, high)
    ticks = [f"{value:.3g}" for value in np.linspace(top, bottom, _NUM_TICKS)]
    margin, bar_width = line // 2 + 2, line
    text_width = max(int(font.getlength(text)) for text in ticks)
    strip_width = 2 * margin + max(int(font.getlength(picture.label)) + 1, bar_width + margin + text_width)
    strip = Image.new("RGB", (strip_width, height), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((margin, margin), picture.label, "black", font)
    first, last = margin + 2 * line, height - margin - line // 2 - 1
    bar = colormap_table(picture.colormap)[np.linspace(255, 0, last - first + 1).round().astype(int)]
    strip.paste(Image.fromarray(np.repeat(bar[:, None], bar_width, axis=1)), (margin, first))
    draw.rectangle((margin - 1, first - 1, margin + bar_width, last + 1), outline="black")
    for text, y in zip(ticks, np.linspace(first, last, _NUM_TICKS), strict=True):
        draw.line((margin + bar_width, int(y), margin + bar_width + margin // 2, int(y)), "black")
        draw.text((2 * margin + bar_width, int(y)), text, "black", font, anchor="lm")
    canvas = np.full((height, picture.rgb.shape[1] + strip_width, 3), 255, np.uint8)
    canvas[: picture.rgb.shape[0], : picture.rgb.shape[1]] = picture.rgb
    canvas[:, picture.rgb.shape[1] :] = np.asarray(strip)
    return canvas


def side_by_side(rgb: RgbImage, picture: ColorPicture) -> RgbImage:
    """Return the photo, the painted map and its legend beside each other on white.

    Args:
        rgb: The photo, uint8, shape (H, W, 3).
        picture: The painted map of the same height and width.

    Returns:
        RGB, uint8, shape (H', W', 3).

    Raises:
        ShapeError: If photo and map differ in size.
    """
    if rgb.shape != picture.rgb.shape:
        raise ShapeError(
            f"Photo and depth map must have the same size; got {rgb.shape[:2]} and {picture.rgb.shape[:2]}. Resize one."
        )
    right = with_legend(picture)
    canvas = np.full((right.shape[0], rgb.shape[1] + _PANEL_GAP + right.shape[1], 3), 255, np.uint8)
    canvas[: rgb.shape[0], : rgb.shape[1]] = rgb
    canvas[:, rgb.shape[1] + _PANEL_GAP :] = right
    return canvas
