"""The engine: intervals in, frames out, in order; the network runs on batches of pairs.

It knows neither files nor codecs. The network may be any callable `(left, right) -> middle`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sepconv_video import color
from sepconv_video.errors import DeviceError, OptionsError
from sepconv_video.frames import POSITIONS, Frame, Interval, Plane, VideoInfo
from sepconv_video.kernels import implementations
from sepconv_video.options import Options
from sepconv_video.schedule import held_frame, is_made
from sepconv_video.timing import busy, measure, read_events
from sepconv_video.weights import load_model

Interpolator = Callable[[Tensor, Tensor], Tensor]
"""Predicts the frame half way between two batches (N, 3, H, W) of RGB in [0, 1]."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BYTES_PER_PIXEL = 4000
"""Rough peak memory of a network in fp32 for one pair, per pixel: chooses the first batch."""
LARGEST_AUTO_BATCH = 8


def between(
    model: Interpolator,
    left: Tensor,
    right: Tensor,
    wanted: Sequence[Collection[int]],
    batch: int | None = None,
) -> Tensor:
    """Synthesise frames between each pair, by repeated halving.

    SepConv predicts only the middle of two frames: first the middle of each pair, then, where
    one of its halves has a frame that is wanted, the middle of that half, and so on.

    Args:
        model: Predicts the frame half way between two batches.
        left: Earlier frames, (N, 3, H, W), RGB in [0, 1], gamma as decoded.
        right: Later frames; shape, dtype and device of `left`.
        wanted: For each pair where frames are wanted, in eighths (`POSITIONS`) of the way from
            left to right, 1 to 7.
        batch: Pairs in the network at once, at most; None for all there are.

    Returns:
        (frames wanted, 3, H, W), pair by pair, in time order.
    """
    frames = {(n, 0): frame for n, frame in enumerate(left)}
    frames |= {(n, POSITIONS): frame for n, frame in enumerate(right)}
    step = POSITIONS // 2
    while step:
        places = [
            (n, position)
            for n, positions in enumerate(wanted)
            for position in range(step, POSITIONS, 2 * step)
            if any(abs(position - other) < step for other in positions)
        ]
        size = batch or max(1, len(places))
        for start in range(0, len(places), size):
            some = places[start : start + size]
            before = torch.stack([frames[n, position - step] for n, position in some])
            after = torch.stack([frames[n, position + step] for n, position in some])
            frames |= dict(zip(some, model(before, after), strict=True))
        step //= 2
    return torch.stack([frames[n, p] for n, group in enumerate(wanted) for p in sorted(group)])


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some intervals and, on their way back from the device, what was made for them."""

    intervals: list[Interval]
    wanted: "_Wanted"
    made: tuple[Tensor, ...] | None
    """One tensor per plane, (frames made, rows, columns); None where all are held."""
    is_copied: torch.cuda.Event | None
    """Set when `made` has arrived in the host's memory; None on a CPU."""


class _Wanted:
    """Which frames are to be made for some intervals: pairs, and positions between them."""

    def __init__(self, intervals: Sequence[Interval] = ()) -> None:
        self._positions: dict[tuple[int, int], set[int]] = {}
        self.pairs: list[tuple[Frame, Frame]] = []
        for interval in intervals:
            self.add(interval)

    def add(self, interval: Interval) -> None:
        """Take in what is to be made for an interval; several may lie between the same pair."""
        positions = {m.position for m in interval.moments if is_made(interval, m)}
        if not positions or interval.right is None:
            return
        key = (interval.left.index, interval.right.index)
        if key not in self._positions:
            self._positions[key] = set()
            self.pairs.append((interval.left, interval.right))
        self._positions[key] |= positions

    @property
    def positions(self) -> list[set[int]]:
        """For each pair the positions wanted."""
        return list(self._positions.values())

    def places(self) -> dict[tuple[int, int, int], int]:
        """Number what `between` returns: by indices of the pair and position."""
        keys = (
            (*pair, position)
            for pair, positions in self._positions.items()
            for position in sorted(positions)
        )
        return {key: place for place, key in enumerate(keys)}


