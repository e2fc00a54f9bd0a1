"""Decoding: a file in, pictures in presentation order out, with times that can be relied on.

No picture is lost silently: what could not be decoded is counted in `Faults`, what is mended
or changes on the way in `notes`. This module knows nothing of planes and frames.
"""

from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from av.packet import Packet
from av.video.stream import VideoStream

from sepconv_video.errors import VideoError
from sepconv_video.frames import Dynamic, Reading
from sepconv_video.numbered import Pictures, pictures_at
from sepconv_video.video.clock import Clock
from sepconv_video.video.faults import explain, is_broken_off, is_scrambled
from sepconv_video.video.layers import drop_layers
from sepconv_video.video.messages import dynamic_of
from sepconv_video.video.pipes import PIPE, is_cut_short
from sepconv_video.video.sequences import picture_packet
from sepconv_video.video.source import (
    cuts_packets_short,
    main_video,
    open_source,
    why_without_size,
)
from sepconv_video.video.window import seek, window_of

_MOST_NAMED = 3  # changes in mid-stream that are named one by one


class Decoder:
    """Decodes the main video stream of a file, once, from a key frame before what is wanted.

    Attributes:
        container: The file.
        stream: Its main video.
        window: The stretch of it that is wanted.
        first: The first picture.
        numbered: The pictures that are the video, if it is not a file.
        faults: What was found broken so far.
        dynamic: The HDR metadata of pictures that were given, by their times.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        """Open the file and decode a picture at or before the first one wanted.

        Indices are not always right: what a seek finds is believed only if it is a key frame
        that is shown early enough, else the file is read from its beginning.

        Raises:
            VideoError: If there is no video in it that can be decoded.
        """
        self._path, self._reading = path, reading
        self.numbered = pictures_at(path)
        # a pipe cannot be read again
        if path == PIPE or not (reading.timeline.start_s and self._has_sought()):
            self._open(None)
            try:
                self.first = self._first_of_all()
            except BaseException:
                self.container.close()
                raise
        self._ahead = deque([self.first])
        self._clock = Clock(self.stream, has_times=not self._is_avi, first_dts=self._first_dts)

    def _has_sought(self) -> bool:
        """Seek to the first picture wanted; False if the file cannot be relied on for that."""
        self._open(None)
        points, has_order = self.window.seek_points(), self.stream.codec_context.has_b_frames
        self.container.close()
        # AVI does not say when pictures are shown; with B-frames only counting all tells
        for point in [] if self._is_avi and has_order else points:
            self._open(point)
            first = next(self._decoded, None)
            if first is not None and self._is_early(first):
                self.first = first
                return True
            self.close()
        return False

    def _open(self, seek_s: Fraction | None) -> None:
        self.faults = Faults(self.numbered)
        self._used_bytes = 0
        self._aspects: list[str] = []
        self._dynamic: dict[int | None, Dynamic] = {}  # by times as they are in the file
        self.dynamic: dict[int, Dynamic] = {}
        self._first_dts: int | None = None  # of the packet that decoding began with
        self.container = open_source(self._path, self._reading)
        try:
            self.stream: VideoStream = main_video(self.container, self._path)
        except BaseException:
            self.container.close()
            raise
        self._dropped = drop_layers(self.stream.codec_context)
        self._is_avi = self.container.format.name == "avi"
        self.window = window_of(self.container, self.stream, self._reading.timeline)
        # with frame threads, a broken picture among the last would cost others, too
        self.stream.thread_type = "AUTO" if self.numbered is None else "SLICE"
        if seek_s is None:
            self._first_dts = self.stream.start_time
        else:
            seek(self.container, self.stream, seek_s)
        self._decoded = self._decode()

    def _is_early(self, first: av.VideoFrame) -> bool:
        """Tell whether a seek led to a picture from which on everything wanted is decoded."""
        ticks = self._first_dts if self._is_avi else first.pts
        if ticks is None or not first.key_frame or self.window.begin_s is None:
            return False
        return ticks * Fraction(self.stream.time_base or 0) <= self.window.begin_s

    def _first_of_all(self) -> av.VideoFrame:
        first = next(self._decoded, None)
        if first is None:
            why = [self.faults.summary or "its video stream is empty"]
            why += filter(None, [why_without_size(self.stream)])
            if self.container.format.name == "mpegts" and is_scrambled(self._path):
                raise VideoError(
                    f"cannot read `{self._path}`: its video is encrypted (scrambled)",
                    "record it again with a device that has the key",
                )
            raise VideoError(
                f"cannot read `{self._path}`: not one frame can be decoded: {'; '.join(why)}",
                "check that it was copied or downloaded completely",
            )
        return first

    def close(self) -> None:
        """Close the file; pictures already given stay valid."""
        try:
            self._decoded.close()
        except ValueError:  # a thread hangs in it, on a dead file system: nothing can be closed
            return
        self.container.close()

    @property
    def notes(self) -> list[str]:
        """What was mended, or changed in mid-stream; final after `pictures`."""
        notes = [*filter(None, [self._dropped]), *self._clock.notes]
        if not self._aspects:
            return notes
        changes = named(self._aspects)
        return [*notes, f"the sample aspect ratio changes {changes}: the first one is kept"]

    def look_ahead(self) -> Iterator[av.VideoFrame]:
        """Give the first pictures, as many as are asked for, which `pictures` gives again."""
        yield self.first
        for picture in self._decoded:
            self._ahead.append(picture)
            yield picture

    def pictures(self) -> Iterator[av.VideoFrame]:
        """Give all pictures, with usable times; may be iterated once."""
        while (picture := self._next()) is not None:
            if self._clock.is_left_over(picture):
                continue
            dynamic = self._dynamic.pop(picture.pts, None)
            duration = self._clock.duration(picture)
            picture.pts, picture.duration = self._clock.pts(picture), duration
            picture.time_base = self._clock.tick
            if dynamic is not None:
                self.dynamic[picture.pts] = dynamic
            yield picture

    def _next(self) -> av.VideoFrame | None:
        return self._ahead.popleft() if self._ahead else next(self._decoded, None)

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        """Decode every packet, counting faults instead of raising them."""
        index, aspect = 0, None
        packets = self._packets() if self.numbered is None else self._from_files(self.numbered)
        for packet in chain(packets, [None]):
            try:
                pictures = self.stream.decode(packet)
            except av.EOFError:  # already flushed by the demuxer's last, empty packet
                continue
            except av.FFmpegError:
                self.faults.packets += 1
                continue
            found = self.stream.codec_context.sample_aspect_ratio
            if pictures and found and aspect and found != aspect:
                self._aspects.append(f"from {aspect} to {found} at frame {index}")
            aspect = found or aspect
            for picture in pictures:
                self.faults.pictures += picture.is_corrupt
                index += 1
                yield picture
        self.faults.broken_off |= is_broken_off(self._path)
        self.faults.broken_off |= is_cut_short(self.container, self._used_bytes)

    def _from_files(self, pictures: Pictures) -> Iterator["Packet[VideoStream]"]:
        for file, place in zip(pictures.files, pictures.places, strict=True):
            try:
                yield picture_packet(file, place, self.stream)
            except OSError:
                self.faults.packets += 1

    def _packets(self) -> Iterator["Packet[VideoStream]"]:
        """Demux the stream up to the end of the file or the first place it cannot be read."""
        drops_corrupt = cuts_packets_short(self.container)
        try:
            for packet in self.container.demux(self.stream):
                if self._first_dts is None:
                    self._first_dts = packet.dts
                if packet.is_corrupt and drops_corrupt:
                    self.faults.packets += 1
                else:
                    self._used_bytes = (packet.pos or self._used_bytes) + packet.size
                    self._keep_dynamic(packet)
                    yield packet
        except av.FFmpegError as fault:
            self.faults.reading = explain(fault)[0]
        except IndexError:
            # at the end PyAV 18.1 looks for streams that appeared after the beginning, in vain
            return

    def _keep_dynamic(self, packet: "Packet[VideoStream]") -> None:
        """Keep the HDR metadata of the picture in a packet, as they stand there."""
        if self.stream.codec_context.name == "hevc" and packet.pts is not None:
            dynamic = dynamic_of(bytes(packet), self.stream)
            if any(dynamic):
                self._dynamic[packet.pts] = dynamic


class Faults:
    """Counts what was found broken while decoding."""

    def __init__(self, numbered: Pictures | None) -> None:
        """Start with nothing but the gaps among numbered pictures."""
        self._noun = "packet" if numbered is None else "picture"
        self._missing = numbered.missing if numbered is not None else 0
        self.packets = 0
        self.pictures = 0
        self.broken_off = False
        self.reading = ""

    def forget(self) -> None:
        """Leave out what was found so far: it is before what is wanted."""
        self.packets = self.pictures = 0

    @property
    def summary(self) -> str | None:
        """All of it, in one line; None if nothing is broken."""
        parts = []
        if self.broken_off:
            parts.append("the file ends too early")
        if self.reading:
            parts.append(f"reading stopped early: {self.reading}")
        if self._missing:
            noun = _plural("number", self._missing)
            parts.append(f"{self._missing} {noun} missing among the pictures")
        if self.packets:
            parts.append(f"{self.packets} {_plural(self._noun, self.packets)} could not be decoded")
        if self.pictures:
            parts.append(f"{self.pictures} {_plural('frame', self.pictures)} decoded with errors")
        return "; ".join(parts) or None


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def named(changes: list[str]) -> str:
    """Name some changes for the user."""
    more = len(changes) - _MOST_NAMED
    return ", ".join(changes[:_MOST_NAMED]) + (f" and {more} more times" if more > 0 else "")
