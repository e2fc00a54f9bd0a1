"""Frames as what motion is found by, if they are normalised already: as `pair.in_cells`."""

import torch

from sepconv_video.models.alignment import CELL
from sepconv_video.models.blocks import shrink


def in_cells(left, right):
    return torch.cat([shrink(frames, CELL) for frames in (left, right)])
