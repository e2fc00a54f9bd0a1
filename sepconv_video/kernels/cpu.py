"""The operator on the CPU: numba loops over blocks of 64 pixels, held in small local buffers.

The arithmetic is vector code in `vectors`; here is what goes where. Forward takes two rows of
output at a time, and for half-resolution taps enlarges those two rows' taps on the way: maps of
full resolution never exist. Results do not depend on the thread count.

numba is imported at the top, so import this module only when it is needed.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sepconv_video.kernels.vectors import (
    BLOCK,
    GROUP,
    PAIR,
    clamp,
    compiled,
    copy_flat,
    dot4,
    enlarge,
    filter_pair,
    load,
)

# CRC-32 of `vectors.py`: numba's cache looks at this file, not at those that it imports
VECTORS = 0xE47B234C
THREADS = "sepconv-video loops"  # name of those that are kept
ROWS = 16  # rows of a tile, a multiple of PAIR: they share one copy of the image patch
ZERO = np.int64(0)  # unlike a plain 0 of a type that numba has no special case for
ONE = (np.int64(1), ZERO, ZERO)  # a stack of one plane
CELLS = BLOCK // 2 + 2  # columns of a half-resolution map that a block reads

Array = np.ndarray[Any, Any]
Two = tuple[int, int]
Four = tuple[int, int, int, int]
Sizes = tuple[int, int, int, int, int, int, int]  # `_Sizes`, which numba compiles slower
Filter = tuple[Array, Array, Array]  # frame, vertical and horizontal maps, flat
Buffers = tuple[Array, Array, Array]  # patch of the image, horizontal and vertical taps


class _Sizes(NamedTuple):
    """The shapes that the forward loops need, as all arrays come flat."""

    C: int
    H: int
    W: int
    K: int
    h: int
    """Height of the maps of taps: H or H/2."""
    w: int
    distance: int
    """From one picture's maps to the next one's."""


def forward(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Compute the operator; shapes as in `reference.sepconv`, any strides."""
    K, H, W = vertical.shape[1:]
    frame, *maps = (as_array(tensor).reshape(-1) for tensor in (image, vertical, horizontal))
    sizes = _Sizes(image.shape[1], H, W, K, H, W, K * H * W)
    return _forward([(frame, maps[0], maps[1])], None, image.shape[0], sizes).to(image.dtype)


def forward_pair(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None) -> Tensor:
    """Compute `operation.sepconv_pair`; any strides.

    Args:
        left: (N, C, H+K-1, W+K-1), padded.
        right: Same shape and dtype as `left`.
        taps: (N, 4*K, H, W), or (N, 4*K, H/2, W/2), which are enlarged bilinearly: vertical and
            horizontal of left, vertical and horizontal of right.
        weight: Share of the left frame, (N, 1, H, W); without it the two are added.

    Returns:
        (N, C, H, W), contiguous, in the dtype of `left`.
    """
    (h, w), K = taps.shape[2:], taps.shape[1] // 4
    N, C, height, width = left.shape
    sizes = _Sizes(C, height - K + 1, width - K + 1, K, h, w, 4 * K * h * w)
    frames = [as_array(frame).reshape(-1) for frame in (left, right)]
    flat = as_array(taps).reshape(-1)
    maps = [flat[k * K * h * w :] for k in range(4)]
    filters = [(frames[0], maps[0], maps[1]), (frames[1], maps[2], maps[3])]
    return _forward(filters, weight, N, sizes).to(left.dtype)


