"""One target in the making: read, schedule, make, write in segments; join, rename.

The wiring of the parts, each of which knows nothing of the others. Memory is bounded by the
two queues, whatever the length of the video; the target appears only when it is complete, and
what is finished of it survives in `TARGET.parts` whatever happens.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepconv_video import __version__, timing
from sepconv_video.cuts import chosen_cuts
from sepconv_video.errors import DeviceError, Interrupted, VideoError
from sepconv_video.frames import POSITIONS, Frame, Reading, Timeline, VideoInfo
from sepconv_video.numbered import surplus
from sepconv_video.options import Job, Options
from sepconv_video.parts import Identity, Parts, identify
from sepconv_video.pieces import Part, Seen, Span, gaps, sum_up
from sepconv_video.report import Report
from sepconv_video.schedule import Grid, by_factor, by_rate
from sepconv_video.segmenting import CONTEXT_FRAMES, Planner, SegmentedWriter
from sepconv_video.shipped import weights_digest
from sepconv_video.stream import prefetch
from sepconv_video.targets import check_free, check_place
from sepconv_video.video import (
    ENCODERS_VERSION,
    Encoding,
    Joined,
    Reader,
    Segment,
    SegmentError,
    Track,
    container_for,
    join,
    probe,
    rehearse,
)

if TYPE_CHECKING:
    from sepconv_video.engine import Engine

QUEUE_BYTES = 64 * 2**20
"""Frames waiting between two threads may take this much memory."""
MANY_REPEATS = 0.2
"""From this share of repeated frames on, `--dedup` is suggested."""
PATIENCE_S = 600.0
"""After so long without a decoded frame the source's file system counts as dead."""

OnProgress = Callable[[int, int | None], None]
"""Called with the frames done so far and, if the source's header tells, those expected."""
ShouldStop = Callable[[], bool]
"""Asked now and then; True ends the work soon and keeps what is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who watches while frames are made, and may stop it."""

    on_progress: OnProgress | None = None
    should_stop: ShouldStop | None = None
    """Asked after each interval; True finishes the segment in hand and raises `Interrupted`."""

    def after(self, frames: int) -> "Watch":
        """Count `frames` that were done before."""
        told = self.on_progress
        if told is None:
            return self
        return replace(self, on_progress=lambda done, expected: told(frames + done, expected))

    def wants_to_stop(self) -> bool:
        """Ask whether to end."""
        return self.should_stop is not None and self.should_stop()


