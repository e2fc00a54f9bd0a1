"""`fine`: our network for a GPU. It goes on where `Fast` stops, and looks twice.

A second, wider network sees the frames moved by what the first has found, and corrects that. A pair
that is shown the other way about in space and time, on another grid of cells, comes out as the same
frame with other errors; the mean has less of them. (Self-ensembling: +0.18 dB for SepConv++,
Niklaus et al., WACV 2021.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.models.blocks import zero_conv
from sepconv_video.models.fast import MAPS, SEEN, Fast, Pair, Trunk, resample
from sepconv_video.models.tiles import Place

SHIFT = 6
"""Pixels by which the second look is moved: no whole cell of any grid but the finest."""


class Look(Fast):
    """`Fast`, and a second network on what it has moved; starts as `Fast` with the same weights."""

    halo = 2 * Fast.halo

    def __init__(self) -> None:
        """Build the network with random features and neutral heads."""
        super().__init__()
        self.second_trunk = Trunk(SEEN + 32, (64, 96, 128, 192))
        self.second_head = zero_conv(64, MAPS)

    def _predict(self, pair: Pair, left: Tensor, right: Tensor, place: Place | None) -> Tensor:
        """As `Fast._predict`, with a second look at the frames as the first would move them."""
        piece = pair.piece(place, left)
        features = self.trunk(piece.seen(left, right).to(self.head.weight.dtype))
        maps = self.head(features)
        left, right = piece.moved(piece.corrected(maps[:, :4]))
        seen = piece.seen(left, right).to(features.dtype)
        maps = maps + self.second_head(self.second_trunk(torch.cat((seen, features), 1)))
        return resample(piece, maps)


class Fine(nn.Module):
    """About 273,000 multiply-accumulates per pixel, in two looks one after the other."""

    halo = Look.halo
    bytes_per_pixel = 2 * Fast.bytes_per_pixel
    """Besides those of a look, the turned frames, and what the first look saw."""
    frame_bytes_per_pixel = Fast.frame_bytes_per_pixel + 40

    def __init__(self) -> None:
        """Build the network that looks."""
        super().__init__()
        self.network = Look()

    def forward(self, left: Tensor, right: Tensor, tile: int | None = None) -> Tensor:
        """Predict the frame half way, the mean of two looks; as `Fast.forward`.

        One look in training, which shows all ways anyhow.
        """
        seen: Tensor = self.network(left, right, tile)
        if self.training:
            return seen
        border = [SHIFT, 0, SHIFT, 0]
        left, right = (F.pad(frame.flip(2, 3), border, mode="replicate") for frame in (left, right))
        turned = self.network(right, left, tile)[..., SHIFT:, SHIFT:]
        mean: Tensor = (seen + turned.flip(2, 3)) / 2
        return mean
