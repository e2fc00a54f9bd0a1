"""Finding what moves further than its own size: a hand that waves, the foot of someone who walks.

The coarse grids of `alignment` do not see it, and on the fine ones it is out of reach. As seen from
the middle nothing tells that it is missing, where both frames show the ground that it passes over.
In either frame by itself it stands out: the motion leads from it to something else in the other
one. Such cells are sought all around in the other frame, and what is found from both frames alike
is brought to the middle.
"""

import torch
from torch import Tensor

from sepconv_video.kernels.motion import Matching, match, search
from sepconv_video.models.alignment import CELL, CONSTANTS, NEAR
from sepconv_video.models.blocks import beyond, box, pad_to_multiple, shrink, warp

LEAST_SIDE, MOST_CELLS = 4, 160
"""Cells have so many pixels a side, or twice, four times ... as many, so that the shorter side of a
frame has fewer than so many of them."""
WINDOW = 5
"""Cells a side over which it is compared what frames show."""
REACH = 14
"""Cells that something may move from frame to frame, across and down."""
UNEXPLAINED = 0.2
"""Cells that differ by more, in normalised brightness, are sought."""
SHARE = 0.7
"""What is found must differ by less than this share of what the cell differed by before."""
PENALTY = 0.02
"""Cost of being the whole reach off the known motion: of equals the nearest one is taken."""
MATCHING = Matching(WINDOW, REACH, UNEXPLAINED, SHARE, PENALTY)
AGREEMENT = 2
"""Cells by which the ways there and back may differ."""
SPREADS = 3, 7
"""Cells a side that what was found may be spread over in the middle."""
FINISH = CONSTANTS._replace(steps=2, distances=(NEAR,))
"""What is left to be done then on the finest grid."""
INVERSIONS = 3
"""Rounds in which a motion as seen from the middle becomes one as seen from a frame."""


@torch.no_grad()
def follow_small(cells: Tensor, motion: Tensor) -> Tensor:
    """Find what moves too far for its size, and take its motion in its place.

    Args:
        cells: As in `alignment.find_motions`, as are the other one and what is returned.
        motion: As found there.
    """
    height, width = motion.shape[-2:]
    side = cell_side(CELL * height, CELL * width)
    factor = side // CELL
    # of either frame by itself: the left ones of a batch, and then the right ones
    padded = pad_to_multiple(cells, factor)
    own = shrink(padded, factor)
    other = swapped(own)
    known = shrink(pad_to_multiple(motion, factor), factor) / side
    flow = as_seen_from_frames(known, INVERSIONS)
    unexplained = _unexplained(padded, own, other, flow)
    flow, found = match(own, other, flow, unexplained, MATCHING)
    found &= _agree(flow)
    if found.is_cpu and not found.any():  # a GPU would have to be waited for
        return motion
    seen_left, seen_right = torch.cat((own, unexplained), 1).chunk(2)
    best, small = _worth(seen_left, seen_right, known), known
    for candidate, there in _in_the_middle(flow, found):
        worth = _worth(seen_left, seen_right, candidate)
        better = there & (worth > best)
        best, small = torch.where(better, worth, best), torch.where(better, candidate, small)
    small = _enlarged(small, factor)[..., :height, :width]
    known = _enlarged(known, factor)[..., :height, :width]
    taken = (small != known).any(1, keepdim=True)
    guess = torch.where(taken, small * factor, motion / CELL)
    left, right = cells.chunk(2)
    return torch.where(taken, search(left, right, guess, FINISH) * CELL, motion)


def cell_side(height: int, width: int) -> int:
    """Pixels a side of the cells that frames of such a size are compared by."""
    side = LEAST_SIDE
    while min(height, width) >= side * MOST_CELLS:
        side *= 2
    return side


def as_seen_from_frames(motion: Tensor, rounds: int) -> Tensor:
    """Turn the motion of the middle (N, 2, H, W) into that from frame to frame (2*N, 2, H, W).

    The first half of the batch leads from places of the left frames to the right ones. It is
    found in rounds, as the place in the middle follows from the motion itself.
    """
    motion = torch.cat((motion, -motion))
    own = motion
    for _ in range(rounds):
        own = warp(motion, -own)
    return -2 * own


