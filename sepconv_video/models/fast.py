"""`fast`: our own network, adaptive separable convolution small enough for a CPU.

SepConv's 51 taps serve two purposes at once: most of them only reach for the moving object,
a few of them resample it. Here the window is moved to the object first, by a motion that a
cost volume suggests and a U-Net at half resolution refines, and 11 separable taps per
pixel and direction do the resampling: a twentieth of the operator's arithmetic, and a
reach of over 60 pixels instead of 25.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import sepconv
from sepconv_video.models.blocks import (
    ResidualBlock,
    conv_act,
    cost_volume,
    displacements,
    pad_to_multiple,
    upsample,
    warp,
    zero_conv,
)

TAPS = 11
FINE_CELL, FINE_RADIUS = 4, 6
"""The fine volume sees motion of up to 24 pixels per half step, in cells of 4 pixels."""
COARSE_CELL, COARSE_RADIUS = 16, 4
"""The coarse volume sees up to 64 pixels, in cells of 16."""
MULTIPLE = 16
"""Height and width inside the network are multiples of this."""


class Prediction(NamedTuple):
    """What the network thinks of a batch of pairs; training looks at all of it."""

    middle: Tensor
    """(N, 3, H, W): the result."""
    guess: Tensor
    """(N, 3, H, W): the frames moved and blended, before refinement."""
    likelihoods: list[tuple["Matching", Tensor]]
    """Per cost volume, how likely each displacement is: (N, D, rows, columns) in cells."""


class Matching(nn.Module):
    """A cost volume, and the motion that it and what the network knows suggest."""

    offsets: Tensor

    def __init__(self, cell: int, radius: int, features: int, knowledge: int) -> None:
        """Build for displacements of up to `radius` cells of `cell` pixels.

        Args:
            cell: Side of a cell in pixels.
            radius: Largest displacement in cells.
            features: Channels that the volume is condensed to.
            knowledge: Channels that correct the volume.
        """
        super().__init__()
        self.cell, self.radius = cell, radius
        self.register_buffer("offsets", displacements(radius), persistent=False)
        count = (2 * radius + 1) ** 2
        self.mix = nn.Sequential(nn.Conv2d(count, features, 1), nn.LeakyReLU(0.1, inplace=True))
        self.correct = zero_conv(knowledge, count, side=1)
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.stillness = nn.Parameter(torch.tensor(0.15))

    @torch.no_grad()
    def cost(self, left: Tensor, right: Tensor) -> Tensor:
        """Match frames (N, 3, H, W): (N, D, H/cell, W/cell), 1 for a mean match, 0 the best.

        Relative to the mean: what counts is how much better one match is than the rest.
        """
        cost = cost_volume(left, right, self.cell, self.radius)
        return cost / (cost.mean(1, keepdim=True) + 0.015)

    def condense(self, cost: Tensor) -> Tensor:
        """The volume as features (N, features, H/cell, W/cell) for the network."""
        condensed: Tensor = self.mix(torch.exp(-cost))
        return condensed

    def motion(self, cost: Tensor, knowledge: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the displacements by the volume and the network's corrections.

        Returns:
            likelihood (N, D, rows, columns), and the mean motion of the left frame
            (N, 2, rows, columns) in pixels (the right frame's is its negative); float32.
        """
        # small motion is likelier than large: without this, flat areas match anywhere
        distance = self.offsets.norm(dim=1)[:, None, None]
        evidence = self.sharpness * (cost + self.stillness * distance)
        likelihood = torch.softmax(self.correct(knowledge).float() - evidence.float(), dim=1)
        offsets = self.offsets.float() * self.cell
        # not einsum, which autocast would run in half precision
        motion = (likelihood[:, :, None] * offsets[:, :, None, None]).sum(1)
        return likelihood, motion


