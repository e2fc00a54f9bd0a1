"""The operator on the CPU: numba loops over blocks of 64 pixels, held in small local buffers.

The arithmetic is vector code in `vectors`; here is what goes where. Forward takes two rows of
output at a time, and for half-resolution taps enlarges those two rows' taps on the way: maps of
full resolution never exist. Results do not depend on the thread count.

numba is imported at the top, so import this module only when it is needed.
"""

import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

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

Array = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")

# One parallel loop at a time: numba's fallback thread layer aborts the process on a second one.
_lock = threading.Lock()


def forward(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Compute the operator; shapes as in `reference.sepconv`, any strides."""
    N, K, H, W = vertical.shape
    frame, *maps = (_as_array(tensor) for tensor in (image, vertical, horizontal))
    flat = [array.reshape(-1) for array in maps]
    out = np.empty((N, image.shape[1], H, W), frame.dtype)
    sizes = (1, K, K * H * W, H, W)
    _run(_forward, (frame, frame), (*flat, *flat), out.reshape(-1)[:0], out, sizes)
    return torch.from_numpy(out).to(image.dtype)


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
    N, K = taps.shape[0], taps.shape[1] // 4
    h, w = taps.shape[2:]
    H, W = left.shape[2] - K + 1, left.shape[3] - K + 1
    frames = (_as_array(left), _as_array(right))
    flat = _as_array(taps).reshape(-1)
    out = np.empty((N, left.shape[1], H, W), flat.dtype)
    share = out.reshape(-1)[:0] if weight is None else _as_array(weight).reshape(-1)
    maps = tuple(flat[k * K * h * w :] for k in range(4))
    _run(_forward, frames, maps, share, out, (2, K, 4 * K * h * w, h, w))
    return torch.from_numpy(out).to(left.dtype)


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
    _run(_backward_maps, *arrays, *grads)
    grad_image = np.zeros(image.shape if image_needs_grad else (0,), arrays[0].dtype)
    if image_needs_grad:
        _run(_backward_image, arrays[0], arrays[2], arrays[3], grad_image)
    results = [torch.from_numpy(array).to(image.dtype) for array in (grad_image, *grads)]
    return results[0], results[1], results[2]


def _as_array(tensor: Tensor) -> Array:
    """View a tensor as a contiguous array; half precisions become float32."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    array: Array = tensor.detach().to(dtype).contiguous().numpy()
    return array


def _run(loops: Callable[..., None], *arrays: Any) -> None:  # noqa: ANN401 - and tuples of them
    """Run parallel loops on as many threads as PyTorch uses."""
    threads = torch.get_num_threads()
    with _lock:
        available = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        numba.set_num_threads(min(threads, available))
        loops(*arrays)
    if torch.get_num_threads() != threads:  # where both share one OpenMP runtime
        torch.set_num_threads(threads)


def _compiled(*, parallel: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give `numba.njit` a type, and our options.

    Of fast-math only the fusing of multiply and add is allowed: it makes sums more exact. The
    interpreter's lock is released, so that other threads decode and encode meanwhile. Only the
    parallel loops are called from Python: the rest compiles faster without wrappers.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        compile_ = numba.njit(
            cache=True,
            nogil=True,
            fastmath={"contract"},
            parallel=parallel,
            no_cpython_wrapper=not parallel,
            no_cfunc_wrapper=True,
        )
        return cast("Callable[P, R]", compile_(function))

    return decorate


@_compiled()
def _load(
    target: Array, source: Array, plane: tuple[int, int, int, int], left: int, skew: int
) -> None:
    """Copy a window of a plane into a buffer, with zeros where it leaves the plane.

    target[r, x] = source[start + r*step + left + r*skew + x]

    Args:
        target: The buffer, (rows, columns).
        source: Flat array.
        plane: Flat index of the plane's first row and column to use; flat distance of its rows;
            number of rows from there on; number of columns.
        left: Column of the plane where the window starts; may be negative.
        skew: Columns the window moves right with every row.
    """
    start, step, height, width = plane
    for r in range(target.shape[0]):
        at = left + r * skew
        first = min(max(0, -at), target.shape[1]) if r < height else target.shape[1]
        last = max(first, min(target.shape[1], width - at))
        for x in range(first):
            target[r, x] = 0
        copy_flat(
            target, r * target.shape[1] + first, source, start + r * step + at + first, last - first
        )
        for x in range(last, target.shape[1]):
            target[r, x] = 0


@_compiled()
def _load_patch(image: Array, n: int, y: int, x: int, K: int) -> Array:
    """Copy the part of image `n` that a tile at (y, x) reads: (C, ROWS + K + 3, BLOCK + K + 3)."""
    C, H, W = image.shape[1:]
    patch = np.empty((C, ROWS + K + GROUP - 1, BLOCK + K + GROUP - 1), image.dtype)
    for c in range(C):
        _load(patch[c], image.reshape(-1), (((n * C + c) * H + y) * W, W, H - y, W), x, 0)
    return patch


@_compiled()
def _load_taps(target: Array, maps: Array, n: int, y: int, left: int) -> None:
    """Copy the coefficients of one row: target[k, x] = maps[n, k, y, left + x]."""
    K, H, W = maps.shape[1:]
    _load(target, maps.reshape(-1), ((n * K * H + y) * W, H * W, K, W), left, 0)


@_compiled()
def _enlarge_taps(
    target: Array, shift: int, maps: Array, plane: tuple[int, int, int, int], at: tuple[int, int]
) -> None:
    """Enlarge half-resolution taps to target[o, k + o*shift, x], the rows y + o, from `at` = (y, x).

    Args:
        target: (PAIR, >= K + shift, BLOCK).
        shift: Rows that the taps of the second row of output move down.
        maps: Flat array.
        plane: Flat index of the first map; K; height and width of a map.
        at: First pixel, even, in the enlarged map.
    """
    (start, K, h, w), column = plane, at[1] // 2 - 1
    lines = (max(at[0] // 2 - 1, 0), at[0] // 2, min(at[0] // 2 + 1, h - 1))
    cells = np.empty((3, BLOCK // 2 + 2), target.dtype)
    width = cells.shape[1]
    inside = column >= 0 and column + width <= w
    lower = (target.shape[1] + shift) * BLOCK
    for k in range(K):
        first = start + k * h * w
        into = (k * BLOCK, lower + k * BLOCK)
        if inside:
            at0, at1, at2 = lines
            begin = first + column
            enlarge(target, into, maps, (begin + at0 * w, begin + at1 * w, begin + at2 * w))
        else:
            for r in range(3):
                for x in range(width):
                    cells[r, x] = maps[first + lines[r] * w + min(max(column + x, 0), w - 1)]
            enlarge(target, into, cells, (0, width, 2 * width))


@_compiled()
def _load_pair(
    target: Array, shift: int, maps: Array, plane: tuple[int, int, int, int], at: tuple[int, int]
) -> None:
    """As `_enlarge_taps`, from maps of full resolution; zeros where a map ends."""
    (start, K, h, w), (y, left) = plane, at
    for o in range(PAIR):
        rows = target[o].reshape(-1)[o * shift * BLOCK :].reshape(-1, BLOCK)[:K]
        height = K if y + o < h else 0
        _load(rows, maps, (start + (y + o) * w, h * w, height, w), left, 0)


@_compiled()
def _load_share(
    share: Array, weight: Array, frame: int, at: tuple[int, int, int, int, int]
) -> None:
    """Set share[o, x] to what `frame` (0 left, 1 right) counts at two rows from (n, y, x)."""
    n, y, left, H, W = at
    if weight.size == 0:
        share[:] = 1
        return
    _load(share, weight, ((n * H + y) * W, W, H - y, W), left, 0)
    if frame == 1:
        for o in range(PAIR):
            for x in range(BLOCK):
                share[o, x] = 1 - share[o, x]


@_compiled()
def _add_weighted(total: Array, sums: Array, share: Array) -> None:
    """Add sums[o, x] * share[o, x] to total[o, x]."""
    for o in range(PAIR):
        for x in range(BLOCK):
            total[o, x] += sums[o, x] * share[o, x]


@_compiled()
def _forward_tile(
    frames: tuple[Array, Array],
    maps: tuple[Array, Array, Array, Array],
    weight: Array,
    out: Array,
    sizes: tuple[int, int, int, int, int],
    at: tuple[int, int, int],
) -> None:
    """Compute ROWS x BLOCK pixels of `out` at (n, y, x) = `at`."""
    (n, top, left), (C, H, W), (count, K, stride, h, w) = at, out.shape[1:], sizes
    total = np.zeros((C, ROWS // PAIR, PAIR, BLOCK), out.dtype)
    vertical = np.zeros((PAIR, K + GROUP, BLOCK), out.dtype)
    horizontal = np.empty((PAIR, K, BLOCK), out.dtype)
    sums, share = np.empty((2, PAIR, BLOCK), out.dtype)
    rows = min(ROWS, H - top)
    for f in range(count):
        patch = _load_patch(frames[f], n, top, left, K)
        for y in range(0, rows, PAIR):
            first = (n * stride, K, h, w), (top + y, left)
            if h < H:
                _enlarge_taps(vertical, 1, maps[2 * f], *first)
                _enlarge_taps(horizontal, 0, maps[2 * f + 1], *first)
            else:
                _load_pair(vertical, 1, maps[2 * f], *first)
                _load_pair(horizontal, 0, maps[2 * f + 1], *first)
            _load_share(share, weight, f, (n, top + y, left, H, W))
            for c in range(C):
                start = (c * patch.shape[1] + y) * patch.shape[2]
                filter_pair(sums, patch, start, horizontal, vertical)
                _add_weighted(total[c, y // PAIR], sums, share)
    for c in range(C):
        for y in range(rows):
            copy_flat(
                out,
                ((n * C + c) * H + top + y) * W + left,
                total,
                (c * ROWS + y) * BLOCK,
                min(BLOCK, W - left),
            )


@_compiled(parallel=True)
def _forward(
    frames: tuple[Array, Array],
    maps: tuple[Array, Array, Array, Array],
    weight: Array,
    out: Array,
    sizes: tuple[int, int, int, int, int],
) -> None:
    N, _, H, W = out.shape
    down, across = (H + ROWS - 1) // ROWS, (W + BLOCK - 1) // BLOCK
    for task in numba.prange(N * down * across):
        at = (task // (down * across), task // across % down * ROWS, task % across * BLOCK)
        _forward_tile(frames, maps, weight, out, sizes, at)


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
    patch = _load_patch(image, n, top, left, K)
    width = patch.shape[2]
    v = np.empty((K, BLOCK), grad.dtype)
    h = np.empty((K, BLOCK), grad.dtype)
    g = np.empty((1, BLOCK), grad.dtype)
    sums = np.empty((GROUP, BLOCK), grad.dtype)
    for y in range(top, min(top + ROWS, H)):
        _load_taps(v, vertical, n, y, left)
        _load_taps(h, horizontal, n, y, left)
        gv = np.zeros((K + GROUP, BLOCK), grad.dtype)
        gh = np.zeros((K + GROUP, BLOCK), grad.dtype)
        for c in range(C):
            _load(g, grad.reshape(-1), (((n * C + c) * H + y) * W, 0, 1, W), left, 0)
            start = (c * patch.shape[1] + y - top) * width
            for k in range(0, K, GROUP):
                dot4(sums, patch, start + k * width, (width, 1), h, K)
                _add_products(gv, k, sums, g)
            for k in range(0, K, GROUP):
                dot4(sums, patch, start + k, (1, width), v, K)
                _add_products(gh, k, sums, g)
        _store_taps(grad_vertical, gv, n, y, left)
        _store_taps(grad_horizontal, gh, n, y, left)


@_compiled(parallel=True)
def _backward_maps(
    grad: Array, image: Array, vertical: Array, horizontal: Array, gv: Array, gh: Array
) -> None:
    N, _, H, W = grad.shape
    down, across = (H + ROWS - 1) // ROWS, (W + BLOCK - 1) // BLOCK
    for task in numba.prange(N * down * across):
        at = (task // (down * across), task // across % down * ROWS, task % across * BLOCK)
        _backward_maps_tile((grad, image, vertical, horizontal), gv, gh, at)


@_compiled()
def _backward_image_strip(
    grad: Array, vertical: Array, horizontal: Array, grad_image: Array, at: tuple[int, int]
) -> None:
    """Add up the image gradient for BLOCK columns from `at` = (n, x), over the whole height.

    The columns of one strip gather from the K - 1 pixels to their left, so strips share nothing:
    no atomics, and the same order of sums on any number of threads.
    """
    (n, left), (C, H, W), K = at, grad.shape[1:], vertical.shape[1]
    width = BLOCK + K - 1
    columns = min(BLOCK, grad_image.shape[3] - left)
    v = np.empty((K + GROUP, width), grad.dtype)
    g = np.empty((1, width), grad.dtype)
    h = np.empty((K, BLOCK), grad.dtype)
    rows = np.empty((GROUP, width), grad.dtype)
    sums = np.empty((GROUP, BLOCK), grad.dtype)
    for y in range(H):
        _load_taps(v, vertical, n, y, left - K + 1)
        # taps in reverse, each shifted to the pixel it is gathered from
        last = ((n * K + K - 1) * H + y) * W
        _load(h, horizontal.reshape(-1), (last, -H * W, K, W), left - K + 1, 1)
        for c in range(C):
            _load(g, grad.reshape(-1), (((n * C + c) * H + y) * W, 0, 1, W), left - K + 1, 0)
            for i in range(0, K, GROUP):
                for s in range(GROUP):
                    for x in range(width):
                        rows[s, x] = g[0, x] * v[i + s, x]
                dot4(sums, rows, 0, (width, 1), h, K)
                for s in range(min(GROUP, K - i)):
                    total = grad_image[n, c, y + i + s, left:]
                    for x in range(columns):
                        total[x] += sums[s, x]


@_compiled(parallel=True)
def _backward_image(grad: Array, vertical: Array, horizontal: Array, grad_image: Array) -> None:
    across = (grad_image.shape[3] + BLOCK - 1) // BLOCK
    for task in numba.prange(grad_image.shape[0] * across):
        at = (task // across, task % across * BLOCK)
        _backward_image_strip(grad, vertical, horizontal, grad_image, at)
