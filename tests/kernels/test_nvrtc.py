"""`sepconv*.cu` compiled by NVRTC for each generation of GPU; needs NVRTC, but no GPU."""
# ruff: noqa: N803, N806 - N, C, H, W, K are the field's names for tensor sizes

import os
import re
from pathlib import Path

import pytest
import torch

from sepconv_video.kernels import (
    convolution_cuda,
    cuda,
    frames_cuda,
    light_cuda,
    motion_cuda,
    taps_cuda,
)
from sepconv_video.kernels.cuda import Variant

SLOW = pytest.mark.slow


def load_nvrtc():
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            raise
        pytest.skip(f"NOT TESTED: compilation of the CUDA kernel, as there is no NVRTC: {error}")
    return nvrtc


def takes_more(arch):
    """Whether kernels take more registers than CUDA 12 gives them."""
    return arch == 120 and load_nvrtc().getVersion() >= (13, 0)


def resources_used(arch, variant):
    """Compile a variant; return registers and bytes spilled, for each of its kernels."""
    count = 3 if variant.name.startswith("backward") else 1
    return compiled(arch, cuda.source(), cuda.options(variant), count)


def compiled(arch, source, options, count):
    """Compile `count` kernels; return registers and bytes spilled, for each."""
    nvrtc = load_nvrtc()
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch=sm_{arch}", "--ptxas-options=-v", *options))
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    log = nvrtc.getProgramLog(program)
    assert "warning" not in log
    spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", log)]
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    assert len(registers) == count
    return registers, spilled


@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90, 120])
def test_forward_fits_the_registers(arch):
    registers, spilled = resources_used(arch, Variant("forward", "FLOAT", 51, 3, 2))
    assert max(registers) <= 168  # three blocks to a multiprocessor, as their windows allow
    assert not any(spilled)


@pytest.mark.parametrize("arch", [75, 90, 120])
def test_the_search_for_motion_fits_the_registers(arch):
    step = motion_cuda.Step("correct", 3, 5, 14)
    registers, spilled = compiled(
        arch, cuda.source(motion_cuda.SOURCES), motion_cuda.options(step), 4
    )
    assert max(registers) <= 128
    assert not any(spilled)
    assert motion_cuda.shared_bytes(step) <= cuda.SHARED_WITHOUT_OPT_IN


@pytest.mark.parametrize("arch", [75, 90, 120])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("module", "sizes", "count", "most"),
    [
        (frames_cuda, (), 5, 64),  # half of all threads at once
        (light_cuda, (), 4, 96),  # 30 %; in `hold`, where most pixels end before
        (convolution_cuda, (), 2, 64),
        (taps_cuda, (11, 5), 1, 64),
    ],
)
def test_what_works_on_frames_and_maps_fits_the_registers(arch, dtype, module, sizes, count, most):
    source, options = cuda.source(module.SOURCES), module.options(dtype, *sizes)
    registers, spilled = compiled(arch, source, options, count)
    # 12.0 holds three quarters of the threads of 9.0, in as many registers
    assert max(registers) <= (most * 4 // 3 if takes_more(arch) else most)
    assert not any(spilled)


@pytest.mark.parametrize("arch", [75, 90, 120])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_laying_maps_out_fits_the_registers(arch, size):
    source = cuda.source(cuda.PLANAR_SOURCES)
    registers, spilled = compiled(arch, source, cuda.planar_options(size), 1)
    assert max(registers) <= 64  # half of all threads at once
    assert not any(spilled)
    assert cuda.planar_bytes(size) <= cuda.SHARED_WITHOUT_OPT_IN


@pytest.mark.parametrize(
    "arch", [80, pytest.param(86, marks=SLOW), pytest.param(89, marks=SLOW), 90, 120]
)
def test_matrix_instructions_fit_the_registers(arch):
    variant = Variant("forward_tensor", "HALF", 51, 3, 2)
    registers, spilled = resources_used(arch, variant)
    assert takes_more(arch) or max(registers) <= 168  # three blocks to a multiprocessor
    assert not any(spilled)
    # three blocks to one of Hopper; one of 12.0 has room for a single one, whatever its registers
    assert cuda.shared_bytes(variant) <= 75 * 1024


@pytest.mark.parametrize(
    ("arch", "storage", "K", "channels"),
    [(75, "HALF", 51, 4), (80, "BFLOAT16", 11, 3), (120, "FLOAT", 51, 3)],
)
def test_backward_fits_the_registers(arch, storage, K, channels):
    _, spilled = resources_used(arch, Variant("backward_image", storage, K, channels))
    assert not any(spilled)


@pytest.mark.parametrize("storage", ["HALF", "BFLOAT16", "DOUBLE"])
@pytest.mark.parametrize("K", [1, 5, 11])
def test_forward_in_other_precisions(storage, K):
    _, spilled = resources_used(90, Variant("forward", storage, K, 4))
    assert not any(spilled)


@pytest.mark.parametrize(
    ("arch", "variant"),
    [
        (75, Variant("forward", "HALF", 11, 3, 2, halved=True)),  # the network `fast`
        (90, Variant("forward", "FLOAT", 51, 3, 2, halved=True)),
        (75, Variant("forward", "FLOAT", 51, 3, 1)),
        pytest.param(80, Variant("forward_tensor", "BFLOAT16", 51, 3, 2, halved=True), marks=SLOW),
        pytest.param(90, Variant("forward_tensor", "HALF", 57, 4, 1), marks=SLOW),
        (120, Variant("forward_tensor", "HALF", 17, 1, 2)),
    ],
)
def test_other_variants(arch, variant):
    _, spilled = resources_used(arch, variant)
    assert not any(spilled)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [75, 120])
@pytest.mark.parametrize("storage", list(cuda.STORAGE.values()))
@pytest.mark.parametrize("channels", cuda.GROUPS)
def test_all_variants_compile(arch, storage, channels):
    for K in (15, 51):
        for name in ("forward", "backward_image"):
            resources_used(arch, Variant(name, storage, K, channels))
        for name in {"forward", cuda.forward_name(storage, K, arch)}:
            for halved in (False, True):
                resources_used(arch, Variant(name, storage, K, channels, 2, halved))


def test_the_baseline_of_the_benchmark_compiles():
    nvrtc = load_nvrtc()
    source = Path(__file__).parents[2] / "scripts" / "baseline.cu"
    program = nvrtc.createProgram(source.read_text(), "baseline.cu", (), ())
    nvrtc.compileProgram(program, ("-arch=sm_90",))
    assert "warning" not in nvrtc.getProgramLog(program)
