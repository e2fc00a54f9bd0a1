"""Light, by PyTorch's operations."""

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.kernels import light

SIZES = [(1, 1), (2, 3), (5, 7), (9, 40)]  # of maps
PRECISION = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 0.04}


def maps(count, size):
    """Gains around 1, then offsets around 0."""
    generator = torch.Generator().manual_seed(sum(size))
    gain = 0.5 + torch.rand(count, 3, *size, generator=generator)
    return gain, torch.randn(count, 3, *size, generator=generator)


def enlarged(some, factor):
    return F.interpolate(some.double(), scale_factor=factor, mode="bilinear", align_corners=False)


def assert_normalised(normalise, dtype, size, device="cpu"):
    """In full and as cells, with rows and columns repeated or not; of two pictures."""
    height, width = (2 * side for side in size)
    for rows, columns in ((0, 0), (1, 3), (14, 6)):
        frames = torch.rand(2, 3, height - (rows > 0), width - (rows > 0)).to(dtype)
        mean, spread = torch.rand(2, 2, 1, 1, 1) + 0.2
        padding = height + rows - frames.shape[2], width + columns - frames.shape[3]
        padded = F.pad(frames.double(), [0, padding[1], 0, padding[0]], mode="replicate")
        wanted = (padded - mean) / spread
        given = [tensor.to(device) for tensor in (frames, mean, spread)]
        made = torch.empty(wanted.shape, dtype=dtype, device=device)
        normalise(*given, made, 1)
        assert (made.cpu() - wanted).abs().max() <= PRECISION[dtype]
        if rows % 2 == columns % 2 == 0:
            wanted = F.avg_pool2d(wanted, 2)
            made = torch.empty(wanted.shape, device=device)
            normalise(*given, made, 2)
            assert (made.cpu() - wanted).abs().max() <= PRECISION[torch.float32]


def assert_relit(relight, dtype, size, factor, device="cpu"):
    gain, offset = maps(2, size)
    frames = torch.randn(2, 3, factor * size[0], factor * size[1]).to(dtype)
    wanted = frames * enlarged(gain, factor) + enlarged(offset, factor)
    frames, gain, offset = (tensor.to(device) for tensor in (frames, gain, offset))
    relight(frames, gain, offset)
    assert (frames.cpu() - wanted).abs().max() <= PRECISION[dtype]


def assert_held(hold, dtype, size, factor, device="cpu"):
    """Also where nothing is allowed in some rows, or anywhere."""
    height, width = factor * size[0], factor * size[1]
    made, left = torch.randn(2, 2, 3, height, width).to(dtype)
    right = left + (torch.randn(left.shape) * 0.1).to(dtype)
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
    own_light = tuple(tensor.to(device) for tensor in own_light)
    for given, true in ((allowed, wanted), (torch.zeros_like(allowed), made.double())):
        held = made.clone().to(device)
        hold(held, left.to(device), right.to(device), given.to(device), own_light)
        assert (held.cpu() - true).abs().max() <= 4 * PRECISION[dtype]


@pytest.mark.parametrize("size", SIZES)
def test_frames_are_normalised_as_by_pytorch(size):
    assert_normalised(light.normalise, torch.float32, size)


@pytest.mark.parametrize("factor", [1, 2, 4, 16])
@pytest.mark.parametrize("size", SIZES)
def test_frames_are_relit_as_by_pytorch(size, factor):
    assert_relit(light.relight, torch.float32, size, factor)


@pytest.mark.parametrize("factor", [2, 8])
@pytest.mark.parametrize("size", SIZES)
def test_what_stands_is_held_as_by_pytorch(size, factor):
    assert_held(light.hold, torch.float32, size, factor)


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


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("size", SIZES)
def test_light_on_a_gpu(dtype, size):
    assert_normalised(light.normalise, dtype, size, "cuda")
    assert_relit(light.relight, dtype, size, 8, "cuda")
    assert_held(light.hold, dtype, size, 8, "cuda")
