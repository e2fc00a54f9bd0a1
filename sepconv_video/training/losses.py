"""What training minimises: differences between a made and the true middle frame."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.models.blocks import displacements

Loss = Callable[[Tensor, Tensor], Tensor]


def charbonnier(made: Tensor, true: Tensor) -> Tensor:
    """Smooth L1, sqrt(d^2 + 1e-6), averaged: the loss for the best PSNR. (N, C, H, W) in [0, 1]."""
    return torch.sqrt((made - true) ** 2 + 1e-6).mean()


def laplacian(made: Tensor, true: Tensor, levels: int = 4) -> Tensor:
    """L1 over a Laplacian pyramid, coarse bands weighted 2^level (Bojanowski et al. 2017).

    The coarse bands tell a motion that is off by many pixels which way to go, where the
    pixels themselves say nothing. (N, C, H, W) in [0, 1]; the finest band also by plain L1.
    """
    difference = made - true
    total: Tensor = difference.abs().mean()
    for level in range(levels):
        below = F.avg_pool2d(difference, 2)
        band = difference - F.interpolate(below, scale_factor=2, mode="bilinear")
        total = total + 2**level * band.abs().mean()
        difference = below
    total += 2**levels * difference.abs().mean()
    return total / 4


def disbelief(
    likelihood: Tensor, frames: tuple[Tensor, Tensor, Tensor], cell: int, radius: int
) -> Tensor:
    """Cross-entropy of the displacements a network thinks likely against the true ones.

    With the true middle at hand, the cost of a displacement d is how far `left` at x + d and
    `right` at x - d are from it. A warped picture tells only whether one more pixel to the
    side would be better; this looks at all displacements at once, so that large motion is
    found at all. (The expected cost under `likelihood` does not do: it says nothing of
    displacements that have been ruled out.)

    Args:
        likelihood: (N, D, H/cell, W/cell), in the order of `blocks.displacements`.
        frames: left, middle and right, (N, 3, H, W) in [0, 1].
        cell: Side of a cell in pixels.
        radius: Largest displacement in cells.
    """
    left, middle, right = (F.avg_pool2d(frame, cell) for frame in frames)
    with torch.no_grad():
        # -d comes at the mirrored place in the list of displacements
        cost = _one_sided(left, middle, radius) + _one_sided(right, middle, radius).flip(1)
        cost = F.avg_pool2d(F.pad(cost, [1] * 4, mode="replicate"), 3, 1)
        cost = cost / (cost.mean(1, keepdim=True) + 0.01)
        # among equals the smaller motion, as in flat areas
        distance = displacements(radius).to(cost.device).norm(dim=1)[:, None, None]
        truth = torch.softmax(-25 * (cost + 0.06 * distance), dim=1)
        # where even the truth leaves it open, anything may be believed
        clarity = truth.amax(1) ** 2
    return -(clarity * (truth * (likelihood + 1e-6).log()).sum(1)).mean()


def _one_sided(moved: Tensor, fixed: Tensor, radius: int) -> Tensor:
    """Mean |moved(x + d) - fixed(x)| over the channels, (N, D, H, W)."""
    height, width = fixed.shape[-2:]
    windows = F.pad(moved, [radius] * 4, mode="replicate").unfold(3, width, 1)
    rows = [
        (windows[:, :, dy : dy + height] - fixed[:, :, :, None]).abs().mean(1).transpose(1, 2)
        for dy in range(2 * radius + 1)
    ]
    return torch.cat(rows, dim=1)


LOSSES: dict[str, Loss] = {"charbonnier": charbonnier, "laplacian": laplacian}
