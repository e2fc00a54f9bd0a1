"""The pair operator on the CPU at its edges, and numba's cache."""
# ruff: noqa: N803 - N, C, H, W, K are the field's names for tensor sizes

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from numba.core.caching import CacheImpl

from sepconv_video import kernels
from sepconv_video.kernels import cpu, planar, reference, vectors

SIZES = [  # N, C, H, W, K, half-resolution taps
    (2, 3, 2, 2, 1, True),
    (1, 1, 1, 1, 1, False),
    (2, 3, 18, 66, 5, True),  # one column of two cells in the second block
    (1, 4, 17, 65, 5, False),
    (2, 3, 34, 194, 11, True),  # blocks at both borders and between
    (1, 3, 18, 66, 51, True),
    (1, 2, 5, 130, 51, False),
]


def operands(N, C, H, W, K, half, dtype=torch.float32):  # noqa: PLR0917
    """Left, right, taps and weight."""
    generator = torch.Generator().manual_seed(K)
    scale = 2 if half else 1
    frame, taps = (N, C, H + K - 1, W + K - 1), (N, 4 * K, H // scale, W // scale)
    shapes = (frame, frame, taps, (N, 1, H, W))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def composition(left, right, taps, weight):
    """What the operator stands for, in float64."""
    left, right, taps = left.double(), right.double(), taps.double()
    if taps.shape[1] // 4 + taps.shape[2] - 1 != left.shape[2]:
        taps = F.interpolate(taps, scale_factor=2, mode="bilinear", align_corners=False)
    vertical1, horizontal1, vertical2, horizontal2 = taps.chunk(4, 1)
    first = reference.sepconv(left, vertical1, horizontal1)
    second = reference.sepconv(right, vertical2, horizontal2)
    return first + second if weight is None else second + weight.double() * (first - second)


def assert_near(found, wanted, tolerance):
    assert found.shape == wanted.shape
    assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("blend", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_pair_agrees_with_the_composition(sizes, blend):
    left, right, taps, weight = operands(*sizes)
    given = left, right, taps, weight if blend else None
    found = cpu.forward_pair(*given)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert_near(found, composition(*given), 1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],
)
def test_pair_dtypes(dtype, tolerance):
    given = operands(1, 3, 10, 70, 5, True, dtype)
    found = cpu.forward_pair(*given)
    assert found.dtype == dtype
    assert_near(found, composition(*given), tolerance)


def test_pair_strides():
    given = operands(2, 3, 18, 70, 5, True)
    wanted = cpu.forward_pair(*given)
    strided = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in given]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.equal(cpu.forward_pair(*strided), wanted)
    nhwc = [tensor.contiguous(memory_format=torch.channels_last) for tensor in given]
    assert torch.equal(cpu.forward_pair(*nhwc), wanted)


def test_pair_is_the_same_on_any_number_of_threads():
    given = operands(2, 3, 70, 150, 11, True)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(cpu.forward_pair(*given))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_failing_task_is_heard_of():
    """Work on other threads must not fail in silence."""

    def fail(task):
        raise RuntimeError(f"task {task}")

    with pytest.raises(RuntimeError, match="task"):
        cpu.run(fail, 4, ())


def test_the_cache_notices_changed_vector_code():
    """numba compiles anew when `cpu.py` changes; it does not look at `vectors.py`."""
    found = zlib.crc32(Path(vectors.__file__).read_bytes())
    assert found == cpu.VECTORS, f"write `VECTORS = 0x{found:08X}` in cpu.py"


def test_what_is_compiled_is_kept_where_numba_is_told_to(tmp_path):
    """Else in the package, or, where that cannot be written to, in the user's cache folder."""
    code = (
        "import torch\n"
        "from sepconv_video.kernels import cpu\n"
        "def hits():\n"
        "    cpu.forward(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))\n"
        "    return sum(cpu._filter_rows.stats.cache_hits.values())\n"
        "first = hits()\n"
        "# a function that has not been compiled in this process\n"
        "again = cpu.compiled(called_from_python=True)(cpu._filter_rows.py_func)\n"
        "cpu._filter_rows = again\n"
        "print(first, hits())\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == ["0", "1"]
    assert list(tmp_path.rglob("*_filter_rows*.nbi"))


def test_without_a_place_to_keep_it_all_is_compiled_anew_with_a_word(monkeypatch):
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(vectors, "not_kept", [])
    assert kernels.notes() == []
    double = vectors.compiled(called_from_python=True)(lambda x: 2.0 * x)
    assert double(3.0) == 6
    assert "`NUMBA_CACHE_DIR`" in kernels.notes()[0]


def assert_laid_out(lay_out, dtype, size, device="cpu"):
    """Maps of an odd number, side by side, some of more, into a part of what is laid out."""
    maps = torch.randn(2, 75, *size, device=device).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    for wanted in (torch.float32, dtype):
        for given in (maps, maps[:, :67]):
            result = torch.zeros(2, 80, *size, dtype=wanted, device=device)
            made = lay_out(given, result[:, 2 : 2 + given.shape[1]])
            assert torch.equal(made, given.to(wanted))
            assert not result[:, :2].any()
            assert not result[:, 2 + given.shape[1] :].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 30), (70, 130)])
def test_maps_are_laid_out_as_pytorch_does(dtype, size):
    assert_laid_out(planar, dtype, size)
    maps = torch.randn(2, 49, *size).to(dtype)
    for given in (maps, maps[..., 1:, 2:]):
        assert torch.equal(planar(given, torch.empty(given.shape)), given.float())


def test_laying_maps_out_is_differentiable():
    maps = torch.randn(1, 3, 4, 5, requires_grad=True)
    planar(maps, torch.empty(1, 3, 4, 5)).sum().backward()
    assert torch.equal(maps.grad, torch.ones_like(maps))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_gpu_lays_maps_out_as_pytorch_does(dtype):
    assert_laid_out(planar, dtype, (70, 130), "cuda")
