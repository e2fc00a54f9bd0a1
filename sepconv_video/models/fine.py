"""`fine`: our network for a GPU, or for patience: wider than `fast`, with two motions to mix.

The motion that `fast` uses, and that of frames whose contrast is made even, err in other places.
The network sees the pair as either moves it, corrects and filters both, and mixes.
"""

from sepconv_video.models.fast import Aligned


class Fine(Aligned):
    """147,000 multiply-accumulates per pixel, operator included: a third of the 2017 network's."""

    bytes_per_pixel = 700
    frame_bytes_per_pixel = 74

    def __init__(self) -> None:
        """Build the network with random features and a neutral head."""
        super().__init__(2, (64, 128, 192, 256))
