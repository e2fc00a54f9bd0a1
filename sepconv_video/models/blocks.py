"""Building blocks that the project's own networks share: convolutions, warping, cost volumes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIPS = 16
"""Pieces that a single frame is sampled in on a CPU, so that all its cores have some."""


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))); starts as the identity, so that depth costs nothing at first."""

    def __init__(self, channels: int) -> None:
        """Build the two convolutions for (N, channels, H, W) features."""
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = zero_conv(channels, channels)
        nn.init.kaiming_normal_(self.first.weight, a=0.1)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        residual: Tensor = self.second(F.leaky_relu(self.first(features), 0.1, inplace=True))
        return features + residual


def conv_act(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution and leaky ReLU; `stride` 2 halves the resolution."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    return nn.Sequential(conv, nn.LeakyReLU(0.1, inplace=True))


def zero_conv(inputs: int, outputs: int, side: int = 3) -> nn.Conv2d:
    """Convolution whose output is zero until it has learned something."""
    conv = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def pad_to_multiple(frames: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edges of (N, C, H, W) until H and W are multiples."""
    height, width = frames.shape[-2:]
    return F.pad(frames, [0, -width % multiple, 0, -height % multiple], mode="replicate")


def upsample(maps: Tensor, factor: int) -> Tensor:
    """Bilinear enlargement of (N, C, H, W) to (N, C, factor*H, factor*W)."""
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def warp(frames: Tensor, motion: Tensor, mode: str = "bilinear") -> Tensor:
    """Sample each frame at x + motion(x), edges repeated.

    Args:
        frames: (N, C, H, W).
        motion: (N, 2, H, W), horizontal then vertical, in pixels.
        mode: `bilinear`, or `bicubic`: slower, and does not blur between pixels.

    Returns:
        (N, C, H, W), in the dtype of `frames`.
    """
    return sample(frames, sampling_grid(motion), mode)


def sampling_grid(motion: Tensor, step: int = 1) -> Tensor:
    """Where `sample` shall look: at x + motion(x), for every `step`-th pixel and row.

    Args:
        motion: (N, 2, H/step, W/step), horizontal then vertical, in pixels.
        step: Distance in pixels of what is sampled.

    Returns:
        (N, H/step, W/step, 2), -1 to 1 from edge to edge; float32. A view of (N, 2, ...), which
        is as fast to look at, and much faster to make on a CPU.
    """
    height, width = step * motion.shape[-2], step * motion.shape[-1]
    # coordinates need more than the 11 bits of fp16, whatever the dtype of the network
    rows = torch.arange(0, height, step, device=motion.device, dtype=torch.float32)
    columns = torch.arange(0, width, step, device=motion.device, dtype=torch.float32)
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
    scale = places.new_tensor([2 / width, 2 / height])
    grid = (motion.float() + places).add_(0.5).mul_(scale[:, None, None]).sub_(1)
    return grid.permute(0, 2, 3, 1)


def sample(frames: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Look up frames (N, C, H, W) at places (N, rows, columns, 2): (N, C, rows, columns)."""
    batch, rows = len(frames), grid.shape[1]
    # on a CPU PyTorch shares out the frames of a batch, but never the rows of a frame
    strips = math.gcd(rows, STRIPS) if frames.device.type == "cpu" and batch == 1 else 1
    found = F.grid_sample(
        frames.float().expand(batch * strips, -1, -1, -1),
        grid.reshape(batch * strips, rows // strips, *grid.shape[2:]),
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    if strips > 1:
        found = found.transpose(0, 1).reshape(1, frames.shape[1], *grid.shape[1:3])
    return found.to(frames.dtype)


def displacements(radius: int) -> Tensor:
    """((2*radius+1)**2, 2) displacements in cells, (x, y), in the order of `cost_volume`."""
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    vertical, horizontal = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack((horizontal, vertical), dim=-1).reshape(-1, 2)


def cost_volume(left: Tensor, right: Tensor, cell: int, radius: int) -> Tensor:
    """How badly the two frames agree when they meet in the middle, per displacement.

    At 1/cell of the resolution, for each displacement d of up to `radius` cells: the mean
    absolute difference of `left` at x + d and `right` at x - d (bilateral matching, as the
    motion of the frame half way is wanted), averaged over 5x5 cells.

    Args:
        left: Earlier frames, (N, C, H, W), H and W multiples of `cell`.
        right: Later frames, same shape.
        cell: Side of a cell in pixels.
        radius: Largest displacement in cells.

    Returns:
        (N, (2*radius+1)**2, H/cell, W/cell), in the units of the frames.
    """
    left, right = F.avg_pool2d(left, cell), F.avg_pool2d(right, cell)
    height, width = left.shape[-2:]
    border = [radius] * 4
    # (N, C, 2*radius + 1, H + 2*radius, W) views: all horizontal shifts of every row
    lefts = F.pad(left, border, mode="replicate").unfold(3, width, 1).transpose(2, 3)
    rights = F.pad(right, border, mode="replicate").unfold(3, width, 1).transpose(2, 3).flip(2)
    costs = []
    # one vertical shift at a time from end to end, as that much fits the cache of a CPU
    for dy in range(-radius, radius + 1):
        above, below = radius + dy, radius - dy
        difference = lefts[..., above : above + height, :] - rights[..., below : below + height, :]
        costs.append(box(difference.abs_().mean(1), 5))
    return torch.cat(costs, dim=1)


def box(maps: Tensor, side: int) -> Tensor:
    """Average (N, C, H, W) over side x side pixels around each; edges repeated, `side` odd."""
    padded = F.pad(maps, [side // 2] * 4, mode="replicate")
    if maps.device.type != "cpu":  # one launch
        return F.avg_pool2d(padded, side, 1)
    height, width = maps.shape[-2:]
    # sums of slices are five times as fast as pooling on a CPU
    rows = _sum([padded[..., k : k + height, :] for k in range(side)])
    return _sum([rows[..., k : k + width] for k in range(side)]) / side**2


def shrink(maps: Tensor, factor: int) -> Tensor:
    """Average (N, C, H, W) over factor x factor pixels; H and W multiples of `factor`."""
    if factor == 1:
        return maps
    if maps.device.type != "cpu":  # one launch
        return F.avg_pool2d(maps, factor)
    # as in `box`; three times as fast
    rows = _sum([maps[..., k::factor, :] for k in range(factor)])
    return _sum([rows[..., k::factor] for k in range(factor)]) / factor**2


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0] + terms[1]
    for term in terms[2:]:
        total += term
    return total
