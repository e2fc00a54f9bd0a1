"""The search for motion on one grid, as `models/alignment.py` has it: constants and devices."""

from typing import NamedTuple

from torch import Tensor


class Constants(NamedTuple):
    """Those of `alignment`, which says what they mean, in its units."""

    window: int
    damping: float
    robust: float
    sharpness: float
    least: float
    steps: int
    distances: tuple[int, ...]


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
