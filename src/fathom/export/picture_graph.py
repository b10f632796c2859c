"""The steps before and after a network, written as ONNX, so that a file takes a picture and gives depth at its size.

They are those of `fathom.runtime.steps`. A resize along one axis is a matrix of weights, made inside the graph from the
two sizes: one formula serves every kernel and every size, and a matrix product means the same to every runtime, whose
own resize operators differ (half-pixel rules, antialiasing, footprints).

Reference: ONNX operator set 18; the kernels are those of Pillow's ``Image.resize``, the footprint mean is OpenCV's
INTER_AREA.
"""

from typing import Any

from fathom.errors import ModelError, require
from fathom.models.cards import InputSpec, ModelCard
from fathom.types import DepthKind

OPSET = 18
WIDEST_ASPECT = "8.0"
"""As in `fathom.runtime.steps`."""

_HEADER = '<ir_version: {ir_version}, opset_import: ["": 18]>'

# Weights of a resize from n to m samples, (m, n) float. In double: a start at sample 4000 has only 12 bits left after
# the point in float32. `{axis}` keeps names apart where the text is used twice.
_POSITIONS = """
  {axis}_nd = Cast<to: int = 11>({n})
  {axis}_md = Cast<to: int = 11>({m})
  {axis}_scale = Div({axis}_nd, {axis}_md)
  {axis}_outs = Range({axis}_zero, {axis}_md, {axis}_one)
  {axis}_out = Unsqueeze({axis}_outs, {axis}_last)
  {axis}_ins = Range({axis}_zero, {axis}_nd, {axis}_one)
  {axis}_in = Unsqueeze({axis}_ins, {axis}_first)
  {axis}_support = Max({axis}_scale, {axis}_one)
  {axis}_out_centre = Add({axis}_out, {axis}_half)
  {axis}_centre = Mul({axis}_out_centre, {axis}_scale)
  {axis}_in_centre = Add({axis}_in, {axis}_half)
  {axis}_gap = Sub({axis}_in_centre, {axis}_centre)
  {axis}_signed = Div({axis}_gap, {axis}_support)
  {axis}_distance = Abs({axis}_signed)
"""

_TRIANGLE = """
  {axis}_slope = Sub({axis}_one, {axis}_distance)
  {axis}_raw = Max({axis}_slope, {axis}_zero)
"""

# Keys' cubic with a = -0.5, in Horner form: 1.5 x^3 - 2.5 x^2 + 1 up to 1; -0.5 x^3 + 2.5 x^2 - 4 x + 2 up to 2.
_CUBIC = """
  {axis}_near1 = Mul({axis}_distance, {axis}_c15)
  {axis}_near2 = Sub({axis}_near1, {axis}_c25)
  {axis}_square = Mul({axis}_distance, {axis}_distance)
  {axis}_near3 = Mul({axis}_near2, {axis}_square)
  {axis}_near = Add({axis}_near3, {axis}_one)
  {axis}_far1 = Mul({axis}_distance, {axis}_half)
  {axis}_far2 = Sub({axis}_c25, {axis}_far1)
  {axis}_far3 = Mul({axis}_far2, {axis}_distance)
  {axis}_far4 = Sub({axis}_far3, {axis}_c4)
  {axis}_far5 = Mul({axis}_far4, {axis}_distance)
  {axis}_far = Add({axis}_far5, {axis}_two)
  {axis}_is_near = Less({axis}_distance, {axis}_one)
  {axis}_is_far = Less({axis}_distance, {axis}_two)
  {axis}_outer = Where({axis}_is_far, {axis}_far, {axis}_zero)
  {axis}_raw = Where({axis}_is_near, {axis}_near, {axis}_outer)
"""

_NORMALISE = """
  {axis}_total = ReduceSum<keepdims: int = 1>({axis}_raw, {axis}_last)
  {axis}_shares = Div({axis}_raw, {axis}_total)
"""

# The overlap of the input sample [j, j+1] with the footprint [i s, (i+1) s], over s; only where the axis shrinks.
_AREA = """
  {axis}_start = Mul({axis}_out, {axis}_scale)
  {axis}_stop = Add({axis}_start, {axis}_scale)
  {axis}_in_stop = Add({axis}_in, {axis}_one)
  {axis}_low = Max({axis}_in, {axis}_start)
  {axis}_high = Min({axis}_in_stop, {axis}_stop)
  {axis}_width = Sub({axis}_high, {axis}_low)
  {axis}_overlap = Max({axis}_width, {axis}_zero)
  {axis}_mean = Div({axis}_overlap, {axis}_scale)
  {axis}_shrinks = Greater({axis}_nd, {axis}_md)
  {axis}_chosen = Where({axis}_shrinks, {axis}_mean, {axis}_shares)
"""

