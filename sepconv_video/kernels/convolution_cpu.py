"""3x3 convolutions on a CPU: numba loops over tiles of 4x4 cells.

`winograd` says how. oneDNN has the same, but PyTorch does not ask for it; ours takes half the time
of what it does. numba is imported at the top, so import this module only when it is needed.
"""

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sepconv_video.kernels.cpu import Array, run
from sepconv_video.kernels.frames_cpu import FAR, NEAR, ZERO, by_strips
from sepconv_video.kernels.vectors import clamp, compiled, copy_flat
from sepconv_video.kernels.winograd import (
    CHANNELS,
    MADE,
    OUTPUTS,
    PLACES,
    SIDE,
    TILES,
    multiply,
    restore,
    transform,
)

WINOGRAD = 0x6E59F7F8  # CRC-32 of `vectors.py` and `winograd.py`, as `VECTORS` of `cpu`
BLOCK = 3 * TILES  # tiles at once: their products are to stay in a core's cache
SHARES = 4  # of a thread, so that all end at the same time
LEAST_ENLARGED = 100_000  # fewer are done before a second thread has begun
FIRST = np.int64(0)

TRANSFORM = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
"""Of weights; that of maps, and that back, are in `winograd`."""

Buffers = tuple[Array, Array, Array]
Single = Any  # numpy.float32
Sizes = tuple[int, int, int, int, int]  # H, W, inputs, outputs, and tiles at once

# by weights, as long as there are any: a copy of them, and what they become
_transformed: MutableMapping[Tensor, tuple[Tensor, Array]] = WeakTensorKeyDictionary()


