"""The doctor's look at pictures with depth maps: what the numbers are, and whether each map fits its picture."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fathom.data import doctor_checks as checks
from fathom.data.doctor_report import Report, names_of, spread
from fathom.data.doctor_scan import Scan
from fathom.data.doctor_sheet import overlay, paint_map
from fathom.data.stored import read_stored
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import DepthKind

MIN_FOR_PAIRING = 6
MAX_STEREO = 12
"""Folders with two views whose disparity is measured."""

# Thresholds, from healthy sets (NYU, KITTI-360, 7-Scenes, Middlebury) and the same sets broken on purpose.
_TREND = 0.2
"""Rank correlation of value and row beyond which near and far are told apart; healthy sets have 0.55 to 0.84."""
_PAIRED, _DOUBTFUL = 0.75, 0.85
"""Share of comparisons that the own picture wins; healthy sets have 0.95 or more, shuffled ones 0.5."""
_SHIFT_PX = 2.5
_GAIN, _GAIN_IF_DOUBTFUL = 1.15, 1.4
_CONTRAST = 3.5

_Image = npt.NDArray[np.uint8]


def examine_depth(report: Report, found: Scan, max_samples: int) -> None:
    """Open samples of the pairs, and report values, kind, scale, pairing and registration."""
    chosen = spread(len(found.pairs), max_samples)
    images, maps, opened_pairs = [], [], []
    misfits: list[Path] = []
    for index in chosen:
        opened = open_pair(found, *found.pairs[index])
        if opened is None:
            continue
        opened_pairs.append(index)
        images.append(opened[0])
        maps.append(opened[1])
        if opened[1].shape != opened[0].shape[:2]:
            misfits.append(found.pairs[index][1])
    chosen = opened_pairs
    if not maps:
        return
    stats = [checks.map_stats(stored) for stored in maps]
    report.sizes = dict(Counter(f"{image.shape[1]} x {image.shape[0]}" for image in images).most_common())
    if misfits:
        report.add(
            "error",
            "size-misfit",
            f"{len(misfits)} of {len(chosen)} maps differ in size from their picture "
            f"({names_of(misfits, report.root)}): "
            "a resized map may be interpolated across edges and holes.",
        )
    _report_values(report, maps, stats)
    _decide_kind(report, found, maps, stats)
    nearer = report.kind is not None and report.kind.larger_is_nearer
    edges = [
        checks.edge_pair(image, stored, larger_is_nearer=nearer) for image, stored in zip(images, maps, strict=True)
    ]
    _report_match(report, found, chosen, images, edges)
    _fill_histogram(report, maps)
    for index in spread(len(chosen), 6):
        image, stored, stat = images[index], maps[index], stats[index]
        caption = found.pairs[chosen[index]][0].relative_to(report.root).as_posix()
        caption += f"    stored {stat.low:.4g} to {stat.high:.4g}, {stat.valid:.0%} valid"
        pictures = [image, paint_map(stored, nearer)]
        if stored.shape == image.shape[:2]:
            pictures.append(overlay(image, stored, nearer))
        report.sheet.append((caption, pictures))


def open_pair(found: Scan, picture: Path, path: Path) -> tuple[_Image, checks.Map] | None:
    """Read a picture and its map; a damaged file is noted in `found.unreadable`."""
    try:
        image = read_image(picture).rgb
    except InputError:
        found.unreadable.append(picture)
        return None
    try:
        return image, read_stored(path)
    except InputError:
        found.unreadable.append(path)
        return None


def _report_values(report: Report, maps: list[checks.Map], stats: list[checks.MapStats]) -> None:
    mean = {
        key: float(np.mean([getattr(s, key) for s in stats]))
        for key in ("valid", "zeros", "full", "nan", "infinite", "negative")
    }
    dtypes = Counter(str(stored.dtype) for stored in maps)
    report.stored = {"type": dict(dtypes), "shares": mean}
    if len(dtypes) > 1:
        report.add("error", "mixed-types", f"The maps are stored in different types: {dict(dtypes)}. Unify them.")
    filled = [s for s in stats if s.valid]
    for key, what in (("nan", "NaN"), ("infinite", "infinite"), ("negative", "negative"), ("full", "65535")):
        if mean[key] > 0:
            report.add("note", key, f"{mean[key]:.1%} of pixels are {what}; they are read as invalid.")
    if mean["zeros"] > 0:
        report.add("note", "zeros", f"{mean['zeros']:.1%} of pixels are 0, read as holes.")
    if not filled:
        report.add("error", "empty-maps", "No sampled map holds a valid pixel.")
        return
    if len(filled) < len(stats):
        report.add("warning", "empty-maps", f"{len(stats) - len(filled)} of {len(stats)} sampled maps are empty.")
    for key in ("low", "median", "high"):
        report.stored[key] = float(np.median([getattr(s, key) for s in filled]))
    report.stored["smallest"] = min(s.smallest for s in filled)
    top = report.stored["largest"] = max(s.largest for s in filled)
    capped = float(np.mean([(stored == top).mean() for stored in maps]))
    if capped > 0.005:
        report.add(
            "warning", "capped", f"{capped:.1%} of pixels have the largest value {top:g}: a cap or a marker of the sky."
        )
    levels = len(np.unique(np.concatenate([np.unique(stored) for stored in maps])))
    if maps[0].dtype != np.uint8 and levels <= 257:
        report.add(
            "warning", "quantised", f"Only {levels} different values: the maps come from 8 bits. Normals show steps."
        )
    stretched = len(maps) >= 3 and maps[0].dtype.kind in "uf" and len({(s.smallest, s.largest) for s in stats}) == 1
    if stretched and stats[0].largest in (1.0, 255.0, 65535.0, 65534.0):
        report.add(
            "error",
            "stretched",
            "Every map spans exactly the same range: each was stretched to its own minimum and maximum, and the true "
            "scale is lost.",
        )


def _decide_kind(report: Report, found: Scan, maps: list[checks.Map], stats: list[checks.MapStats]) -> None:
    trends = [trend for stored in maps if np.isfinite(trend := checks.row_trend(stored))]
    trend = float(np.mean(trends)) if trends else 0.0
    agree = float(np.mean([t > 0 for t in trends])) if trends else 0.5
    report.stored["row_trend"] = trend
    names = {part.lower() for _, path in found.pairs for part in (path.stem, path.parent.name)}
    named_disparity = any("disp" in name or "inv" in name for name in names)
    eight_bits = maps[0].dtype == np.uint8
    nearer = trend > _TREND and agree > 0.7
    if abs(trend) <= _TREND:
        nearer = named_disparity
        report.add(
            "note",
            "direction-unclear",
            "Values neither rise nor fall towards the bottom of the pictures, so whether larger means nearer could not "
            f"be told; taken from the names: {'nearer' if nearer else 'farther'}.",
        )
    if nearer:
        _read_as_disparity(report, found, named_disparity, eight_bits)
        return
    if named_disparity:
        report.add(
            "warning", "inverted", "Named like disparity, but larger values are farther away: this looks like depth."
        )
    if eight_bits:
        report.kind = DepthKind.SCALE_INVARIANT_DEPTH
        report.add(
            "warning",
            "eight-bits",
            "8-bit maps hold 256 steps and no known unit: this is not metric depth. Look for 16-bit PNG or floats.",
        )
        return
    report.kind = DepthKind.METRIC_DEPTH
    if "median" not in report.stored:
        return
    median, high = report.stored["median"], report.stored["high"]
    whole = maps[0].dtype.kind in "ui"
    divisor = checks.common_divisor(maps) if whole else 1
    density = float(np.mean([s.valid for s in stats]))
    report.scales = checks.guess_scale(median, high, density=density, whole=whole, divisor=divisor)
    best, second = report.scales[:2]
    sure = "clearly" if best.share > 0.9 else "probably" if best.share > 0.6 else "perhaps"
    per_metre = best.counts_per_metre
    report.add(
        "note" if best.share > 0.6 else "warning",
        "scale",
        f"The stored numbers are {sure} {best.source}: divided by {per_metre:g} the median depth is "
        f"{median / per_metre:.2f} m and 99 % lie below {high / per_metre:.1f} m. Next reading: divide by "
        f"{second.counts_per_metre:g} ({second.share:.0%}). Measure one known distance to be certain.",
    )
    if whole and divisor % 8 == 0 and divisor > 0:
        report.add(
            "warning",
            "rotated-bits",
            f"Every number is a multiple of {divisor}: SUN RGB-D stores millimetres with their bits rotated by 3. If "
            "this is SUN RGB-D, read it with the dataset 'sun-rgbd'.",
        )


def _read_as_disparity(report: Report, found: Scan, named_disparity: bool, eight_bits: bool) -> None:
    factors = _stereo_factors(found)
    if factors:
        report.kind = DepthKind.DISPARITY
        report.stored["disparity_factors"] = {folder.name: factor for folder, factor in factors.items()}
        counted = Counter(factors.values()).most_common()
        which = " or ".join(f"{factor} ({count} folders)" for factor, count in counted)
        report.add(
            "warning",
            "disparity",
            f"Disparity, not depth: moving a picture by the stored numbers / {which} gives the other view. Metric "
            "depth needs the focal length and the baseline.",
        )
    elif named_disparity or eight_bits:
        report.kind = DepthKind.DISPARITY if named_disparity else DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        report.add(
            "warning",
            "disparity",
            "Disparity or inverse depth, not metric depth: larger values are nearer. What the numbers are multiplied "
            "by could not be measured without the second picture (Middlebury: 4 for 2003, 3 for third-size 2005/6).",
        )
    else:
        report.kind = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
        report.add(
            "error",
            "inverted",
            "Named like depth, but larger values are nearer: this is inverse depth, disparity or flipped depth. "
            "Read as depth, near and far would be swapped.",
        )


def _stereo_factors(found: Scan) -> dict[Path, int]:
    """Measure the factor of disparity maps in each folder that holds two pictures and two maps."""
    by_folder: dict[Path, list[tuple[Path, Path]]] = {}
    for image, stored in found.pairs:
        by_folder.setdefault(image.parent, []).append((image, stored))
    factors = {}
    scenes = [(folder, sorted(pairs)) for folder, pairs in by_folder.items() if len(pairs) == 2]
    for folder, ((left, stored), (right, _)) in scenes[:MAX_STEREO]:
        best = checks.disparity_factor(read_image(left).rgb, read_image(right).rgb, read_stored(stored))
        if best is not None:
            factors[folder] = best
    return factors


def _report_match(
    report: Report,
    found: Scan,
    chosen: list[int],
    images: list[_Image],
    edges: list[checks.EdgePair],
) -> None:
    """Check that maps belong to their pictures and lie where they should."""
    shift = report.registration = checks.registration(edges)
    limit = max(_SHIFT_PX, 0.9 * shift.cell)
    is_moved = float(np.hypot(shift.down_px, shift.right_px)) > limit or shift.stretch != 0
    if len(edges) >= MIN_FOR_PAIRING:
        # A map that belongs to its picture but lies beside it fits once it is brought back.
        candidates = [edges, checks.moved(edges, shift)] if is_moved else [edges]
        report.pairing = max(checks.pairing_score(candidate) for candidate in candidates)
        if report.pairing < _PAIRED:
            lag = _lag(report, found, chosen, images, edges)
            cure = (
                f"The map {abs(lag)} file(s) {'later' if lag > 0 else 'earlier'} fits better: lists out of step."
                if lag
                else "The names do not say which belong together, or the maps were renamed."
            )
            report.add(
                "error",
                "wrong-pairing",
                f"Maps do not fit their pictures better than those of other samples ({report.pairing:.0%}; right is "
                f"95 % or more, chance is 50 %). {cure}",
            )
            return
        if report.pairing < _DOUBTFUL:
            report.add(
                "warning",
                "doubtful-pairing",
                f"Maps fit their own picture in only {report.pairing:.0%} of comparisons. Look at the contact sheet.",
            )
        elif lag := _lag(report, found, chosen, images, edges):
            report.add(
                "error",
                "wrong-pairing",
                f"The map {abs(lag)} file(s) {'later' if lag > 0 else 'earlier'} fits the pictures better.",
            )
            return
    if shift.stretch:
        report.add(
            "error",
            "misregistered",
            f"Depth is not registered to the picture: it appears {abs(shift.stretch):.0%} "
            f"{'larger' if shift.stretch > 0 else 'smaller'}, as when it was taken by another camera.",
        )
        return
    doubtful = report.pairing is not None and report.pairing < _DOUBTFUL
    if is_moved and shift.gain > (_GAIN_IF_DOUBTFUL if doubtful else _GAIN) and shift.contrast > _CONTRAST:
        report.add(
            "error",
            "misregistered",
            f"Depth is not registered to the picture: its edges fit best when it is moved by {shift.right_px:+.0f} "
            f"columns and {shift.down_px:+.0f} rows (found to {shift.cell} px).",
        )


def _lag(report: Report, found: Scan, chosen: list[int], images: list[_Image], edges: list[checks.EdgePair]) -> int:
    """Return by how many files maps run behind their pictures, 0 where none fits clearly better."""
    own = checks.mean_match(edges)
    best, lag = own, 0
    nearer = report.kind is not None and report.kind.larger_is_nearer
    for step in (-3, -2, -1, 1, 2, 3):
        moved = [
            checks.edge_pair(image, read_stored(found.pairs[index + step][1]), larger_is_nearer=nearer)
            for index, image in list(zip(chosen, images, strict=True))[:16]
            if 0 <= index + step < len(found.pairs)
        ]
        if len(moved) >= MIN_FOR_PAIRING and (match := checks.mean_match(moved)) > best:
            best, lag = match, step
    return lag if best > 1.25 * max(own, 0.02) else 0


def _fill_histogram(report: Report, maps: list[checks.Map]) -> None:
    per_unit = report.scales[0].counts_per_metre if report.scales else 1.0
    values = (
        np.concatenate([stored[checks.valid_pixels(stored)][::37] for stored in maps]).astype(np.float64) / per_unit
    )
    if not values.size:
        return
    low, high = np.percentile(values, [0.1, 99.9])
    edges = np.geomspace(max(low, high * 1e-4), high * (1 + 1e-6), 21) if high > low else np.array([low, low + 1])
    shares = np.histogram(values, edges)[0] / values.size
    report.histogram = {"edges": [round(float(e), 4) for e in edges], "shares": [round(float(s), 4) for s in shares]}
