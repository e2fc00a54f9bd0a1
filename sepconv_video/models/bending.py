"""How a motion bends: what the frames before and after a pair tell of its middle.

Between two frames an even motion is all that can be assumed. A hand that turns back, a swing, a
handheld camera move otherwise: half way they are off by an eighth of the change of their speed from
frame to frame (Xu et al., Quadratic Video Interpolation, NeurIPS 2019).
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from sepconv_video.models.alignment import CELL
from sepconv_video.models.blocks import box, warp

WINDOW = 5
"""Cells a side, of twice the size of those that motion is found on, over which is averaged."""
DISTRUST = 0.7
"""Weight of how the change of speed changes, against that change of speed."""
LEAST_BEND = 0.05
"""Pixels: less is not believed."""


class Found(NamedTuple):
    """What was found of some pairs of frames: for those beside them, and to be found only once."""

    motion: Tensor
    """(N, 4, h, w): `alignment.coarse_motions`."""
    mean: Tensor
    """(N, 1, 1, 1), as is the next one: `pair.Pair`."""
    spread: Tensor
    gain: Tensor
    """(N, 3, h, w), as is the next one: `fading.Fade`."""
    offset: Tensor
    shows_nothing: Tensor
    """(N, 1, 1, 1): whether one of the frames is flat, such as black, and the motion by chance."""
    explains_nothing: Tensor
    """(N, 1, 1, 1): whether the motion is by chance as the frames are of unlike scenes."""

    def each(self) -> list[Self]:
        """What was found of each of them."""
        count = len(self.motion)
        return [type(self)(*one) for one in zip(*(maps.chunk(count) for maps in self), strict=True)]

    @classmethod
    def joined(cls, some: Iterable[Self]) -> Self:
        """What was found of several."""
        return cls(*map(torch.cat, zip(*some, strict=True)))


class Known(NamedTuple):
    """What is known of some pairs of frames before their middles are made."""

    found: Found | None = None
    """What `Bending.look` found."""
    bend: Tensor | None = None
    """What `Bending.bend` found."""


UNKNOWN = Known()


@runtime_checkable
class Bending(Protocol):
    """A network that makes use of the frames before and after a pair, if there are any."""

    def look(self, left: Tensor, right: Tensor) -> Found:
        """Find of pairs (N, 3, H, W) what their neighbours need to know."""

    def bend(self, earlier: Found, own: Found, later: Found) -> Tensor:
        """Tell how the motion of pairs bends, by that of those before and after.

        Over either half of the time it bends a quarter as much.
        """

    def __call__(
        self, left: Tensor, right: Tensor, tile: int | None = None, known: Known = UNKNOWN
    ) -> Tensor:
        """Predict the frame half way, by what is known of these pairs."""


@torch.no_grad()
def bend(earlier: Tensor, own: Tensor, later: Tensor) -> Tensor:
    """Tell how far what is half way between two frames is from where even motion would have it.

    Through the places of something in four frames, evenly spaced in time, goes a cubic. Half way
    between the second and the third it is away from their mean by a sixteenth of the change from
    the first to the last of the three steps. If the steps change evenly, the second one is the
    mean of the other two: by how much it is not tells how far to trust all this.

    Args:
        earlier: Motion of the pair before, (N, 2, h, w), as `alignment.coarse_motions` finds it by
            levelled frames.
        own: Of the pair itself, likewise.
        later: Of the pair after it.

    Returns:
        (N, 2, h, w), pixels, horizontal then vertical.
    """
    # of the same thing, which is `own` away in the frame that two pairs share
    before = warp(earlier, own + warp(earlier, 2 * own))
    after = warp(later, -own - warp(later, -2 * own))
    # the motion from frame to frame is -2 of these
    change = (after - before) / 8
    surplus = (after - 2 * own + before) / 8
    mean = box(change, WINDOW)
    size, doubt = _square(mean), box(_square(surplus), WINDOW)
    least = (LEAST_BEND / (2 * CELL)) ** 2
    return mean * (size / (size + DISTRUST * doubt + least)) * (2 * CELL)


def _square(vectors: Tensor) -> Tensor:
    """(N, 2, H, W) to the square of their length, (N, 1, H, W)."""
    return vectors.square().sum(1, keepdim=True)
