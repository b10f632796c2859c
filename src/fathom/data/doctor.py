"""The data doctor: looks at any folder and says what it holds, what is wrong, and how to read it.

    report = diagnose("~/my_depth_photos")
    report.write("checked")          # dataset.yaml, report.json, contact_sheet.png

The scale of depth cannot be read from the files; the doctor guesses it from what rooms and streets look like, says how
sure it is, and names the alternatives.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fathom.data import doctor_checks as checks
from fathom.data.doctor_depth import examine_depth, open_pair
from fathom.data.doctor_report import Finding as Finding
from fathom.data.doctor_report import Report as Report
from fathom.data.doctor_report import names_of, spread
from fathom.data.doctor_scan import Scan, pattern_of, scan
from fathom.data.doctor_sheet import paint_labels
from fathom.data.folder import match_files
from fathom.errors import InputError

MAX_SAMPLES = 32
"""Pairs that are opened; evenly spread over the folder."""
MAX_HASHED = 2000
"""Pictures that are compared with each other for likeness."""

_LIKE_BITS, _NEIGHBOUR_BITS = 2, 10
"""Differing bits of 64 up to which two pictures are the same, or neighbours of one video."""


def diagnose(path: str | Path, *, max_samples: int = MAX_SAMPLES) -> Report:
    """Look at a folder.

    Args:
        path: Any folder with pictures and depth maps, or pictures and labels.
        max_samples: Pairs to open.

    Returns:
        What was found; nothing is written.

    Raises:
        InputError: If it is not a folder, or holds no picture.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"Expected a folder with pictures and depth maps; '{path}' is not a folder.")
    found = scan(root)
    report = Report(root, len(found.pairs), len(found.label_pairs))
    _report_files(report, found)
    if found.pairs:
        examine_depth(report, found, max_samples)
    elif found.label_pairs:
        _examine_labels(report, found, max_samples)
    elif not found.images_without_map:
        raise InputError(
            f"Found no picture in '{root}' that Fathom reads, besides {len(found.maps_without_image)} maps. "
            "Name the folder that holds pictures and depth maps."
        )
    _report_copies(report, found)
    if found.unreadable:
        report.add(
            "error",
            "unreadable",
            f"{len(found.unreadable)} of the files that were opened are damaged ({names_of(found.unreadable, root)}).",
        )
    if found.pairs or found.label_pairs:
        report.config = _config(report, found)
    order = ("error", "warning", "note")
    report.findings.sort(key=lambda finding: order.index(finding.level))
    return report


def _report_files(report: Report, found: Scan) -> None:
    root = report.root
    if found.coloured_maps:
        report.add(
            "error" if not found.pairs else "warning",
            "coloured-maps",
            f"{len(found.coloured_maps)} files named like depth are colour pictures and hold no depth "
            f"({names_of(found.coloured_maps, root)}). Look for the original maps.",
        )
    if found.images_without_map and (found.pairs or found.label_pairs):
        report.add(
            "warning",
            "images-without-map",
            f"{len(found.images_without_map)} pictures have no map ({names_of(found.images_without_map, root)}).",
        )
    if found.maps_without_image:
        report.add(
            "error" if not found.pairs else "warning",
            "maps-without-image",
            f"{len(found.maps_without_image)} depth maps have no picture of the same stem "
            f"({names_of(found.maps_without_image, root)}).",
        )
    if found.second_views:
        report.add("note", "stereo", f"{len(found.second_views)} pictures have a second view: stereo pairs.")
    if not found.pairs and not found.label_pairs and found.images_without_map:
        what = "stereo pairs without ground truth: train by view synthesis" if found.second_views else "no ground truth"
        report.add("note", "no-ground-truth", f"{len(found.images_without_map)} pictures, {what}.")


def _examine_labels(report: Report, found: Scan, max_samples: int) -> None:
    chosen = spread(len(found.label_pairs), max_samples)
    classes: Counter[int] = Counter()
    sizes: Counter[str] = Counter()
    misfits: list[Path] = []
    for index in chosen:
        picture, path = found.label_pairs[index]
        opened = open_pair(found, picture, path)
        if opened is None:
            continue
        image, labels = opened
        sizes[f"{image.shape[1]} x {image.shape[0]}"] += 1
        if labels.shape != image.shape[:2]:
            misfits.append(path)
        values, counts = np.unique(labels, return_counts=True)
        classes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(report.sheet) < 6:
            caption = picture.relative_to(report.root).as_posix()
            report.sheet.append((caption, [image, paint_labels(labels)]))
    report.sizes = dict(sizes.most_common())
    total = sum(classes.values())
    shares = {str(label): round(count / total, 4) for label, count in sorted(classes.items())}
    report.stored = {"label_shares": shares}
    listed = ", ".join(f"{label}: {share:.1%}" for label, share in list(shares.items())[:12])
    report.add("note", "labels", f"Labels without depth, {len(classes)} values ({listed}).")
    if len(classes) > 1 and max(classes) > 2 * len(classes):
        report.add(
            "warning",
            "label-numbers",
            f"The labels are not numbered 0 to {len(classes) - 1}; the largest is {max(classes)}. A loss over classes "
            "needs that: renumber them, or set `ignore_label` for a value that means unlabelled.",
        )
    if misfits:
        report.add("error", "size-misfit", f"{len(misfits)} label maps differ in size from their picture.")


