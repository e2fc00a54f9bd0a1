"""Between the network and the disk: what may be made, and which segment it is written into."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame, Interval, VideoInfo
from sepconv_video.parts import Part, Parts
from sepconv_video.scenes import CUT_SCORE, Sketch, cut_score, is_duplicate
from sepconv_video.schedule import intervals
from sepconv_video.video import Reader, SegmentWriter, Track

SEGMENT_FRAMES = 120
"""Source frames per segment: what a kill may cost, five seconds of a film; and about as far
apart as encoders set key frames anyway."""
SEGMENT_S = 300.0
"""A segment that takes longer is finished early: what a kill may cost on a slow machine."""


class Judge:
    """Decides whether anything may be made between two frames, and remembers where not.

    Attributes:
        end: Index after the source's last frame, once that is known.
    """

    def __init__(self, bits: int) -> None:
        """Judge frames of so many bits per sample."""
        self.end: int | None = None
        self._bits = bits
        self._cuts: list[int] = []
        self._stills: list[int] = []

    def watch(self, frames: Iterator[Frame], info: VideoInfo) -> Iterator[Interval]:
        """Pair the frames, noticing the last one."""
        # a lone frame without a duration is shown as long as the rate says
        default_duration = round(1 / (info.rate * info.time_base)) if info.rate else 1
        for interval in intervals(frames, self._may_synthesise, default_duration):
            if interval.right is None:
                self.end = interval.left.index + 1
            yield interval

    def _may_synthesise(self, left: Frame, right: Frame) -> bool:
        if is_duplicate(left, right):
            self._stills.append(right.index)
            return False
        first, second = (Sketch.of(frame.planes[0], self._bits) for frame in (left, right))
        if cut_score(first, second) >= CUT_SCORE:
            self._cuts.append(right.index)
            return False
        return True

    def cuts(self, first: int, end: int) -> tuple[int, ...]:
        """Frames beginning a shot, of the intervals that begin with frames `first` to `end`."""
        return tuple(index for index in self._cuts if first < index <= end)

    def stills(self, first: int, end: int) -> int:
        """Count the held pairs of the same intervals."""
        return sum(first < index <= end for index in self._stills)


class Scribe:
    """Writes frames into segments, each finished when it is full."""

    def __init__(self, parts: Parts, track: Track, factor: int, first: int, judge: Judge) -> None:
        """Begin a segment with the source frame `first`."""
        self._parts, self._track, self._factor, self._judge = parts, track, factor, judge
        self._first, self._frames = first, 0
        self._writer: SegmentWriter | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                self._parts.writing_path(self._first).unlink(missing_ok=True)

    @property
    def _end(self) -> int:
        """Index of the source frame that follows."""
        return self._first + self._frames // self._factor

    @property
    def is_at_end(self) -> bool:
        """Whether all frames of the source have been written."""
        return self._end == self._judge.end

    def write(self, frame: Frame) -> None:
        """Encode a frame, into a new segment where the last one is full."""
        # only now, as the last segment is finished differently
        if self._is_full():
            self.finish()
        if self._writer is None:
            self._started = time.monotonic()
            path = self._parts.writing_path(self._first)
            self._writer = SegmentWriter(path, self._track, self._parts.target)
        self._writer.write(frame)
        self._frames += 1

    def _is_full(self) -> bool:
        if not self._frames or self._frames % self._factor:
            return False
        return self._end % SEGMENT_FRAMES == 0 or time.monotonic() - self._started > SEGMENT_S

    def finish(self, reader: Reader | None = None) -> None:
        """Finish the segment in hand, if any; the last one takes what the reader has to say."""
        if self._writer is None:
            return
        first, end, is_last = self._first, self._end, self.is_at_end
        if is_last and end < 2:
            raise one_frame(self._track.info.path)
        segment = self._writer.finish()
        path = self._parts.writing_path(first)
        part = Part(
            key=self._parts.key,
            first=first,
            source_frames=end - first,
            frames=self._frames,
            is_last=is_last,
            cuts=self._judge.cuts(first, end),
            stills=self._judge.stills(first, end),
            **asdict(segment),
            damage=reader.damage if reader is not None and is_last else None,
            notes=tuple(reader.notes) if reader is not None and is_last else (),
            size_bytes=path.stat().st_size,
        )
        self._parts.add(part)
        self._first, self._frames, self._writer = end, 0, None


def one_frame(source: Path) -> VideoError:
    """Say that there is nothing to do."""
    return VideoError(
        f"nothing to do in `{source}`: it has one frame only",
        "a frame can only be made between two; for two pictures use "
        "`sepconv-video first.png second.png -o middle.png`",
    )