_NUMBERS = (
    "double {axis}_zero = {{0.0}}, double {axis}_one = {{1.0}}, double {axis}_half = {{0.5}}, "
    "double {axis}_two = {{2.0}}, double {axis}_c4 = {{4.0}}, double {axis}_c15 = {{1.5}}, "
    "double {axis}_c25 = {{2.5}}, "
    "int64[1] {axis}_first = {{0}}, int64[1] {axis}_last = {{1}}"
)


def _weights(axis: str, n: str, m: str, interpolation: str) -> str:
    """Return statements that compute ``{axis}_weights``, (m, n) float, from the scalars `n` and `m`."""
    kernel = _CUBIC if interpolation == "bicubic" else _TRIANGLE
    text = _POSITIONS + kernel + _NORMALISE
    last = "shares"
    if interpolation == "area":
        text, last = text + _AREA, "chosen"
    return (text + f"  {{axis}}_weights = Cast<to: int = 1>({{axis}}_{last})\n").format(axis=axis, n=n, m=m)


def _whole(name: str, value: str) -> str:
    """Return statements for the nearest multiple, at least one: ``name`` (int64) from ``value`` (double)."""
    return f"""
  {name}_steps = Div({value}, multiple)
  {name}_rounded = Round({name}_steps)
  {name}_some = Max({name}_rounded, one)
  {name}_size = Mul({name}_some, multiple)
  {name} = Cast<to: int = 7>({name}_size)
"""


def _grid(spec: InputSpec) -> str:
    """Return statements that compute ``h`` and ``w`` (int64 scalars) from ``H`` and ``W``; see `grid_size`."""
    if spec.law == "area":
        return (
            """
  aspect = Div(Wd, Hd)
  aspect_low = Max(aspect, narrowest)
  aspect_in = Min(aspect_low, widest)
  h_square = Div(pixels, aspect_in)
  h_side = Sqrt(h_square)
  w_square = Mul(pixels, aspect_in)
  w_side = Sqrt(w_square)
"""
            + _whole("h", "h_side")
            + _whole("w", "w_side")
        )
    if spec.law == "keep_aspect":
        return (
            """
  scale_y = Div(height, Hd)
  scale_x = Div(width, Wd)
  change_y1 = Sub(one, scale_y)
  change_y = Abs(change_y1)
  change_x1 = Sub(one, scale_x)
  change_x = Abs(change_x1)
  by_width = Less(change_x, change_y)
  scale = Where(by_width, scale_x, scale_y)
  h_scaled = Mul(Hd, scale)
  h_side = Min(h_scaled, longest)
  w_scaled = Mul(Wd, scale)
  w_side = Min(w_scaled, longest)
"""
            + _whole("h", "h_side")
            + _whole("w", "w_side")
        )
    if spec.law == "native":
        # Rounded down: half a step less, then to the nearest; the shift of a hundredth keeps exact ties away.
        return (
            """
  h_less = Sub(Hd, half_step)
  w_less = Sub(Wd, half_step)
"""
            + _whole("h", "h_less")
            + _whole("w", "w_less")
        )
    return _whole("h", "height") + _whole("w", "width")


def _doubles(values: dict[str, float]) -> str:
    return ", ".join(f"double {name} = {{{value!r}}}" for name, value in values.items())


def _rounding(spec: InputSpec, axis: str, size_in: str, size_out: str, source: str, target: str) -> str:
    """Return statements that round to grey levels, as Pillow does with uint8.

    The footprint mean does not round; its growing axes go through Pillow and do.
    """
    text = f"""
  {axis}_floor = Max({source}, black)
  {axis}_bounded = Min({axis}_floor, white)
  {axis}_up = Add({axis}_bounded, half_level)
  {axis}_levels = Floor({axis}_up)
"""
    if spec.interpolation != "area":
        return text + f"  {target} = Identity({axis}_levels)\n"
    return (
        text
        + f"""
  {axis}_grows = Less({size_in}, {size_out})
  {target} = Where({axis}_grows, {axis}_levels, {source})
"""
    )


