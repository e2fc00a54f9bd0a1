"""The operator on NVIDIA GPUs: compiles `sepconv.cu` with CuPy and launches it.

Owns the choice of the kernel's variant, the packing of its arguments and the errors of a machine
whose CuPy does not work. Nothing falls back to another device or implementation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

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
ROWS = {"forward": 4, "backward_vertical": 2, "backward_horizontal": 2, "backward_image": 4}
GROUPS = (1, 3, 4)  # numbers of channels that one launch may handle
SHARED_WITHOUT_OPT_IN = 48 * 1024  # bytes of shared memory that a block gets without asking


def forward(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Compute the operator; shapes as in `reference.sepconv`, any strides."""
    N, K, H, W = vertical.shape
    result = image.new_empty((N, image.shape[1], H, W))
    _run("forward", (image, vertical, horizontal, image), result, K)
    return result


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
    shapes = {
        "backward_image": image.shape if image_needs_grad else (0,),
        "backward_vertical": vertical.shape,
        "backward_horizontal": horizontal.shape,
    }
    results = []
    for name, shape in shapes.items():
        result = torch.empty(shape, dtype=dtype, device=image.device)
        _run(name, inputs, result, vertical.shape[1])
        results.append(result.to(image.dtype))
    return results[0], results[1], results[2]


def check(index: int) -> None:
    """Compile a small kernel for GPU number `index`, to find out whether CuPy works.

    Raises:
        DeviceError: It does not.
    """
    _kernel(index, "FLOAT", "forward", 1, 1)


def _run(name: str, inputs: tuple[Tensor, ...], result: Tensor, K: int) -> None:
    """Launch a kernel for each group of channels, on PyTorch's current stream.

    Args:
        name: Of the kernel.
        inputs: image, vertical, horizontal and grad, as in `Arguments` of sepconv.cu.
        result: What the kernel writes: contiguous, (N, C or K, height, width).
        K: Number of taps.
    """
    image, vertical = inputs[:2]
    C, (H, W) = image.shape[1], vertical.shape[2:]
    if not result.numel() or not C:
        result.zero_()
        return
    index, storage = image.device.index, STORAGE[image.dtype]
    channels = _channels(name, C, K, storage, _shared_limit(index))
    kernel = _kernel(index, storage, name, K, channels)
    grid = grid_of(name, result.shape)
    shared = shared_bytes(name, K, channels, storage)
    with _current_stream(index):
        for first in range(0, C, channels):
            arguments = pack(inputs, result, (C, H, W, first))
            kernel(grid, (COLUMNS, WARPS, 1), (arguments,), shared_mem=shared)


def pack(
    inputs: tuple[Tensor, ...], result: Tensor, sizes: tuple[int, int, int, int]
) -> np.ndarray[Any, Any]:
    """Lay out the kernel's argument, `struct Arguments` in sepconv.cu.

    Args:
        inputs: image, vertical, horizontal and grad.
        result: What the kernel writes.
        sizes: C, H, W and the first channel of the launch.

    Returns:
        One opaque element, which CuPy passes by value.
    """
    words: list[int] = []
    for tensor in inputs:
        words += (tensor.data_ptr(), *tensor.stride())
    words += (result.data_ptr(), *sizes)
    return np.array(words, np.int64).view(f"V{8 * len(words)}")


def grid_of(name: str, shape: torch.Size) -> tuple[int, int, int]:
    """Blocks along x, y and n that cover a result (N, C, height, width)."""
    rows = WARPS * ROWS[name]
    return -(-shape[3] // COLUMNS), -(-shape[2] // rows), shape[0]


def shared_bytes(name: str, K: int, channels: int, storage: str) -> int:
    """Bytes of shared memory that hold the window of one block."""
    chunks = -(-K // 16)
    width = COLUMNS - 1 + chunks * -(-K // chunks)
    return channels * (WARPS * ROWS[name] + K - 1) * width * (8 if storage == "DOUBLE" else 4)


def options(storage: str, K: int, channels: int, backward: bool) -> tuple[str, ...]:
    """Compiler options that select a variant of sepconv.cu."""
    variant = (f"-DSTORAGE={storage}", f"-DK={K}", f"-DCHANNELS={channels}")
    return (*variant, *(["-DBACKWARD"] if backward else []), "-std=c++17")


def source() -> str:
    """The text of sepconv.cu."""
    return (resources.files(__package__) / "sepconv.cu").read_text(encoding="utf-8")


def _channels(name: str, C: int, K: int, storage: str, limit: int) -> int:
    """Choose how many of C channels a launch handles, within `limit` bytes of shared memory."""
    fitting = [group for group in GROUPS if shared_bytes(name, K, group, storage) <= limit]
    if not fitting:
        raise DeviceError(
            f"cannot filter with {K} taps on the GPU: needs "
            f"{shared_bytes(name, K, 1, storage)} bytes of shared memory, the device has {limit}",
            hint="run on the CPU instead",
        )
    return next((group for group in fitting if group >= C), fitting[-1])


@contextmanager
def _current_stream(index: int) -> Iterator[None]:
    """Make CuPy launch where PyTorch would."""
    cupy = _cupy()
    stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(index))
    with cupy.cuda.Device(index), stream:
        yield


@cache
def _shared_limit(index: int) -> int:
    """Bytes of shared memory that a block may ask for."""
    limit: int = _cupy().cuda.Device(index).attributes["MaxSharedMemoryPerBlockOptin"]
    return limit


@cache
def _kernel(index: int, storage: str, name: str, K: int, channels: int) -> Any:  # noqa: ANN401
    """Return a `cupy.RawKernel` that may use the shared memory it needs."""
    cupy = _cupy()
    shared = shared_bytes(name, K, channels, storage)
    try:
        with cupy.cuda.Device(index):
            module = _module(index, options(storage, K, channels, name != "forward"))
            kernel = module.get_function(name)
            if shared > SHARED_WITHOUT_OPT_IN:
                kernel.max_dynamic_shared_size_bytes = shared
    except (OSError, RuntimeError) as error:  # no NVRTC, a driver that is too old, ...
        raise DeviceError(
            f"cannot use the GPU: CuPy cannot compile a kernel: {error}", hint=_install_hint()
        ) from error
    return kernel


@cache
def _module(index: int, variant: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Return a `cupy.RawModule`, compiled on first use; CuPy keeps the result on disk."""
    return _cupy().RawModule(code=source(), options=variant)


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
