"""Copying what is not the main video: audio, subtitles, data, attachments, pictures, chapters.

Packets are copied as they are, payload and times, a little ahead of the video's, so that
the file is interleaved and no more than a moment of it is in memory.
"""

import io
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.rational import AVRational
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from sepconv_video.video.source import cuts_packets_short, main_video, most_ticks, open_source

# Tags that describe the file or the encoding they were read from, not the content.
_STALE = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps",
    "number_of_frames", "number_of_bytes", "_statistics_writing_app",
    "_statistics_writing_date_utc", "_statistics_tags", "vendor_id",
}  # fmt: skip
_PREFERRED_CONTAINERS = ("matroska", "mov", "mp4")
_PICTURE_FILES = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png")}
_BROADCAST = ("mpegts", "mpeg")


class OtherStreams:
    """Everything in a source but its main video, on its way into an output.

    Attributes:
        main: The source's main video stream, for its tags.
        notes: One line for each stream left out and each fault mended.
        offset: Seconds taken off all times: where a broadcast recording begins, since its
            clock starts anywhere; 0 for files with a time line of their own.
    """

    def __init__(self, source: Path) -> None:
        """Open `source` a second time, for demuxing only."""
        self.notes: list[str] = []
        self._path = source
        self._input: InputContainer = open_source(source)
        self.main: VideoStream = main_video(self._input, source)
        self.offset = _start_of(self._input)
        self._outputs: dict[int, Stream] = {}
        self._last_dts: dict[int, int] = {}
        self._mended = 0
        self._refused = 0
        self._covers: dict[int, bytes] | None = None
        self._pending: Packet[Stream] | None = None
        self._packets: Iterator[Packet[Stream]] = iter(())

    def close(self) -> None:
        """Close the source."""
        self._input.close()

    def before_video(self) -> list[Stream]:
        """List the streams that precede the main video in the source."""
        return list(self._input.streams)[: self.main.index]

    def after_video(self) -> list[Stream]:
        """List the streams that follow the main video in the source."""
        return list(self._input.streams)[self.main.index + 1 :]

    def add(self, output: OutputContainer, streams: list[Stream]) -> None:
        """Declare streams in an output, noting those it cannot hold."""
        for stream in streams:
            if _is_made_by_muxer(stream, self._input, output):
                continue
            if output.format.name == "matroska" and _is_cover(stream):
                self._attach(output, stream)
                continue
            if can_hold(output.format.name, stream):
                self._outputs[stream.index] = clone(output, stream)
                continue
            others = [name for name in _PREFERRED_CONTAINERS if can_hold(name, stream)]
            remedy = f"a {others[0]} file can" if others else "no container known here can"
            self.notes.append(
                f"{_called(stream)} left out: a {output.format.name} file cannot hold it, {remedy}"
            )

    def _attach(self, output: OutputContainer, cover: Stream) -> None:
        """Copy a cover picture into Matroska, where it is an attached file, not a stream."""
        name = cover.codec_context.name if cover.codec_context is not None else ""
        suffix, mime = _PICTURE_FILES.get(name, (name, f"image/{name}"))
        if self._covers is None:
            self._covers = _read_covers(self._path)
        if cover.index not in self._covers:
            self.notes.append(f"{_called(cover)} left out: it cannot be read")
            return
        given = cover.metadata.get("filename")
        mime = cover.metadata.get("mimetype", mime)
        output.add_attachment(given or f"cover.{suffix}", mime, self._covers[cover.index])

    def copy_header(self, output: OutputContainer) -> None:
        """Copy the file's tags and chapters."""
        output.metadata.update(fresh_tags(self._input.metadata))
        chapters = self._input.chapters()
        for chapter in chapters:
            shift = self.offset / Fraction(chapter["time_base"] or 1)
            chapter["start"] -= round(shift)
            chapter["end"] -= round(shift)
        if chapters:
            output.set_chapters(chapters)

    def has_foreign_tags(self) -> bool:
        """Tell whether there are tags outside MP4's classic set, as cameras write them."""
        return any("." in key for key in self._input.metadata)

    def clocks(self) -> list[int]:
        """List the ticks per second of the audio streams."""
        bases = [audio.time_base for audio in self._input.streams.audio]
        return [base.denominator for base in bases if base]

    def start(self) -> None:
        """Begin to read packets; call once the output's header is written."""
        for stream in self._input.streams:
            if stream.index not in self._outputs:
                stream.discard = Discard.all
        wanted = [self._input.streams[index] for index in self._outputs]
        self._packets = self._input.demux(wanted) if wanted else iter(())

    def advance(self, output: OutputContainer, until: Fraction | None) -> None:
        """Copy packets up to a decoding time in seconds of the output; None: all that are left."""
        while (packet := self._next()) is not None:
            if until is not None and (packet.dts or 0) * packet.time_base > until:
                self._pending = packet
                return
            self._mux(output, packet)
        if self._mended:
            self.notes.append(f"{self._mended} packets had times running backward: moved on")
            self._mended = 0
        if self._refused:
            self.notes.append(f"{self._refused} damaged packets of sound or text left out")
            self._refused = 0

    def _next(self) -> "Packet[Stream] | None":
        held, self._pending = self._pending, None
        if held is not None:
            return held
        try:
            for packet in self._packets:
                is_flush = packet.size == 0 and packet.pts is None and packet.dts is None
                is_part = packet.is_corrupt and cuts_packets_short(self._input)
                if is_flush or is_part or _is_filler(packet):
                    continue
                if _is_absurd(packet):
                    self._refused += 1
                    continue
                return self._shifted(packet)
        except (av.FFmpegError, IndexError):
            # the reader of the video meets the same, and reports it where it is a fault
            self._packets = iter(())
        return None

    def _shifted(self, packet: "Packet[Stream]") -> "Packet[Stream]":
        if self.offset:
            ticks = round(self.offset / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - ticks
            packet.dts = None if packet.dts is None else packet.dts - ticks
        return packet

    def _mux(self, output: OutputContainer, packet: "Packet[Stream]") -> None:
        stream = self._outputs[packet.stream.index]
        assert stream.time_base is not None  # set by the muxer with the header
        is_timed = stream.type in {"audio", "video"}
        packet.stream = stream
        packet.rescale_ts(AVRational(stream.time_base.numerator, stream.time_base.denominator))
        if packet.dts is None:
            packet.dts = packet.pts if packet.pts is not None else 0
        lowest = self._last_dts.get(stream.index)
        if lowest is not None and packet.dts < lowest + is_timed:
            self._mended += packet.dts < lowest
            packet.dts = lowest + is_timed
        if packet.pts is None or packet.pts < packet.dts:
            packet.pts = packet.dts
        self._last_dts[stream.index] = packet.dts
        try:
            output.mux_one(packet)
        except (av.InvalidDataError, av.PatchWelcomeError):
            # e.g. a broken AAC header, which MP4 stores in another form
            self._refused += 1


def _read_covers(path: Path) -> dict[int, bytes]:
    """Read all cover pictures at once, by stream: a hostile file may have hundreds."""
    found: dict[int, bytes] = {}
    with open_source(path) as source, suppress(av.FFmpegError, IndexError):
        covers = [stream for stream in source.streams if _is_cover(stream)]
        for packet in source.demux(covers):
            if packet.size:
                found.setdefault(packet.stream.index, bytes(packet))
            if len(found) == len(covers):
                break
    return found


def can_hold(container: str, stream: Stream) -> bool:
    """Tell whether a container can hold a stream, by writing a header with it to memory."""
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        clone(trial, stream)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()
    return True


def clone(output: OutputContainer, stream: Stream) -> Stream:
    """Declare a stream like `stream`, with its tags and dispositions, for packet copies."""
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.disposition = stream.disposition
    copy.metadata.update(fresh_tags(stream.metadata))
    return copy


def fresh_tags(tags: dict[str, str]) -> dict[str, str]:
    """Leave out the tags that would be wrong in another file."""
    return {
        key: value for key, value in tags.items() if key.lower().removesuffix("-eng") not in _STALE
    }


def _start_of(source: InputContainer) -> Fraction:
    if not source.format.name.startswith(_BROADCAST):
        return Fraction(0)
    return Fraction(source.start_time or 0, av.time_base)


def _is_made_by_muxer(stream: Stream, source: InputContainer, output: OutputContainer) -> bool:
    """Tell whether a data stream is one that MP4 and MOV muxers write themselves.

    That is the text track holding the chapters, and the timecode track, which comes from
    the tag `timecode`.
    """
    if stream.type != "data" or not source.format.name.startswith("mov"):
        return False
    if stream.name == "bin_data" and source.chapters():
        return True
    return "timecode" in stream.metadata and output.format.name in {"mp4", "mov"}


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _is_filler(packet: "Packet[Stream]") -> bool:
    """Tell whether a packet is an empty MP4 subtitle without duration.

    FFmpeg's muxer puts them in between by itself; copied, they would double with each copy.
    """
    context = packet.stream.codec_context
    if context is None or context.name != "mov_text" or packet.size != 2:
        return False
    return not packet.duration and bytes(packet) == b"\0\0"


def _is_absurd(packet: "Packet[Stream]") -> bool:
    """Tell whether a packet's times are too far from 0 to be reckoned with."""
    most = most_ticks(packet.time_base)
    return any(
        abs(ticks) > most for ticks in (packet.pts or 0, packet.dts or 0, packet.duration or 0)
    )


def _called(stream: Stream) -> str:
    name = stream.name if stream.type in {"data", "attachment"} else None
    if stream.codec_context is not None:
        name = stream.codec_context.name
    kind = "cover picture" if _is_cover(stream) else stream.type
    language = f", {stream.language}" if stream.language else ""
    return f"{kind} stream {stream.index} ({name or 'unknown codec'}{language})"
