"""Find out which files of an unknown folder are pictures, depth maps and labels, and which belong together.

A file is judged by words in its name, then in the folders above it, nearest first; one file of each group is opened to
check that its content agrees. Files belong together when their paths are equal once those words are taken out.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fathom.data.config import SCENE, STEM
from fathom.data.stored import STORED_SUFFIXES
from fathom.io import PICTURE_SUFFIXES

_ROLE_WORDS = {
    "other": {"normal", "normals", "confidence", "conf", "edges", "flow", "occl", "occ", "pose", "poses", "velodyne"},
    "labels": {"label", "labels", "seg", "segmentation", "mask", "masks", "annot", "annotation", "semantic", "classes"},
    "depth": {
        "depth",
        "depths",
        "disp",
        "disparity",
        "disparities",
        "gt",
        "groundtruth",
        "sync",
        "proj",
        "range",
        "dep",
    },
    "image": {
        "rgb",
        "color",
        "colour",
        "image",
        "images",
        "img",
        "imgs",
        "im",
        "view",
        "photo",
        "photos",
        "left",
        "right",
    },
}
"""Words that tell what a file is; the first role with a word in the name wins."""
_WORD_ROLE = {word: role for role, words in _ROLE_WORDS.items() for word in words}
_NEUTRAL_FOLDERS = {"data"}
_SECOND_VIEWS = (("image_0", "image_1"), ("image_2", "image_3"), ("image_02", "image_03"), ("left", "right"))
_LIST_NAMES = re.compile(r"(?:.*[_-])?(train|val|valid|validation|test)(?:[_-].*)?$")


@dataclass(frozen=True)
class FoundFile:
    """One file and what its name says.

    Args:
        path: Where it is.
        role: image, depth, labels, or other.
        key: Path without the words that tell the role; equal for files that belong together.
    """

    path: Path
    role: str
    key: tuple[str, ...]


@dataclass
class Scan:
    """What a folder holds.

    Args:
        root: The folder.
        pairs: Picture and depth map that belong together.
        label_pairs: Picture and label map that belong together.
        images_without_map: Pictures with neither depth nor labels.
        maps_without_image: Depth maps without picture.
        second_views: Pictures of a second camera, by the picture of the first.
        coloured_maps: Files that are named like depth but are colour pictures.
        splits: Keys of each split, by list file or folder name.
        unreadable: Files that could not be opened.
    """

    root: Path
    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    label_pairs: list[tuple[Path, Path]] = field(default_factory=list)
    images_without_map: list[Path] = field(default_factory=list)
    maps_without_image: list[Path] = field(default_factory=list)
    second_views: dict[Path, Path] = field(default_factory=dict)
    coloured_maps: list[Path] = field(default_factory=list)
    splits: dict[str, list[Path]] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)


def _words(text: str) -> list[str]:
    """Split a name into words and numbers: 'view1' is 'view', '1'."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def _role_of_name(name: str) -> str | None:
    roles = {_WORD_ROLE[word] for word in _words(name) if word in _WORD_ROLE}
    return next((role for role in _ROLE_WORDS if role in roles), None)


def _key(relative: Path) -> tuple[str, ...]:
    """Return the path without role words; a folder named by one goes as a whole, its number too."""
    folders = []
    for folder in relative.parent.parts:
        bare = re.sub(r"annot$", "", folder.lower())  # CamVid: trainannot lies beside train
        if bare and _role_of_name(bare) is None and bare not in _NEUTRAL_FOLDERS:
            folders.append(bare)
    stem = tuple(word for word in _words(relative.stem) if word not in _WORD_ROLE)
    return (*folders, "|", *stem)


def content_of(path: Path) -> str:
    """Say what a file holds: colour, grey8, few (grey, few levels), counts (16 bits or more), floats, unreadable."""
    if path.suffix.lower() in (".npy", ".npz", ".pfm", ".exr"):
        return "floats"
    try:
        with Image.open(path) as image:
            if image.mode in ("RGB", "RGBA", "YCbCr", "CMYK"):
                return "colour"
            if image.mode == "F":
                return "floats"
            if image.mode.startswith("I"):
                return "counts"
            if image.mode == "P":
                return "few"
            return "few" if len(np.unique(np.asarray(image.convert("L")))) <= 64 else "grey8"
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return "unreadable"


def scan(root: Path) -> Scan:
    """Look through a folder; see the module's head."""
    found = Scan(root)
    groups: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    lists: list[Path] = []
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            suffix = path.suffix.lower()
            if suffix == ".txt" and _LIST_NAMES.match(path.stem.lower()):
                lists.append(path)
            elif suffix in PICTURE_SUFFIXES or suffix in STORED_SUFFIXES:
                groups[(parent, re.sub(r"\d+", "#", path.stem), suffix)].append(path)
    files: list[FoundFile] = []
    for members in groups.values():
        role = _settle_role(found, root, members)
        files += [FoundFile(path, role, _key(path.relative_to(root))) for path in members if role != "other"]
    _pair(found, files)
    _find_splits(found, lists)
    return found


