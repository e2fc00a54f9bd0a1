"""What a container can hold, and how a stream is declared in it for packets copied as they are."""

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.codec import Codec
from av.container import OutputContainer
from av.stream import Disposition, Stream

from sepconv_video.errors import OptionsError
from sepconv_video.frames import ColorSpec
from sepconv_video.numbered import is_pattern
from sepconv_video.video.pictures import WRITTEN, is_picture

TIMECODE_TAG = "timecode"
"""The label of a video's first frame, in all formats that have one."""
# Tags that describe the file or the encoding they were read from, not the content.
_STALE = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps",
    "number_of_frames", "number_of_bytes", "_statistics_writing_app",
    "_statistics_writing_date_utc", "_statistics_tags", "vendor_id", TIMECODE_TAG,
}  # fmt: skip
ALPHA_TAG = "alpha_mode"
"""Says, with "1", that a VP8 or VP9 video in Matroska has its transparency beside its pictures."""
_CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".m2ts": "m2ts",
    ".mts": "m2ts",
    ".nut": "nut",
}
_MODES = {"m2ts": ("mpegts", {"mpegts_m2ts_mode": "1"})}
"""Containers that FFmpeg has as another one's mode."""
_PREFERRED_CONTAINERS = ("matroska", "mov", "mp4", "mpegts", "m2ts", "nut")
_WITH_COVERS = {"matroska", "mp4"}
# QuickTime knows these languages by other names of ISO 639-2, and loses those it does not know.
_QUICKTIME_NAMES = {
    "deu": "ger", "nld": "dut", "fre": "fra", "swe": "sve", "ell": "gre", "isl": "ice",
    "zho": "chi", "sqi": "alb", "rum": "ron", "cze": "ces", "slo": "slk", "mkd": "mac",
    "hye": "arm", "kat": "geo", "bod": "tib", "mya": "bur", "msa": "may", "cym": "wel",
    "eus": "baq",
}  # fmt: skip
_LOST = {
    "mov": ("dispositions other than `default`",),
    "webm": ("dispositions other than `default` and `forced`",),
    "avi": ("chapters", "languages", "dispositions", "rotation", "timecode"),
    "mpegts": ("chapters", "the file's tags", "dispositions", "rotation", "timecode"),
    "nut": ("dispositions", "rotation", "timecode"),
}
_LOST["m2ts"] = _LOST["mpegts"]
"""What containers have no place for, beside streams; see the table in CONTRIBUTING.md."""
_WITH_FEW_TAGS = {"mp4", "mov", "avi"}
_SAID_OTHERWISE = {"software"}
"""Tags into which each muxer writes its own name."""
_MOST_TAGS = 5  # that are named
_SELF_DESCRIBING = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg"}
"""Video codecs that store the sample aspect ratio themselves; FFV1 could, but FFmpeg looks at each
frame for it, where PyAV 18.1 has no place."""
_TELLING_COLORS = {"mp4", "mov", "matroska", "webm"}, {"h264", "hevc", "av1", "mpeg2video"}
"""Containers, and video codecs, that store colour tags."""
_READ_AS_LIMITED = {"prores", "vp8", "mpeg1video", "mpeg2video"}
"""Video codecs whose decoders know no full range, whatever a container says."""
_READABLE = {
    "mpegts": {
        "mpeg1video", "mpeg2video", "mpeg4", "h264", "hevc", "vvc", "cavs", "dirac", "vc1", "mp2",
        "mp3", "aac", "aac_latm", "ac3", "eac3", "dts", "truehd", "opus", "s302m", "dvb_subtitle",
    },
    "m2ts": {
        "mpeg2video", "h264", "hevc", "vc1", "ac3", "eac3", "dts", "truehd", "pcm_bluray",
        "hdmv_pgs_subtitle",
    },
}  # fmt: skip
"""FFmpeg writes anything into these, but only this can surely be read again."""


def container_for(target: Path) -> str:
    """Name FFmpeg's container for a file name; for numbered pictures, their suffix.

    Raises:
        OptionsError: If the suffix is of no container that videos are written to.
    """
    suffix = target.suffix.lower()
    if is_picture(target):
        if is_pattern(target):
            return suffix[1:]
        numbers = target.with_stem(f"{target.stem}%05d")
        raise OptionsError(
            f"cannot write `{target}`: a single picture holds no video",
            f"write numbered pictures, e.g. `-o {numbers}`, or a video",
        )
    if suffix not in _CONTAINERS:
        reason = f"`{suffix}` is not supported" if suffix else "its name has no suffix"
        raise OptionsError(
            f"cannot write `{target}`: {reason}",
            f"videos end in {', '.join(_CONTAINERS)}; numbered pictures, as `%05d.png`, in "
            f"{', '.join(WRITTEN)}",
        )
    return _CONTAINERS[suffix]


