"""`fast`: our own network, adaptive separable convolution small enough for a CPU.

SepConv's 51 taps serve two purposes at once: most of them only reach for the moving object,
a few of them resample it. Here the window is moved to the object first, by a motion that
`alignment` finds, and 11 separable taps per pixel and direction do the resampling: a twentieth of
the operator's arithmetic, and a reach that depends on the frame's size alone. The network looks at
the frames as they are moved on top of each other: what is left for it are the outlines, what only
one of the frames shows, and a fraction of a pixel.
"""

from functools import partial
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import sepconv_pair
from sepconv_video.models.alignment import CELL, find_motion
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
from sepconv_video.models.tiles import Place, in_tiles

TAPS = 11
STILL = 0.01
"""Normalised frames that differ by less, some half a level of 255, count as the same."""
STILL_CELL, STILL_CELLS = 4, 5
"""Whether frames differ is asked for cells of so many pixels, and so many cells around."""
MULTIPLE = 16
"""Height and width inside the network are multiples of this."""
MAPS = 4 + 1 + 4 * TAPS
"""What is predicted of a pixel: a correction of both motions, which frame to trust, the taps."""
SEEN = 2 * 12 + 2
"""What the network sees of a pixel at half resolution: four of each frame, and the motion."""
MOTION_UNIT = 16
"""Motion is shown to the network in this many pixels."""


class Trunk(nn.Module):
    """A U-Net from half to a sixteenth of the resolution and back."""

    def __init__(self) -> None:
        """Build for (N, SEEN, H/2, W/2)."""
        super().__init__()
        self.down2 = nn.Sequential(conv_act(SEEN, 32), ResidualBlock(32))
        self.down4 = nn.Sequential(conv_act(32, 64, stride=2), ResidualBlock(64))
        self.down8 = nn.Sequential(conv_act(64, 96, stride=2), ResidualBlock(96))
        self.down16 = nn.Sequential(
            conv_act(96, 128, stride=2), ResidualBlock(128), ResidualBlock(128)
        )
        # before they are enlarged: a quarter of the arithmetic
        self.up8, self.refine8 = conv_act(128, 96), ResidualBlock(96)
        self.up4, self.refine4 = conv_act(96, 64), ResidualBlock(64)
        self.up2, self.refine2 = conv_act(64, 32), ResidualBlock(32)

    def forward(self, seen: Tensor) -> Tensor:
        """(N, SEEN, H/2, W/2) to (N, 32, H/2, W/2)."""
        at2 = self.down2(seen)
        at4 = self.down4(at2)
        at8 = self.down8(at4)
        at8 = self.refine8(at8 + upsample(self.up8(self.down16(at8)), 2))
        at4 = self.refine4(at4 + upsample(self.up4(at8), 2))
        features: Tensor = self.refine2(at2 + upsample(self.up2(at4), 2))
        return features


