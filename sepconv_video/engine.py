"""The engine: intervals in, frames out, in order; the network runs on batches of pairs.

It knows neither files nor codecs. The network may be any callable `(left, right) -> middle`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from sepconv_video import color, kernels, timing
from sepconv_video.bars import Area, picture_area
from sepconv_video.devices import choose_device, choose_dtype, frames_dtype
from sepconv_video.errors import DeviceError
from sepconv_video.frames import POSITIONS, Frame, Interval, Picture, Plane, VideoInfo
from sepconv_video.groups import Group, area_of
from sepconv_video.memory import (
    Interpolator,
    Ladder,
    give_back_freed,
    is_out_of_memory,
    keep_freed,
)
from sepconv_video.models.bending import UNKNOWN, Known
from sepconv_video.neighbours import Neighbours, Step, halved, joined, stacked
from sepconv_video.options import Options
from sepconv_video.schedule import held_frame, is_made
from sepconv_video.timing import busy, read_events
from sepconv_video.weights import load_model

T = TypeVar("T")


def between(
    model: Callable[..., Tensor],
    left: Sequence[Tensor] | Tensor,
    right: Sequence[Tensor] | Tensor,
    wanted: Sequence[Collection[int]],
    batch: int | None = None,
    known: Sequence[Known] | None = None,
) -> list[Tensor]:
    """Synthesise frames between each pair, by repeated halving.

    SepConv predicts only the middle of two frames: first the middle of each pair, then, where
    one of its halves has a frame that is wanted, the middle of that half, and so on.

    Args:
        model: Predicts the frame half way between two batches.
        left: Earlier frames, N times (3, H, W), RGB in [0, 1], gamma as decoded.
        right: Later frames; shape, dtype and device of `left`.
        wanted: For each pair where frames are wanted, in eighths (`POSITIONS`) of the way from
            left to right, 1 to 7.
        batch: Pairs in the network at once, at most; None for all there are.
        known: What is known of each pair, (1, ...) each; then the model takes it as `known`.

    Returns:
        The frames wanted, (3, H, W) each, pair by pair, in time order.
    """
    known = known or [UNKNOWN] * len(left)
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
            before = stacked([frames[n, position - step] for n, position in some])
            after = stacked([frames[n, position + step] for n, position in some])
            told = joined([known[n] for n, _ in some])
            made = model(before, after) if told is UNKNOWN else model(before, after, known=told)
            frames |= dict(zip(some, made, strict=True))
        known = [halved(one) for one in known]
        step //= 2
    return [frames[n, p] for n, group in enumerate(wanted) for p in sorted(group)]


@dataclass(frozen=True, slots=True)
class _Batch:
    """A group and, on their way back from the device, the frames that were made for it."""

    group: Group
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
        tile: int | None = None,
    ) -> None:
        """Take a network that is already on `device` in `dtype`.

        Args:
            model: Predicts the frame half way between two batches.
            device: Where the network is.
            dtype: Floating type of the frames that it gets.
            batch: Pairs in the network at once; None chooses by free memory.
            tile: Pixels a side that it works on at once; None chooses likewise.

        Raises:
            OptionsError: A tile is given, and the network knows no tiles.
        """
        self.device, self.dtype = torch.device(device), dtype
        self._ladder = Ladder(model, self.device, dtype, batch, tile)
        self._kept: dict[int, Tensor] = {}  # the last frames in RGB, which the next pairs share
        self._neighbours = Neighbours(model)
        self._area: Area | None = None  # where the pictures lie whose motion these know

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """Choose device and precision, and load the model; measure from now on, if wanted.

        Raises:
            DeviceError: The device does not exist or lacks CuPy.
            OptionsError: The precision makes no sense on the device.
            WeightsError: The model cannot be loaded.
        """
        device = choose_device(options.device)
        model = load_model(options.model, device)
        dtype = choose_dtype(options.precision, device, bf16_suffices=bool(model.bf16_suffices))
        model.to(dtype)
        timing.enable(options.verbose)
        if device.type == "cpu":
            keep_freed()
        return cls(
            model,
            device=device,
            dtype=frames_dtype(dtype),
            batch=options.batch,
            tile=options.tile or None,
        )

    def run(
        self, intervals: Iterable[Interval], info: VideoInfo, most_made: int = POSITIONS - 1
    ) -> Iterator[list[Frame]]:
        """Make the output: source frames untouched, and what is to be made between them.

        Args:
            intervals: In order, as `schedule.intervals` yields them.
            info: What the planes mean.
            most_made: Frames made between two, at most; memory is counted on for so many.

        Yields:
            For each interval the frames of its moments, with their times; they are numbered
            through.

        Raises:
            DeviceError: Not even one pair fits into the memory, or the GPU itself failed.
        """
        self._ladder.begin(info.width, info.height, most_made)
        try:
            yield from self._run(intervals, info)
        except RuntimeError as error:
            # as PyTorch says it, and CuPy of the driver and of the runtime
            if re.search("CUDA error|CUDA_ERROR|cudaError", str(error)):
                raise self._lost(error) from error
            raise
        finally:
            self._kept = {}
            self._neighbours.forget()

    @property
    def notes(self) -> list[str]:
        """What was forced upon the frames made last, one line each, for the user."""
        return [*self._ladder.notes, *kernels.notes()]

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
            # one batch in flight: a GPU works on this one while that one is written
            if pending is not None:
                yield from _finish(pending, numbers)
            pending = launched if launched.is_copied is not None else None
            if pending is None:
                yield from _finish(launched, numbers)
        if pending is not None:
            yield from _finish(pending, numbers)

    @torch.inference_mode()
    def pictures_between(self, left: Picture, right: Picture, factor: int = 2) -> list[Picture]:
        """Make `factor - 1` pictures, evenly spaced, between two of one size and depth.

        Raises:
            DeviceError: They do not fit into the memory.
        """
        self._ladder.begin(left.shape[1], left.shape[0], factor - 1)
        return self._within_memory(lambda: self._pictures(left, right, POSITIONS // factor))

    def _pictures(self, left: Picture, right: Picture, step: int) -> list[Picture]:
        bits = 8 * left.itemsize
        top = (1 << bits) - 1
        part = picture_area(left.max(-1), right.max(-1), black=0, bits=bits).part
        pair = torch.from_numpy(np.stack((left[part], right[part]))).to(self.device)
        # divided in fp32, as fp16 does not reach 65535
        pair = (pair.permute(0, 3, 1, 2).float() / top).to(self.dtype)
        wanted = [range(step, POSITIONS, step)]
        with busy("network", self.device):
            made = between(self._ladder.predict, pair[:1], pair[1:], wanted, self._ladder.batch)
        pictures = []
        for frame in made:
            codes = (frame.float() * top + 0.5).floor().clamp(0, top)
            pictures.append(left.copy())
            pictures[-1][part] = codes.permute(1, 2, 0).cpu().numpy()
        return pictures

    def _groups(self, intervals: Iterable[Interval], info: VideoInfo) -> Iterator[Group]:
        """Cut the intervals into groups that hold one batch of work each.

        Those between the same pair stay together, as they share what is made on the way.
        """
        group = Group()
        for interval in intervals:
            most = self._ladder.batch
            area = area_of(interval, info)
            # a long still must not pile up either
            if group.is_full(interval, area, most) or len(group.intervals) >= 4 * most:
                yield group
                group = Group()
            group.add(interval, area)
        if group.intervals:
            yield group

    # as a decorator of a plain function, never around a `yield`: it would leak to the consumer
    @torch.inference_mode()
    def _launch(self, group: Group, info: VideoInfo) -> _Batch:
        """Start the work for one group; on a GPU it is still going on when this returns."""
        if not group.pairs:
            return _Batch(group, None, None)
        made = self._within_memory(lambda: self._forward(group, info))
        if self.device.type != "cuda":
            return _Batch(group, made, None)
        with torch.cuda.device(self.device):
            host = tuple(
                torch.empty(plane.shape, dtype=plane.dtype, pin_memory=True) for plane in made
            )
            with busy("download", self.device):
                for target, plane in zip(host, made, strict=True):
                    target.copy_(plane, non_blocking=True)
            is_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            is_copied.record()
        return _Batch(group, host, is_copied)

    def _within_memory(self, work: Callable[[], T]) -> T:
        """Do some work, with less at once each time that the memory does not suffice."""
        while True:
            try:
                with self._current_device():
                    return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # outside of `except`, whose traceback would keep the failed tensors alive
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            give_back_freed()
            self._ladder.step_down()

    def _current_device(self) -> AbstractContextManager[object]:
        """Make a GPU this thread's current one.

        CuPy restores the previous one after each launch, so it would begin to use GPU 0.
        """
        is_gpu = self.device.type == "cuda"
        return torch.cuda.device(self.device) if is_gpu else nullcontext()

    def _forward(self, group: Group, info: VideoInfo) -> tuple[Tensor, ...]:
        """Planes of all new frames, (frames, rows, columns) each."""
        near, both = self._neighbours, list(zip(group.pairs, group.around, strict=True))
        if group.area != self._area:  # their motion was found in another part of the frames
            near.forget()
            self._area = group.area
        steps = near.unknown(step for pair, around in both for step in near.steps(pair, around))
        with busy("upload", self.device):
            rgb = self._to_rgb([*group.pairs, *steps], info)
        with busy("network", self.device):
            for some in self._batches(steps):
                near.look(some, group.pictures(rgb))
            # the next group needs the frame after the last pair; in tiles memory is short: it is
            # not kept in RGB
            last = group.pairs[-1][1].index
            seen = {frame.index for pair in group.pairs for frame in pair}
            keeps = self._ladder.tile is None
            rgb = {n: frame for n, frame in rgb.items() if n in seen or (keeps and n > last)}
            pictures = group.pictures(rgb)
            made = between(
                self._ladder.predict,
                [pictures[left.index] for left, _ in group.pairs],
                [pictures[right.index] for _, right in group.pairs],
                group.positions,
                self._ladder.batch,
                [near.known(pair, around) for pair, around in both],
            )
        self._kept = {index: frame for index, frame in rgb.items() if index >= last}
        near.forget(last)
        made = group.in_frames(made, rgb)
        del rgb, pictures
        with busy("download", self.device):
            planes = [color.from_rgb(stacked(some), info) for some in self._batches(made)]
            return tuple(map(torch.cat, zip(*planes, strict=True)))

    def _to_rgb(self, pairs: Sequence[Step], info: VideoInfo) -> dict[int, Tensor]:
        """Frames by their index, (3, H, W); each is uploaded and converted only once."""
        frames = {frame.index: frame for pair in pairs for frame in pair}
        rgb = {index: frame for index, frame in self._kept.items() if index in frames}
        new = [frame for index, frame in frames.items() if index not in rgb]
        for some in self._batches(new):
            planes = color.upload(some, self.device)
            converted = color.to_rgb(planes, info, self.dtype)
            rgb |= zip((frame.index for frame in some), converted, strict=True)
        return rgb

    def _batches(self, frames: Sequence[T]) -> Iterator[Sequence[T]]:
        size = self._ladder.batch
        return (frames[start : start + size] for start in range(0, len(frames), size))


def _finish(batch: _Batch, numbers: Iterator[int]) -> Iterator[list[Frame]]:
    """Wait for a batch and yield what each of its intervals shows."""
    if batch.is_copied is not None:
        batch.is_copied.synchronize()
        read_events()
    made = [] if batch.made is None else color.download(batch.made)
    places = batch.group.places()
    for interval in batch.group.intervals:
        shown = []
        for moment in interval.moments:
            nearest = held_frame(interval, moment)
            planes: tuple[Plane, ...] = nearest.planes
            if is_made(interval, moment) and interval.right is not None:
                key = (interval.left.index, interval.right.index, moment.position)
                planes = made[places[key]]
            index = next(numbers)
            shown.append(
                Frame(
                    index=index,
                    pts=moment.pts,
                    duration=moment.duration,
                    planes=planes,
                    captions=moment.captions,
                    dynamic=nearest.dynamic,
                )
            )
        yield shown
