"""What makes one frame brighter than the next: a fade, a flash, an iris or a camera that adjusts.

The search for motion compares brightness, and what is made where one frame is trusted more is as
bright as that one. So both are first brought to the light half way between them, if a gain and an
offset make one as bright as the other. These are told by cells that show the same in both, which
are found by their texture alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sepconv_video.kernels.motion import search
from sepconv_video.models.alignment import (
    CELL,
    CONSTANTS,
    CONTRAST_WINDOW,
    LEAST_CELLS,
    LEAST_CONTRAST,
)
from sepconv_video.models.blocks import beyond, box, halve, ramp, upsample, warp

SIDE = 16
"""Pixels of the cells that are compared, or less in small frames."""
COARSE = CONSTANTS._replace(steps=4)
"""How their motion is sought: roughly."""
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
"""Share of the differences that is left, from which down, and from which down fully, all this is
believed: where there is no fade a line explains few of them."""


class Fade(NamedTuple):
    """By how much the right frame of a pair is brighter: `gain * left + offset`."""

    gain: Tensor
    """(N, 1, 1, 1); 1 where there is no fade."""
    offset: Tensor
    """(N, 1, 1, 1), in normalised brightness; 0 where there is no fade."""

    def even_out(self, left: Tensor, right: Tensor) -> None:
        """Bring frames, or their cells, (N, C, H, W), to the light half way; they are overwritten.

        Where there is no fade they stay the same, bit for bit.
        """
        gain, offset, half = self._numbers(left.dtype)
        left.mul_(half).add_(offset / 2)
        right.sub_(offset).mul_(half / gain).add_(offset / 2)

    def undone(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Give frames that are in the light half way their own light again."""
        gain, offset, half = self._numbers(left.dtype)
        left, right = (frame - offset / 2 for frame in (left, right))
        return left.div_(half), right.mul_(gain / half).add_(offset)

    def _numbers(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The gain, the offset, and the gain from the left frame to half way."""
        gain, offset = self.gain.to(dtype), self.offset.to(dtype)
        return gain, offset, (1 + gain) / 2


@torch.no_grad()
def find_fade(cells: Tensor) -> Fade:
    """Find the gain and the offset that make the left frames as bright as the right ones.

    Args:
        cells: Both frames, `alignment.in_cells`.
    """
    size = CELL
    while size < SIDE and min(cells.shape[-2:]) >= 4 * LEAST_CELLS:
        cells, size = halve(cells), 2 * size
    left, right, likeness = _compared(cells)
    gain, offset = _fit(left, right, likeness)
    for _ in range(REFITS):
        misfit = _difference(gain * left + offset, right)
        usual = _mean(misfit, likeness) + NOISE
        gain, offset = _fit(left, right, likeness / (1 + (misfit / usual) ** 2))
    before = _mean(_difference(left, right), likeness)
    after = _mean(_difference(gain * left + offset, right), likeness)
    trust = ramp(after / before.clamp_(min=LEAST_SPREAD), UNSURE, SURE)
    return Fade(1 + (gain - 1) * trust, offset * trust)


def _compared(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both frames' cells as they lie on top of each other, and how alike their textures are."""
    grids = [cells]
    while min(grids[-1].shape[-2:]) >= 2 * LEAST_CELLS:
        grids.append(halve(grids[-1]))
    motion = torch.zeros_like(halve(grids[-1])[: len(cells) // 2, :2])
    for frames in reversed(grids):
        height, width = frames.shape[-2:]
        texture, texture_right = _texture(frames).chunk(2)
        motion = 2 * upsample(motion, 2)[..., :height, :width]
        motion = search(texture, texture_right, motion, COARSE)
    left, right = cells.chunk(2)
    unlike = _difference(warp(texture, motion), warp(texture_right, -motion))
    likeness = 1 / (1 + (unlike / UNLIKE) ** 2)
    for way in (motion, -motion):  # what lies outside cannot be compared
        likeness *= beyond(way, *way.shape[-2:]) < 0
    return warp(left, motion), warp(right, -motion), likeness


def _texture(frames: Tensor) -> Tensor:
    """What is left of (N, C, H, W) without the brightness around, as if all had one contrast."""
    texture = frames - box(frames, CONTRAST_WINDOW)
    contrast = box(texture.square().mean(1, keepdim=True), CONTRAST_WINDOW).sqrt_()
    return texture / (contrast + LEAST_CONTRAST)


def _fit(left: Tensor, right: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a line through the brightness of cells (N, C, H, W), by both axes alike.

    Returns:
        Its gain and its offset, (N, 1, 1, 1) each.
    """
    centre, centre_right = _mean(left, weight), _mean(right, weight)
    squares = ((left - centre).square_(), (right - centre_right).square_())
    spread, spread_right = (_mean(square, weight).sqrt_() + LEAST_SPREAD for square in squares)
    gain = (spread_right / spread).clamp_(1 / MOST_GAIN, MOST_GAIN)
    return gain, centre_right - gain * centre


def _difference(left: Tensor, right: Tensor) -> Tensor:
    """Mean absolute difference over the channels, (N, C, H, W) to (N, 1, H, W)."""
    return (left - right).abs_().mean(1, keepdim=True)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """(N, C, H, W), weighed by (N, 1, H, W), to (N, 1, 1, 1)."""
    total = (values.mean(1, keepdim=True) * weight).sum((1, 2, 3), keepdim=True)
    return total / weight.sum((1, 2, 3), keepdim=True).clamp_(min=1e-6)
