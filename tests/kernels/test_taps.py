"""Taps of what a network predicted."""

import pytest
import torch

from sepconv_video.devices import frames_dtype
from sepconv_video.kernels import shape_taps

K, MOST = 11, 2.0
PRECISION = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 0.03}
SIZES = [(1, 1), (3, 5), (9, 40), (70, 130)]
INTERLEAVED = torch.channels_last


def predicted(size, lead=5, dtype=torch.float32):
    """Maps of a head, in a tensor that has more of them, and how much of it there is to be."""
    generator = torch.Generator().manual_seed(lead)
    maps = 0.3 * torch.randn(2, 3 + lead + 4 * K, *size, generator=generator)
    change = torch.rand(2, 1, *size, generator=generator)
    return maps.to(dtype, memory_format=INTERLEAVED)[:, 3:], change


def by_pytorch(maps, change):
    """Its operations, which are differentiable, in double precision."""
    given = maps.double().requires_grad_()
    return shape_taps(given, change.double(), K, MOST, torch.float64).detach()


def shape_for_frames(maps, change):
    """In the precision of frames for such a network, which is higher for bf16."""
    return shape_taps(maps, change, K, MOST, frames_dtype(maps.dtype))


def assert_shaped(shape, dtype, size, device="cpu"):
    for lead in (0, 5):
        maps, change = (tensor.to(device) for tensor in predicted(size, lead, dtype))
        wanted = by_pytorch(maps, change)
        found = shape(maps, change)
        assert found.is_contiguous()
        assert (found - wanted).abs().max() <= PRECISION[found.dtype]
        assert torch.equal(found[:, :lead], maps[:, :lead].to(found.dtype))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_shapes_taps_as_pytorch_does(dtype, size):
    assert_shaped(shape_for_frames, dtype, size)
    for lay in (torch.Tensor.contiguous, lambda maps: maps.transpose(2, 3).contiguous().mT):
        maps, change = predicted(size)
        assert torch.equal(shape_for_frames(lay(maps), change), shape_for_frames(maps, change))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("size", SIZES)
def test_a_gpu_shapes_taps_as_pytorch_does(dtype, size):
    assert_shaped(shape_for_frames, dtype, size, "cuda")


def test_taps_sum_to_one():
    given, change = torch.randn(2, 4 * K, 4, 5) * 0.1, torch.full((2, 1, 4, 5), 0.5)
    taps = shape_taps(given, change, K, MOST, torch.float32).view(2, 4, K, 4, 5)
    torch.testing.assert_close(taps.sum(2), torch.ones(2, 4, 4, 5), atol=1e-5, rtol=0)
    given = given.view(taps.shape)
    changed = (taps - (given - given.mean(2, keepdim=True)) / 2).amax((0, 1, 3, 4))
    torch.testing.assert_close(changed, torch.eye(K)[5], atol=1e-5, rtol=0)


def test_taps_have_a_limit():
    """Ten times as large they made ripples in a zoom that blurs all."""
    given = torch.randn(1, 4 * K, 4, 5) * 10
    given[..., 0] = 0
    taps = shape_taps(given, torch.ones(1, 1, 4, 5), K, MOST, torch.float32)
    rest = taps.view(4, K, 4, 5) - torch.eye(K)[5].view(K, 1, 1)
    size = rest.abs().sum(1)
    torch.testing.assert_close(size[..., 1:], torch.full((4, 4, 4), MOST))
    assert not size[..., 0].any()
    given = given.view(rest.shape)
    wanted = given - given.mean(1, keepdim=True)
    alike = torch.nn.functional.cosine_similarity(rest[..., 1:], wanted[..., 1:], dim=1)
    torch.testing.assert_close(alike, torch.ones_like(alike))
