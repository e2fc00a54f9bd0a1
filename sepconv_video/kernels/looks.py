"""Vector code for looking places of frames up, for numba's loops in `frames_cpu` and `motion_cpu`.

Written in LLVM's vector types, as `vectors`: one look is a few loads of all channels of cells that
lie beside each other, which LLVM's own vectoriser does not see.
"""
# ruff: noqa: ANN401 - the objects of numba's and llvmlite's builders carry no types

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from sepconv_video.kernels.vectors import data, for_range, multiply_add

LANES = 4  # channels of a cell, and places looked up at once
BORDER = 3  # cells beyond the edges that a cubic may reach
CUBIC = -0.75  # the free parameter of cubic convolution (Keys, 1981), PyTorch's choice


def _type_look(_: Any, seen: Any, frame: Any, plane: Any, ys: Any, xs: Any, count: Any) -> Any:
    """Look a row of places of a frame up between four cells each, bilinearly, edges repeated.

    Places are taken LANES at a time: what lies beyond the last one of `ys`, `xs` and `seen` there
    is read and written, too.

    Args:
        seen: (LANES, width), overwritten: four channels of what is found.
        frame: Flat, single precision: LANES channels of a cell beside each other, and after the
            last cell some that may be anything but infinite or NaN: `stride` + 1 of them.
        plane: Cells from row to row in it; the frame's height and width.
        ys: Rows, anything; single precision, as are columns.
        xs: Columns.
        count: Number of places.
    """
    return types.void(seen, frame, plane, ys, xs, count), partial(_build_look, _mix_four)


def _type_look_cubic(
    _: Any, seen: Any, frame: Any, plane: Any, ys: Any, xs: Any, count: Any
) -> Any:
    """Do the same between sixteen cells each, bicubically; the frame has BORDER cells more around.

    They repeat its edges; height and width are without them.
    """
    return types.void(seen, frame, plane, ys, xs, count), partial(_build_look, _mix_sixteen)


def _build_look(mix: Any, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    seen, frame, ys, xs = data(context, builder, signature, args, (0, 1, 3, 4))
    stride, H, W = (builder.extract_value(args[2], k) for k in range(3))
    word, four, whole = stride.type, ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
    wholes = ir.VectorType(whole, LANES)
    width = builder.extract_value(
        context.make_array(signature.args[0])(context, builder, args[0]).shape, 1
    )
    before = 2 if mix is _mix_sixteen else 0  # cells beyond an edge where all is as at the edge

    def splat(value: Any) -> Any:
        kind = ir.VectorType(value.type, LANES)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, whole(0))
        return builder.shuffle_vector(first, first, ir.Constant(wholes, None))

    def split(places: Any, size: Any, x: Any) -> tuple[Any, Any]:
        """Whole cells, from 0, and what is left; held within the frame, NaN at its start."""
        low = ir.Constant(four, [ir.Constant(four.element, -before)] * LANES)
        most = builder.add(size, word(before - 1))
        high = splat(builder.sitofp(most, four.element))
        at = builder.load(builder.bitcast(builder.gep(places, [x]), four.as_pointer()), align=4)
        at = builder.select(builder.fcmp_ordered(">", at, low), at, low)
        at = builder.select(builder.fcmp_ordered("<", at, high), at, high)
        at = builder.fsub(at, low)  # not negative, so that it is rounded down
        cells = builder.fptosi(at, wholes)
        return cells, builder.fsub(at, builder.sitofp(cells, four))

    line = splat(builder.trunc(stride, whole))
    with for_range(builder, args[5], LANES) as x:
        (rows, down), (columns, across) = split(ys, H, x), split(xs, W, x)
        cells = builder.add(builder.mul(rows, line), columns)
        firsts = [
            builder.sext(builder.extract_element(cells, whole(k)), word) for k in range(LANES)
        ]

        def load(cell: Any, lanes: int) -> Any:
            kind = ir.VectorType(four.element, lanes)
            address = builder.gep(frame, [builder.mul(cell, word(LANES))])
            return builder.load(builder.bitcast(address, kind.as_pointer()), align=4)

        found = mix(builder, load, (firsts, stride), down, across)
        for c, channel in enumerate(_transpose(builder, found)):
            address = builder.gep(seen, [builder.add(builder.mul(width, word(c)), x)])
            builder.store(channel, builder.bitcast(address, four.as_pointer()), align=4)
    return context.get_dummy_value()


