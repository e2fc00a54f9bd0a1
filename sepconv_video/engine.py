"""The engine: intervals in, frames out, in order; the network runs on batches of pairs.

It knows neither files nor codecs. The network may be any callable `(left, right) -> middle`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sepconv_video import color
from sepconv_video.errors import DeviceError, OptionsError
from sepconv_video.frames import Frame, Interval, Plane, VideoInfo
from sepconv_video.kernels import implementations
from sepconv_video.options import Options
from sepconv_video.schedule import held_frame, output_pts
from sepconv_video.weights import load_model

Interpolator = Callable[[Tensor, Tensor], Tensor]
"""Predicts the frame half way between two batches (N, 3, H, W) of RGB in [0, 1]."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BYTES_PER_PIXEL = 4000
"""Rough peak memory of a network in fp32 for one pair, per pixel: chooses the first batch."""
LARGEST_AUTO_BATCH = 8


def midpoints(model: Interpolator, left: Tensor, right: Tensor, levels: int) -> Tensor:
    """Synthesise the frames between each pair, by repeated halving.

    SepConv predicts only the middle of two frames, so 4x takes two levels: the
    middle first, then the middle of each half, both halves in one batch.

    Args:
        model: Predicts the frame half way between two batches.
        left: Earlier frames, (N, 3, H, W), RGB in [0, 1], gamma as decoded.
        right: Later frames; shape, dtype and device of `left`.
        levels: log2 of the frame-rate factor: 1 for 2x, 2 for 4x.

    Returns:
        (N, 2**levels - 1, 3, H, W), in time order.
    """
    count = left.shape[0]
    times = torch.stack((left, right), dim=1)
    for _ in range(levels):
        before, after = times[:, :-1], times[:, 1:]
        middle = model(before.flatten(0, 1), after.flatten(0, 1)).view(count, -1, *left.shape[1:])
        pairs = torch.stack((before, middle), dim=2).flatten(1, 2)
        times = torch.cat((pairs, times[:, -1:]), dim=1)
    return times[:, 1:-1]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some intervals and, on their way back from the device, what was made for them."""

    intervals: list[Interval]
    made: tuple[Tensor, ...] | None
    """One tensor per plane, (frames made, rows, columns); None where all are held."""
    is_copied: torch.cuda.Event | None
    """Set when `made` has arrived in the host's memory; None on a CPU."""


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

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Choose device and precision, and load the model.

        Raises:
            DeviceError: The device does not exist or lacks CuPy.
            OptionsError: The precision makes no sense on the device.
            WeightsError: The model cannot be loaded.
        """
        device = choose_device(options.device)
        dtype = choose_dtype(options.precision, device)
        model = load_model(options.model, device).to(dtype)
        return cls(model, device=device, dtype=dtype, batch=options.batch)

    def run(self, intervals: Iterable[Interval], info: VideoInfo, factor: int) -> Iterator[Frame]:
        """Make the output: every source frame untouched, and `factor - 1` frames after each.

        Args:
            intervals: In order, as `schedule.intervals` yields them.
            info: What the planes mean.
            factor: 2, 4 or 8.

        Yields:
            Frames in order, `pts` and `duration` in ticks of `info.time_base / factor`.

        Raises:
            DeviceError: Not even one pair fits into the memory, or the GPU itself failed.
        """
        try:
            yield from self._run(intervals, info, factor)
        except RuntimeError as error:
            if "CUDA error" in str(error):
                raise self._lost(error) from error
            raise

    def _lost(self, error: RuntimeError) -> DeviceError:
        return DeviceError(
            f"the device `{self.device}` failed: {str(error).splitlines()[0]}",
            "see `nvidia-smi`; run the same command again to go on, or with `--device cpu`",
        )

    def _run(self, intervals: Iterable[Interval], info: VideoInfo, factor: int) -> Iterator[Frame]:
        pending: _Batch | None = None
        index = 0
        for group in self._groups(intervals, info, factor):
            launched = self._launch(group, info, factor)
            # one batch in flight: the device works on this one while that one is written
            if pending is not None:
                for frame in _finish(pending, factor, index):
                    yield frame
                    index += 1
            pending = launched
        if pending is not None:
            yield from _finish(pending, factor, index)

    @torch.inference_mode()
    def middle_picture(
        self, left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Make the picture between two pictures (H, W, 3) of 8-bit RGB."""
        pair = torch.from_numpy(np.stack((left, right))).to(self.device, self.dtype)
        pair = pair.permute(0, 3, 1, 2) / 255
        middle = self.model(pair[:1], pair[1:])[0].float()
        codes = (middle * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
        made: npt.NDArray[np.uint8] = codes.permute(1, 2, 0).cpu().numpy()
        return made

    def _groups(
        self, intervals: Iterable[Interval], info: VideoInfo, factor: int
    ) -> Iterator[list[Interval]]:
        """Cut the intervals into lists that hold one batch of work each."""
        batch = self.batch or self._auto_batch(info)
        # the last level of halving has factor / 2 pairs for each interval
        wanted = max(1, batch // (factor // 2))
        group: list[Interval] = []
        for interval in intervals:
            group.append(interval)
            work = sum(item.synthesise for item in group)
            # a long still must not pile up either
            if work == wanted or len(group) >= 4 * wanted:
                yield group
                group = []
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
    def _launch(self, group: list[Interval], info: VideoInfo, factor: int) -> _Batch:
        """Start the work for one group; on a GPU it is still going on when this returns."""
        pairs = [
            (item.left, item.right) for item in group if item.synthesise and item.right is not None
        ]
        if not pairs:
            return _Batch(group, None, None)
        made = self._synthesise(pairs, info, factor)
        if self.device.type != "cuda":
            return _Batch(group, made, None)
        with torch.cuda.device(self.device):
            host = tuple(
                torch.empty(plane.shape, dtype=plane.dtype, pin_memory=True) for plane in made
            )
            for target, plane in zip(host, made, strict=True):
                target.copy_(plane, non_blocking=True)
            is_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            is_copied.record()
        return _Batch(group, host, is_copied)

    def _synthesise(
        self, pairs: list[tuple[Frame, Frame]], info: VideoInfo, factor: int
    ) -> tuple[Tensor, ...]:
        """Planes of all new frames, (pairs * (factor - 1), rows, columns) each."""
        try:
            return self._forward(pairs, info, factor)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # outside of `except`, whose traceback would keep the failed tensors alive
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(pairs) == 1:
            raise DeviceError(
                f"out of memory: one pair of {info.width}x{info.height} frames does not fit "
                f"on `{self.device}`",
                "close other programs, use `--precision fp16` on a GPU, or `--device cpu`",
            )
        half = len(pairs) // 2
        self.batch = max(1, half * (factor // 2))
        first = self._synthesise(pairs[:half], info, factor)
        second = self._synthesise(pairs[half:], info, factor)
        return tuple(torch.cat(planes) for planes in zip(first, second, strict=True))

    def _forward(
        self, pairs: list[tuple[Frame, Frame]], info: VideoInfo, factor: int
    ) -> tuple[Tensor, ...]:
        # neighbouring pairs share a frame: each is uploaded and converted once
        frames = {frame.index: frame for pair in pairs for frame in pair}
        place = {index: position for position, index in enumerate(frames)}
        planes = color.upload(list(frames.values()), self.device)
        rgb = color.to_rgb(planes, info, self.dtype)
        left = rgb[[place[left.index] for left, _ in pairs]]
        right = rgb[[place[right.index] for _, right in pairs]]
        levels = factor.bit_length() - 1
        made = midpoints(self.model, left, right, levels).flatten(0, 1)
        return color.from_rgb(made, info)


def _finish(batch: _Batch, factor: int, index: int) -> Iterator[Frame]:
    """Wait for a batch and yield all its frames, numbered from `index`."""
    if batch.is_copied is not None:
        batch.is_copied.synchronize()
    new = iter(() if batch.made is None else color.download(batch.made))
    for interval in batch.intervals:
        duration = interval.end_pts - interval.left.pts
        for k, pts in enumerate(output_pts(interval, factor)):
            if k and interval.synthesise:
                planes: tuple[Plane, ...] = next(new)
            else:
                planes = held_frame(interval, factor, k).planes
            yield Frame(index=index, pts=pts, duration=duration, planes=planes)
            index += 1


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
