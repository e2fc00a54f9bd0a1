"""The operator on the CPU: numba loops over blocks of 64 pixels, held in small local buffers.

Everything rests on one primitive, `_dot4`: four sums of products for each pixel of a block, with
taps that change from pixel to pixel. The horizontal pass of forward, both coefficient gradients
and the image gradient are each a few calls of it. Results do not depend on the thread count.

numba is imported at the top, so import this module only when it is needed. Keep it one file:
numba's cache looks at the file of the function it compiles, not at those it imports.
"""
# ruff: noqa: ANN401 - the objects of numba's and llvmlite's builders carry no types

import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor

BLOCK = 64  # pixels along x; taps of one block and one row (K * 64 * 4 bytes) fit the L1 cache
GROUP = 4  # sums per pass over the taps: each tap is loaded once for four products
LANES = 16  # pixels per vector: one AVX-512, two AVX or four NEON registers

ROWS = 16  # rows of a tile: they share one copy of the image patch

Array = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")

# One parallel loop at a time: numba's fallback thread layer aborts the process on a second one.
_lock = threading.Lock()


def forward(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Compute the operator; shapes as in `reference.sepconv`, any strides."""
    N, _, H, W = vertical.shape
    arrays = [_as_array(tensor) for tensor in (image, vertical, horizontal)]
    out = np.empty((N, image.shape[1], H, W), arrays[0].dtype)
    _run(_forward, *arrays, out)
    return torch.from_numpy(out).to(image.dtype)


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


def _run(loops: Callable[..., None], *arrays: Array) -> None:
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
    interpreter's lock is released, so that other threads decode and encode meanwhile.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        compile_ = numba.njit(cache=True, nogil=True, fastmath={"contract"}, parallel=parallel)
        return cast("Callable[P, R]", compile_(function))

    return decorate


def _type_dot4(_: Any, sums: Any, rows: Any, start: Any, steps: Any, taps: Any, count: Any) -> Any:
    """Set sums[s, x] = sum_t rows[start + s*steps[0] + t*steps[1] + x] * taps[t, x].

    For s in 0..3, t below `count` and x below BLOCK, with `rows` seen as flat memory. Written
    in LLVM's vector types: its own vectoriser keeps the sums in memory, at a tenth of the speed.

    Args:
        sums: Contiguous (4, BLOCK), overwritten.
        rows: Contiguous array of any shape.
        start: Flat index of the first element used.
        steps: Flat distance between sums, and between taps.
        taps: Contiguous (>= count, BLOCK).
        count: Number of taps.
    """
    signature = types.void(sums, rows, start, steps, taps, count)
    return signature, _build_dot4


def _build_dot4(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Write the vector code of `dot4`: one loop over the taps for each vector of the block."""
    pointers = [context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 1, 4)]
    sums, rows, taps = (array.data for array in pointers)
    start, count = args[2], args[5]
    across, along = (builder.extract_value(args[3], k) for k in (0, 1))
    word = count.type
    vector = ir.VectorType(sums.type.pointee, LANES)
    align = 4 if isinstance(sums.type.pointee, ir.FloatType) else 8
    zero = ir.Constant(vector, None)

    def at(base: Any, *terms: Any) -> Any:
        """Address of a vector, at the sum of the terms."""
        for term in terms:
            base = builder.gep(base, [term])
        return builder.bitcast(base, vector.as_pointer())

    def multiply_add(cell: Any, a: Any, b: Any) -> None:
        # not llvm.fma: without the instruction it would become a library call
        product = builder.fmul(a, b, flags=("contract",))
        builder.store(builder.fadd(builder.load(cell), product, flags=("contract",)), cell)

    for x in range(0, BLOCK, LANES):
        cells = [cgutils.alloca_once(builder, vector) for _ in range(GROUP)]  # type: ignore[no-untyped-call]
        for cell in cells:
            builder.store(zero, cell)
        with cgutils.for_range(builder, count, intp=word) as loop:
            tap_at = at(taps, builder.mul(loop.index, word(BLOCK)), word(x))
            tap = builder.load(tap_at, align=align)
            step = builder.mul(loop.index, along)
            for s, cell in enumerate(cells):
                row_at = at(rows, start, step, builder.mul(across, word(s)), word(x))
                multiply_add(cell, builder.load(row_at, align=align), tap)
        for s, cell in enumerate(cells):
            builder.store(builder.load(cell), at(sums, word(s * BLOCK + x)), align=align)
    return context.get_dummy_value()


_dot4 = cast("Callable[..., None]", intrinsic(_type_dot4))


def _type_copy(_: Any, target: Any, at: Any, source: Any, source_at: Any, count: Any) -> Any:
    """Copy `count` >= 0 elements between two arrays seen as flat memory.

    numba's own loop would test each index for being negative, which keeps it from vectorising.
    """
    return types.void(target, at, source, source_at, count), _build_copy


def _build_copy(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    target, source = (
        context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 2)
    )
    size = context.get_abi_sizeof(target.type.pointee)
    target, source = builder.gep(target, [args[1]]), builder.gep(source, [args[3]])
    cgutils.raw_memcpy(builder, target, source, args[4], size)  # type: ignore[no-untyped-call]
    return context.get_dummy_value()


_copy = cast("Callable[..., None]", intrinsic(_type_copy))


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
        _copy(
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
def _forward_tile(
    image: Array, vertical: Array, horizontal: Array, out: Array, at: tuple[int, int, int]
) -> None:
    """Compute ROWS x BLOCK pixels of `out` at (n, y, x) = `at`."""
    (n, top, left), (C, H, W), K = at, out.shape[1:], vertical.shape[1]
    patch = _load_patch(image, n, top, left, K)
    width = patch.shape[2]
    v = np.empty((K + GROUP, BLOCK), out.dtype)
    h = np.empty((K, BLOCK), out.dtype)
    sums = np.empty((GROUP, BLOCK), out.dtype)
    total = np.empty(BLOCK, out.dtype)
    for y in range(top, min(top + ROWS, H)):
        _load_taps(v, vertical, n, y, left)
        _load_taps(h, horizontal, n, y, left)
        for c in range(C):
            start = (c * patch.shape[1] + y - top) * width
            for x in range(BLOCK):
                total[x] = 0
            for i in range(0, K, GROUP):
                _dot4(sums, patch, start + i * width, (width, 1), h, K)
                for x in range(BLOCK):
                    total[x] += (v[i, x] * sums[0, x] + v[i + 1, x] * sums[1, x]) + (
                        v[i + 2, x] * sums[2, x] + v[i + 3, x] * sums[3, x]
                    )
            _copy(out, ((n * C + c) * H + y) * W + left, total, 0, min(BLOCK, W - left))


@_compiled(parallel=True)
def _forward(image: Array, vertical: Array, horizontal: Array, out: Array) -> None:
    N, _, H, W = out.shape
    down, across = (H + ROWS - 1) // ROWS, (W + BLOCK - 1) // BLOCK
    for task in numba.prange(N * down * across):
        at = (task // (down * across), task // across % down * ROWS, task % across * BLOCK)
        _forward_tile(image, vertical, horizontal, out, at)


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
        _copy(maps, ((n * K + k) * H + y) * W + left, taps, k * BLOCK, min(BLOCK, W - left))


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
                _dot4(sums, patch, start + k * width, (width, 1), h, K)
                _add_products(gv, k, sums, g)
            for k in range(0, K, GROUP):
                _dot4(sums, patch, start + k, (1, width), v, K)
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
                _dot4(sums, rows, 0, (width, 1), h, K)
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