def _forward(filters: list[Filter], weight: Tensor | None, N: int, sizes: _Sizes) -> Tensor:
    """Share the rows of tiles out to threads; with a weight there must be two filters."""
    C, H, W = sizes[:3]
    like, strips = torch.from_numpy(filters[0][0]), -(-H // ROWS)
    plain: Sizes = (*sizes,)
    share = None if weight is None else as_array(weight)
    result = like.new_empty((N, C, H, W))
    out = result.numpy()

    def work(own: tuple[Array, Buffers, Array | None], task: int) -> None:
        n, top = task // strips, task % strips * ROWS
        here, (totals, buffers, cells) = np.s_[n, :, top : top + ROWS], own
        totals[...] = 0
        for k, arrays in enumerate(filters):
            total = totals[k % len(totals)].reshape(-1)
            _filter_rows(arrays, total, plain, buffers, cells, (n, top))
        sums = totals[:, :, : H - top, :W]
        if share is not None:  # share * first + (1 - share) * second
            sums[0] -= sums[1]
            sums[0] *= share[here]
            sums[0] += sums[1]
        out[here] = sums[0]

    sums_each = 1 if share is None else 2
    run(work, N * strips, (), lambda: _buffers(sums_each, sizes, like))
    return result


def _buffers(count: int, sizes: _Sizes, like: Tensor) -> tuple[Array, Buffers, Array | None]:
    """One thread's sums and buffers; the last one is for half-resolution maps only.

    Not made in compiled code, where each of them would cost a tenth of a second of compilation;
    and by PyTorch, which starts them at a multiple of 64 bytes: no vector of taps straddles two
    lines of the cache.
    """
    C, K, enlarging = sizes.C, sizes.K, sizes.h < sizes.H
    totals = like.new_empty((count, C, ROWS, -(-sizes.W // BLOCK) * BLOCK)).numpy()
    patch = like.new_empty(C * (ROWS + K + GROUP - 1) * (BLOCK + K + GROUP - 1)).numpy()
    taps = [like.new_zeros(PAIR * rows * BLOCK).numpy() for rows in (K, K + GROUP)]
    cells = like.new_empty(3 * CELLS).numpy() if enlarging else None
    return totals, (patch, taps[0], taps[1]), cells


def backward(
    grad: Tensor, image: Tensor, vertical: Tensor, horizontal: Tensor, image_needs_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients with respect to image, vertical and horizontal.

    With g = `grad` (N, C, H, W):
        grad_vertical[n, i, y, x] = sum_c g[c] * sum_j image[n, c, y+i, x+j] * horizontal[n, j]
        grad_horizontal[n, j, y, x] = sum_c g[c] * sum_i image[n, c, y+i, x+j] * vertical[n, i]
        grad_image[n, c, p, q] = sum_ij (g[c] * vertical[i] * horizontal[j])[p-i, q-j]

    Returns:
        The three gradients; the first has shape (0,) unless `image_needs_grad`.
    """
    arrays = [as_array(tensor) for tensor in (grad, image, vertical, horizontal)]
    grads = [np.empty_like(arrays[2]), np.empty_like(arrays[3])]
    N, _, H, _ = vertical.shape
    run(_backward_maps, N * -(-H // ROWS), (tuple(arrays), *grads))
    grad_image = np.zeros(image.shape if image_needs_grad else (0,), arrays[0].dtype)
    if image_needs_grad:
        strips = -(-image.shape[3] // BLOCK)
        run(_backward_image, N * strips, (arrays[0], arrays[2], arrays[3], grad_image))
    results = [torch.from_numpy(array).to(image.dtype) for array in (grad_image, *grads)]
    return results[0], results[1], results[2]


def as_array(tensor: Tensor) -> Array:
    """View a tensor as a contiguous array; half precisions become float32."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    array: Array = tensor.detach().to(dtype).contiguous().numpy()
    return array


def run(
    loop: Callable[..., None],
    tasks: int,
    arguments: tuple[Any, ...],
    buffers: Callable[[], Any] | None = None,
    *,
    alone: bool = False,
) -> None:
    """Call `loop(*arguments, task)` for every task, on as many threads as PyTorch uses.

    Threads of our own, as numba's take a second to compile for, abort the process where two
    callers meet, and share the tasks out beforehand, however busy the cores are.

    Args:
        loop: Compiled code, or what soon gets there: it must not hold the interpreter's lock long.
        tasks: Number of tasks.
        arguments: What all tasks share.
        buffers: Makes one more argument for each thread.
        alone: On the caller's thread only: all is done before a second one has begun.
    """
    todo = iter(range(tasks))  # the interpreter's lock makes taking the next task atomic

    def work() -> None:
        own = () if buffers is None else (buffers(),)
        for task in todo:
            loop(*arguments, *own, task)

    most = torch.get_num_threads()
    helpers = 0 if alone else min(most, tasks) - 1
    waiting = [_threads(most - 1).submit(work) for _ in range(helpers)]
    work()
    for helper in waiting:
        if not helper.cancel():  # it has begun; else there is nothing left for it
            helper.result()


@lru_cache(maxsize=1)
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads beside the caller's own, kept, as to start some takes half a millisecond."""
    return ThreadPoolExecutor(count, THREADS)


@compiled()
def _enlarge_taps(
    target: Array, second: int, maps: Array, plane: Four, at: Two, cells: Array
) -> None:
    """Copy the taps of two rows of output from maps of half the resolution.

    Args:
        target: Flat array.
        second: Where the taps of the second row start in it.
        maps: Flat array.
        plane: Flat index of the first map; K; height and width of a map.
        at: First pixel: (y, left), both even.
        cells: A buffer.
    """
    (start, K, h, w), y, column = plane, at[0] // 2, at[1] // 2 - 1
    upper, own, lower = clamp(y - 1, 0, h - 1) * w, y * w, clamp(y + 1, 0, h - 1) * w
    for k in range(K):
        targets = (k * BLOCK, second + k * BLOCK)
        begin = start + k * h * w
        if column >= 0 and column + CELLS <= w:
            first = begin + column
            enlarge(target, targets, maps, (first + upper, first + own, first + lower))
            continue
        for x in range(CELLS):
            inside = begin + clamp(column + x, 0, w - 1)
            cells[x] = maps[inside + upper]
            cells[CELLS + x] = maps[inside + own]
            cells[2 * CELLS + x] = maps[inside + lower]
        enlarge(target, targets, cells, (0, CELLS, 2 * CELLS))


@compiled(called_from_python=True)
def _filter_rows(
    arrays: Filter,
    total: Array,
    sizes: Sizes,
    buffers: Buffers,
    cells: Array | None,
    at: Two,
) -> None:
    """Add ROWS rows of picture `at[0]`, from row `at[1]` on, to total (C, ROWS, columns).

    Without `cells` the maps have full resolution; numba compiles each case when it comes.
    """
    (C, H, W, K, h, w, distance), (n, top), (patch, across, down) = sizes, at, buffers
    image, vertical, horizontal = arrays
    rows, width, columns = ROWS + K + GROUP - 1, BLOCK + K + GROUP - 1, len(total) // (C * ROWS)
    height, start = H + K - 1, n * distance
    # vertical taps of the second row lie one row down: both rows of output meet the same rows
    # of the image
    second, lower = K * BLOCK, (K + GROUP + 1) * BLOCK
    for left in range(0, W, BLOCK):
        plane = (((n * C * height) + top) * (W + K - 1), W + K - 1, height - top, W + K - 1)
        stack = (C, rows * width, height * (W + K - 1))
        load(patch, image, plane, (rows, width, left, ZERO), stack)
        bottom = clamp(H, top, top + ROWS)
        for y in range(top, bottom, PAIR):
            # where the next taps are: below, or at the top of the next block
            next_y, next_x = (y + PAIR, left) if y + PAIR < bottom else (top, left + BLOCK)
            if cells is None:
                ahead = (start + next_y * W + next_x, H * W, np.int64(W), ZERO)
                plane, window = (start + y * W, H * W, K, W), (K, np.int64(BLOCK), left, ZERO)
                below = W * clamp(H - 1 - y, 0, 1)  # the last row may have none
                load(across, horizontal, plane, window, (np.int64(PAIR), second, below))
                load(down, vertical, plane, window, (np.int64(PAIR), lower, below))
            else:
                # of three rows the last one is new
                new = clamp(next_y // 2 + 1, 0, h - 1)
                ahead = (start + new * w + next_x // 2, h * w, ZERO, np.int64(1))
                maps = (start, K, h, w)
                _enlarge_taps(across, second, horizontal, maps, (y, left), cells)
                _enlarge_taps(down, lower, vertical, maps, (y, left), cells)
            for c in range(C):
                sums = ((c * ROWS + y - top) * columns + left, columns)
                where = ((c * rows + y - top) * width, width, K)
                taps = (across, down, horizontal if c == 0 else vertical)
                filter_pair(total, sums, patch, where, taps, ahead)


@compiled()
def _add_products(total: Array, first: int, sums: Array, factor: Array) -> None:
    """Add sums[s, x] * factor[0, x] to total[first + s, x]."""
    for s in range(GROUP):
        for x in range(BLOCK):
            total[first + s, x] += sums[s, x] * factor[0, x]


@compiled()
def _store_taps(maps: Array, taps: Array, n: int, y: int, left: int) -> None:
    """Write one row's coefficients back: maps[n, k, y, left + x] = taps[k, x]."""
    K, H, W = maps.shape[1:]
    for k in range(K):
        copy_flat(maps, ((n * K + k) * H + y) * W + left, taps, k * BLOCK, min(BLOCK, W - left))


@compiled()
def _backward_maps_tile(
    inputs: tuple[Array, Array, Array, Array],
    grad_vertical: Array,
    grad_horizontal: Array,
    at: tuple[int, int, int],
) -> None:
    """Compute both coefficient gradients for ROWS x BLOCK pixels at (n, y, x) = `at`."""
    grad, image, vertical, horizontal = inputs
    (n, top, left), (C, H, W), K = at, grad.shape[1:], vertical.shape[1]
    rows, width = ROWS + K + GROUP - 1, BLOCK + K + GROUP - 1
    patch = np.empty(C * rows * width, grad.dtype)
    height, line = H + K - 1, W + K - 1
    plane = ((n * C * height + top) * line, line, height - top, line)
    stack = (C, rows * width, height * line)
    load(patch, image.reshape(-1), plane, (rows, width, left, 0), stack)
    v = np.empty((K, BLOCK), grad.dtype)
    h = np.empty((K, BLOCK), grad.dtype)
    g = np.empty((1, BLOCK), grad.dtype)
    sums = np.empty((GROUP, BLOCK), grad.dtype)
    for y in range(top, min(top + ROWS, H)):
        window = (K, BLOCK, left, 0)
        plane = ((n * K * H + y) * W, H * W, K, W)
        load(v.reshape(-1), vertical.reshape(-1), plane, window, ONE)
        load(h.reshape(-1), horizontal.reshape(-1), plane, window, ONE)
        gv = np.zeros((K + GROUP, BLOCK), grad.dtype)
        gh = np.zeros((K + GROUP, BLOCK), grad.dtype)
        for c in range(C):
            plane = (((n * C + c) * H + y) * W, 0, 1, W)
            load(g.reshape(-1), grad.reshape(-1), plane, (1, BLOCK, left, 0), ONE)
            start = (c * rows + y - top) * width
            for k in range(0, K, GROUP):
                dot4(sums, patch, start + k * width, (width, 1), h, K)
                _add_products(gv, k, sums, g)
            for k in range(0, K, GROUP):
                dot4(sums, patch, start + k, (1, width), v, K)
                _add_products(gh, k, sums, g)
        _store_taps(grad_vertical, gv, n, y, left)
        _store_taps(grad_horizontal, gh, n, y, left)


@compiled(called_from_python=True)
def _backward_maps(
    inputs: tuple[Array, Array, Array, Array],
    grad_vertical: Array,
    grad_horizontal: Array,
    task: int,
) -> None:
    """Compute both coefficient gradients for ROWS rows; `task` counts them over all pictures."""
    _, _, H, W = inputs[0].shape
    n, top = task // -(-H // ROWS), task % -(-H // ROWS) * ROWS
    for left in range(0, W, BLOCK):
        _backward_maps_tile(inputs, grad_vertical, grad_horizontal, (n, top, left))


@compiled(called_from_python=True)
def _backward_image(
    grad: Array, vertical: Array, horizontal: Array, grad_image: Array, task: int
) -> None:
    """Add up the image gradient for BLOCK columns of one picture, over the whole height.

    The columns of one strip gather from the K - 1 pixels to their left, so strips share nothing:
    no atomics, and the same order of sums on any number of threads.
    """
    (C, H, W), K, strips = grad.shape[1:], vertical.shape[1], -(-grad_image.shape[3] // BLOCK)
    n, left = task // strips, task % strips * BLOCK
    width = BLOCK + K - 1
    columns = min(BLOCK, grad_image.shape[3] - left)
    v = np.empty((K + GROUP, width), grad.dtype)
    g = np.empty((1, width), grad.dtype)
    h = np.empty((K, BLOCK), grad.dtype)
    rows = np.empty((GROUP, width), grad.dtype)
    sums = np.empty((GROUP, BLOCK), grad.dtype)
    for y in range(H):
        plane = ((n * K * H + y) * W, H * W, K, W)
        window = (K + GROUP, width, left - K + 1, 0)
        load(v.reshape(-1), vertical.reshape(-1), plane, window, ONE)
        # taps in reverse, each shifted to the pixel it is gathered from
        last = ((n * K + K - 1) * H + y) * W
        plane = (last, -H * W, K, W)
        window = (K, BLOCK, left - K + 1, 1)
        load(h.reshape(-1), horizontal.reshape(-1), plane, window, ONE)
        for c in range(C):
            plane = (((n * C + c) * H + y) * W, 0, 1, W)
            load(g.reshape(-1), grad.reshape(-1), plane, (1, width, left - K + 1, 0), ONE)
            for i in range(0, K, GROUP):
                for s in range(GROUP):
                    for x in range(width):
                        rows[s, x] = g[0, x] * v[i + s, x]
                dot4(sums, rows, 0, (width, 1), h, K)
                for s in range(min(GROUP, K - i)):
                    total = grad_image[n, c, y + i + s, left:]
                    for x in range(columns):
                        total[x] += sums[s, x]
