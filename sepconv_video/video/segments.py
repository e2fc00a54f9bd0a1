"""Segments: a stretch of the output, encoded into a file of its own that can be played.

Only the compressed pictures are in it. Their times, which no container keeps exactly for all
codecs, are in the `Segment` that belongs to it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import av
from av.packet import Packet
from av.video.stream import VideoStream

from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame
from sepconv_video.video.encoders import holds
from sepconv_video.video.faults import translated
from sepconv_video.video.messages import Units, units_of, with_units
from sepconv_video.video.track import Track


class SegmentError(VideoError):
    """A finished segment that is damaged.

    Attributes:
        path: Its file.
    """

    def __init__(self, message: str, hint: str = "", path: Path = Path()) -> None:
        """Keep the file, so that it can be made again."""
        super().__init__(message, hint)
        self.path = path


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The times of a segment, in ticks of its track."""

    pts: tuple[int, ...]
    """When each picture is shown, in the order of decoding."""
    end_pts: int
    """When the last one shown ends."""
    rounded: int
    """Times that the container cannot hold exactly."""

    @property
    def delay(self) -> int:
        """How many pictures must be decoded before the first is shown, for reordering."""
        rank = {pts: place for place, pts in enumerate(sorted(self.pts))}
        return max((index - rank[pts] for index, pts in enumerate(self.pts)), default=0)


class SegmentWriter:
    """Encode some frames into a file of their own.

    Use it as a context manager and call `finish` at the end; left without it, the file is closed
    as it is, and removing it is the caller's business.
    """

    def __init__(self, path: Path, track: Track, called: Path) -> None:
        """Create the file and open the encoder.

        Args:
            path: File to write; an existing one is replaced.
            track: What the whole video is encoded with.
            called: Its name in errors: the user knows only the target.

        Raises:
            VideoError: If the file cannot be written.
        """
        self._track, self._rescaler, self._called = track, track.rescaler(), called
        self._pts: list[int] = []
        self._units: dict[int, Units] = {}  # of pictures that are being encoded
        self._end_pts = 0
        with translated("write", called):
            self._file = path.open("wb")
        try:
            with translated("write", called):
                self._output = av.open(self._file, "w", format=_container_of(track.codec))
                self._stream = track.add_to(self._output)
                self._output.start_encoding()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file in whatever state it is."""
        with suppress(av.FFmpegError, OSError):
            self._output.close()
        with suppress(OSError):
            self._file.close()

    def write(self, frame: Frame) -> None:
        """Encode one frame; frames come in the order of their times.

        Raises:
            VideoError: If the file cannot be written, e.g. because the disk is full.
        """
        pts, duration = self._rescaler.pts(frame.pts), self._rescaler.duration(frame.duration)
        self._end_pts = pts + max(1, duration)
        picture = self._track.picture(frame, pts, duration)
        self._units[pts] = units_of(frame, self._track.holds, self._track.codec)
        with translated("write", self._called):
            self._mux(self._stream.encode(picture))

    def finish(self, end_pts: int | None = None) -> Segment:
        """Finish the file, so that it survives a loss of power.

        Args:
            end_pts: When the last frame ends, in the frames' ticks, if its duration is not right.

        Raises:
            VideoError: If the file cannot be written.
        """
        with translated("write", self._called):
            self._mux(self._stream.encode(None))
            self._output.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        if end_pts is not None:
            self._end_pts = self._rescaler.duration(end_pts)
        return Segment(pts=tuple(self._pts), end_pts=self._end_pts, rounded=self._rescaler.rounded)

    def _mux(self, packets: Iterable["Packet[VideoStream]"]) -> None:
        for packet in packets:
            assert packet.pts is not None  # every picture was given a time
            self._pts.append(packet.pts)
            units = self._units.pop(packet.pts, Units())
            self._output.mux_one(self._filled(packet, units) if any(units) else packet)

    def _filled(self, packet: "Packet[VideoStream]", units: Units) -> "Packet[Any]":
        """Put units into a packet, of which this makes another one."""
        made = Packet(with_units(bytes(packet), units, self._track.codec))
        made.stream, made.time_base = packet.stream, packet.time_base
        made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
        made.is_keyframe = packet.is_keyframe
        return made


def _container_of(codec: str) -> str:
    """NUT keeps any packet as it is; it has no name for ProRes, which MOV was made for."""
    return "nut" if holds("nut", codec) else "mov"


def packets(path: Path, times: Sequence[int]) -> Iterator[tuple["Packet[VideoStream]", int]]:
    """Read a segment's packets in the order of decoding, and give each its time of `times`.

    Their own times mean nothing.

    Raises:
        SegmentError: If the file cannot be read, or holds fewer pictures than it did.
    """
    found = 0
    for found, timed in enumerate(zip(_demuxed(path), times, strict=False), 1):  # noqa: B007
        yield timed
    if found != len(times):
        raise _damaged(path, f"{found} of {len(times)} frames are left in it")


def _demuxed(path: Path) -> Iterator["Packet[VideoStream]"]:
    try:
        with av.open(f"file:{path}") as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
    except (av.FFmpegError, OSError, IndexError) as fault:
        raise _damaged(path, "it is damaged") from fault


def _damaged(path: Path, reason: str) -> SegmentError:
    return SegmentError(
        f"cannot read the finished segment `{path}`: {reason}",
        "run the same command again: only its frames are made again",
        path,
    )
