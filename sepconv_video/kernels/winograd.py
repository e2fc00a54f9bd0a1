"""Vector code for 3x3 convolutions, for numba's loops in `convolution_cpu`.

Winograd's minimal filtering F(4x4, 3x3) (Lavin, Gray: Fast Algorithms for Convolutional Neural
Networks, CVPR 2016): 6x6 cells of the maps, transformed, times weights that are transformed
likewise make 4x4 cells of the result, with 36 multiplications for each two channels instead of
144. In single precision sums are wrong by some 1e-6 of their size.

Channels of a cell lie side by side, as many as CHANNELS divides.
"""
# ruff: noqa: ANN401 - the objects of numba's and llvmlite's builders carry no types

from collections.abc import Callable
from typing import Any, cast

from numba.core import cgutils, types
from numba.extending import intrinsic

from sepconv_video.kernels.vectors import Vectors, data, for_range

CHANNELS = 16  # the lanes of the widest vectors
SIDE, MADE = 6, 4  # cells a side of what is read, and of what is made of it
PLACES = SIDE * SIDE  # matrix products, one for each
TILES, OUTPUTS = 12, 32  # rows and columns of what `multiply` makes


def _type_transform(_: Any, target: Any, at: Any, source: Any, start: Any, sizes: Any) -> Any:
    """Transform 6x6 cells: target[at + k*plane + c] = (B^T source B)[k], for PLACES k.

    Args:
        target: Flat array.
        at: Flat index in it.
        source: Flat array.
        start: Flat index of the first cell in it.
        sizes: Distance of the rows of `source`; of cells; channels, a multiple of CHANNELS (what
            lies between cells is read, too); `plane`.
    """
    return types.void(target, at, source, start, sizes), _build_transform


