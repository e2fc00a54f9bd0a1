"""Finding motion on a CPU: numba loops over rows, or strips of them.

`models/alignment.py` says what its steps are for; `motion_cuda` has the same for a
GPU. Each strip works out again what it needs of the rows around it, so that a step is one pass: its
stages follow each other down the rows, and of each map only the last LINES rows are kept, row y in
line y % LINES, so that a core's cache holds them all.

numba is imported at the top, so import this module only when it is needed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepconv_video.kernels.cpu import Array, as_array
from sepconv_video.kernels.frames_cpu import (
    ONE,
    ZERO,
    Buffers,
    Shapes,
    Two,
    by_strips,
    interleaved,
)
from sepconv_video.kernels.looks import LANES, look
from sepconv_video.kernels.motion import WINDOW, Constants
from sepconv_video.kernels.vectors import bound, clamp, compiled, copy_flat

LOOKS = 0x2D53EC48  # as in `frames_cpu`
LEAST_CELLS = 8000  # fewer are done before a second thread has begun
C = 3  # channels
TERMS = 5  # products of slopes and differences, which are averaged for a correction
WEIGHT, ACROSS, DOWN, TRUST = range(TERMS, TERMS + 4)  # what else is kept of a row's cells
STEPS_Y, STEPS_X = (0, -1, 1, 0, 0), (0, 0, 0, -1, 1)  # to the cells whose motion may be taken
CANDIDATES = len(STEPS_Y)
OWN: Any = np.int64(0)  # no shift; a plain 0 would be a type of its own for numba
MIXED = 5  # rows of sums when they are mixed
LINES = 8  # of those that a correction looks back to, the first one is 7 rows above the last
RADIUS = 2  # half of `WINDOW`: a number, as numba's cache would not see it change elsewhere
assert WINDOW == 2 * RADIUS + 1
TWENTYFOURTH, SIXTH, THIRD, HALF = (np.float32(value) for value in (1 / 24, 1 / 6, 1 / 3, 0.5))
SQUARINGS = 5
LEAST_EXPONENT = np.float32(2**SQUARINGS)

Frames = tuple[Array, Array]  # left and right as `interleaved` makes them
Arrays = tuple[Array, Array, Array, Array]  # of a picture: left, right, motion, new motion
Single = Any  # numpy.float32
Singles = tuple[Single, Single, Single]  # of a cell, one for each channel
Rows = tuple[Array, Array, Array]  # likewise
Figures = tuple[
    Single, Single, Single, Single, Single, Single
]  # `Constants` from damping to outside_cost


def search(left: Tensor, right: Tensor, motion: Tensor, constants: Constants) -> Tensor:
    """Do what `motion.search` says."""
    frames = interleaved(left), interleaved(right)
    for _ in range(constants.steps):
        motion = correct(frames, motion, constants)
    for distance in constants.distances:
        motion = choose(frames, motion, constants, distance)
    return motion


def _looks(width: int) -> Shapes:
    """Shapes of the buffers of `_look_both`."""
    wide = width + LANES - 1
    return (2, LANES, wide), (4, wide)


def correct(frames: Frames, motion: Tensor, constants: Constants) -> Tensor:
    """Correct a motion (N, 2, H, W) once, and smooth it where the frames agree."""
    W = motion.shape[3]
    kept = (C, LINES, W + 2), (C, LINES, W), (TRUST + 1, LINES, W)
    shapes = *_looks(W), (W,), *kept, (W + 2 * RADIUS,), (TERMS, W)
    return _step(_correct_strip, frames, motion, (constants, 0), shapes)


def choose(frames: Frames, motion: Tensor, constants: Constants, distance: int) -> Tensor:
    """Let each cell take the motion of one `distance` cells away, where that suits it better."""
    W = motion.shape[3]
    costs = (CANDIDATES, LINES, W)
    shapes = *_looks(W), (W,), costs, (W + 2 * RADIUS,), (CANDIDATES, W), (MIXED, W)
    return _step(_choose_strip, frames, motion, (constants, distance), shapes)


def _step(
    step: Callable[..., None],
    frames: Frames,
    motion: Tensor,
    how: tuple[Constants, int],
    shapes: Shapes,
) -> Tensor:
    """Do one step of a search by strips of rows; `shapes` are those of the buffers of a thread."""
    (left, right), given, made = frames, as_array(motion), torch.empty(motion.shape)
    (N, _, H, W), result, (constants, distance) = motion.shape, made.numpy(), how
    figures = tuple(np.float32(figure) for figure in constants[:6])

    def work(n: int, rows: Two, own: Buffers) -> None:
        step((left[n], right[n], given[n], result[n]), distance, figures, own, rows)

    by_strips(work, N, H, shapes, is_small=N * H * W < LEAST_CELLS)
    return made


@compiled()
def _take_row(places: Array, motion: Array, row: int, shift: int) -> None:
    """Copy a row of motion to the first two of `places`, `shift` columns on; edges are repeated."""
    W = motion.shape[2]
    first = clamp(-shift, 0, W)
    last = clamp(W - shift, first, W)
    for k in range(2):
        given, taken = motion[k, row], places[k]
        for x in range(first):
            taken[x] = given[0]
        copy_flat(taken, first, given, first + shift, last - first)
        for x in range(last, W):
            taken[x] = given[W - 1]


@compiled()
def _look_both(arrays: Arrays, seen: Array, places: Array, at: Two, shift: int) -> None:
    """Look both frames up for a row of the middle.

    Args:
        arrays: Of a picture.
        seen: (2, LANES, width), overwritten: channels of the left frame, and of the right one.
        places: A buffer, (4, width), each as wide as `look` wants it.
        at: The row, and that whose motion is taken.
        shift: Columns from a cell to that whose motion is taken; edges are repeated.
    """
    (left, right, motion, _), (y, from_y) = arrays, at
    _, H, W = motion.shape
    _take_row(places, motion, from_y, shift)
    across, down, xs, ys = places[0], places[1], places[2], places[3]
    for x in range(W):
        xs[x] = np.float32(x) + across[x]
        ys[x] = np.float32(y) + down[x]
    look(seen[0], left, (W, H, W), ys, xs, W)
    for x in range(W):
        xs[x] = np.float32(x) - across[x]
        ys[x] = np.float32(y) - down[x]
    look(seen[1], right, (W, H, W), ys, xs, W)


@compiled()
def _mark_inside(inside: Array, places: Array, y: int, H: int) -> None:
    """Tell how far the motion of a row, the first two of `places`, stays inside both frames.

    From 1 where it does to 0 where one of the two places lies a cell or more outside.
    """
    W = len(inside)
    middle_x, middle_y = HALF * np.float32(W - 1), HALF * np.float32(H - 1)
    to_edge_y = middle_y - abs(np.float32(y) - middle_y)
    for x in range(W):
        to_edge_x = middle_x - abs(np.float32(x) - middle_x)
        beyond = bound(abs(places[0, x]) - to_edge_x, abs(places[1, x]) - to_edge_y, ONE)
        inside[x] = bound(ONE - beyond, ZERO, ONE)


@compiled()
def _box(out: Array, wide: Array, rows: Array, at: Two) -> None:
    """Sum `rows` over the window around each cell of one row; edges are repeated.

    Args:
        out: (W,), overwritten.
        wide: A buffer, (W + 2*RADIUS,).
        rows: (LINES, W).
        at: Which row, of how many.
    """
    (y, H), W = at, len(out)
    row = rows[y % LINES]
    upper, above = rows[clamp(y - 2, 0, H) % LINES], rows[clamp(y - 1, 0, H) % LINES]
    below, lower = rows[clamp(y + 1, 0, H - 1) % LINES], rows[clamp(y + 2, 0, H - 1) % LINES]
    # five at once, as each loop would read and write what there is
    for x in range(W):
        wide[RADIUS + x] = upper[x] + above[x] + row[x] + below[x] + lower[x]
    for k in range(RADIUS):
        wide[k], wide[RADIUS + W + k] = wide[RADIUS], wide[RADIUS + W - 1]
    for x in range(W):
        out[x] = wide[x] + wide[x + 1] + wide[x + 2] + wide[x + 3] + wide[x + 4]


@compiled()
def _compare_row(arrays: Arrays, buffers: Buffers, y: int) -> None:
    """Move both frames as they are in the middle; sum, with a border, and difference."""
    (seen, places, totals, differences), W, line = buffers, arrays[2].shape[2], y % LINES
    _look_both(arrays, seen, places, (y, y), OWN)
    for c in range(C):
        before, after = seen[0, c], seen[1, c]
        total, difference = totals[c, line], differences[c, line]
        for x in range(W):
            total[x + 1] = before[x] + after[x]
            difference[x] = before[x] - after[x]
        total[0], total[W + 1] = total[1], total[W]


@compiled()
def _dot(a: Singles, b: Singles) -> Single:
    """Sum of products over the channels."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled()
