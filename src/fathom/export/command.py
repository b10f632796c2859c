"""The words of ``fathom export``, read once for the command line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fathom.errors import ConfigError
from fathom.export.convert import Export, export_model
from fathom.export.parity import TOLERANCES

WEB = "web"


def run_export(
    model: str, to: str, out: Path, *, graph: str | None, size: str | None, mean_tolerance: float | None, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Export as the command line asks.

    Args:
        model: See `export_model`.
        to: A format, or ``web``.
        out: See `export_model`.
        graph: ``picture``, ``network``, or None for the format's default.
        size: One number, or HxW.
        mean_tolerance: Largest mean relative difference.
        **options: Other options of `export_model`.

    Returns:
        Text for people, and the same as plain values.

    Raises:
        ConfigError: If a word is not understood.
    """
    if to == WEB:
        from fathom.export.web import export_web

        files = export_web(model, out)
        lines = [f"Wrote {out} ({len(files)} files). Next: python -m http.server --directory {out}"]
        return "\n".join(lines), {"files": [str(path) for path in files]}
    if graph not in (None, "picture", "network"):
        raise ConfigError(f"--graph is picture or network; got '{graph}'.")
    tolerance = None
    if mean_tolerance is not None:
        if not mean_tolerance > 0:
            raise ConfigError(f"--tolerance must be positive; got {mean_tolerance:g}.")
        known = TOLERANCES.get(options["precision"], TOLERANCES["fp32"])
        tolerance = replace(known, max_relative=float("inf"), mean_relative=mean_tolerance)
    done = export_model(
        model,
        to,
        out,
        in_graph=None if graph is None else graph == "picture",
        size=_size(size),
        tolerance=tolerance,
        **options,
    )
    return _text(done), {
        "files": [str(path) for path in done.files],
        "parity": done.report.to_json() if done.report is not None else None,
    }


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"An input size is a number or HEIGHTxWIDTH [px], for instance 518 or 256x320; got '{text}'.")
    return int(parts[0]), int(parts[-1])


def _text(done: Export) -> str:
    lines = [f"Wrote {path}" for path in done.files]
    if done.report is None:
        lines.append("Its specification was checked. It runs on Apple's systems only, so parity was not measured here.")
    else:
        worst = done.report.worst
        lines.append(
            f"Parity on {len(done.report.rows)} pictures, the worst of each: relative difference at most "
            f"{worst['max_relative']:.2e}, mean {worst['mean_relative']:.2e}, AbsRel {worst['abs_rel']:.2e}, "
            f"delta1 {worst['delta1']:.5f}."
        )
        lines.append(f"Next: fathom predict PICTURE -m {done.card_path} -o OUT")
    return "\n".join(lines)