def _mix_four(builder: Any, load: Any, at: Any, down: Any, across: Any) -> list[Any]:
    """Mix the cells that are `at` these places, the rows first, as two cells are one load."""
    (firsts, stride), mixed = at, []
    for k, first in enumerate(firsts):
        upper, lower = load(first, 2 * LANES), load(builder.add(first, stride), 2 * LANES)
        both = multiply_add(
            builder, _pick(builder, down, [k] * 2 * LANES), builder.fsub(lower, upper), upper
        )
        left, right = _halves(builder, both)
        share = _pick(builder, across, [k] * LANES)
        mixed.append(multiply_add(builder, share, builder.fsub(right, left), left))
    return mixed


def _mix_sixteen(builder: Any, load: Any, at: Any, down: Any, across: Any) -> list[Any]:
    """Likewise; the four cells of a row are one load."""
    (firsts, stride), mixed = at, []
    by_rows = _cubic_weights(builder, down)
    by_columns = _transpose(builder, _cubic_weights(builder, across))  # of each place
    for k, first in enumerate(firsts):
        total = None
        for r, weights in enumerate(by_rows):
            row = load(builder.add(first, builder.mul(stride, stride.type(r))), 4 * LANES)
            weight = _pick(builder, weights, [k] * 4 * LANES)
            product = builder.fmul(row, weight, flags=("contract",))
            total = product if total is None else builder.fadd(product, total, flags=("contract",))
        each = [column for column in range(4) for _ in range(LANES)]
        total = builder.fmul(total, _pick(builder, by_columns[k], each))
        halves = [builder.fadd(*_halves(builder, half)) for half in _halves(builder, total)]
        mixed.append(builder.fadd(*halves))
    return mixed


def _cubic_weights(builder: Any, after: Any) -> list[Any]:
    """Weights of four cells in a row for places so far `after` the second one, 0 to 1."""

    def constant(value: float) -> Any:
        return ir.Constant(after.type, [ir.Constant(after.type.element, value)] * LANES)

    def polynomial(place: Any, *factors: float) -> Any:
        value = constant(factors[0])
        for factor in factors[1:]:
            value = multiply_add(builder, value, place, constant(factor))
        return value

    near, far = (CUBIC + 2, -CUBIC - 3, 0.0, 1.0), (CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC)
    one = constant(1.0)
    left = builder.fsub(one, after)
    return [
        polynomial(builder.fadd(one, after), *far),
        polynomial(after, *near),
        polynomial(left, *near),
        polynomial(builder.fadd(one, left), *far),
    ]


def _pick(builder: Any, vector: Any, lanes: Sequence[int], other: Any = None) -> Any:
    """Make a vector of some lanes of one, or of two, whose lanes follow those of the first."""
    numbers = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, vector if other is None else other, numbers)


def _halves(builder: Any, vector: Any) -> list[Any]:
    lanes = vector.type.count // 2
    return [_pick(builder, vector, range(start, start + lanes)) for start in (0, lanes)]


def _transpose(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """Turn four vectors of four."""
    low, high = (
        [_pick(builder, rows[k], lanes, rows[k + 2]) for k in range(2)]
        for lanes in ((0, 4, 1, 5), (2, 6, 3, 7))
    )
    return [
        _pick(builder, half[0], lanes, half[1])
        for half in (low, high)
        for lanes in ((0, 4, 1, 5), (2, 6, 3, 7))
    ]


look = cast("Callable[..., None]", intrinsic(_type_look))
look_cubic = cast("Callable[..., None]", intrinsic(_type_look_cubic))
