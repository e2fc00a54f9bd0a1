"""Light on a CPU, by PyTorch's operations."""

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.kernels import light

SIZES = [(1, 1), (2, 3), (5, 7), (9, 40)]  # of maps


def maps(count, size):
    """Gains around 1, then offsets around 0."""
    generator = torch.Generator().manual_seed(sum(size))
    gain = 0.5 + torch.rand(count, 3, *size, generator=generator)
    return gain, torch.randn(count, 3, *size, generator=generator)


def enlarged(some, factor):
    return F.interpolate(some.double(), scale_factor=factor, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("factor", [1, 2, 4, 16])
@pytest.mark.parametrize("size", SIZES)
def test_frames_are_relit_as_by_pytorch(size, factor):
    gain, offset = maps(2, size)
    frames = torch.randn(2, 3, factor * size[0], factor * size[1])
    wanted = frames * enlarged(gain, factor) + enlarged(offset, factor)
    light.relight(frames, gain, offset)
    torch.testing.assert_close(frames.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 8])
@pytest.mark.parametrize("size", SIZES)
def test_what_stands_is_held_as_by_pytorch(size, factor):
    """Also where nothing is allowed in some rows, or anywhere."""
    height, width = factor * size[0], factor * size[1]
    made, left = torch.randn(2, 2, 3, height, width)
    right = left + torch.randn_like(left) * 0.1
    allowed = torch.rand(2, 1, height // 2, width // 2) * 0.3
    allowed *= torch.rand(2, 1, height // 2, 1) < 0.5
    own_light = *maps(2, size), *maps(2, size)
    before, after = (
        (frames - enlarged(offset, factor)) / enlarged(gain, factor)
        for frames, gain, offset in ((left, *own_light[:2]), (right, *own_light[2:]))
    )
    limit = enlarged(allowed, 2)
    difference = (before - after).abs().mean(1, keepdim=True)
    share = ((limit - difference) / (limit / 2 + 1e-3)).clamp(0, 1)
    wanted = torch.lerp(made.double(), (before + after) / 2, share)
    for given, true in ((allowed, wanted), (torch.zeros_like(allowed), made.double())):
        held = made.clone()
        light.hold(held, left, right, given, own_light)
        torch.testing.assert_close(held.double(), true, rtol=0, atol=1e-4)


def test_frames_and_maps_may_be_parts_of_others():
    gain, offset = maps(1, (5, 7))
    whole = torch.randn(3, 1, 3, 60, 70)
    made, left, right = (one[..., 3:43, 5:61] for one in whole)
    allowed = torch.rand(1, 1, 30, 40)[..., 2:22, 1:29]
    own_light = gain, offset, *maps(1, (5, 7))
    wanted, held = made.clone(), made.clone()
    light.hold(wanted, left.clone(), right.clone(), allowed.clone(), own_light)
    light.hold(held, left, right, allowed, own_light)
    assert torch.equal(held, wanted)
