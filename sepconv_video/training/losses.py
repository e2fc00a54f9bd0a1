"""What training minimises: differences between a made and the true middle frame."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def charbonnier(made: Tensor, true: Tensor) -> Tensor:
    """Smooth L1, sqrt(d^2 + 1e-6), averaged: the loss for the best PSNR. (N, C, H, W) in [0, 1]."""
    return torch.sqrt((made - true) ** 2 + 1e-6).mean()


def laplacian(made: Tensor, true: Tensor) -> Tensor:
    """L1 over a Laplacian pyramid, coarse bands weighted 2^level (Bojanowski et al. 2017).

    The coarse bands tell a motion that is off by many pixels which way to go, where the
    pixels themselves say nothing. (N, C, H, W) in [0, 1]; the finest band also by plain L1.
    """
    difference, levels = made - true, 4
    total: Tensor = difference.abs().mean()
    for level in range(levels):
        below = F.avg_pool2d(difference, 2)
        band = difference - F.interpolate(below, difference.shape[2:], mode="bilinear")
        total = total + 2**level * band.abs().mean()
        difference = below
    total += 2**levels * difference.abs().mean()
    return total / 4


def decibel(made: Tensor, true: Tensor) -> Tensor:
    """What a mean PSNR is made of: the logarithm of each frame's squared error.

    (N, C, H, W) in [0, 1]. Every frame counts alike, however hard it is. Errors that nobody sees
    (over 45 dB) hardly count, and the factor makes gradients as large as those of the others.
    """
    error = (made - true).square().mean((1, 2, 3))
    return 0.02 * torch.log1p(error / 3e-5).mean()


LOSSES: dict[str, Loss] = {
    "charbonnier": charbonnier,
    "laplacian": laplacian,
    "decibel": decibel,
}