class Engine:
    """A network on a device, fed in batches; one engine serves many files in turn."""

    def __init__(
        self,
        model: Interpolator,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int | None = None,
    ) -> None:
        """Take a network that is already on `device` in `dtype`.

        Args:
            model: Predicts the frame half way between two batches.
            device: Where the network is.
            dtype: Floating type of the frames that it gets.
            batch: Pairs in the network at once; None chooses by free memory.
        """
        self.model, self.device, self.dtype = model, torch.device(device), dtype
        self.batch = batch
        self._at_once = batch or 1  # of the run in hand, as its memory allows

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Choose device and precision, and load the model; measure from now on, if wanted.

        Raises:
            DeviceError: The device does not exist or lacks CuPy.
            OptionsError: The precision makes no sense on the device.
            WeightsError: The model cannot be loaded.
        """
        device = choose_device(options.device)
        dtype = choose_dtype(options.precision, device)
        model = load_model(options.model, device).to(dtype)
        measure(options.verbose)
        return cls(model, device=device, dtype=dtype, batch=options.batch)

    def run(self, intervals: Iterable[Interval], info: VideoInfo) -> Iterator[list[Frame]]:
        """Make the output: source frames untouched, and what is to be made between them.

        Args:
            intervals: In order, as `schedule.intervals` yields them.
            info: What the planes mean.

        Yields:
            For each interval the frames of its moments, with their times; they are numbered
            through.

        Raises:
            DeviceError: Not even one pair fits into the memory, or the GPU itself failed.
        """
        try:
            yield from self._run(intervals, info)
        except RuntimeError as error:
            if "CUDA error" in str(error):
                raise self._lost(error) from error
            raise

    def _lost(self, error: RuntimeError) -> DeviceError:
        return DeviceError(
            f"the device `{self.device}` failed: {str(error).splitlines()[0]}",
            "see `nvidia-smi`; run the same command again to go on, or with `--device cpu`",
        )

    def _run(self, intervals: Iterable[Interval], info: VideoInfo) -> Iterator[list[Frame]]:
        pending: _Batch | None = None
        numbers = count()
        for group in self._groups(intervals, info):
            launched = self._launch(group, info)
            # one batch in flight: the device works on this one while that one is written
            if pending is not None:
                yield from _finish(pending, numbers)
            pending = launched
        if pending is not None:
            yield from _finish(pending, numbers)

    @torch.inference_mode()
    def middle_picture(
        self, left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Make the picture between two pictures (H, W, 3) of 8-bit RGB."""
        pair = torch.from_numpy(np.stack((left, right))).to(self.device, self.dtype)
        pair = pair.permute(0, 3, 1, 2) / 255
        with busy("network", self.device):
            middle = self.model(pair[:1], pair[1:])[0].float()
        codes = (middle * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
        made: npt.NDArray[np.uint8] = codes.permute(1, 2, 0).cpu().numpy()
        return made

    def _groups(self, intervals: Iterable[Interval], info: VideoInfo) -> Iterator[list[Interval]]:
        """Cut the intervals into lists that hold one batch of work each.

        Those between the same pair stay together, as they share what is made on the way.
        """
        self._at_once = self.batch or self._auto_batch(info)
        group: list[Interval] = []
        wanted = _Wanted()
        for interval in intervals:
            wanted.add(interval)
            # a long still must not pile up either
            if len(wanted.pairs) > self._at_once or len(group) >= 4 * self._at_once:
                yield group
                group, wanted = [], _Wanted([interval])
            group.append(interval)
        if group:
            yield group

    def _auto_batch(self, info: VideoInfo) -> int:
        if self.device.type != "cuda":
            return 1  # a CPU gains nothing from batches, and the first frame comes sooner
        free, _ = torch.cuda.mem_get_info(self.device)
        size = BYTES_PER_PIXEL * self.dtype.itemsize // 4
        fitting = int(free * 0.6) // (size * info.width * info.height)
        return max(1, min(LARGEST_AUTO_BATCH, fitting))

    # as a decorator of a plain function, never around a `yield`: it would leak to the consumer
    @torch.inference_mode()
    def _launch(self, group: list[Interval], info: VideoInfo) -> _Batch:
        """Start the work for one group; on a GPU it is still going on when this returns."""
        wanted = _Wanted(group)
        if not wanted.pairs:
            return _Batch(group, wanted, None, None)
        made = self._synthesise(wanted, info)
        if self.device.type != "cuda":
            return _Batch(group, wanted, made, None)
        with torch.cuda.device(self.device):
            host = tuple(
                torch.empty(plane.shape, dtype=plane.dtype, pin_memory=True) for plane in made
            )
            with busy("download", self.device):
                for target, plane in zip(host, made, strict=True):
                    target.copy_(plane, non_blocking=True)
            is_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            is_copied.record()
        return _Batch(group, wanted, host, is_copied)

    def _synthesise(self, wanted: _Wanted, info: VideoInfo) -> tuple[Tensor, ...]:
        """Planes of all new frames, (frames, rows, columns) each; less at once if need be."""
        while True:
            try:
                return self._forward(wanted, info)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            # outside of `except`, whose traceback would keep the failed tensors alive
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self._at_once == 1:
                raise DeviceError(
                    f"out of memory: one pair of {info.width}x{info.height} frames does not fit "
                    f"on `{self.device}`",
                    "close other programs, use `--precision fp16` on a GPU, or `--device cpu`",
                )
            self._at_once //= 2

    def _forward(self, wanted: _Wanted, info: VideoInfo) -> tuple[Tensor, ...]:
        # neighbouring pairs share a frame: each is uploaded and converted once
        frames = {frame.index: frame for pair in wanted.pairs for frame in pair}
        place = {index: position for position, index in enumerate(frames)}
        with busy("upload", self.device):
            planes = color.upload(list(frames.values()), self.device)
            rgb = color.to_rgb(planes, info, self.dtype)
        left = rgb[[place[left.index] for left, _ in wanted.pairs]]
        right = rgb[[place[right.index] for _, right in wanted.pairs]]
        with busy("network", self.device):
            made = between(self.model, left, right, wanted.positions, self._at_once)
        with busy("download", self.device):
            return color.from_rgb(made, info)


def _finish(batch: _Batch, numbers: Iterator[int]) -> Iterator[list[Frame]]:
    """Wait for a batch and yield what each of its intervals shows."""
    if batch.is_copied is not None:
        batch.is_copied.synchronize()
        read_events()
    made = [] if batch.made is None else color.download(batch.made)
    places = batch.wanted.places()
    for interval in batch.intervals:
        shown = []
        for moment in interval.moments:
            planes: tuple[Plane, ...] = held_frame(interval, moment).planes
            if is_made(interval, moment) and interval.right is not None:
                key = (interval.left.index, interval.right.index, moment.position)
                planes = made[places[key]]
            index = next(numbers)
            shown.append(
                Frame(index=index, pts=moment.pts, duration=moment.duration, planes=planes)
            )
        yield shown


def _is_out_of_memory(error: RuntimeError) -> bool:
    # a CPU's allocator raises a bare RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def choose_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that works.

    `auto` is the GPU if PyTorch sees one. It is never given up silently: a GPU without a
    working CuPy is an error, as the CPU would be a hundred times slower.

    Raises:
        DeviceError: There is no such device, or it lacks CuPy.
        OptionsError: The name is none of these.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise OptionsError(f"unknown device `{name}`", "use `auto`, `cpu`, `cuda` or `cuda:N`")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        raise DeviceError(
            f"no device `{name}`: PyTorch sees {count} CUDA devices here",
            "use `--device cpu`, or run `sepconv-video --doctor` to see what is missing",
        )
    reason = implementations()["cuda"]
    if reason != "ok":
        raise DeviceError(
            f"cannot use `{name}`: {reason}", "run `sepconv-video --doctor`, or use `--device cpu`"
        )
    return torch.device("cuda", int(number or 0))


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Turn `auto`, `fp32`, `fp16` or `bf16` into the floating type of the network.

    Raises:
        OptionsError: Half precision on a CPU, where it is many times slower than fp32.
    """
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if device.type == "cpu" and precision != "fp32":
        raise OptionsError(
            f"`--precision {precision}` needs a GPU: on a CPU it is many times slower than fp32",
            "leave the option out, or use `--precision fp32`",
        )
    return DTYPES[precision]
