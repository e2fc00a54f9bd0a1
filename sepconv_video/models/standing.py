"""What stands still while all around it moves: captions, logos, scores, a dashboard.

The motion of what is behind them spills over them, so they would waver, or lose their edges.
But what is sharp and the same in both frames, pixel by pixel, has hardly come there by chance;
unless it comes from elsewhere, like one eye of a drawn face that moves to where the other one was.
"""

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.kernels import light as kernels
from sepconv_video.models.alignment import CELL
from sepconv_video.models.blocks import box, length, peak, ramp, upsample, warp
from sepconv_video.models.fading import Fade
from sepconv_video.models.matching import as_seen_from_frames, swapped

WINDOW = 3
"""Cells a side over which contrast is measured, and the difference of the frames."""
LEAST_CONTRAST, SURE_CONTRAST = 0.6, 0.9
"""Normalised brightness: what has less may be the same by chance, what has more is not."""
SURE_DIFFERENCE, MOST_DIFFERENCE = 0.01, 0.05
"""Shares of its contrast: what differs by less stands still, what differs by more does not."""
ELSEWHERE = 0.1
"""A single cell's share counts as this at most, as what shows between two strokes moves."""
SHADOW = 9
"""Cells a side over which a difference may be a shadow that falls on what stands still."""
SURE_MATCH, LEAST_MATCH = 0.1, 0.2
"""Shares of the contrast: what differs by less from where the motion leads has moved, what differs
by more has not."""
FAR_OFF = 0.5
"""A single cell's share counts as this at most."""
LEAST_MOTION, SURE_MOTION = 1, 2
"""Pixels from frame to frame: less is none, more is."""
AROUND = 17
"""Cells a side of which some must surely move, if what looks as if it stood is to move, too."""
LEAST_MOVES, ENOUGH_MOVES = 0.2, 0.4
"""Share of what is sharp there: in a lattice at rest each bar may seem to come from the next."""
LEAST_STANDS, ENOUGH_STANDS = 0.2, 0.4
"""Share of what is sharp there and either stands or surely moves: with more that stands, a stroke
may stand as well that is no more than the same itself."""
SAME_PLACE, OTHER_PLACE = 0.25, 0.5
"""Shares of the contrast: cells that are closer to another one are of the same stroke, those that
are further away in both frames are beside it."""
LEAST_STROKE, ENOUGH_STROKE = 1.5, 3
"""Cells of 3x3 that are of one stroke: with less there is none."""
NO_BRIGHTNESS = 1e6
"""Takes a cell out of the contrast, as neither high nor low."""
ANYTHING = 1e3
"""Normalised brightness: pixels that may differ by so much are the mean of both frames."""
EDGE = 0.25
"""Share of the contrast that a pixel may differ by where an outline is mixed with what moves."""


@torch.no_grad()
def standing(cells: Tensor, motion: Tensor) -> Tensor:
    """Tell how much pixels may differ and yet be taken for standing still.

    Args:
        cells: Both frames, `pair.in_cells`.
        motion: As `alignment.find_motions` finds it.

    Returns:
        (N, 1, H/CELL, W/CELL), normalised brightness; 0 where nothing stands still, or nothing
        is sharp enough to tell.
    """
    left, right = cells.chunk(2)
    mean = (left + right).div_(2)
    contrast = _contrast(mean, mean)
    change = left - right
    # the least counts: beside what moves, the mean is no shadow
    shares = [_share(some, contrast) for some in (change - box(change, SHADOW), change)]
    counted = torch.cat(shares, 1).clamp_(max=ELSEWHERE)
    alike = _alike(box(counted, WINDOW))
    sharp, moved = _sharp(contrast), _moved(cells, contrast, motion)
    # a stroke without an outline is among what is behind it, which changes: beside much that
    # stands for sure, or where little moves, it is enough that it is the same itself
    for_it, against = (box(sharp * some, AROUND) for some in (alike, moved * (1 - alike)))
    least, most = torch.minimum(left, right), torch.maximum(left, right)
    strokes = _of_strokes(mean, least, most, contrast, counted)
    strokes.mul_(ramp(for_it / (for_it + against + 1e-2), LEAST_STANDS, ENOUGH_STANDS))
    alike = torch.maximum(alike, strokes)
    # what stands is to be sharp by itself, against what is darker in both frames, or brighter: two
    # lines of text that scroll leave dark between them
    other = (torch.minimum(*shares) > MOST_DIFFERENCE) * NO_BRIGHTNESS
    own = torch.maximum(_contrast(mean - other, most), _contrast(least, mean + other))
    stands = _sharp(own).mul_(alike)
    surely = box(sharp * moved * (1 - alike), AROUND).div_(box(sharp, AROUND).add_(1e-3))
    rests = 1 - moved.mul_(ramp(surely, LEAST_MOVES, ENOUGH_MOVES))
    return contrast.mul_(EDGE).mul_(peak(stands.mul_(rests), WINDOW).mul_(rests))