def _half_off(high: Rows, low: Rows, x: int, y: int) -> Singles:
    """Half of what the channels of one cell, at x, are more than those of another, at y."""
    red, green = high[0][x] - low[0][y], high[1][x] - low[1][y]
    return HALF * red, HALF * green, HALF * (high[2][x] - low[2][y])


@compiled()
def _channels(rows: Array, line: int) -> Rows:
    """Those of a line."""
    return rows[0, line], rows[1, line], rows[2, line]


@compiled()
def _multiply_row(buffers: Buffers, terms: Array, at: Two, figures: Figures) -> None:
    """Multiply slopes and differences of a row, each cell's weighed, and keep the weights."""
    (inside, totals, differences), (y, H), line = buffers, at, at[0] % LINES
    W, (_, robust, _, _, outside_weight, _) = len(inside), figures
    xx, xy, yy = terms[0, line], terms[1, line], terms[2, line]
    xd, yd, weight = terms[3, line], terms[4, line], terms[WEIGHT, line]
    own, differs = _channels(totals, line), _channels(differences, line)
    above = _channels(totals, clamp(y - 1, 0, H - 1) % LINES)
    below = _channels(totals, clamp(y + 1, 0, H - 1) % LINES)
    # all channels at once: one after the other, each would read and write the sums
    for x in range(W):
        difference = differs[0][x], differs[1][x], differs[2][x]
        # its derivative by the motion: both frames' slopes
        across = _half_off(own, own, x + 2, x)
        down = _half_off(below, above, x + 1, x + 1)
        # squares weighed by this grow like absolute values (iteratively reweighted least squares)
        share = ONE / np.sqrt(_dot(difference, difference) * THIRD + robust * robust)
        share *= bound(inside[x], outside_weight, ONE)
        weight[x] = share
        xx[x] = share * _dot(across, across)
        xy[x] = share * _dot(across, down)
        yy[x] = share * _dot(down, down)
        xd[x] = share * _dot(across, difference)
        yd[x] = share * _dot(down, difference)


