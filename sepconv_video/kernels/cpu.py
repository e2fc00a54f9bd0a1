"""The operator on the CPU: numba loops over blocks of 64 pixels, held in small local buffers.

The arithmetic is vector code in `vectors`; here is what goes where. Forward takes two rows of
output at a time, and for half-resolution taps enlarges those two rows' taps on the way: maps of
full resolution never exist. Results do not depend on the thread count.

numba is imported at the top, so import this module only when it is needed.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numba
import numpy as np
import torch
from torch import Tensor

from sepconv_video.kernels.vectors import (
    BLOCK,
    GROUP,
    PAIR,
    copy_flat,
    dot4,
    enlarge,
    filter_pair,
)

ROWS = 16  # rows of a tile, a multiple of PAIR: they share one copy of the image patch
CELLS = BLOCK // 2 + 2  # columns of a half-resolution map that a block reads

Array = np.ndarray[Any, Any]
Two = tuple[int, int]
Three = tuple[int, int, int]
Four = tuple[int, int, int, int]
Sizes = tuple[int, int, int, int, int, int, int, int]  # what `_Sizes` holds
P = ParamSpec("P")
R = TypeVar("R")


class _Sizes(NamedTuple):
    """What the forward loops must know of shapes, as all arrays come flat."""

    frames: int
    """1, or 2 for a pair."""
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
    frame, *maps = (_as_array(tensor).reshape(-1) for tensor in (image, vertical, horizontal))
    sizes = _Sizes(1, image.shape[1], H, W, K, H, W, K * H * W)
    out = _forward((frame, frame), (*maps, *maps), frame[:0], image.shape[0], sizes)
    return out.to(image.dtype)


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
    frames = (_as_array(left).reshape(-1), _as_array(right).reshape(-1))
    flat = _as_array(taps).reshape(-1)
    maps = tuple(flat[k * K * h * w :] for k in range(4))
    share = flat[:0] if weight is None else _as_array(weight).reshape(-1)
    N, C, height, width = left.shape
    sizes = _Sizes(2, C, height - K + 1, width - K + 1, K, h, w, 4 * K * h * w)
    return _forward(frames, maps, share, N, sizes).to(left.dtype)


def _forward(
    frames: tuple[Array, Array], maps: tuple[Array, ...], weight: Array, N: int, sizes: _Sizes
) -> Tensor:
    """Share the rows of tiles out to threads; arrays are flat, `weight` may be empty."""
    out = np.empty((N, sizes.C, sizes.H, sizes.W), frames[0].dtype)
    tasks = N * -(-sizes.H // ROWS)
    _run(_forward_rows, tasks, frames, maps, weight, out.reshape(-1), tuple(sizes))
    return torch.from_numpy(out)


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
    arrays = [_as_array(tensor) for tensor in (grad, image, vertical, horizontal)]
    grads = [np.empty_like(arrays[2]), np.empty_like(arrays[3])]
    N, _, H, _ = vertical.shape
    _run(_backward_maps, N * -(-H // ROWS), tuple(arrays), *grads)
    grad_image = np.zeros(image.shape if image_needs_grad else (0,), arrays[0].dtype)
    if image_needs_grad:
        strips = -(-image.shape[3] // BLOCK)
        _run(_backward_image, N * strips, arrays[0], arrays[2], arrays[3], grad_image)
    results = [torch.from_numpy(array).to(image.dtype) for array in (grad_image, *grads)]
    return results[0], results[1], results[2]


def _as_array(tensor: Tensor) -> Array:
    """View a tensor as a contiguous array; half precisions become float32."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    array: Array = tensor.detach().to(dtype).contiguous().numpy()
    return array


def _run(loop: Callable[..., None], tasks: int, *arguments: Any) -> None:  # noqa: ANN401
    """Call `loop(*arguments, task)` for every task, on as many threads as PyTorch uses.

    Threads of our own, as numba's take a second to compile for, abort the process where two
    callers meet, and share the tasks out beforehand, however busy the cores are.
    """
    threads = min(torch.get_num_threads(), tasks)
    todo = iter(range(tasks))  # the interpreter's lock makes taking the next task atomic
    if threads <= 1:
        _work(loop, todo, arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_work, loop, todo, arguments) for _ in range(threads)]:
            done.result()


def _work(loop: Callable[..., None], todo: Iterator[int], arguments: tuple[Any, ...]) -> None:
    for task in todo:
        loop(*arguments, task)


