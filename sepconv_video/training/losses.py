"""What training minimises: differences between a made and the true middle frame."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.models.matching import Belief

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


def disbelief(belief: Belief) -> Tensor:
    """Cross-entropy of the displacements a network thinks likely against the true ones.

    With the true middle at hand, the cost of a displacement is how far it takes the left and
    the right frame from it. A warped picture tells only whether one more pixel to the side
    would be better; this looks at all displacements at once, so that large motion is found at
    all. (The expected cost under `likelihood` does not do: it says nothing of displacements
    that have been ruled out.)
    """
    with torch.no_grad():
        # among equals the smaller motion, as in flat areas
        cost = belief.true_cost + 0.06 * belief.distance[:, None, None]
        truth = torch.softmax(-25 * cost, dim=1)
        # where even the truth leaves it open, anything may be believed
        clarity = truth.amax(1) ** 2
    return -(clarity * (truth * (belief.likelihood + 1e-6).log()).sum(1)).mean()


LOSSES: dict[str, Loss] = {"charbonnier": charbonnier, "laplacian": laplacian}
