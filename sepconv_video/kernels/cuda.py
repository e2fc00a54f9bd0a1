"""The operator on NVIDIA GPUs: compiles `sepconv*.cu` with CuPy and launches it.

Owns the choice of the kernel's variant, the packing of its arguments and the errors of a machine
whose CuPy does not work. Nothing falls back to another device or implementation.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sepconv_video.errors import DeviceError

STORAGE = {
    torch.float32: "FLOAT",
    torch.float16: "HALF",
    torch.bfloat16: "BFLOAT16",
    torch.float64: "DOUBLE",
}
# as in sepconv.cu
COLUMNS, WARPS = 32, 4
ROWS = {
    "forward": 4,
    "forward_tensor": 4,
    "backward_vertical": 2,
    "backward_horizontal": 2,
    "backward_image": 4,
}
GROUPS = (1, 3, 4)  # numbers of channels that one launch may handle
TENSOR_STORAGE, TENSOR_TAPS = ("HALF", "BFLOAT16"), range(17, 58)  # what forward_tensor can do
TENSOR_CAPABILITY = 80
TURNED = 64  # as in planar.cu: pixels, and channels of a block
SOURCES = (
    "storage.cu",
    "sepconv.cu",
    "sepconv_forward.cu",
    "sepconv_tensor.cu",
    "sepconv_backward.cu",
)
PLANAR_SOURCES = ("planar.cu",)
MAP_ELEMENTS = 2**32  # of a map of taps, at most
SHARED_WITHOUT_OPT_IN = 48 * 1024  # bytes of shared memory that a block gets without asking


class Variant(NamedTuple):
    """One kernel, as compiled: the macros of sepconv.cu."""

    name: str
    storage: str
    K: int
    channels: int
    frames: int = 1
    halved: bool = False


def forward(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Compute the operator; shapes as in `reference.sepconv`, any strides."""
    return _forward((image, vertical, horizontal), None)


def forward_pair(left: Tensor, right: Tensor, taps: Tensor, weight: Tensor | None) -> Tensor:
    """Compute `operation.sepconv_pair` in one launch; any strides."""
    vertical1, horizontal1, vertical2, horizontal2 = taps.chunk(4, dim=1)
    return _forward((left, vertical1, horizontal1, right, vertical2, horizontal2), weight)