class Fast(nn.Module):
    """About 58,000 multiply-accumulates per pixel; an untrained one averages the frames."""

    def __init__(self) -> None:
        """Build the network with random features and neutral heads."""
        super().__init__()
        self.fine = Matching(FINE_CELL, FINE_RADIUS, 48, 64)
        self.coarse = Matching(COARSE_CELL, COARSE_RADIUS, 48, 128)
        self.down2 = nn.Sequential(conv_act(24, 32), ResidualBlock(32))
        self.down4 = conv_act(32, 64, stride=2)
        self.join4 = nn.Sequential(conv_act(64 + 48, 64), ResidualBlock(64))
        self.down8 = nn.Sequential(conv_act(64, 96, stride=2), ResidualBlock(96))
        self.down16 = conv_act(96, 128, stride=2)
        self.join16 = nn.Sequential(conv_act(128 + 48, 128), ResidualBlock(128), ResidualBlock(128))
        self.up8 = conv_act(128, 96)
        self.refine8 = ResidualBlock(96)
        self.up4 = conv_act(96, 64)
        self.refine4 = ResidualBlock(64)
        self.head4 = zero_conv(64, 2 + 4 + 1)
        self.up2 = conv_act(64, 32)
        self.warped2 = conv_act(24 + 32, 32)
        self.refine2 = nn.Sequential(ResidualBlock(32), ResidualBlock(32))
        self.head2 = zero_conv(32, 4 + 1 + 4 * TAPS)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Predict the frame half way.

        Args:
            left: Earlier frames, (N, 3, H, W), RGB in [0, 1], any H and W.
            right: Later frames; shape, dtype and device of `left`.

        Returns:
            (N, 3, H, W), same dtype; not clamped.
        """
        height, width = left.shape[-2:]
        left, right = pad_to_multiple(left, MULTIPLE), pad_to_multiple(right, MULTIPLE)
        matched = self._match(left, right)
        return self._resample(left, right, matched)[..., :height, :width]

    def predict(self, left: Tensor, right: Tensor) -> Prediction:
        """As `forward`, with what training looks at; H and W multiples of `MULTIPLE`."""
        matched = self._match(left, right)
        motion, blend = matched.motion, matched.blend
        guess = _blend(warp(left, motion[:, :2]), warp(right, motion[:, 2:]), blend)
        middle = self._resample(left, right, matched)
        return Prediction(middle, guess, matched.likelihoods)

    def _match(self, left: Tensor, right: Tensor) -> "_Matched":
        """Find the motion: a U-Net from half to a sixteenth of the resolution and back."""
        left, right = normalise(left, right)
        fine_cost, coarse_cost = self.fine.cost(left, right), self.coarse.cost(left, right)
        at2 = self.down2(F.pixel_unshuffle(torch.cat((left, right), 1), 2))
        at4 = self.join4(torch.cat((self.down4(at2), self.fine.condense(fine_cost)), 1))
        at8 = self.down8(at4)
        at16 = torch.cat((self.down16(at8), self.coarse.condense(coarse_cost)), 1)
        at16 = self.join16(at16)
        at8 = self.refine8(self.up8(upsample(at16, 2)) + at8)
        at4 = self.refine4(self.up4(upsample(at8, 2)) + at4)
        fine_likelihood, fine_motion = self.fine.motion(fine_cost, at4)
        coarse_likelihood, coarse_motion = self.coarse.motion(coarse_cost, at16)
        trust, residual, blend = torch.split(self.head4(at4).float(), [2, 4, 1], dim=1)
        motion = trust[:, :1] * fine_motion + trust[:, 1:] * upsample(coarse_motion, 4)
        motion = torch.cat((motion, -motion), 1) + residual * FINE_CELL
        return _Matched(
            at2,
            at4,
            upsample(motion, 4),
            upsample(blend, 4),
            [(self.fine, fine_likelihood), (self.coarse, coarse_likelihood)],
        )

    def _resample(self, left: Tensor, right: Tensor, matched: "_Matched") -> Tensor:
        """Look at the frames moved on top of each other, correct, and convolve."""
        motion = matched.motion
        moved = normalise(warp(left, motion[:, :2]), warp(right, motion[:, 2:]))
        moved2 = F.pixel_unshuffle(torch.cat(moved, 1), 2)
        at2 = self.up2(upsample(matched.at4, 2)) + matched.at2
        at2 = self.refine2(self.warped2(torch.cat((moved2, at2), 1)))
        # in the frames' own precision, also where autocast has lowered the features'
        maps = upsample(self.head2(at2), 2).to(left.dtype)
        residual, blend, taps = torch.split(maps, [4, 1, 4 * TAPS], dim=1)
        motion = motion + residual.float() * 2
        vertical1, horizontal1, vertical2, horizontal2 = map(normalise_taps, taps.chunk(4, 1))
        border = [TAPS // 2] * 4
        left = F.pad(warp(left, motion[:, :2]), border, mode="replicate")
        right = F.pad(warp(right, motion[:, 2:]), border, mode="replicate")
        return _blend(
            sepconv(left, vertical1, horizontal1),
            sepconv(right, vertical2, horizontal2),
            matched.blend + blend,
        )


class _Matched(NamedTuple):
    """What matching hands to resampling."""

    at2: Tensor
    """(N, 32, H/2, W/2) features."""
    at4: Tensor
    """(N, 64, H/4, W/4) features."""
    motion: Tensor
    """(N, 4, H, W) pixels: x and y of the left, then of the right frame; float32."""
    blend: Tensor
    """(N, 1, H, W) logit of the left frame's share; float32."""
    likelihoods: list[tuple[Matching, Tensor]]


def normalise(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Remove the pair's common mean and spread per sample, as SepConv++ does.

    The small constant keeps a flat pair from being blown up into noise.
    """
    pair = torch.cat((left, right), 1)
    mean = pair.mean((1, 2, 3), keepdim=True)
    spread = pair.std((1, 2, 3), keepdim=True) + 0.02
    return (left - mean) / spread, (right - mean) / spread


def normalise_taps(taps: Tensor) -> Tensor:
    """Make the taps (N, K, H, W) sum to one: the unit impulse plus a part that sums to zero.

    Flat regions so keep their brightness exactly, without a division that could blow up,
    and negative taps, which sharpen, stay possible.
    """
    centred = taps - taps.mean(1, keepdim=True)
    centre = taps.shape[1] // 2
    impulse = torch.zeros(taps.shape[1], dtype=taps.dtype, device=taps.device)
    impulse[centre] = 1
    return centred + impulse[:, None, None]


def _blend(left: Tensor, right: Tensor, logits: Tensor) -> Tensor:
    weight = torch.sigmoid(logits).to(left.dtype)
    return right + weight * (left - right)