class Production:
    """One target in the making: its pieces, what is still to do, and the end.

    Only whoever holds `parts.claim` may `begin`, `join` and `clean`; several processes may `make`
    different spans at the same time.

    Attributes:
        kept_frames: Output frames that an earlier run had finished; known once begun.
        note: Why what an earlier run had finished is of no use, likewise; empty if it is.
    """

    def __init__(self, job: Job, options: Options) -> None:
        """Look at source and target; nothing is written yet.

        Raises:
            SepConvVideoError: The source cannot be read, the target not be written, or there
                is no such model.
        """
        probe(job.source)
        check_place(job)
        self.job, self.options = job, options
        self.parts = Parts(job.target, identity_of(job, options))
        self._reading, self._cuts = reading_of(options), chosen_cuts(options.cuts)
        self._started = time.monotonic()
        self.kept_frames, self.note = 0, ""

    def begin(self) -> Report | None:
        """Find out what an earlier run left: the report if it was all and counts, else None.

        Raises:
            OptionsError: The target exists and is not to be replaced.
        """
        completed = self.parts.completed() if self.options.resume else None
        if completed is not None:
            return Report.from_json(dict(completed))
        check_free(self.job, self.options)
        self.note = self.parts.begin(resume=self.options.resume)
        self.kept_frames = self.frames_done()
        return None

    def spans(self) -> list[Span]:
        """List what is still to be made."""
        return gaps(self.parts.finished())

    def frames_done(self) -> int:
        """Count the output frames in finished pieces."""
        return sum(part.frames for part in self.parts.finished())

    def make(self, engine: "Engine", span: Span, watch: Watch) -> None:
        """Make the frames of a span, in segments: decoding, network, encoding in a thread each.

        Raises:
            Interrupted: The watch wanted to stop.
            SepConvVideoError: The span cannot be made; finished segments are kept.
        """
        job, (first, end) = self.job, span
        with ExitStack() as stack:
            reader = stack.enter_context(Reader(job.source, self._reading))
            info, grid = reader.info, grid_of(self.options, reader.info)
            planner = Planner(info, grid, self.options)
            track = track_of(job.target, info, grid, self.options)
            rehearse(track, job.source, job.target, self._reading.timeline)
            frames = reader.frames(max(0, first - CONTEXT_FRAMES))
            pairs = islice(planner.intervals(frames, first), end and end - first)
            timed = timing.each("decode", pairs)
            todo = stack.enter_context(prefetch(timed, queue_depth(info), "decode", PATIENCE_S))
            # what lies between two source frames waits together
            per_frame = grid.factor or grid.rate / info.rate
            ahead = max(1, queue_depth(info) // math.ceil(per_frame))
            made = engine.run(todo, info, planner.most_made)
            made = stack.enter_context(prefetch(made, ahead, "engine"))
            writer = stack.enter_context(SegmentedWriter(self.parts, track, first, planner))
            done, expected = 0, info.frame_count_from_header
            expected = expected and round(expected * per_frame)
            for shown in explained_frames(made, job.source):
                with timing.busy("encode"):
                    before = writer.first
                    writer.write(shown)
                    if before == 0 < writer.first:  # the first segment of all is finished
                        self._try_joining(track)
                done += len(shown)
                if watch.on_progress is not None:
                    watch.on_progress(done, expected)
                if not writer.is_at_end and watch.wants_to_stop():
                    if not self.parts.has_others():  # or they would be lost for a moment's work
                        writer.finish()
                    raise self._interrupted()
            with timing.busy("encode"):
                writer.finish(reader, engine.notes)

    def _try_joining(self, track: Track) -> None:
        """Join the first segment alone: what cannot be must fail before a night's work."""
        timeline, parts = self._reading.timeline, self.parts.finished()[:1]
        pts = [pts for part in parts for pts in part.pts]
        if track.is_painted or not pts:
            return
        shown_s = (parts[0].end_pts - min(pts)) * track.time_base / timeline.slowdown
        with self.parts.trial():
            self._join(parts, track, replace(timeline, end_s=(timeline.start_s or 0) + shown_s))

    def _interrupted(self) -> Interrupted:
        if self.parts.has_others():
            return Interrupted(
                f"interrupted: the segments of `{self.job.target}` from an earlier run are kept",
                "repeat that run's command to resume it, or this one to start afresh",
            )
        return Interrupted(
            f"interrupted: {self.frames_done()} finished frames of `{self.job.target}` are kept",
            "run the same command again to go on from there",
        )

    def join(self) -> Report:
        """Put the pieces together and rename the whole over the target.

        Raises:
            VideoError: It cannot be written, or the source is no longer what it was. The pieces
                stay.
        """
        job, parts = self.job, self.parts.finished()
        if identify(job.source) != self.parts.identity["source"]:
            raise VideoError(
                f"cannot finish `{job.target}`: `{job.source}` changed while it was read",
                "run the same command again when nothing writes to it any more",
            )
        if gaps(parts):
            raise VideoError(
                f"cannot finish `{job.target}`: segments in `{self.parts.folder}` are missing",
                "run the same command again to make only those",
            )
        joined = self._joined(parts)
        seen, frames = sum_up([part.seen for part in parts]), sum(part.frames for part in parts)
        advice = advise(seen, parts[-1].end, frames, self.options)
        if self._cuts and not (self.options.start_s or self.options.end_s):
            advice.append(self._cuts.note_beyond(parts[-1].end))
        if old := surplus(job.target, frames):
            advice.append(f"{len(old)} older pictures removed, from `{old[0].name}` on")
        report = Report(
            target=job.target,
            source_frames=parts[-1].end,
            frames=frames,
            kept_frames=self.kept_frames,
            seconds=time.monotonic() - self._started,
            **seen_fields(seen),
            video_s=joined.video_s,
            audio_s=list(joined.audio_s),
            damage=parts[-1].damage,
            notes=[note for note in (self.note, *parts[-1].notes, *advice, *joined.notes) if note],
        )
        self.parts.complete(report.as_json())
        return report

    def _joined(self, parts: Sequence[Part]) -> Joined:
        """Write the whole beside the pieces; one that is damaged is to be made again."""
        job = self.job
        with Reader(job.source, self._reading) as reader:
            info = reader.info
        track = track_of(job.target, info, grid_of(self.options, info), self.options)
        try:
            with self.parts.joining():
                joined = self._join(parts, track, self._reading.timeline)
                check_free(job, self.options)  # somebody else may have made it meanwhile
        except SegmentError as fault:
            self.parts.discard(fault.path)
            raise
        return joined

    def _join(self, parts: Sequence[Part], track: Track, timeline: Timeline) -> Joined:
        pieces = [
            (
                self.parts.segment_path(part.first),
                # what ends the video may be the end of a part that shows no new frame
                Segment(pts=part.pts, end_pts=parts[-1].end_pts, rounded=part.rounded),
            )
            for part in parts
            if part.frames
        ]
        return join(pieces, self.parts.joined, track, self.job.source, self.job.target, timeline)

    def clean(self) -> None:
        """Remove the pieces of a complete target, if they are not to be kept."""
        if not self.options.keep_parts:
            self.parts.remove()


def reading_of(options: Options) -> Reading:
    """Say how the source is read."""
    return Reading(
        timeline=Timeline(
            start_s=options.start_s,
            end_s=options.end_s,
            slowdown=options.factor if options.slowmo else 1,
            stretch_sound=options.stretch_sound,
        ),
        deinterlace=options.deinterlace,
        rate=options.source_fps,
        raw=options.raw,
    )


def grid_of(options: Options, info: VideoInfo) -> Grid:
    """Say when the target's frames are shown."""
    if options.fps is not None:
        return by_rate(info, options.fps)
    return by_factor(info, options.factor, slowmo=options.slowmo)


def track_of(target: Path, info: VideoInfo, grid: Grid, options: Options) -> Track:
    """Decide how the target is encoded.

    Raises:
        SepConvVideoError: The encoding makes no sense, or no encoder can hold the video.
    """
    encoding = Encoding(
        codec=options.codec,
        crf=options.crf,
        container=container_for(target),
        preset=options.preset,
        pix_fmt=options.pix_fmt,
    )
    return Track(
        info, time_base=grid.time_base, rate=grid.rate, fastest=grid.fastest, encoding=encoding
    )


def seen_fields(seen: Seen) -> dict[str, Any]:
    """Give the fields of a `Report` that say what was seen."""
    return {
        "cuts": list(seen.cuts),
        "flashes": list(seen.flashes),
        "stills": seen.stills,
        "repeats": seen.repeats,
        "largest_error_s": seen.error_s,
    }


def advise(seen: Seen, source_frames: int, frames: int, options: Options) -> list[str]:
    """Say how exact the new frames' times are, and what would be better."""
    notes = []
    if frames > POSITIONS * source_frames:
        notes.append(
            f"{frames} frames were made from {source_frames}, but at most {POSITIONS} for each can "
            "differ: the others repeat the one before"
        )
    if seen.error_s:
        notes.append(
            "new frames are made at the nearest eighth between two source frames: "
            f"at most {seen.error_s * 1000:.1f} ms from their exact times"
        )
    if seen.repeats >= MANY_REPEATS * source_frames and not options.dedup:
        notes.append(
            f"{seen.repeats} of {source_frames} frames repeat the one before, as in animation on "
            "twos: `--dedup` makes frames between the drawings instead"
        )
    return notes


def identity_of(job: Job, options: Options) -> Identity:
    """Gather what finished pieces, and the target, depend on: the source and the settings.

    Raises:
        SepConvVideoError: The source cannot be read, or there is no such model.
    """
    cuts = chosen_cuts(options.cuts)
    return {
        "source": identify(job.source),
        "model": weights_digest(options.model),
        "factor": options.factor,
        "fps": _text(options.fps),
        "slow motion": options.slowmo,
        "stretching of sound": options.stretch_sound,
        "dedup": options.dedup,
        "cuts": cuts.as_json() if cuts is not None else "auto",
        "start": _text(options.start_s),
        "end": _text(options.end_s),
        "deinterlace": options.deinterlace,
        "rate of pictures": _text(options.source_fps),
        "precision": options.precision,
        "codec": options.codec,
        "crf": options.crf,
        "preset": options.preset,
        "pix_fmt": options.pix_fmt,
        "container": container_for(job.target),
        "version": f"sepconv-video {__version__}, {ENCODERS_VERSION}",
    }


def _text(value: Fraction | None) -> str | None:
    return None if value is None else str(value)


def explained_frames(made: Iterator[list[Frame]], source: Path) -> Iterator[list[Frame]]:
    """Raise our own errors if reading takes for ever, or memory does not suffice."""
    try:
        yield from made
    except MemoryError as error:
        raise DeviceError(
            f"out of memory at a frame of `{source}`",
            "close other programs and run it again: finished segments are kept",
        ) from error
    except TimeoutError as error:
        raise VideoError(
            f"cannot read `{source}`: {error}",
            "check that its disk or network file system responds",
        ) from error


def queue_depth(info: VideoInfo) -> int:
    """How many frames of a video may wait in one queue, by their size in bytes."""
    frame_bytes = info.width * info.height * 3 * (2 if info.bits > 8 else 1)
    return max(1, min(32, QUEUE_BYTES // frame_bytes))
