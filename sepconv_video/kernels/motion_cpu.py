"""Finding motion on a CPU: numba loops over rows, or strips of them.

`models/alignment.py` and `matching.py` say what its steps are for; `motion_cuda` has the same for a
GPU. What a strip needs of the rows around it is worked out again for each, so that a step is one
pass.

numba is imported at the top, so import this module only when it is needed.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.kernels.cpu import Array, as_array, run
from sepconv_video.kernels.motion import WINDOW, Constants, Matching
from sepconv_video.kernels.vectors import bound, clamp, compiled, look

VECTORS = 0xBEAB47DE  # CRC-32 of `vectors.py`, as in `cpu`
ROWS = 32  # rows of a strip
LEAST_CELLS = 8000  # fewer are done before a second thread has begun
C = 3  # channels
TERMS = 5  # products of slopes and differences, which are averaged for a correction
WEIGHT, ACROSS, DOWN, TRUST = range(TERMS, TERMS + 4)  # what else is kept of a row's cells
STEPS_Y, STEPS_X = (0, -1, 1, 0, 0), (0, 0, 0, -1, 1)  # to the cells whose motion may be taken
CANDIDATES = len(STEPS_Y)
RADIUS = 2  # half of `WINDOW`: a number, as numba's cache would not see it change elsewhere
assert WINDOW == 2 * RADIUS + 1
ZERO, THIRD, HALF, ONE = (np.float32(value) for value in (0, 1 / 3, 0.5, 1))

Frames = tuple[Array, Array]  # left and right as `interleaved` makes them
Arrays = tuple[Array, Array, Array, Array]  # of a picture: left, right, motion, new motion
Single = Any  # numpy.float32
Figures = tuple[Single, Single, Single, Single]  # `Constants` from damping to least
Buffers = tuple[Array, ...]
Shapes = tuple[tuple[int, ...], ...]
Two = tuple[int, int]
Lines = tuple[int, int, int]  # a row of a buffer; those of the frame's first and last row
Corners = tuple[tuple[int, int, int, int], Single, Single]  # as `look` wants them


def search(left: Tensor, right: Tensor, motion: Tensor, constants: Constants) -> Tensor:
    """Do what `motion.search` says."""
    frames = interleaved(left), interleaved(right)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in range(constants.steps):
            motion = correct(frames, motion, constants, pool)
        for distance in constants.distances:
            motion = choose(frames, motion, constants, distance, pool)
    return motion


def interleaved(frames: Tensor) -> Array:
    """Lay the channels of frames (N, 3, H, W) beside each other: (N, 4*H*W), the fourth zero."""
    return as_array(F.pad(frames.permute(0, 2, 3, 1), [0, 1])).reshape(len(frames), -1)


def correct(
    frames: Frames, motion: Tensor, constants: Constants, pool: ThreadPoolExecutor | None = None
) -> Tensor:
    """Correct a motion (N, 2, H, W) once, and smooth it where the frames agree."""
    W, rows = motion.shape[3], ROWS + 2 * WINDOW
    shapes = (C, rows, W + 2), (C, rows, W), (TRUST + 1, rows, W), (W + 2 * RADIUS,), (TERMS, W)
    return _by_strips(_correct_strip, frames, motion, (constants, 0), shapes, pool)


def choose(
    frames: Frames,
    motion: Tensor,
    constants: Constants,
    distance: int,
    pool: ThreadPoolExecutor | None = None,
) -> Tensor:
    """Let each cell take the motion of one `distance` cells away, where that suits it better."""
    W = motion.shape[3]
    shapes = (CANDIDATES, ROWS + 2 * RADIUS, W), (W + 2 * RADIUS,), (CANDIDATES, W)
    return _by_strips(_choose_strip, frames, motion, (constants, distance), shapes, pool)


def match(
    own: Tensor, other: Tensor, flow: Tensor, unexplained: Tensor, matching: Matching
) -> tuple[Tensor, Tensor]:
    """Do what `motion.match` says."""
    window, reach, least, share, penalty = matching
    made, found = flow.clone(memory_format=torch.contiguous_format), unexplained > least
    # cells beside each other in both frames, so that a row of places is compared at once
    around = F.pad(other, [reach] * 4, mode="replicate")
    arrays = [as_array(tensor) for tensor in (own, around, flow, unexplained)]
    result, new = made.numpy(), found.numpy()
    figures = np.float32(share), np.float32(penalty / reach)
    rows = found[:, 0].any(2).nonzero().tolist()  # few have any

    def work(own_costs: Array, task: int) -> None:
        n, y = rows[task]
        here = tuple(array[n] for array in (*arrays, result, new))
        _match_row(here, (window // 2, reach, y), figures, own_costs)

    run(work, len(rows), (), lambda: np.empty(2 * reach + 1, np.float32))
    return made, found


def _by_strips(
    step: Callable[..., None],
    frames: Frames,
    motion: Tensor,
    how: tuple[Constants, int],
    shapes: Shapes,
    pool: ThreadPoolExecutor | None,
) -> Tensor:
    """Share strips of rows out to threads; `shapes` are those of the buffers of each."""
    (left, right), given, made = frames, as_array(motion), torch.empty(motion.shape)
    (N, _, H, _), result, (constants, distance) = motion.shape, made.numpy(), how
    strips = -(-H // ROWS)
    figures = tuple(np.float32(figure) for figure in constants[:4])

    def work(own: Buffers, task: int) -> None:
        n, top = task // strips, task % strips * ROWS
        here = left[n], right[n], given[n], result[n]
        step(here, distance, figures, own, (top, min(top + ROWS, H)))

    def buffers() -> Buffers:
        return tuple(torch.empty(shape).numpy() for shape in shapes)

    threads = 1 if result[:, 0].size < LEAST_CELLS else None
    run(work, N * strips, (), buffers, pool, threads)
    return made


@compiled()
def _place(at: Single, size: int) -> tuple[int, int, Single]:
    """Find the cells around a place, which is held within the frame, and how far it is between."""
    at = bound(at, ZERO, np.float32(size - 1))
    before = clamp(int(at), 0, size - 1)
    return before, clamp(before + 1, 0, size - 1), at - np.float32(before)


@compiled()
def _corners(y: Single, x: Single, H: int, W: int) -> Corners:
    """Find where to look a place up."""
    (top, bottom, down), (left, right, across) = _place(y, H), _place(x, W)
    return (top * W + left, top * W + right, bottom * W + left, bottom * W + right), down, across


@compiled()
def _box(out: Array, wide: Array, rows: Array, lines: Lines) -> None:
    """Sum `rows` over the window around each cell of one row; edges are repeated.

    Args:
        out: (W,), overwritten.
        wide: A buffer, (W + 2*RADIUS,).
        rows: (rows, W).
        lines: Which row, and between which ones.
    """
    (line, first, last), W = lines, len(out)
    for x in range(W):
        wide[RADIUS + x], out[x] = ZERO, ZERO
    for k in range(WINDOW):
        row = rows[clamp(line + k - RADIUS, first, last)]
        for x in range(W):
            wide[RADIUS + x] += row[x]
    for k in range(RADIUS):
        wide[k], wide[RADIUS + W + k] = wide[RADIUS], wide[RADIUS + W - 1]
    for k in range(WINDOW):
        for x in range(W):
            out[x] += wide[k + x]


@compiled()
def _compare_row(arrays: Arrays, totals: Array, differences: Array, y: int, line: int) -> None:
    """Move both frames as they are in the middle; sum, with a border, and difference."""
    left, right, motion, _ = arrays
    _, H, W = motion.shape
    for x in range(W):
        across, down = motion[0, y, x], motion[1, y, x]
        before = look(left, *_corners(np.float32(y) + down, np.float32(x) + across, H, W))
        after = look(right, *_corners(np.float32(y) - down, np.float32(x) - across, H, W))
        totals[0, line, x + 1] = before[0] + after[0]
        totals[1, line, x + 1] = before[1] + after[1]
        totals[2, line, x + 1] = before[2] + after[2]
        differences[0, line, x] = before[0] - after[0]
        differences[1, line, x] = before[1] - after[1]
        differences[2, line, x] = before[2] - after[2]
    for c in range(C):
        totals[c, line, 0], totals[c, line, W + 1] = totals[c, line, 1], totals[c, line, W]


@compiled()
def _multiply_row(
    totals: Array, differences: Array, terms: Array, lines: Lines, figures: Figures
) -> None:
    """Multiply slopes and differences of a row, each cell's weighed, and keep the weights."""
    (line, first, last), W, robust = lines, differences.shape[2], figures[1]
    xx, xy, yy = terms[0, line], terms[1, line], terms[2, line]
    xd, yd, weight = terms[3, line], terms[4, line], terms[WEIGHT, line]
    for x in range(W):
        xx[x], xy[x], yy[x], xd[x], yd[x], weight[x] = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for c in range(C):
        own, difference = totals[c, line], differences[c, line]
        above = totals[c, clamp(line - 1, first, last)]
        below = totals[c, clamp(line + 1, first, last)]
        for x in range(W):
            # the difference's derivative by the motion: both frames' slopes
            across, down = HALF * (own[x + 2] - own[x]), HALF * (below[x + 1] - above[x + 1])
            xx[x] += across * across
            xy[x] += across * down
            yy[x] += down * down
            xd[x] += across * difference[x]
            yd[x] += down * difference[x]
            weight[x] += difference[x] * difference[x]
    for x in range(W):
        # squares weighed by this grow like absolute values (iteratively reweighted least squares)
        weight[x] = ONE / np.sqrt(weight[x] * THIRD + robust * robust)
        xx[x] *= weight[x]
        xy[x] *= weight[x]
        yy[x] *= weight[x]
        xd[x] *= weight[x]
        yd[x] *= weight[x]


