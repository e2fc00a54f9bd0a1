"""`fine`: our network for a GPU, `Fast` with more search, looked through four ways.

A network that is shown a pair mirrored, or with the order of the frames exchanged, makes the
same frame with other errors; their mean has less of them. (Self-ensembling: +0.18 dB for
SepConv++, Niklaus et al., WACV 2021.)
"""

from torch import Tensor, nn

from sepconv_video.models.fast import Fast, Prediction

ROUNDS = 3


class Fine(nn.Module):
    """About 235,000 multiply-accumulates per pixel, in four looks one after the other."""

    halo = Fast.halo + 32
    """A third round of search sees further."""
    bytes_per_pixel = Fast.bytes_per_pixel + 48
    """Besides those of a look, the mirrored frames, and two sums."""
    frame_bytes_per_pixel = Fast.frame_bytes_per_pixel + 48

    def __init__(self) -> None:
        """Build the network that looks."""
        super().__init__()
        self.network = Fast(ROUNDS)

    def forward(self, left: Tensor, right: Tensor, tile: int | None = None) -> Tensor:
        """Predict the frame half way, the mean of four looks; as `Fast.forward`."""
        seen = self.network(left, right, tile) + self.network(right, left, tile)
        left, right = left.flip(3), right.flip(3)
        mirrored = self.network(left, right, tile) + self.network(right, left, tile)
        mean: Tensor = (seen + mirrored.flip(3)) / 4
        return mean

    def predict(self, left: Tensor, middle: Tensor, right: Tensor) -> Prediction:
        """One look, for training, which shows all ways anyhow; see `Fast.predict`."""
        return self.network.predict(left, middle, right)
