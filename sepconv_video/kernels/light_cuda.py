"""Light on NVIDIA GPUs: launches `light.cu`, which says what it spares; `light` says what for."""

import torch
from torch import Tensor

from sepconv_video.kernels import cuda

SOURCES = "storage.cu", "light.cu"
ROWS, COLORS, CELL = 4, 3, 2  # as in light.cu


def normalise(frames: Tensor, mean: Tensor, spread: Tensor, made: Tensor, side: int) -> None:
    """Do what `light.normalise` says."""
    frames = frames.contiguous()
    given = frames, None, None, mean.float().contiguous(), spread.float().contiguous(), None, None
    _launch(
        ("reduce" if side == CELL else "normalise", frames.dtype),
        (made, *given),
        frames.shape,
        COLORS,
    )


def relight(frames: Tensor, gain: Tensor, offset: Tensor) -> None:
    """Do what `light.relight` says."""
    light = gain.contiguous(), offset.contiguous()
    tensors = frames, None, None, None, *light, None, None
    _launch(("relight", frames.dtype), tensors, gain.shape, COLORS)


def hold(
    made: Tensor, left: Tensor, right: Tensor, allowed: Tensor, light: tuple[Tensor, ...]
) -> None:
    """Do what `light.hold` says."""
    given = [tensor.contiguous() for tensor in (left, right, allowed, *light)]
    _launch(("hold", made.dtype), (made, *given), light[0].shape, 1)


def _launch(
    kernel: tuple[str, torch.dtype],
    tensors: tuple[Tensor | None, ...],
    other: torch.Size,
    planes: int,
) -> None:
    """Launch a kernel for each picture, or for each of its `planes`.

    Args:
        kernel: Its name, and what frames are stored as.
        tensors: As `struct Arguments` has them, contiguous.
        other: Shape of what is not as large as what is made.
        planes: 1, or how many there are.
    """
    made, (name, dtype) = tensors[0], kernel
    assert made is not None
    assert made.is_contiguous()
    N, channels, H, W = made.shape
    assert channels == other[1] == COLORS
    words = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    words += [H, W, *other[2:]]
    grid = -(-W // cuda.COLUMNS), -(-H // (cuda.WARPS * ROWS)), N * planes
    index = made.device.index
    cuda.start(index, (SOURCES, options(dtype), name), grid, words)


def options(dtype: torch.dtype) -> tuple[str, ...]:
    """Compiler options for frames of such a kind."""
    return cuda.storage_options(dtype, "LIGHT")
