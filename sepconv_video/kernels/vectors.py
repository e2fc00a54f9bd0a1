"""Vector code for numba's loops in `cpu`, written in LLVM's vector types.

LLVM's own vectoriser keeps sums in memory, at a tenth of the speed. Almost all arithmetic happens
in `_emit_dots`: sums of products for each pixel of a vector, with taps that change from pixel to
pixel. Four rows of an image times the taps of two rows of output make eight sums, so that each
load serves more than one multiply-add.
"""
# ruff: noqa: ANN401 - the objects of numba's and llvmlite's builders carry no types

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 64  # pixels along x
GROUP = 4  # image rows that share a load of the taps
PAIR = 2  # rows of output that share a load of the image


not_kept: list[str] = []
"""Functions whose compiled code has no place to be kept for the next start."""

P = ParamSpec("P")
R = TypeVar("R")


def compiled(*, called_from_python: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give `numba.njit` a type, and our options.

    Of fast-math only the fusing of multiply and add is allowed: it makes sums more exact. A
    division by zero is no error, as a loop that looks out for one is not vectorised. The
    interpreter's lock is released, so that other threads work meanwhile. Without the wrappers
    that they do not need, inner functions compile faster. Where nothing can be kept, it is
    compiled at each start: see `operation.notes`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        def compile_(*, cache: bool) -> Callable[P, R]:
            made = numba.njit(  # type: ignore[call-overload]
                cache=cache,
                nogil=True,
                fastmath={"contract"},
                error_model="numpy",
                no_cpython_wrapper=not called_from_python,
                no_cfunc_wrapper=True,
            )(function)
            return cast("Callable[P, R]", made)

        try:
            return compile_(cache=True)
        except RuntimeError:  # neither the package nor the user's own folder can be written to
            not_kept.append(function.__name__)
            return compile_(cache=False)

    return decorate


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, which may be one instruction."""
    # not llvm.fma: without the instruction it would become a library call
    product = builder.fmul(a, b, flags=("contract",))
    return builder.fadd(product, c, flags=("contract",))


class Vectors:
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
        """Write a vector to such an address."""
        self.builder.store(vector, self._at(base, terms), align=self.align)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Emit a * b + c."""
        return multiply_add(self.builder, a, b, c)

    def splat(self, value: float) -> Any:
        """All lanes of a number."""
        return ir.Constant(self.type, [ir.Constant(self.element, value)] * self.lanes)

    def broadcast(self, value: Any) -> Any:
        """All lanes of a value that is known only later."""
        index = ir.IntType(32)
        one = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), value, index(0))
        first = ir.Constant(ir.VectorType(index, self.lanes), None)
        return self.builder.shuffle_vector(one, one, first)

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


def _emit_dots(v: Vectors, rows: list[Any], along: Any, taps: list[Any], count: Any) -> list[Any]:
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


def data(context: Any, builder: Any, signature: Any, args: Any, at: tuple[int, ...]) -> list[Any]:
    """Addresses of the arrays among an intrinsic's arguments."""
    return [context.make_array(signature.args[k])(context, builder, args[k]).data for k in at]


@contextmanager
def for_range(builder: Any, end: Any, step: int) -> Iterator[Any]:
    """Emit a loop from 0 to below `end`; gives the index."""
    word = end.type
    with cgutils.for_range_slice(builder, word(0), end, word(step)) as (index, _):
        yield index


def _fetch(builder: Any, address: Any) -> None:
    """Ask for what lies there, to be in the second cache when it is needed; anywhere will do."""
    pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")  # type: ignore[no-untyped-call]
    builder.call(ask, [builder.bitcast(address, pointer), word(0), word(2), word(1)])


