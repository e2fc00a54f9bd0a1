"""Video through pipes: from standard input, once, and to standard output as y4m or raw frames."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import Frame, Reading, VideoInfo
from sepconv_video.video.faults import explain, translated
from sepconv_video.video.formats import frame_of, layout_of
from sepconv_video.video.space import lost_space

PIPE = Path("-")
"""Standard input as a source, standard output as a target; a file of that name is `./-`."""
_STDIN, _STDOUT = 0, 1
_GONE = "see why the program after the pipe ended"
_RAW = re.compile(r"(\d{1,5})x(\d{1,5}):(\w+)")


class _Input:
    """Standard input, without seeking, as what is read once cannot be read again.

    Not Python's own, whose lock would be held at the end by a thread that waits for input.
    """

    def __init__(self) -> None:
        self.total = 0

    def read(self, size: int) -> bytes:
        data = os.read(_STDIN, size)
        self.total += len(data)
        return data


_INPUT = _Input()


class _Output:
    """Standard output; Python's own would keep bytes back."""

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[os.write(_STDOUT, left) :]
        return len(data)


def open_stdin(
    reading: Reading, guards: Mapping[str, str], codec: dict[str, str]
) -> InputContainer:
    """Open what comes through standard input; FFmpeg tells the format unless it is raw.

    Args:
        reading: The rate of what has none, and size and format of raw video.
        guards: FFmpeg's options for the container.
        codec: Its options for the decoders.

    Raises:
        OptionsError: Standard input is a terminal, or raw video is described wrongly.
        VideoError: No video comes.
    """
    if os.isatty(_STDIN):
        raise OptionsError(
            "cannot read `-`: standard input is a terminal",
            "send a video through a pipe, e.g. `ffmpeg -i in.mp4 -f yuv4mpegpipe - | ...`",
        )
    raw = {} if reading.raw is None else raw_options(reading.raw)
    rate = {"framerate": str(reading.rate)}
    _INPUT.total = 0
    try:
        return av.open(
            _INPUT,
            "r",
            format="rawvideo" if raw else None,
            options=codec,
            container_options={**guards, **rate, **raw},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, MemoryError) as fault:
        reason = (
            "no video that FFmpeg knows comes through the pipe"
            if isinstance(fault, (av.InvalidDataError, av.EOFError))
            else explain(fault)[0]
        )
        raise VideoError(
            f"cannot read `-`: {reason}",
            "send y4m, NUT, Matroska or MPEG-TS (an MP4 has its index at the end), or describe "
            "raw video with `--raw`, e.g. `--raw 1920x1080:yuv420p`",
        ) from fault


def is_cut_short(container: InputContainer, used: int) -> bool:
    """Tell whether y4m on standard input ended within a frame, which FFmpeg takes for its end.

    Args:
        container: What was read.
        used: Where the last whole frame ended, in bytes.
    """
    return container.format.name == "yuv4mpegpipe" and _INPUT.total > used


def raw_options(text: str) -> dict[str, str]:
    """Turn `1920x1080:yuv420p` into FFmpeg's options for raw video.

    Raises:
        OptionsError: It is not like that, or there is no such format.
    """
    match = _RAW.fullmatch(text)
    known = match is not None and int(match[1]) > 0 and int(match[2]) > 0
    if match is not None and known:
        with suppress(ValueError):
            av.VideoFormat(match[3])
            return {"video_size": f"{match[1]}x{match[2]}", "pixel_format": match[3]}
    raise OptionsError(
        f"`--raw {text}` is not a size and a pixel format",
        "use width, height and FFmpeg's name of the format, e.g. `--raw 1920x1080:yuv420p`",
    )