def can_hold(container: str, stream: Stream) -> bool:
    """Tell whether a container can hold a stream, by writing a header with it to memory."""
    if is_cover(stream):
        return container in _WITH_COVERS
    is_often_lost = container == "nut" and stream.type == "audio"  # as WMA, without its block size
    if stream.type == "data" or is_undecodable_text(stream) or is_often_lost:
        return _reads_back(container, stream)
    if not is_readable(container, codec_of(stream)):
        return False
    if (container, stream.type) in {("webm", "attachment"), ("m2ts", "video")}:
        return False  # the one leaves them out without a word, the other takes no second video
    return can_begin(container, lambda trial: clone(trial, stream))


def is_readable(container: str, codec: str) -> bool:
    """Tell whether what can be written into a container can be read again."""
    # packets of unlike lengths, which AVI cannot say; planes, for which MOV has no name
    if (container, codec) in {("avi", "vorbis"), ("mov", "rawvideo")}:
        return False
    return container not in _READABLE or codec in _READABLE[container]


def format_of(container: str) -> str:
    """Give FFmpeg's name of a container's format."""
    return _MODES[container][0] if container in _MODES else container


def create(
    file: BinaryIO,
    container: str,
    options: Mapping[str, str] | None = None,
    buffer_size: int = 2**15,
) -> OutputContainer:
    """Open a file to write a container into it, with options of FFmpeg's for that."""
    mode = _MODES[container][1] if container in _MODES else {}
    return av.open(
        file, "w", format=format_of(container),
        container_options=mode | dict(options or {}), buffer_size=buffer_size,
    )  # fmt: skip


def can_begin(container: str, declare: Callable[[OutputContainer], object]) -> bool:
    """Tell whether a file can begin with the streams that are declared, by writing to memory."""
    trial = create(io.BytesIO(), container)
    try:
        declare(trial)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()
    return True


def _reads_back(container: str, stream: Stream) -> bool:
    """Tell whether a stream can be found again in a container, by writing some to memory.

    FFmpeg accepts data for which it then writes no index at all, or one that says nothing; or a
    broken one, if it does not know their codec. Of sound it may not write all that a decoder needs.
    """
    if stream.type == "data" and not codec_of(stream):
        return False
    file = io.BytesIO()
    try:
        with create(file, container) as trial:
            packet = av.Packet(bytes(16))
            packet.stream = clone(trial, stream)
            packet.time_base, packet.pts, packet.dts = Fraction(1, 1000), 0, 0
            packet.is_keyframe = True
            trial.mux_one(packet)
        file.seek(0)
        with av.open(file, format=format_of(container)) as written:
            if stream.type == "audio":
                written.streams.audio[0].codec_context.open()
                return True
            kind = stream.type, codec_of(stream)
            return any((found.type, codec_of(found)) == kind for found in written.streams)
    except (av.FFmpegError, ValueError, IndexError):
        return False


def clone(output: OutputContainer, stream: Stream) -> Stream:
    """Declare a stream like `stream`, with its tags and dispositions, for packet copies."""
    copy: Stream
    if is_undecodable_text(stream):  # PyAV makes no copy of it, but takes its description
        copy = output.add_data_stream()
        BitStreamFilterContext("null", stream, copy)
    else:
        copy = output.add_stream_from_template(stream, opaque=True)
    describe_like(copy, stream)
    return copy


def is_undecodable_text(stream: Stream) -> bool:
    """Tell whether a stream is text or its pictures for which there is no decoder, as teletext."""
    return stream.type == "subtitle" and stream.codec_context is None


def describe_like(copy: Stream, stream: Stream) -> None:
    """Give a stream the tags, with the language, and the dispositions of another."""
    copy.disposition = stream.disposition
    tags = fresh_tags(stream.metadata)
    assert isinstance(copy.container, OutputContainer)
    if copy.container.format.name == "mov" and "language" in tags:
        tags["language"] = _QUICKTIME_NAMES.get(tags["language"], tags["language"])
    copy.metadata.update(tags)


def fresh_tags(tags: dict[str, str]) -> dict[str, str]:
    """Leave out the tags that would be wrong in another file."""
    return {
        key: value for key, value in tags.items() if key.lower().removesuffix("-eng") not in _STALE
    }


