"""Vector code for numba's loops in `cpu`, written in LLVM's vector types.

LLVM's own vectoriser keeps sums in memory, at a tenth of the speed. Almost all arithmetic happens
in `_emit_dots`: sums of products for each pixel of a vector, with taps that change from pixel to
pixel. Four rows of an image times the taps of two rows of output make eight sums, so that each
load serves more than one multiply-add.
"""
# ruff: noqa: ANN401 - the objects of numba's and llvmlite's builders carry no types

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 64  # pixels along x
GROUP = 4  # image rows that share a load of the taps
PAIR = 2  # rows of output that share a load of the image


P = ParamSpec("P")
R = TypeVar("R")


def compiled(*, called_from_python: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give `numba.njit` a type, and our options.

    Of fast-math only the fusing of multiply and add is allowed: it makes sums more exact. The
    interpreter's lock is released, so that other threads work meanwhile. Without the wrappers
    that they do not need, inner functions compile faster.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        compile_ = numba.njit(  # type: ignore[call-overload]
            cache=True,
            nogil=True,
            fastmath={"contract"},
            no_cpython_wrapper=not called_from_python,
            no_cfunc_wrapper=True,
        )
        return cast("Callable[P, R]", compile_(function))

    return decorate


class _Vectors:
    """Loads, stores and multiply-adds of one vector type, for the functions that emit code."""

    def __init__(self, context: Any, builder: Any, element: Any) -> None:
        """Choose as many lanes as the eight sums of a pass leave registers for."""
        wide = "+avx512f" in context.codegen().magic_tuple()[2]  # 32 registers, not 16
        self.lanes = 16 if wide else 8
        self.builder, self.align = builder, 4 if isinstance(element, ir.FloatType) else 8
        self.element, self.type = element, ir.VectorType(element, self.lanes)
        self.zero = ir.Constant(self.type, None)

    def load(self, base: Any, *terms: Any) -> Any:
        """Vector at an address, moved by the sum of the terms."""
        return self.builder.load(self._at(base, terms), align=self.align)

    def store(self, vector: Any, base: Any, *terms: Any) -> None:
        self.builder.store(vector, self._at(base, terms), align=self.align)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return _multiply_add(self.builder, a, b, c)

    def splat(self, value: float) -> Any:
        return ir.Constant(self.type, [ir.Constant(self.element, value)] * self.lanes)

    def cells(self, count: int) -> list[Any]:
        """Variables for sums, which LLVM keeps in registers; zero."""
        made = [cgutils.alloca_once(self.builder, self.type) for _ in range(count)]  # type: ignore[no-untyped-call]
        for cell in made:
            self.builder.store(self.zero, cell)
        return made

    def _at(self, base: Any, terms: Any) -> Any:
        for term in terms:
            base = self.builder.gep(base, [term])
        return self.builder.bitcast(base, self.type.as_pointer())


def _emit_dots(v: _Vectors, rows: list[Any], along: Any, taps: list[Any], count: Any) -> list[Any]:
    """Emit sums[o * len(rows) + r] = sum_t rows[r][t*along] * taps[o][t*BLOCK] for one vector.

    Args:
        v: The vector type.
        rows: Addresses of the first element of each row.
        along: Distance of the elements that consecutive taps meet.
        taps: Addresses of the first tap of each set.
        count: Number of taps.
    """
    builder, word = v.builder, count.type
    cells = v.cells(len(rows) * len(taps))
    with cgutils.for_range(builder, count, intp=word) as loop:
        step, tap_step = builder.mul(loop.index, along), builder.mul(loop.index, word(BLOCK))
        tap_vectors = [v.load(tap, tap_step) for tap in taps]
        for r, row in enumerate(rows):
            row_vector = v.load(row, step)
            for o, tap in enumerate(tap_vectors):
                cell = cells[o * len(rows) + r]
                builder.store(v.multiply_add(row_vector, tap, builder.load(cell)), cell)
    return [builder.load(cell) for cell in cells]


def _data(context: Any, builder: Any, signature: Any, args: Any, at: tuple[int, ...]) -> list[Any]:
    """Addresses of the arrays among an intrinsic's arguments."""
    return [context.make_array(signature.args[k])(context, builder, args[k]).data for k in at]


@contextmanager
def _for_range(builder: Any, end: Any, step: int) -> Iterator[Any]:
    """Emit a loop from 0 to below `end`; gives the index."""
    word = end.type
    with cgutils.for_range_slice(builder, word(0), end, word(step)) as (index, _):
        yield index


def _type_filter(_: Any, total: Any, at: Any, patch: Any, sizes: Any, taps: Any) -> Any:
    """Add two rows of a block, each pixel filtered with its own separable kernel, to `total`.

    total[first + o*step + x] += sum_ij
        patch[start + i*width + j + x] * horizontal[o, j, x] * vertical[o, i, x]
    for o in 0..1 and x below BLOCK.

    Args:
        total: Flat array.
        at: Flat index of the first sum, and the distance of the two rows.
        patch: Flat array.
        sizes: Flat index of the first element of the patch used, its width, and K.
        taps: Flat arrays of horizontal (PAIR, K, BLOCK), and of vertical (PAIR, K + GROUP, BLOCK),
            zero where a row of output has no tap.
    """
    return types.void(total, at, patch, sizes, taps), _build_filter


def _build_filter(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    total, patch = _data(context, builder, signature, args, (0, 2))
    horizontal, vertical = (
        context.make_array(signature.args[4][k])(
            context, builder, builder.extract_value(args[4], k)
        ).data
        for k in range(2)
    )
    first_sum, step = (builder.extract_value(args[1], k) for k in range(2))
    start, width, K = (builder.extract_value(args[3], k) for k in range(3))
    v, word = _Vectors(context, builder, total.type.pointee), start.type
    padded = builder.add(K, word(GROUP))

    def row_of_taps(taps: Any, count: Any, o: int, x: Any) -> Any:
        return builder.gep(taps, [builder.add(builder.mul(word(o * BLOCK), count), x)])

    with _for_range(builder, word(BLOCK), v.lanes) as x:
        sums, first = v.cells(PAIR), builder.gep(patch, [builder.add(start, x)])
        taps = [row_of_taps(horizontal, K, o, x) for o in range(PAIR)]
        weights = [row_of_taps(vertical, padded, o, x) for o in range(PAIR)]
        with _for_range(builder, builder.add(K, word(PAIR - 1)), GROUP) as i:
            lines = [builder.add(i, word(s)) for s in range(GROUP)]
            rows = [builder.gep(first, [builder.mul(line, width)]) for line in lines]
            for k, dot in enumerate(_emit_dots(v, rows, word(1), taps, K)):
                cell, line = sums[k // GROUP], lines[k % GROUP]
                weight = v.load(weights[k // GROUP], builder.mul(line, word(BLOCK)))
                builder.store(v.multiply_add(dot, weight, builder.load(cell)), cell)
        for o, cell in enumerate(sums):
            where = (total, first_sum, builder.mul(word(o), step), x)
            v.store(builder.fadd(builder.load(cell), v.load(*where)), *where)
    return context.get_dummy_value()


filter_pair = cast("Callable[..., None]", intrinsic(_type_filter))


def _type_enlarge(_: Any, target: Any, at: Any, source: Any, rows: Any) -> Any:
    """Enlarge a piece of a map twice, bilinearly, to two rows of BLOCK pixels.

    Pixel centres lie at a quarter and three quarters of a cell (`align_corners=False`).

    Args:
        target: Contiguous; any shape.
        at: Flat indices in `target` of the upper and the lower row.
        source: Contiguous; any shape.
        rows: Flat indices in `source` of three consecutive rows of BLOCK/2 + 2 cells: those of
            the two rows lie in the middle, with one neighbour on each side.
    """
    return types.void(target, at, source, rows), _build_enlarge


def _build_enlarge(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    target, source = _data(context, builder, signature, args, (0, 2))
    v = _Vectors(context, builder, target.type.pointee)
    near, far = v.splat(0.75), v.splat(0.25)
    at = [builder.gep(target, [builder.extract_value(args[1], o)]) for o in range(PAIR)]
    rows = [builder.gep(source, [builder.extract_value(args[3], r)]) for r in range(3)]
    word, numbers = cgutils.intp_t, ir.VectorType(ir.IntType(32), v.lanes)

    def mix(own: Any, other: Any) -> Any:
        return v.multiply_add(other, far, builder.fmul(own, near))

    with _for_range(builder, word(BLOCK // 2), v.lanes) as x:
        cells = [[v.load(row, x, word(dx)) for dx in range(3)] for row in rows]
        for o in range(PAIR):
            before, own, after = (
                mix(middle, side) for middle, side in zip(cells[1], cells[2 * o], strict=True)
            )
            halves = mix(own, before), mix(own, after)
            for part in range(2):
                lanes = [(k // 2 + part * v.lanes // 2) + k % 2 * v.lanes for k in range(v.lanes)]
                mixed = builder.shuffle_vector(*halves, ir.Constant(numbers, lanes))
                v.store(mixed, at[o], x, x, word(part * v.lanes))
    return context.get_dummy_value()


enlarge = cast("Callable[..., None]", intrinsic(_type_enlarge))


def _type_dot4(_: Any, sums: Any, rows: Any, start: Any, steps: Any, taps: Any, count: Any) -> Any:
    """Set sums[s, x] = sum_t rows[start + s*steps[0] + t*steps[1] + x] * taps[t, x].

    For s in 0..3, t below `count` and x below BLOCK, with `rows` seen as flat memory.

    Args:
        sums: Contiguous (4, BLOCK), overwritten.
        rows: Contiguous array of any shape.
        start: Flat index of the first element used.
        steps: Flat distance between sums, and between taps.
        taps: Contiguous (>= count, BLOCK).
        count: Number of taps.
    """
    return types.void(sums, rows, start, steps, taps, count), _build_dot4


def _build_dot4(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    sums, rows, taps = _data(context, builder, signature, args, (0, 1, 4))
    v = _Vectors(context, builder, sums.type.pointee)
    across, along = (builder.extract_value(args[3], k) for k in (0, 1))
    word = args[5].type
    with _for_range(builder, word(BLOCK), v.lanes) as x:
        first = builder.gep(rows, [builder.add(args[2], x)])
        starts = [builder.gep(first, [builder.mul(across, word(s))]) for s in range(GROUP)]
        dots = _emit_dots(v, starts, along, [builder.gep(taps, [x])], args[5])
        for s, dot in enumerate(dots):
            v.store(dot, sums, word(s * BLOCK), x)
    return context.get_dummy_value()


dot4 = cast("Callable[..., None]", intrinsic(_type_dot4))


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


LANES = 4  # channels of a cell, and places looked up at once
BORDER = 3  # cells beyond the edges that a cubic may reach
CUBIC = -0.75  # the free parameter of cubic convolution (Keys, 1981), PyTorch's choice


def _build_look(mix: Any, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    seen, frame, ys, xs = _data(context, builder, signature, args, (0, 1, 3, 4))
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
    with _for_range(builder, args[5], LANES) as x:
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
        both = _multiply_add(
            builder, _pick(builder, down, [k] * 2 * LANES), builder.fsub(lower, upper), upper
        )
        left, right = _halves(builder, both)
        share = _pick(builder, across, [k] * LANES)
        mixed.append(_multiply_add(builder, share, builder.fsub(right, left), left))
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
            value = _multiply_add(builder, value, place, constant(factor))
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


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    # not llvm.fma: without the instruction it would become a library call
    product = builder.fmul(a, b, flags=("contract",))
    return builder.fadd(product, c, flags=("contract",))


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


def _type_copy(_: Any, target: Any, at: Any, source: Any, source_at: Any, count: Any) -> Any:
    """Copy `count` >= 0 elements between two arrays seen as flat memory.

    numba's own loop would test each index for being negative, which keeps it from vectorising.
    """
    return types.void(target, at, source, source_at, count), _build_copy


def _build_copy(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    target, source = _data(context, builder, signature, args, (0, 2))
    size = context.get_abi_sizeof(target.type.pointee)
    target, source = builder.gep(target, [args[1]]), builder.gep(source, [args[3]])
    cgutils.raw_memcpy(builder, target, source, args[4], size)  # type: ignore[no-untyped-call]
    return context.get_dummy_value()


copy_flat = cast("Callable[..., None]", intrinsic(_type_copy))


def _type_clamp(_: Any, value: Any, low: Any, high: Any) -> Any:
    """Return `value`, or the nearer of `low` and `high`; numba's min and max compile slowly."""
    return types.intp(types.intp, types.intp, types.intp), _build_clamp


def _build_clamp(_: Any, builder: Any, __: Any, args: Any) -> Any:
    value, low, high = args
    value = builder.select(builder.icmp_signed("<", value, high), value, high)
    return builder.select(builder.icmp_signed(">", value, low), value, low)


def _type_bound(_: Any, value: Any, low: Any, high: Any) -> Any:
    """Do the same for single precision; NaN becomes `low`."""
    single = types.float32
    return single(single, single, single), _build_bound


def _build_bound(_: Any, builder: Any, __: Any, args: Any) -> Any:
    value, low, high = args
    value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
    return builder.select(builder.fcmp_ordered("<", value, high), value, high)


clamp = cast("Callable[[int, int, int], int]", intrinsic(_type_clamp))
bound = cast("Callable[[Any, Any, Any], Any]", intrinsic(_type_bound))


@compiled()
def load(target: Any, source: Any, plane: Any, window: Any, stack: Any) -> None:
    """Copy a window of each of some planes into a buffer, with zeros where it leaves the plane.

    target[k*next + r*columns + x] = source[start + k*jump + r*step + left + r*skew + x]

    Args:
        target: Flat array.
        source: Flat array.
        plane: Flat index of the first plane's first row and column to use; flat distance of its
            rows; number of rows from there on; number of columns.
        window: Its rows and columns; the plane's column where it starts, which may be negative;
            columns that it moves right with every row.
        stack: Number of planes; flat distance between their windows in the target; flat
            distance between the planes.
    """
    (start, step, height, width), (rows, columns, left, skew) = plane, window
    for k in range(stack[0]):
        for r in range(rows):
            begin = left + r * skew
            first = clamp(-begin, 0, columns) if r < height else columns
            last = clamp(width - begin, first, columns)
            into = k * stack[1] + r * columns
            origin = start + k * stack[2] + r * step + begin
            for x in range(first):
                target[into + x] = 0
            copy_flat(target, into + first, source, origin + first, last - first)
            for x in range(last, columns):
                target[into + x] = 0
