"""Decoding: a file in, frames in presentation order out, each plane bit-exact.

Knows PyAV and nothing of what becomes of the frames. No frame is lost silently: frames
without a usable time are given one and counted in `notes`; what could not be decoded is
counted in `damage`.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Self

import av
from av.packet import Packet
from av.video.stream import VideoStream

from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame, Reading
from sepconv_video.video.boxes import presentation_end
from sepconv_video.video.faults import explain, is_broken_off
from sepconv_video.video.source import (
    HIGHEST_RATE,
    cuts_packets_short,
    describe,
    main_video,
    most_ticks,
    open_source,
    why_without_size,
)
from sepconv_video.video.unpacker import Unpacker
from sepconv_video.video.window import seek, window_of

_HEADER_TICK = Fraction(1, 1000)


class Reader:
    """Decode the main video stream of a file, once, front to back.

    The first frame is decoded on opening, because only it tells the true format.

    Attributes:
        path: The file.
        info: What is known of the stream.
        notes: One line for each thing converted, dropped or mended, for the user.
    """

    def __init__(self, path: Path | str, reading: Reading | None = None) -> None:
        """Open `path`, to be read as `reading` says.

        Raises:
            VideoError: If there is no video in it that can be decoded.
        """
        self.path, self.reading = Path(path), reading or Reading()
        self.notes: list[str] = []
        self._open_at_start()
        try:
            self._unpack = Unpacker(self._first, self.path)
            self.notes += self._unpack.notes
            info = describe(self._stream, self._first, self._unpack.pix_fmt, self._unpack.layout)
            share = self._window.share(self._container.duration)
            count = info.frame_count_from_header
            self.info = replace(info, frame_count_from_header=count and ceil(count * share))
        except BaseException:
            self._container.close()
            raise

    def _open_at_start(self) -> None:
        """Open the file and decode a picture at or before the first one wanted.

        Indices are not always right: what a seek finds is believed only if it is a key frame
        that is shown early enough, else the file is read from its beginning.
        """
        if self.reading.timeline.start_s:
            self._open(None)
            points, has_order = self._window.seek_points(), self._stream.codec_context.has_b_frames
            self._container.close()
            # AVI does not say when pictures are shown; with B-frames only counting all tells
            for point in [] if self._is_avi and has_order else points:
                self._open(point)
                first = next(self._pictures, None)
                if first is not None and self._is_early(first):
                    self._first = first
                    return
                self.close()
        self._open(None)
        try:
            self._first = self._first_picture()
        except BaseException:
            self._container.close()
            raise

    def _open(self, seek_s: Fraction | None) -> None:
        self._faults = _Faults()
        self._first_dts: int | None = None  # of the packet that decoding began with
        self._container = open_source(self.path)
        try:
            self._stream = main_video(self._container, self.path)
        except BaseException:
            self._container.close()
            raise
        self._is_avi = self._container.format.name == "avi"
        self._window = window_of(self._container, self._stream, self.reading.timeline)
        self._stream.thread_type = "AUTO"
        if seek_s is None:
            self._first_dts = self._stream.start_time
        else:
            seek(self._container, self._stream, seek_s)
        self._pictures = self._decode()

    def _is_early(self, first: av.VideoFrame) -> bool:
        """Tell whether a seek led to a picture from which on everything wanted is decoded."""
        ticks = self._first_dts if self._is_avi else first.pts
        if ticks is None or not first.key_frame or self._window.begin_s is None:
            return False
        return ticks * Fraction(self._stream.time_base or 0) <= self._window.begin_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; frames already given stay valid."""
        try:
            self._pictures.close()
        except ValueError:  # a thread hangs in it, on a dead file system: nothing can be closed
            return
        self._container.close()

    @property
    def damage(self) -> str | None:
        """What was broken in the stream, in one line; None if nothing. Final after `frames`."""
        return self._faults.summary

    def frames(self, first: int = 0) -> Iterator[Frame]:
        """Give the frames in presentation order, with strictly increasing `pts`.

        Those before index `first` are decoded, for only so is each frame certainly the same
        whatever the file, but not given.

        A frame without a time follows after as long as the one before it. A frame that is
        not later than its predecessor is placed one tick after it; after a jump back of
        more than a second the times go on from there. Both are counted in `notes`.

        Of the timeline, only frames that begin within it are given and counted.

        May be iterated once.

        Raises:
            VideoError: If the picture's size or format changes, or none begins in the timeline.
        """
        has_times = not self._is_avi
        clock = _Clock(self._stream, has_times, self._first_dts)
        held: Frame | None = None
        index = -1
        try:
            for index, (picture, pts) in enumerate(self._within(clock)):
                if held is not None:
                    yield held
                if index < first:
                    continue
                held = Frame(
                    index=index,
                    pts=pts,
                    duration=clock.duration(picture) if has_times else 0,
                    planes=self._unpack(picture),
                )
            if index < 0:
                raise self._nothing_within()
            if held is not None:
                yield replace(held, duration=self._last_duration_within(held))
        finally:
            self.notes += clock.notes

    def _within(self, clock: "_Clock") -> Iterator[tuple[av.VideoFrame, int]]:
        """Give the pictures of the timeline, with their times; and remember what comes after."""
        base, self._after = self.info.time_base, None
        for picture in chain([self._first], self._pictures):
            pts = clock.pts(picture)
            if self._window.is_before(pts * base):
                # what lacks what it was made from, between a seek and the stretch, is no damage
                self._faults.packets = self._faults.pictures = 0
                continue
            if self._window.is_after(pts * base):
                self._after = pts
                return
            yield picture, pts

    def _last_duration_within(self, last: Frame) -> int:
        end_s = self._window.end_s
        after = self._after
        duration = self._last_duration(last) if after is None else after - last.pts
        if end_s is None:
            return duration
        until_end = max(1, round(end_s / self.info.time_base) - last.pts)
        return min(duration, until_end) if duration else 0

    def _nothing_within(self) -> VideoError:
        timeline, length = self.reading.timeline, self._container.duration
        start_s, end_s = timeline.start_s or Fraction(0), timeline.end_s
        until = "" if end_s is None else f" and before {float(end_s):g} s"
        lasts = f": it lasts {length / av.time_base:g} s" if length else ""
        return VideoError(
            f"no frame of `{self.path}` begins from {float(start_s):g} s on{until}{lasts}",
            "give other times with `--start` and `--end`",
        )

    def _last_duration(self, last: Frame) -> int:
        """Correct the last frame's duration where an MP4's header knows better."""
        if not self._container.format.name.startswith("mov") or self._faults.summary:
            return last.duration
        base = self.info.time_base
        try:
            end = presentation_end(self.path, self._stream.id)
        except OSError:  # gone since it was opened
            return last.duration
        # the header counts in milliseconds or finer; a difference of as much is its rounding
        if end is None or abs(last.pts * base + last.duration * base - end) < _HEADER_TICK * 2:
            return last.duration
        duration = round(end / base) - last.pts
        return duration if 0 < duration <= most_ticks(base) else last.duration

    def _first_picture(self) -> av.VideoFrame:
        first = next(self._pictures, None)
        if first is None:
            why = [self._faults.summary or "its video stream is empty"]
            why += filter(None, [why_without_size(self._stream)])
            raise VideoError(
                f"cannot read `{self.path}`: not one frame can be decoded: {'; '.join(why)}",
                "was it copied or downloaded to the end?",
            )
        return first

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        """Decode every packet, counting faults instead of raising them."""
        for packet in chain(self._packets(), [None]):
            try:
                pictures = self._stream.decode(packet)
            except av.EOFError:  # already flushed by the demuxer's last, empty packet
                continue
            except av.FFmpegError:
                self._faults.packets += 1
                continue
            for picture in pictures:
                self._faults.pictures += picture.is_corrupt
                yield picture
        self._faults.broken_off |= is_broken_off(self.path)

    def _packets(self) -> Iterator["Packet[VideoStream]"]:
        """Demux the stream up to the end of the file or the first place it cannot be read."""
        drops_corrupt = cuts_packets_short(self._container)
        try:
            for packet in self._container.demux(self._stream):
                if self._first_dts is None:
                    self._first_dts = packet.dts
                if packet.is_corrupt and drops_corrupt:
                    self._faults.packets += 1
                else:
                    yield packet
        except av.FFmpegError as fault:
            self._faults.reading = explain(fault)[0]
        except IndexError:
            # at the end PyAV 18.1 looks for streams that appeared after the beginning, in vain
            return