def _settle_role(found: Scan, root: Path, members: list[Path]) -> str:
    """Decide the role of files whose names differ in numbers only, from one of them."""
    relative = members[0].relative_to(root)
    names = [relative.stem, *reversed(relative.parent.parts)]
    named = next((role for name in names if (role := _role_of_name(name)) is not None), None)
    if named == "other":
        return "other"
    # A damaged file must not decide for its whole group.
    probes = [content_of(members[i]) for i in sorted({len(members) // 2, 0, len(members) - 1})]
    content = next((probe for probe in probes if probe != "unreadable"), "unreadable")
    if content == "unreadable":
        found.unreadable += members
        return "other"
    if named == "depth" and content == "colour":
        found.coloured_maps += members
        return "other"
    if content in ("counts", "floats"):
        return "labels" if named == "labels" else "depth"
    if content == "colour":
        return "image" if named in ("image", None) else "other"
    if named is None and re.search("annot$", relative.parent.name):
        return "labels"
    return named or "image"  # grey pictures without a word in the name are pictures


def _pair(found: Scan, files: Sequence[FoundFile]) -> None:
    by_role: dict[str, dict[tuple[str, ...], list[Path]]] = {role: defaultdict(list) for role in _ROLE_WORDS}
    for file in files:
        by_role[file.role][file.key].append(file.path)
    images, depths, labels = by_role["image"], by_role["depth"], by_role["labels"]
    for key, paths in images.items():
        first, second = _views(paths)
        if second is not None:
            found.second_views[first] = second
        if key in depths:
            found.pairs.append((first, depths[key][0]))
        if key in labels:
            found.label_pairs.append((first, labels[key][0]))
        if key not in depths and key not in labels:
            found.images_without_map.append(first)
    found.maps_without_image = [paths[0] for key, paths in depths.items() if key not in images]


def _views(paths: list[Path]) -> tuple[Path, Path | None]:
    """Tell the first view of a stereo pair from the second by the names of their folders."""
    for left, right in _SECOND_VIEWS:
        by_folder = {folder: path for path in paths for folder in path.parts}
        if left in by_folder and right in by_folder:
            return by_folder[left], by_folder[right]
    return paths[0], None


def _find_splits(found: Scan, lists: list[Path]) -> None:
    """Collect splits from list files, or from folders named train, val, test."""
    pictures = [image for image, _ in (found.pairs or found.label_pairs)]
    by_name: dict[str, Path] = {}
    for picture in pictures:
        relative = picture.relative_to(found.root)
        by_name[relative.as_posix()] = by_name[relative.with_suffix("").as_posix()] = picture
        by_name.setdefault(picture.stem, picture)
    for path in lists:
        words = [
            line.split()[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.split()
        ]
        members = [by_name[word.lstrip("/")] for word in words if word.lstrip("/") in by_name]
        if members and len(members) >= len(words) / 2:
            found.splits[path.relative_to(found.root).as_posix()] = members
    if not found.splits:
        for picture in pictures:
            for part in picture.relative_to(found.root).parent.parts:
                if _LIST_NAMES.fullmatch(part.lower()):
                    found.splits.setdefault(part, []).append(picture)
                    break
    if len(found.splits) == 1:
        found.splits = found.splits if next(iter(found.splits)).endswith(".txt") else {}


def pattern_of(root: Path, files: Sequence[Path], partners: Sequence[Path]) -> str:
    """Return the file pattern that names a picture, given the map it belongs to (or the other way round).

    Example:
        >>> root = Path("/d")
        >>> pattern_of(root, [root / "a/rgb/rgb_01.jpg"], [root / "a/depth/sync_depth_01.png"])
        '{scene}/rgb/rgb_{stem}.jpg'
    """
    own, other = files[len(files) // 2].relative_to(root), partners[len(partners) // 2].relative_to(root)
    suffixes = {path.suffix for path in files}
    suffix = suffixes.pop() if len(suffixes) == 1 else ".*"
    middle = _common_stem(own.stem, other.stem)
    name = own.stem.replace(middle, STEM, 1) + suffix
    folders, partner_folders = list(own.parent.parts), list(other.parent.parts)
    shared = 0
    while folders[shared:] and partner_folders[shared:] and folders[shared] == partner_folders[shared]:
        shared += 1
    tail = 0
    while shared < len(folders) - tail and folders[shared:] and folders[-1 - tail :] == partner_folders[-1 - tail :]:
        tail += 1
    # Folders after the one that tells the role belong to the stem, so that their names need not be listed.
    differing = folders[shared : len(folders) - tail]
    if tail and name.startswith(STEM):
        own_part = "/".join(differing)
    else:
        own_part = "/".join(folders[shared:])
    return "/".join(part for part in (SCENE if shared else "", own_part, name) if part)


def _common_stem(own: str, other: str) -> str:
    """Return the longest text two stems share, preferring one with a number; without separators at its ends."""
    best = ""
    for start in range(len(own)):
        for end in range(len(own), start, -1):
            piece = own[start:end]
            if piece in other:
                better = (any(c.isdigit() for c in piece), len(piece)) > (any(c.isdigit() for c in best), len(best))
                best = piece if better else best
                break
    return best.strip("_-. ") or own
