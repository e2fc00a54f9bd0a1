"""`fast` and `fine`: our own networks, adaptive separable convolution where things have moved to.

SepConv's 51 taps serve two purposes at once: most of them only reach for the moving object,
a few of them resample it. Here the window is moved to the object first, by a motion that
`alignment` finds, and 11 separable taps per pixel and direction do the resampling: a twentieth of
the operator's arithmetic, and a reach that depends on the frame's size alone. The network looks at
the warped frames: what is left for it are the outlines, what only one of the frames shows, and a
fraction of a pixel. Where the frames before and after are known,
`bending` tells where the middle is.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import sepconv_pair, shape_taps
from sepconv_video.kernels.convolution import add_enlarged
from sepconv_video.models.bending import UNKNOWN, Found, Known, bend
from sepconv_video.models.blocks import (
    ResidualBlock,
    check_frames,
    conv_act,
    upsample,
    zero_conv,
)
from sepconv_video.models.pair import MULTIPLE, SEEN, Pair, Piece, look
from sepconv_video.models.standing import hold
from sepconv_video.models.tiles import Place, in_tiles

TAPS = 11
MOST_TAPS = 2.0
"""Absolute sum of what taps differ from the unit impulse by, at most; in real clips 99 % have less
than 1.2. Where no motion explains the frames (a zoom that blurs all), 20 made ripples."""
MAPS = 4 + 1 + 4 * TAPS
"""What is predicted of a pixel: a correction of both motions, which frame to trust, the taps."""


class Trunk(nn.Module):
    """A U-Net from half to a sixteenth of the resolution and back."""

    def __init__(self, seen: int, widths: tuple[int, int, int, int]) -> None:
        """Build for (N, seen, H/2, W/2), with so many channels at 1/2, 1/4, 1/8 and 1/16."""
        super().__init__()
        at2, at4, at8, at16 = widths
        self.down2 = nn.Sequential(conv_act(seen, at2), ResidualBlock(at2))
        self.down4 = nn.Sequential(conv_act(at2, at4, stride=2), ResidualBlock(at4))
        self.down8 = nn.Sequential(conv_act(at4, at8, stride=2), ResidualBlock(at8))
        self.down16 = nn.Sequential(
            conv_act(at8, at16, stride=2), ResidualBlock(at16), ResidualBlock(at16)
        )
        # before they are enlarged: a quarter of the arithmetic
        self.up8, self.refine8 = conv_act(at16, at8), ResidualBlock(at8)
        self.up4, self.refine4 = conv_act(at8, at4), ResidualBlock(at4)
        self.up2, self.refine2 = conv_act(at4, at2), ResidualBlock(at2)

    def forward(self, seen: Tensor) -> Tensor:
        """(N, seen, H/2, W/2) to (N, the first of the widths, H/2, W/2)."""
        at2 = self.down2(seen)
        at4 = self.down4(at2)
        at8 = self.down8(at4)
        at8 = self.refine8(add_enlarged(self.up8(self.down16(at8)), at8))
        at4 = self.refine4(add_enlarged(self.up4(at8), at4))
        features: Tensor = self.refine2(add_enlarged(self.up2(at4), at2))
        return features


class Aligned(nn.Module):
    """The design that our networks share; they differ in size, and in how motion is found."""

    halo = 160
    bf16_suffices = True
    """Features with the 8 bits of bf16 make no visible difference; the frames have more."""

    def __init__(self, motions: int, widths: tuple[int, int, int, int]) -> None:
        """Build the network with random features and a neutral head.

        Args:
            motions: 2 where the network is to choose between two of them, or 1.
            widths: Channels of the trunk.
        """
        super().__init__()
        self.motions = motions
        self.trunk = Trunk(SEEN * motions, widths)
        self.head = zero_conv(widths[0], (MAPS + 1) * motions - 1)

    def look(self, left: Tensor, right: Tensor) -> Found:
        """Find of pairs what their neighbours need to know, and what is to be found only once.

        Args:
            left: As in `forward`.
            right: As in `forward`.
        """
        return look(left, right)

    def bend(self, earlier: Found, own: Found, later: Found) -> Tensor:
        """Tell how a motion bends, by that of the pairs before and after, evenly spaced in time.

        Args:
            earlier: What `look` finds of the frame before `left`, and `left`.
            own: Of `left` and `right`.
            later: Of `right` and the frame after it.

        Returns:
            (N, 2, h, w): `bending.bend`. Of either half of the time it is a quarter.
        """
        pairs = (earlier, own, later)
        found = bend(*(pair.motion[:, :2] for pair in pairs))
        for pair in pairs:
            # a motion from black, or across a cut, is found by chance
            found.masked_fill_(pair.shows_nothing | pair.explains_nothing, 0)
        return found

    def forward(
        self, left: Tensor, right: Tensor, tile: int | None = None, known: Known = UNKNOWN
    ) -> Tensor:
        """Predict the frame half way.

        Args:
            left: Earlier frames, (N, 3, H, W), RGB in [0, 1], any H and W; float32, or as the
                weights. A value that is not finite makes all of its pair's frame so.
            right: Later frames; shape, dtype and device of `left`.
            tile: Most pixels a side to work on at once (besides a halo); None for whole frames.
            known: Of all these pairs.

        Returns:
            (N, 3, H, W), same dtype; not clamped.

        Raises:
            ValueError: `left` and `right` are no frames of a pair, or of float64.
        """
        check_frames(left, right)
        if left.dtype == torch.float64:
            raise ValueError("frames are float32, or as the weights: these are float64")
        height, width = left.shape[-2:]
        # once for the whole frame, so that tiles agree with it
        pair = Pair.of(left, right, self.motions, known)
        made = in_tiles(
            partial(self._predict, pair),
            pair.left,
            pair.right,
            tile=tile,
            halo=self.halo,
            multiple=MULTIPLE,
        )
        return made[..., :height, :width] * pair.spread + pair.mean

    def _predict(self, pair: Pair, left: Tensor, right: Tensor, place: Place | None) -> Tensor:
        """Predict the middle of a pair, or of its pieces `left` and `right` at `place`."""
        piece = pair.piece(place, left)
        maps = self.head(self.trunk(piece.seen(self.head.weight.dtype)))
        made = resample(piece, 0, maps[:, :MAPS])
        if self.motions == 2:
            last = maps[:, 2 * MAPS : self.head.out_channels].to(left.dtype)
            share = torch.sigmoid(upsample(last, 2))
            made = made + share * (resample(piece, 1, maps[:, MAPS : 2 * MAPS]) - made)
        return hold(made, left, right, piece.fade, piece.standing)


class Fast(Aligned):
    """37,000 multiply-accumulates per pixel, operator included: a tenth of the 2017 network's."""

    bytes_per_pixel = 400
    frame_bytes_per_pixel = 68

    def __init__(self) -> None:
        """Build the network with random features and a neutral head."""
        super().__init__(1, (32, 64, 96, 128))


