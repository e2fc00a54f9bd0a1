"""Light on a CPU: frames brightened by maps that are enlarged on the way, a row at a time.

`light` says what for. numba is imported at the top, so import this module only when it is needed.
"""

from typing import Any

import numpy as np
from torch import Tensor

from sepconv_video.kernels.cpu import Array, as_array
from sepconv_video.kernels.frames_cpu import (
    LEAST_WARPED,
    ONE,
    ZERO,
    Buffers,
    Two,
    by_strips,
    enlarge_row,
)
from sepconv_video.kernels.vectors import bound, clamp, compiled, copy_flat

LOOKS = 0x2D53EC48  # as in `frames_cpu`
C = 3  # channels
HALF, THIRD, QUARTER = np.float32(0.5), np.float32(1 / 3), np.float32(0.25)
LEAST = np.float32(1e-3)  # keeps a share finite where nothing is allowed

Light = tuple[Array, Array]  # gain and offset of a picture, (C, h, w) each


def normalise(frames: Tensor, mean: Tensor, spread: Tensor, made: Tensor, side: int) -> None:
    """Do what `light.normalise` says."""
    N, channels, H, W = made.shape
    assert channels == frames.shape[1] == C
    single = made.float()  # the same, unless a test wants a half
    given, result, figures = as_array(frames), single.numpy(), (as_array(mean), as_array(spread))

    def work(n: int, rows: Two, own: Buffers) -> None:
        own_figures = side, *(one[n, 0, 0, 0] for one in figures)
        _normalise_strip(given[n], result[n], own[0], own_figures, rows)

    by_strips(work, N, H, ((side * W,),), is_small=N * H * W < LEAST_WARPED)
    if single is not made:
        made.copy_(single)


def relight(frames: Tensor, gain: Tensor, offset: Tensor) -> None:
    """Do what `light.relight` says."""
    N, channels, H, W = frames.shape
    assert channels == gain.shape[1] == offset.shape[1] == C
    single = frames.float()  # the same, unless they are halves
    given, maps = single.numpy(), (as_array(gain), as_array(offset))

    def work(n: int, rows: Two, own: Buffers) -> None:
        _relight_strip(given[n], (maps[0][n], maps[1][n]), own, rows)

    shapes = (gain.shape[3],), (W,), (W,)
    by_strips(work, N, H, shapes, is_small=N * H * W < LEAST_WARPED)
    if single is not frames:
        frames.copy_(single)


def hold(
    made: Tensor, left: Tensor, right: Tensor, allowed: Tensor, light: tuple[Tensor, ...]
) -> None:
    """Do what `light.hold` says."""
    N, _, H, W = made.shape
    assert all(maps.shape[1] == C for maps in (made, left, right, *light))
    given = [as_array(tensor) for tensor in (left, right, allowed)]
    result, maps = made.numpy(), [as_array(tensor) for tensor in light]

    def work(n: int, rows: Two, own: Buffers) -> None:
        own_light = tuple(one[n] for one in maps)
        arrays = result[n], given[0][n], given[1][n], given[2][n, 0], *own_light
        _hold_strip(arrays, own, rows)

    shapes = (2 * C, W), (4, W), (max(light[0].shape[3], allowed.shape[3]) + 2,)
    by_strips(work, N, H, shapes, is_small=N * H * W < LEAST_WARPED)


@compiled()
def _add_row(target: Array, row: Array) -> None:
    """Add a row, its last value repeated."""
    last = row[len(row) - 1]
    for x in range(min(len(row), len(target))):
        target[x] += row[x]
    for x in range(len(row), len(target)):
        target[x] += last


@compiled(called_from_python=True)
def _normalise_strip(
    frame: Array,
    made: Array,
    pixels: Array,
    figures: tuple[int, np.float32, np.float32],
    rows: Two,
) -> None:
    """Normalise some rows, from the first one to before the second.

    Args:
        frame: (C, h, w).
        made: (C, H, W).
        pixels: A buffer for the pixels of a row of what is made.
        figures: Side of a cell; mean and spread.
        rows: Of what is made.
    """
    side, mean, spread = figures
    for c in range(C):
        for y in range(*rows):
            pixels[:], row = ZERO, made[c, y]
            for k in range(side):
                _add_row(pixels, frame[c, clamp(side * y + k, 0, frame.shape[1] - 1)])
            if side == 1:
                for x in range(len(row)):
                    row[x] = (pixels[x] - mean) / spread
            else:
                for x in range(len(row)):
                    row[x] = (QUARTER * (pixels[2 * x] + pixels[2 * x + 1]) - mean) / spread