def _report_copies(report: Report, found: Scan) -> None:
    """Look for the same picture twice, in one split and across splits."""
    root = report.root
    pictures = [image for image, _ in (found.pairs or found.label_pairs)] or found.images_without_map
    copies = checks.exact_duplicates(pictures)
    if copies:
        report.add(
            "warning",
            "duplicates",
            f"{sum(len(group) - 1 for group in copies)} pictures are copies of others, "
            f"first {names_of(copies[0], root)}.",
        )
    maps = checks.exact_duplicates([stored for _, stored in found.pairs])
    repeated = [group for group in maps if len(group) > 1]
    if repeated and not copies:
        report.add(
            "warning",
            "duplicate-maps",
            f"{sum(len(group) - 1 for group in repeated)} maps are copies of others while their pictures differ "
            f"(first {names_of(repeated[0], root)}).",
        )
    if len(found.splits) < 2:
        return
    names = list(found.splits)
    train = next((name for name in names if "train" in name.lower()), names[0])
    for other in names:
        if other != train:
            _report_leak(report, found, copies, train, other)


def _report_leak(report: Report, found: Scan, copies: list[list[Path]], train: str, other: str) -> None:
    root, first, second = report.root, found.splits[train], found.splits[other]
    shared = sorted(set(first) & set(second))
    if shared:
        report.add(
            "error", "leak", f"{len(shared)} samples are in both {train} and {other} ({names_of(shared, root)})."
        )
    in_first, in_second = set(first), set(second) - set(first)
    across = [group for group in copies if in_first & set(group) and in_second & set(group)]
    if across:
        report.add(
            "error",
            "leak",
            f"{len(across)} pictures of {other} are copies of pictures of {train} ({names_of(across[0], root)}).",
        )
    copied = {path for group in copies for path in group}
    rest = [path for path in second if path not in copied and path not in in_first]
    rest = [rest[i] for i in spread(len(rest), MAX_HASHED)] if rest else []
    seen = [first[i] for i in spread(len(first), MAX_HASHED)]
    codes = {path: checks.difference_hash(path) for path in [*seen, *rest]}
    rest = [path for path in rest if not checks.is_flat(codes[path])]
    seen = [path for path in seen if not checks.is_flat(codes[path])]
    if not rest or not seen:
        return
    nearest = checks.hash_distances([codes[p] for p in rest], [codes[p] for p in seen]).min(1)
    alike = [path for path, bits in zip(rest, nearest, strict=True) if bits <= _LIKE_BITS]
    if alike:
        report.add(
            "warning",
            "near-leak",
            f"{len(alike)} pictures of {other} look the same as pictures of {train} ({names_of(alike, root)}).",
        )
    close = float((nearest <= _NEIGHBOUR_BITS).mean())
    if close > 0.3:
        report.add(
            "error" if close > 0.6 else "warning",
            "frame-wise-split",
            f"{close:.0%} of {other} closely resemble a picture of {train}: frames of one video or place were divided "
            "one by one, so the score measures memory. Divide by scene: fathom data prepare --split-by scene.",
        )


def _config(report: Report, found: Scan) -> dict[str, Any]:
    """Return the dataset YAML as plain values."""
    pairs = found.pairs or found.label_pairs
    images, maps = [image for image, _ in pairs], [stored for _, stored in pairs]
    config: dict[str, Any] = {"name": report.root.name or "dataset", "root": str(report.root.resolve())}
    config["images"] = pattern_of(report.root, images, maps)
    what = "depth" if found.pairs else "labels"
    config[what] = pattern_of(report.root, maps, images)
    if found.pairs and found.label_pairs:
        label_pairs = dict(found.label_pairs)
        labelled = [(image, label_pairs[image]) for image in images if image in label_pairs]
        if len(labelled) == len(images):
            pattern = pattern_of(report.root, [label for _, label in labelled], images)
            if pattern_of(report.root, images, [label for _, label in labelled]) == config["images"]:
                config["labels"] = pattern
    if found.pairs and report.kind is not None:
        config["kind"] = report.kind.value
        if report.scales and report.scales[0].counts_per_metre != 1.0:
            config["scale"] = 1.0 / report.scales[0].counts_per_metre
        factors = report.stored.get("disparity_factors", {})
        if factors:
            # The pattern follows the pair in the middle, so the factor does too.
            own = factors.get(images[len(images) // 2].parent.name, next(iter(factors.values())))
            config["scale"] = 1.0 / own
        if report.stored["shares"]["full"] > 0:
            config["invalid"] = [0.0, 65535.0]
    stems = {path: stem for stem, path in match_files(report.root, config["images"]).items()}
    missed = [image for image in images if image not in stems]
    if missed:
        report.add(
            "warning",
            "pattern",
            f"dataset.yaml names {len(images) - len(missed)} of {len(images)} pairs; files like "
            f"{names_of(missed, report.root)} follow another pattern. Describe them in a second YAML.",
        )
    splits = {}
    for name, members in found.splits.items():
        split = Path(name).stem if name.endswith(".txt") else name
        listed = [stems[path] for path in members if path in stems]
        lines = set((report.root / name).read_text(encoding="utf-8").split()) if name.endswith(".txt") else set()
        if lines >= set(listed):
            splits[split] = name
        else:
            report.split_stems[split] = listed
    if splits:
        config["splits"] = splits
    return config
