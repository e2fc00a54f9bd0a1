"""Convolutions on NVIDIA GPUs: PyTorch's, and `rectify.cu` for what follows them."""

import torch
from torch import Tensor

from sepconv_video.kernels import cuda
from sepconv_video.kernels.convolution import EIGHTS

SOURCES = "storage.cu", "rectify.cu"
THREADS, TAKEN, VECTOR = cuda.COLUMNS * cuda.WARPS, 4, 16  # as in rectify.cu; bytes


def rectify(made: Tensor, bias: Tensor, slope: float, base: Tensor | None) -> Tensor:
    """Do what follows a convolution: leaky_relu(made + bias) + base, in single precision.

    Args:
        made: (N, C, H, W), C a multiple of 8, float32, float16 or bfloat16; may be overwritten.
        bias: (C,), its dtype.
        slope: Of the rectifier below zero.
        base: As `made`, or None.
    """
    made, bias = _interleaved(made), _aligned(bias.contiguous())
    _launch("rectify", made, (bias, None if base is None else _interleaved(base)), slope)
    return made


def add_enlarged(maps: Tensor, base: Tensor) -> Tensor:
    """Do what `convolution.add_enlarged` says."""
    made = _interleaved(base)
    _launch("add_enlarged", made, (None, _interleaved(maps)), 0)
    return made


def _launch(
    name: str, made: Tensor, given: tuple[Tensor | None, Tensor | None], slope: float
) -> None:
    """Launch a kernel; `given` are bias and base, as in `struct Arguments`."""
    N, C, H, W = made.shape
    assert C % EIGHTS == 0
    channels, index = C * made.element_size() // VECTOR, made.device.index
    words = [0 if tensor is None else tensor.data_ptr() for tensor in (made, *given)]
    words += [*cuda.bits((slope,)), channels * H * W, channels, W]
    grid = -(-channels * H * W // (THREADS * TAKEN)), 1, N
    cuda.start(index, (SOURCES, options(made.dtype), name), grid, words)


def options(dtype: torch.dtype) -> tuple[str, ...]:
    """Compiler options for maps of such a kind."""
    return cuda.storage_options(dtype, "RECTIFY")


def _interleaved(maps: Tensor) -> Tensor:
    """Maps with all channels of a pixel side by side, from where vectors begin."""
    return _aligned(maps.contiguous(memory_format=torch.channels_last))


def _aligned(tensor: Tensor) -> Tensor:
    """Copy a tensor unless it begins where vectors do."""
    return tensor.clone() if tensor.data_ptr() % VECTOR else tensor
