"""Reading a source's packets: those of the stretch that is used, and when each stream ends."""

import math
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.stream import VideoStream

from sepconv_video.frames import Timeline
from sepconv_video.video.containers import codec_of, is_cover
from sepconv_video.video.jumps import Jumps
from sepconv_video.video.leading import Hidden, Leading
from sepconv_video.video.source import (
    cuts_packets_short,
    main_video,
    most_ticks,
    open_source,
    rate_of,
)
from sepconv_video.video.window import seek, window_of

_EARLY_S = 30
"""Reading begins so long before the stretch: a line of text may have begun before it."""
_LATE_S = 10
"""And ends so long after it: packets are not quite in the order of their times."""


class SourcePackets:
    """The packets of a source within its timeline, in the order of the file.

    Attributes:
        container: The open source.
        main: Its main video stream.
        window: The stretch that is used.
        refused: Packets so far that were left out because their times are absurd.
        ends_s: When each stream read ends in the stretch, by its index, on the source's clock.
    """

    def __init__(self, path: Path, timeline: Timeline) -> None:
        """Open `path`, for demuxing only.

        Raises:
            VideoError: It cannot be read.
        """
        self._path, self._timeline = path, timeline
        self.refused, self.ends_s = 0, dict[int, Fraction]()
        self._last_s: dict[int, Fraction] = {}
        self._has_key: set[int] = set()
        self._packets: Iterator[Packet[Stream]] = iter(())
        self._leading: dict[int, Leading] = {}
        self._hidden: dict[int, Hidden] = {}
        self._ready: deque[Packet[Stream]] = deque()
        self._open()
        for point in self.window.seek_points(_EARLY_S):
            if self._goes_to(point):
                return
        if self.window.seek_points(_EARLY_S):
            self.container.close()
            self._open()

    def _open(self) -> None:
        self.container: InputContainer = open_source(self._path)
        if _is_to_be_searched(self.container):
            self.container.close()
            self.container = open_source(self._path, deeply=True)
        try:
            self.main: VideoStream = main_video(self.container, self._path)
        except BaseException:
            self.container.close()
            raise
        self.window = window_of(self.container, self.main, self._timeline)

    def _goes_to(self, point_s: Fraction) -> bool:
        """Seek; tell whether it led to a packet before the stretch."""
        if not seek(self.container, self.main, point_s):
            return False
        try:
            first = next(iter(self.container.demux()), None)
        except (av.FFmpegError, IndexError):
            return False
        time_s = None if first is None else _shown_s(first)
        if time_s is None or not self.window.is_before(time_s):
            return False
        return seek(self.container, self.main, point_s)  # once more, for that packet

    def close(self) -> None:
        """Close the source."""
        self.container.close()

    def begin(self, wanted: set[int], audible: set[int]) -> None:
        """Begin to read the streams with these indices, and the main video for its end.

        Of those that are `audible` as they are, what the file hides is left out.
        """
        for stream in self.container.streams:
            if stream.index not in wanted | {self.main.index}:
                stream.discard = Discard.all
        read = sorted(wanted | {self.main.index})
        streams = [self.container.streams[index] for index in read]
        self._leading = {
            stream.index: Leading()
            for stream in streams
            if stream.type == "video" and not is_cover(stream)
        }
        self._hidden = {index: Hidden(codec_of(self.container.streams[index])) for index in audible}
        self._packets = self._demuxed(streams)

    def next(self) -> "Packet[Stream] | None":
        """Give the next packet that is not the main video's; None at the end."""
        while not self._ready:
            packet = self._read()
            if packet is None:
                self._ready.extend(
                    held for leading in self._leading.values() for held in leading(None)
                )
                break
            leading = self._leading.get(packet.stream.index)
            self._ready.extend([packet] if leading is None else leading(packet))
        return self._ready.popleft() if self._ready else None

    def _read(self) -> "Packet[Stream] | None":
        for packet in self._packets:
            if self._is_wanted(packet):
                return packet
        self._packets = iter(())
        return None

    def _demuxed(self, streams: list[Stream]) -> "Iterator[Packet[Stream]]":
        """Read packets, and let their times go on where the file's clock jumps back."""
        jumps = Jumps(self.main.index)
        try:
            for packet in self.container.demux(streams):
                hidden = self._hidden.get(packet.stream.index)
                for heard in [packet] if hidden is None else hidden(packet):
                    # impossible times tell nothing, and are refused later
                    yield from [heard] if _is_absurd(heard) else jumps(heard)
        except (av.FFmpegError, IndexError):
            # the reader of the video meets the same, and reports it where it is a fault
            pass
        yield from jumps(None)

    def _is_wanted(self, packet: "Packet[Stream]") -> bool:
        is_flush = packet.size == 0 and packet.pts is None and packet.dts is None
        if is_flush or (packet.is_corrupt and cuts_packets_short(self.container)):
            return False
        if _is_absurd(packet):
            self.refused += packet.stream.index != self.main.index
            return False
        dts_s = (packet.dts or 0) * packet.time_base
        if self.window.end_s is not None and dts_s > self.window.end_s + _LATE_S:
            self._packets = iter(())
        return self._is_within(packet) and packet.stream.index != self.main.index

    def _is_within(self, packet: "Packet[Stream]") -> bool:
        """Tell whether a packet belongs to the stretch; cut it to it if it is text."""
        stream = packet.stream
        if is_cover(stream):
            packet.pts = packet.dts = round(self.window.origin_s / packet.time_base)
            return True
        if stream.index == self.main.index and self.container.format.name == "avi":
            packet.pts = None  # made up, and wrong where there are B-frames; see the reader
        time_s = _shown_s(packet)
        if time_s is None:  # belongs to the one before
            time_s = self._last_s.get(stream.index)
            if time_s is None:
                return self.window.begin_s is None
        self._last_s[stream.index] = time_s
        if stream.type == "subtitle":
            return self._cut(packet, time_s)
        if self.window.is_before(time_s) or self.window.is_after(time_s):
            return False
        if stream.type == "video" and stream.index != self.main.index:
            return self._can_be_decoded(packet)
        self._note_end(packet, time_s)
        return True

    def _cut(self, packet: "Packet[Stream]", start_s: Fraction) -> bool:
        duration_s = (packet.duration or 0) * packet.time_base
        rest = self.window.clipped(start_s, start_s + duration_s)
        if rest is None:
            return False
        if rest != (start_s, start_s + duration_s):
            packet.pts = packet.dts = math.ceil(rest[0] / packet.time_base)
            packet.duration = max(1, int(rest[1] / packet.time_base) - packet.pts)
        return True

    def _can_be_decoded(self, packet: "Packet[Stream]") -> bool:
        """Tell whether a second video has had a key frame since the stretch began."""
        if packet.is_keyframe or self.window.begin_s is None:
            self._has_key.add(packet.stream.index)
        return packet.stream.index in self._has_key

    def _note_end(self, packet: "Packet[Stream]", time_s: Fraction) -> None:
        end_s = time_s + (packet.duration or self._frame_ticks(packet)) * packet.time_base
        if self.window.end_s is not None and packet.stream.index == self.main.index:
            end_s = min(end_s, self.window.end_s)
        index = packet.stream.index
        self.ends_s[index] = max(end_s, self.ends_s.get(index, end_s))

    def _frame_ticks(self, packet: "Packet[Stream]") -> Fraction:
        """How long a picture lasts whose file does not say it, as in FLV."""
        if packet.stream.index != self.main.index:
            return Fraction(0)
        return 1 / (rate_of(self.main) * packet.time_base)


def _is_to_be_searched(container: InputContainer) -> bool:
    """Tell whether streams may begin so late that FFmpeg does not know of them, or too little."""
    unknown = [s for s in container.streams.audio if not getattr(s.codec_context, "sample_rate", 1)]
    return container.format.name == "mpeg" or (container.format.name == "mpegts" and bool(unknown))


def _shown_s(packet: "Packet[Stream]") -> Fraction | None:
    ticks = packet.dts if packet.pts is None else packet.pts
    return None if ticks is None else ticks * Fraction(packet.time_base)


def _is_absurd(packet: "Packet[Stream]") -> bool:
    """Tell whether a packet's times are too far from 0 to be reckoned with."""
    most = most_ticks(packet.time_base)
    return any(
        abs(ticks) > most for ticks in (packet.pts or 0, packet.dts or 0, packet.duration or 0)
    )