def _compiled(*, called_from_python: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give `numba.njit` a type, and our options.

    Of fast-math only the fusing of multiply and add is allowed: it makes sums more exact. The
    interpreter's lock is released, so that other threads work meanwhile. Without the wrappers
    that they do not need, inner functions compile faster.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        compile_ = numba.njit(
            cache=True,
            nogil=True,
            fastmath={"contract"},
            no_cpython_wrapper=not called_from_python,
            no_cfunc_wrapper=True,
        )
        return cast("Callable[P, R]", compile_(function))

    return decorate


@_compiled()
def _load(target: Array, at: int, source: Array, plane: Four, window: Four) -> None:
    """Copy a window of a plane into a buffer, with zeros where it leaves the plane.

    target[at + r*columns + x] = source[start + r*step + left + r*skew + x]

    Args:
        target: Flat array.
        at: Where the window starts in it.
        source: Flat array.
        plane: Flat index of the plane's first row and column to use; flat distance of its rows;
            number of rows from there on; number of columns.
        window: Its rows and columns; the plane's column where it starts, which may be negative;
            columns that it moves right with every row.
    """
    (start, step, height, width), (rows, columns, left, skew) = plane, window
    for r in range(rows):
        begin = left + r * skew
        first = min(max(0, -begin), columns) if r < height else columns
        last = max(first, min(columns, width - begin))
        into = at + r * columns
        for x in range(first):
            target[into + x] = 0
        copy_flat(target, into + first, source, start + r * step + begin + first, last - first)
        for x in range(last, columns):
            target[into + x] = 0


@_compiled()
def _load_patch(target: Array, image: Array, size: Four, at: Three) -> None:
    """Copy what a tile reads of an image: (C, ROWS + K + 3, BLOCK + K + 3).

    Args:
        target: Flat array, filled from its start.
        image: Flat array.
        size: C, height and width of an image; K.
        at: Where the tile starts: (n, y, x).
    """
    (C, H, W, K), (n, y, x) = size, at
    rows, columns = ROWS + K + GROUP - 1, BLOCK + K + GROUP - 1
    for c in range(C):
        plane = (((n * C + c) * H + y) * W, W, H - y, W)
        _load(target, c * rows * columns, image, plane, (rows, columns, x, 0))


@_compiled()
def _load_taps(target: Array, into: Two, maps: Array, plane: Four, at: Two) -> None:
    """Copy the taps of two rows of output, zeros where the map ends.

    target[into[o] + k*BLOCK + x] = maps[start + (k*h + y + o)*w + left + x]

    Args:
        target: Flat array.
        into: Where the taps of each row of output start in it.
        maps: Flat array.
        plane: Flat index of the first map; K; height and width of a map.
        at: First pixel: (y, left).
    """
    (start, K, h, w), (y, left) = plane, at
    for o in range(PAIR):
        rows = K if y + o < h else 0
        _load(target, into[o], maps, (start + (y + o) * w, h * w, rows, w), (K, BLOCK, left, 0))


@_compiled()
def _enlarge_taps(target: Array, into: Two, maps: Array, plane: Four, at: Two) -> None:
    """As `_load_taps`, from maps of half the resolution, enlarged bilinearly; y and left even."""
    (start, K, h, w), y, column = plane, at[0] // 2, at[1] // 2 - 1
    upper, own, lower = max(y - 1, 0) * w, y * w, min(y + 1, h - 1) * w
    cells = np.empty(3 * CELLS, target.dtype)
    for k in range(K):
        targets = (into[0] + k * BLOCK, into[1] + k * BLOCK)
        begin = start + k * h * w
        if column >= 0 and column + CELLS <= w:
            first = begin + column
            enlarge(target, targets, maps, (first + upper, first + own, first + lower))
            continue
        for x in range(CELLS):
            inside = begin + min(max(column + x, 0), w - 1)
            cells[x] = maps[inside + upper]
            cells[CELLS + x] = maps[inside + own]
            cells[2 * CELLS + x] = maps[inside + lower]
        enlarge(target, targets, cells, (0, CELLS, 2 * CELLS))


@_compiled()
def _load_share(share: Array, weight: Array, frame: int, plane: Four, left: int) -> None:
    """Set share[o*BLOCK + x] to what `frame` (0 left, 1 right) counts; `plane` as in `_load`."""
    if weight.size > 0:
        _load(share, 0, weight, plane, (PAIR, BLOCK, left, 0))
    for x in range(PAIR * BLOCK):
        if weight.size == 0:
            share[x] = 1
        elif frame == 1:
            share[x] = 1 - share[x]


@_compiled()
def _load_kernels(
    buffers: tuple[Array, Array, Array],
    maps: tuple[Array, Array, Array, Array],
    frame: int,
    sizes: Sizes,
    at: Three,
) -> None:
    """Bring horizontal and vertical taps of one frame and two rows from (n, y, x) = `at`.

    Into the buffers that `filter_pair` wants; the vertical ones of the second row one row down.
    """
    (_, _, H, _, K, h, w, distance), (n, y, x) = sizes, at
    plane, place = (n * distance, K, h, w), (y, x)
    for k in range(2):
        into = (0, K * BLOCK) if k == 0 else (0, (K + GROUP + 1) * BLOCK)
        if h < H:
            _enlarge_taps(buffers[k], into, maps[2 * frame + 1 - k], plane, place)
        else:
            _load_taps(buffers[k], into, maps[2 * frame + 1 - k], plane, place)


@_compiled(called_from_python=True)
def _forward_rows(
    frames: tuple[Array, Array],
    maps: tuple[Array, Array, Array, Array],
    weight: Array,
    out: Array,
    sizes: Sizes,
    task: int,
) -> None:
    """Compute ROWS rows of one output picture; `task` counts them over all pictures."""
    (count, C, H, W, K), dtype = sizes[:5], out.dtype
    n, top = task // -(-H // ROWS), task % -(-H // ROWS) * ROWS
    rows, width = ROWS + K + GROUP - 1, BLOCK + K + GROUP - 1
    patch = np.empty(C * rows * width, dtype)
    taps = (
        np.empty(PAIR * K * BLOCK, dtype),
        np.zeros(PAIR * (K + GROUP) * BLOCK, dtype),
        np.empty(PAIR * BLOCK, dtype),
    )
    total = np.empty(C * ROWS * BLOCK, dtype)
    for left in range(0, W, BLOCK):
        for i in range(total.size):
            total[i] = 0
        for frame in range(count):
            _load_patch(patch, frames[frame], (C, H + K - 1, W + K - 1, K), (n, top, left))
            for y in range(0, min(ROWS, H - top), PAIR):
                plane = ((n * H + top + y) * W, W, H - top - y, W)
                _load_share(taps[2], weight, frame, plane, left)
                _load_kernels(taps, maps, frame, sizes, (n, top + y, left))
                for c in range(C):
                    at, start = (c * ROWS + y) * BLOCK, (c * rows + y) * width
                    filter_pair(total, at, patch, (start, width, K), taps)
        for c in range(C):
            for y in range(min(ROWS, H - top)):
                to = ((n * C + c) * H + top + y) * W + left
                copy_flat(out, to, total, (c * ROWS + y) * BLOCK, min(BLOCK, W - left))


@_compiled()
def _add_products(total: Array, first: int, sums: Array, factor: Array) -> None:
    """Add sums[s, x] * factor[0, x] to total[first + s, x]."""
    for s in range(GROUP):
        for x in range(BLOCK):
            total[first + s, x] += sums[s, x] * factor[0, x]


@_compiled()
def _store_taps(maps: Array, taps: Array, n: int, y: int, left: int) -> None:
    """Write one row's coefficients back: maps[n, k, y, left + x] = taps[k, x]."""
    K, H, W = maps.shape[1:]
    for k in range(K):
        copy_flat(maps, ((n * K + k) * H + y) * W + left, taps, k * BLOCK, min(BLOCK, W - left))


@_compiled()
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
    _load_patch(patch, image.reshape(-1), (C, H + K - 1, W + K - 1, K), at)
    v = np.empty((K, BLOCK), grad.dtype)
    h = np.empty((K, BLOCK), grad.dtype)
    g = np.empty((1, BLOCK), grad.dtype)
    sums = np.empty((GROUP, BLOCK), grad.dtype)
    for y in range(top, min(top + ROWS, H)):
        window = (K, BLOCK, left, 0)
        plane = ((n * K * H + y) * W, H * W, K, W)
        _load(v.reshape(-1), 0, vertical.reshape(-1), plane, window)
        _load(h.reshape(-1), 0, horizontal.reshape(-1), plane, window)
        gv = np.zeros((K + GROUP, BLOCK), grad.dtype)
        gh = np.zeros((K + GROUP, BLOCK), grad.dtype)
        for c in range(C):
            plane = (((n * C + c) * H + y) * W, 0, 1, W)
            _load(g.reshape(-1), 0, grad.reshape(-1), plane, (1, BLOCK, left, 0))
            start = (c * rows + y - top) * width
            for k in range(0, K, GROUP):
                dot4(sums, patch, start + k * width, (width, 1), h, K)
                _add_products(gv, k, sums, g)
            for k in range(0, K, GROUP):
                dot4(sums, patch, start + k, (1, width), v, K)
                _add_products(gh, k, sums, g)
        _store_taps(grad_vertical, gv, n, y, left)
        _store_taps(grad_horizontal, gh, n, y, left)


@_compiled(called_from_python=True)
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


@_compiled(called_from_python=True)
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
        _load(v.reshape(-1), 0, vertical.reshape(-1), plane, (K + GROUP, width, left - K + 1, 0))
        # taps in reverse, each shifted to the pixel it is gathered from
        last = ((n * K + K - 1) * H + y) * W
        plane = (last, -H * W, K, W)
        _load(h.reshape(-1), 0, horizontal.reshape(-1), plane, (K, BLOCK, left - K + 1, 1))
        for c in range(C):
            plane = (((n * C + c) * H + y) * W, 0, 1, W)
            _load(g.reshape(-1), 0, grad.reshape(-1), plane, (1, width, left - K + 1, 0))
            for i in range(0, K, GROUP):
                for s in range(GROUP):
                    for x in range(width):
                        rows[s, x] = g[0, x] * v[i + s, x]
                dot4(sums, rows, 0, (width, 1), h, K)
                for s in range(min(GROUP, K - i)):
                    total = grad_image[n, c, y + i + s, left:]
                    for x in range(columns):
                        total[x] += sums[s, x]
