"""`fast`: our own network, adaptive separable convolution small enough for a CPU.

SepConv's 51 taps serve two purposes at once: most of them only reach for the moving object,
a few of them resample it. Here the window is moved to the object first, by a motion that
`alignment` finds, and 11 separable taps per pixel and direction do the resampling: a twentieth of
the operator's arithmetic, and a reach that depends on the frame's size alone. The network looks at
the frames as they are moved on top of each other: what is left for it are the outlines, what only
one of the frames shows, and a fraction of a pixel. Where the frames before and after are known,
`bending` tells where the middle is.
"""

from functools import partial
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import planar, sepconv_pair
from sepconv_video.kernels.motion import Mode
from sepconv_video.models.alignment import (
    CELL,
    better_motion,
    coarse_motions,
    correct_by_pixels,
    find_motions,
    in_cells,
)
from sepconv_video.models.bending import UNKNOWN, Known, bend
from sepconv_video.models.blocks import (
    ResidualBlock,
    absolute_sum,
    beyond,
    box,
    conv_act,
    length,
    pad_to_multiple,
    ramp,
    shrink,
    side_by_side,
    upsample,
    warp,
    zero_conv,
)
from sepconv_video.models.fading import Fade, find_fade
from sepconv_video.models.matching import follow_small
from sepconv_video.models.standing import hold, standing
from sepconv_video.models.tiles import Place, in_tiles

TAPS = 11
MOST_TAPS = 2.0
"""Absolute sum of what taps differ from the unit impulse by, at most; in real clips 99 % have less
than 1.2. Where no motion explains the frames (a zoom that blurs all), 20 made ripples."""
STILL = 0.01
"""Normalised frames that differ by less, some half a level of 255, count as the same."""
STILL_CELL, STILL_CELLS = 4, 5
"""Whether frames differ is asked for cells of so many pixels, and so many cells around."""
LEAST_TURN = 0.25
"""Pixels that a motion is to bend by more than it moves, to be one that turns back."""
MULTIPLE = 16
"""Height and width inside the network are multiples of this."""
MAPS = 4 + 1 + 4 * TAPS
"""What is predicted of a pixel: a correction of both motions, which frame to trust, the taps."""
SEEN = 2 * 12 + 2
"""What is seen of a pixel at half resolution: four of each moved frame, and the motion."""
MOTION_UNIT = 16
"""Motion is shown to the network in this many pixels."""
MOST_SHOWN = 24.0
"""Pixels of motion that it is shown at most: of more it had seen little in training, and blurred
what moves further."""
LEAST_FAR, SURELY_FAR = 16, 24
"""Pixels of motion from which on, and from which on fully, it is helped where one of the frames
does not show what is to be made: it cannot know how far that lies beyond the edge."""
HELP = 2.0
"""By how much, as the logarithm of the odds."""


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
        at8 = self.refine8(upsample(self.up8(self.down16(at8)), 2).add_(at8))
        at4 = self.refine4(upsample(self.up4(at8), 2).add_(at4))
        features: Tensor = self.refine2(upsample(self.up2(at4), 2).add_(at2))
        return features


