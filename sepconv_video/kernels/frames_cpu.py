"""Frames and maps on a CPU: moved by a motion, averaged, reduced.

`motion.warp`, `gather`, `differ`, `box` and `halve` say what for. numba is imported at the top, so
import this module only when it is needed.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sepconv_video.kernels.cpu import Array, as_array, run
from sepconv_video.kernels.looks import BORDER, LANES, look, look_cubic
from sepconv_video.kernels.motion import MODES, Warping, Weights
from sepconv_video.kernels.vectors import clamp, compiled, copy_flat

LOOKS = 0x2D53EC48  # CRC-32 of `vectors.py` and `looks.py`, as `VECTORS` of `cpu`
LEAST_ROWS = 16  # of a strip
STRIPS = 2  # for each thread, so that all end at the same time
LEAST_WARPED, LEAST_BOXED = 50_000, 300_000  # fewer are done before a second thread has begun
NEAR, FAR = np.float32(0.75), np.float32(0.25)  # shares of two cells between which a pixel lies
BILINEAR, BICUBIC, NEAREST = range(3)  # as in `MODES`
ZERO, ONE = np.float32(0), np.float32(1)

Buffers = tuple[Array, ...]
Shapes = tuple[tuple[int, ...], ...]
Two = tuple[int, int]
Plane = tuple[int, int, int]  # as `look` wants it
Warped = tuple[int, int, int, int]  # number of the mode, factor, corner


def by_strips(
    work: Callable[[int, Two, Buffers], None],
    pictures: int,
    height: int,
    shapes: Shapes = (),
    *,
    is_small: bool,
) -> None:
    """Share the rows of some pictures out to threads, in strips.

    Args:
        work: Called with the number of a picture, its first row and that before which it ends, and
            the thread's buffers.
        pictures: How many.
        height: Of each.
        shapes: Of the buffers of a thread.
        is_small: Whether all is done before a second thread has begun.
    """
    # the more rows, the less is worked out twice
    rows = max(LEAST_ROWS, pictures * height // (STRIPS * torch.get_num_threads()))
    strips = -(-height // rows)

    def strip(own: Buffers, task: int) -> None:
        n, top = task // strips, task % strips * rows
        work(n, (top, min(top + rows, height)), own)

    def buffers() -> Buffers:
        return tuple(torch.empty(shape).numpy() for shape in shapes)

    run(strip, pictures * strips, (), buffers, alone=is_small)


def interleaved(frames: Tensor, border: int = 0) -> Array:
    """Lay frames (N, up to 4 channels, H, W) out as `look` wants them, one in each row."""
    N, channels, H, W = frames.shape
    assert channels <= LANES
    height, width = H + 2 * border, W + 2 * border
    given = as_array(frames)
    made: Array = torch.empty(N, (height * width + width + 1) * LANES).numpy()
    zeros = np.zeros(W, np.float32)

    def work(n: int, rows: Two, _: Buffers) -> None:
        _interleave_strip(made[n], given[n], zeros, border, rows)

    # two rows more: what follows the last cell
    by_strips(work, N, height + 2, is_small=N * H * W < LEAST_WARPED)
    return made


def warp(frames: Tensor, motion: Tensor, how: Warping) -> Tensor:
    """Do what `motion.warp` says."""
    factor, border = how.factor, BORDER if how.mode == "bicubic" else 0
    height, width = (factor * size for size in motion.shape[2:])
    frames, corner = _looked_at(frames, motion, how)
    N, channels, H, W = frames.shape
    made = torch.empty(N, channels, height, width)
    given, field, result = interleaved(frames, border), as_array(motion), made.numpy()
    figures = MODES.index(how.mode), factor, *corner

    plane = W + 2 * border, H, W

    def work(n: int, rows: Two, own: Buffers) -> None:
        _warp_strip((given[n], field[n], result[n]), plane, figures, own, rows)

    shapes = (LANES, width + LANES - 1), (2, width + LANES - 1), (motion.shape[3] + 2,)
    by_strips(work, N, height, shapes, is_small=N * height * width < LEAST_WARPED)
    return made


def gather(frames: Tensor, motion: Tensor, corner: Two, maps: Tensor) -> None:
    """Do what `motion.gather` says."""
    how = Warping("bilinear", corner, 2)
    frames, corner = _looked_at(frames, motion, how)
    (N, _, H, W), (h, w) = frames.shape, motion.shape[2:]
    given, field = interleaved(frames), as_array(motion)
    result, figures = maps.permute(0, 2, 3, 1).numpy(), (MODES.index(how.mode), 2, *corner)

    def work(n: int, rows: Two, own: Buffers) -> None:
        _gather_strip((given[n], field[n], result[n]), (W, H, W), figures, own, rows)

    shapes = (LANES, 2 * w + LANES - 1), (2, 2 * w + LANES - 1), (w + 2,)
    by_strips(work, N, h, shapes, is_small=4 * N * h * w < LEAST_WARPED)


def differ(left: Tensor, right: Tensor, motions: Sequence[Tensor]) -> Tensor:
    """Do what `motion.differ` says."""
    N, channels, H, W = left.shape
    made = torch.empty(N, len(motions), H, W)
    frames, result = (interleaved(left), interleaved(right)), made.numpy()
    fields, plane = [as_array(motion) for motion in motions], (W, H, W)

    def work(k: int, rows: Two, own: Buffers) -> None:
        n, number = k // len(fields), k % len(fields)
        arrays = frames[0][n], frames[1][n], fields[number][n], result[n, number]
        _differ_strip(arrays, plane, channels, own, rows)

    width = W + LANES - 1
    shapes = (LANES, width), (LANES, width), (2, width), (W + 2,)
    by_strips(work, N * len(fields), H, shapes, is_small=N * H * W < LEAST_WARPED)
    return made


def _looked_at(frames: Tensor, motion: Tensor, how: Warping) -> tuple[Tensor, Two]:
    """Cut out what a motion leads to: of a large frame a tile needs a part; and its new corner."""
    sizes = [how.factor * size for size in motion.shape[2:]]
    if sizes == list(frames.shape[2:]):
        return frames, how.corner
    ends = torch.stack((motion.amin((0, 2, 3)), motion.amax((0, 2, 3))))
    if not ends.isfinite().all():
        return frames, how.corner
    cuts = []
    for corner, size, whole, (least, most) in zip(
        how.corner, sizes, frames.shape[2:], ends.T.flip(0).tolist(), strict=True
    ):
        first = min(max(math.floor(corner + least) - BORDER, 0), whole - 1)
        last = min(max(math.ceil(corner + size + most) + BORDER, first + 1), whole)
        cuts.append((first, last))
    (top, bottom), (left, right) = cuts
    cut = frames[..., top:bottom, left:right]
    return cut, (how.corner[0] - top, how.corner[1] - left)


def box(maps: Tensor, side: int) -> Tensor:
    """Do what `motion.box` says."""
    N, channels, H, W = maps.shape
    made = torch.empty(maps.shape)
    given, result = (
        tensor.reshape(N * channels, H, W) for tensor in (as_array(maps), made.numpy())
    )

    def work(k: int, rows: Two, own: Buffers) -> None:
        _box_strip(given[k], result[k], own[0], side, rows)

    by_strips(work, N * channels, H, ((W + side - 1,),), is_small=maps.numel() < LEAST_BOXED)
    return made


def halve(maps: Tensor, weights: Weights) -> Tensor:
    """Do what `motion.halve` says."""
    N, channels, H, W = maps.shape
    rows, columns = -(-H // 2), -(-W // 2)
    made = torch.empty(N, channels, rows, columns)
    given = as_array(maps).reshape(N * channels, H, W)
    result = made.numpy().reshape(N * channels, rows, columns)
    shares = np.array(weights, np.float32)

    def work(k: int, some: Two, own: Buffers) -> None:
        _halve_strip(given[k], result[k], own[0], shares, some)

    shapes = ((2 * columns + 6,),)
    by_strips(work, N * channels, rows, shapes, is_small=maps.numel() < LEAST_BOXED)
    return made


@compiled()
def enlarge_row(target: Array, wide: Array, maps: Array, y: int) -> None:
    """Write a row of a map (h, w), enlarged twice as by `blocks.upsample`; `wide` is (w + 2,)."""
    h, w = maps.shape
    own, other = maps[y // 2], maps[clamp(y // 2 + y % 2 * 2 - 1, 0, h - 1)]
    for x in range(w):
        wide[x + 1] = NEAR * own[x] + FAR * other[x]
    wide[0], wide[w + 1] = wide[1], wide[w]
    for x in range(w):
        target[2 * x] = NEAR * wide[x + 1] + FAR * wide[x]
        target[2 * x + 1] = NEAR * wide[x + 1] + FAR * wide[x + 2]


@compiled()
def _place_row(places: Array, wide: Array, motion: Array, y: int, figures: Warped) -> None:
    """Write where to look for a row of what is wanted; arguments as in `_warp_strip`."""
    mode, factor, top, left = figures
    W = factor * motion.shape[2]
    for k in range(2):
        if factor == 1:
            copy_flat(places[k], 0, motion[k, y], 0, W)
        else:
            enlarge_row(places[k], wide, motion[k], y)
    xs, ys = places[0], places[1]
    for x in range(W):
        xs[x] += np.float32(x + left)
        ys[x] += np.float32(y + top)
    if mode == NEAREST:
        for x in range(W):
            xs[x], ys[x] = np.rint(xs[x]), np.rint(ys[x])


@compiled(called_from_python=True)
def _warp_strip(
    arrays: tuple[Array, Array, Array],
    plane: Plane,
    figures: Warped,
    buffers: Buffers,
    rows: Two,
) -> None:
    """Warp some rows, from the first one to before the second.

    Args:
        arrays: Of one frame: as `look` wants it, motion (2, h, w), result (channels, H, W).
        plane: As `look` wants it.
        figures: Number of the mode, 1 or 2 as the factor of `Warping`, and the corner.
        buffers: (LANES, width), (2, width), (w + 2,).
        rows: Of the result.
    """
    (frame, motion, result), (seen, places, wide) = arrays, buffers
    (channels, _, W), mode = result.shape, figures[0]
    for y in range(*rows):
        _place_row(places, wide, motion, y, figures)
        if mode == BICUBIC:
            look_cubic(seen, frame, plane, places[1], places[0], W)
        else:
            look(seen, frame, plane, places[1], places[0], W)
        for c in range(channels):
            copy_flat(result[c, y], 0, seen[c], 0, W)


@compiled(called_from_python=True)
def _gather_strip(
    arrays: tuple[Array, Array, Array],
    plane: Plane,
    figures: Warped,
    buffers: Buffers,
    rows: Two,
) -> None:
    """Do what `_warp_strip` does for some rows of cells, their pixels side by side.

    Args:
        arrays: Of one frame: as `look` wants it, motion (2, h, w), result (h, w, 4*channels).
        plane: As in `_warp_strip`, as are the others.
        figures: Likewise.
        buffers: Likewise.
        rows: Of the result.
    """
    (frame, motion, result), (seen, places, wide) = arrays, buffers
    w, channels = result.shape[1], result.shape[2] // 4
    for y in range(*rows):
        for down in range(2):
            _place_row(places, wide, motion, 2 * y + down, figures)
            look(seen, frame, plane, places[1], places[0], 2 * w)
            for c in range(channels):
                row, first = seen[c], 4 * c + 2 * down
                for x in range(w):
                    result[y, x, first] = row[2 * x]
                    result[y, x, first + 1] = row[2 * x + 1]


@compiled(called_from_python=True)
def _differ_strip(
    arrays: tuple[Array, Array, Array, Array],
    plane: Plane,
    channels: int,
    buffers: Buffers,
    rows: Two,
) -> None:
    """Compare some rows, from the first one to before the second.

    Args:
        arrays: Both frames as `look` wants them, motion (2, H, W), result (H, W).
        plane: As `look` wants it.
        channels: Of the frames.
        buffers: (LANES, W) for either frame, (2, W), (W + 2,).
        rows: Of the result.
    """
    (left, right, motion, result), (seen, other, places, wide) = arrays, buffers
    W, share = result.shape[1], ONE / np.float32(channels)
    for y in range(*rows):
        out = result[y]
        _place_row(places, wide, motion, y, (BILINEAR, 1, 0, 0))
        look(seen, left, plane, places[1], places[0], W)
        for x in range(W):  # as far to the other side
            places[0, x] = np.float32(2 * x) - places[0, x]
            places[1, x] = np.float32(2 * y) - places[1, x]
        look(other, right, plane, places[1], places[0], W)
        for x in range(W):
            out[x] = share * abs(seen[0, x] - other[0, x])
        for c in range(1, channels):
            for x in range(W):
                out[x] += share * abs(seen[c, x] - other[c, x])


@compiled(called_from_python=True)
def _box_strip(plane: Array, result: Array, wide: Array, side: int, rows: Two) -> None:
    """Average some rows of a plane over side x side cells; `wide` is (W + side - 1,)."""
    (H, W), radius, share = plane.shape, side // 2, ONE / np.float32(side * side)
    for y in range(*rows):
        centre, out = wide[radius : radius + W], result[y]
        copy_flat(centre, 0, plane[clamp(y - radius, 0, H - 1)], 0, W)
        for k in range(1 - radius, radius + 1):
            row = plane[clamp(y + k, 0, H - 1)]
            for x in range(W):
                centre[x] += row[x]
        for k in range(radius):
            wide[k], wide[radius + W + k] = centre[0], centre[W - 1]
        copy_flat(out, 0, wide, 0, W)
        for k in range(1, side):
            shifted = wide[k : k + W]
            for x in range(W):
                out[x] += shifted[x]
        for x in range(W):
            out[x] *= share


@compiled(called_from_python=True)
def _halve_strip(plane: Array, result: Array, wide: Array, weights: Array, rows: Two) -> None:
    """Make some rows of a plane reduced to half; `wide` is (2*columns + 6,)."""
    (H, W), columns = plane.shape, result.shape[1]
    for y in range(*rows):
        centre, out = wide[3 : 3 + W], result[y]
        centre[:] = ZERO
        for k in range(4):
            upper = plane[clamp(2 * y - 3 + k, 0, H - 1)]
            lower = plane[clamp(2 * y + 4 - k, 0, H - 1)]
            for x in range(W):
                centre[x] += weights[k] * (upper[x] + lower[x])
        for k in range(3):
            wide[k] = centre[0]
        for k in range(W + 3, 2 * columns + 6):
            wide[k] = centre[W - 1]
        for x in range(columns):
            total = ZERO
            for k in range(4):
                total += weights[k] * (wide[2 * x + k] + wide[2 * x + 7 - k])
            out[x] = total


@compiled(called_from_python=True)
def _interleave_strip(target: Array, planes: Array, zeros: Array, border: int, rows: Two) -> None:
    """Interleave some rows of a frame; beyond the last one there are zeros.

    Args:
        target: Flat.
        planes: (channels, H, W).
        zeros: (W,), in the place of missing channels.
        border: Cells around, which repeat the edges.
        rows: The first one, and that before which it ends, of the target.
    """
    channels, H, W = planes.shape
    width = W + 2 * border
    for y in range(*rows):
        row = target[LANES * y * width : LANES * (y + 1) * width]
        if y >= H + 2 * border:
            row[:] = ZERO
            continue
        source = clamp(y - border, 0, H - 1)
        first = planes[0, source]
        second = planes[1, source] if channels > 1 else zeros
        third = planes[2, source] if channels > 2 else zeros
        fourth = planes[3, source] if channels > 3 else zeros
        inner = row[LANES * border : LANES * (border + W)]
        for x in range(W):
            inner[4 * x] = first[x]
            inner[4 * x + 1] = second[x]
            inner[4 * x + 2] = third[x]
            inner[4 * x + 3] = fourth[x]
        for k in range(border):
            copy_flat(row, LANES * k, inner, 0, LANES)
            copy_flat(row, LANES * (border + W + k), inner, LANES * (W - 1), LANES)