def _forward(frames: tuple[Tensor, ...], weight: Tensor | None) -> Tensor:
    """Filter one or two frames, three tensors each, and add them up."""
    image, taps = frames[:2]
    K = taps.shape[1]
    H, W = image.shape[2] - K + 1, image.shape[3] - K + 1
    result = image.new_empty((*image.shape[:2], H, W))
    name = forward_name(STORAGE[image.dtype], K, _capability(image.device.index))
    halved = taps.shape[2:] != (H, W)
    variant = Variant(name, STORAGE[image.dtype], K, 0, len(frames) // 3, halved)
    _run(variant, (*frames, weight), result, (H, W))
    return result


def forward_name(storage: str, K: int, capability: int) -> str:
    """Choose the kernel for forward: matrix instructions where they can do it and pay.

    Args:
        storage: One of the values of `STORAGE`.
        K: Number of taps; short bands are mostly zeros.
        capability: Of the device, 80 for 8.0.
    """
    fits = storage in TENSOR_STORAGE and K in TENSOR_TAPS and capability >= TENSOR_CAPABILITY
    return "forward_tensor" if fits else "forward"


def backward(
    grad: Tensor, image: Tensor, vertical: Tensor, horizontal: Tensor, image_needs_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients with respect to image, vertical and horizontal.

    Formulas as in `cpu.backward`; the same on every run.

    Returns:
        The three gradients; the first has shape (0,) unless `image_needs_grad`.
    """
    # sums over the channels may take several launches, so they are kept in full precision
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    inputs = (image, vertical, horizontal, grad)
    storage, (K, H, W) = STORAGE[image.dtype], vertical.shape[1:]
    shapes = {
        "backward_image": image.shape if image_needs_grad else (0,),
        "backward_vertical": vertical.shape,
        "backward_horizontal": horizontal.shape,
    }
    results = []
    for name, shape in shapes.items():
        result = torch.empty(shape, dtype=dtype, device=image.device)
        _run(Variant(name, storage, K, 0), inputs, result, (H, W))
        results.append(result.to(image.dtype))
    return results[0], results[1], results[2]


def planar(maps: Tensor, result: Tensor) -> Tensor:
    """Do what `operation.planar` says, for maps whose channels lie side by side."""
    if maps.dtype != result.dtype:
        return result.copy_(planar(maps, maps.new_empty(maps.shape)))
    N, C, H, W = maps.shape
    size, index = maps.element_size(), maps.device.index
    words = [maps.data_ptr(), maps.stride(0), maps.stride(3)]
    words += [result.data_ptr(), result.stride(0), C, H * W]
    grid = -(-H * W // TURNED), -(-C // TURNED), N
    kernel = PLANAR_SOURCES, planar_options(size), "planar"
    start(index, kernel, grid, words, planar_bytes(size))
    return result


@cache
def planar_options(size: int) -> tuple[str, ...]:
    """Compiler options for elements of so many bytes."""
    return f"-DBYTES={size}", "-DPLANAR", "-std=c++17"


def planar_bytes(size: int) -> int:
    """Bytes of shared memory that a block needs then: its pixels, a word of 32 bits apart."""
    return TURNED * (TURNED * size + 4)


def launch(kernel: Any, grid: tuple[int, int, int], words: list[int], shared: int = 0) -> None:  # noqa: ANN401
    """Launch a `cupy.RawKernel` of ours; its one argument are these 64-bit words."""
    # an opaque element, which CuPy passes by value
    argument = np.array(words, np.int64).view(f"V{8 * len(words)}")
    if 0 not in grid:  # CuPy would launch one block
        kernel(grid, (COLUMNS, WARPS, 1), (argument,), shared_mem=shared)


def start(
    index: int,
    kernel: tuple[tuple[str, ...], tuple[str, ...], str],
    grid: tuple[int, int, int],
    words: list[int],
    shared: int = 0,
) -> None:
    """Launch a kernel on PyTorch's stream of GPU number `index`; its sources, options and name."""
    sources, options, name = kernel
    with current_stream(index):
        launch(function(index, (sources, options), name, shared), grid, words, shared)


@cache
def storage_options(dtype: torch.dtype, macro: str) -> tuple[str, ...]:
    """Compiler options of what works on tensors of such a kind, and knows itself by a macro."""
    return f"-DSTORAGE={STORAGE[dtype]}", f"-D{macro}", "-std=c++17"


@cache
def bits(figures: tuple[float, ...]) -> list[int]:
    """The words of 64 bits that doubles are."""
    words: list[int] = np.array(figures, np.float64).view(np.int64).tolist()
    return words


def check(index: int) -> None:
    """Compile a small kernel for GPU number `index`, to find out whether CuPy works.

    Raises:
        DeviceError: It does not.
    """
    _kernel(index, Variant("forward", "FLOAT", 1, 1))


def _run(
    variant: Variant, inputs: tuple[Tensor | None, ...], result: Tensor, size: tuple[int, int]
) -> None:
    """Launch a kernel for each group of channels, on PyTorch's current stream.

    Args:
        variant: Of the kernel, its number of channels yet to be chosen.
        inputs: As in `arguments`.
        result: What the kernel writes: contiguous, (N, C or K, height, width).
        size: H and W of the taps.
    """
    image = inputs[0]
    assert image is not None
    C = image.shape[1]
    if not result.numel() or not C:
        result.zero_()
        return
    # what is laid out otherwise is turned around once
    inputs = tuple(
        tensor if tensor is None or _is_readable(tensor) else tensor.contiguous()
        for tensor in inputs
    )
    index = image.device.index
    variant = _with_channels(variant, C, _shared_limit(index))
    kernel = _kernel(index, variant)
    grid, shared = grid_of(variant.name, result.shape), shared_bytes(variant)
    with current_stream(index):
        for first in range(0, C, variant.channels):
            launch(kernel, grid, arguments(inputs, result, (C, *size, first)), shared)


def _is_readable(tensor: Tensor) -> bool:
    """Whether the threads of a warp can read along a row, at a place in a map that has 32 bits."""
    return tensor.stride(3) == 1 and tensor.shape[2] * tensor.stride(2) <= MAP_ELEMENTS


def arguments(
    inputs: tuple[Tensor | None, ...], result: Tensor, sizes: tuple[int, int, int, int]
) -> list[int]:
    """Lay out the kernel's argument, `struct Arguments` in sepconv.cu, as `launch` wants it.

    Args:
        inputs: image, vertical and horizontal of each frame, then `other`.
        result: What the kernel writes.
        sizes: C, H, W and the first channel of the launch.
    """
    words: list[int] = []
    for tensor in inputs:
        words += [0] * 5 if tensor is None else [tensor.data_ptr(), *tensor.stride()]
    return [*words, result.data_ptr(), *sizes]


def grid_of(name: str, shape: torch.Size) -> tuple[int, int, int]:
    """Blocks along x, y and n that cover a result (N, C, height, width)."""
    rows = WARPS * ROWS[name]
    return -(-shape[3] // COLUMNS), -(-shape[2] // rows), shape[0]


def shared_bytes(variant: Variant) -> int:
    """Bytes of shared memory that one block needs: its window, and what it stages."""
    name, storage, K, channels, _, _ = variant
    rows = WARPS * ROWS[name]
    if name == "forward_tensor":
        return _tensor_bytes(K, channels, rows)
    chunks = -(-K // 17)
    width = COLUMNS - 1 + chunks * -(-K // chunks)
    return channels * (rows + K - 1) * width * (8 if storage == "DOUBLE" else 4)


def _tensor_bytes(K: int, channels: int, rows: int) -> int:
    """As the macros of sepconv_tensor.cu: window, taps staged by each warp, values kept."""
    tiles, steps = -(-K * channels // 16), -(-(K + 7) // 16)
    window = ((rows - 1) * channels + 16 * tiles) * 4 * (2 * steps + 3)
    taps = ((16 * tiles - 1) // channels + 1) * 20
    return 4 * (window + WARPS * max(4 * 289 + 4, taps) + channels * rows * COLUMNS)


def options(variant: Variant) -> tuple[str, ...]:
    """Compiler options that select a variant."""
    name, storage, K, channels, frames, halved = variant
    flags = {
        "-DTENSOR": name == "forward_tensor",
        "-DBACKWARD": name.startswith("backward"),
        "-DHALVED": halved,
    }
    macros = (f"-DSTORAGE={storage}", f"-DK={K}", f"-DCHANNELS={channels}", f"-DFRAMES={frames}")
    return (*macros, *(flag for flag, given in flags.items() if given), "-std=c++17")


def source(names: tuple[str, ...] = SOURCES) -> str:
    """The text of some kernels."""
    folder = resources.files(__package__)
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _with_channels(variant: Variant, C: int, limit: int) -> Variant:
    """Choose how many of C channels a launch handles, within `limit` bytes of shared memory."""
    variants = [variant._replace(channels=group) for group in GROUPS]
    fitting = [one for one in variants if shared_bytes(one) <= limit]
    if not fitting:
        raise DeviceError(
            f"cannot filter with {variant.K} taps on the GPU: needs "
            f"{shared_bytes(variants[0])} bytes of shared memory, the device has {limit}",
            hint="run on the CPU instead",
        )
    return next((one for one in fitting if one.channels >= C), fitting[-1])


@contextmanager
def current_stream(index: int) -> Iterator[None]:
    """Make CuPy launch where PyTorch would."""
    cupy = _cupy()
    with (
        cupy.cuda.Device(index),  # first: a stream is that of the device at the time
        cupy.cuda.Stream.from_external(torch.cuda.current_stream(index)),
    ):
        yield


@cache
def _shared_limit(index: int) -> int:
    """Bytes of shared memory that a block may ask for."""
    limit: int = _cupy().cuda.Device(index).attributes["MaxSharedMemoryPerBlockOptin"]
    return limit


@cache
def _capability(index: int) -> int:
    """Compute capability of a GPU, 80 for 8.0."""
    return int(_cupy().cuda.Device(index).compute_capability)


@cache
def _kernel(index: int, variant: Variant) -> Any:  # noqa: ANN401
    """Return a `cupy.RawKernel` that may use the shared memory it needs."""
    return function(index, (SOURCES, options(variant)), variant.name, shared_bytes(variant))


@cache
def function(
    index: int, module: tuple[tuple[str, ...], tuple[str, ...]], name: str, shared: int = 0
) -> Any:  # noqa: ANN401
    """Find a `cupy.RawKernel` on GPU number `index`, compiled on first use.

    Args:
        index: Of the GPU.
        module: Names of its sources, and the compiler's options.
        name: Of the kernel.
        shared: Bytes of shared memory that a block of it will need.

    Raises:
        DeviceError: CuPy does not work.
        RuntimeError: Out of memory.
    """
    cupy = _cupy()
    try:
        with cupy.cuda.Device(index):
            kernel = _module(index, *module).get_function(name)
            if shared > SHARED_WITHOUT_OPT_IN:
                kernel.max_dynamic_shared_size_bytes = shared
    except (OSError, RuntimeError) as error:  # no NVRTC, a driver that is too old, ...
        if re.search("OUT_OF_MEMORY|MemoryAllocation", str(error)):
            raise  # with less at once there may be enough
        raise DeviceError(
            f"cannot use the GPU: CuPy cannot compile a kernel: {error}", hint=_install_hint()
        ) from error
    return kernel


@cache
def _module(index: int, sources: tuple[str, ...], options: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Return a `cupy.RawModule`; CuPy keeps what it compiles on disk."""
    return _cupy().RawModule(code=source(sources), options=options)


def _cupy() -> Any:  # noqa: ANN401 - a module
    """Import CuPy late: it takes a second, and machines without a GPU do not have it."""
    try:
        import cupy  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f"cannot use the GPU: CuPy cannot be imported: {error}", hint=_install_hint()
        ) from error
    return cupy


def _install_hint() -> str:
    version = torch.version.cuda
    if version is None:
        return "install PyTorch for CUDA; other GPUs than NVIDIA's are not supported"
    extra = "cuda13" if version.startswith("13") else "cuda12"
    return f'pip install "sepconv-video[{extra}]"'