def _type_filter(_: Any, total: Any, at: Any, patch: Any, sizes: Any, taps: Any, ahead: Any) -> Any:
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
            zero where a row of output has no tap; and that which the next taps will come from: far
            apart, so that no machine sees them coming.
        ahead: Flat index of the first of these, distances of taps and of the two rows, and whether
            (1 or 0) a map has half the columns.
    """
    return types.void(total, at, patch, sizes, taps, ahead), _build_filter


def _build_filter(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    total, patch = data(context, builder, signature, args, (0, 2))
    horizontal, vertical, maps = (
        context.make_array(signature.args[4][k])(
            context, builder, builder.extract_value(args[4], k)
        ).data
        for k in range(3)
    )
    first_sum, step = (builder.extract_value(args[1], k) for k in range(2))
    start, width, K = (builder.extract_value(args[3], k) for k in range(3))
    ahead, far, below, halved = (builder.extract_value(args[5], k) for k in range(4))
    v, word = Vectors(context, builder, total.type.pointee), start.type
    padded = builder.add(K, word(GROUP))

    def row_of_taps(taps: Any, count: Any, o: int, x: Any) -> Any:
        return builder.gep(taps, [builder.add(builder.mul(word(o * BLOCK), count), x)])

    with for_range(builder, word(BLOCK), v.lanes) as x:
        sums, first = v.cells(PAIR), builder.gep(patch, [builder.add(start, x)])
        taps = [row_of_taps(horizontal, K, o, x) for o in range(PAIR)]
        weights = [row_of_taps(vertical, padded, o, x) for o in range(PAIR)]
        with for_range(builder, builder.add(K, word(PAIR - 1)), GROUP) as i:
            lines = [builder.add(i, word(s)) for s in range(GROUP)]
            rows = [builder.gep(first, [builder.mul(line, width)]) for line in lines]
            column = builder.gep(maps, [builder.add(ahead, builder.ashr(x, halved))])
            for line in lines:
                upper = builder.gep(column, [builder.mul(line, far)])
                _fetch(builder, upper)
                _fetch(builder, builder.gep(upper, [below]))
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
    target, source = data(context, builder, signature, args, (0, 2))
    v = Vectors(context, builder, target.type.pointee)
    near, far = v.splat(0.75), v.splat(0.25)
    at = [builder.gep(target, [builder.extract_value(args[1], o)]) for o in range(PAIR)]
    rows = [builder.gep(source, [builder.extract_value(args[3], r)]) for r in range(3)]
    word, numbers = cgutils.intp_t, ir.VectorType(ir.IntType(32), v.lanes)

    def mix(own: Any, other: Any) -> Any:
        return v.multiply_add(other, far, builder.fmul(own, near))

    with for_range(builder, word(BLOCK // 2), v.lanes) as x:
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
    sums, rows, taps = data(context, builder, signature, args, (0, 1, 4))
    v = Vectors(context, builder, sums.type.pointee)
    across, along = (builder.extract_value(args[3], k) for k in (0, 1))
    word = args[5].type
    with for_range(builder, word(BLOCK), v.lanes) as x:
        first = builder.gep(rows, [builder.add(args[2], x)])
        starts = [builder.gep(first, [builder.mul(across, word(s))]) for s in range(GROUP)]
        dots = _emit_dots(v, starts, along, [builder.gep(taps, [x])], args[5])
        for s, dot in enumerate(dots):
            v.store(dot, sums, word(s * BLOCK), x)
    return context.get_dummy_value()


dot4 = cast("Callable[..., None]", intrinsic(_type_dot4))


def _type_copy(_: Any, target: Any, at: Any, source: Any, source_at: Any, count: Any) -> Any:
    """Copy `count` >= 0 elements between two arrays seen as flat memory.

    numba's own loop would test each index for being negative, which keeps it from vectorising.
    """
    return types.void(target, at, source, source_at, count), _build_copy


def _build_copy(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    target, source = data(context, builder, signature, args, (0, 2))
    size = context.get_abi_sizeof(target.type.pointee)
    target, source = builder.gep(target, [args[1]]), builder.gep(source, [args[3]])
    cgutils.raw_memcpy(builder, target, source, args[4], size)  # type: ignore[no-untyped-call]
    return context.get_dummy_value()


copy_flat = cast("Callable[..., None]", intrinsic(_type_copy))


def _type_copy_block(_: Any, target: Any, at: Any, source: Any, source_at: Any) -> Any:
    """Copy BLOCK elements likewise, without a call."""
    return types.void(target, at, source, source_at), _build_copy_block


def _build_copy_block(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    target, source = data(context, builder, signature, args, (0, 2))
    v, word = Vectors(context, builder, target.type.pointee), cgutils.intp_t
    for x in range(0, BLOCK, v.lanes):
        v.store(v.load(source, args[3], word(x)), target, args[1], word(x))
    return context.get_dummy_value()


_copy_block = cast("Callable[..., None]", intrinsic(_type_copy_block))


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
            if last - first == BLOCK == columns:
                _copy_block(target, into, source, origin)
                continue
            for x in range(first):
                target[into + x] = 0
            copy_flat(target, into + first, source, origin + first, last - first)
            for x in range(last, columns):
                target[into + x] = 0
