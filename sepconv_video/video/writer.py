"""Encoding: frames in, a finished file out, with the source's other streams beside them.

Every time survives exactly where the container can hold it: the encoder counts in the
ticks it is given, and MP4 and MOV take these as their time scale.
"""

import math
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import av
from av.codec.context import ThreadType
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sepconv_video.errors import VideoError
from sepconv_video.frames import Frame, VideoInfo
from sepconv_video.video.encoders import Encoding, container_for, plan
from sepconv_video.video.faults import explain, translated
from sepconv_video.video.formats import frame_of, layout_of, widen
from sepconv_video.video.streams import OtherStreams, fresh_tags

_MOST_TICKS = 2**31 - 1  # FFmpeg keeps time bases in 32 bits
_MOST_MOVIE_TICKS = 2**25
_BUFFER_BYTES = 2**18
_GRIDS = {"matroska": 1000, "webm": 1000, "mpegts": 90_000}  # ticks per second
_ANOTHER_CONTAINER = "try another container: a name ending in `.mkv` or `.mp4`"
_LAMBDA_PER_QUANTISER = 118  # FF_QP2LAMBDA


class Writer:
    """Write one video file.

    As a context manager, leaving normally finishes the file, leaving by an exception closes
    it as it is; removing it is the caller's business.

    Attributes:
        target: The file written.
        codec: FFmpeg's name of the encoder chosen.
        notes: One line for each thing that could not be kept, for the user; complete once closed.
    """

    def __init__(
        self,
        target: Path | str,
        info: VideoInfo,
        *,
        time_base: Fraction,
        rate: Fraction,
        encoding: Encoding | None = None,
        source: Path | None = None,
    ) -> None:
        """Create the file, open the encoder and write the header.

        Args:
            target: File to write; an existing one is replaced.
            info: The source's description: size, format, colour, aspect, rotation.
            time_base: Seconds per tick of the frames' `pts` and `duration`.
            rate: Nominal frames per second of the output.
            encoding: Codec, quality and container; by default chosen to fit `info`.
            source: File whose other streams, tags and chapters are copied, if any.

        Raises:
            OptionsError: If the encoding makes no sense.
            VideoError: If the target cannot be written, or not as wanted.
        """
        encoding = encoding or Encoding()
        self.target = Path(target)
        container = encoding.container or container_for(self.target)
        self._plan = plan(info, encoding, container)
        self.codec = self._plan.codec
        self.notes = [self._plan.note] if self._plan.note else []
        self._info = info
        self._source_layout = layout_of(info.pix_fmt) or self._plan.layout
        self._clock = _Clock(time_base, rate, container)
        self._durations: dict[int, int] = {}
        self._span = _Span()
        self._held: Packet[VideoStream] | None = None
        self._output: OutputContainer | None = None
        self._file: BinaryIO | None = None
        self._others = OtherStreams(source) if source else None
        self._offset = round(self._others.offset / time_base) if self._others else 0
        try:
            with translated("write", self.target, _ANOTHER_CONTAINER):
                self._output = output = self._open(container)
                self._stream = self._add_streams(output, rate)
                self._open_encoder(container)
                output.start_encoding()
            if self._others:
                self._others.start()
        except BaseException:
            self._abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._abandon()

    def write(self, frame: Frame) -> None:
        """Encode one frame; frames come in the order of their times.

        Raises:
            VideoError: If the target cannot be written, e.g. because the disk is full.
        """
        picture = self._picture(frame)
        with translated("write", self.target, _ANOTHER_CONTAINER):
            self._mux(self._stream.encode(picture))

    def close(self) -> None:
        """Finish the file: flush the encoder, copy the rest, write the index.

        Raises:
            VideoError: If the target cannot be written.
        """
        if self._output is None:
            return
        try:
            with translated("write", self.target, _ANOTHER_CONTAINER):
                self._mux(self._stream.encode(None))
                if self._held is not None and self._output.format.name in {"mp4", "mov"}:
                    self._held.duration = self._span.last_duration(self._held)
                self._mux_held()
                if self._others:
                    self._others.advance(self._output, None)
                self._output.close()
                if self._file:
                    self._file.close()
        finally:
            self._abandon()
        self.notes += self._clock.notes

    def _abandon(self) -> None:
        """Close all handles, whatever state the file is in."""
        output, self._output = self._output, None
        if output is not None:
            with suppress(av.FFmpegError, OSError):
                output.close()
        if self._file:
            with suppress(OSError):
                self._file.close()
        if self._others:
            self.notes += self._others.notes
            self._others.close()
            self._others = None

    def _open(self, container: str) -> OutputContainer:
        options = {}
        if container in {"mp4", "mov"}:
            options["movie_timescale"] = str(self._movie_ticks())
            if self._others and self._others.has_foreign_tags():
                options["movflags"] = "use_metadata_tags"
        if container == "matroska":
            # the sound of an MP4 begins a moment before 0, with samples not meant to be heard;
            # by default FFmpeg would move everything later, pictures too, to make it begin at 0
            options["avoid_negative_ts"] = "disabled"
        # a file of our own, because PyAV leaves its open when the header cannot be written
        self._file = self.target.open("wb")
        return av.open(
            self._file,
            "w",
            format=container,
            container_options=options,
            buffer_size=_BUFFER_BYTES,
        )

    def _movie_ticks(self) -> int:
        """Choose the clock of the edit lists: a start that falls on its ticks is exact.

        FFmpeg's 1/1000 s would shift picture against sound by up to half a millisecond.
        """
        ticks = self._clock.time_base.denominator
        for clock in self._others.clocks() if self._others else []:
            common = math.lcm(ticks, clock)
            ticks = common if common <= _MOST_MOVIE_TICKS else ticks
        return ticks if ticks <= _MOST_MOVIE_TICKS else 1000

    def _add_streams(self, output: OutputContainer, rate: Fraction) -> VideoStream:
        """Declare all streams, in the source's order, and copy tags and chapters."""
        others = self._others
        if others is None:
            return self._add_video(output, rate)
        others.add(output, others.before_video())
        stream = self._add_video(output, rate)
        stream.disposition = others.main.disposition
        stream.metadata.update(fresh_tags(others.main.metadata))
        others.add(output, others.after_video())
        others.copy_header(output)
        return stream

    def _add_video(self, output: OutputContainer, rate: Fraction) -> VideoStream:
        info, color = self._info, self._info.color
        stream = output.add_stream(
            self._plan.codec,
            rate.limit_denominator(_MOST_TICKS // max(1, math.ceil(rate))),
            options=self._plan.options,
            time_base=self._clock.time_base,
            width=info.width,
            height=info.height,
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.pix_fmt = self._plan.stored_as
        context.colorspace, context.color_range = color.colorspace_tag, color.range_tag
        context.color_primaries, context.color_trc = color.primaries_tag, color.transfer_tag
        if info.sample_aspect_ratio:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        # PyAV's default cuts pictures into slices, which costs x264 quality
        context.thread_type = ThreadType.AUTO
        if self._plan.quantiser is not None:
            context.qscale = True
            context.global_quality = self._plan.quantiser * _LAMBDA_PER_QUANTISER
        if context.codec.canonical_name == "hevc" and output.format.name in {"mp4", "mov"}:
            context.codec_tag = "hvc1"  # Apple's players know no other
        if info.display_matrix:
            stream.set_display_matrix(info.display_matrix)
        return stream

    def _open_encoder(self, container: str) -> None:
        try:
            self._stream.codec_context.open()
        except av.FFmpegError as fault:
            info = self._info
            needs_gpu = self.codec.endswith("_nvenc")
            raise VideoError(
                f"cannot open encoder `{self.codec}` for {info.width}x{info.height} "
                f"{self._plan.pix_fmt} at {self._clock.time_base} s per tick in {container}: "
                f"{explain(fault)[0]}",
                "it needs an NVIDIA GPU with an encoder; `libx264` runs everywhere"
                if needs_gpu
                else "choose another codec, e.g. `libx264`",
            ) from fault

    def _picture(self, frame: Frame) -> av.VideoFrame:
        planes, color = frame.planes, self._info.color
        if self._plan.layout != self._source_layout:
            planes = widen(
                planes, self._source_layout, self._plan.layout, full_range=color.full_range
            )
        picture = frame_of(planes, self._plan.pix_fmt, self._plan.layout)
        picture.time_base = self._clock.time_base
        picture.pts = self._clock.pts(frame.pts - self._offset)
        picture.duration = self._clock.duration(frame.duration)
        picture.colorspace, picture.color_range = color.colorspace_tag, color.range_tag
        picture.color_primaries, picture.color_trc = color.primaries_tag, color.transfer_tag
        self._durations[picture.pts] = picture.duration
        return picture

    def _mux(self, packets: Iterable["Packet[VideoStream]"]) -> None:
        """Mux all packets but the newest, which may turn out to be the last."""
        for packet in packets:
            # not every encoder passes a frame's duration on to its packet
            packet.duration = self._durations.pop(packet.pts or 0, packet.duration or 0)
            self._span.add(packet)
            self._mux_held()
            self._held = packet

    def _mux_held(self) -> None:
        assert self._output is not None  # nobody writes to a closed writer
        packet, self._held = self._held, None
        if packet is None:
            return
        until = Fraction(packet.dts or 0) * packet.time_base
        self._output.mux_one(packet)
        if self._others:
            self._others.advance(self._output, until)


class _Span:
    """The time that the packets seen so far cover, shown and decoded.

    MP4 adds up decoding times to get a track's duration. At a variable rate with B-frames
    the last of these would miss the end of the last frame shown.
    """

    def __init__(self) -> None:
        self._is_empty = True
        self._start = self._first_dts = self._end = 0

    def add(self, packet: "Packet[VideoStream]") -> None:
        pts, dts = packet.pts or 0, packet.dts or 0
        if self._is_empty:
            self._is_empty, self._start, self._first_dts, self._end = False, pts, dts, pts
        self._start = min(self._start, pts)
        self._end = max(self._end, pts + (packet.duration or 0))

    def last_duration(self, packet: "Packet[VideoStream]") -> int:
        """Give the last packet's duration with which decoding takes as long as presentation."""
        pts, dts = packet.pts or 0, packet.dts or 0
        wanted = self._first_dts + (self._end - self._start) - dts
        return max(packet.duration or 0, min(wanted, self._end - pts))


class _Clock:
    """Turns the frames' ticks into the encoder's, which the container must be able to hold."""

    def __init__(self, ticks: Fraction, rate: Fraction, container: str) -> None:
        self._container = container
        self.time_base = ticks
        if container == "avi":  # knows a constant rate only; finer ticks become empty frames
            self.time_base = 1 / rate
        elif max(ticks.denominator, ticks.numerator) > _MOST_TICKS:
            self.time_base = Fraction(1, 1_000_000)
        self._ratio = ticks / self.time_base
        self._to_grid = ticks * _GRIDS.get(container, 1 / ticks)
        self._last: int | None = None
        self._rounded = 0

    def pts(self, ticks: int) -> int:
        exact = ticks * self._ratio
        pts = round(exact)
        if self._last is not None:
            pts = max(pts, self._last + 1)
        self._rounded += pts != exact or (ticks * self._to_grid).denominator != 1
        self._last = pts
        return pts

    def duration(self, ticks: int) -> int:
        return round(ticks * self._ratio)

    @property
    def notes(self) -> list[str]:
        if not self._rounded:
            return []
        grid = _GRIDS.get(self._container, 1 / self.time_base)
        return [
            f"{self._rounded} frame times rounded to 1/{grid} s, the finest a {self._container} "
            "file has; a name ending in `.mp4` keeps them exactly"
        ]
