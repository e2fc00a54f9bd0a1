"""Finding the motion of a pair towards its middle, without parameters and without training.

Lucas and Kanade's method (IJCAI 1981) from coarse to fine, for both frames at once: what is sought
is the displacement d for which the left frame at x + d and the right one at x - d agree, as seen
from the frame half way, which is the one wanted. On each grid a cell may then take the motion of a
neighbour, if it suits it better (propagation, PatchMatch's idea: Barnes et al., SIGGRAPH 2009).
"""

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.kernels import motion as kernels
from sepconv_video.models.blocks import box, pad_to_multiple, shrink, upsample, warp

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
CONSTANTS = kernels.Constants(WINDOW, DAMPING, ROBUST, SHARPNESS, LEAST_COST)
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
        seen = reduced(left, factor), reduced(right, factor)
        motion = (_search_cuda if left.is_cuda else _search)(*seen, motion)
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


def _search(left: Tensor, right: Tensor, motion: Tensor) -> Tensor:
    """Find motion (N, 2, H, W), in pixels of these frames (N, C, H, W), from what is near it."""
    for _ in range(STEPS):
        motion = _correct(left, right, motion)
    for distance in (FAR, NEAR):
        motion = _choose(left, right, [motion, *neighbours(motion, distance)])
    return motion


def _search_cuda(left: Tensor, right: Tensor, motion: Tensor) -> Tensor:
    """Do the same, with kernels of our own."""
    left, right, motion = left.contiguous(), right.contiguous(), motion.contiguous()
    for _ in range(STEPS):
        motion = kernels.correct(left, right, motion, CONSTANTS)
    for distance in (FAR, NEAR):
        motion = kernels.choose(left, right, motion, CONSTANTS, distance)
    return motion


def _correct(left: Tensor, right: Tensor, motion: Tensor) -> Tensor:
    """Correct motion (N, 2, H, W), in pixels of these frames (N, C, H, W), once."""
    moved_left, moved_right = warp(left, motion), warp(right, -motion)
    difference = moved_left - moved_right
    # its derivative by the motion: both frames' slopes, as they move against each other
    across, down = _slopes(moved_left + moved_right)
    # squares weighed by this grow like absolute values (iteratively reweighted least squares)
    weight = (difference.square().mean(1, keepdim=True) + ROBUST**2).rsqrt()
    weighed = across * weight, down * weight
    products = (
        (weighed[0], across),
        (weighed[0], down),
        (weighed[1], down),
        (weighed[0], difference),
        (weighed[1], difference),
    )
    sums = torch.stack([(first * second).sum(1) for first, second in products], 1)
    xx, xy, yy, x, y = box(sums, WINDOW).unbind(1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    change = torch.stack((xy * y - yy * x, xy * x - xx * y), 1) / determinant[:, None]
    return _smoothed(motion + change.clamp_(-1, 1), weight)


def _smoothed(motion: Tensor, weight: Tensor) -> Tensor:
    """Mean motion (N, 2, H, W) around, where the frames agree (N, 1, H, W) above all.

    What is hidden in one of them so moves with what is beside it, and outlines stay sharp.
    """
    trust = weight**3
    sums = box(torch.cat((motion * trust, trust), 1), WINDOW)
    return sums[:, :2] / sums[:, 2:]


def _slopes(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical derivative of (N, C, H, W) per pixel, by central differences."""
    padded = F.pad(frames, [1] * 4, mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return across / 2, down / 2


def neighbours(motion: Tensor, cells: int) -> list[Tensor]:
    """What the motion (N, 2, H, W) is so many cells above, below, left and right."""
    height, width = motion.shape[-2:]
    padded = F.pad(motion, [cells] * 4, mode="replicate")
    corners = ((0, cells), (2 * cells, cells), (cells, 0), (cells, 2 * cells))
    return [padded[..., y : y + height, x : x + width] for y, x in corners]


def _choose(left: Tensor, right: Tensor, candidates: list[Tensor]) -> Tensor:
    """Take of several motions (N, 2, H, W) that for which the frames (N, C, H, W) agree best."""
    costs = [(warp(left, motion) - warp(right, -motion)).abs_().mean(1) for motion in candidates]
    cost = box(torch.stack(costs, 1), WINDOW)
    # what counts is how much better one is than the rest
    likelihood = torch.softmax(-SHARPNESS * cost / (cost.mean(1, keepdim=True) + LEAST_COST), 1)
    return (likelihood[:, :, None] * torch.stack(candidates, 1)).sum(1)
