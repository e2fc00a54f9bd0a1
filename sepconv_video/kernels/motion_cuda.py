"""Finding motion on NVIDIA GPUs: launches `motion.cu`.

`models/alignment.py` and `matching.py` say what the steps of a search are for; `motion_cpu` and
`match_cpu` have the same for a CPU.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sepconv_video.kernels import cuda
from sepconv_video.kernels.motion import WINDOW, Constants, Matching

SOURCES = ("motion.cu",)
ROWS, SOUGHT = 16, 8  # as in motion.cu


class Step(NamedTuple):
    """One kernel, as compiled."""

    name: str
    channels: int
    window: int
    reach: int = 0


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


def match(
    own: Tensor, other: Tensor, flow: Tensor, unexplained: Tensor, matching: Matching
) -> tuple[Tensor, Tensor]:
    """Do what `motion.match` says."""
    own, other, flow = own.contiguous(), other.contiguous(), flow.contiguous()
    sought = torch.where(unexplained > matching.unexplained, unexplained, 0).contiguous()
    made, found = torch.empty_like(flow), torch.empty_like(sought)
    step = Step("match", own.shape[1], matching.window, matching.reach)
    figures = (0, 0, 0, 0, 0, 0, matching.share, matching.penalty / matching.reach)
    with cuda.current_stream(flow.device.index):
        _launch(step, (own, other, flow, sought, made, found), figures, (SOUGHT, cuda.WARPS))
    return made, found > 0


def _run(
    name: str, tensors: tuple[Tensor | None, ...], constants: Constants, distance: int = 0
) -> None:
    """Launch a kernel of the search; tensors as `struct Arguments` has them."""
    left = tensors[0]
    assert left is not None
    step, figures = Step(name, left.shape[1], WINDOW), (*constants[:6], 0, 0)
    _launch(step, tensors, figures, (cuda.COLUMNS, ROWS), distance)


def _launch(
    step: Step,
    tensors: tuple[Tensor | None, ...],
    figures: tuple[float, ...],
    block: tuple[int, int],
    distance: int = 0,
) -> None:
    """Launch a kernel; `block` is how many columns and rows of cells a block works on."""
    motion = tensors[2]
    assert motion is not None
    N, _, H, W = motion.shape
    words = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    words += [H, W, distance, *cuda.bits(figures)]
    grid = -(-W // block[0]), -(-H // block[1]), N
    cuda.launch(_kernel(motion.device.index, step), grid, words, shared_bytes(step))


@cache
def _kernel(index: int, step: Step) -> Any:  # noqa: ANN401
    """Return a `cupy.RawKernel`."""
    return cuda.function(index, (SOURCES, options(step)), step.name, shared_bytes(step))


def options(step: Step) -> tuple[str, ...]:
    """Compiler options for a step."""
    macros = f"-DCHANNELS={step.channels}", f"-DWINDOW={step.window}", f"-DREACH={step.reach}"
    return *macros, "-DMOTION", "-std=c++17"


def shared_bytes(step: Step) -> int:
    """Bytes of shared memory that one block needs: what it works out around its own cells."""
    taken, seen = (
        (ROWS + 2 * around) * (cuda.COLUMNS + 2 * around)
        for around in (step.window // 2, step.window // 2 + 1)
    )
    floats = {
        "correct": 2 * step.channels * seen + 6 * taken,
        "smooth": 0,
        "choose": 5 * taken,
        "match": 0,
    }
    return 4 * floats[step.name]
