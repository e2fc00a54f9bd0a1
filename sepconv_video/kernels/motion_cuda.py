"""The search for motion on NVIDIA GPUs: launches `motion.cu`.

`models/alignment.py` says what its steps are for; `motion_cpu` has the same for a CPU.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sepconv_video.kernels import cuda
from sepconv_video.kernels.motion import Constants

SOURCES = ("motion.cu",)
ROWS = 16  # as in motion.cu


class Step(NamedTuple):
    """One kernel, as compiled."""

    name: str
    channels: int
    window: int


def search(left: Tensor, right: Tensor, motion: Tensor, constants: Constants) -> Tensor:
    """Do what `motion.search` says."""
    left, right, motion = left.contiguous(), right.contiguous(), motion.contiguous()
    # entered once, as it takes as long as a launch
    with cuda.current_stream(motion.device.index):
        for _ in range(constants.steps):
            motion = correct(left, right, motion, constants)
        for distance in constants.distances:
            motion = choose(left, right, motion, constants, distance)
    return motion


def correct(left: Tensor, right: Tensor, motion: Tensor, constants: Constants) -> Tensor:
    """Correct a motion once, and smooth it where the frames agree; within `cuda.current_stream`.

    Args:
        left: Frames, (N, C, H, W), float32, contiguous, on a GPU.
        right: As `left`.
        motion: (N, 2, H, W) in pixels of these frames, likewise.
        constants: Of the search.

    Returns:
        The new motion, (N, 2, H, W).
    """
    corrected, smoothed = torch.empty_like(motion), torch.empty_like(motion)
    weights = motion.new_empty(motion[:, :1].shape)
    _run("correct", (left, right, motion, None, corrected, weights), constants)
    _run("smooth", (left, right, corrected, weights, smoothed, None), constants)
    return smoothed


def choose(
    left: Tensor, right: Tensor, motion: Tensor, constants: Constants, distance: int
) -> Tensor:
    """Let each cell take the motion of one `distance` cells away, where that suits it better.

    Args:
        left: As in `correct`, as are all but the last.
        right: Likewise.
        motion: Likewise.
        constants: Likewise.
        distance: Cells.

    Returns:
        The new motion, (N, 2, H, W).
    """
    chosen = torch.empty_like(motion)
    _run("choose", (left, right, motion, None, chosen, None), constants, distance)
    return chosen


def _run(
    name: str, tensors: tuple[Tensor | None, ...], constants: Constants, distance: int = 0
) -> None:
    """Launch a kernel; tensors as `struct Arguments` has them."""
    left, _, motion, *_ = tensors
    assert left is not None
    assert motion is not None
    N, _, H, W = motion.shape
    step = Step(name, left.shape[1], constants.window)
    words = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    words += [H, W, distance, *_words(constants)]
    packed = np.array(words, np.int64).view(f"V{8 * len(words)}")
    grid = -(-W // cuda.COLUMNS), -(-H // ROWS), N
    kernel = _kernel(motion.device.index, step)
    kernel(grid, (cuda.COLUMNS, cuda.WARPS, 1), (packed,), shared_mem=shared_bytes(step))


@cache
def _words(constants: Constants) -> list[int]:
    """Those of a single step but the window, as the bits of doubles."""
    words: list[int] = np.array(constants[1:5], np.float64).view(np.int64).tolist()
    return words


@cache
def _kernel(index: int, step: Step) -> Any:  # noqa: ANN401
    """Return a `cupy.RawKernel`."""
    return cuda.function(index, (SOURCES, options(step)), step.name, shared_bytes(step))


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