class _Faults:
    """Counts what was found broken while decoding."""

    def __init__(self) -> None:
        self.packets = 0
        self.pictures = 0
        self.broken_off = False
        self.reading = ""

    @property
    def summary(self) -> str | None:
        parts = []
        if self.broken_off:
            parts.append("the file is broken off before its end")
        if self.reading:
            parts.append(f"reading stopped early: {self.reading}")
        if self.packets:
            parts.append(f"{self.packets} {_plural('packet', self.packets)} could not be decoded")
        if self.pictures:
            parts.append(f"{self.pictures} {_plural('frame', self.pictures)} decoded with errors")
        return "; ".join(parts) or None


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


class _Clock:
    """Gives every picture a time later than the one before it.

    AVI stores no presentation times, and those that FFmpeg makes up for it are wrong where
    there are B-frames; decoding times in presentation order, counted from the start, are right.
    """

    def __init__(self, stream: VideoStream, has_times: bool, first_dts: int | None) -> None:
        tick = Fraction(stream.time_base or Fraction(1, av.time_base))
        self._has_times = has_times
        self._most = most_ticks(tick)
        self._start = self._usable(first_dts) or 0
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        is_sane = 1 / HIGHEST_RATE <= rate <= HIGHEST_RATE
        self._step = max(1, round(1 / (rate * tick))) if is_sane else 1
        self._second = round(1 / tick)
        self._last: int | None = None
        self._offset = 0
        self._missing = 0
        self._backward = 0

    def duration(self, picture: av.VideoFrame) -> int:
        """Read how long a picture is shown, in ticks; 0 where that is not said or absurd."""
        return max(0, self._usable(picture.duration) or 0)

    def pts(self, picture: av.VideoFrame) -> int:
        """Read or make up when a picture is shown, in ticks."""
        found = self._found(picture)
        if found is None:
            self._missing += 1
            pts = 0 if self._last is None else self._last + self._step
        else:
            pts = found
        if self._last is not None and pts <= self._last:
            self._backward += 1
            wanted = self._last + 1
            if self._last - pts > self._second:
                wanted = self._last + self._step
                self._offset += wanted - pts
            pts = wanted
        if self._last is not None:
            self._step = pts - self._last
        self._last = pts
        return pts

    def _found(self, picture: av.VideoFrame) -> int | None:
        is_stored = self._has_times and picture.pts is not None
        found = self._usable(picture.pts if is_stored else picture.dts)
        if found is not None and self._last is None and not self._has_times:
            self._offset = self._start - found
        return None if found is None else self._usable(found + self._offset)

    def _usable(self, ticks: int | None) -> int | None:
        """Leave out what cannot be a time."""
        return ticks if ticks is not None and -self._most <= ticks <= self._most else None

    @property
    def notes(self) -> list[str]:
        found = []
        if self._missing and self._has_times:
            found.append(f"{self._missing} frames had no usable time and follow at an even rate")
        if self._backward:
            found.append(f"{self._backward} frames had a time not after the one before: moved on")
        return found