def _unexplained(cells: Tensor, own: Tensor, other: Tensor, flow: Tensor) -> Tensor:
    """Tell how much frames differ, each from the other one as the motion moves it.

    What the motion leads out of the other frame is not there to be found.

    Args:
        cells: Those of the frames, (2*N, C, factor*H, factor*W).
        own: Those that are compared, (2*N, C, H, W).
        other: What they are compared with, `own` swapped.
        flow: In the latter, (2*N, 2, H, W).

    Returns:
        (2*N, 1, H, W).
    """
    # sharp texture changes when it is warped by part of a cell, and seems to differ; finer cells
    # that are warped and then reduced seem to where motions meet: the lesser difference counts
    factor = cells.shape[-1] // own.shape[-1]
    finer = shrink(cells, factor // 2).chunk(2)[::-1]
    fine = [  # one after the other, in half the memory
        shrink(warp(frames, 2 * way, factor=2), 2)
        for frames, way in zip(finer, flow.chunk(2), strict=True)
    ]
    moved = warp(other, flow), torch.cat(fine)
    differences = [(own - frames).abs_().mean(1, keepdim=True) for frames in moved]
    least = torch.minimum(*(box(difference, WINDOW) for difference in differences))
    return least.masked_fill_(beyond(flow, *own.shape[-2:]) >= 1, 0)


def swapped(frames: Tensor) -> Tensor:
    """The right ones of a batch, and then the left ones."""
    return torch.cat(frames.chunk(2)[::-1])


def _agree(flow: Tensor) -> Tensor:
    """Tell where the way there and the way back are the same: (2*N, 1, H, W)."""
    back = warp(swapped(flow), flow, "nearest")
    return (back + flow).abs_().amax(1, keepdim=True) <= AGREEMENT


def _in_the_middle(flow: Tensor, found: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Bring what was `found` (2*N, 1, H, W) to where it is half way.

    Returns:
        For each of the spreads the motion there, (N, 2, H, W), and where there is any.
    """
    _, _, height, width = flow.shape
    rows = torch.arange(height, device=flow.device)[:, None]
    columns = torch.arange(width, device=flow.device)
    half = (flow / 2).round().long()
    x = (columns + half[:, 0]).clamp_(0, width - 1)
    y = (rows + half[:, 1]).clamp_(0, height - 1)
    left, right = flow.chunk(2)
    motion = torch.cat((-left, right)) / 2
    values = torch.cat((motion, torch.ones_like(found, dtype=motion.dtype)), 1) * found
    # both frames' cells; sums of halves are exact, so that their order on a GPU is no matter
    values, places = (
        torch.cat(maps.flatten(2).chunk(2), 2)
        for maps in (values, (y * width + x)[:, None].expand_as(values))
    )
    sums = values.new_zeros(len(left), 3, height * width).scatter_add_(2, places, values)
    sums = sums.reshape(-1, 3, height, width)
    spread = [box(sums, cells) * cells**2 for cells in SPREADS]
    return [(total[:, :2] / total[:, 2:].clamp(min=1), total[:, 2:] > 0.5) for total in spread]


def _worth(left: Tensor, right: Tensor, motion: Tensor) -> Tensor:
    """How much of what the frames do not explain a motion (N, 2, H, W) of the middle does.

    Args:
        left: Frames and what is unexplained of them, (N, C + 1, H, W).
        right: Likewise.
        motion: In cells.

    Returns:
        (N, 1, H, W).
    """
    before, after = warp(left, motion), warp(right, -motion)
    difference = (before - after)[:, :-1].abs_().mean(1, keepdim=True)
    return torch.minimum(before[:, -1:], after[:, -1:]) - box(difference, 3)


def _enlarged(maps: Tensor, factor: int) -> Tensor:
    """Repeat each value of (N, C, H, W) factor x factor times."""
    return maps.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
