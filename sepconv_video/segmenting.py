"""Between the network and the disk: what may be made, and which segment it is written into."""

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from sepconv_video import scenes
from sepconv_video.cuts import chosen_cuts
from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame, Interval, Relation, VideoInfo
from sepconv_video.options import Options
from sepconv_video.parts import Parts, explained
from sepconv_video.pieces import Part, Seen
from sepconv_video.schedule import LONGEST_RUN, Grid, intervals, most_made
from sepconv_video.video import Reader, SegmentWriter, Track

SEGMENT_FRAMES = 120
"""Source frames per segment: what a kill may cost, five seconds of a film; and about as far
apart as encoders set key frames anyway."""
SEGMENT_S = 300.0
"""A segment that takes longer is finished early: what a kill may cost on a slow machine."""


CONTEXT_FRAMES = scenes.CONTEXT_FRAMES + LONGEST_RUN
"""A frame is judged by so many before it: a span begins to look that much earlier."""


_HELD = (Relation.CUT, Relation.FLASH, Relation.STILL)


class Planner:
    """Decides whether anything may be made between two frames, and remembers where not.

    Attributes:
        end: Index after the source's last frame, once that is known.
        end_pts: When that frame ends, in ticks of the grid, once that is known.
    """

    def __init__(self, info: VideoInfo, grid: Grid, options: Options) -> None:
        """Plan for the frames of a video.

        Args:
            info: What they are.
            grid: When the target's frames are shown.
            options: Where the cuts are, if not to be found, and what becomes of repeats.

        Raises:
            OptionsError: The file of cuts cannot be read.
        """
        self.end: int | None = None
        self.end_pts: int | None = None
        self._info, self._grid, self._dedup = info, grid, options.dedup
        self._known = chosen_cuts(options.cuts)
        self._found: dict[Relation, list[int]] = {relation: [] for relation in _HELD}
        self._repeats: list[int] = []
        self._errors: list[tuple[int, Fraction]] = []

    @property
    def most_made(self) -> int:
        """Frames that may be made between two, at most."""
        return most_made(self._grid, dedup=self._dedup)

    def intervals(self, frames: Iterator[Frame], first: int) -> Iterator[Interval]:
        """Give the intervals from the source frame `first` on.

        `frames` begin `CONTEXT_FRAMES` before it, or with the video.
        """
        info = self._info
        # a lone frame without a duration is shown as long as the rate says
        default_duration = round(1 / (info.rate * info.time_base)) if info.rate else 1
        for interval in intervals(
            self._related(frames),
            self._grid,
            default_duration=default_duration,
            dedup=self._dedup,
        ):
            if interval.right is None:
                self.end, self.end_pts = interval.index + 1, interval.end_pts
            if interval.is_repeat:
                self._repeats.append(interval.index)
            if interval.error_ticks:
                self._errors.append((interval.index, interval.error_ticks))
            if interval.index >= first:
                yield interval

    def _related(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, Relation]]:
        before_s = Fraction(-1)
        for frame, found in scenes.relations(frames, self._info.bits):
            time_s = (frame.pts - self._info.start_pts) * self._info.time_base
            relation = found
            if self._known is not None:
                is_cut = self._known.is_cut_at(frame.index, before_s, time_s)
                relation = _corrected(found, is_cut=is_cut or frame.begins_shot)
            before_s = time_s
            if relation in self._found:
                self._found[relation].append(frame.index)
            yield frame, relation

    def seen(self, first: int, end: int) -> Seen:
        """Sum up the intervals that begin with frames `first` to `end`, even while more come."""
        # a relation belongs to the second frame of a pair
        cuts, flashes, stills = (
            _within(self._found[relation], first + 1, end + 1) for relation in _HELD
        )
        errors = _within(self._errors, (first,), (end,))
        return Seen(
            cuts=tuple(cuts),
            flashes=tuple(flashes),
            stills=len(stills),
            repeats=len(_within(self._repeats, first, end)),
            error_s=float(max((error for _, error in errors), default=0) * self._grid.time_base),
        )


def _within(ordered: list[Any], start: object, end: object) -> list[Any]:
    """Take from `start` up to `end`: a film has many, and one thread adds while another asks."""
    return ordered[bisect_left(ordered, start) : bisect_left(ordered, end)]


def _corrected(found: Relation, *, is_cut: bool) -> Relation:
    """Put a cut where one is known, and none elsewhere."""
    if is_cut:
        return Relation.CUT
    return Relation.JOINED if found in {Relation.CUT, Relation.FLASH} else found


class SegmentedWriter:
    """Writes frames into segments, each finished when it is full.

    Attributes:
        first: The source frame that the segment in hand begins with.
    """

    def __init__(self, parts: Parts, track: Track, first: int, planner: Planner) -> None:
        """Begin a segment with the source frame `first`."""
        self._parts, self._track, self._planner = parts, track, planner
        self.first, self._source_frames, self._frames = first, 0, 0
        self._writer: SegmentWriter | None = None
        self._started = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                self._parts.writing_path(self.first).unlink(missing_ok=True)

    @property
    def _end(self) -> int:
        """Index of the source frame that follows."""
        return self.first + self._source_frames

    @property
    def is_at_end(self) -> bool:
        """Whether all frames of the source have been written."""
        return self._end == self._planner.end

    def write(self, frames: Sequence[Frame]) -> None:
        """Encode what an interval shows, into a new segment where the last one is full."""
        # only now, as the last segment is finished differently
        if self._is_full():
            self.finish()
        if self._writer is None:
            self._started = time.monotonic()
            path = self._parts.writing_path(self.first)
            self._writer = SegmentWriter(path, self._track, self._parts.target)
        for frame in frames:
            self._writer.write(frame)
        self._source_frames += 1
        self._frames += len(frames)

    def _is_full(self) -> bool:
        if self._writer is None:
            return False
        return self._end % SEGMENT_FRAMES == 0 or time.monotonic() - self._started > SEGMENT_S

    def finish(self, reader: Reader | None = None, notes: Sequence[str] = ()) -> None:
        """Finish the segment in hand, if any; the last one takes the reader's and other notes."""
        if self._writer is None:
            return
        first, end, is_last = self.first, self._end, self.is_at_end
        if is_last and end < 2:
            raise one_frame(self._track.info.path)
        segment = self._writer.finish(self._planner.end_pts if is_last else None)
        if reader is not None:
            notes = [*notes, *filter(None, [self._track.lost_messages(reader.messages)])]
        with explained(self._parts.target):  # somebody may have removed the folder
            size_bytes = self._parts.writing_path(first).stat().st_size
        part = Part(
            key=self._parts.key,
            first=first,
            source_frames=end - first,
            frames=self._frames,
            is_last=is_last,
            seen=self._planner.seen(first, end),
            **asdict(segment),
            damage=reader.damage if reader is not None and is_last else None,
            notes=(*reader.notes, *notes) if reader is not None and is_last else (),
            size_bytes=size_bytes,
        )
        self._parts.add(part)
        self.first, self._source_frames, self._frames, self._writer = end, 0, 0, None


def one_frame(source: Path) -> VideoError:
    """Say that there is nothing to do."""
    return VideoError(
        f"nothing to do in `{source}`: it, or what lies between `--start` and `--end`, has only "
        "one frame",
        "a frame can only be made between two; for two pictures use "
        "`sepconv-video first.png second.png -o middle.png`",
    )
