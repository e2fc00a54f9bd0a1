"""Joining: segments in, a finished file out, with the source's other streams beside them.

Nothing is encoded here. Every time survives exactly where the container can hold it: MP4 and
MOV take the track's ticks as their time scale.
"""

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sepconv_video.frames import Timeline
from sepconv_video.video.boxes import describe_more, leave_out_vexu
from sepconv_video.video.containers import (
    ALPHA_TAG,
    TIMECODE_TAG,
    create,
    fresh_tags,
    keeps_aspect,
)
from sepconv_video.video.dolby import box_name, kind_of
from sepconv_video.video.faults import translated
from sepconv_video.video.segments import Segment, packets
from sepconv_video.video.sequences import save_pictures
from sepconv_video.video.streams import OtherStreams
from sepconv_video.video.track import Track

_MOST_MOVIE_TICKS = 2**25
_MOST_COUNTED = 255
"""Frames a second in a track of timecode: a byte says how many."""
_BUFFER_BYTES = 2**18
_ANOTHER_CONTAINER = "try another container: a name ending in `.mkv` or `.mp4`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What became of a file."""

    notes: list[str]
    """One line for each thing that could not be kept, for the user."""
    video_s: float
    """When the picture ends, in seconds, as it was written."""
    audio_s: tuple[float, ...]
    """When each sound stream ends, likewise."""


def join(
    pieces: Sequence[tuple[Path, Segment]],
    path: Path,
    track: Track,
    source: Path,
    called: Path,
    timeline: Timeline,
) -> Joined:
    """Write one video file from its segments and everything else in the source.

    Args:
        pieces: The segments' files and times, in order; at least one.
        path: File to write; an existing one is replaced.
        track: What the segments were encoded with.
        source: File whose other streams, tags and chapters are copied.
        called: Name of that file in errors.
        timeline: Which stretch of the source the segments show, and how slowly.

    Raises:
        VideoError: If the file cannot be written, or a segment is damaged.
    """
    if track.is_painted:
        notes = save_pictures(pieces, path, track, source, called)
        end_s = float(pieces[-1][1].end_pts * track.time_base)
        return Joined(notes=notes, video_s=end_s, audio_s=())
    # a file of our own, because PyAV leaves its open when the header cannot be written
    with translated("write", called), path.open("w+b") as file:
        with closing(_Joiner(file, track, source, called, timeline)) as joiner:
            times = _Times([segment for _, segment in pieces], joiner.offset_ticks)
            for packet in _timed(pieces, track, times):
                joiner.mux(packet)
            joiner.finish(times.end * track.time_base)
        if track.container == "mp4" and track.says_more:
            leave_out_vexu(file)
        if track.container == "mov" and track.dolby is not None:  # FFmpeg does so in MP4 only
            describe_more(file, kind_of(track.dolby), box_name(track.dolby), track.dolby)
        file.flush()
        os.fsync(file.fileno())
    rounded = track.rounding_note(
        sum(segment.rounded for _, segment in pieces), [*chain.from_iterable(times.pts)]
    )
    return Joined(
        notes=[note for note in (track.note, *joiner.notes, rounded) if note],
        video_s=float(times.end * track.time_base),
        audio_s=joiner.audio_s,
    )


def rehearse(track: Track, source: Path, called: Path, timeline: Timeline) -> None:
    """Write the header to memory: what cannot be joined must fail before a night's work.

    Raises:
        VideoError: If the container cannot hold the video, or nothing can be encoded.
    """
    if track.is_painted:
        return  # any picture can be written one by one
    _Joiner(io.BytesIO(), track, source, called, timeline).close()


