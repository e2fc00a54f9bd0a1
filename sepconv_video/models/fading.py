"""What makes one frame brighter than the next: a fade, a flash-light, a camera that adjusts itself.

The search for motion compares brightness, and where one frame is trusted more, what is made is as
bright as that one. So both are first brought to the light half way between them. Cells that show
the same in both, aligned by their texture alone, tell how much brighter one is: by a gain and an
offset of the whole frame, then by a gain of each row and column, as flickering lamps show as bands
where a sensor is read line by line, and of each place, where a lamp or a cloud moves.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sepconv_video.kernels.light import relight
from sepconv_video.kernels.motion import GENTLE, differ, search
from sepconv_video.models.alignment import (
    CELL,
    CONSTANTS,
    CONTRAST_WINDOW,
    LEAST_CELLS,
    unevenness,
)
from sepconv_video.models.blocks import beyond, box, halve, ramp, upsample, warp

SIDE = 16
"""Pixels of the cells that are compared, or less in small frames."""
COARSE = CONSTANTS._replace(steps=4)
"""How their motion is sought: roughly."""
DARK = 0.1
"""In normalised brightness: added before logarithms are taken."""
LINES = 3
"""Rows or columns of cells over which a band of light is told from what is thinner, as a fence."""
UNLIKE = 0.3
"""Cells whose textures differ by more, in units of their contrast, hardly count."""
NOISE = 0.01
"""In normalised brightness: what even the same cells differ by."""
LEAST_SPREAD = 0.001
"""In normalised brightness: added to that of frames, as flat ones have none."""
REFITS = 2
"""How often cells that fit badly are weighed less."""
MOST_GAIN = 8.0
"""Of a frame that is darker still nothing is to be seen."""
UNSURE, SURE = 0.9, 0.7
"""A gain and an offset are believed if they leave less than the first share of the differences, and
fully if they leave less than the second: where there is no fade they explain little."""
MOST_LEFT, LITTLE_LEFT = 0.3, 0.2
"""In normalised brightness: if more than the first is left of the differences, the cells do not lie
on top of each other at all; if less than the second is, they surely do."""
WINDOW = 7
"""Cells a side over which it is told how much brighter a place is."""
UNSURE_HERE, SURE_HERE = 0.5, 0.3
"""As `UNSURE` and `SURE`, for one place."""
LEAST_ALIKE, SURELY_ALIKE = 0.7, 0.85
"""How alike, 0 to 1, what both frames show there must be to count, and to count fully: something
white that comes into sight is no lamp."""
LEAST_KNOWN, SURELY_KNOWN = 0.65, 0.75
"""Likewise all of the frame: if little of it is found again, some of that is chance."""
LEAST_HERE, FULLY_HERE = 0.02, 0.04
"""A place is brighter if its gain is away from 1 by more than the first, fully by the second."""

Average = Callable[[Tensor], Tensor]
"""Of (N, C, H, W) over rows, columns, places or all of it; its height or width may become 1."""


class Fade(NamedTuple):
    """By how much the right frame of a pair is brighter: `gain * left + offset`."""

    gain: Tensor
    """(N, 3, h, w), for cells of some pixels; 1 where there is no fade."""
    offset: Tensor
    """(N, 3, h, w), in normalised brightness; 0 where there is no fade."""

    def even_out(self, left: Tensor, right: Tensor) -> None:
        """Bring frames, or their cells, (N, 3, H, W), to the light half way; they are overwritten.

        Where there is no fade they stay the same, bit for bit.
        """
        if self._is_none():
            return
        for_left, for_right = self.half_way()
        relight(left, *for_left)
        relight(right, *for_right)

    def undone(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Give frames that are in the light half way their own light again."""
        if self._is_none():
            return left, right
        for_left, for_right = self.half_way()
        return _undone(left, *for_left), _undone(right, *for_right)

    def _is_none(self) -> bool:
        """Whether nothing is to be done at all; a GPU would have to be waited for."""
        return self.gain.is_cpu and bool((self.gain == 1).all() and (self.offset == 0).all())

    def half_way(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Gain and offset of the left frame that bring it to the light half way; of the right."""
        half = (1 + self.gain) / 2
        back = half / self.gain
        return (half, self.offset / 2), (back, self.offset / 2 - self.offset * back)


@torch.no_grad()
def find_fade(cells: Tensor, black: Tensor) -> Fade:
    """Find how much brighter the right frames are.

    Args:
        cells: Both frames, `pair.in_cells`.
        black: In normalised brightness, (N, 1, 1, 1).
    """
    size = CELL
    while size < SIDE and min(cells.shape[-2:]) >= 4 * LEAST_CELLS:
        cells, size = halve(cells, GENTLE), 2 * size
    black = black.float()
    left, right, likeness = _compared(cells, black)
    gain, offset = _everywhere(left, right, likeness)
    left, right = gain * left + offset - black, right - black
    # light makes all brighter in proportion
    known = ramp(_by_all(likeness), LEAST_KNOWN, SURELY_KNOWN)
    # bands go all over a frame, so that they are judged by all of it
    for average, judge in ((_by_row, _by_all), (_by_column, _by_all), (_by_place, _by_place)):
        here = 1 + (_gain(left, right, likeness, average, judge) - 1) * known
        left = here * left
        gain, offset = here * gain, here * offset + black * (1 - here)
    return Fade(gain, offset)


def _by_row(maps: Tensor) -> Tensor:
    return maps.mean(3, keepdim=True)


def _by_column(maps: Tensor) -> Tensor:
    return maps.mean(2, keepdim=True)


def _by_all(maps: Tensor) -> Tensor:
    return maps.mean((2, 3), keepdim=True)


def _by_place(maps: Tensor) -> Tensor:
    return box(maps, WINDOW)


def _enlarged(maps: Tensor, frames: Tensor) -> Tensor:
    """Maps (N, 3, h, w) as large as frames, and of their precision."""
    return upsample(maps, frames.shape[-1] // maps.shape[-1]).to(frames.dtype)


def _undone(frames: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Take back what `Fade.even_out` does to frames."""
    return (frames - _enlarged(offset, frames)).div_(_enlarged(gain, frames))


def _everywhere(left: Tensor, right: Tensor, likeness: Tensor) -> tuple[Tensor, Tensor]:
    """Find one gain and one offset for each colour, (N, 3, 1, 1) each."""
    gain, offset = _fit(left, right, likeness)
    for _ in range(REFITS):
        misfit = _difference(gain * left + offset, right)
        usual = _mean(misfit, likeness) + NOISE
        gain, offset = _fit(left, right, likeness / (1 + (misfit / usual) ** 2))
    before = _mean(_difference(left, right), likeness)
    after = _mean(_difference(gain * left + offset, right), likeness)
    trust = ramp(after / before.clamp_(min=LEAST_SPREAD), UNSURE, SURE)
    trust *= ramp(after, MOST_LEFT, LITTLE_LEFT)
    return 1 + (gain - 1) * trust, offset * trust


def _gain(
    left: Tensor, right: Tensor, likeness: Tensor, average: Average, judge: Average
) -> Tensor:
    """Find by what gain (N, 3, H or 1, W or 1) the right frame is brighter, black being zero."""
    gain = _ratio(left, right, likeness, average)
    misfit = _difference(gain * left, right)
    usual = _weighed(misfit, likeness, average) + NOISE
    gain = _ratio(left, right, likeness / (1 + (misfit / usual) ** 2), average)
    before = _weighed(_difference(left, right), likeness, judge)
    after = _weighed(_difference(gain * left, right), likeness, judge)
    trust = ramp(after / (before + NOISE), UNSURE_HERE, SURE_HERE)
    trust = trust * ramp(average(likeness), LEAST_ALIKE, SURELY_ALIKE)
    return 1 + (gain - 1) * (trust * ramp((gain - 1).abs(), LEAST_HERE, FULLY_HERE))


def _compared(cells: Tensor, black: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both frames' cells, aligned, and how alike their textures are."""
    left, right = cells.chunk(2)
    gain, offset = _fit(left, right, torch.ones_like(left[:, :1]))
    bright = torch.cat((gain * left + offset - black, right - black))
    grids = [_without_bands(bright.clamp_(min=0).add_(DARK).log_())]
    while min(grids[-1].shape[-2:]) >= 2 * LEAST_CELLS:
        grids.append(halve(grids[-1], GENTLE))
    motion = torch.zeros_like(halve(grids[-1], GENTLE)[: len(cells) // 2, :2])
    for frames in reversed(grids):
        height, width = frames.shape[-2:]
        texture, texture_right = _texture(frames).chunk(2)
        motion = 2 * upsample(motion, 2)[..., :height, :width]
        motion = search(texture, texture_right, motion, COARSE)
    unlike = differ(texture, texture_right, [motion])
    likeness = 1 / (1 + (unlike / UNLIKE) ** 2)
    for way in (motion, -motion):  # what lies outside cannot be compared
        likeness *= beyond(way, *way.shape[-2:]) <= 0.5
    return warp(left, motion), warp(right, -motion), likeness


def _without_bands(maps: Tensor) -> Tensor:
    """Take off (N, C, H, W), logarithms, what is common to rows and to columns."""
    return maps - box(_by_row(maps), LINES) - box(_by_column(maps), LINES)


def _texture(frames: Tensor) -> Tensor:
    """What is left of (N, C, H, W) without the brightness around, as if all had one contrast."""
    around = box(frames, CONTRAST_WINDOW)
    return (frames - around) / unevenness(frames, around)


def _fit(left: Tensor, right: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a line through the brightness of cells (N, 3, H, W), by both axes alike.

    Returns:
        For each colour its gain and its offset, (N, 3, 1, 1) each.
    """
    centre, centre_right = _mean(left, weight), _mean(right, weight)
    squares = ((left - centre).square_(), (right - centre_right).square_())
    spread, spread_right = (_mean(square, weight).sqrt_() + LEAST_SPREAD for square in squares)
    gain = (spread_right / spread).clamp_(1 / MOST_GAIN, MOST_GAIN)
    return gain, centre_right - gain * centre


def _ratio(left: Tensor, right: Tensor, weight: Tensor, average: Average) -> Tensor:
    """Brightness of the right frame (N, 3, H, W), averaged, by that of the left one."""
    before, after = (average(frame * weight) + 2 * NOISE for frame in (left, right))
    return (after / before).clamp_(1 / MOST_GAIN, MOST_GAIN)


def _weighed(values: Tensor, weight: Tensor, average: Average) -> Tensor:
    """Average of (N, 1, H, W), weighed."""
    return average(values * weight) / (average(weight) + LEAST_SPREAD)


def _difference(left: Tensor, right: Tensor) -> Tensor:
    """Mean absolute difference over the channels, (N, C, H, W) to (N, 1, H, W)."""
    return (left - right).abs_().mean(1, keepdim=True)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Average of each channel of (N, C, H, W), weighed by (N, 1, H, W): (N, C, 1, 1)."""
    total = weight.sum((2, 3), keepdim=True).clamp_(min=1e-6)
    return (values * weight).sum((2, 3), keepdim=True) / total