@compiled()
def _enlarge_line(target: Array, wide: Array, maps: Array, y: int) -> None:
    """Write a row of a map (h, w), enlarged bilinearly to the length of `target`, likewise high.

    By a multiple of 2, or not at all; `wide` is (w,) or longer.
    """
    h, w = maps.shape
    factor = len(target) // w
    if factor == 1:
        copy_flat(target, np.int64(0), maps[y], np.int64(0), w)
        return
    # pixels lie between the centres of two cells, at odd numbers of halves
    half, share = factor // 2, ONE / np.float32(factor)
    above = clamp((y - half + factor) // factor - 1, 0, h - 1)
    upper = maps[above]
    lower = maps[clamp((y - half + factor) // factor, 0, h - 1)]
    part = (np.float32((y - half + factor) % factor) + HALF) * share
    for x in range(w):
        wide[x] = upper[x] + part * (lower[x] - upper[x])
    for x in range(half):
        target[x], target[len(target) - 1 - x] = wide[0], wide[w - 1]
    for k in range(w - 1):
        step = (wide[k + 1] - wide[k]) * share
        first, row = wide[k] + HALF * step, target[half + k * factor : half + (k + 1) * factor]
        for x in range(factor):
            row[x] = first + step * np.float32(x)


@compiled(called_from_python=True)
def _relight_strip(frame: Array, light: Light, buffers: Buffers, rows: Two) -> None:
    """Brighten some rows of a frame (C, H, W), from the first one to before the second."""
    (gain, offset), (wide, gains, offsets), W = light, buffers, frame.shape[2]
    for y in range(*rows):
        for c in range(C):
            _enlarge_line(gains, wide, gain[c], y)
            _enlarge_line(offsets, wide, offset[c], y)
            row = frame[c, y]
            for x in range(W):
                row[x] = row[x] * gains[x] + offsets[x]


@compiled()
def _restore_row(
    own: Array, row: Array, light: Light, lines: tuple[Array, Array, Array], y: int
) -> None:
    """Take back from a row what `_relight_strip` did to it."""
    (gain, offset), (gains, offsets, wide) = light, lines
    _enlarge_line(gains, wide, gain, y)
    _enlarge_line(offsets, wide, offset, y)
    for x in range(len(row)):
        own[x] = (row[x] - offsets[x]) / gains[x]


@compiled(called_from_python=True)
def _hold_strip(arrays: tuple[Any, ...], buffers: Buffers, rows: Two) -> None:
    """Hold some rows, from the first one to before the second.

    Args:
        arrays: What was made and both frames, (C, H, W); what is allowed, (H/2, W/2); gain and
            offset of either frame, (C, h, w).
        buffers: (2*C, W), (4, W), (as wide as a map and 2 more,).
        rows: Of what was made.
    """
    made, left, right, allowed, gain, offset, gain_right, offset_right = arrays
    (seen, lines, wide), W = buffers, made.shape[2]
    limit, difference, gains, offsets = lines[0], lines[1], lines[2], lines[3]
    for y in range(*rows):
        enlarge_row(limit, wide, allowed, y)
        if limit.max() == ZERO:
            continue
        difference[:] = ZERO
        for c in range(C):
            before, after = seen[c], seen[C + c]
            _restore_row(before, left[c, y], (gain[c], offset[c]), (gains, offsets, wide), y)
            light = gain_right[c], offset_right[c]
            _restore_row(after, right[c, y], light, (gains, offsets, wide), y)
            for x in range(W):
                difference[x] += THIRD * abs(before[x] - after[x])
        for x in range(W):
            # all of it up to half of what is allowed
            share = (limit[x] - difference[x]) / (HALF * limit[x] + LEAST)
            difference[x] = bound(share, ZERO, ONE)
        for c in range(C):
            row, before, after = made[c, y], seen[c], seen[C + c]
            for x in range(W):
                row[x] += difference[x] * (HALF * (before[x] + after[x]) - row[x])