class PipeWriter:
    """Writes frames to standard output, as y4m or one after the other without any header."""

    def __init__(self, info: VideoInfo, rate: Fraction, *, raw: bool) -> None:
        """Write the header.

        Args:
            info: What the frames are.
            rate: Frames per second of the output.
            raw: Whether nothing but samples is written.

        Raises:
            OptionsError: Standard output is a terminal, or y4m cannot hold such frames.
            VideoError: Whoever read from the pipe has gone.
        """
        if os.isatty(_STDOUT):
            raise OptionsError(
                "cannot write `-`: standard output is a terminal",
                "send it through a pipe, e.g. `sepconv-video in.mp4 -o - | ffplay -`",
            )
        self._info = info
        layout = layout_of(info.pix_fmt)
        assert layout is not None  # the reader gives planar formats only
        self._layout = layout
        self._count = 0
        self._output = av.open(
            _Output(),
            "w",
            format="rawvideo" if raw else "yuv4mpegpipe",
            container_options={} if raw else {"strict": "-1"},  # for more than 8 bits
        )
        try:
            with translated("write", PIPE, _GONE):
                self._stream = self._add_stream(rate)
                self._start()
        except VideoError:
            self.close()
            raise

    def _start(self) -> None:
        try:
            self._output.start_encoding()
        except av.InvalidDataError as fault:
            self.close()
            raise OptionsError(
                f"cannot write `-`: y4m holds no {self._info.pix_fmt} video",
                "write a file, or raw frames with `--codec rawvideo`",
            ) from fault

    def _add_stream(self, rate: Fraction) -> VideoStream:
        info = self._info
        stream = self._output.add_stream(
            "rawvideo", rate, time_base=1 / rate, width=info.width, height=info.height
        )
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = info.pix_fmt
        stream.codec_context.color_range = 2 if info.color.full_range else info.color.range_tag
        if info.sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = info.sample_aspect_ratio
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pipe."""
        with suppress(av.FFmpegError, OSError):
            self._output.close()

    def finish(self) -> None:
        """Write what is still in hand.

        Raises:
            VideoError: Whoever read from the pipe has gone.
        """
        with translated("write", PIPE, _GONE):
            self._output.mux(self._stream.encode(None))
            self._output.close()

    def write(self, frame: Frame) -> None:
        """Write one frame.

        Raises:
            VideoError: Whoever read from the pipe has gone.
        """
        picture = frame_of(frame.planes, self._info.pix_fmt, self._layout)
        picture.pts, picture.time_base = self._count, self._stream.time_base
        self._count += 1
        with translated("write", PIPE, _GONE):
            self._output.mux(self._stream.encode(picture))


def lost_in_pipe(info: VideoInfo, *, raw: bool) -> list[str]:
    """Say what of the pictures' description y4m or raw video has no place for."""
    color, lost = info.color, []
    tags = (color.colorspace_tag, color.primaries_tag, color.transfer_tag)
    if any(tag != 2 for tag in tags):
        lost.append(f"the colour tags ({color.matrix})")
    if info.display_matrix:
        lost.append("the rotation")
    form = "raw video" if raw else "y4m"
    notes = [f"{form} has no place for {' and '.join(lost)}"] if lost else []
    return [*notes, *filter(None, [lost_space(info, form)])]


def left_out(container: InputContainer, main: Stream, why: str) -> str:
    """Name the streams beside the main video, which are lost, and `why`; empty if none."""
    others = [stream.type for stream in container.streams if stream.index != main.index]
    if not others:
        return ""
    kinds = ", ".join(f"{others.count(kind)} {kind}" for kind in sorted(set(others)))
    return f"other streams left out ({kinds}): {why}"


class Evenness:
    """Looks whether frames come at a constant rate, for targets that have no times."""

    def __init__(self, tick: Fraction, rate: Fraction) -> None:
        """Expect `rate` frames per second, with times in ticks of so many seconds."""
        self._step = 1 / (rate * tick)
        self._tick = tick
        self._first: int | None = None
        self._count = 0
        self._worst = Fraction(0)

    def add(self, pts: int) -> None:
        """Look at the time of the next frame."""
        if self._first is None:
            self._first = pts
        self._worst = max(self._worst, abs(pts - self._first - self._count * self._step))
        self._count += 1

    def note(self, form: str) -> str:
        """Say that times are lost, where they are off by more than half a frame."""
        if self._worst * 2 <= self._step:
            return ""
        off_s = float(self._worst * self._tick)
        return f"times are lost in {form}: at a constant rate frames are off by up to {off_s:.3f} s"
