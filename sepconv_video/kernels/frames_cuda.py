"""Frames and maps on NVIDIA GPUs, moved by a motion, averaged, reduced: launches `frames.cu`.

`motion` says what for; `frames_cpu` has the same for a CPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sepconv_video.kernels import cuda
from sepconv_video.kernels.motion import MODES, Warping, Weights

SOURCES = "storage.cu", "frames.cu"
PLAIN = Warping("bilinear", (0, 0), 1)


def warp(frames: Tensor, motion: Tensor, how: Warping) -> Tensor:
    """Do what `motion.warp` says, with any number of channels, float32 or half precision."""
    rows, columns = (how.factor * size for size in motion.shape[2:])
    result = frames.new_empty(*frames.shape[:2], rows, columns)
    _launch("warp", (frames, motion, result), how)
    return result


def gather(frames: Tensor, motion: Tensor, corner: tuple[int, int], maps: Tensor) -> None:
    """Do what `motion.gather` says."""
    channels = maps.stride(0) // motion[0, 0].numel()
    _launch("gather", (frames, motion, maps), Warping("bilinear", corner, 2), channels)


def differ(left: Tensor, right: Tensor, motions: Sequence[Tensor]) -> Tensor:
    """Do what `motion.differ` says."""
    result = left.new_empty(len(left), len(motions), *left.shape[2:])
    other = right.contiguous()
    for motion, made in zip(motions, result.unbind(1), strict=True):
        _launch("differ", (left, motion, made, other), PLAIN, result.stride(0))
    return result


def box(maps: Tensor, side: int) -> Tensor:
    """Do what `motion.box` says, float32 or half precision."""
    planes = maps.contiguous().view(-1, 1, *maps.shape[2:])
    result = torch.empty_like(planes)
    _launch("box", (planes, planes, result), PLAIN, side)  # without any motion
    return result.view(maps.shape)


def halve(maps: Tensor, weights: Weights) -> Tensor:
    """Do what `motion.halve` says, float32 or half precision."""
    planes = maps.contiguous().view(-1, 1, *maps.shape[2:])
    result = maps.new_empty(*maps.shape[:2], *(-(-size // 2) for size in maps.shape[2:]))
    _launch("halve", (planes, result, result), PLAIN, weights=weights)  # without any, too
    return result


def _launch(
    name: str,
    tensors: tuple[Tensor, ...],
    how: Warping,
    step: int = 0,
    weights: Weights = (0, 0, 0, 0),
) -> None:
    """Launch a kernel of `frames.cu`; tensors, `step` and weights as in `struct Arguments`."""
    frames, motion, result, *other = tensors
    frames, motion = frames.contiguous(), motion.contiguous()
    N, C, H, W = frames.shape
    rows, columns = (how.factor * size for size in motion.shape[2:])
    words = [tensor.data_ptr() for tensor in (frames, motion, result)]
    words += [C, H, W, rows, columns, MODES.index(how.mode), *how.corner, how.factor, step]
    words += [tensor.data_ptr() for tensor in other] or [0]
    words += cuda.bits(weights)
    each = 2 if name == "gather" else 1  # rows and columns of a thread
    grid = -(-columns // (each * cuda.COLUMNS)), -(-rows // (each * cuda.WARPS)), N
    cuda.start(frames.device.index, (SOURCES, options(frames.dtype), name), grid, words)


def options(dtype: torch.dtype) -> tuple[str, ...]:
    """Compiler options for frames of such a kind."""
    return cuda.storage_options(dtype, "MOVED")
