"""The contact sheet of the data doctor: picture, map and overlay of a few samples, with the findings above them."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fathom.data.doctor_checks import SPARSE_DENSITY, valid_pixels

_CELL_WIDTH = 420
_MARGIN = 8
_ANCHORS = np.array(
    [(255, 240, 130), (250, 170, 50), (215, 70, 60), (130, 30, 110), (50, 20, 110), (15, 10, 40)], np.float64
)
"""Colours from near (bright) to far (dark)."""
_COLOURS = {"error": (255, 110, 100), "warning": (255, 205, 90), "note": (190, 190, 190)}


def paint_map(stored: npt.NDArray[Any], larger_is_nearer: bool) -> npt.NDArray[np.uint8]:
    """Return a map in colour: near is bright, far is dark, invalid is grey; between its 1st and 99th percentile."""
    mask = valid_pixels(stored)
    if mask.mean() < SPARSE_DENSITY:  # points of a lidar map would vanish when the sheet shrinks them
        stored, mask = _grow(stored, mask)
    painted = np.full((*stored.shape, 3), 90, np.uint8)
    if mask.any():
        values = np.log(stored[mask].astype(np.float64))
        low, high = np.percentile(values, [1, 99])
        place = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1)
        place = (1 - place if larger_is_nearer else place) * (len(_ANCHORS) - 1)
        index = np.minimum(place.astype(int), len(_ANCHORS) - 2)
        share = (place - index)[:, None]
        painted[mask] = (_ANCHORS[index] * (1 - share) + _ANCHORS[index + 1] * share).astype(np.uint8)
    return painted


def paint_labels(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return labels in colours that differ; 0 is black."""
    number = labels.astype(np.int64)
    hues = np.stack([number * 67 % 206 + 50, number * 139 % 206 + 50, number * 211 % 206 + 50], -1)
    return np.where((number > 0)[..., None], hues, 0).astype(np.uint8)


def overlay(image: npt.NDArray[np.uint8], stored: npt.NDArray[Any], larger_is_nearer: bool) -> npt.NDArray[np.uint8]:
    """Return the grey picture with the jumps of the map in red; a sparse map is laid over it as coloured points."""
    grey = np.repeat(image.mean(2).astype(np.uint8)[..., None] // 2 + 60, 3, axis=2)
    mask = valid_pixels(stored)
    if mask.mean() < SPARSE_DENSITY:
        grown = _grow(stored, mask)[1]
        grey[grown] = paint_map(stored, larger_is_nearer)[grown]
        return grey
    log = np.log(np.where(mask, stored, 1).astype(np.float64))
    jump = np.zeros(stored.shape, np.bool_)
    jump[:, 1:] |= (np.abs(np.diff(log, axis=1)) > 0.08) & mask[:, 1:] & mask[:, :-1]
    jump[1:] |= (np.abs(np.diff(log, axis=0)) > 0.08) & mask[1:] & mask[:-1]
    grey[jump] = (255, 40, 40)
    return grey


def _grow(
    stored: npt.NDArray[Any], mask: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return a map and mask whose every point has become three by three pixels."""
    grown = np.where(mask, stored, 0).astype(np.float64)
    for axis in (0, 1):
        grown = np.maximum.reduce([np.roll(grown, step, axis) for step in (-1, 0, 1)])
    return grown, grown > 0


def contact_sheet(
    title: str,
    findings: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8]]]],
) -> bytes:
    """Return a PNG.

    Args:
        title: First line.
        findings: Level and sentence of each finding.
        rows: Caption and pictures of each sample.
    """
    font = ImageFont.load_default(14)
    columns = max((len(pictures) for _, pictures in rows), default=1)
    width = max(columns, 2) * (_CELL_WIDTH + _MARGIN) + _MARGIN
    lines = [("note", part) for part in textwrap.wrap(title, width // 8)]
    for level, sentence in findings:
        prefix = {"error": "ERROR  ", "warning": "WARNING  ", "note": ""}[level]
        lines += [(level, part) for part in textwrap.wrap(prefix + sentence, width // 8)]
    sized = [(caption, [_fit(picture) for picture in pictures]) for caption, pictures in rows]
    height = _MARGIN * 2 + 20 * len(lines) + sum(max(p.height for p in ps) + 28 for _, ps in sized)
    sheet = Image.new("RGB", (width, height), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for level, text in lines:
        draw.text((_MARGIN, top), text, _COLOURS[level], font=font)
        top += 20
    for caption, pictures in sized:
        draw.text((_MARGIN, top + 2), caption, (235, 235, 235), font=font)
        for i, picture in enumerate(pictures):
            sheet.paste(picture, (_MARGIN + i * (_CELL_WIDTH + _MARGIN), top + 22))
        top += max(p.height for p in pictures) + 28
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _fit(picture: npt.NDArray[np.uint8]) -> Image.Image:
    height = max(1, round(picture.shape[0] * _CELL_WIDTH / picture.shape[1]))
    kernel = Image.Resampling.BOX if picture.shape[1] > _CELL_WIDTH else Image.Resampling.NEAREST
    return Image.fromarray(picture).resize((_CELL_WIDTH, height), kernel)
