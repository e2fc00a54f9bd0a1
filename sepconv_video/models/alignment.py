"""Finding the motion of a pair towards its middle, without parameters and without training.

Lucas and Kanade's method (IJCAI 1981) from coarse to fine, for both frames at once: what is sought
is the displacement d for which the left frame at x + d and the right one at x - d agree, as seen
from the frame half way, which is the one wanted. On each grid a cell may then take the motion of a
neighbour, if it suits it better (propagation, PatchMatch's idea: Barnes et al., SIGGRAPH 2009).
"""

import torch
from torch import Tensor

from sepconv_video.kernels.motion import Constants, differ, search
from sepconv_video.models.blocks import box, halve, shrink, upsample

CELL = 2
"""Side in pixels of the cells of the grid that motion is found on."""
LEAST_CELLS = 8
"""The coarsest grid has at least so many cells along the shorter side of a frame."""
STEPS = 8
"""Corrections on each grid."""
DAMPING = 0.1
"""Keeps a correction small where there is no texture, in squares of normalised brightness."""
ROBUST = 0.03
"""Differences above it, in normalised brightness, count by their size, not by its square."""
FAR, NEAR = 8, 2
"""Cells to the neighbours whose motion a cell may take: far ones first, then near."""
SHARPNESS = 10.0
"""Of the softmax that takes the better motion."""
LEAST_COST = 0.015
"""Mean differences below it, in normalised brightness, are noise."""
OUTSIDE_WEIGHT = 0.1
"""Weight of a cell that the motion leads out of one of the frames, by a cell or more: there is
nothing to compare it with, so that it moves with what is beside it."""
OUTSIDE_COST = 0.05
"""What its difference counts as, in normalised brightness, when the better motion is taken."""
CONSTANTS = Constants(
    DAMPING, ROBUST, SHARPNESS, LEAST_COST, OUTSIDE_WEIGHT, OUTSIDE_COST, STEPS, (FAR, NEAR)
)
ONCE = CONSTANTS._replace(steps=1, distances=())
"""To correct a motion once."""
CONTRAST_WINDOW = 9
"""Cells a side over which contrast is measured, and the brightness around."""
LEAST_CONTRAST = 0.3
"""Added to it, in normalised brightness, or noise would count as texture."""
LEVELLING = 0.75
"""Share of the brightness around that levelling takes off."""
CHOICE_WINDOW = 9
"""Cells a side over which it is judged which of two motions is the better one."""


@torch.no_grad()
def coarse_motions(cells: Tensor) -> Tensor:
    """Find motions as `find_motions` does, on all grids but the finest.

    Args:
        cells: Both frames, `pair.in_cells`.

    Returns:
        (N, 4, H/(2*CELL), W/(2*CELL)), rounded up, in cells of that size, float32: horizontal and
        vertical motion by levelled frames, and by evened ones.
    """
    grids = [halve(cells)]
    while min(cells.shape[-2:]) >= 2 ** (len(grids) + 1) * LEAST_CELLS:
        grids.append(halve(grids[-1]))
    # both ways in one batch, as large as that of both frames: as many launches on a GPU as for one;
    # the coarsest grid begins without any motion
    motions = torch.zeros_like(halve(grids[-1])[:, :2])
    for frames in reversed(grids):
        motions = _on_finer_grid(motions, frames)
    return torch.cat(motions.chunk(2), 1)


@torch.no_grad()
def find_motions(cells: Tensor, coarse: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find for each place of the frame half way where it lies in its neighbours, in two ways.

    They err in different places: by levelled frames, and by frames whose contrast has been made
    even, so that faint texture counts beside strong edges.

    Args:
        cells: Both frames, `pair.in_cells`.
        coarse: Their `coarse_motions`, if they are known.

    Returns:
        By levelled and by evened ones: (N, 2, H/CELL, W/CELL) each, in pixels, horizontal then
        vertical, float32: the left frame at x + motion and the right one at x - motion are the
        same.
    """
    coarse = coarse_motions(cells) if coarse is None else coarse
    motions = _on_finer_grid(torch.cat(coarse.chunk(2, 1)), cells) * CELL
    by_levelled, by_evened = motions.chunk(2)
    return by_levelled, by_evened


def _on_finer_grid(motions: Tensor, frames: Tensor) -> Tensor:
    """Correct motions of the next coarser grid, both ways' one after the other, on a finer one."""
    height, width = frames.shape[-2:]
    motions = 2 * upsample(motions, 2)[..., :height, :width]
    return search(*_in_both_ways(frames), motions, CONSTANTS)


@torch.no_grad()
def better_motion(cells: Tensor, motions: tuple[Tensor, ...]) -> Tensor:
    """Take in each place that of several motions for which the levelled frames agree best.

    Args:
        cells: As in `find_motions`, as are the others, and what is returned.
        motions: Of which to choose.
    """
    left, right = cells.chunk(2)
    levelled_left, levelled_right = _levelled(cells, box(cells, CONTRAST_WINDOW)).chunk(2)
    candidates = [motion / CELL for motion in motions]
    cost = box(differ(levelled_left, levelled_right, candidates), CHOICE_WINDOW)
    likelihood = torch.softmax(-SHARPNESS * cost / (cost.mean(1, keepdim=True) + LEAST_COST), 1)
    motion = (likelihood[:, :, None] * torch.stack(candidates, 1)).sum(1)
    # for where two meet; by plain frames, as levelled ones stray on still, compressed ground
    return search(left, right, motion, ONCE) * CELL


@torch.no_grad()
def correct_by_pixels(left: Tensor, right: Tensor, motion: Tensor) -> Tensor:
    """Correct a motion once more, by texture that is too fine for the grids.

    Args:
        left: Earlier frames, (N, C, H, W), H and W multiples of CELL; normalised to mean 0 and
            spread 1, which the constants of this module are meant for.
        right: Later frames, same shape.
        motion: As `find_motions` finds it, as is what is returned.
    """
    corrected = search(left.float(), right.float(), upsample(motion, CELL), ONCE)
    return shrink(corrected, CELL)


def _in_both_ways(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Both frames' cells (2*N, C, H, W) levelled, and with even contrast.

    Returns:
        The left frames in either way, and the right ones: (2*N, C, H, W) each.
    """
    around = box(frames, CONTRAST_WINDOW)
    ways = _levelled(frames, around), frames / unevenness(frames, around)
    (left, right), (even_left, even_right) = (way.chunk(2) for way in ways)
    return torch.cat((left, even_left)), torch.cat((right, even_right))


def unevenness(frames: Tensor, around: Tensor) -> Tensor:
    """Tell what to divide cells (N, C, H, W) by to make their contrast even: (N, 1, H, W).

    Args:
        frames: The cells.
        around: The brightness around each of them.
    """
    contrast = box((frames - around).square_().mean(1, keepdim=True), CONTRAST_WINDOW).sqrt_()
    return contrast + LEAST_CONTRAST


def _levelled(frames: Tensor, around: Tensor) -> Tensor:
    """Take most of the brightness around off, lest shadows, smoke or flicker seem to move."""
    return torch.sub(frames, around, alpha=LEVELLING)