class Pair(NamedTuple):
    """Two normalised frames, and what is known of them before the network sees them."""

    left: Tensor
    """(N, 3, H, W), as is `right`; both in the light half way between them."""
    right: Tensor
    fade: Fade
    motions: tuple[Tensor, ...]
    """One or two, (N, 4, H/2, W/2) pixels each: x and y of the left frame, then of the right;
    float32."""
    change: Tensor
    """(N, 1, H/2, W/2), 0 to 1: whether they differ at all."""
    standing: Tensor
    """(N, 1, H/2, W/2): `standing.standing`."""

    @classmethod
    def of(cls, left: Tensor, right: Tensor, motions: int, known: Known) -> Self:
        """Find the better motion, and (2) that by even contrast; zero where nothing changes.

        Args:
            left: Normalised frames, (N, 3, H, W); overwritten.
            right: Likewise.
            motions: How many.
            known: What is known of them already.
        """
        cells = in_cells(left, right)
        fade = find_fade(cells)
        fade.even_out(left, right)
        change = changed(left, right)
        found = _found_by_cells(_in_one_light(cells.clone(), fade), known.motion, motions)
        # captions do not fade
        stands = standing(cells, found[0])
        del cells
        found = [correct_by_pixels(left, right, motion) for motion in found]
        held = [motion * change.float() for motion in found]
        if known.bend is None:
            even = tuple(torch.cat((one, -one), 1) for one in held)
            return cls(left, right, fade, even, change, stands)
        height, width = change.shape[-2:]
        # both frames' content is so far from where it is to be, and is fetched from there
        bend = upsample(known.bend, 2)[..., :height, :width] * change.float()
        bent = tuple(torch.cat((one - bend, -one - bend), 1) for one in held)
        # what turned back stands where it stood, but was elsewhere meanwhile
        turned = length(bend) > length(held[0]) + LEAST_TURN
        return cls(left, right, fade, bent, change, stands.masked_fill(turned, 0))

    def moved(
        self, motion: Tensor, mode: Mode = "bilinear", corner: tuple[int, int] = (0, 0)
    ) -> tuple[Tensor, Tensor]:
        """Both frames as they are in the middle, by motion (N, 4, h/2, w/2): (N, 3, h, w) each."""
        left, right = motion.chunk(2, 1)
        return (
            warp(self.left, left, mode, corner, CELL),
            warp(self.right, right, mode, corner, CELL),
        )

    def piece(self, place: Place | None, like: Tensor) -> "Piece":
        """Cut out what lies at `place` and is as large as `like`; None for all."""
        if place is None:
            return Piece(self, self.motions, self.change, self.standing, (0, 0))
        top, left = place.top // CELL, place.left // CELL
        rows = slice(top, top + like.shape[-2] // CELL)
        columns = slice(left, left + like.shape[-1] // CELL)
        change, stands, *motions = (
            maps[..., rows, columns] for maps in (self.change, self.standing, *self.motions)
        )
        return Piece(self, tuple(motions), change, stands, (place.top, place.left))


def _in_one_light(cells: Tensor, fade: Fade) -> Tensor:
    """Both frames' cells in the light half way; they are overwritten."""
    fade.even_out(*cells.chunk(2))
    return cells


def _found_by_cells(cells: Tensor, coarse: Tensor | None, count: int) -> list[Tensor]:
    """The first so many of the better motion and that by even contrast."""
    levelled, evened = find_motions(cells, coarse)
    found = [better_motion(cells, (levelled, evened)), evened][:count]
    return [follow_small(cells, motion) for motion in found]


class Piece(NamedTuple):
    """What is to be made of a pair at once, H x W pixels of it."""

    pair: Pair
    motions: tuple[Tensor, ...]
    """(N, 4, H/2, W/2) each, as `Pair.motions`."""
    change: Tensor
    """(N, 1, H/2, W/2), as `Pair.change`."""
    standing: Tensor
    """(N, 1, H/2, W/2), as `Pair.standing`."""
    corner: tuple[int, int]
    """Its first row and column."""

    def seen(self, dtype: torch.dtype) -> Tensor:
        """What a network of `dtype` looks at: the frames as each motion moves them, and motions."""
        moved = [self.pair.moved(motion, corner=self.corner) for motion in self.motions]
        lefts, rights = zip(*moved, strict=True)
        frames = [F.pixel_unshuffle(frame, 2).to(dtype) for frame in lefts + rights]
        motions = [_shown(motion[:, :2]).to(dtype) for motion in self.motions]
        return side_by_side(frames + motions)

    def trust(self, number: int) -> Tensor:
        """How far to trust the left frame more than the right one: (N, 1, H/2, W/2), +-HELP.

        It is 0 but where a motion, the one of that number, is far and leads out of one of them.
        """
        height, width = self.pair.change.shape[-2:]
        corner = self.corner[0] // CELL, self.corner[1] // CELL
        motion = self.motions[number] / CELL
        left, right = (
            beyond(way, height, width, corner).clamp_(0, 1) for way in motion.chunk(2, 1)
        )
        far = ramp(length(motion[:, :2]) * CELL, LEAST_FAR, SURELY_FAR)
        return right.sub_(left).mul_(far).mul_(HELP)


class Aligned(nn.Module):
    """The design that our networks share; they differ in size, and in how motion is found."""

    halo = 160
    bf16_suffices = True
    """Nothing is seen of it where the features have the 8 bits of bf16; the frames have more."""

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

    def motion(self, left: Tensor, right: Tensor) -> Tensor:
        """Find the motion of pairs, as far as their neighbours need to know it.

        Args:
            left: As in `forward`.
            right: As in `forward`.

        Returns:
            (N, 4, h, w): `alignment.coarse_motions`.
        """
        first, second, _, _ = normalised(left, right)
        cells = in_cells(first, second)
        return coarse_motions(_in_one_light(cells, find_fade(cells)))

    def bend(self, earlier: Tensor, own: Tensor, later: Tensor) -> Tensor:
        """Tell how a motion bends, by that of the pairs before and after, evenly spaced in time.

        Args:
            earlier: What `motion` finds of the frame before `left`, and `left`.
            own: Of `left` and `right`.
            later: Of `right` and the frame after it.

        Returns:
            (N, 2, h, w): `bending.bend`. Of either half of the time it is a quarter.
        """
        return bend(*(motion[:, :2] for motion in (earlier, own, later)))

    def forward(
        self, left: Tensor, right: Tensor, tile: int | None = None, known: Known = UNKNOWN
    ) -> Tensor:
        """Predict the frame half way.

        Args:
            left: Earlier frames, (N, 3, H, W), RGB in [0, 1], any H and W; float32, or as the
                weights.
            right: Later frames; shape, dtype and device of `left`.
            tile: Most pixels a side to work on at once (besides a halo); None for whole frames.
            known: Of all these pairs.

        Returns:
            (N, 3, H, W), same dtype; not clamped.
        """
        height, width = left.shape[-2:]
        # once for the whole frame, so that tiles are the same as it; so is the motion
        first, second, mean, spread = normalised(left, right)
        pair = Pair.of(first, second, self.motions, known)
        made = in_tiles(
            partial(self._predict, pair),
            pair.left,
            pair.right,
            tile=tile,
            halo=self.halo,
            multiple=MULTIPLE,
        )
        return made[..., :height, :width] * spread + mean

    def _predict(self, pair: Pair, left: Tensor, right: Tensor, place: Place | None) -> Tensor:
        """Predict the middle of a pair, or of its pieces `left` and `right` at `place`."""
        piece = pair.piece(place, left)
        maps = self.head(self.trunk(piece.seen(self.head.weight.dtype)))
        maps = maps[:, : self.head.out_channels]
        # in the frames' own precision, also where autocast has lowered the features'
        maps = planar(maps, left.new_empty(maps.shape))
        made = resample(piece, 0, maps[:, :MAPS])
        if self.motions == 2:
            share = torch.sigmoid(upsample(maps[:, 2 * MAPS :], 2))
            made = made + share * (resample(piece, 1, maps[:, MAPS : 2 * MAPS]) - made)
        return hold(made, *pair.fade.undone(left, right), piece.standing)


class Fast(Aligned):
    """About 37,000 multiply-accumulates per pixel, a tenth of the 2017 network's."""

    bytes_per_pixel = 400
    frame_bytes_per_pixel = 68

    def __init__(self) -> None:
        """Build the network with random features and a neutral head."""
        super().__init__(1, (32, 64, 96, 128))


def _shown(motion: Tensor) -> Tensor:
    """Motion (N, 2, H, W) in the network's unit, shortened to MOST_SHOWN."""
    return motion / length(motion).clamp_(min=MOST_SHOWN) * (MOST_SHOWN / MOTION_UNIT)


def resample(piece: Piece, number: int, maps: Tensor) -> Tensor:
    """Move the frames, filter them and mix them.

    Args:
        piece: What of a pair is to be made.
        number: Of the motion to move them by.
        maps: (N, MAPS, H/2, W/2), zero for no change; overwritten.

    Returns:
        (N, 3, H, W), normalised.
    """
    residual, blend, taps = maps[:, :4], maps[:, 4:5], maps[:, 5:]
    # what the network thinks of the motion, in two pixels
    motion = piece.motions[number] + 2 * residual.float() * piece.change.float()
    border = [TAPS // 2] * 4
    left, right = (
        F.pad(frame, border, mode="replicate")
        for frame in piece.pair.moved(motion, "bicubic", piece.corner)
    )
    weight = torch.sigmoid(upsample(blend + piece.trust(number).to(blend.dtype), 2))
    # at half resolution: the operator enlarges them, so that no large maps are ever made
    normalise_taps(taps.view(len(taps), 4, TAPS, *taps.shape[2:]), piece.change[:, None])
    return sepconv_pair(left, right, taps, weight)


def normalised(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bring frames to mean 0 and spread 1, as in SepConv++, and to a multiple of MULTIPLE.

    Returns:
        Both frames, and mean and spread of each pair, (N, 1, 1, 1).
    """
    pair = torch.cat((left, right), 1).float()
    # the small constant keeps a flat pair from being blown up into noise
    mean, spread = pair.mean((1, 2, 3), keepdim=True), pair.std((1, 2, 3), keepdim=True) + 0.02
    mean, spread = mean.to(left.dtype), spread.to(left.dtype)
    first, second = (
        pad_to_multiple((frames - mean).div_(spread), MULTIPLE) for frames in (left, right)
    )
    return first, second, mean, spread


def changed(left: Tensor, right: Tensor) -> Tensor:
    """Tell where normalised frames (N, 3, H, W) differ: (N, 1, H/2, W/2), 0 to 1.

    Whatever the network thinks, it may touch nothing where nothing changes: a still that came
    back sharpened or shifted by a hair would flicker between its source frames.
    """
    cells = shrink((left - right).abs().mean(1, keepdim=True), STILL_CELL)
    return upsample(1 - torch.exp(-box(cells, STILL_CELLS) / STILL), STILL_CELL // CELL)


def normalise_taps(taps: Tensor, change: Tensor) -> None:
    """Make the taps (..., K, H, W) sum to one: the unit impulse plus a part that sums to zero.

    Flat regions so keep their brightness exactly, without a division that could blow up,
    and negative taps, which sharpen, stay possible. They are overwritten.

    Args:
        taps: What was predicted.
        change: (..., 1, H, W), 0 to 1: how much of the part that sums to zero there is to be.
    """
    taps -= taps.mean(-3, keepdim=True)
    with torch.no_grad():
        size = absolute_sum(taps)
        share = torch.minimum(change.to(taps.dtype), MOST_TAPS / size)
    taps *= share
    taps[..., taps.shape[-3] // 2, :, :] += 1