def _before(spec: InputSpec, ir_version: int) -> str:
    numbers = {
        "multiple": float(spec.multiple),
        "one": 1.0,
        "half_step": spec.multiple / 2 - 0.01,
        "height": float(spec.height or 0),
        "width": float(spec.width or 0),
        "longest": float(WIDEST_ASPECT) * max(spec.height or 0, spec.width or 0),
        "widest": float(WIDEST_ASPECT),
        "narrowest": 1 / float(WIDEST_ASPECT),
        "pixels": float(spec.area[0] * spec.area[1]) if spec.area else 0.0,
    }
    factor = ", ".join(repr(1.0 / (255.0 * std)) for std in spec.std)
    offset = ", ".join(repr(mean / std) for mean, std in zip(spec.mean, spec.std, strict=True))
    return (
        _HEADER.format(ir_version=ir_version)
        + f"""
before (uint8[B, H, W, 3] picture) => (float[B, 3, h, w] image, int64 H, int64 W)
<int64 axis_1 = {{1}}, int64 axis_2 = {{2}}, float black = {{0.0}}, float white = {{255.0}},
 float half_level = {{0.5}}, {_doubles(numbers)},
 float[3, 1, 1] factor = {{{factor}}}, float[3, 1, 1] offset = {{{offset}}},
 {_NUMBERS.format(axis="x")}, {_NUMBERS.format(axis="y")}>
{{
  shape = Shape(picture)
  H = Gather(shape, axis_1)
  W = Gather(shape, axis_2)
  Hd = Cast<to: int = 11>(H)
  Wd = Cast<to: int = 11>(W)
"""
        + _grid(spec)
        + _weights("x", "W", "w", spec.interpolation)
        + _weights("y", "H", "h", spec.interpolation)
        + """
  planes = Transpose<perm: ints = [0, 3, 1, 2]>(picture)
  levels = Cast<to: int = 1>(planes)
  x_turned = Transpose<perm: ints = [1, 0]>(x_weights)
  narrow = MatMul(levels, x_turned)
"""
        + _rounding(spec, "x", "W", "w", "narrow", "across")
        + """
  low = MatMul(y_weights, across)
"""
        + _rounding(spec, "y", "H", "h", "low", "resized")
        + """
  scaled = Mul(resized, factor)
  image = Sub(scaled, offset)
}
"""
    )


def _after(ir_version: int) -> str:
    return (
        _HEADER.format(ir_version=ir_version)
        + f"""
after (float[B, 1, h, w] raw, int64 H, int64 W) => (float[B, H, W] depth)
<int64 axis_2 = {{2}}, int64 axis_3 = {{3}}, int64[1] channel = {{1}},
 {_NUMBERS.format(axis="x")}, {_NUMBERS.format(axis="y")}>
{{
  shape = Shape(raw)
  h = Gather(shape, axis_2)
  w = Gather(shape, axis_3)
  map = Squeeze(raw, channel)
"""
        + _weights("x", "w", "W", "bilinear")
        + _weights("y", "h", "H", "bilinear")
        + """
  x_turned = Transpose<perm: ints = [1, 0]>(x_weights)
  wide = MatMul(map, x_turned)
  depth = MatMul(y_weights, wide)
}
"""
    )


def wrap_network(model: Any, card: ModelCard) -> Any:
    """Put the steps before and after the network into its graph.

    Args:
        model: ONNX model with the input ``image`` (B, 3, h, w) and the output ``depth`` (B, 1, h', w').
        card: Input law, kind.

    Returns:
        ONNX model with the input ``picture``, uint8 (B, H, W, 3), RGB, and the output ``depth``, float32 (B, H, W), in
        the card's kind.

    Raises:
        ModelError: If the law cannot be written as a graph.
    """
    onnx = require("onnx", "export", "Export to ONNX")
    if card.input.mirror_border:
        raise ModelError(
            f"{card.name} mirrors a border around the picture, which has no graph here. Use --graph network."
        )
    if card.kind is DepthKind.DISPARITY:
        raise ModelError(
            f"{card.name} gives disparity in pixels of the network's input, and the picture's size would change its "
            "meaning inside the graph. Use --graph network."
        )
    before = onnx.parser.parse_model(_before(card.input, model.ir_version))
    after = onnx.parser.parse_model(_after(model.ir_version))
    before = onnx.compose.add_prefix(before, "before/", rename_inputs=False, rename_outputs=False)
    after = onnx.compose.add_prefix(after, "after/", rename_inputs=False, rename_outputs=False)
    network = onnx.compose.add_prefix(model, "network/", rename_inputs=False, rename_outputs=False)
    # The shapes that the exporter noted carry its own symbols, which mean other things in the joined graph.
    del network.graph.value_info[:]
    image, raw = network.graph.input[0].name, network.graph.output[0].name
    joined = onnx.compose.merge_models(before, network, io_map=[("image", image)])
    # The last output is renamed, because "depth" is the name of the joined graph's own.
    joined = onnx.compose.add_prefix(joined, "inner/", rename_nodes=False, rename_edges=False, rename_inputs=False)
    names = [(f"inner/{name}", name if name in ("H", "W") else "raw") for name in (raw, "H", "W")]
    whole = onnx.compose.merge_models(joined, after, io_map=names)
    _drop_unused(whole.graph)
    return whole


def _drop_unused(graph: Any) -> None:
    """Drop constants that no statement of the chosen law uses."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
