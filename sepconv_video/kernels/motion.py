"""Finding motion on one grid, as `models/alignment.py` and `matching.py` do: constants, devices."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from sepconv_video.kernels.operation import kernels_for

Mode = Literal["bilinear", "bicubic", "nearest"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""How `warp` finds what lies between cells."""

WINDOW = 5
"""Cells a side over which a correction is found, motions are smoothed, and costs compared. Not one
of the `Constants`, as kernels that are compiled for it take half the time."""

Weights = tuple[float, float, float, float]
"""Of four cells, and reversed of the next four, that reduce a grid to half; they sum to 1/2."""
STEEP: Weights = (1 / 128, 7 / 128, 21 / 128, 35 / 128)
"""A low-pass filter: stripes of 10 pixels would alias to some of 40 on the coarser grid, which move
otherwise. 1, 3 and even 1, 5, 10 left enough of them to make stripes change places."""
GENTLE: Weights = (0, 0, 1 / 8, 3 / 8)
"""For light: smooth cells look alike by chance."""


class Constants(NamedTuple):
    """Those of `alignment`, which says what they mean, in its units."""

    damping: float
    robust: float
    sharpness: float
    least: float
    outside_weight: float
    outside_cost: float
    steps: int
    distances: tuple[int, ...]


class Matching(NamedTuple):
    """Those of `matching`, likewise."""

    window: int
    reach: int
    unexplained: float
    share: float
    penalty: float


class Warping(NamedTuple):
    """What `warp` is told."""

    mode: Mode
    corner: tuple[int, int]
    """Row and column of the frames that the first place of the motion belongs to."""
    factor: int
    """1, or 2: the motion has half the resolution of what is wanted, and is enlarged bilinearly."""


def warp(frames: Tensor, motion: Tensor, how: Warping) -> Tensor:
    """Sample frames at x + motion(x), edges repeated; not differentiable.

    Args:
        frames: (N, C, H, W), 4 channels at most, float32 on a CPU; on an NVIDIA GPU halves, too.
        motion: (N, 2, rows, columns), horizontal then vertical, in pixels of the frames; float32.
        how: See there.

    Returns:
        (N, C, factor*rows, factor*columns), in the dtype of the frames, as `F.grid_sample` makes it
        with padding "border".
    """
    made: Tensor = kernels_for(frames, "frames").warp(frames, motion, how)
    return made


def gather(frames: Tensor, motion: Tensor, corner: tuple[int, int], maps: Tensor) -> None:
    """Sample frames as `warp` does, bilinearly, and lay out what a network at half resolution sees.

    The 2x2 pixels of a cell become channels, as by `F.pixel_unshuffle`. Not differentiable.

    Args:
        frames: As in `warp`.
        motion: (N, 2, h, w), likewise.
        corner: As in `Warping`.
        maps: Where to, (N, 4*C, h, w), in the dtype of the frames, channels side by side and
            pixels at equal distances: some channels of (N, more, h, w) in `channels_last`.
    """
    kernels_for(frames, "frames").gather(frames, motion, corner, maps)


def differ(left: Tensor, right: Tensor, motions: Sequence[Tensor]) -> Tensor:
    """Tell how much frames differ, the left ones at x + motion, the right ones at x - motion.

    Args:
        left: (N, C, H, W), 4 channels at most, float32, on a CPU or an NVIDIA GPU.
        right: As `left`.
        motions: (N, 2, H, W) each, likewise.

    Returns:
        (N, one for each of the motions, H, W): mean absolute difference over the channels.
    """
    made: Tensor = kernels_for(left, "frames").differ(left, right, motions)
    return made


def box(maps: Tensor, side: int) -> Tensor:
    """Average maps over side x side cells around each; edges repeated; not differentiable.

    PyTorch takes five times as long on a CPU, and on a GPU copies them with their edges first.

    Args:
        maps: (N, C, H, W), float32, on a CPU or an NVIDIA GPU.
        side: Odd.

    Returns:
        As `maps`.
    """
    made: Tensor = kernels_for(maps, "frames").box(maps, side)
    return made


def halve(maps: Tensor, weights: Weights) -> Tensor:
    """Reduce maps to half, rounded up; edges repeated; not differentiable.

    Args:
        maps: (N, C, H, W), float32, on a CPU or an NVIDIA GPU.
        weights: Across and down.

    Returns:
        (N, C, rows, columns).
    """
    made: Tensor = kernels_for(maps, "frames").halve(maps, weights)
    return made


def search(left: Tensor, right: Tensor, motion: Tensor, constants: Constants) -> Tensor:
    """Correct a motion some times, then let cells take that of others at each of the distances.

    Args:
        left: Frames, (N, 3, H, W), float32, on a CPU or an NVIDIA GPU.
        right: As `left`.
        motion: (N, 2, H, W) in pixels of these frames, likewise.
        constants: Of the search.

    Returns:
        The new motion, (N, 2, H, W).
    """
    made: Tensor = kernels_for(left, "motion").search(left, right, motion, constants)
    return made


def match(
    own: Tensor, other: Tensor, flow: Tensor, unexplained: Tensor, matching: Matching
) -> tuple[Tensor, Tensor]:
    """Seek cells of a frame all around in another one, where their motion does not explain them.

    Args:
        own: Frames, (N, 3, H, W), float32, on a CPU or an NVIDIA GPU.
        other: As `own`.
        flow: Motion from `own` to `other` as it is known, (N, 2, H, W) in cells, likewise.
        unexplained: How much they differ by it, (N, 1, H, W), likewise.
        matching: Constants; a reach of 15 at most.

    Returns:
        The motion, whole cells where it is new, and where it is: (N, 2, H, W), (N, 1, H, W) bool.
    """
    if own.is_cuda:
        from sepconv_video.kernels import motion_cuda  # noqa: PLC0415

        return motion_cuda.match(own, other, flow, unexplained, matching)
    from sepconv_video.kernels import match_cpu  # noqa: PLC0415

    return match_cpu.match(own, other, flow, unexplained, matching)
