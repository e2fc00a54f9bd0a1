"""What stands still while all around it moves: captions, logos, scores, a dashboard.

The motion of what is behind them spills over them, so they would waver, or lose their edges.
But what is sharp and the same in both frames, pixel by pixel, has hardly come there by chance.
"""

import torch
from torch import Tensor

from sepconv_video.models.alignment import CELL
from sepconv_video.models.blocks import box, peak, upsample

WINDOW = 3
"""Cells a side over which contrast is measured, and the difference of the frames."""
LEAST_CONTRAST, SURE_CONTRAST = 0.6, 0.9
"""Normalised brightness: what has less may be the same by chance, what has more is not."""
SURE_DIFFERENCE, MOST_DIFFERENCE = 0.01, 0.05
"""Shares of its contrast: what differs by less stands still, what differs by more does not."""
ELSEWHERE = 0.1
"""The same, of single cells: more counts as this, as what shows between two strokes moves."""
SHADOW = 9
"""Cells a side over which a difference may be a shadow that falls on what stands still."""
EDGE = 0.25
"""Share of the contrast that a pixel may differ by where an outline is mixed with what moves."""


@torch.no_grad()
def standing(cells: Tensor) -> Tensor:
    """Tell how much pixels may differ and yet be taken for standing still.

    Args:
        cells: Both frames, `alignment.in_cells`.

    Returns:
        (N, 1, H/CELL, W/CELL), normalised brightness; 0 where nothing stands still, or nothing
        is sharp enough to tell.
    """
    left, right = cells.chunk(2)
    mean = (left + right).div_(2)
    contrast = peak(mean, WINDOW).add_(peak(-mean, WINDOW)).amax(1, keepdim=True)
    change = left - right
    # the least counts: beside what moves, the mean is no shadow
    shares = _share(change - box(change, SHADOW), contrast), _share(change, contrast)
    sharp = _ramp(contrast, LEAST_CONTRAST, SURE_CONTRAST)
    alike = _ramp(torch.minimum(*shares), MOST_DIFFERENCE, SURE_DIFFERENCE)
    return contrast.mul_(EDGE).mul_(peak(sharp.mul_(alike), WINDOW))


def hold(made: Tensor, left: Tensor, right: Tensor, allowed: Tensor) -> Tensor:
    """Put back what stands still.

    Args:
        made: The frame half way, (N, 3, H, W), normalised.
        left: Frames, likewise.
        right: Likewise.
        allowed: What `standing` tells of these places.

    Returns:
        As `made`.
    """
    allowed = upsample(allowed, CELL).to(made.dtype)
    difference = (left - right).abs_().mean(1, keepdim=True)
    # all of it up to half of what is allowed; the small constant is for where nothing is
    share = difference.sub_(allowed).div_(allowed.div_(-2).sub_(1e-3)).clamp_(0, 1)
    return torch.lerp(made, (left + right).div_(2), share)


def _share(change: Tensor, contrast: Tensor) -> Tensor:
    """What share of the contrast a change is, which is overwritten, about each cell."""
    share = change.abs_().mean(1, keepdim=True).div_(contrast + 1e-3)
    return box(share.clamp_(max=ELSEWHERE), WINDOW)


def _ramp(values: Tensor, zero: float, one: float) -> Tensor:
    return ((values - zero) / (one - zero)).clamp_(0, 1)
