"""Decoding: a file in, frames in presentation order out, each plane bit-exact.

Knows PyAV and nothing of what becomes of the frames. No frame is lost silently: frames
without a usable time are given one and counted in `notes`; what could not be decoded is
counted in `damage`.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Self

import av
from av.packet import Packet
from av.video.stream import VideoStream

from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame, Reading
from sepconv_video.numbered import Pictures, pictures_at
from sepconv_video.video.boxes import presentation_end
from sepconv_video.video.faults import explain, is_broken_off
from sepconv_video.video.pipes import is_cut_short, left_out
from sepconv_video.video.sequences import picture_packet
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
        self._numbered, self._used_bytes = pictures_at(self.path), 0
        self._faults = _Faults("packet" if self._numbered is None else "picture")
        self._container = open_source(self.path, self.reading)
        try:
            self._stream = main_video(self._container, self.path)
            # with a thread a frame, a broken picture among the last would take others with it
            self._stream.thread_type = "AUTO" if self._numbered is None else "SLICE"
            self._pictures = self._decode()
            self._first = self._first_picture()
            self._unpack = Unpacker(self._first, self.path)
            self.notes += self._unpack.notes
            self.info = replace(
                describe(self._stream, self._first, self._unpack.pix_fmt, self._unpack.layout),
                path=self.path,
            )
            if self._numbered is not None:
                count = len(self._numbered.files)
                self.info = replace(self.info, frame_count_from_header=count)
                self._faults.missing = self._numbered.missing
        except BaseException:
            self._container.close()
            raise

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
    def left_out(self) -> str:
        """What of the source does not go through a pipe, in one line; empty if nothing."""
        return left_out(self._container, self._stream, "only pictures go through a pipe")

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

        May be iterated once.

        Raises:
            VideoError: If the picture's size or format changes.
        """
        has_times = self._container.format.name != "avi"
        clock = _Clock(self._stream, has_times)
        held: Frame | None = None
        try:
            for index, picture in enumerate(chain([self._first], self._pictures)):
                if held is not None:
                    yield held
                pts = clock.pts(picture)
                if index < first:
                    continue
                held = Frame(
                    index=index,
                    pts=pts,
                    duration=clock.duration(picture) if has_times else 0,
                    planes=self._unpack(picture),
                )
            if held is not None:
                yield replace(held, duration=self._last_duration(held))
        finally:
            self.notes += clock.notes

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
        found = self._packets() if self._numbered is None else self._from_files(self._numbered)
        for packet in chain(found, [None]):
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
        self._faults.broken_off |= is_cut_short(self._container, self._used_bytes)

    def _from_files(self, pictures: Pictures) -> Iterator["Packet[VideoStream]"]:
        for file, place in zip(pictures.files, pictures.places, strict=True):
            try:
                yield picture_packet(file, place, self._stream)
            except OSError:
                self._faults.packets += 1

    def _packets(self) -> Iterator["Packet[VideoStream]"]:
        """Demux the stream up to the end of the file or the first place it cannot be read."""
        drops_corrupt = cuts_packets_short(self._container)
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt and drops_corrupt:
                    self._faults.packets += 1
                else:
                    self._used_bytes = (packet.pos or self._used_bytes) + packet.size
                    yield packet
        except av.FFmpegError as fault:
            self._faults.reading = explain(fault)[0]
        except IndexError:
            # at the end PyAV 18.1 looks for streams that appeared after the beginning, in vain
            return


class _Faults:
    """Counts what was found broken while decoding."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.packets = 0
        self.pictures = 0
        self.missing = 0
        self.broken_off = False
        self.reading = ""

    @property
    def summary(self) -> str | None:
        parts = []
        if self.broken_off:
            parts.append("the file is broken off before its end")
        if self.reading:
            parts.append(f"reading stopped early: {self.reading}")
        if self.missing:
            noun = _plural("number", self.missing)
            parts.append(f"{self.missing} {noun} missing among the pictures")
        if self.packets:
            parts.append(f"{self.packets} {_plural(self.noun, self.packets)} could not be decoded")
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

    def __init__(self, stream: VideoStream, has_times: bool) -> None:
        tick = Fraction(stream.time_base or Fraction(1, av.time_base))
        self._has_times = has_times
        self._most = most_ticks(tick)
        self._start = self._usable(stream.start_time) or 0
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
