"""What `benchmark.py` measures without any video: the operator, the networks, and a rival.

Every function here gives rows of figures; times are medians in milliseconds.
"""
# ruff: noqa: N803, N806 - N, C, H, W, K are the field's names for tensor sizes

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sepconv_video.devices import DTYPES, frames_dtype
from sepconv_video.kernels import sepconv_pair
from sepconv_video.memory import Ladder
from sepconv_video.models import SepConv2017
from sepconv_video.weights import LAYOUT, load_model

BASELINE = Path(__file__).with_name("baseline.cu")
BASELINE_THREADS = 512
C = 3
OPERATORS = {51: 1, 11: 2}
"""Taps, and how much they are enlarged on the way: those of the 2017 network, and of `fast`."""
LEAST_RUNS, MOST_RUNS = 3, 50
SLICE_ROWS = 16
"""On a CPU the straightforward loop does so many rows, and its time is scaled up."""
LANES = {(7, 5): 64, (8, 0): 64}
"""Multiply-adds per clock of a multiprocessor, by compute capability; 128 in all others."""

Row = dict[str, float | str | None]


@dataclass
class Bench:
    """What is measured on, and for how long."""

    device: torch.device
    precisions: list[str]
    limit_s: float
    """What would take longer is left out."""
    frames: int
    """Source frames for the whole program, at most."""
    clips: Path
    rates: dict[str, float] = field(default_factory=dict)
    """Seconds per pixel of what has been measured: more pixels will take as much each."""

    def is_too_long(self, what: str, pixels: int) -> bool:
        """Whether a measurement will take longer than wanted, as far as is known."""
        return self.rates.get(what, 0) * pixels * (LEAST_RUNS + 1) > self.limit_s

    def median_s(self, what: str, pixels: int, work: Callable[[], object]) -> float:
        """Median of several runs, after one to warm up."""
        work()
        times: list[float] = []
        while len(times) < LEAST_RUNS or (
            sum(times) < self.limit_s / 15 and len(times) < MOST_RUNS
        ):
            times.append(self.seconds(work))
        self.rates[what] = statistics.median(times) / pixels
        return statistics.median(times)

    def seconds(self, work: Callable[[], object]) -> float:
        """How long one run takes, by the device's own clock."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            work()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def peaks(bench: Bench) -> tuple[float, float]:
    """At most: multiply-adds in single precision and bytes moved, per second.

    A GPU's multiply-adds follow from its multiprocessors and their highest clock, a CPU's are
    those of a large matrix product; memory is timed at copying.
    """
    block = torch.zeros(2**29 if bench.device.type == "cuda" else 2**25, device=bench.device)
    copy = torch.zeros_like(block)
    copying_s = min(bench.seconds(lambda: copy.copy_(block)) for _ in range(6))
    bytes_per_s = 2 * block.element_size() * block.numel() / copying_s
    if bench.device.type == "cuda":
        return _gpu_fma_rate(bench.device), bytes_per_s
    square = torch.rand(2048, 2048)
    product_s = min(bench.seconds(lambda: square @ square) for _ in range(6))
    return 2048**3 / product_s, bytes_per_s


def _gpu_fma_rate(device: torch.device) -> float:
    attributes = _cupy().cuda.Device(device.index).attributes
    lanes = LANES.get(torch.cuda.get_device_capability(device), 128)
    return attributes["MultiProcessorCount"] * lanes * attributes["ClockRate"] * 1000


def _cupy():
    import cupy  # noqa: PLC0415 - machines without a GPU do not have it

    return cupy


def operator_macs(K: int) -> int:
    """Multiply-accumulates per pixel of a pair: along the rows, then down the columns."""
    return 2 * C * (K * K + K)


def operator_rows(bench: Bench, size: tuple[int, int], peak: tuple[float, float]) -> Iterator[Row]:
    """Filter both frames of a pair with random taps."""
    pixels, plain_s = size[0] * size[1], 0.0
    for K, scale in OPERATORS.items():
        for precision in bench.precisions:
            what = f"operator {K} {precision}"
            row: Row = {"taps": K, "precision": precision}
            if bench.is_too_long(what, pixels):
                yield row
                continue
            inputs = pair_inputs(size, (K, scale), bench.device, DTYPES[precision])
            ours_s = bench.median_s(what, pixels, lambda given=inputs: sepconv_pair(*given))
            moved = sum(tensor.nbytes for tensor in inputs if tensor is not None)
            work = operator_macs(K) * pixels
            floor_s = max(work / peak[0], moved / peak[1])
            row |= {"ms": ours_s * 1e3, "gmacs": work / ours_s / 1e9, "floor": floor_s / ours_s}
            if scale == 1 and precision == "fp32":
                plain_s = baseline_s(bench, inputs)
            if scale == 1 and plain_s:  # it knows single precision only
                row |= {"plain_ms": plain_s * 1e3, "gain": plain_s / ours_s}
            yield row


def pair_inputs(
    size: tuple[int, int], taps: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Left, right, taps and weight for `sepconv_pair`; taps at half resolution have a weight."""
    (W, H), (K, scale) = size, taps
    kind = {"device": device, "dtype": dtype}
    left, right = (torch.rand(1, C, H + K - 1, W + K - 1, **kind) for _ in range(2))
    coefficients = torch.rand(1, 4 * K, H // scale, W // scale, **kind) / K
    return left, right, coefficients, None if scale == 1 else torch.rand(1, 1, H, W, **kind)


def baseline_s(bench: Bench, inputs: tuple[Tensor, ...]) -> float:
    """Median seconds of a kernel of the reference's design for the same pair."""
    left, right, taps, _ = inputs
    maps = [part.contiguous() for part in taps.chunk(4, dim=1)]
    frames = ((left, *maps[:2]), (right, *maps[2:]))
    pixels = maps[0].shape[2] * maps[0].shape[3]
    if bench.device.type == "cuda":
        kernel = baseline_kernel()
        return bench.median_s("baseline", pixels, lambda: [launch(kernel, *f) for f in frames])
    rows = min(SLICE_ROWS, maps[0].shape[2])
    slices = [[part.numpy() for part in some] for some in (_first_rows(f, rows) for f in frames)]
    median_s = bench.median_s("baseline", pixels, lambda: [plain_loop(*f) for f in slices])
    return median_s * maps[0].shape[2] / rows


def _first_rows(frame: tuple[Tensor, ...], rows: int) -> list[Tensor]:
    image, vertical, horizontal = frame
    K = vertical.shape[1]
    return [image[:, :, : rows + K - 1], vertical[:, :, :rows], horizontal[:, :, :rows]]


@numba.njit(parallel=True, nogil=True, cache=True)
def plain_loop(image, vertical, horizontal):
    """One output element at a time: every tap from memory, Kahan's compensated sum."""
    N, K, H, W = vertical.shape
    channels = image.shape[1]
    out = np.empty((N, channels, H, W), np.float32)
    for line in numba.prange(N * channels * H):
        n, c, y = line // (channels * H), line // H % channels, line % H
        for x in range(W):
            total, lost = np.float32(0), np.float32(0)
            for i in range(K):
                for j in range(K):
                    product = image[n, c, y + i, x + j] * vertical[n, i, y, x]
                    term = product * horizontal[n, j, y, x] - lost
                    grown = total + term
                    lost = (grown - total) - term
                    total = grown
            out[n, c, y, x] = total
    return out


@cache
def baseline_kernel():
    """`baseline.cu`, compiled for the GPU at hand."""
    return _cupy().RawModule(code=BASELINE.read_text()).get_function("baseline")


def launch(kernel, image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Run `baseline.cu` on PyTorch's current stream; contiguous float32 tensors."""
    cupy = _cupy()
    N, K, H, W = vertical.shape
    out = image.new_empty(N, image.shape[1], H, W)
    arrays = [cupy.asarray(tensor) for tensor in (image, vertical, horizontal, out)]
    sizes = [np.int32(size) for size in (N, image.shape[1], H, W, K)]
    blocks = -(-out.numel() // BASELINE_THREADS)
    with cupy.cuda.Stream.from_external(torch.cuda.current_stream()):
        kernel((blocks,), (BASELINE_THREADS,), (*arrays, *sizes))
    return out


@cache
def networks(device: torch.device) -> dict[str, torch.nn.Module]:
    """The models by name; those of 2017 are as fast with random weights."""
    ours = {name: load_model(name, device) for name in ("fast", "fine")}
    return ours | {"2017": SepConv2017().eval().to(device, memory_format=LAYOUT)}


@cache
def network_macs(name: str) -> float:
    """Multiply-accumulates per pixel of a new frame, as convolutions are defined, and operator."""
    frame = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        # in double precision it is PyTorch that convolves, whose work alone is counted
        networks(torch.device("cpu"))[name].double()(frame, frame)
    # `fine` filters the pair as two motions move it
    operator = {"fast": operator_macs(11), "fine": 2 * operator_macs(11), "2017": operator_macs(51)}
    return counter.get_total_flops() / 2 / frame[0, 0].numel() + operator[name]


def moving_pair(height: int, width: int, **kind: Any) -> tuple[Tensor, Tensor]:
    """A texture at two moments; our networks seek all around for what moves like noise."""
    cells = torch.rand(1, 3, height // 8, width // 8)
    picture = F.interpolate(cells, (height + 4, width + 8), mode="bicubic").clamp(0, 1).to(**kind)
    return picture[..., :height, :width], picture[..., 4:, 8:]


@torch.inference_mode()
def network_rows(bench: Bench, size: tuple[int, int], peak: tuple[float, float]) -> Iterator[Row]:
    """Make a frame each from pairs that are on the device already, as many as the engine takes."""
    W, H = size
    for name, model in networks(bench.device).items():
        for precision in bench.precisions:
            what, dtype = f"network {name} {precision}", DTYPES[precision]
            ladder = Ladder(model, bench.device, frames_dtype(dtype))
            ladder.begin(W, H, made=1)
            row: Row = {"model": name, "precision": precision, "batch": ladder.batch}
            pixels = ladder.batch * W * H
            if bench.is_too_long(what, pixels):
                yield row
                continue
            kind = {"device": bench.device, "dtype": frames_dtype(dtype)}
            pair = [frame.repeat(ladder.batch, 1, 1, 1) for frame in moving_pair(H, W, **kind)]
            model.to(dtype)
            work = partial(ladder.predict, *pair)
            seconds = bench.median_s(what, pixels, work) / ladder.batch
            floor_s = network_macs(name) * W * H / peak[0]
            yield row | {"ms": seconds * 1e3, "rate": 1 / seconds, "floor": floor_s / seconds}