@compiled()
def _solve_row(motion: Array, terms: Array, sums: Array, at: Two, figures: Figures) -> None:
    """Correct the motion of a row by the sums of its terms, and keep it, times the trust in it."""
    (y, line), share, damping = at, ONE / np.float32(WINDOW * WINDOW), figures[0]
    across, down = terms[ACROSS, line], terms[DOWN, line]
    weight, trust = terms[WEIGHT, line], terms[TRUST, line]
    before_x, before_y = motion[0, y], motion[1, y]
    xx, xy, yy, xd, yd = sums[0], sums[1], sums[2], sums[3], sums[4]
    for x in range(len(across)):
        a, b, d = xx[x] * share + damping, xy[x] * share, yy[x] * share + damping
        scale = share / (a * d - b * b)
        # what is hidden in one of the frames so moves with what is beside it
        trust[x] = weight[x] * weight[x] * weight[x]
        right = bound((b * yd[x] - d * xd[x]) * scale, -ONE, ONE)
        lower = bound((b * xd[x] - a * yd[x]) * scale, -ONE, ONE)
        across[x] = (before_x[x] + right) * trust[x]
        down[x] = (before_y[x] + lower) * trust[x]


@compiled(called_from_python=True)
def _correct_strip(arrays: Arrays, _: int, figures: Figures, buffers: Buffers, rows: Two) -> None:
    """Correct some rows, from the first one to before the second."""
    (top, bottom), motion, result = rows, arrays[2], arrays[3]
    (_, H, W), (totals, differences, terms, wide, sums) = motion.shape, buffers
    base = top - WINDOW
    first, last = -base, H - 1 - base
    for y in range(clamp(top - WINDOW, 0, H), clamp(bottom + WINDOW, 0, H)):
        _compare_row(arrays, totals, differences, y, y - base)
    for y in range(clamp(top - 2 * RADIUS, 0, H), clamp(bottom + 2 * RADIUS, 0, H)):
        _multiply_row(totals, differences, terms, (y - base, first, last), figures)
    for y in range(clamp(top - RADIUS, 0, H), clamp(bottom + RADIUS, 0, H)):
        for k in range(TERMS):
            _box(sums[k], wide, terms[k], (y - base, first, last))
        _solve_row(motion, terms, sums, (y, y - base), figures)
    for y in range(top, bottom):
        for k in range(3):
            _box(sums[k], wide, terms[ACROSS + k], (y - base, first, last))
        for x in range(W):
            result[0, y, x] = sums[0, x] / sums[2, x]
            result[1, y, x] = sums[1, x] / sums[2, x]


