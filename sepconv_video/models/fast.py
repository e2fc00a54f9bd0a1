"""`fast`: our own network, adaptive separable convolution small enough for a CPU.

SepConv's 51 taps serve two purposes at once: most of them only reach for the moving object,
a few of them resample it. Here the window is moved to the object first, by a motion that cost
volumes suggest, a U-Net at half resolution corrects and a search among candidates settles, and
11 separable taps per pixel and direction do the resampling: a twentieth of the operator's
arithmetic, and a reach of over 60 pixels instead of 25.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import sepconv_pair
from sepconv_video.models.blocks import (
    ResidualBlock,
    box,
    conv_act,
    pad_to_multiple,
    shrink,
    upsample,
    warp,
    zero_conv,
)
from sepconv_video.models.matching import (
    CELL,
    WINDOW,
    Belief,
    Choice,
    Grey,
    Matching,
    Refinement,
    neighbours,
    still_and_smooth,
)
from sepconv_video.models.tiles import Place, in_tiles

TAPS = 11
FINE_RADIUS = 6
"""The fine volume sees motion of up to 24 pixels per half step, in cells of 4 pixels."""
COARSE_CELL, COARSE_RADIUS = 16, 4
"""The coarse volume sees up to 64 pixels, in cells of 16."""
STILL = 0.01
"""Normalised frames that differ by less, some half a level of 255, count as the same."""
MULTIPLE = 16
"""Height and width inside the network are multiples of this."""


class Prediction(NamedTuple):
    """What the network thinks of a batch of pairs; training looks at all of it."""

    middle: Tensor
    """(N, 3, H, W): the result."""
    guess: Tensor
    """(N, 3, H, W): the frames moved and blended, before refinement."""
    beliefs: list[Belief]
    """What each stage of the search thought likely."""


class Fast(nn.Module):
    """About 60,000 multiply-accumulates per pixel; an untrained one follows small motion only."""

    halo = 256
    bytes_per_pixel = 550
    frame_bytes_per_pixel = 34

    windows: tuple[int, ...] = (36, 28, WINDOW)
    """What each round of the search averages costs over, in pixels; early rounds look at more, as
    what repeats (bars, bricks) is told apart by where it ends."""

    def __init__(self) -> None:
        """Build the network with random features and neutral heads."""
        super().__init__()
        self.fine = Matching(CELL, FINE_RADIUS, 48, 64)
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
        self.compare = Choice(3, 64)
        self.spread_far = Choice(5, 64)
        self.search = Refinement(3, 64)
        self.spread_near = Choice(5, 64)
        self.up2 = conv_act(64, 32)
        self.warped2 = conv_act(24 + 32, 32)
        self.refine2 = nn.Sequential(ResidualBlock(32), ResidualBlock(32))
        self.head2 = zero_conv(32, 4 + 1 + 4 * TAPS)

    def forward(self, left: Tensor, right: Tensor, tile: int | None = None) -> Tensor:
        """Predict the frame half way.

        Args:
            left: Earlier frames, (N, 3, H, W), RGB in [0, 1], any H and W; float32, or as the
                weights.
            right: Later frames; shape, dtype and device of `left`.
            tile: Most pixels a side to work on at once (besides a halo); None for whole frames.

        Returns:
            (N, 3, H, W), same dtype; not clamped.
        """
        height, width = left.shape[-2:]
        # once for the whole frame, so that tiles are the same as it
        mean, spread = statistics(left, right)
        left = pad_to_multiple((left - mean) / spread, MULTIPLE)
        right = pad_to_multiple((right - mean) / spread, MULTIPLE)
        made = in_tiles(self._predict, left, right, tile=tile, halo=self.halo, multiple=MULTIPLE)
        return made[..., :height, :width] * spread + mean

    def _predict(self, left: Tensor, right: Tensor, _: Place | None) -> Tensor:
        """Predict from normalised frames, or pieces of them; where they lie does not matter."""
        matched = self._match(left, right)
        return self._resample(left, right, matched, _moved(left, right, matched.motion))

    def predict(self, left: Tensor, middle: Tensor, right: Tensor) -> Prediction:
        """As `forward`, with what training looks at; H and W multiples of `MULTIPLE`."""
        mean, spread = statistics(left, right)
        left, middle, right = ((frame - mean) / spread for frame in (left, middle, right))
        matched = self._match(left, right, middle)
        moved = _moved(left, right, matched.motion)
        guess = moved[1] + torch.sigmoid(matched.blend) * (moved[0] - moved[1])
        made = self._resample(left, right, matched, moved)
        return Prediction(made * spread + mean, guess * spread + mean, matched.beliefs)

    def _match(self, left: Tensor, right: Tensor, middle: Tensor | None = None) -> "_Matched":
        """Find the motion: a U-Net from half to a sixteenth of the resolution and back."""
        fine_cost, coarse_cost = self.fine.cost(left, right), self.coarse.cost(left, right)
        at2 = self.down2(self._unshuffled(left, right))
        at4 = self.join4(torch.cat((self.down4(at2), self.fine.condense(fine_cost)), 1))
        at8 = self.down8(at4)
        at16 = torch.cat((self.down16(at8), self.coarse.condense(coarse_cost)), 1)
        at16 = self.join16(at16)
        at8 = self.refine8(self.up8(upsample(at16, 2)) + at8)
        at4 = self.refine4(self.up4(upsample(at8, 2)) + at4)
        fine, coarse = self.fine.weigh(fine_cost, at4), self.coarse.weigh(coarse_cost, at16)
        trust, residual, blend = torch.split(self.head4(at4).float(), [2, 4, 1], dim=1)
        motion = trust[:, :1] * self.fine.motion(fine)
        motion = motion + trust[:, 1:] * upsample(self.coarse.motion(coarse), 4)
        motion = torch.cat((motion, -motion), 1) + residual * CELL
        grey, change = Grey.of(left, right, middle), changed(left, right)
        motion, beliefs = self._settle(grey, motion, at4)
        at2 = self.up2(upsample(at4, 2)) + at2
        motion, more = self._enlarge(grey, motion, change, at2)
        beliefs += more
        if middle is not None:
            volumes = (self.fine, fine), (self.coarse, coarse)
            beliefs += [
                Belief(likelihood, volume.true_cost(left, middle, right), volume.distance)
                for volume, likelihood in volumes
            ]
        return _Matched(at2, at4, motion, upsample(blend, CELL), change, beliefs)

    def _settle(self, grey: Grey, motion: Tensor, at4: Tensor) -> tuple[Tensor, list[Belief]]:
        """Improve the motion: by what else it could be, by neighbours', and pixel by pixel."""
        beliefs = []
        for window in self.windows:
            compared = self.compare(grey, still_and_smooth(motion), at4, window)
            far = self.spread_far(grey, neighbours(compared.motion, 4), at4, window)
            searched = self.search(grey, far.motion, at4, window)
            near = self.spread_near(grey, neighbours(searched.motion, 2), at4, window)
            motion = near.motion
            beliefs += [stage.belief for stage in (compared, far, searched, near) if stage.belief]
        return motion, beliefs

    def _enlarge(
        self, grey: Grey, motion: Tensor, change: Tensor, at2: Tensor
    ) -> tuple[Tensor, list[Belief]]:
        """Bring the motion from cells to pixels, held at zero where nothing changes."""
        del grey, at2  # for `fine`, which goes on searching
        return upsample(motion * change, CELL), []

    def _unshuffled(self, left: Tensor, right: Tensor) -> Tensor:
        """Both frames at half resolution, (N, 24, H/2, W/2), in the precision of the weights."""
        both = F.pixel_unshuffle(torch.cat((left, right), 1), 2)
        return both.to(self.head2.weight.dtype)

    def _resample(
        self, left: Tensor, right: Tensor, matched: "_Matched", moved: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Look at the frames moved on top of each other, correct, and convolve."""
        moved2 = self._unshuffled(*moved)
        at2 = self.warped2(torch.cat((moved2, matched.at2), 1))
        at2 = self.refine2(self._look_again(at2, matched.at4))
        # in the frames' own precision, also where autocast has lowered the features'
        maps = self.head2(at2).to(left.dtype)
        residual, blend, taps = torch.split(maps, [4, 1, 4 * TAPS], dim=1)
        change = upsample(matched.change, 2)
        border = [TAPS // 2] * 4
        motion = matched.motion + upsample(residual.float() * change, 2) * 2
        left, right = (
            F.pad(frame, border, mode="replicate")
            for frame in _moved(left, right, motion, "bicubic")
        )
        weight = torch.sigmoid(matched.blend + upsample(blend, 2)).to(left.dtype)
        # at half resolution: the operator enlarges them, so that no large maps are ever made
        taps = torch.cat([normalise_taps(part * change) for part in taps.chunk(4, 1)], 1)
        return sepconv_pair(left, right, taps, weight)

    def _look_again(self, at2: Tensor, at4: Tensor) -> Tensor:
        """What the moved frames look like at half resolution, in view of more around."""
        del at4  # for `fine`, which looks
        return at2


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
    change: Tensor
    """(N, 1, H/4, W/4), as `changed` returns it."""
    beliefs: list[Belief]
    """Empty but in training."""


def statistics(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each pair, (N, 1, 1, 1) each, for input normalisation as in SepConv++.

    The small constant keeps a flat pair from being blown up into noise.
    """
    pair = torch.cat((left, right), 1).float()
    mean, spread = pair.mean((1, 2, 3), keepdim=True), pair.std((1, 2, 3), keepdim=True) + 0.02
    return mean.to(left.dtype), spread.to(left.dtype)


def changed(left: Tensor, right: Tensor) -> Tensor:
    """Tell where normalised frames (N, 3, H, W) differ: (N, 1, H/4, W/4), 0 to 1.

    Whatever the network thinks, it may touch nothing where nothing changes: a still that came
    back sharpened or shifted by a hair would flicker between its source frames.
    """
    cells = shrink((left - right).abs().mean(1, keepdim=True), CELL)
    return 1 - torch.exp(-box(cells, WINDOW // CELL) / STILL)


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


def _moved(
    left: Tensor, right: Tensor, motion: Tensor, mode: str = "bilinear"
) -> tuple[Tensor, Tensor]:
    return warp(left, motion[:, :2], mode), warp(right, motion[:, 2:], mode)
