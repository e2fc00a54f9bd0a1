"""Finding the motion of a pair towards its middle, without parameters and without training.

Lucas and Kanade's method (IJCAI 1981) from coarse to fine, for both frames at once: what is sought
is the displacement d for which the left frame at x + d and the right one at x - d agree, as seen
from the frame half way, which is the one wanted. On each grid a cell may then take the motion of a
neighbour, if it suits it better (propagation, PatchMatch's idea: Barnes et al., SIGGRAPH 2009).
"""

from enum import Enum

import torch
from torch import Tensor

from sepconv_video.kernels.motion import Constants, search
from sepconv_video.models.blocks import box, pad_to_multiple, shrink, upsample

CELL = 2
"""Side in pixels of the cells of the grid that motion is found on."""
LEAST_CELLS = 8
"""The coarsest grid has at least so many cells along the shorter side of a frame."""
STEPS = 5
"""Corrections on each grid."""
WINDOW = 5
"""Cells a side over which a correction is found, motions are smoothed, and costs compared."""
DAMPING = 0.1
"""Keeps a correction small where there is no texture, in squares of normalised brightness."""
ROBUST = 0.03
"""Differences above it, in normalised brightness, count by their size, not by its square."""
FAR, NEAR = 8, 2
"""Distance in cells of the neighbours whose motion a cell may take, first and then."""
SHARPNESS = 10.0
"""How decisively the better motion is taken."""
LEAST_COST = 0.015
"""Mean differences below it, in normalised brightness, are noise."""
CONSTANTS = Constants(WINDOW, DAMPING, ROBUST, SHARPNESS, LEAST_COST, STEPS, (FAR, NEAR))
CONTRAST_WINDOW = 9
"""Cells a side over which contrast is measured."""
LEAST_CONTRAST = 0.3
"""Added to it, in normalised brightness, or noise would count as texture."""


class Way(Enum):
    """What of the frames is compared."""

    PLAIN = "as they are"
    EVENED = "with their contrast made even, so that faint texture counts beside strong edges"


@torch.no_grad()
def find_motion(left: Tensor, right: Tensor, way: Way = Way.PLAIN) -> Tensor:
    """Find for each place of the frame half way where it lies in its neighbours.

    Args:
        left: Earlier frames, (N, C, H, W), H and W multiples of CELL; normalised to mean 0 and
            spread 1, which the constants of this module are meant for.
        right: Later frames, same shape.
        way: What of them is compared.

    Returns:
        (N, 2, H/CELL, W/CELL) in pixels, horizontal then vertical, float32: the left frame at
        x + motion and the right one at x - motion are the same.
    """
    left, right = shrink(left.float(), CELL), shrink(right.float(), CELL)
    reduced = _evened if way is Way.EVENED else _reduced
    height, width = left.shape[-2:]
    factor = 1
    while min(height, width) >= 2 * factor * LEAST_CELLS:
        factor *= 2
    motion = left.new_zeros(len(left), 2, *(-(-size // factor) for size in (height, width)))
    while True:
        motion = search(reduced(left, factor), reduced(right, factor), motion, CONSTANTS)
        if factor == 1:
            return motion * CELL
        motion = 2 * upsample(motion, 2)
        factor //= 2
        motion = motion[..., : -(-height // factor), : -(-width // factor)]


def _reduced(frames: Tensor, factor: int) -> Tensor:
    """Average over factor x factor pixels, the last ones repeated to make whole cells."""
    return shrink(pad_to_multiple(frames, factor), factor)


def _evened(frames: Tensor, factor: int) -> Tensor:
    """As `_reduced`, each cell divided by the contrast around it."""
    frames = _reduced(frames, factor)
    difference = frames - box(frames, CONTRAST_WINDOW)
    contrast = box(difference.square().mean(1, keepdim=True), CONTRAST_WINDOW).sqrt()
    return frames / (contrast + LEAST_CONTRAST)
