"""The networks: each maps (left, right) to the frame half way, RGB in [0, 1], any size."""

from collections.abc import Callable

from torch import nn

from sepconv_video.models.aligned import Fast, Fine
from sepconv_video.models.sepconv2017 import SepConv2017

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fast": Fast,
    "fine": Fine,
    "sepconv2017": SepConv2017,
}
"""Constructors by name, for training and for errors; weights files are told by keys and shapes."""

__all__ = ["NETWORKS", "Fast", "Fine", "SepConv2017"]