@compiled()
def _price_row(arrays: Arrays, costs: Array, y: int, line: int, distance: int) -> None:
    """How little the frames agree for each motion that the cells of a row may take."""
    left, right, motion, _ = arrays
    _, H, W = motion.shape
    for k in range(CANDIDATES):
        from_y = clamp(y + distance * STEPS_Y[k], 0, H - 1)
        for x in range(W):
            from_x = clamp(x + distance * STEPS_X[k], 0, W - 1)
            across, down = motion[0, from_y, from_x], motion[1, from_y, from_x]
            a = look(left, *_corners(np.float32(y) + down, np.float32(x) + across, H, W))
            b = look(right, *_corners(np.float32(y) - down, np.float32(x) - across, H, W))
            costs[k, line, x] = THIRD * (abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2]))


@compiled()
def _mix_row(arrays: Arrays, sums: Array, y: int, distance: int, figures: Figures) -> None:
    """Take for each cell of a row the motion of the least cost, by their sums (CANDIDATES, W)."""
    _, _, motion, result = arrays
    (_, H, W), (_, _, sharpness, least_cost) = motion.shape, figures
    share = ONE / np.float32(WINDOW * WINDOW)
    for x in range(W):
        least, mean = sums[0, x], sums[0, x]
        for k in range(1, CANDIDATES):
            least = bound(least, ZERO, sums[k, x])
            mean += sums[k, x]
        mean *= share / np.float32(CANDIDATES)
        # what counts is how much better one is than the rest
        scale = sharpness * share / (mean + least_cost)
        across, down, total = ZERO, ZERO, ZERO
        for k in range(CANDIDATES):
            from_y = clamp(y + distance * STEPS_Y[k], 0, H - 1)
            from_x = clamp(x + distance * STEPS_X[k], 0, W - 1)
            likelihood = np.exp(scale * (least - sums[k, x]))
            across += likelihood * motion[0, from_y, from_x]
            down += likelihood * motion[1, from_y, from_x]
            total += likelihood
        result[0, y, x], result[1, y, x] = across / total, down / total


