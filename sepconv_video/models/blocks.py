"""Building blocks that the project's own networks share: convolutions, warping, averages."""

from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import motion as kernels
from sepconv_video.kernels.convolution import convolve
from sepconv_video.kernels.motion import STEEP, Mode, Warping, Weights

SLOPE = 0.1
"""Of the leaky ReLU, below zero."""


def check_frames(left: Tensor, right: Tensor) -> None:
    """Refuse what are no frames of a pair, in plain words instead of some layer's.

    Raises:
        ValueError: They are not (N, 3, H, W) floats of one shape and type, or there are none.
    """
    kinds = [f"{tuple(frames.shape)} {frames.dtype}" for frames in (left, right)]
    is_pair = left.shape == right.shape and left.dtype == right.dtype
    is_some = left.dim() == 4 and left.shape[1] == 3 and left.numel() > 0
    if not (is_pair and is_some and left.is_floating_point()):
        raise ValueError(f"frames are (N, 3, H, W) floats, both alike; these are {kinds}")


class Convolution(nn.Conv2d):
    """A 3x3 convolution and a rectifier.

    On a GPU the channels are padded with zeros to a multiple of 8: its matrix units load eight
    halves at a time, but 51 channels side by side one by one. A CPU gains nothing by it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, slope: float = 1.0) -> None:
        """Build for so many maps, besides those of zeros; `slope` is that of `convolve`."""
        super().__init__(inputs, outputs, 3, stride, padding=1)
        self.slope = slope

    def forward(self, maps: Tensor, base: Tensor | None = None) -> Tensor:
        """Do what `in_eights` does, on a CPU without more maps."""
        return self._convolve(maps, 0, base) if maps.is_cpu else self.in_eights(maps, base)

    def in_eights(self, maps: Tensor, base: Tensor | None = None) -> Tensor:
        """(N, inputs or more, H, W) to (N, the next multiple of 8 from the outputs on, H, W)."""
        return self._convolve(maps, -self.out_channels % 8, base)

    def _convolve(self, maps: Tensor, outputs: int, base: Tensor | None) -> Tensor:
        """Make so many maps of zeros more, and add `base`."""
        weight, bias, inputs = self.weight, self.bias, maps.shape[1] - self.in_channels
        assert bias is not None
        if inputs or outputs:
            weight = F.pad(weight, [0, 0, 0, 0, 0, inputs, 0, outputs])
            bias = F.pad(bias, [0, outputs])
        return convolve(maps, weight, bias, stride=self.stride[0], slope=self.slope, base=base)


def more_for_eights(channels: int, like: Tensor) -> int:
    """How many maps of zeros a `Convolution` wants beside so many: none on a CPU."""
    return 0 if like.is_cpu else -channels % 8


def side_by_side(maps: list[Tensor]) -> Tensor:
    """Join maps (N, some, H, W) for a `Convolution`."""
    first = maps[0]
    if more := more_for_eights(sum(some.shape[1] for some in maps), first):
        maps = [*maps, first.new_zeros(len(first), more, *first.shape[2:])]
    return torch.cat(maps, 1)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))); starts as the identity, so that depth costs nothing at first."""

    def __init__(self, channels: int) -> None:
        """Build the two convolutions for (N, channels, H, W) features."""
        super().__init__()
        self.first, self.second = _conv_act(channels, channels), zero_conv(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) in and out."""
        residual: Tensor = self.second(self.first(features), base=features)
        return residual


def conv_act(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution and leaky ReLU; `stride` 2 halves the resolution."""
    # in a sequence of one, as the keys of trained weights have a number for it
    return nn.Sequential(_conv_act(inputs, outputs, stride))


def _conv_act(inputs: int, outputs: int, stride: int = 1) -> Convolution:
    conv = Convolution(inputs, outputs, stride, SLOPE)
    nn.init.kaiming_normal_(conv.weight, a=SLOPE)
    return conv


def zero_conv(inputs: int, outputs: int) -> Convolution:
    """3x3 convolution whose output is zero until it has learned something."""
    conv = Convolution(inputs, outputs)
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


def ramp(values: Tensor, zero: float, one: float) -> Tensor:
    """Map values linearly: `zero` becomes 0 and `one` 1, clamped; `one` may be the lesser."""
    return ((values - zero) / (one - zero)).clamp_(0, 1)


def length(vectors: Tensor) -> Tensor:
    """(N, 2, H, W) to (N, 1, H, W)."""
    return torch.hypot(*vectors.chunk(2, 1))


