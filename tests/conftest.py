"""What all tests share: the rules on threads, on `cuda` and `slow`, and where the data are."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config, items):
    _limit_slow(config, [item for item in items if item.get_closest_marker("slow")])
    _limit_cuda([item for item in items if item.get_closest_marker("cuda")])


def _limit_slow(config, items):
    if "slow" in config.getoption("-m") or os.environ.get("RUN_SLOW") == "1":
        return
    for item in items:
        item.add_marker(pytest.mark.skip(reason="slow: run with -m slow or RUN_SLOW=1"))


def _limit_cuda(items):
    if not items or os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        return
    import torch  # here because it takes seconds, and most runs have no such test

    if torch.cuda.is_available():
        return
    for item in items:
        item.add_marker(pytest.mark.skip(reason="cuda: no NVIDIA GPU here (FAIL_WITHOUT_CUDA=1)"))


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    """Random tensors that a test makes without a generator of its own are the same in each run."""
    if "torch" in sys.modules:  # a test that makes any has imported it with its module
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def no_thread_left():
    """Every thread a test starts must have ended when the test has."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 2
    left = _new_threads(before)
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = _new_threads(before)
    assert not left, f"threads left running: {left}"


def _new_threads(before):
    # tqdm keeps one watching thread for good, and the operator those of its loops; a dummy stands
    # for one of PyTorch's own
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before
        and type(thread).__name__ not in {"TMonitor", "_DummyThread"}
        and not thread.name.startswith("sepconv-video loops")
    ]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips beside the repository."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"REAL CLIPS MISSING: {folder / 'data'} is not there")
    return folder
