"""What is known of a pair of frames before a network sees it: light, motion, and what stands still.

All of it is found without training. A network then works on pieces of a pair.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from sepconv_video.kernels.light import normalise
from sepconv_video.kernels.motion import Mode, differ, gather
from sepconv_video.models.alignment import (
    CELL,
    better_motion,
    coarse_motions,
    correct_by_pixels,
    find_motions,
)
from sepconv_video.models.bending import Found, Known
from sepconv_video.models.blocks import (
    beyond,
    box,
    halve,
    length,
    more_for_eights,
    ramp,
    shrink,
    upsample,
    warp,
)
from sepconv_video.models.fading import Fade, find_fade
from sepconv_video.models.matching import follow_small
from sepconv_video.models.standing import ANYTHING, standing
from sepconv_video.models.tiles import Place

FRAME = 3 * CELL**2
"""Channels of a moved frame at half resolution."""
SEEN = 2 * FRAME + 2
"""What a network sees of a pair moved by a motion, and of the motion."""
MULTIPLE = 16
"""Height and width inside the network are multiples of this."""
STILL = 0.01
"""Normalised frames that differ by less, some half a level of 255, count as the same."""
STILL_CELL, STILL_CELLS = 4, 5
"""Whether frames differ is asked for cells of so many pixels, and so many cells around."""
LEAST_TURN = 0.25
"""A motion turns back where it bends by so many pixels more than it moves."""
MOTION_UNIT = 16
"""The network sees motion in units of so many pixels."""
MOST_SHOWN = 24.0
"""Motion is shortened to so many pixels for the network: it had seen little of more, and blurred
what moves further."""
MOST_BRIGHT = 4.0
"""Normalised brightness that the network sees at most: it had never seen the 30 that a lamp in the
night has, where nearly all is black, and tore it to pieces."""
LEAST_FAR, SURELY_FAR = 16, 24
"""Pixels of motion: from the first on, fully from the second on, the network is helped where one of
the frames does not show what is to be made. It cannot know how far beyond the edge that lies."""
HELP = 2.0
"""How much more the other frame is trusted there, as the logarithm of the odds."""
FLAT = 0.08
"""A frame whose deviation is a smaller share of the other one's shows nothing, as before a fade."""
UNEXPLAINED = 0.4
"""What the coarse motion may leave of normalised frames, on average. Of 672 pairs within shots of
train and val, two to four frames apart, one leaves more, of 384 cuts between such shots all but 35,
most of which are of one camera."""
LEVEL = 1 / 255
"""Noise of a black frame, which is taken off its deviation."""


class Pair(NamedTuple):
    """Two frames, normalised by the same numbers, and what is known of them."""

    left: Tensor
    """(N, 3, H, W), as is `right`; both in the light half way between them."""
    right: Tensor
    mean: Tensor
    """What was taken off them first, and what they were divided by then, (N, 1, 1, 1)."""
    spread: Tensor
    fade: Fade
    """What was evened out."""
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
            left: Frames, (N, 3, H, W), any H and W.
            right: Likewise.
            motions: How many.
            known: What is known of them already.
        """
        own = known.found
        mean, spread = brightness(left, right) if own is None else (own.mean, own.spread)
        first, second = normalised(left, right, mean, spread)
        cells = in_cells(left, right, mean, spread)
        fade = find_fade(cells, -mean / spread) if own is None else Fade(own.gain, own.offset)
        fade.even_out(first, second)
        change = changed(first, second)
        lit, coarse = _in_one_light(cells.clone(), fade), None if own is None else own.motion
        found = _found_by_cells(lit, coarse, motions)
        del lit
        # in their own light, as captions do not fade
        stands = standing(cells, found[0])
        nothing = _shows_nothing(cells, spread) if own is None else own.shows_nothing
        del cells
        found = [correct_by_pixels(first, second, motion) for motion in found]
        held = [motion * change.float() for motion in found]
        begun = first, second, mean, spread, fade
        if known.bend is None:
            even = tuple(torch.cat((one, -one), 1) for one in held)
            return cls(*begun, even, change, stands.masked_fill_(nothing, ANYTHING))
        height, width = change.shape[-2:]
        # both frames show it so far from where even motion would have it
        bend = upsample(known.bend, 2)[..., :height, :width] * change.float()
        bent = tuple(torch.cat((one - bend, -one - bend), 1) for one in held)
        # what turned back stands where it stood, but was elsewhere meanwhile
        turned = length(bend) > length(held[0]) + LEAST_TURN
        stands = stands.masked_fill(turned, 0)
        return cls(*begun, bent, change, stands.masked_fill_(nothing, ANYTHING))

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
            return Piece(self, self.motions, self.change, self.standing, self.fade, (0, 0))

        def cut(maps: Tensor) -> Tensor:
            side = self.left.shape[-1] // maps.shape[-1]
            rows, columns = (
                slice(start // side, (start + size) // side)
                for start, size in zip((place.top, place.left), like.shape[-2:], strict=True)
            )
            return maps[..., rows, columns]

        change, stands, gain, offset, *motions = map(
            cut, (self.change, self.standing, *self.fade, *self.motions)
        )
        corner = (place.top, place.left)
        return Piece(self, tuple(motions), change, stands, Fade(gain, offset), corner)


def look(left: Tensor, right: Tensor) -> Found:
    """Find of frames (N, 3, H, W) what `bending.Found` says."""
    mean, spread = brightness(left, right)
    cells = in_cells(left, right, mean, spread)
    fade, nothing = find_fade(cells, -mean / spread), _shows_nothing(cells, spread)
    lit = _in_one_light(cells, fade)
    motion = coarse_motions(lit)
    return Found(motion, mean, spread, *fade, nothing, _explains_nothing(lit, motion))


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
    fade: Fade
    corner: tuple[int, int]
    """Its first row and column."""

    def seen(self, dtype: torch.dtype) -> Tensor:
        """What a network of `dtype` looks at: the frames as each motion moves them, and motions."""
        (left, right), count = self.pair[:2], len(self.motions)
        (N, _, height, width), frames = self.motions[0].shape, 2 * FRAME * count
        channels = SEEN * count + more_for_eights(SEEN * count, left)
        maps = torch.empty(
            (N, channels, height, width),
            dtype=torch.float32 if left.is_cpu else left.dtype,
            device=left.device,
            memory_format=torch.channels_last,
        )
        ways = [(left, motion[:, :2]) for motion in self.motions]
        ways += [(right, motion[:, 2:]) for motion in self.motions]
        for (frame, way), moved in zip(ways, torch.split(maps[:, :frames], FRAME, 1), strict=True):
            gather(frame, way, self.corner, moved)
        maps[:, :frames].clamp_(-MOST_BRIGHT, MOST_BRIGHT)
        shown = [_shown(motion[:, :2]) for motion in self.motions]
        maps[:, frames : SEEN * count] = torch.cat(shown, 1)
        maps[:, SEEN * count :] = 0
        return maps.to(dtype)

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


def _shows_nothing(cells: Tensor, spread: Tensor) -> Tensor:
    """Whether one frame of a pair is flat beside the other one, and tells no motion: (N, 1, 1, 1).

    Such as black before a fade: what is found is there by chance, and the mean of both is right.
    """
    noise = LEVEL / spread.float()
    variances = cells.var((1, 2, 3), keepdim=True).chunk(2)
    left, right = ((one - noise.square()).clamp_(min=0).sqrt_() for one in variances)
    # a little more, as two that are flat are alike
    least, most = (pick(left, right) + noise / 8 for pick in (torch.minimum, torch.maximum))
    return least < FLAT * most


def _explains_nothing(cells: Tensor, motion: Tensor) -> Tensor:
    """Whether the coarse motion (N, 4, h, w) of pairs leaves so much that it means nothing.

    As across a cut that nobody has found: (N, 1, 1, 1).
    """
    left, right = halve(cells).chunk(2)
    rest = differ(left, right, [motion[:, :2].contiguous()])
    return rest.mean((1, 2, 3), keepdim=True) > UNEXPLAINED


def _shown(motion: Tensor) -> Tensor:
    """Motion (N, 2, H, W) in the network's unit, shortened to MOST_SHOWN."""
    return motion / length(motion).clamp_(min=MOST_SHOWN) * (MOST_SHOWN / MOTION_UNIT)


