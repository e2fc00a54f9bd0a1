"""`sepconv.cu` compiled by NVRTC for each generation of GPU; needs NVRTC, but no GPU."""
# ruff: noqa: N803, N806 - N, C, H, W, K are the field's names for tensor sizes

import os
import re

import pytest

from sepconv_video.kernels import cuda


def load_nvrtc():
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            raise
        pytest.skip(f"NOT TESTED: compilation of the CUDA kernel, as there is no NVRTC: {error}")
    return nvrtc


def resources_used(arch, storage, K, channels, backward):
    """Compile a variant; return registers and bytes spilled, for each of its kernels."""
    nvrtc = load_nvrtc()
    program = nvrtc.createProgram(cuda.source(), "sepconv.cu", (), ())
    options = (f"-arch=sm_{arch}", "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, (*options, *cuda.options(storage, K, channels, backward)))
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    log = nvrtc.getProgramLog(program)
    assert "warning" not in log
    spilled = [int(count) for count in re.findall(r"(\d+) bytes spill", log)]
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    assert len(registers) == (3 if backward else 1)
    return registers, spilled


@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90, 120])
def test_forward_fits_the_registers(arch):
    registers, spilled = resources_used(arch, "FLOAT", 51, 3, backward=False)
    assert max(registers) <= 128  # four blocks of 128 threads to a multiprocessor
    assert not any(spilled)


@pytest.mark.parametrize(
    ("arch", "storage", "K", "channels"),
    [(75, "HALF", 51, 4), (80, "BFLOAT16", 11, 3), (120, "FLOAT", 51, 3)],
)
def test_backward_fits_the_registers(arch, storage, K, channels):
    _, spilled = resources_used(arch, storage, K, channels, backward=True)
    assert not any(spilled)


@pytest.mark.parametrize("storage", ["HALF", "BFLOAT16", "DOUBLE"])
@pytest.mark.parametrize("K", [1, 5, 11])
def test_forward_in_other_precisions(storage, K):
    _, spilled = resources_used(90, storage, K, 4, backward=False)
    assert not any(spilled)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [75, 120])
@pytest.mark.parametrize("storage", list(cuda.STORAGE.values()))
@pytest.mark.parametrize("channels", cuda.GROUPS)
def test_all_variants_compile(arch, storage, channels):
    for K in (15, 51):
        for backward in (False, True):
            resources_used(arch, storage, K, channels, backward)
