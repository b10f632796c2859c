"""Hypothesis strategies for cameras, provenances and depth maps of every kind."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fathom.types import Camera, ConfidenceMeaning, Depth, DepthKind, FocalSource, InvalidReason, Provenance

TINY = float(np.finfo(np.float32).tiny)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
provenances = st.builds(
    Provenance,
    model=st.text(max_size=20),
    weights_sha256=st.text("0123456789abcdef", max_size=8),
    preprocessing=st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    licence=st.text(max_size=20),
)


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    focal_x, focal_y = draw(st.floats(0.1, 1e5)), draw(st.floats(0.1, 1e5))
    center_x, center_y = draw(st.floats(-1e4, 1e4)), draw(st.floats(-1e4, 1e4))
    baseline = draw(st.none() | st.floats(1e-3, 10.0))
    matrix = np.array([[focal_x, 0, center_x], [0, focal_y, center_y], [0, 0, 1.0]])
    return Camera(matrix, draw(st.sampled_from(FocalSource)), baseline)


@st.composite
def depths(draw: st.DrawFn, kinds: tuple[DepthKind, ...] = tuple(DepthKind), confidence: bool = True) -> Depth:
    """Draw a map of at most 6 x 6 pixels, with holes of every reason, garbage under the holes, and every extra."""
    kind = draw(st.sampled_from(kinds))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    signed = kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
    zero_ok = kind in (DepthKind.INVERSE_DEPTH, DepthKind.DISPARITY)
    largest = float(np.finfo(np.float32).max)
    lowest = -largest if signed else 0.0 if zero_ok else TINY
    elements = st.floats(lowest, largest, width=32)
    values = draw(hnp.arrays(np.float32, shape, elements=elements))
    reasons = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([int(reason) for reason in InvalidReason])))
    garbage = draw(hnp.arrays(np.float32, shape, elements=st.floats(width=32)))
    valid = reasons == InvalidReason.NONE
    surety = None
    if confidence and draw(st.booleans()):
        surety = draw(hnp.arrays(np.float32, shape, elements=st.floats(width=32)))
    return Depth(
        np.where(valid, values, garbage),
        kind,
        valid,
        reasons,
        surety,
        draw(st.sampled_from(ConfidenceMeaning)) if surety is not None else None,
        draw(st.none() | cameras()),
        draw(provenances),
    )
