"""Steps of a search for motion on NVIDIA GPUs: launches `motion.cu`.

`models/alignment.py` says what they are for, and has the same for a CPU.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sepconv_video.kernels import cuda

SOURCES = ("motion.cu",)
ROWS = 16  # as in motion.cu


class Step(NamedTuple):
    """One kernel, as compiled."""

    name: str
    channels: int
    window: int


class Choice(NamedTuple):
    """The constants of `choose`."""

    window: int
    """As WINDOW of `alignment`."""
    distance: int
    """Cells."""
    sharpness: float
    """As SHARPNESS."""
    least: float
    """As LEAST_COST."""


def correct(
    left: Tensor, right: Tensor, motion: Tensor, *, window: int, damping: float, robust: float
) -> Tensor:
    """Correct a motion once, and smooth it where the frames agree.

    Args:
        left: Frames, (N, C, H, W), float32, contiguous, on a GPU.
        right: As `left`.
        motion: (N, 2, H, W) in pixels of these frames, likewise.
        window: As WINDOW of `alignment`, which has the other constants too.
        damping: As DAMPING.
        robust: As ROBUST.

    Returns:
        The new motion, (N, 2, H, W).
    """
    corrected, smoothed = torch.empty_like(motion), torch.empty_like(motion)
    weights = motion.new_empty(motion[:, :1].shape)
    kinds = left.shape[1], window
    _run(
        Step("correct", *kinds),
        (left, right, motion, None, corrected, weights),
        (0, damping, robust, 0, 0),
    )
    _run(Step("smooth", *kinds), (left, right, corrected, weights, smoothed, None), (0,) * 5)
    return smoothed


def choose(frames: tuple[Tensor, Tensor], motion: Tensor, constants: Choice) -> Tensor:
    """Let each cell take the motion of one some cells away, where that suits it better.

    Args:
        frames: Left and right, (N, C, H, W), float32, contiguous, on a GPU.
        motion: (N, 2, H, W) in pixels of these frames, likewise.
        constants: How far away, and when it is better.

    Returns:
        The new motion, (N, 2, H, W).
    """
    window, distance, sharpness, least = constants
    left, right = frames
    chosen = torch.empty_like(motion)
    tensors = (left, right, motion, None, chosen, None)
    _run(Step("choose", left.shape[1], window), tensors, (distance, 0, 0, sharpness, least))
    return chosen


def _run(
    step: Step, tensors: tuple[Tensor | None, ...], numbers: tuple[int, float, float, float, float]
) -> None:
    """Launch a kernel on PyTorch's current stream; arguments as `struct Arguments` has them."""
    motion = tensors[2]
    assert motion is not None
    N, _, H, W = motion.shape
    index = motion.device.index
    words = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    words += [H, W, numbers[0], *np.array(numbers[1:], np.float64).view(np.int64).tolist()]
    packed = np.array(words, np.int64).view(f"V{8 * len(words)}")
    grid = -(-W // cuda.COLUMNS), -(-H // ROWS), N
    kernel = cuda.function(index, SOURCES, step.name, options(step))
    with cuda.current_stream(index):
        kernel(grid, (cuda.COLUMNS, cuda.WARPS, 1), (packed,), shared_mem=shared_bytes(step))


def options(step: Step) -> tuple[str, ...]:
    """Compiler options for a step."""
    return f"-DCHANNELS={step.channels}", f"-DWINDOW={step.window}", "-DMOTION", "-std=c++17"


def shared_bytes(step: Step) -> int:
    """Bytes of shared memory that one block needs: what it works out around its own cells."""
    taken, seen = (
        (ROWS + 2 * around) * (cuda.COLUMNS + 2 * around)
        for around in (step.window // 2, step.window // 2 + 1)
    )
    floats = {"correct": 2 * step.channels * seen + 6 * taken, "smooth": 0, "choose": 5 * taken}
    return 4 * floats[step.name]
