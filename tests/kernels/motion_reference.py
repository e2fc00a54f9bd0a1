"""The steps of a search for motion in PyTorch's operations: what the kernels are to equal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.kernels.motion import WINDOW
from sepconv_video.models.alignment import (
    DAMPING,
    LEAST_COST,
    OUTSIDE_COST,
    OUTSIDE_WEIGHT,
    ROBUST,
    SHARPNESS,
)
from sepconv_video.models.blocks import box, warp
from sepconv_video.models.matching import MATCHING


def correct(left: Tensor, right: Tensor, motion: Tensor) -> Tensor:
    """Correct motion (N, 2, H, W), in pixels of these frames (N, C, H, W), once."""
    moved_left, moved_right = warp(left, motion), warp(right, -motion)
    difference = moved_left - moved_right
    # its derivative by the motion: both frames' slopes, as they move against each other
    across, down = _slopes(moved_left + moved_right)
    # squares weighed by this grow like absolute values (iteratively reweighted least squares)
    weight = (difference.square().mean(1, keepdim=True) + ROBUST**2).rsqrt()
    weight *= inside(motion).clamp(min=OUTSIDE_WEIGHT)
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


def inside(motion: Tensor) -> Tensor:
    """From 1 where both places that motion (N, 2, H, W) leads to lie inside the frames to 0.

    That is where one of them lies a cell or more outside. (N, 1, H, W).
    """
    height, width = motion.shape[-2:]
    x = torch.arange(width, device=motion.device)
    y = torch.arange(height, device=motion.device)[:, None]
    to_edge_x, to_edge_y = torch.minimum(x, width - 1 - x), torch.minimum(y, height - 1 - y)
    across, down = motion.abs().unbind(1)
    beyond = torch.maximum(across - to_edge_x, down - to_edge_y)
    return (1 - beyond).clamp(0, 1)[:, None]


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


def choose(left: Tensor, right: Tensor, candidates: list[Tensor]) -> Tensor:
    """Take of several motions (N, 2, H, W) that for which the frames (N, C, H, W) agree best."""
    costs = []
    for motion in candidates:
        cost = (warp(left, motion) - warp(right, -motion)).abs_().mean(1)
        costs.append(torch.lerp(torch.full_like(cost, OUTSIDE_COST), cost, inside(motion)[:, 0]))
    cost = box(torch.stack(costs, 1), WINDOW)
    # what counts is how much better one is than the rest
    likelihood = torch.softmax(-SHARPNESS * cost / (cost.mean(1, keepdim=True) + LEAST_COST), 1)
    return (likelihood[:, :, None] * torch.stack(candidates, 1)).sum(1)


def match(own: Tensor, other: Tensor, flow: Tensor, unexplained: Tensor) -> tuple[Tensor, Tensor]:
    """Do what `kernels.motion.match` says."""
    window, reach, least, share, penalty = MATCHING
    height, width = own.shape[-2:]
    padded = F.pad(other, [reach] * 4, mode="replicate")
    made, best, sought = flow.clone(), share * unexplained, unexplained > least
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            there = padded[..., y : y + height, x : x + width]
            step = flow.new_tensor([x - reach, y - reach])[:, None, None].expand_as(flow)
            away = (step - flow).norm(dim=1, keepdim=True)
            cost = box((own - there).abs().mean(1, keepdim=True), window) + penalty / reach * away
            better = sought & (cost < best)
            made, best = torch.where(better, step, made), torch.where(better, cost, best)
    return made, sought & (best < share * unexplained)
