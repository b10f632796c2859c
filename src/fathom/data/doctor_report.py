"""What the data doctor says, and the files it writes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from fathom.data.doctor_checks import ScaleGuess, Shift
from fathom.data.doctor_sheet import contact_sheet
from fathom.io import write_atomic
from fathom.types import DepthKind


@dataclass(frozen=True)
class Finding:
    """One thing worth saying.

    Args:
        level: ``"error"``: training on it would go wrong. ``"warning"``: look at it. ``"note"``: good to know.
        code: Short name, for programs.
        message: The sentence.
    """

    level: str
    code: str
    message: str


@dataclass
class Report:
    """What `diagnose` found.

    Args:
        root: The folder.
        num_pairs: Pictures with a depth map.
        num_label_pairs: Pictures with a label map.
        findings: Everything worth saying, errors first.
        sizes: Picture sizes "W x H" and their number among the samples.
        stored: Type of the stored numbers, their percentiles and the shares of special values.
        kind: What the numbers are, where it could be told.
        scales: Readings of the stored numbers, likeliest first: counts per metre, share, source.
        registration: Shift of the map against the picture.
        pairing: Share of comparisons that the own picture wins; 1 right, 0.5 chance.
        histogram: Edges [m, or as stored] and shares of valid pixels.
        config: The dataset YAML as plain values; empty where nothing pairs.
        sheet: Rows of the contact sheet.
        split_stems: Stems of splits found as folders, which `write` puts into list files.
    """

    root: Path
    num_pairs: int = 0
    num_label_pairs: int = 0
    findings: list[Finding] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)
    kind: DepthKind | None = None
    scales: list[ScaleGuess] = field(default_factory=list)
    registration: Shift | None = None
    pairing: float | None = None
    histogram: dict[str, list[float]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    sheet: list[tuple[str, list[npt.NDArray[np.uint8]]]] = field(default_factory=list)
    split_stems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, level: str, code: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, code, message))

    @property
    def ok(self) -> bool:
        """Whether nothing was found that would spoil training."""
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def codes(self) -> set[str]:
        """Short names of all findings."""
        return {finding.code for finding in self.findings}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "root": str(self.root),
            "ok": self.ok,
            "pairs": self.num_pairs,
            "label_pairs": self.num_label_pairs,
            "findings": [asdict(finding) for finding in self.findings],
            "sizes": self.sizes,
            "stored": self.stored,
            "kind": self.kind,
            "scales": [asdict(guess) for guess in self.scales],
            "registration": asdict(self.registration) if self.registration is not None else None,
            "pairing": self.pairing,
            "histogram": self.histogram,
            "config": self.config,
        }

    def title(self) -> str:
        """Return the first line of the contact sheet."""
        what = f"{self.num_pairs} pairs with depth" if self.num_pairs else f"{self.num_label_pairs} pairs with labels"
        return f"{self.root.name}: {what}; {', '.join(f'{n} x {size}' for size, n in self.sizes.items())}"

    def write(self, out: str | Path) -> list[Path]:
        """Write ``report.json``, ``contact_sheet.png`` and, where something pairs, ``dataset.yaml`` with its lists.

        Raises:
            OutputError: If the folder cannot be written.
        """
        folder = Path(out)
        written = []
        if self.config:
            config = dict(self.config)
            for split, stems in self.split_stems.items():
                path = write_atomic(folder / f"{split}.txt", ["\n".join([*stems, ""]).encode()])
                written.append(path)
                config.setdefault("splits", {})[split] = str(path.resolve())
            head = "".join(f"# {line}\n" for line in self._yaml_comments())
            text = head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            written.append(write_atomic(folder / "dataset.yaml", [text.encode()]))
        text = json.dumps(self.to_dict(), indent=1)
        written.append(write_atomic(folder / "report.json", [text.encode()]))
        findings = [(finding.level, finding.message) for finding in self.findings]
        written.append(write_atomic(folder / "contact_sheet.png", [contact_sheet(self.title(), findings, self.sheet)]))
        return written

    def _yaml_comments(self) -> list[str]:
        lines = ["Written by `fathom data doctor`. Check scale and kind before you train."]
        if len(self.scales) > 1:
            lines += [f"Other reading: divide by {g.counts_per_metre:g}, {g.source}" for g in self.scales[1:3]]
        return lines + [f"{f.level}: {f.message}" for f in self.findings if f.level != "note"]


def names_of(paths: Sequence[Path], root: Path) -> str:
    """Return the first three paths, relative to a folder, for a sentence."""
    return ", ".join(path.relative_to(root).as_posix() for path in paths[:3]) + (" ..." if len(paths) > 3 else "")


def spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` indices, evenly over ``range(count)``.

    Example:
        >>> spread(10, 4), spread(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, wanted))})