def brightness(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each pair of frames (N, 3, H, W) and how far it spreads, (N, 1, 1, 1)."""
    left, right = left.contiguous(), right.contiguous()  # or the order of sums would be another
    count = 2 * left[0].numel()
    # by rows first, then of more digits: so it is the same for a pair, whatever comes beside it
    rows = torch.cat([some.sum(3, dtype=torch.float32) for some in (left, right)], 1)
    norms = [torch.linalg.vector_norm(some, 2, 3, dtype=torch.float32) for some in (left, right)]
    squares = torch.cat(norms, 1).square_()
    total, power = (torch.sum(some, (1, 2), dtype=torch.float64) for some in (rows, squares))
    mean = total / count
    variance = (power - count * mean.square()) / (count - 1)
    # the small constant keeps a flat pair from being blown up into noise
    spread = variance.clamp_(min=0).sqrt_() + 0.02
    mean, spread = (some.to(left.dtype).view(-1, 1, 1, 1) for some in (mean, spread))
    return mean, spread


def normalised(left: Tensor, right: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Bring frames to mean 0 and spread 1, as in SepConv++, and to a multiple of MULTIPLE."""
    made = left.new_empty(2, *left.shape[:2], *_padded(left))
    first, second = made
    for frames, own in ((left, first), (right, second)):
        normalise(frames, mean, spread, own, 1)
    return first, second


def in_cells(left: Tensor, right: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Reduce frames, `normalised` as well, to what their motion is found by.

    Returns:
        (2*N, 3, H/CELL, W/CELL) of a multiple of MULTIPLE, the left ones first; float32.
    """
    sizes = (side // CELL for side in _padded(left))
    made = left.new_empty(2 * len(left), left.shape[1], *sizes, dtype=torch.float32)
    for frames, own in zip((left, right), made.chunk(2), strict=True):
        normalise(frames, mean, spread, own, CELL)
    return made


def _padded(frames: Tensor) -> tuple[int, int]:
    """Height and width of frames (N, C, H, W), rounded up to a multiple of MULTIPLE."""
    height, width = (side + -side % MULTIPLE for side in frames.shape[2:])
    return height, width


def changed(left: Tensor, right: Tensor) -> Tensor:
    """Tell where normalised frames (N, 3, H, W) differ: (N, 1, H/2, W/2), 0 to 1.

    Whatever the network thinks, it may touch nothing where nothing changes: a still that came
    back sharpened or shifted by a hair would flicker between its source frames.
    """
    cells = shrink((left - right).abs().mean(1, keepdim=True), STILL_CELL)
    return upsample(1 - torch.exp(-box(cells, STILL_CELLS) / STILL), STILL_CELL // CELL)