@compiled(called_from_python=True)
def _choose_strip(
    arrays: Arrays, distance: int, figures: Figures, buffers: Buffers, rows: Two
) -> None:
    """Let the cells of some rows choose, from the first one to before the second."""
    (top, bottom), H = rows, arrays[2].shape[1]
    (costs, wide, sums), base = buffers, top - RADIUS
    for y in range(clamp(top - RADIUS, 0, H), clamp(bottom + RADIUS, 0, H)):
        _price_row(arrays, costs, y, y - base, distance)
    for y in range(top, bottom):
        for k in range(CANDIDATES):
            _box(sums[k], wide, costs[k], (y - base, -base, H - 1 - base))
        _mix_row(arrays, sums, y, distance, figures)


@compiled()
def _compare_places(costs: Array, own: Array, other: Array, at: Lines, radius: int) -> None:
    """Sum what differs over the window around a cell, for a row of places in the other frame.

    Args:
        costs: (places,), overwritten.
        own: (C, H, W).
        other: As in `_match_row`.
        at: The cell's row and column, and how many rows below it in `other`.
        radius: Half of the window.
    """
    (channels, H, W), places = own.shape, len(costs)
    for k in range(places):
        costs[k] = ZERO
    for c in range(channels):
        for i in range(-radius, radius + 1):
            row = clamp(at[0] + i, 0, H - 1)
            for j in range(-radius, radius + 1):
                column = clamp(at[1] + j, 0, W - 1)
                value = own[c, row, column]
                line = other[c, row + at[2], column : column + places]
                for k in range(places):
                    costs[k] += abs(value - line[k])


@compiled(called_from_python=True)
def _match_row(
    arrays: tuple[Array, ...], sizes: Lines, figures: tuple[Single, Single], costs: Array
) -> None:
    """Seek those cells of a row that are marked; mark only what is found.

    Args:
        arrays: Of one pair: (C, H, W); (C, H + 2*reach, W + 2*reach), edges repeated; (2, H, W);
            (1, H, W); the new motion, and the marks, bool, as the last two.
        sizes: Half the window, the reach, the row.
        figures: As in `Matching`, the penalty by the cell.
        costs: A buffer, (2*reach + 1,).
    """
    (own, other, flow, unexplained, result, marks), (radius, reach, y) = arrays, sizes
    (channels, _, W), (share, penalty) = own.shape, figures
    part = ONE / np.float32(channels * (2 * radius + 1) ** 2)
    for x in range(W):
        if not marks[0, y, x]:
            continue
        known_x, known_y, best = flow[0, y, x], flow[1, y, x], share * unexplained[0, y, x]
        marks[0, y, x] = False
        for step in range(-reach, reach + 1):
            down = np.float32(step)
            _compare_places(costs, own, other, (y, x, reach + step), radius)
            for k in range(len(costs)):
                across = np.float32(k - reach)
                away_x, away_y = across - known_x, down - known_y
                cost = costs[k] * part + penalty * np.sqrt(away_x * away_x + away_y * away_y)
                if cost < best:
                    best, marks[0, y, x] = cost, True
                    result[0, y, x], result[1, y, x] = across, down
