"""Vector code for numba's loops in `cpu`, written in LLVM's vector types.

LLVM's own vectoriser keeps sums in memory, at a tenth of the speed. Almost all arithmetic happens
in `_emit_dots`: sums of products for each pixel of a vector, with taps that change from pixel to
pixel. Four rows of an image times the taps of two rows of output make eight sums, so that each
load serves more than one multiply-add.
"""
# ruff: noqa: ANN401 - the objects of numba's and llvmlite's builders carry no types

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 64  # pixels along x
GROUP = 4  # image rows that share a load of the taps
PAIR = 2  # rows of output that share a load of the image


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
        # not llvm.fma: without the instruction it would become a library call
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))

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
    """The arrays among an intrinsic's arguments, as numba's structures (data, shape, ...)."""
    return [context.make_array(signature.args[k])(context, builder, args[k]) for k in at]


def _type_filter(_: Any, sums: Any, patch: Any, start: Any, horizontal: Any, vertical: Any) -> Any:
    """Filter two rows of a block with their separable kernels.

    sums[o, x] = sum_ij patch[start + i*width + j + x] * horizontal[o, j, x] * vertical[o, i, x]
    for o in 0..1 and x below BLOCK, with `patch` seen as flat memory, `width` its last extent.

    Args:
        sums: Contiguous (PAIR, BLOCK), overwritten.
        patch: Contiguous (..., width).
        start: Flat index of the first element used.
        horizontal: Contiguous (PAIR, K, BLOCK).
        vertical: Contiguous (PAIR, K + GROUP, BLOCK), zero where a row of output has no tap.
    """
    return types.void(sums, patch, start, horizontal, vertical), _build_filter


def _build_filter(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    sums, patch, horizontal, vertical = _data(context, builder, signature, args, (0, 1, 3, 4))
    v = _Vectors(context, builder, sums.data.type.pointee)
    word = args[2].type
    width = cgutils.unpack_tuple(builder, patch.shape)[-1]  # type: ignore[no-untyped-call]
    K, padded = (cgutils.unpack_tuple(builder, t.shape)[1] for t in (horizontal, vertical))  # type: ignore[no-untyped-call]

    with cgutils.for_range_slice(builder, word(0), word(BLOCK), word(v.lanes)) as (x, _):  # type: ignore[no-untyped-call]
        totals = v.cells(PAIR)
        first = builder.gep(patch.data, [builder.add(args[2], x)])
        taps = [
            builder.gep(horizontal.data, [builder.add(builder.mul(word(o * BLOCK), K), x)])
            for o in range(PAIR)
        ]
        weights = [
            builder.gep(vertical.data, [builder.add(builder.mul(word(o * BLOCK), padded), x)])
            for o in range(PAIR)
        ]
        end = builder.add(K, word(PAIR - 1))
        with cgutils.for_range_slice(builder, word(0), end, word(GROUP)) as (i, _):  # type: ignore[no-untyped-call]
            lines = [builder.add(i, word(s)) for s in range(GROUP)]
            rows = [builder.gep(first, [builder.mul(line, width)]) for line in lines]
            dots = _emit_dots(v, rows, word(1), taps, K)
            for k, dot in enumerate(dots):
                total, line = totals[k // GROUP], lines[k % GROUP]
                weight = v.load(weights[k // GROUP], builder.mul(line, word(BLOCK)))
                builder.store(v.multiply_add(dot, weight, builder.load(total)), total)
        for o, total in enumerate(totals):
            v.store(builder.load(total), sums.data, word(o * BLOCK), x)
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
    target, source = (a.data for a in _data(context, builder, signature, args, (0, 2)))
    v = _Vectors(context, builder, target.type.pointee)
    near, far = v.splat(0.75), v.splat(0.25)
    at = [builder.gep(target, [builder.extract_value(args[1], o)]) for o in range(PAIR)]
    rows = [builder.gep(source, [builder.extract_value(args[3], r)]) for r in range(3)]
    word, numbers = cgutils.intp_t, ir.VectorType(ir.IntType(32), v.lanes)

    def mix(own: Any, other: Any) -> Any:
        return v.multiply_add(other, far, builder.fmul(own, near))

    for x in range(0, BLOCK // 2, v.lanes):
        cells = [[v.load(row, word(x + dx)) for dx in range(3)] for row in rows]
        for o in range(PAIR):
            before, own, after = (
                mix(middle, side) for middle, side in zip(cells[1], cells[2 * o], strict=True)
            )
            halves = mix(own, before), mix(own, after)
            for part in range(2):
                lanes = [(k // 2 + part * v.lanes // 2) + k % 2 * v.lanes for k in range(v.lanes)]
                mixed = builder.shuffle_vector(*halves, ir.Constant(numbers, lanes))
                v.store(mixed, at[o], word(2 * x + part * v.lanes))
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
    sums, rows, taps = (a.data for a in _data(context, builder, signature, args, (0, 1, 4)))
    v = _Vectors(context, builder, sums.type.pointee)
    across, along = (builder.extract_value(args[3], k) for k in (0, 1))
    word = args[5].type
    with cgutils.for_range_slice(builder, word(0), word(BLOCK), word(v.lanes)) as (x, _):  # type: ignore[no-untyped-call]
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
    target, source = (
        context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 2)
    )
    size = context.get_abi_sizeof(target.type.pointee)
    target, source = builder.gep(target, [args[1]]), builder.gep(source, [args[3]])
    cgutils.raw_memcpy(builder, target, source, args[4], size)  # type: ignore[no-untyped-call]
    return context.get_dummy_value()


copy_flat = cast("Callable[..., None]", intrinsic(_type_copy))
