"""What the data doctor measures on pictures and maps; each check is a function of arrays or paths.

All of them are heuristics for telling a healthy folder from a broken one. The thresholds are in `fathom.data.doctor`,
beside the sentences they lead to.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Map = npt.NDArray[Any]

EDGE_WIDTH = 320
"""Pictures are brought to between this and a quarter more columns, at most, before their edges are compared."""
SPARSE_DENSITY = 0.3
"""Maps with a smaller share of valid pixels are treated as lidar: compared in cells of 8 pixels."""
_SEARCH = 10
"""Cells to every side in which the best shift is sought."""
_STRETCHES = (0.85, 0.88, 0.91, 0.94, 0.97, 1.03, 1.06, 1.09, 1.12, 1.15)
"""Sizes of the map against the picture that are tried; Kinect's depth against its colour camera is 585 / 525 = 1.11."""
_STRETCH_GAIN = 1.2
_FAR_STEP = 0.15
"""Relative jump of depth that counts as a full edge."""


@dataclass(frozen=True)
class MapStats:
    """Numbers about the stored values of one map."""

    valid: float
    zeros: float
    full: float
    nan: float
    infinite: float
    negative: float
    low: float
    median: float
    high: float
    largest: float
    smallest: float


def map_stats(stored: Map) -> MapStats:
    """Count what a map holds; `valid` leaves out 0, 65535 in 16 bits, negative and not finite numbers."""
    finite = np.isfinite(stored)
    top = stored.dtype == np.uint16
    mask = valid_pixels(stored)
    values = stored[mask].astype(np.float64)
    low, median, high = np.percentile(values, [1, 50, 99]) if values.size else (np.nan,) * 3
    size = stored.size
    return MapStats(
        float(mask.mean()),
        float((stored == 0).mean()),
        float((stored == 65535).mean()) if top else 0.0,
        float(np.isnan(stored).mean()) if stored.dtype.kind == "f" else 0.0,
        float((~finite).sum() / size) - (float(np.isnan(stored).mean()) if stored.dtype.kind == "f" else 0.0),
        float((stored < 0).mean()),
        float(low),
        float(median),
        float(high),
        float(values.max()) if values.size else np.nan,
        float(values.min()) if values.size else np.nan,
    )


def valid_pixels(stored: Map) -> npt.NDArray[np.bool_]:
    """Return where a stored number may be a depth."""
    mask = np.isfinite(stored) & (stored > 0)
    if stored.dtype == np.uint16:
        mask &= stored != 65535
    return mask


