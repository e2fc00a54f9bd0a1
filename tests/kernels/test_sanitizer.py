"""The comparisons that need a GPU once more, watched by NVIDIA's compute-sanitizer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_the_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("NOT TESTED: the CUDA kernels under compute-sanitizer, which is not here")
    watched = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "cuda and not slow"]
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "99", *watched, str(HERE)],
        # tensors that touch in one block of memory would hide what reads or writes beyond them
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