class Fine(Aligned):
    """147,000 multiply-accumulates per pixel, operator included: a third of the 2017 network's.

    It sees the pair as the motion of `Fast` moves it, and as that of even contrast does, which errs
    in other places; corrects and filters both, and mixes.
    """

    bytes_per_pixel = 700
    frame_bytes_per_pixel = 74

    def __init__(self) -> None:
        """Build the network with random features and a neutral head."""
        super().__init__(2, (64, 128, 192, 256))


def resample(piece: Piece, number: int, maps: Tensor) -> Tensor:
    """Move the frames, filter them and mix them.

    Args:
        piece: What of a pair is to be made.
        number: Of the motion to move them by.
        maps: (N, MAPS, H/2, W/2), zero for no change.

    Returns:
        (N, 3, H, W), normalised.
    """
    # in the frames' own precision, also where autocast has lowered the features'; at half
    # resolution: the operator enlarges them, so that no large maps are ever made
    dtype = piece.pair.left.dtype
    maps = shape_taps(maps, piece.change, TAPS, MOST_TAPS, dtype)
    residual, blend, taps = maps[:, :4], maps[:, 4:5], maps[:, 5:]
    # the network corrects the motion, in two pixels
    motion = piece.motions[number] + 2 * residual.float() * piece.change.float()
    border = [TAPS // 2] * 4
    left, right = (
        F.pad(frame, border, mode="replicate")
        for frame in piece.pair.moved(motion, "bicubic", piece.corner)
    )
    weight = torch.sigmoid(upsample(blend + piece.trust(number).to(blend.dtype), 2))
    return sepconv_pair(left, right, taps, weight)
