"""Maps on a CPU laid out one after the other, and made into taps on the way.

`operation.planar` and `taps.shape_taps` say what for. numba is imported at the top, so import this
module only when it is needed.
"""

import numpy as np
import torch
from torch import Tensor

from sepconv_video.kernels.cpu import Array, as_array, run
from sepconv_video.kernels.vectors import BLOCK, bound, clamp, compiled, copy_flat

LOOKS = 0x2D53EC48  # as in `frames_cpu`
TURNED = 4096  # pixels that are laid out at once
ZERO, ONE = np.float32(0), np.float32(1)


def planar(maps: Tensor, result: Tensor) -> Tensor:
    """Do what `operation.planar` says, in a fifth of the time.

    PyTorch would copy maps element by element.

    Args:
        maps: bfloat16 or float32.
        result: float32.
    """
    pixels, planes, shift = _as_bits(maps, result)
    run(_turn_strip, len(pixels) * _strips(pixels), (pixels, planes, shift))
    return result


def shape_taps(maps: Tensor, change: Tensor, K: int, most: float, result: Tensor) -> Tensor:
    """Do what `taps.shape_taps` says, for what `planar` can lay out."""
    pixels, planes, shift = _as_bits(maps, result)
    shares = as_array(change).reshape(len(planes), -1)

    def buffers() -> tuple[Array, Array]:
        block = torch.empty(planes.shape[1] + 2, BLOCK).numpy()
        return block, block.view(np.int32)

    arguments = (pixels, planes.view(np.float32), shares), (shift, K, np.float32(most))
    run(_taps_strip, len(pixels) * _strips(pixels), arguments, buffers)
    return result


def _as_bits(maps: Tensor, result: Tensor) -> tuple[Array, Array, int]:
    """Pixels (N, H*W, C), planes (N, C, H*W), and by how much bits are to be moved up."""
    N, C, H, W = maps.shape
    pixels = maps.permute(0, 2, 3, 1).reshape(N, H * W, C)
    # as bits: numba does not know bfloat16, which is the upper half of a float32
    shift = 16 if maps.dtype == torch.bfloat16 else 0
    given = pixels.view(torch.int16 if shift else torch.int32).numpy()
    return given, result.view(N, C, H * W).view(torch.int32).numpy(), shift


def _strips(pixels: Array) -> int:
    """How many strips of TURNED pixels a picture (N, pixels, C) has."""
    count: int = pixels.shape[1]
    return -(-count // TURNED)


@compiled()
def _turn_block(block: Array, planes: Array, first: int, shift: int) -> None:
    """Copy pixels (some, C) to planes (C or more, all), from the first one on, bits moved up."""
    size, C = block.shape
    for c in range(C):
        row = planes[c, first : first + size]
        for x in range(size):
            row[x] = np.int32(block[x, c]) << np.int32(shift)


@compiled(called_from_python=True)
def _turn_strip(pixels: Array, planes: Array, shift: int, task: int) -> None:
    """Copy TURNED pixels (N, count, C) to planes (N, C, count), bits moved up by `shift`."""
    count = planes.shape[2]
    strips = (count + TURNED - 1) // TURNED
    n, start = task // strips, task % strips * TURNED
    for first in range(start, clamp(count, start, start + TURNED), BLOCK):
        size = clamp(count - first, 0, BLOCK)
        _turn_block(pixels[n, first : first + size], planes[n], first, shift)


@compiled()
def _sum_up(taps: Array, means: Array, sizes: Array) -> None:
    """Write the means of what was predicted (K, BLOCK), and absolute sums of the rest."""
    share = ONE / np.float32(len(taps))
    means[:], sizes[:] = ZERO, ZERO
    for k in range(len(taps)):
        for x in range(BLOCK):
            means[x] += taps[k, x] * share
    for k in range(len(taps)):
        for x in range(BLOCK):
            sizes[x] += abs(taps[k, x] - means[x])


@compiled()
def _make_taps(taps: Array, change: Array, most: np.float32, sums: Array) -> None:
    """Overwrite what was predicted (K, BLOCK) with taps; `sums` is a buffer, (2, BLOCK)."""
    means, shares = sums[0], sums[1]
    _sum_up(taps, means, shares)
    for x in range(len(change)):
        shares[x] = bound(most / shares[x], ZERO, change[x])
    for k in range(len(taps)):
        for x in range(BLOCK):
            taps[k, x] = shares[x] * (taps[k, x] - means[x])
    for x in range(BLOCK):
        taps[len(taps) // 2, x] += ONE


@compiled(called_from_python=True)
def _taps_strip(
    arrays: tuple[Array, Array, Array],
    figures: tuple[int, int, np.float32],
    buffers: tuple[Array, Array],
    task: int,
) -> None:
    """Do what `_turn_strip` does, but make taps of the last maps.

    Args:
        arrays: Pixels and planes, as there; change (N, count).
        figures: By how much bits are moved up; K; absolute sum of what is predicted, at most.
        buffers: The same (C + 2, BLOCK) as float32 and as bits: planes lie at distances at which
            they push each other out of the cache.
        task: Number of the strip.
    """
    (pixels, planes, change), (shift, K, most), (block, bits) = arrays, figures, buffers
    C, count = planes.shape[1:]
    strips = (count + TURNED - 1) // TURNED
    n, start = task // strips, task % strips * TURNED
    for first in range(start, clamp(count, start, start + TURNED), BLOCK):
        size = clamp(count - first, 0, BLOCK)
        _turn_block(pixels[n, first : first + size], bits, 0, shift)
        for q in range(4):
            taps = block[C - (4 - q) * K : C - (3 - q) * K]
            _make_taps(taps, change[n, first : first + size], most, block[C:])
        for c in range(C):
            copy_flat(planes[n, c], first, block[c], 0, size)