def is_cover(stream: Stream) -> bool:
    """Tell whether a stream is one picture, shown for the file."""
    return bool(stream.disposition & Disposition.attached_pic)


def codec_of(stream: Stream) -> str:
    """Name the codec of a stream; empty where FFmpeg does not know it."""
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    return (stream.name or "") if stream.type == "data" else ""


def called(stream: Stream) -> str:
    """Name a stream to the user: its kind, number, codec and language."""
    name = stream.name if stream.type in {"data", "attachment"} else None
    if stream.codec_context is not None:
        name = stream.codec_context.name
    kind = "cover picture" if is_cover(stream) else stream.type
    language = f", {stream.language}" if stream.language else ""
    return f"{kind} stream {stream.index} ({name or 'unknown codec'}{language})"


def refusal(container: str, stream: Stream) -> str:
    """Say that a container cannot hold a stream, and which one can."""
    # there is no context where the codec is unknown
    if isinstance(stream, AudioStream) and not getattr(stream.codec_context, "sample_rate", True):
        return f"{called(stream)} left out: its format is unknown, as it begins too late"
    return f"{called(stream)} left out: {where_held(container, stream)}"


def where_held(container: str, stream: Stream) -> str:
    """Say that a container cannot hold a stream as it is, and which one can."""
    others = [name for name in _PREFERRED_CONTAINERS if can_hold(name, stream)]
    remedy = f"{others[0]} can" if others else "no supported container can"
    return f"{container} cannot hold it, {remedy}"


def losses(container: str, found: set[str]) -> str:
    """Say which of the things `found` in a source a container has no place for; empty if none.

    They are named as in `_LOST`.
    """
    lost = [name for name in _LOST.get(container, ()) if name in found]
    them = "it" if lost in (["rotation"], ["timecode"]) else "them"
    return (
        f"{', '.join(lost)} left out: {container} has no place for {them}, matroska has"
        if lost
        else ""
    )


def lost_tags(container: str, tags: dict[str, str]) -> str:
    """Say which of a file's tags a container has no place for, by writing to memory.

    Empty if none, and where `losses` speaks of them all.
    """
    if container not in _WITH_FEW_TAGS or not tags:
        return ""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format=container) as trial:
            stream = trial.add_stream("mpeg4", 25, width=16, height=16)
            trial.metadata.update(tags)
            trial.mux([*stream.encode(av.VideoFrame(16, 16, "yuv420p")), *stream.encode(None)])
        file.seek(0)
        with av.open(file, format=container) as written:
            kept = {key.lower() for key in written.metadata} | _SAID_OTHERWISE
    except (av.FFmpegError, ValueError):
        return ""  # the file itself will meet the same
    lost = sorted(" ".join(key.split()) for key in tags if key.lower() not in kept)
    more = f" and {len(lost) - _MOST_TAGS} more" if len(lost) > _MOST_TAGS else ""
    tags_called, them = ("tag", "it") if len(lost) == 1 else ("tags", "them")
    return (
        f"{tags_called} {', '.join(lost[:_MOST_TAGS])}{more} left out: {container} has no place "
        f"for {them}, matroska has"
        if lost
        else ""
    )


def keeps_aspect(container: str, codec: str) -> bool:
    """Tell whether an encoder's pictures keep their sample aspect ratio in a container.

    Matroska has a place for it, but PyAV 18.1 no way to tell FFmpeg.
    """
    return container in {"mp4", "mov"} or Codec(codec, "w").canonical_name in _SELF_DESCRIBING


def lost_colors(container: str, codec: str, color: ColorSpec) -> str:
    """Name the colour tags that are lost from an encoder's video; empty if none."""
    containers, codecs = _TELLING_COLORS
    name = Codec(codec, "w").canonical_name
    tags = {color.colorspace_tag, color.primaries_tag, color.transfer_tag}
    if color.matrix == "rgb":
        return ""
    if name == "mjpeg":  # JPEG's own definition
        is_lost = color.matrix != "bt601"
        return f"matrix {color.matrix} left out: mjpeg is always read as bt601" if is_lost else ""
    if color.full_range and name in _READ_AS_LIMITED:
        return f"full range left out: {codec} is always read as limited range"
    if container not in containers and name not in codecs and (color.full_range or tags - {0, 2}):
        what = "matrix, range, primaries or transfer"
    elif container == "mov" and name not in codecs and color.full_range:
        what = "full range"
    else:
        return ""
    return f"{what} left out: {codec} in {container} cannot store it, matroska can"