@compiled()
def _solve_row(motion: Array, terms: Array, buffers: Buffers, y: int, figures: Figures) -> None:
    """Correct the motion of a row by the sums of its terms, and keep it, times the trust in it."""
    line, share, damping = y % LINES, ONE / np.float32(WINDOW * WINDOW), figures[0]
    sums, wide = buffers
    for k in range(TERMS):
        _box(sums[k], wide, terms[k], (y, motion.shape[1]))
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


@compiled()
def _smooth_row(result: Array, terms: Array, buffers: Buffers, y: int) -> None:
    """Average the corrected motion of a row by the trust in it."""
    sums, wide = buffers
    for k in range(3):
        _box(sums[k], wide, terms[ACROSS + k], (y, result.shape[1]))
    for x in range(len(sums[0])):
        result[0, y, x], result[1, y, x] = sums[0, x] / sums[2, x], sums[1, x] / sums[2, x]


@compiled(called_from_python=True)
def _correct_strip(arrays: Arrays, _: int, figures: Figures, buffers: Buffers, rows: Two) -> None:
    """Correct some rows, from the first one to before the second."""
    (top, bottom), motion, result = rows, arrays[2], arrays[3]
    (seen, places, inside, totals, differences, terms, wide, sums) = buffers
    H = motion.shape[1]
    for newest in range(clamp(top - WINDOW, 0, H), bottom + WINDOW):
        if newest < H:
            _compare_row(arrays, (seen, places, totals, differences), newest)
        y = newest - 1
        if clamp(top - 2 * RADIUS, 0, H) <= y < H:
            _take_row(places, motion, y, OWN)
            _mark_inside(inside, places, y, H)
            _multiply_row((inside, totals, differences), terms, (y, H), figures)
        y -= RADIUS
        if clamp(top - RADIUS, 0, H) <= y < H:
            _solve_row(motion, terms, (sums, wide), y, figures)
        y -= RADIUS
        if y >= top:
            _smooth_row(result, terms, (sums, wide), y)


