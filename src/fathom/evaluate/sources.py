"""Where samples and predictions come from: datasets by one short text, and folders of maps that any tool saved."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fathom.config import nearest_name
from fathom.data import DATASETS, open_dataset
from fathom.data.base import DepthDataset
from fathom.errors import ConfigError, InputError
from fathom.io import DEPTH_FORMATS, read_depth
from fathom.types import Depth, DepthKind


@dataclass(frozen=True)
class SavedPredictions:
    """Depth maps in a folder, found by the name of the sample.

    A map belongs to a sample when its path inside the folder, without suffix, is the sample's name, its name with
    ``/`` written as ``_``, or, where only one file has it, the last part of its name.

    Args:
        folder: Folder, searched with all its subfolders.
        kind: What files without Fathom's metadata hold; with a `scale` alone, metric depth.
        scale: Unit for each stored count of such files, for instance 0.001 for millimetres.
        format: A name in `fathom.io.DEPTH_FORMATS`; default: the one format that is there.

    Raises:
        InputError: If the folder holds no map, or maps of several formats and none is named.
        ConfigError: If the format or the kind is unknown.
    """

    folder: Path
    kind: DepthKind | None = None
    scale: float | None = None
    format: str | None = None
    _paths: dict[str, Path] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        folder = Path(self.folder)
        object.__setattr__(self, "folder", folder)
        if not folder.is_dir():
            raise InputError(f"Expected a folder of predictions; '{folder}' is not a folder.")
        if self.format is not None and self.format not in DEPTH_FORMATS:
            raise ConfigError(f"Unknown format '{self.format}'. {nearest_name(self.format, DEPTH_FORMATS)}")
        suffixes = {
            suffix: name
            for name, entry in DEPTH_FORMATS.items()
            for suffix in entry.suffixes
            if self.format in (None, name)
        }
        files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()]
        formats = sorted({suffixes[path.suffix.lower()] for path in files})
        if not files:
            raise InputError(f"Expected depth maps ({', '.join(suffixes)}) in '{folder}'; found none.")
        if len(formats) > 1:
            raise InputError(f"'{folder}' holds maps in several formats ({', '.join(formats)}). Name one with format.")
        object.__setattr__(self, "format", formats[0])
        by_last: dict[str, list[Path]] = {}
        for path in files:
            self._paths[path.relative_to(folder).with_suffix("").as_posix()] = path
            by_last.setdefault(path.stem, []).append(path)
        for stem, found in by_last.items():
            if len(found) == 1:
                self._paths.setdefault(stem, found[0])

    def path_of(self, name: str) -> Path | None:
        """Return the file of a sample, or None where there is none."""
        plain = name.replace("\\", "/")
        for candidate in (plain, str(Path(plain).with_suffix("")), plain.replace("/", "_"), plain.split("/")[-1]):
            if candidate in self._paths:
                return self._paths[candidate]
        return None

    def read(self, name: str) -> Depth:
        """Read the prediction of a sample.

        Raises:
            InputError: If there is none, or it cannot be read.
        """
        path = self.path_of(name)
        if path is None:
            raise InputError(
                f"No prediction for '{name}' in '{self.folder}'. {nearest_name(name, list(self._paths)[:8])}"
            )
        return read_depth(path, format=self.format, kind=self.kind, scale=self.scale)

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which `from_json` finds the same maps."""
        return {
            "folder": str(self.folder.resolve()),
            "kind": self.kind.value if self.kind else None,
            "scale": self.scale,
            "format": self.format,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SavedPredictions":
        """Open the maps that `to_json` described."""
        kind = values["kind"]
        return cls(Path(values["folder"]), DepthKind(kind) if kind else None, values["scale"], values["format"])


def describe_data(data: str, split: str | None = None, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Resolve what a user calls data into a reader, a place and options, as plain values for a report.

    Args:
        data: ``NAME:PATH`` with a name of `fathom.data.DATASETS`; a dataset YAML; or a folder with ``rgb/`` and
            ``depth/`` in millimetres, as NYU frames are laid out.
        split: Which part; default: that of the reader, for a plain folder everything.
        options: Options of the reader.

    Returns:
        Values for `open_source`.

    Raises:
        ConfigError: If the name is unknown.
        InputError: If the text is none of the three.

    Example:
        >>> describe_data("kitti-raw:/data/kitti", "eigen-test")["reader"]
        'kitti-raw'
    """
    name, colon, place = data.partition(":")
    path = Path(data).expanduser()
    if colon and name in DATASETS:
        reader, path = name, Path(place).expanduser()
    elif path.suffix.lower() in (".yaml", ".yml"):
        reader = "folder"
    elif (path / "rgb").is_dir() and (path / "depth").is_dir():
        reader, split = "nyu-folder", split or "all"
    elif colon and not path.exists():
        raise ConfigError(f"Unknown dataset '{name}'. {nearest_name(name, DATASETS)}")
    else:
        raise InputError(
            f"Expected a dataset: NAME:PATH ({', '.join(list(DATASETS)[:4])} ...), a dataset YAML, or a folder with "
            f"rgb/ and depth/; got '{data}'. fathom data doctor {data} writes the YAML of any folder."
        )
    return {"reader": reader, "path": str(path.resolve()), "split": split, "options": dict(options or {})}


def open_source(described: Mapping[str, Any]) -> DepthDataset:
    """Open what `describe_data` described.

    Raises:
        ConfigError: If a name or an option is unknown.
        InputError: If the files are not there.
    """
    return open_dataset(described["reader"], described["path"], described["split"], **described["options"])


def parse_options(changes: Iterable[str]) -> dict[str, Any]:
    """Read reader options written as ``key=value``; values are YAML.

    Raises:
        ConfigError: If one is not of that form.

    Example:
        >>> parse_options(["depth=raw", "mask_border=true"])
        {'depth': 'raw', 'mask_border': True}
    """
    options = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not (key and equals):
            raise ConfigError(f"An option is written key=value; got '{change}'.")
        options[key] = yaml.safe_load(text)
    return options