def convolve(
    maps: Tensor, weight: Tensor, bias: Tensor, slope: float, base: Tensor | None
) -> Tensor:
    """Compute `convolution.convolve`, for maps that are worth it."""
    N, inputs, H, W = maps.shape
    made = torch.empty(N, len(weight), H, W, memory_format=torch.channels_last)
    given, result = _flat(maps), _flat(made)
    added = result[:, :0] if base is None else _flat(base)
    tiles = -(-H // MADE) * -(-W // MADE)
    threads = torch.get_num_threads()
    block = BLOCK if tiles >= 2 * threads * BLOCK else TILES
    blocks = -(-tiles // block)
    each = max(1, blocks * N // (threads * SHARES))  # of them in a task
    tasks = -(-blocks // each)
    sizes = H, W, inputs, len(weight), block
    weights = transformed(weight)
    wide, columns = _padded(inputs, CHANNELS), _padded(len(weight), OUTPUTS)
    biases, rectifier = F.pad(bias, [0, columns - len(weight)]).numpy(), np.float32(slope)

    def work(own: Buffers, task: int) -> None:
        n, first = task // tasks, task % tasks * each * block
        here = given[n], result[n], added[n], weights, biases
        _convolve_tiles(here, sizes, own, (first, min(first + each * block, tiles)), rectifier)

    def buffers() -> Buffers:
        cells = PLACES * max(wide, columns)
        return (
            torch.empty(PLACES * block * wide).numpy(),
            torch.empty(PLACES * block * columns).numpy(),
            torch.empty(cells).numpy(),
        )

    run(work, N * tasks, (), buffers)
    return made


def add_enlarged(maps: Tensor, base: Tensor) -> Tensor:
    """Compute `convolution.add_enlarged`."""
    N, C, H, _ = base.shape
    made = base.contiguous(memory_format=torch.channels_last)
    given, result = _flat(maps).reshape(N, H // 2, -1), _flat(made).reshape(N, H, -1)

    def work(n: int, rows: tuple[int, int], own: tuple[Array, ...]) -> None:
        _enlarge_strip(given[n], result[n], own[0], C, rows)

    by_strips(work, N, H, ((given.shape[2] + 2 * C,),), is_small=base.numel() < LEAST_ENLARGED)
    return made


def transformed(weight: Tensor) -> Array:
    """Transform weights (outputs, inputs, 3, 3) for `winograd.multiply`; once, while they stay.

    Returns:
        Flat: (PLACES, outputs/OUTPUTS, inputs, OUTPUTS), padded with zeros.
    """
    kept = _transformed.get(weight)
    # not by PyTorch's count of changes, which misses those that are made by way of `data`
    if kept is None or not torch.equal(kept[0], weight):
        kept = weight.detach().clone(), _transform(weight)
        _transformed[weight] = kept
    return kept[1]


def _transform(weight: Tensor) -> Array:
    places = torch.einsum("ai,bj,ncij->abcn", TRANSFORM, TRANSFORM, weight.detach().double())
    outputs, inputs = weight.shape[:2]
    places = F.pad(places, [0, -outputs % OUTPUTS]).view(PLACES, inputs, -1, OUTPUTS)
    made: Array = places.transpose(1, 2).float().contiguous().view(-1).numpy()
    return made


def _flat(maps: Tensor) -> Array:
    """(N, C, H, W) to (N, H*W*C)."""
    flat: Array = maps.permute(0, 2, 3, 1).reshape(len(maps), -1).numpy()
    return flat


def _padded(size: int, multiple: int) -> int:
    return size + -size % multiple


@compiled()
def _gather(cells: Array, maps: Array, sizes: Sizes, at: tuple[int, int]) -> None:
    """Copy 6x6 cells from row and column `at` on, with zeros around the maps."""
    (H, W, inputs, _, _), (top, left) = sizes, at
    wide = len(cells) // PLACES
    cells[:] = ZERO
    for i in range(clamp(-top, 0, SIDE), clamp(H - top, 0, SIDE)):
        for j in range(clamp(-left, 0, SIDE), clamp(W - left, 0, SIDE)):
            source = ((top + i) * W + left + j) * inputs
            copy_flat(cells, (i * SIDE + j) * wide, maps, source, inputs)


@compiled()
def _put(
    result: Array, added: Array, tile: tuple[Array, int], sizes: Sizes, at: tuple[int, int]
) -> None:
    """Write 4x4 cells, of so many channels, from row and column `at` on, plus what is `added`."""
    (H, W, _, outputs, _), (top, left), (cells, columns) = sizes, at, tile
    for i in range(clamp(H - top, 0, MADE)):
        for j in range(clamp(W - left, 0, MADE)):
            into, source = ((top + i) * W + left + j) * outputs, (i * MADE + j) * columns
            to, own = result[into : into + outputs], cells[source : source + outputs]
            if len(added):
                base = added[into : into + outputs]
                for c in range(outputs):
                    to[c] = own[c] + base[c]
            else:
                copy_flat(to, FIRST, own, FIRST, outputs)


@compiled(called_from_python=True)
def _convolve_tiles(
    arrays: tuple[Array, Array, Array, Array, Array],
    sizes: Sizes,
    buffers: Buffers,
    tiles: tuple[int, int],
    slope: Single,
) -> None:
    """Convolve maps for some tiles, from the first one to before the second, row by row.

    Args:
        arrays: Maps, result, what is added to it (or nothing), weights and biases; flat.
        sizes: What is to be known of shapes, as all arrays come flat.
        buffers: Transformed maps, their products, and the cells of a tile.
        tiles: Numbers.
        slope: As `winograd.restore` wants it.
    """
    (maps, result, added, weights, bias), (spectra, products, cells) = arrays, buffers
    H, W, inputs, _, block = sizes
    across, columns = (W + MADE - 1) // MADE, len(bias)
    wide = len(spectra) // (PLACES * block)
    patch = cells[: PLACES * wide]
    for first in range(tiles[0], tiles[1], block):
        last = clamp(first + block, first, tiles[1])
        for tile in range(first, last):
            top, left = tile // across * MADE - 1, tile % across * MADE - 1
            spectrum, start = (tile - first) * wide, (top * W + left) * inputs
            end = start + ((SIDE - 1) * (W + 1)) * inputs + wide
            inside = top >= 0 and left >= 0 and top + SIDE <= H and left + SIDE <= W
            if inside and end <= len(maps):
                sides = W * inputs, inputs, wide, block * wide
                transform(spectra, spectrum, maps, start, sides)
            else:
                _gather(patch, maps, sizes, (top, left))
                sides = SIDE * wide, wide, wide, block * wide
                transform(spectra, spectrum, patch, FIRST, sides)
        for place in range(PLACES):
            for column in range(0, columns, OUTPUTS):
                factors = (place * columns + column) * inputs
                for row in range(place * block, place * block + last - first, TILES):
                    at = row * columns + column, row * wide, factors
                    multiply(products, spectra, weights, at, (inputs, wide, columns))
        for tile in range(first, last):
            source, shape = (tile - first) * columns, (columns, block * columns)
            restore(cells, products, source, shape, bias, slope)
            into = tile // across * MADE, tile % across * MADE
            _put(result, added, (cells, columns), sizes, into)


@compiled(called_from_python=True)
def _enlarge_strip(maps: Array, result: Array, wide: Array, C: int, rows: tuple[int, int]) -> None:
    """Add maps (h, w*C) to some rows of the result (2*h, 2*w*C); `wide` is (w*C + 2*C,)."""
    h, count = maps.shape
    for y in range(*rows):
        own, other = maps[y // 2], maps[clamp(y // 2 + y % 2 * 2 - 1, 0, h - 1)]
        centre, out = wide[C : C + count], result[y]
        for x in range(count):
            centre[x] = NEAR * own[x] + FAR * other[x]
        for c in range(C):
            wide[c], wide[C + count + c] = centre[c], centre[count - C + c]
        for x in range(count // C):
            before, here = wide[x * C : (x + 1) * C], wide[(x + 1) * C : (x + 2) * C]
            after, to = wide[(x + 2) * C : (x + 3) * C], out[2 * x * C : 2 * (x + 1) * C]
            for c in range(C):
                to[c] += NEAR * here[c] + FAR * before[c]
                to[C + c] += NEAR * here[c] + FAR * after[c]
