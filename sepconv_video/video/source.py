"""Opening a source: its main video stream, and everything known before frames are decoded."""

import math
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from sepconv_video.errors import VideoError
from sepconv_video.frames import Reading, VideoInfo
from sepconv_video.numbered import pictures_at
from sepconv_video.video.boxes import is_encrypted
from sepconv_video.video.dolby import known_record
from sepconv_video.video.faults import explain, quoted
from sepconv_video.video.formats import Layout
from sepconv_video.video.hdr import light_of, side_data
from sepconv_video.video.headers import Facts
from sepconv_video.video.matrices import color_of
from sepconv_video.video.pipes import PIPE, open_stdin
from sepconv_video.video.space import eyes_of, sphere_of

_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
_TEXT_FORMATS = {"tty", "bin", "xbin", "adf", "idf"}

LARGEST_PIXELS = 2**27
"""Frames may have this many pixels, 16384 x 8192: four times 8K television. Headers of a few
bytes can claim thousands of times more, for which memory would be asked before the first byte
of a picture is read."""
_LARGEST = f"at most {LARGEST_PIXELS} pixels, for example 16384x8192,"
MOST_STREAMS = 500
"""Streams in one file, attached fonts and pictures counted. Every one of them is tried on
the target; beyond its own limit FFmpeg leaves the rest out without a word."""
HIGHEST_RATE = Fraction(2**20)
"""Frames per second, and seconds per frame: beyond it a header is not to be believed."""
LONGEST_S = 2**32
"""Times beyond 136 years from 0 are damage, not times: even those who count from 1970 stay
below. Encoders and containers overflow on them, FFmpeg often without a word."""
MOST_TICKS = 2**58
"""Times and durations in ticks, so that eight times as many fit into FFmpeg's 64 bits."""
# These open further files, or addresses, that their text names: a video from a stranger must
# not decide what else is read.
_PLAYLISTS = {"concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "vobsub"}
_LISTS_BEGIN = (b"#EXTM3U", b"ffconcat", b"v=0", b"# VobSub", b"<?xml", b"<MPD")
_GUARDS = {
    "format_whitelist": ",".join(sorted(av.formats_available - _PLAYLISTS)),
    "protocol_whitelist": "file",
    "max_streams": str(MOST_STREAMS + 1),
    "pattern_type": "none",  # `%d` in a picture's name is no counter
}
_LIMITS = {"max_pixels": str(LARGEST_PIXELS)}
_DEEPLY = {"probesize": str(2**28), "analyzeduration": str(600 * av.time_base)}
"""Read so many bytes, all of which FFmpeg keeps meanwhile, or microseconds, for its streams."""


def open_source(
    path: Path, reading: Reading | None = None, *, deeply: bool = False
) -> InputContainer:
    """Open a file for reading; it alone, whatever other files it may name.

    Opened `deeply`, streams that begin minutes later are found, too, as subtitles on DVDs, which no
    header names, or sound in television, of which it says little.

    Of numbered pictures the first is opened, as a video of the rate that `reading` says. Only
    with a `reading` does `-` mean standard input, which can be opened once.

    Raises:
        VideoError: If it is missing, empty, a folder, a pipe or not a video, with the reason.
    """
    if reading is not None and path == PIPE:
        return _checked(open_stdin(reading, _GUARDS, _LIMITS), path)
    pictures, options = pictures_at(path), _GUARDS
    if pictures is not None:
        path, options = pictures.files[0], _GUARDS | {"framerate": str((reading or Reading()).rate)}
    if deeply:
        options = options | _DEEPLY
    reject_unreadable(path)
    _reject_encrypted(path)
    try:
        container = av.open(
            f"file:{path}",  # the prefix keeps FFmpeg from taking `12:30.mp4` for an address
            "r",
            options=_LIMITS,
            container_options=options,
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, MemoryError) as fault:
        raise VideoError(*_why_not_opened(path, fault)) from fault
    return _checked(container, path)


def _checked(container: InputContainer, path: Path) -> InputContainer:
    try:
        _reject_unusable(container, path)
    except VideoError:
        container.close()
        raise
    return container


def _reject_unusable(container: InputContainer, path: Path) -> None:
    if container.format.name in _TEXT_FORMATS:  # FFmpeg would draw the text as pictures
        raise VideoError(f"cannot read `{path}`: it is text, not a video", _NAME_A_VIDEO)
    if len(container.streams) > MOST_STREAMS:
        raise VideoError(
            f"cannot read `{path}`: it has more than {MOST_STREAMS} streams",
            f"copy those that matter, e.g. `ffmpeg -i {quoted(path)} -map 0:v:0 -c copy new.mkv`",
        )


def reject_unreadable(path: Path) -> None:
    """Raise `VideoError` if there is no file with something in it at `path`."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise VideoError(f"cannot read `{path}`: it is a folder", "name a file in it")
        if not stat.S_ISREG(found.st_mode):  # which is read twice, and from its end
            raise VideoError(
                f"cannot read `{path}`: it is a pipe or a device, not a file",
                "write what comes out of it to a file first, or send it to standard input, `-`",
            )
        if found.st_size == 0:
            raise VideoError(f"cannot read `{path}`: the file is empty (0 bytes)", _COMPLETE)
    except (OSError, ValueError) as fault:  # ValueError: a zero byte in the name
        reason, hint = explain(fault)
        raise VideoError(f"cannot read `{path}`: {reason}", hint) from fault


def _reject_encrypted(path: Path) -> None:
    """Refuse what FFmpeg would decode to garbage, or take for broken."""
    with suppress(OSError):  # opening it will say why
        if is_encrypted(path):
            raise VideoError(
                f"cannot read `{path}`: its video is encrypted (DRM)",
                "only players licensed by its seller can show it",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much there is to do, as far as a header tells; 0 where it does not."""

    frames: int = 0
    pixels: int = 0
    """Per frame."""


def probe(path: Path) -> None:
    """Find out whether a file has a video stream that can be decoded, from its header.

    Raises:
        VideoError: It has none, with the reason.
    """
    with open_source(path) as container:
        main_video(container, path)


def measure(path: Path) -> Extent:
    """Guess from its header how long a file is; nothing is decoded, and nothing raised."""
    try:
        with open_source(path) as container:
            stream = main_video(container, path)
            context = stream.codec_context
            pictures = pictures_at(path)
            frames = len(pictures.files) if pictures else _count_from_header(stream) or 0
            return Extent(frames=frames, pixels=context.width * context.height)
    except (VideoError, av.FFmpegError):
        return Extent()  # whoever makes it will say why


def main_video(container: InputContainer, path: Path) -> VideoStream:
    """Choose the stream to work on: the first video that is not a cover picture or thumbnail.

    Of several programmes of television, some may be scrambled: the first one of which anything is
    known.

    Raises:
        VideoError: If there is none, or no decoder for it.
    """
    videos = [s for s in container.streams.video if not s.disposition & _PICTURES]
    if not videos:
        others = {s.type for s in container.streams if not s.disposition & _PICTURES}
        kinds = ", ".join(sorted(others)).replace("unknown", "streams of unknown kinds")
        cover = ["a cover picture"] if container.streams.video else []
        found = " and ".join([*cover, *filter(None, [kinds])])
        only = f", only {found}" if found else ", nor any other"
        raise VideoError(f"cannot read `{path}`: it has no video stream{only}", _NAME_A_VIDEO)
    known = [s for s in videos if s.codec_context is not None]
    if not known:
        raise VideoError(
            f"cannot read `{path}`: there is no decoder for its video stream",
            "convert it first with the program that made it",
        )
    chosen = next((s for s in known if s.codec_context.width), known[0])
    reject_giant(chosen, path)
    return chosen


def reject_giant(stream: VideoStream, path: Path) -> None:
    """Refuse frames that are too large, before memory is asked for one, now and later on.

    Raises:
        VideoError: If the header says that they have more than `LARGEST_PIXELS`.
    """
    context = stream.codec_context
    if context.width * context.height > LARGEST_PIXELS:
        raise VideoError(
            f"cannot read `{path}`: its frames are {context.width}x{context.height}, "
            f"{_LARGEST} are accepted",
            "if they really are that large, scale them down first",
        )
    context.options = {**context.options, "max_pixels": str(LARGEST_PIXELS)}


def why_without_size(stream: VideoStream) -> str:
    """Say why nothing can be decoded where FFmpeg found no size it may use; empty if it did."""
    context = stream.codec_context
    is_known = context.width and context.height
    return (
        ""
        if is_known
        else f"the size of its frames is missing, or too large: {_LARGEST} are accepted"
    )


def tick_of(stream: VideoStream) -> Fraction:
    """Give the seconds per tick of a stream's times; FFmpeg's own where it has none."""
    return Fraction(stream.time_base or Fraction(1, av.time_base))


def most_ticks(tick: Fraction) -> int:
    """Give the largest time, from 0, that is believed, in ticks of so many seconds."""
    return min(MOST_TICKS, int(LONGEST_S / tick))


def cuts_packets_short(container: InputContainer) -> bool:
    """Tell whether a corrupt packet is one inside which the file ends, and so of no use.

    In other formats, such as broadcast recordings, it may be complete but for a detail.
    Decoding half a picture gains nothing and, with frame threads, loses the good ones
    still on their way.
    """
    return container.format.name.startswith(("mov", "matroska", "avi"))


def describe(
    stream: VideoStream, first: av.VideoFrame, pix_fmt: str, layout: Layout, facts: Facts
) -> VideoInfo:
    """Gather what is known of a stream from its header and its first decoded frame."""
    return VideoInfo(
        path=Path(stream.container.name.removeprefix("file:")),
        width=first.width,
        height=first.height,
        pix_fmt=pix_fmt,
        bits=layout.bits,
        chroma_shift=layout.chroma_shift,
        color=color_of(stream, first, facts.chroma_location),
        time_base=tick_of(stream),
        rate=rate_of(stream),
        fastest=_believable(stream.base_rate) or Fraction(0),
        frame_count_from_header=_count_from_header(stream),
        sample_aspect_ratio=_aspect_of(stream),
        display_matrix=display_matrix_of(first),
        sphere=sphere_of(first),
        eyes=eyes_of(first),
        crop=facts.crop,
        dolby=known_record(facts.dolby, stream.codec_context.name),
        light=light_of(first),
    )


def display_matrix_of(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Read how players turn or mirror a picture: nine numbers, row by row; None if not at all."""
    with suppress(struct.error):
        if data := side_data(frame).get("DISPLAYMATRIX"):
            return struct.unpack("<9i", data)
    # where side data cannot be read PyAV has found the angle before; mirroring is lost
    return _rotation_matrix(frame.rotation) if frame.rotation else None


def _rotation_matrix(degrees: int) -> tuple[int, ...]:
    """Build the display matrix of a counter-clockwise rotation, in 16.16 fixed point."""
    angle = math.radians(degrees)
    cosine, sine = round(math.cos(angle) * 65536), round(math.sin(angle) * 65536)
    return (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30)


def rate_of(stream: VideoStream) -> Fraction:
    """Give a stream's pictures per second, as far as its header tells."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if believable := _believable(rate):
            return believable
    return Fraction(25)


def _believable(rate: Fraction | None) -> Fraction | None:
    is_sane = rate and 1 / HIGHEST_RATE <= rate <= HIGHEST_RATE  # None or 0 where it is unknown
    return Fraction(rate) if rate and is_sane else None


def _count_from_header(stream: VideoStream) -> int | None:
    if stream.frames > 0:
        return stream.frames
    tagged = stream.metadata.get("NUMBER_OF_FRAMES", "")
    if tagged.isdecimal() and len(tagged) < 16:  # Python refuses to read thousands of digits
        return int(tagged)
    assert isinstance(stream.container, InputContainer)
    duration = stream.container.duration
    if not duration:
        return None
    return max(1, round(Fraction(duration, av.time_base) * rate_of(stream)))


def _aspect_of(stream: VideoStream) -> Fraction | None:
    ratio = stream.sample_aspect_ratio
    return Fraction(ratio) if ratio else None


_NAME_A_VIDEO = "name a video file, for example `clip.mp4`"
_COMPLETE = "check that it was copied or downloaded completely"


def _why_not_opened(path: Path, fault: Exception) -> tuple[str, str]:
    head = b""
    with suppress(OSError), path.open("rb") as file:  # what may not be read has its own words
        head = file.read(64)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_LISTS_BEGIN):
        return (
            f"cannot read `{path}`: it is a list of other files or addresses, not a video",
            f"make one file of them first, e.g. `ffmpeg -i {quoted(path)} -c copy new.mkv`",
        )
    if not isinstance(fault, (av.InvalidDataError, av.EOFError)):
        reason, hint = explain(fault)
        return f"cannot read `{path}`: {reason}", hint
    if head[4:8] in {b"ftyp", b"mdat", b"wide", b"free"}:
        return (
            f"cannot read `{path}`: it is incomplete: its index (the moov box) is missing",
            _COMPLETE,
        )
    return f"cannot read `{path}`: it is not a video file that FFmpeg knows", _NAME_A_VIDEO