class _Joiner:
    """An output file, from its header to its index."""

    def __init__(
        self, file: BinaryIO, track: Track, source: Path, called: Path, timeline: Timeline
    ) -> None:
        self._called, self._track = called, track
        if track.container == "avi" and timeline.start_s is None:
            # all streams begin at 0 in it: what is heard before would make the rest late
            timeline = replace(timeline, start_s=Fraction(0))
        with ExitStack() as undo:
            self._others = OtherStreams(source, timeline, track.container)
            undo.callback(self._others.close)
            with translated("write", called, _ANOTHER_CONTAINER):
                self._output = self._open(file)
                undo.callback(self._close_output)
                self._stream = self._add_streams()
                self._output.start_encoding()
            self._others.start()
            undo.pop_all()

    @property
    def offset_ticks(self) -> int:
        """Ticks of the track to take off its times."""
        window = self._others.window
        return round(window.origin_s * window.slowdown / self._track.time_base)

    @property
    def notes(self) -> list[str]:
        """What could not be kept; complete once finished."""
        return self._others.notes

    @property
    def audio_s(self) -> tuple[float, ...]:
        """When each sound stream ends, in seconds; final once finished."""
        return tuple(float(end_s) for end_s in self._others.ends_s.values())

    def mux(self, packet: "Packet[VideoStream]") -> None:
        """Write a packet of the video, and what else belongs before it."""
        packet.stream = self._stream
        until = Fraction(packet.dts or 0) * packet.time_base
        with translated("write", self._called, _ANOTHER_CONTAINER):
            self._output.mux_one(packet)
            self._others.advance(self._output, until)

    def finish(self, video_end_s: Fraction) -> None:
        """Copy the rest of the other streams, write the index, and compare where all ends."""
        with translated("write", self._called, _ANOTHER_CONTAINER):
            self._others.advance(self._output, None)
            self._output.close()
        self._others.notes += self._others.drift_notes(video_end_s)

    def close(self) -> None:
        """Close all handles, whatever state the file is in."""
        self._close_output()
        self._others.close()

    def _close_output(self) -> None:
        with suppress(av.FFmpegError, OSError):
            self._output.close()

    def _open(self, file: BinaryIO) -> OutputContainer:
        options, container = {}, self._track.container
        if container in {"mp4", "mov"}:
            options["movie_timescale"] = str(self._movie_ticks())
            if self._others.has_foreign_tags():
                options["movflags"] = "use_metadata_tags"
            if self._track.says_more:
                options["strict"] = "unofficial"  # or FFmpeg leaves it out
        if container in {"avi", "matroska"}:
            # the sound of an MP4 begins a moment before 0, with samples not meant to be heard;
            # by default FFmpeg would move everything later, pictures too, to make it begin at 0
            options["avoid_negative_ts"] = "disabled"
        return create(file, container, options, _BUFFER_BYTES)

    def _movie_ticks(self) -> int:
        """Choose the clock of the edit lists: a start that falls on its ticks is exact.

        FFmpeg's 1/1000 s would shift picture against sound by up to half a millisecond.
        """
        ticks = self._track.time_base.denominator
        for clock in self._others.clocks():
            common = math.lcm(ticks, clock)
            ticks = common if common <= _MOST_MOVIE_TICKS else ticks
        return ticks if ticks <= _MOST_MOVIE_TICKS else 1000

    def _add_streams(self) -> VideoStream:
        """Declare all streams, in the source's order, and copy tags and chapters."""
        others, output = self._others, self._output
        others.add(output, others.before_video())
        stream = self._track.add_to(output)
        stream.disposition = others.main.disposition
        tags = fresh_tags(others.main.metadata)
        # new pictures have no transparency, whatever those of the source had beside them
        stream.metadata.update({k: tag for k, tag in tags.items() if k.lower() != ALPHA_TAG})
        self._add_timecode(stream)
        others.add(output, others.after_video())
        others.copy_header(output, is_turned=self._track.info.display_matrix is not None)
        self._note_aspect()
        return stream

    def _add_timecode(self, stream: VideoStream) -> None:
        container, rate = self._track.container, self._track.rate
        label = self._others.timecode(rate)
        if label is None:
            return
        if container in {"mp4", "mov"} and rate > _MOST_COUNTED:
            self._others.notes.append(
                f"timecode left out: {container} counts {_MOST_COUNTED} frames a second at most, "
                "matroska any number"
            )
        else:
            stream.metadata[TIMECODE_TAG] = label

    def _note_aspect(self) -> None:
        track, aspect = self._track, self._track.info.sample_aspect_ratio
        if aspect in {None, 1} or keeps_aspect(track.container, track.codec):
            return
        self._others.notes.append(
            f"sample aspect ratio {aspect} left out: {track.codec} in {track.container} "
            "cannot store it, mp4 can"
        )


def _timed(
    pieces: Sequence[tuple[Path, Segment]], track: Track, times: "_Times"
) -> Iterator["Packet[VideoStream]"]:
    """Give all packets the times they have in the whole, in the order of decoding."""
    for (path, _), all_pts in zip(pieces, times.pts, strict=True):
        for packet, pts in packets(path, all_pts):
            packet.time_base = track.time_base
            packet.pts, packet.dts, packet.duration = times.next(pts)
            if track.container in {"mp4", "mov"}:
                packet.duration = times.decoding_duration(packet.duration)
            yield packet


class _Times:
    """The times of all packets: shown as their segments say, decoded as early as must be.

    Each segment's encoder counts decoding times from its own beginning, with which they would
    overlap those of the one before at a variable rate. The n-th packet is decoded when the
    picture is shown that comes `delay` before it in the order of presentation.
    """

    def __init__(self, segments: Sequence[Segment], offset: int) -> None:
        shifts = list(_shifts(segments))
        self.pts = [
            [pts + shift - offset for pts in segment.pts]
            for segment, shift in zip(segments, shifts, strict=True)
        ]
        self._shown = sorted(chain.from_iterable(self.pts))
        self._place = {pts: place for place, pts in enumerate(self._shown)}
        self.end = max(segments[-1].end_pts + shifts[-1] - offset, self._shown[-1] + 1)
        delay = max(segment.delay for segment in segments)
        step = self._shown[1] - self._shown[0] if len(self._shown) > 1 else 1
        first = self._shown[0]
        early = [first - (delay - index) * step for index in range(min(delay, len(self._shown)))]
        self._dts = early + self._shown[: len(self._shown) - len(early)]
        self._next = 0

    def next(self, pts: int) -> tuple[int, int, int]:
        """Give pts, dts and duration of the next packet."""
        place = self._place[pts] + 1
        until = self._shown[place] if place < len(self._shown) else self.end
        dts = self._dts[self._next]
        self._next += 1
        return pts, dts, until - pts

    def decoding_duration(self, duration: int) -> int:
        """Give the duration with which the last packet is decoded as long as all are shown.

        MP4 adds up decoding times to get a track's duration. At a variable rate with B-frames
        the last of these would miss the end of the last frame shown.
        """
        if self._next < len(self._shown):
            return duration
        wanted = self._dts[0] + (self.end - self._shown[0]) - self._dts[-1]
        return max(duration, min(wanted, self.end - self._shown[-1]))


def _shifts(segments: Sequence[Segment]) -> Iterator[int]:
    """Say by how many ticks each segment must move on so as not to overlap the one before.

    None but in AVI, which has one tick per frame: two may both want the one at their border.
    """
    end: int | None = None
    for segment in segments:
        first = min(segment.pts)
        shift = 0 if end is None else max(0, end - first)
        yield shift
        end = max(segment.pts) + shift + 1