class Pair(NamedTuple):
    """Two normalised frames, and what is known of them before the network sees them."""

    left: Tensor
    """(N, 3, H, W)."""
    right: Tensor
    motion: Tensor
    """(N, 4, H/2, W/2) pixels: x and y of the left frame, then of the right; float32."""
    change: Tensor
    """(N, 1, H/2, W/2), 0 to 1: whether they differ at all."""

    @classmethod
    def of(cls, left: Tensor, right: Tensor, *, thorough: bool) -> Self:
        """Find the motion, as `find_motion` does, held at zero where nothing changes."""
        change = changed(left, right)
        motion = find_motion(left, right, thorough=thorough) * change.float()
        return cls(left, right, torch.cat((motion, -motion), 1), change)

    def piece(self, place: Place | None, like: Tensor) -> "Piece":
        """Cut out what lies at `place` and is as large as `like`; None for all."""
        if place is None:
            return Piece(self, self.motion, self.change, (0, 0))
        top, left = place.top // CELL, place.left // CELL
        rows = slice(top, top + like.shape[-2] // CELL)
        columns = slice(left, left + like.shape[-1] // CELL)
        motion, change = self.motion[..., rows, columns], self.change[..., rows, columns]
        return Piece(self, motion, change, (place.top, place.left))


class Piece(NamedTuple):
    """What is to be made of a pair at once, H x W pixels of it."""

    pair: Pair
    motion: Tensor
    """(N, 4, H/2, W/2), as `Pair.motion`."""
    change: Tensor
    """(N, 1, H/2, W/2), as `Pair.change`."""
    corner: tuple[int, int]
    """Its first row and column."""

    def seen(self, left: Tensor, right: Tensor) -> Tensor:
        """What a network looks at: moved frames (N, 3, H, W), and motion; (N, SEEN, H/2, W/2)."""
        both = F.pixel_unshuffle(torch.cat((left, right), 1), 2)
        return torch.cat((both, self.motion[:, :2].to(both.dtype) / MOTION_UNIT), 1)

    def corrected(self, residual: Tensor) -> Tensor:
        """The motion (N, 4, H/2, W/2), changed by what the network thinks, in two pixels."""
        return self.motion + 2 * residual.float() * self.change.float()

    def moved(self, motion: Tensor, mode: str = "bilinear") -> tuple[Tensor, Tensor]:
        """Both frames (N, 3, H, W) as they are in the middle, by motion (N, 4, H/2, W/2)."""
        left, right = upsample(motion, CELL).chunk(2, 1)
        return (
            warp(self.pair.left, left, mode, self.corner),
            warp(self.pair.right, right, mode, self.corner),
        )


class Fast(nn.Module):
    """About 37,000 multiply-accumulates per pixel, a tenth of the 2017 network's."""

    halo = 160
    bytes_per_pixel = 400
    frame_bytes_per_pixel = 80

    def __init__(self, *, thorough: bool = False) -> None:
        """Build the network with random features and a neutral head.

        Args:
            thorough: How the motion is found, see `find_motion`.
        """
        super().__init__()
        self.thorough = thorough
        self.trunk = Trunk()
        self.head = zero_conv(32, MAPS)

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
        # once for the whole frame, so that tiles are the same as it; so is the motion
        mean, spread = statistics(left, right)
        pair = Pair.of(
            pad_to_multiple((left - mean) / spread, MULTIPLE),
            pad_to_multiple((right - mean) / spread, MULTIPLE),
            thorough=self.thorough,
        )
        moved = pair.piece(None, left).moved(pair.motion)
        made = in_tiles(
            partial(self._predict, pair), *moved, tile=tile, halo=self.halo, multiple=MULTIPLE
        )
        return made[..., :height, :width] * spread + mean

    def _predict(self, pair: Pair, left: Tensor, right: Tensor, place: Place | None) -> Tensor:
        """Predict from moved frames, or the pieces of them at `place`."""
        piece = pair.piece(place, left)
        seen = piece.seen(left, right).to(self.head.weight.dtype)
        return resample(piece, self.head(self.trunk(seen)))


def resample(piece: Piece, maps: Tensor) -> Tensor:
    """Move the frames, filter them and mix them.

    Args:
        piece: What of a pair is to be made.
        maps: (N, MAPS, H/2, W/2), zero for no change.

    Returns:
        (N, 3, H, W), normalised.
    """
    # in the frames' own precision, also where autocast has lowered the features'
    maps = maps.to(piece.pair.left.dtype)
    residual, blend, taps = torch.split(maps, [4, 1, 4 * TAPS], dim=1)
    border = [TAPS // 2] * 4
    left, right = (
        F.pad(frame, border, mode="replicate")
        for frame in piece.moved(piece.corrected(residual), "bicubic")
    )
    weight = torch.sigmoid(upsample(blend, 2))
    # at half resolution: the operator enlarges them, so that no large maps are ever made
    change = piece.change.to(taps.dtype)
    taps = torch.cat([normalise_taps(part * change) for part in taps.chunk(4, 1)], 1)
    return sepconv_pair(left, right, taps, weight)


def statistics(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each pair, (N, 1, 1, 1) each, for input normalisation as in SepConv++.

    The small constant keeps a flat pair from being blown up into noise.
    """
    pair = torch.cat((left, right), 1).float()
    mean, spread = pair.mean((1, 2, 3), keepdim=True), pair.std((1, 2, 3), keepdim=True) + 0.02
    return mean.to(left.dtype), spread.to(left.dtype)


def changed(left: Tensor, right: Tensor) -> Tensor:
    """Tell where normalised frames (N, 3, H, W) differ: (N, 1, H/2, W/2), 0 to 1.

    Whatever the network thinks, it may touch nothing where nothing changes: a still that came
    back sharpened or shifted by a hair would flicker between its source frames.
    """
    cells = shrink((left - right).abs().mean(1, keepdim=True), STILL_CELL)
    return upsample(1 - torch.exp(-box(cells, STILL_CELLS) / STILL), STILL_CELL // CELL)


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