def beyond(motion: Tensor, height: int, width: int, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Tell how far a motion leads out of a frame.

    Args:
        motion: (N, 2, H, W), horizontal then vertical, in pixels.
        height: Of the frame.
        width: Likewise.
        corner: Its row and column that the first place of the motion belongs to.

    Returns:
        (N, 1, H, W), pixels; negative inside, by the distance from the edge.
    """
    top, left = corner
    across, down = motion.unbind(1)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(motion.shape[-1], device=motion.device) + (left - middle_x)
    y = torch.arange(motion.shape[-2], device=motion.device)[:, None] + (top - middle_y)
    out_x, out_y = (across + x).abs_().sub_(middle_x), (down + y).abs_().sub_(middle_y)
    return torch.maximum(out_x, out_y)[:, None]


def warp(
    frames: Tensor,
    motion: Tensor,
    mode: Mode = "bilinear",
    corner: tuple[int, int] = (0, 0),
    factor: int = 1,
) -> Tensor:
    """Sample each frame at x + motion(x), edges repeated.

    Args:
        frames: (N, C, H, W), 4 channels at most.
        motion: (N, 2, rows, columns), horizontal then vertical, in pixels of the frames.
        mode: `bilinear`, or `bicubic`: slower, and does not blur between pixels; or `nearest`.
        corner: Row and column of the frames that the first place of the motion belongs to.
        factor: 1, or 2: the motion has half the resolution of what is wanted.

    Returns:
        (N, C, factor*rows, factor*columns), in the dtype of `frames`; differentiable.
    """
    if torch.is_grad_enabled() and (motion.requires_grad or frames.requires_grad):
        motion = upsample(motion, factor) if factor > 1 else motion
        return _warp_differentiably(frames, motion, mode, corner)
    # coordinates need more than the 11 bits of fp16, whatever the dtype of the network
    given = frames.float() if frames.is_cpu else frames
    made = kernels.warp(given, motion.float(), Warping(mode, corner, factor))
    return made.to(frames.dtype)


def _warp_differentiably(
    frames: Tensor, motion: Tensor, mode: Mode, corner: tuple[int, int]
) -> Tensor:
    """Do the same by PyTorch's operations, which take three times as long."""
    height, width = frames.shape[-2:]
    top, left = corner
    steps = partial(torch.arange, device=motion.device, dtype=torch.float32)
    rows, columns = steps(top, top + motion.shape[-2]), steps(left, left + motion.shape[-1])
    places = motion.float() + torch.stack(torch.meshgrid(columns, rows, indexing="xy")) + 0.5
    across, down = places.unbind(1)
    grid = torch.stack((across * (2 / width), down * (2 / height)), -1) - 1
    found = F.grid_sample(
        frames.float(), grid, mode=mode, padding_mode="border", align_corners=False
    )
    return found.to(frames.dtype)


def box(maps: Tensor, side: int) -> Tensor:
    """Average (N, C, H, W) over side x side pixels around each; edges repeated, `side` odd."""
    return kernels.box(maps, side)


def peak(maps: Tensor, side: int) -> Tensor:
    """Greatest of (N, C, H, W) over side x side pixels around each; `side` odd."""
    if not maps.is_cpu:  # one launch
        return F.max_pool2d(maps, side, 1, side // 2)
    # of slices it is found in a fifth of the time on a CPU
    height, width = maps.shape[-2:]
    padded = F.pad(maps, [side // 2] * 4, mode="replicate")
    rows = reduce(torch.maximum, [padded[..., k : k + height, :] for k in range(side)])
    return reduce(torch.maximum, [rows[..., k : k + width] for k in range(side)])


def shrink(maps: Tensor, factor: int) -> Tensor:
    """Average (N, C, H, W) over factor x factor pixels; H and W multiples of `factor`."""
    if factor == 1:
        return maps
    if not maps.is_cpu:  # one launch
        return F.avg_pool2d(maps, factor)
    # sums of slices are three times as fast as pooling on a CPU
    rows = _sum([maps[..., k::factor, :] for k in range(factor)])
    return _sum([rows[..., k::factor] for k in range(factor)]) / factor**2


def halve(maps: Tensor, weights: Weights = STEEP) -> Tensor:
    """Reduce (N, C, H, W) to half, rounded up; weights as `kernels.motion` has them."""
    return kernels.halve(maps, weights)


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0] + terms[1]
    for term in terms[2:]:
        total += term
    return total