@compiled()
def _price_row(arrays: Arrays, buffers: Buffers, y: int, distance: int, figures: Figures) -> None:
    """How little the frames agree for each motion that the cells of a row may take."""
    (seen, places, inside, costs), (_, H, W), line = buffers, arrays[2].shape, y % LINES
    _, _, _, _, _, outside_cost = figures
    for k in range(CANDIDATES):
        from_y = clamp(y + distance * STEPS_Y[k], 0, H - 1)
        _look_both(arrays, seen, places, (y, from_y), distance * STEPS_X[k])
        _mark_inside(inside, places, y, H)
        before, after, cost = seen[0], seen[1], costs[k, line]
        for x in range(W):
            difference = abs(before[0, x] - after[0, x]) + abs(before[1, x] - after[1, x])
            difference += abs(before[2, x] - after[2, x])
            cost[x] = outside_cost + inside[x] * (THIRD * difference - outside_cost)


@compiled()
def _exp(exponent: Single) -> Single:
    """Exponential of what is not positive, to 1e-6 of 1; numba's own keeps loops from vectorising.

    That of a 32nd by Taylor's series, squared five times.
    """
    part = bound(exponent, -LEAST_EXPONENT, ZERO) / LEAST_EXPONENT
    series = ONE + part * (ONE + part * (HALF + part * (SIXTH + part * TWENTYFOURTH)))
    for _ in range(SQUARINGS):
        series *= series
    return series


@compiled()
def _mix_row(arrays: Arrays, buffers: Buffers, y: int, distance: int, figures: Figures) -> None:
    """Take for each cell of a row the motion of the least cost, by their sums."""
    (_, _, motion, result), (places, sums, mixed) = arrays, buffers
    (_, H, W), (_, _, sharpness, least_cost, _, _) = motion.shape, figures
    share = ONE / np.float32(WINDOW * WINDOW)
    across, down, total, least, scale = mixed[0], mixed[1], mixed[2], mixed[3], mixed[4]
    for x in range(W):
        least[x], scale[x] = sums[0, x], sums[0, x]
        across[x], down[x], total[x] = ZERO, ZERO, ZERO
    for k in range(1, CANDIDATES):
        for x in range(W):
            least[x] = bound(least[x], ZERO, sums[k, x])
            scale[x] += sums[k, x]
    for x in range(W):
        # what counts is how much better one is than the rest
        scale[x] = sharpness * share / (scale[x] * share / np.float32(CANDIDATES) + least_cost)
    for k in range(CANDIDATES):
        from_y = clamp(y + distance * STEPS_Y[k], 0, H - 1)
        _take_row(places, motion, from_y, distance * STEPS_X[k])
        for x in range(W):
            likelihood = _exp(scale[x] * (least[x] - sums[k, x]))
            across[x] += likelihood * places[0, x]
            down[x] += likelihood * places[1, x]
            total[x] += likelihood
    for x in range(W):
        result[0, y, x], result[1, y, x] = across[x] / total[x], down[x] / total[x]


@compiled(called_from_python=True)
def _choose_strip(
    arrays: Arrays, distance: int, figures: Figures, buffers: Buffers, rows: Two
) -> None:
    """Let the cells of some rows choose, from the first one to before the second."""
    (top, bottom), H = rows, arrays[2].shape[1]
    seen, places, inside, costs, wide, sums, mixed = buffers
    for newest in range(clamp(top - RADIUS, 0, H), bottom + RADIUS):
        if newest < H:
            _price_row(arrays, (seen, places, inside, costs), newest, distance, figures)
        y = newest - RADIUS
        if y >= top:
            for k in range(CANDIDATES):
                _box(sums[k], wide, costs[k], (y, H))
            _mix_row(arrays, (places, sums, mixed), y, distance, figures)