def hold(made: Tensor, left: Tensor, right: Tensor, fade: Fade, allowed: Tensor) -> Tensor:
    """Put back what stands still, in its own light.

    Args:
        made: The frame half way, (N, 3, H, W), normalised; it may be overwritten.
        left: Frames, likewise, in the light half way.
        right: Likewise.
        fade: Of these places.
        allowed: What `standing` tells of them.

    Returns:
        As `made`.
    """
    differentiate = torch.is_grad_enabled() and made.requires_grad
    if not differentiate and (made.is_cuda or made.dtype == torch.float32):
        kernels.hold(made, left, right, allowed, tuple(chain(*fade.half_way())))
        return made
    left, right = fade.undone(left, right)
    allowed = upsample(allowed, CELL).to(made.dtype)
    difference = (left - right).abs_().mean(1, keepdim=True)
    # all of it up to half of what is allowed; the small constant is for where nothing is
    share = difference.sub_(allowed).div_(allowed.div_(-2).sub_(1e-3)).clamp_(0, 1)
    return torch.lerp(made, (left + right).div_(2), share)


def _moved(cells: Tensor, contrast: Tensor, motion: Tensor) -> Tensor:
    """Tell where the motion explains what either frame shows, by moving it: 0 to 1."""
    flow = as_seen_from_frames(motion / CELL, rounds=1)
    change = warp(swapped(cells), flow).sub_(cells)
    share = _share(change, torch.cat((contrast, contrast))).clamp_(max=FAR_OFF)
    moves = ramp(length(flow) * CELL, LEAST_MOTION, SURE_MOTION)
    moves.mul_(ramp(box(share, WINDOW), LEAST_MATCH, SURE_MATCH))
    return torch.maximum(*moves.chunk(2))


def _contrast(high: Tensor, low: Tensor) -> Tensor:
    """How far the highest value about each cell is from the lowest, in the best of channels."""
    return peak(high, WINDOW).add_(peak(-low, WINDOW)).amax(1, keepdim=True)


def _alike(share: Tensor) -> Tensor:
    """How surely what differs by such shares of the contrast, the lesser of two, is the same."""
    return ramp(share.amin(1, keepdim=True), MOST_DIFFERENCE, SURE_DIFFERENCE)


def _of_strokes(
    mean: Tensor, least: Tensor, most: Tensor, contrast: Tensor, counted: Tensor
) -> Tensor:
    """Tell how alike the frames are in each cell and those around that are of the same stroke.

    Cells that are brighter in both frames, or darker, do not count, whatever they change by.
    """
    height, width = contrast.shape[-2:]
    # of all channels' mean: a third of the work
    mean, *extremes = (maps.mean(1, keepdim=True) for maps in (mean, least, most))
    padded = [F.pad(maps, [1] * 4, mode="replicate") for maps in (*extremes, counted)]
    total, count = torch.zeros_like(counted), torch.zeros_like(contrast)
    scale = contrast + 1e-3
    for row in range(WINDOW):
        for column in range(WINDOW):
            low, high, share = (
                maps[..., row : row + height, column : column + width] for maps in padded
            )
            gap = torch.maximum(low - mean, mean - high)
            weight = ramp(gap.div_(scale), OTHER_PLACE, SAME_PLACE)
            total.addcmul_(weight, share)
            count += weight
    return _alike(total.div_(count)).mul_(ramp(count, LEAST_STROKE, ENOUGH_STROKE))


def _sharp(contrast: Tensor) -> Tensor:
    return ramp(contrast, LEAST_CONTRAST, SURE_CONTRAST)


def _share(change: Tensor, contrast: Tensor) -> Tensor:
    """What share of the contrast a change is."""
    return change.abs().mean(1, keepdim=True).div_(contrast + 1e-3)
