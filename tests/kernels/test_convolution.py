"""Convolutions of our own, and what follows them on a GPU: by PyTorch's, in double precision."""
# ruff: noqa: N803 - N, C, H, W are the field's names for tensor sizes

import gc
import os
import subprocess
import sys
import weakref
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.kernels import (
    convolution,
    convolution_cpu,
    convolution_cuda,
    cpu,
    vectors,
    winograd,
)
from sepconv_video.kernels.convolution import convolve

SIZES = [  # N, inputs, outputs, H, W
    (1, 1, 1, 1, 1),
    (1, 3, 33, 4, 4),
    (2, 5, 7, 9, 13),
    (1, 16, 32, 6, 6),
    (2, 26, 49, 23, 41),
    (1, 16, 64, 40, 70),  # inside all is read where it lies
    (1, 51, 51, 33, 18),
    (1, 200, 100, 5, 6),
    (3, 32, 32, 100, 70),  # many tiles at once
]


def operands(N, inputs, outputs, H, W):
    """Maps, weights, biases, and what is added, as a network has them."""
    generator = torch.Generator().manual_seed(inputs)
    shapes = (N, inputs, H, W), (outputs, inputs, 3, 3), (outputs,), (N, outputs, H, W)
    maps, weight, bias, base = (torch.randn(shape, generator=generator) for shape in shapes)
    # sums of the size of what is summed
    weight /= 3 * inputs**0.5
    return (
        maps.contiguous(memory_format=torch.channels_last),
        weight,
        bias,
        base.contiguous(memory_format=torch.channels_last),
    )


def by_pytorch(maps, weight, bias, slope, base):
    made = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    made = F.leaky_relu(made, slope)
    return made if base is None else made + base.double()


def assert_near(found, wanted):
    assert found.shape == wanted.shape
    away = (found.double() - wanted).abs()
    assert away.max() < 1e-4
    assert away.mean() < 2e-6


@pytest.mark.parametrize("slope", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("sizes", SIZES)
def test_agrees_with_pytorch(sizes, slope):
    maps, weight, bias, base = operands(*sizes)
    for added in (None, base):
        found = convolution_cpu.convolve(maps, weight, bias, slope, added)
        assert_near(found, by_pytorch(maps, weight, bias, slope, added))


def test_maps_may_lie_in_any_way():
    maps, weight, bias, base = operands(2, 26, 49, 23, 41)
    wanted = convolution_cpu.convolve(maps, weight, bias, 0.1, base)
    for lay in (torch.Tensor.contiguous, lambda given: F.pad(given, [1, 2])[..., 1:-2]):
        found = convolution_cpu.convolve(lay(maps), weight, bias, 0.1, lay(base))
        assert torch.equal(found, wanted)


def test_nothing_around_the_maps_is_read():
    """Of the last cells no more than they have, whatever lies behind them."""
    maps, weight, bias, _ = operands(1, 5, 7, 12, 16)
    wanted = convolution_cpu.convolve(maps, weight, bias, 1.0, None)
    within = torch.full((1, 14, 16, 5), float("nan"))
    within[:, 1:13] = maps.permute(0, 2, 3, 1)
    given = within[:, 1:13].permute(0, 3, 1, 2)
    assert torch.equal(convolution_cpu.convolve(given, weight, bias, 1.0, None), wanted)


def test_what_is_nan_stays_where_it_is():
    maps, weight, bias, _ = operands(1, 16, 8, 40, 40)
    maps[..., 20, 20] = float("nan")
    found = convolution_cpu.convolve(maps, weight, bias, 0.1, None).isnan()
    assert found[..., 19:22, 19:22].all()
    assert not found[..., :16, :].any()
    assert not found[..., 24:, :].any()


def test_threads_change_nothing():
    maps, weight, bias, base = operands(2, 32, 32, 100, 70)
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            made.append(convolution_cpu.convolve(maps, weight, bias, 0.1, base))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_weights_may_change():
    maps, weight, bias, _ = operands(1, 16, 32, 6, 6)
    for change in (weight.mul_, weight.data.mul_, lambda _: setattr(weight, "data", weight / 2)):
        found = convolution_cpu.convolve(maps, weight, bias, 1.0, None)
        assert_near(found, by_pytorch(maps, weight, bias, 1.0, None))
        change(-1.5)
    with torch.inference_mode():
        weight = weight.clone()
        for _ in range(2):
            found = convolution_cpu.convolve(maps, weight, bias, 1.0, None)
            assert_near(found, by_pytorch(maps, weight, bias, 1.0, None))
            weight.mul_(-1.5)


def test_what_weights_became_goes_with_them():
    maps, weight, bias, _ = operands(1, 16, 32, 6, 6)
    convolution_cpu.convolve(maps, weight, bias, 1.0, None)
    kept = weakref.ref(convolution_cpu.transformed(weight))
    assert kept() is not None
    del weight
    gc.collect()
    assert kept() is None


def test_differentiates_as_pytorch_does():
    maps, weight, bias, base = operands(1, 4, 8, 30, 30)
    given = [tensor.double().requires_grad_() for tensor in (maps, weight, bias, base)]
    maps, weight, bias, base = given
    found = convolve(maps, weight, bias, slope=0.1, base=base.clone())
    wanted = F.leaky_relu(F.conv2d(maps, weight, bias, padding=1), 0.1) + base
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), given),
        torch.autograd.grad(wanted.square().sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def called(monkeypatch, maps, weight, bias, **how):
    """Whether a convolution is done by our own code."""
    calls = []

    def convolved(*given):
        calls.append(given)
        return F.conv2d(*given[:3], padding=1)

    monkeypatch.setattr(convolution_cpu, "convolve", convolved)
    convolve(maps, weight, bias, **how)
    return bool(calls)


def test_our_own_is_for_what_is_single_and_without_gradients(monkeypatch):
    maps, weight, bias, _ = operands(1, 4, 8, 30, 30)
    assert called(monkeypatch, maps, weight, bias)
    assert not called(monkeypatch, maps, weight, bias, stride=2)
    assert not called(monkeypatch, *(one.bfloat16() for one in (maps, weight, bias)))
    with torch.autocast("cpu", torch.bfloat16):
        assert not called(monkeypatch, maps, weight, bias)
    base = torch.zeros(1, 8, 30, 30)
    assert called(monkeypatch, maps, weight, bias, base=base)
    assert not called(monkeypatch, maps, weight, bias, base=base.clone().requires_grad_())
    assert not called(monkeypatch, maps, weight, bias.clone().requires_grad_())
    weight.requires_grad_()
    assert not called(monkeypatch, maps, weight, bias)
    with torch.no_grad():
        assert called(monkeypatch, maps, weight, bias)
    with torch.inference_mode():
        assert called(monkeypatch, maps, weight, bias)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [5, 31])
