"""`fine`: our network for a GPU. It searches on where `Fast` stops, and looks twice.

A network that is shown the pair the other way about in space and time, on another grid of cells,
makes the same frame with other errors; the mean has less of them. (Self-ensembling: +0.18 dB for
SepConv++, Niklaus et al., WACV 2021.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.models.blocks import ResidualBlock, conv_act, upsample, zero_conv
from sepconv_video.models.fast import Fast, Prediction
from sepconv_video.models.matching import CELL, WINDOW, Belief, Choice, Grey, neighbours

EDGE_CELL = 2
"""Side in pixels of the cells on which the outlines of moving objects are settled."""
EDGE_WINDOW = 12
"""As `WINDOW`, for these cells: the motions around are trusted by now, what is asked is where."""
SHIFT = 6
"""Pixels by which the second look is moved: half a cell of the motion, and no whole one of any."""


class Look(Fast):
    """`Fast`, with five rounds of search, motion in smaller cells, and a U-Net on what it moved.

    Weights of `Fast` serve it too; what they do not know starts neutral.
    """

    halo = Fast.halo + 64
    windows = (36, 36, 28, 28, WINDOW)

    def __init__(self) -> None:
        """Build the network with random features and neutral heads."""
        super().__init__()
        self.edges_far = Choice(5, 32, EDGE_CELL)
        self.edges_near = Choice(5, 32, EDGE_CELL)
        self.again4 = conv_act(32, 64, stride=2)
        self.look4 = nn.Sequential(conv_act(64 + 64, 64), ResidualBlock(64))
        self.look8 = nn.Sequential(conv_act(64, 96, stride=2), ResidualBlock(96))
        self.back4 = conv_act(96, 64)
        self.think4 = ResidualBlock(64)
        self.back2 = zero_conv(64, 32)

    def _enlarge(
        self, grey: Grey, motion: Tensor, change: Tensor, at2: Tensor
    ) -> tuple[Tensor, list[Belief]]:
        """As `Fast._enlarge`, with each cell's outline settled among its neighbours' motions."""
        motion = upsample(motion, CELL // EDGE_CELL)
        far = self.edges_far(grey, neighbours(motion, 4), at2, EDGE_WINDOW)
        near = self.edges_near(grey, neighbours(far.motion, 2), at2, EDGE_WINDOW)
        motion = near.motion * upsample(change, CELL // EDGE_CELL)
        beliefs = [stage.belief for stage in (far, near) if stage.belief]
        return upsample(motion, EDGE_CELL), beliefs

    def _look_again(self, at2: Tensor, at4: Tensor) -> Tensor:
        """Look at the moved frames also at a quarter and an eighth: a U-Net as for the motion."""
        at4 = self.look4(torch.cat((self.again4(at2), at4), 1))
        at4 = self.think4(at4 + self.back4(upsample(self.look8(at4), 2)))
        seen: Tensor = at2 + self.back2(upsample(at4, 2))
        return seen


class Fine(nn.Module):
    """About 172,000 multiply-accumulates per pixel, in two looks one after the other."""

    halo = Look.halo
    bytes_per_pixel = Fast.bytes_per_pixel + 40
    """Besides those of a look, the turned frames, and what the first look saw."""
    frame_bytes_per_pixel = Fast.frame_bytes_per_pixel + 40

    def __init__(self) -> None:
        """Build the network that looks."""
        super().__init__()
        self.network = Look()

    def forward(self, left: Tensor, right: Tensor, tile: int | None = None) -> Tensor:
        """Predict the frame half way, the mean of two looks; as `Fast.forward`."""
        seen = self.network(left, right, tile)
        border = [SHIFT, 0, SHIFT, 0]
        left, right = (F.pad(frame.flip(2, 3), border, mode="replicate") for frame in (left, right))
        turned = self.network(right, left, tile)[..., SHIFT:, SHIFT:]
        mean: Tensor = (seen + turned.flip(2, 3)) / 2
        return mean

    def predict(self, left: Tensor, middle: Tensor, right: Tensor) -> Prediction:
        """One look, for training, which shows all ways anyhow; see `Fast.predict`."""
        return self.network.predict(left, middle, right)
