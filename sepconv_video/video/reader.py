"""Decoding: a file in, frames in presentation order out, each plane bit-exact.

Knows PyAV and nothing of what becomes of the frames. No frame is lost silently: frames
without a usable time are given one and counted in `notes`; what could not be decoded is
counted in `damage`.
"""

from collections import deque
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
from sepconv_video.frames import Frame, Reading, VideoInfo
from sepconv_video.video.boxes import presentation_end
from sepconv_video.video.faults import explain, is_broken_off
from sepconv_video.video.findings import Changes, Faults
from sepconv_video.video.interlace import Deinterlacer, Examination, Scan
from sepconv_video.video.source import (
    HIGHEST_RATE,
    cuts_packets_short,
    describe,
    main_video,
    most_ticks,
    open_source,
    why_without_size,
)
from sepconv_video.video.unpacker import Unpacker, form_of

_HEADER_TICK = Fraction(1, 1000)


class Reader:
    """Decode the main video stream of a file, once, front to back.

    The first frames are decoded on opening, because only they tell the true format, and
    whether they are interlaced.

    Attributes:
        path: The file.
        info: What is known of the stream.
        notes: One line for each thing converted, dropped or mended, for the user.
    """

    def __init__(self, path: Path | str, reading: Reading | None = None) -> None:
        """Open `path`, to be read as `reading` says.

        Raises:
            VideoError: If there is no video in it that can be decoded, or it is interlaced and
                not to be deinterlaced.
        """
        self.path, self.reading = Path(path), reading or Reading()
        self.notes: list[str] = []
        self._faults = Faults()
        self._container = open_source(self.path)
        try:
            self._stream = main_video(self._container, self.path)
            self._stream.thread_type = "AUTO"
            self._clock = _Clock(self._stream, self._container.format.name != "avi")
            self._changes = Changes()
            self._decoded = self._decode()
            self._ahead: deque[av.VideoFrame] = deque()
            self._scan = self._examine()
            self._pictures = self._whole_pictures()
            self._first = next(self._pictures)
            self._unpack = Unpacker(self._first, self.path)
            self.notes += self._unpack.notes
            self.info = self._describe()
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
            self._decoded.close()
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

        Where size or format change in mid-stream, frames are scaled and converted to the
        first one's, with a note.

        May be iterated once.

        Raises:
            VideoError: If a picture cannot be converted.
        """
        held: Frame | None = None
        form = form_of(self._first)
        try:
            for index, picture in enumerate(chain([self._first], self._pictures)):
                if held is not None:
                    yield held
                before, form = form, form_of(picture, form)
                if form != before:
                    self._changes.form(index, before, form)
                if index < first:
                    continue
                assert picture.pts is not None  # the clock gave it one
                held = Frame(
                    index=index,
                    pts=picture.pts,
                    duration=picture.duration,
                    planes=self._unpack(picture),
                    begins_shot=form != before,
                )
            if held is not None:
                yield replace(held, duration=self._last_duration(held))
        finally:
            self.notes += self._clock.notes + self._changes.notes + self._field_notes()

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

    def _examine(self) -> Scan:
        """Decode the first pictures, which wait in `_ahead`, until it is clear what they are."""
        first = next(self._decoded, None)
        if first is None:
            raise self._nothing_decoded()
        self._ahead.append(first)
        examination = Examination(first, self._stream.codec_context.field_order)
        while examination.add(self._ahead[-1]):
            picture = next(self._decoded, None)
            if picture is None:
                break
            self._ahead.append(picture)
        scan = examination.scan()
        if scan.interlaced and not self.reading.deinterlace:
            raise scan.refuse(self.path)
        return scan

    def _nothing_decoded(self) -> VideoError:
        why = [self._faults.summary or "its video stream is empty"]
        why += filter(None, [why_without_size(self._stream)])
        return VideoError(
            f"cannot read `{self.path}`: not one frame can be decoded: {'; '.join(why)}",
            "was it copied or downloaded to the end?",
        )

    @property
    def _deinterlaces(self) -> bool:
        """Whether fields may become pictures: not where the marks are known to be wrong."""
        return self.reading.deinterlace and (self._scan.interlaced or not self._scan.marked)

    def _whole_pictures(self) -> Iterator[av.VideoFrame]:
        """Give the pictures with usable times, deinterlaced if that is wanted."""
        if not self._deinterlaces:
            return self._timed()
        return Deinterlacer(self._scan, self.path).pictures(self._timed())

    def _timed(self) -> Iterator[av.VideoFrame]:
        """Give the pictures, those that wait first, with usable times."""
        while (picture := self._next_picture()) is not None:
            if self._clock.is_left_over(picture):
                continue
            self._changes.marked += picture.interlaced_frame
            duration = self._clock.duration(picture)
            picture.pts, picture.duration = self._clock.pts(picture), duration
            picture.time_base = self._clock.tick
            yield picture

    def _next_picture(self) -> av.VideoFrame | None:
        return self._ahead.popleft() if self._ahead else next(self._decoded, None)

    def _describe(self) -> VideoInfo:
        info = describe(self._stream, self._first, self._unpack.pix_fmt, self._unpack.layout)
        if not self._deinterlaces:
            return info
        fields = 2 if self._scan.interlaced else 1
        frames = info.frame_count_from_header
        return replace(
            info,
            time_base=info.time_base / 2,
            rate=info.rate * fields,
            frame_count_from_header=frames and frames * fields,
        )

    def _field_notes(self) -> list[str]:
        """Say what became of pictures that have two fields, or are marked so."""
        scan, marked = self._scan, self._changes.marked
        if self._deinterlaces and scan.interlaced:
            film = ", unevenly as film was made television of" if scan.telecined else ""
            return [f"deinterlaced: two frames of each interlaced one{film}"]
        if self._deinterlaces and marked:
            return [f"deinterlaced: two frames of each of the {marked} that are marked as such"]
        if self._deinterlaces:
            return ["not interlaced: `--deinterlace` had nothing to do"]
        if scan.marked:
            return ["marked as interlaced, but its pictures are whole: nothing to deinterlace"]
        if marked:
            return [
                f"{marked} frames are marked as interlaced, not the first ones, and were taken as "
                "they are: if they look combed, add `--deinterlace`"
            ]
        return []

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        """Decode every packet, counting faults instead of raising them."""
        context, index = self._stream.codec_context, 0
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
                self._changes.aspect(index, context.sample_aspect_ratio)
                index += 1
                yield picture
        self._faults.broken_off |= is_broken_off(self.path)

    def _packets(self) -> Iterator["Packet[VideoStream]"]:
        """Demux the stream up to the end of the file or the first place it cannot be read."""
        drops_corrupt = cuts_packets_short(self._container)
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt and drops_corrupt:
                    self._faults.packets += 1
                else:
                    yield packet
        except av.FFmpegError as fault:
            self._faults.reading = explain(fault)[0]
        except IndexError:
            # at the end PyAV 18.1 looks for streams that appeared after the beginning, in vain
            return


class _Clock:
    """Gives every picture a time later than the one before it.

    AVI stores no presentation times, and those that FFmpeg makes up for it are wrong where
    there are B-frames; decoding times in presentation order, counted from the start, are right.
    """

    def __init__(self, stream: VideoStream, has_times: bool) -> None:
        self.tick = tick = Fraction(stream.time_base or Fraction(1, av.time_base))
        self._has_times = has_times
        self._most = most_ticks(tick)
        self._start = self._usable(stream.start_time) or 0
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        is_sane = 1 / HIGHEST_RATE <= rate <= HIGHEST_RATE
        self._step = max(1, round(1 / (rate * tick))) if is_sane else 1
        self._second = round(1 / tick)
        self._last: int | None = None
        self._stored: int | None = None  # the last time that was not made up
        self._offset = 0
        self._missing = 0
        self._backward = 0

    def duration(self, picture: av.VideoFrame) -> int:
        """Read how long a picture is shown, in ticks; 0 where that is not said or absurd."""
        return max(0, self._usable(picture.duration) or 0) if self._has_times else 0

    def pts(self, picture: av.VideoFrame) -> int:
        """Read or make up when a picture is shown, in ticks."""
        pts = self._found(picture)
        if pts is None:
            self._missing += 1
            pts = 0 if self._last is None else self._last + self._step
        else:
            pts = self._after_jump(pts)
            self._stored = pts
        if self._last is not None and pts <= self._last:
            self._backward += 1
            pts = self._last + 1
        if self._last is not None:
            self._step = pts - self._last
        self._last = pts
        return pts

    def _after_jump(self, pts: int) -> int:
        """Go on from a jump back of more than a second; made-up times before it are none."""
        if self._stored is None or self._last is None or self._stored - pts <= self._second:
            return pts
        self._backward += 1
        self._offset += self._last + self._step - pts
        return self._last + self._step

    def is_left_over(self, picture: av.VideoFrame) -> bool:
        """Tell whether a picture is made of the scraps of a broken packet.

        Where a transport stream is damaged, whatever looks like a beginning becomes a picture
        of its own. Only the first has the packet's time; the others would push all the rest.
        """
        if not (picture.is_corrupt and self._has_times) or self._stored is None:
            return False
        found = self._found(picture)
        return found is None or found <= self._stored

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
