"""`fine`: our network for a GPU, or for patience. It goes on where `Fast` stops.

The motion is found in two ways, and a second, wider network sees the frames moved by what the first
has made of it, and corrects that.
"""

import torch
from torch import Tensor

from sepconv_video.models.blocks import zero_conv
from sepconv_video.models.fast import MAPS, SEEN, Fast, Pair, Trunk, resample
from sepconv_video.models.tiles import Place


class Fine(Fast):
    """About 140,000 multiply-accumulates per pixel; starts as `Fast` with the same weights."""

    halo = 2 * Fast.halo
    bytes_per_pixel = 2 * Fast.bytes_per_pixel
    thorough = True

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
