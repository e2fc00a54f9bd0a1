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
    made, bias = _aligned(_interleaved(made)), _aligned(bias.contiguous())
    base = None if base is None else _aligned(_interleaved(base))
    N, C, H, W = made.shape
    assert C % EIGHTS == 0
    channels = C * made.element_size() // VECTOR
    words = [made.data_ptr(), bias.data_ptr(), 0 if base is None else base.data_ptr()]
    words += [*cuda.bits((slope,)), channels * H * W, channels]
    grid = -(-channels * H * W // (THREADS * TAKEN)), 1, N
    index = made.device.index
    with cuda.current_stream(index):
        cuda.launch(cuda.function(index, (SOURCES, options(made.dtype)), "rectify"), grid, words)
    return made


def options(dtype: torch.dtype) -> tuple[str, ...]:
    """Compiler options for maps of such a kind."""
    return f"-DSTORAGE={cuda.STORAGE[dtype]}", "-DRECTIFY", "-std=c++17"


def _interleaved(maps: Tensor) -> Tensor:
    """Maps with all channels of a pixel side by side."""
    return maps.contiguous(memory_format=torch.channels_last)


def _aligned(tensor: Tensor) -> Tensor:
    """Copy a tensor unless it begins where vectors do."""
    return tensor.clone() if tensor.data_ptr() % VECTOR else tensor