def _build_transform(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    target, source = data(context, builder, signature, args, (0, 2))
    line, cell, channels, plane = (builder.extract_value(args[4], k) for k in range(4))
    v, word = Vectors(context, builder, target.type.pointee), line.type
    target, source = builder.gep(target, [args[1]]), builder.gep(source, [args[3]])
    rows = [builder.gep(source, [builder.mul(line, word(i))]) for i in range(SIDE)]
    columns = [builder.mul(cell, word(j)) for j in range(SIDE)]
    with for_range(builder, channels, v.lanes) as c:
        halves = [_transformed(v, [v.load(row, c, column) for row in rows]) for column in columns]
        for i, row in enumerate(zip(*halves, strict=True)):
            for j, value in enumerate(_transformed(v, list(row))):
                v.store(value, target, c, builder.mul(plane, word(i * SIDE + j)))
    return context.get_dummy_value()


def _transformed(v: Vectors, d: list[Any]) -> list[Any]:
    """Emit the transform of six values, B^T d."""
    add, sub, times = v.builder.fadd, v.builder.fsub, v.multiply_add
    two, four, minus_four, minus_five = (v.splat(value) for value in (2.0, 4.0, -4.0, -5.0))
    even, odd = times(d[2], minus_four, d[4]), times(d[1], minus_four, d[3])
    wide, twice = sub(d[4], d[2]), v.builder.fmul(sub(d[3], d[1]), two)
    return [
        times(d[0], four, times(d[2], minus_five, d[4])),
        add(even, odd),
        sub(even, odd),
        add(wide, twice),
        sub(wide, twice),
        times(d[1], four, times(d[3], minus_five, d[5])),
    ]


def _type_multiply(_: Any, product: Any, maps: Any, weights: Any, at: Any, sizes: Any) -> Any:
    """Multiply matrices: product[t, n] = sum_c maps[t, c] * weights[c, n].

    For TILES t, OUTPUTS n, and all c below a count.

    Args:
        product: Flat array.
        maps: Flat array.
        weights: Flat array, in rows of OUTPUTS.
        at: Flat index of the first element of each of the three.
        sizes: The count; distance of the rows of `maps`; of `product`.
    """
    return types.void(product, maps, weights, at, sizes), _build_multiply


def _build_multiply(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    product, maps, weights = (
        builder.gep(array, [builder.extract_value(args[3], k)])
        for k, array in enumerate(data(context, builder, signature, args, (0, 1, 2)))
    )
    count, maps_step, product_step = (builder.extract_value(args[4], k) for k in range(3))
    v, word = Vectors(context, builder, product.type.pointee), count.type
    vectors = 2  # which leave registers for the sums of so many rows
    rows = TILES if v.lanes * vectors == OUTPUTS else TILES // 2
    for left in range(0, OUTPUTS, v.lanes * vectors):
        lefts = [word(left + k * v.lanes) for k in range(vectors)]
        for top in range(0, TILES, rows):
            tiles = [word(top + t) for t in range(rows)]
            lines = [builder.gep(maps, [builder.mul(maps_step, tile)]) for tile in tiles]
            sums = v.cells(rows * vectors)
            with cgutils.for_range(builder, count, intp=word) as loop:
                row = builder.mul(loop.index, word(OUTPUTS))
                factors = [v.load(weights, row, first) for first in lefts]
                for t, line in enumerate(lines):
                    value = v.broadcast(builder.load(builder.gep(line, [loop.index])))
                    for factor, cell in zip(factors, sums[t * vectors :], strict=False):
                        builder.store(v.multiply_add(value, factor, builder.load(cell)), cell)
            for t, tile in enumerate(tiles):
                into = builder.gep(product, [builder.mul(product_step, tile)])
                for first, cell in zip(lefts, sums[t * vectors :], strict=False):
                    v.store(builder.load(cell), into, first)
    return context.get_dummy_value()


def _type_restore(
    _: Any, tile: Any, product: Any, start: Any, sizes: Any, bias: Any, slope: Any
) -> Any:
    """Make 4x4 cells: tile[(i*4 + j)*channels + c] = act((A^T product A)[i, j] + bias[c]).

    `act` is the leaky rectifier.

    Args:
        tile: Flat array.
        product: Flat array, as `multiply` leaves it for one tile.
        start: Flat index in it.
        sizes: Channels, a multiple of CHANNELS; distance of the PLACES.
        bias: Flat array, one for each channel.
        slope: Of the rectifier, below zero; 1 for none.
    """
    return types.void(tile, product, start, sizes, bias, slope), _build_restore


def _build_restore(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    tile, product, bias = data(context, builder, signature, args, (0, 1, 4))
    channels, plane = (builder.extract_value(args[3], k) for k in range(2))
    v, word = Vectors(context, builder, tile.type.pointee), channels.type
    product, slope = builder.gep(product, [args[2]]), v.broadcast(args[5])
    planes = [builder.mul(plane, word(k)) for k in range(PLACES)]
    with for_range(builder, channels, v.lanes) as c:
        halves = [
            _restored(v, [v.load(product, c, at) for at in planes[j::SIDE]]) for j in range(SIDE)
        ]
        added = v.load(bias, c)
        for i, row in enumerate(zip(*halves, strict=True)):
            for j, value in enumerate(_restored(v, list(row))):
                made = builder.fadd(value, added)
                is_positive = builder.fcmp_ordered(">", made, v.zero)
                made = builder.select(is_positive, made, builder.fmul(made, slope))
                v.store(made, tile, c, builder.mul(channels, word(i * MADE + j)))
    return context.get_dummy_value()


def _restored(v: Vectors, m: list[Any]) -> list[Any]:
    """Emit what four values are made of six by, A^T m."""
    add, sub, times = v.builder.fadd, v.builder.fsub, v.multiply_add
    near, far = add(m[1], m[2]), add(m[3], m[4])
    slant, steep = sub(m[1], m[2]), sub(m[3], m[4])
    return [
        add(add(m[0], near), far),
        times(steep, v.splat(2.0), slant),
        times(far, v.splat(4.0), near),
        add(times(steep, v.splat(8.0), slant), m[5]),
    ]


transform = cast("Callable[..., None]", intrinsic(_type_transform))
multiply = cast("Callable[..., None]", intrinsic(_type_multiply))
restore = cast("Callable[..., None]", intrinsic(_type_restore))