def row_trend(stored: Map) -> float:
    """Return the rank correlation of value and row, the median of eight vertical strips.

    In most pictures the lower rows show what is nearer: depth falls downwards (negative), inverse depth and disparity
    rise (positive). NaN where too few pixels are valid.

    Example:
        >>> bool(row_trend(np.repeat(np.arange(60.0, 0, -1)[:, None], 64, axis=1)) < -0.99)
        True
    """
    mask = valid_pixels(stored)
    rows = np.broadcast_to(np.arange(stored.shape[0], dtype=np.float64)[:, None], stored.shape)
    trends = []
    for strip in np.array_split(np.arange(stored.shape[1]), 8):
        inside = mask[:, strip]
        values = stored[:, strip][inside]
        if values.size < 50 or values.min() == values.max():
            continue
        step = max(1, values.size // 4000)
        ranks = np.argsort(np.argsort(values[::step], kind="stable")).astype(np.float64)
        trends.append(np.corrcoef(rows[:, strip][inside][::step], ranks)[0, 1])
    return float(np.median(trends)) if trends else float("nan")


# Edges of picture and map


@dataclass(frozen=True)
class EdgePair:
    """Edge strength of a picture and of its map on one grid, each with mean 0 and length 1."""

    image: Map
    depth: Map
    cell: int


def edge_pair(image: Map, stored: Map, *, larger_is_nearer: bool = False) -> EdgePair:
    """Return the edges of a picture and its map.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        stored: Map as stored, of the same shape (a map of another size is compared after nearest resizing).
        larger_is_nearer: What the numbers of the map mean.
    """
    if stored.shape != image.shape[:2]:
        rows = (np.arange(image.shape[0]) + 0.5) * (stored.shape[0] / image.shape[0])
        columns = (np.arange(image.shape[1]) + 0.5) * (stored.shape[1] / image.shape[1])
        stored = stored[rows.astype(np.intp)[:, None], columns.astype(np.intp)]
    mask = valid_pixels(stored)
    cell = max(1, -(-image.shape[1] // (EDGE_WIDTH * 5 // 4)))
    if mask.mean() < SPARSE_DENSITY:
        cell = max(cell, 8)
    cell = min(cell, *(size // 4 for size in image.shape[:2])) or 1
    grey = _blocks(image.astype(np.float32).mean(2), cell).mean((1, 3))
    # The nearest surface of each cell: a mean of foreground and background would be a surface that is not there.
    values = np.where(mask, stored, 1).astype(np.float32)
    near = _blocks(np.where(mask, 1 / values if larger_is_nearer else values, np.float32(np.inf)), cell).min((1, 3))
    known = np.isfinite(near)
    return EdgePair(_unit(_image_edges(grey)), _unit(_depth_edges(np.where(known, near, 1.0), known)), cell)


def _blocks(array: Map, cell: int) -> Map:
    height, width = (size // cell * cell for size in array.shape)
    return array[:height, :width].reshape(height // cell, cell, width // cell, cell)


def _image_edges(grey: Map) -> Map:
    strength = np.hypot(np.diff(grey, axis=1)[:-1], np.diff(grey, axis=0)[:, :-1])
    return np.asarray(np.minimum(strength / max(float(np.percentile(strength, 95)), 1e-6), 1))


def _depth_edges(values: Map, known: npt.NDArray[np.bool_]) -> Map:
    log = np.log(values)
    across = np.abs(np.diff(log, axis=1)) * (known[:, 1:] & known[:, :-1])
    down = np.abs(np.diff(log, axis=0)) * (known[1:] & known[:-1])
    return np.asarray(np.minimum(np.maximum(across[:-1], down[:, :-1]) / _FAR_STEP, 1))


def _unit(array: Map) -> Map:
    centred = array - array.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-9))


def _stack(pairs: Sequence[EdgePair]) -> tuple[Map, Map]:
    """Return edges of pictures and maps (N, h, w) without what all samples share, such as a horizon or a bonnet."""
    height, width = (min(pair.image.shape[axis] for pair in pairs) for axis in (0, 1))
    images = np.stack([_unit(pair.image[:height, :width]) for pair in pairs])
    depths = np.stack([_unit(pair.depth[:height, :width]) for pair in pairs])
    if len(pairs) >= 4:
        images, depths = images - images.mean(0), depths - depths.mean(0)
    return images, depths


def pairing_score(pairs: Sequence[EdgePair]) -> float:
    """Return how often a map fits its own picture better than those of other samples: 1 right, 0.5 chance.

    Args:
        pairs: At least 4 samples.
    """
    images, depths = (stack.reshape(len(pairs), -1) for stack in _stack(pairs))
    return own_rank(images @ depths.T)


def own_rank(scores: Map) -> float:
    """Return the mean rank of the diagonal among its row and column, 0..1, after centring rows and columns.

    Example:
        >>> own_rank(np.eye(4))
        1.0
    """
    centred = scores - scores.mean(0) - scores.mean(1)[:, None] + scores.mean()
    own = np.diag(centred)
    others = len(scores) - 1
    wins = (own[:, None] > centred).sum(1) + (own[None] > centred).sum(0)
    return float(wins.mean() / (2 * others))


def moved(pairs: Sequence[EdgePair], shift: "Shift") -> list[EdgePair]:
    """Return the edges with the maps brought to their pictures: shrunk about the middle, or moved by whole cells."""
    steps = round(shift.down_px / shift.cell), round(shift.right_px / shift.cell)
    result = []
    for pair in pairs:
        rows, columns = (_about_middle(size, 1 + shift.stretch) for size in pair.depth.shape)
        depth = pair.depth[rows[:, None], columns] if shift.stretch else np.roll(pair.depth, steps, (0, 1))
        result.append(EdgePair(pair.image, depth, pair.cell))
    return result


def mean_match(pairs: Sequence[EdgePair]) -> float:
    """Return the mean correlation of a picture's edges with those of its map."""
    images, depths = _stack(pairs)
    return float((images * depths).sum((1, 2)).mean())


@dataclass(frozen=True)
class Shift:
    """Where the edges of a map lie, against those of its picture.

    Args:
        down_px: Rows to move the map down by to fit [px].
        right_px: Columns to move the map right by to fit [px].
        gain: Correlation at that shift over the correlation as it is.
        contrast: Height of the best correlation above the mean of all shifts, in standard deviations.
        stretch: By how much the map is larger than the picture about its middle (0.1 = 10 %).
        cell: Resolution of the search [px].
    """

    down_px: float
    right_px: float
    gain: float
    contrast: float
    stretch: float
    cell: int


def registration(pairs: Sequence[EdgePair]) -> Shift:
    """Find the shift at which the edges of maps and pictures agree best."""
    images, depths = _stack(pairs)
    cell = pairs[0].cell
    surface = _correlation(images, depths)
    down, right = _peak(surface)
    here = surface[_SEARCH, _SEARCH]
    best = float(surface.max())
    contrast = (best - surface.mean()) / max(float(surface.std()), 1e-12)
    return Shift(
        down * cell, right * cell, best / max(float(here), 1e-9), contrast, _stretch(images, depths, best), cell
    )


def _stretch(images: Map, depths: Map, best: float) -> float:
    """Return the factor less 1 by which maps must shrink to fit clearly better than at any shift alone, else 0."""
    scores = {}
    for scale in _STRETCHES:
        rows, columns = (_about_middle(size, scale) for size in depths.shape[1:])
        scores[scale] = float(_correlation(images, depths[:, rows[:, None], columns]).max())
    scale = max(scores, key=lambda key: scores[key])
    return scale - 1.0 if scores[scale] > _STRETCH_GAIN * best else 0.0


def _about_middle(size: int, scale: float) -> npt.NDArray[np.intp]:
    """Return for each cell the one it takes when a map is shrunk by `scale` about its middle; edges repeat."""
    place = (np.arange(size) + 0.5 - size / 2) * scale + size / 2
    return np.asarray(np.clip(place, 0, size - 1), np.intp)


def _correlation(images: Map, depths: Map) -> Map:
    """Return the mean cross-correlation for shifts of up to `_SEARCH` cells, shape (2 S + 1, 2 S + 1)."""
    shape = tuple(max(2 * size, 2 * _SEARCH + 1) for size in images.shape[1:])
    total = np.zeros((2 * _SEARCH + 1,) * 2)
    for image, depth in zip(images, depths, strict=True):
        spectrum = np.fft.rfft2(_unit(image), s=shape) * np.conj(np.fft.rfft2(_unit(depth), s=shape))
        full = np.fft.irfft2(spectrum, s=shape)
        total += np.roll(full, (_SEARCH, _SEARCH), (0, 1))[: 2 * _SEARCH + 1, : 2 * _SEARCH + 1]
    return total / len(images)


def _peak(surface: Map) -> tuple[float, float]:
    """Return row and column of the maximum against the middle, refined by a parabola through its neighbours."""
    place = np.unravel_index(int(surface.argmax()), surface.shape)
    refined = []
    for axis in (0, 1):
        at, offset = int(place[axis]), 0.0
        if 0 < at < surface.shape[axis] - 1:
            line = surface[:, place[1]] if axis == 0 else surface[place[0]]
            before, peak, after = line[at - 1 : at + 2]
            bend = before - 2 * peak + after
            offset = 0.5 * (before - after) / bend if bend < 0 else 0.0
        refined.append(at - _SEARCH + float(offset))
    return refined[0], refined[1]


# Scale


@dataclass(frozen=True)
class ScaleGuess:
    """One reading of the stored numbers.

    Args:
        counts_per_metre: What they are divided by.
        share: How likely it is among the candidates, 0..1.
        source: Who stores depth so.
    """

    counts_per_metre: float
    share: float
    source: str


_CANDIDATES = (
    (1.0, "metres"),
    (1000.0, "millimetres (Kinect, RealSense, NYU exports)"),
    (256.0, "metres x 256 (KITTI)"),
    (5000.0, "metres x 5000 (TUM RGB-D)"),
    (100.0, "centimetres (Virtual KITTI)"),
    (65535 / 50.0, "0..50 m over 16 bits (iBims-1)"),
)
_TYPICAL = {
    "room": ((2.3, 0.5), (6.0, 0.45)),
    "street": ((12.0, 0.5), (65.0, 0.35)),
}
"""Median and 99th percentile of depth in rooms and streets: centre [m] and spread of the logarithm."""


def guess_scale(median: float, high: float, *, density: float, whole: bool, divisor: int) -> list[ScaleGuess]:
    """Rank the usual scales by how plausible rooms and streets come out.

    Args:
        median: Median of the stored numbers.
        high: Their 99th percentile.
        density: Share of valid pixels; a sparse map is taken for lidar.
        whole: Whether the numbers are counts.
        divisor: Greatest common divisor of the counts; 5 betrays millimetres that were multiplied by 5 (TUM).

    Returns:
        Candidates, the likeliest first; their shares sum to 1.

    Example:
        >>> guess_scale(2700, 9000, density=1.0, whole=True, divisor=1)[0].counts_per_metre
        1000.0
        >>> guess_scale(2400, 14000, density=0.05, whole=True, divisor=1)[0].counts_per_metre
        256.0
    """
    weights = []
    for per_metre, _ in _CANDIDATES:
        fits = []
        for place, ((middle, middle_spread), (far, far_spread)) in _TYPICAL.items():
            fit = -0.5 * (np.log(median / per_metre / middle) / middle_spread) ** 2
            fit -= 0.5 * (np.log(high / per_metre / far) / far_spread) ** 2
            fits.append(fit - (1.5 if place == "room" and density < SPARSE_DENSITY else 0.0))
        weight = max(fits)
        if per_metre == 1.0 and whole:
            weight -= 6.0  # whole metres would be a strange map
        elif per_metre in (100.0, 65535 / 50.0):
            weight -= 2.0
        elif per_metre == 256.0 and density >= SPARSE_DENSITY and whole:
            weight -= 1.0
        if per_metre == 5000.0:
            weight += 3.0 if divisor % 5 == 0 else -1.0
        elif not whole and per_metre not in (1.0, 100.0, 1000.0):
            weight -= 4.0
        weights.append(weight)
    shares = np.exp(np.array(weights) - max(weights))
    shares /= shares.sum()
    ranked = sorted(zip(shares, _CANDIDATES, strict=True), key=lambda item: -item[0])
    return [ScaleGuess(per_metre, float(share), source) for share, (per_metre, source) in ranked]


def common_divisor(maps: Sequence[Map]) -> int:
    """Return the greatest number that divides every count."""
    return int(np.gcd.reduce([int(np.gcd.reduce(np.unique(stored))) for stored in maps]))


_DISPARITY_FACTORS = (1, 2, 3, 4, 8, 16, 256)


def disparity_factor(left: Map, right: Map, stored: Map) -> int | None:
    """Find what a disparity map is multiplied by, from the two pictures it connects.

    Each left pixel must look like the right pixel that is ``stored / factor`` further left.

    Args:
        left: RGB, shape (H, W, 3).
        right: RGB of the same size.
        stored: Disparity map of the left picture, shape (H, W).

    Returns:
        The factor whose colour error is at most 0.8 of the next best one's; None if there is none.
    """
    mask = valid_pixels(stored)
    rows, columns = np.nonzero(mask)
    if not rows.size or left.shape != right.shape:
        return None
    own = left[rows, columns].astype(np.float32)
    errors = {}
    for factor in _DISPARITY_FACTORS:
        match = np.round(columns - stored[rows, columns] / factor).astype(np.int64)
        inside = match >= 0
        if inside.mean() < 0.5:
            continue
        seen = right[rows[inside], match[inside]].astype(np.float32)
        errors[factor] = float(np.abs(own[inside] - seen).mean())
    if len(errors) < 2:
        return None
    best, second = sorted(errors, key=lambda factor: errors[factor])[:2]
    return best if errors[best] < 0.8 * errors[second] else None


# Duplicates and leakage


def exact_duplicates(paths: Sequence[Path]) -> list[list[Path]]:
    """Group files with the same bytes; only files of equal size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        by_size[path.stat().st_size].append(path)
    by_content: dict[bytes, list[Path]] = defaultdict(list)
    for same in by_size.values():
        if len(same) > 1:
            for path in same:
                by_content[hashlib.blake2b(path.read_bytes(), digest_size=16).digest()].append(path)
    return [group for group in by_content.values() if len(group) > 1]


def difference_hash(path: Path) -> int:
    """Return 64 bits that survive recompression and resizing: whether each block is brighter than its left one.

    Reference:
        Krawetz, "Kind of Like That" (dHash), 2013.
    """
    with Image.open(path) as image:
        image.draft("L", (72, 64))  # JPEG decodes at an eighth of the size
        grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def hash_distances(first: Sequence[int], second: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the number of differing bits of every pair, shape (N, M)."""
    a, b = (np.unpackbits(np.array(hashes, ">u8").view(np.uint8).reshape(-1, 8), axis=1) for hashes in (first, second))
    a, b = a.astype(np.float32), b.astype(np.float32)
    return np.rint(a @ (1 - b).T + (1 - a) @ b.T).astype(np.int64)


def is_flat(code: int) -> bool:
    """Return whether a hash says too little: a picture without structure resembles every other."""
    return not 8 <= code.bit_count() <= 56
