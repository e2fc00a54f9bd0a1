"""The steps of a search for motion on a GPU against those of `alignment` in PyTorch."""

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.kernels import motion as kernels
from sepconv_video.models import alignment
from sepconv_video.models.alignment import Way, find_motion


def moving(size, device="cpu"):
    """Two textures, two frames of each, and a motion that is a little off."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    noise = torch.randn(2, 3, height + 10, width + 10, generator=generator)
    picture = 3 * F.avg_pool2d(noise, 5, 1)
    left, right = (picture[..., y : y + height, x : x + width] for y, x in ((0, 2), (3, 0)))
    motion = torch.randn(2, 2, height, width, generator=generator)
    return tuple(tensor.contiguous().to(device) for tensor in (left, right, motion))


def motion_steps(left, right, motion):
    """What each step of a search for motion makes, without our kernels and with them."""
    corrected = kernels.correct(left, right, motion, alignment.CONSTANTS)
    yield alignment._correct(left, right, motion), corrected
    for distance in (alignment.FAR, alignment.NEAR):
        candidates = [motion, *alignment.neighbours(motion, distance)]
        chosen = kernels.choose(left, right, motion, alignment.CONSTANTS, distance)
        yield alignment._choose(left, right, candidates), chosen


@pytest.mark.cuda
@pytest.mark.parametrize("size", [(16, 32), (37, 75), (1, 3), (270, 480)])
def test_a_gpu_finds_what_pytorch_finds(size):
    for torchs, ours in motion_steps(*moving(size, "cuda")):
        assert (ours - torchs).abs().max() <= 1e-3


@pytest.mark.cuda
@pytest.mark.parametrize("way", Way)
def test_a_gpu_finds_the_motion_of_a_cpu(way):
    left, right, _ = moving((192, 256))
    found = find_motion(left.cuda(), right.cuda(), way).cpu()
    away = (found - find_motion(left, right, way)).abs()
    assert away.mean() < 0.02
    assert away.median() < 1e-3