def test_stride_and_size_change_nothing_else(stride, side):
    maps, weight, bias, _ = operands(2, 6, 9, side, side)
    made = convolve(maps, weight, bias, stride=stride, slope=0.1)
    wanted = F.conv2d(maps.double(), weight.double(), bias.double(), stride, padding=1)
    assert_near(made, F.leaky_relu(wanted, 0.1))


def test_as_many_threads_as_pytorch_has(monkeypatch):
    """Also where tasks are few at first."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for tasks in (1, 2, 9, 2):
        done = []
        cpu.run(done.append, tasks, ())
        assert sorted(done) == list(range(tasks))
    assert cpu._threads.cache_info().currsize == 1


def test_the_cache_notices_changed_vector_code():
    """As `cpu.VECTORS`."""
    found = zlib.crc32(b"".join(Path(one.__file__).read_bytes() for one in (vectors, winograd)))
    assert found == convolution_cpu.WINOGRAD, f"write `WINOGRAD = 0x{found:08X}` there"


NARROW = """
import torch
from test_convolution import assert_near, by_pytorch, operands
from sepconv_video.kernels import convolution_cpu

for sizes in ((2, 26, 49, 23, 41), (1, 16, 64, 40, 70)):
    maps, weight, bias, base = operands(*sizes)
    found = convolution_cpu.convolve(maps, weight, bias, 0.1, base)
    assert_near(found, by_pytorch(maps, weight, bias, 0.1, base))
"""


def test_agrees_with_pytorch_by_narrow_vectors(tmp_path):
    """As on CPUs without AVX-512, or any AVX at all; tests on others do not compile for these."""
    plain = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    subprocess.run([sys.executable, "-c", NARROW], env={**os.environ, **plain}, check=True)


PRECISION = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 0.04}


def assert_rectified(rectify, dtype, device="cpu"):
    """One picture and two, of a part of what a block works on and of some blocks."""
    for shape in [(1, 8, 1, 1), (2, 24, 5, 7), (2, 56, 9, 40)]:
        made, base = torch.randn(2, *shape).to(device, dtype)
        bias = torch.randn(shape[1] + 1).to(device, dtype)[1:]  # does not begin where vectors do
        for slope in (1.0, 0.1, 0.0):
            for added in (None, base):
                wanted = F.leaky_relu(made.double() + bias.double()[:, None, None], slope)
                wanted += 0 if added is None else added.double()
                given = made.clone(memory_format=torch.channels_last)
                found = rectify(given, bias, slope, added)
                assert found.is_contiguous(memory_format=torch.channels_last)
                assert (found - wanted).abs().max() <= PRECISION[dtype]


def assert_enlarged(add_enlarged, dtype, device="cpu"):
    for *shape, height, width in [(1, 8, 1, 1), (2, 24, 5, 7), (1, 64, 40, 70)]:
        maps = torch.randn(*shape, height, width).to(device, dtype)
        base = torch.randn(*shape, 2 * height, 2 * width).to(device, dtype)
        wanted = base.double() + F.interpolate(
            maps.double(), scale_factor=2, mode="bilinear", align_corners=False
        )
        for lay in (torch.contiguous_format, torch.channels_last):
            given = (some.clone(memory_format=lay) for some in (maps, base))
            found = add_enlarged(*given)
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert (found - wanted).abs().max() <= PRECISION[dtype]


def test_maps_are_enlarged_as_by_pytorch():
    assert_enlarged(convolution_cpu.add_enlarged, torch.float32)


def test_enlarging_is_differentiable():
    maps, base = torch.randn(1, 8, 3, 4).requires_grad_(), torch.randn(1, 8, 6, 8).requires_grad_()
    convolution.add_enlarged(maps, base).sum().backward()
    torch.testing.assert_close(maps.grad, torch.full_like(maps, 4.0))
    torch.testing.assert_close(base.grad, torch.ones_like(base))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", PRECISION)
def test_maps_are_enlarged_on_a_gpu(dtype):
    assert_enlarged(convolution_cuda.add_enlarged, dtype, "cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", PRECISION)
def test_what_follows_a_convolution_on_a_gpu(dtype):
    assert_rectified(convolution_cuda.rectify, dtype, "cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_on_a_gpu(stride):
    maps, weight, bias, _ = (tensor.cuda() for tensor in operands(2, 26, 48, 23, 41))
    found = convolve(maps.half(), weight.half(), bias.half(), stride=stride, slope=0.1)
    wanted = by_pytorch(maps, weight, bias, 0.1, None)[..., ::stride, ::stride]
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 0.02
