"""Finding motion on one grid, as `models/alignment.py` and `matching.py` do: constants, devices."""

from typing import NamedTuple

from torch import Tensor

WINDOW = 5
"""Cells a side over which a correction is found, motions are smoothed, and costs compared. Not one
of the `Constants`, as kernels that are compiled for it take half the time."""


class Constants(NamedTuple):
    """Those of `alignment`, which says what they mean, in its units."""

    damping: float
    robust: float
    sharpness: float
    least: float
    steps: int
    distances: tuple[int, ...]


class Matching(NamedTuple):
    """Those of `matching`, likewise."""

    window: int
    reach: int
    unexplained: float
    share: float
    penalty: float


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
    # imported late, as cupy and numba take their time
    if left.is_cuda:
        from sepconv_video.kernels import motion_cuda  # noqa: PLC0415

        return motion_cuda.search(left, right, motion, constants)
    from sepconv_video.kernels import motion_cpu  # noqa: PLC0415

    return motion_cpu.search(left, right, motion, constants)


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
    from sepconv_video.kernels import motion_cpu  # noqa: PLC0415

    return motion_cpu.match(own, other, flow, unexplained, matching)
