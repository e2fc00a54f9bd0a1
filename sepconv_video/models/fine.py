"""`fine`: our network for a GPU, or for patience: the mean of two looks that err in other places.

The second look is shown the pair the other way about in space and time, on other cells, and finds
the motion in two ways. (Self-ensembling: +0.18 dB for SepConv++, Niklaus et al., WACV 2021.)
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.models.fast import Fast

SHIFT = 6
"""Pixels by which the second look is moved: no whole cell of any grid but the two finest."""


class Fine(nn.Module):
    """Two networks like `Fast`, one after the other, each with weights of its own."""

    halo = Fast.halo
    bytes_per_pixel = Fast.bytes_per_pixel
    frame_bytes_per_pixel = Fast.frame_bytes_per_pixel + 40
    """Besides those of a look, the turned frames, and what the first look saw."""

    def __init__(self) -> None:
        """Build both with random features and neutral heads."""
        super().__init__()
        self.first, self.second = Fast(), Fast(thorough=True)

    def forward(self, left: Tensor, right: Tensor, tile: int | None = None) -> Tensor:
        """Predict the frame half way, the mean of two looks; as `Fast.forward`."""
        seen = self.first(left, right, tile)
        border = [SHIFT, 0, SHIFT, 0]
        left, right = (F.pad(frame.flip(2, 3), border, mode="replicate") for frame in (left, right))
        turned = self.second(right, left, tile)[..., SHIFT:, SHIFT:]
        mean: Tensor = (seen + turned.flip(2, 3)) / 2
        return mean
