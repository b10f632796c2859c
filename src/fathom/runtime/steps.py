"""The steps around every network, in NumPy: picture to input, raw output to `Depth`.

Every runtime shares them, so a model gives the same metres whatever runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fathom.errors import ModelError
from fathom.geometry import Interpolation, resize_image, resize_map
from fathom.types import Camera, Depth, DepthKind, Provenance

FloatBatch = npt.NDArray[np.float32]

WIDEST_ASPECT = 8.0
"""A picture longer than this is squeezed: a panorama strip of 1 x 4000 would leave no rows to look at."""


class InputLaw(Protocol):
    """What `preprocess` must know about a model; a card's input section is one."""

    @property
    def law(self) -> str: ...  # noqa: D102
    @property
    def area(self) -> tuple[int, int] | None: ...  # noqa: D102
    @property
    def height(self) -> int | None: ...  # noqa: D102
    @property
    def width(self) -> int | None: ...  # noqa: D102
    @property
    def multiple(self) -> int: ...  # noqa: D102
    @property
    def interpolation(self) -> Interpolation: ...  # noqa: D102
    @property
    def mirror_border(self) -> bool: ...  # noqa: D102
    @property
    def in_graph(self) -> bool: ...  # noqa: D102
    @property
    def mean(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def std(self) -> Sequence[float]: ...  # noqa: D102


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the network, and what is needed to undo the preparation.

    Args:
        array: Network input, float32, shape (1, 3, h, w); for a file that does these steps itself, the picture,
            uint8, shape (1, H, W, 3).
        height: Rows of the picture.
        width: Columns of the picture.
        border: Rows above and below, and columns left and right, that were added before resizing.
        record: What was done, as plain values; kept in the result's provenance.
    """

    array: FloatBatch
    height: int
    width: int
    border: tuple[int, int]
    record: dict[str, Any]


def grid_size(spec: InputLaw, height: int, width: int) -> tuple[int, int]:
    """Choose the network's input size for a picture.

    Args:
        spec: The model's input law.
        height: Rows of the picture.
        width: Columns of the picture.

    Returns:
        Height and width [px], both multiples of ``spec.multiple``.

    Raises:
        ModelError: If the law is not known.

    Example:
        >>> from fathom.models.cards import InputSpec
        >>> grid_size(InputSpec(law="area", area=(256, 320), multiple=32), 480, 640)
        (256, 320)
        >>> grid_size(InputSpec(law="keep_aspect", height=518, width=518, multiple=14), 480, 640)
        (518, 686)
    """

    def whole(value: float) -> int:
        return max(spec.multiple, round(value / spec.multiple) * spec.multiple)

    if spec.law == "area" and spec.area is not None:
        aspect = min(max(width / height, 1 / WIDEST_ASPECT), WIDEST_ASPECT)
        pixels = spec.area[0] * spec.area[1]
        return whole((pixels / aspect) ** 0.5), whole((pixels * aspect) ** 0.5)
    if spec.law == "native":
        return tuple(max(spec.multiple, side // spec.multiple * spec.multiple) for side in (height, width))  # type: ignore[return-value]
    if spec.law in ("fixed", "keep_aspect") and spec.height is not None and spec.width is not None:
        if spec.law == "fixed":
            return whole(spec.height), whole(spec.width)
        scale_y, scale_x = spec.height / height, spec.width / width
        scale = scale_x if abs(1 - scale_x) < abs(1 - scale_y) else scale_y
        # The rule alone would blow a 1 x 4000 strip up to millions of columns.
        longest = WIDEST_ASPECT * max(spec.height, spec.width)
        return whole(min(height * scale, longest)), whole(min(width * scale, longest))
    raise ModelError(f"Expected an input law of area, keep_aspect, fixed or native with its sizes; got '{spec.law}'.")


def preprocess(image: npt.NDArray[np.uint8], spec: InputLaw) -> Prepared:
    """Turn a picture into the network's input.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        spec: The model's input law.

    Returns:
        The input (1, 3, h, w) and the record of what was done.

    Example:
        >>> from fathom.models.cards import InputSpec
        >>> spec = InputSpec(law="area", area=(64, 64), multiple=32)
        >>> preprocess(np.full((30, 40, 3), 255, np.uint8), spec).array.shape
        (1, 3, 64, 64)
    """
    rows, columns = image.shape[:2]
    if spec.in_graph:
        record: dict[str, Any] = {"law": spec.law, "in_graph": True, "height": rows, "width": columns}
        return Prepared(np.ascontiguousarray(image)[None], rows, columns, (0, 0), record)  # type: ignore[arg-type]
    border = (0, 0)
    if spec.mirror_border and min(rows, columns) > 1:
        border = (min(int(3 * (rows / 2) ** 0.5), rows - 1), min(int(3 * (columns / 2) ** 0.5), columns - 1))
        image = np.pad(image, ((border[0],) * 2, (border[1],) * 2, (0, 0)), mode="reflect")
    height, width = grid_size(spec, *image.shape[:2])
    resized = resize_image(image, height, width, spec.interpolation)
    factor = 1.0 / (255.0 * np.asarray(spec.std, np.float64))
    offset = np.asarray(spec.mean, np.float64) / np.asarray(spec.std, np.float64)
    array = np.empty((1, 3, height, width), np.float32)
    np.multiply(resized.transpose(2, 0, 1), factor.astype(np.float32)[:, None, None], out=array[0])
    if offset.any():
        array[0] -= offset.astype(np.float32)[:, None, None]
    record = {
        "law": spec.law,
        "height": height,
        "width": width,
        "interpolation": spec.interpolation,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "border": list(border),
    }
    return Prepared(array, rows, columns, border, record)


def postprocess(
    raw: npt.NDArray[np.float32],
    prepared: Prepared,
    *,
    kind: DepthKind,
    camera: Camera | None,
    provenance: Provenance,
) -> Depth:
    """Turn the network's raw map into a `Depth` at the picture's own size.

    A disparity counts pixels of the network's input, and is turned into pixels of the picture. Values that cannot be
    what `kind` says (not finite; zero or negative where the kind must be positive) become invalid. Values outside the
    range a metric model was trained on stay: they are the model's answer.

    Args:
        raw: Network output for one picture, shape (h, w), in the unit of `kind`.
        prepared: What `preprocess` gave.
        kind: What the values are.
        camera: The camera of the picture.
        provenance: Model and licence; the record of `preprocess` is added to its preprocessing.
    """
    above, left = prepared.border
    values = resize_map(np.asarray(raw, np.float32), prepared.height + 2 * above, prepared.width + 2 * left)
    if kind is DepthKind.DISPARITY and not prepared.record.get("in_graph"):
        # A map of its own, because `resize_map` may return what it was given.
        values = values * np.float32((prepared.width + 2 * left) / prepared.array.shape[3])
    if above or left:
        values = values[above : above + prepared.height, left : left + prepared.width].copy()
    values.setflags(write=False)
    return Depth(
        values,
        kind,
        camera=camera,
        provenance=Provenance(
            model=provenance.model,
            weights_sha256=provenance.weights_sha256,
            preprocessing={**prepared.record, **provenance.preprocessing},
            licence=provenance.licence,
        ),
    )
