"""Light on NVIDIA GPUs: launches `light.cu`, which says what it spares; `light` says what for."""

import torch
from torch import Tensor

from sepconv_video.kernels import cuda

SOURCES = "storage.cu", "light.cu"
ROWS, COLORS = 4, 3  # as in light.cu


def relight(frames: Tensor, gain: Tensor, offset: Tensor) -> None:
    """Do what `light.relight` says."""
    light = gain.contiguous(), offset.contiguous()
    _launch("relight", (frames, None, None, None, *light, None, None), gain.shape, COLORS)


def hold(
    made: Tensor, left: Tensor, right: Tensor, allowed: Tensor, light: tuple[Tensor, ...]
) -> None:
    """Do what `light.hold` says."""
    given = [tensor.contiguous() for tensor in (left, right, allowed, *light)]
    _launch("hold", (made, *given), light[0].shape, 1)


def _launch(
    name: str, tensors: tuple[Tensor | None, ...], maps: tuple[int, ...], planes: int
) -> None:
    """Launch a kernel for each picture, or for each of its `planes`.

    Args:
        name: Of the kernel.
        tensors: As `struct Arguments` has them, contiguous.
        maps: Shape of gain and offset.
        planes: 1, or how many there are.
    """
    made = tensors[0]
    assert made is not None
    assert made.is_contiguous()
    N, channels, H, W = made.shape
    assert channels == maps[1] == COLORS
    words = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    words += [H, W, *maps[2:]]
    grid = -(-W // cuda.COLUMNS), -(-H // (cuda.WARPS * ROWS)), N * planes
    index = made.device.index
    with cuda.current_stream(index):
        cuda.launch(cuda.function(index, (SOURCES, options(made.dtype)), name), grid, words)


def options(dtype: torch.dtype) -> tuple[str, ...]:
    """Compiler options for frames of such a kind."""
    return f"-DSTORAGE={cuda.STORAGE[dtype]}", "-DLIGHT", "-std=c++17"
