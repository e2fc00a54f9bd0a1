"""`--doctor`: what is installed, what works, and the exact line that installs what is missing."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor

from sepconv_video.errors import SepConvVideoError
from sepconv_video.kernels import implementations, reference, sepconv
from sepconv_video.shipped import OFFICIAL_MODELS, shipped_models
from sepconv_video.weights import load_model

PACKAGES = ("torch", "av", "numpy", "numba", "safetensors", "click", "filelock", "tqdm")
CUPY_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x")


def examine() -> Iterator[str]:
    """Yield the findings, one line each; the operators and models are tried, not only looked at.

    Raises:
        SepConvVideoError: In the end, where something is broken.
    """
    yield f"python        {platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in PACKAGES:
        yield f"{name:13} {_version(name)}"
    yield from _gpu()
    broken = []
    for kind, name, state in chain(_operators(), _models()):
        yield f"{kind:13} {name}: {state}"
        is_of_use = name != "cuda" or torch.cuda.is_available()
        if is_of_use and not state.startswith("ok"):
            broken.append(f"{kind} `{name}`")
    if broken:
        raise SepConvVideoError(f"broken: {', '.join(broken)}", "the lines above say what is wrong")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gpu() -> Iterator[str]:
    cuda = torch.version.cuda
    if cuda is None:
        yield "gpu           PyTorch is a CPU build, so everything runs on the CPU"
        yield "              with an NVIDIA GPU: install a CUDA build of torch from pytorch.org"
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield f"gpu           cuda:{index} {properties.name}, {memory:.0f} GiB, CUDA {cuda}"
    if not torch.cuda.is_available():
        yield f"gpu           PyTorch is built for CUDA {cuda} but sees no GPU: check the driver"
    found = [name for name in CUPY_PACKAGES if _version(name) != "not installed"]
    if found:
        yield from (f"{name:13} {_version(name)}" for name in found)
    else:
        extra = f"cuda{cuda.partition('.')[0]}"
        yield f'cupy          not installed: pip install "sepconv-video[{extra}]"'


def _operators() -> Iterator[tuple[str, str, str]]:
    for name, state in implementations().items():
        yield "operator", name, _try_operator(name) if state == "ok" else state


def _try_operator(name: str) -> str:
    """Run one implementation on a small problem and compare it with the reference in float64."""
    device = "cuda" if name == "cuda" else "cpu"
    run: Callable[[Tensor, Tensor, Tensor], Tensor] = (
        reference.sepconv if name == "reference" else sepconv
    )
    torch.manual_seed(0)
    image, vertical, horizontal = (
        torch.rand(1, channels, 64 + extra, 64 + extra)
        for channels, extra in ((3, 50), (51, 0), (51, 0))
    )
    true = reference.sepconv(image.double(), vertical.double(), horizontal.double())
    try:
        arguments = [tensor.to(device) for tensor in (image, vertical, horizontal)]
        run(*arguments)  # the first call compiles
        started = time.perf_counter()
        found = run(*arguments).cpu().double()
        seconds = time.perf_counter() - started
    except (RuntimeError, SepConvVideoError) as error:
        return f"fails: {error}"
    difference = ((found - true).norm() / true.norm()).item()
    verdict = "ok" if difference < 1e-5 else "WRONG RESULTS"
    return f"{verdict}, relative error {difference:.1e}, {seconds * 1000:.1f} ms for 64x64 pixels"


def _models() -> Iterator[tuple[str, str, str]]:
    fetched = [name for name, model in OFFICIAL_MODELS.items() if not model.missing]
    for name in (*shipped_models(), *fetched):
        try:
            load_model(name)
            yield "model", name, "ok"
        except SepConvVideoError as error:
            yield "model", name, error.message
