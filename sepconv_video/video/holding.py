"""What a container can hold, and how a stream is declared in it for packets copied as they are."""

import io
from contextlib import suppress

import av
from av.container import OutputContainer
from av.stream import Disposition, Stream

# Tags that describe the file or the encoding they were read from, not the content.
_STALE = {
    "major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps",
    "number_of_frames", "number_of_bytes", "_statistics_writing_app",
    "_statistics_writing_date_utc", "_statistics_tags", "vendor_id",
}  # fmt: skip
_PREFERRED_CONTAINERS = ("matroska", "mov", "mp4", "mpegts", "nut")
# FFmpeg writes anything into a transport stream, but only these can be read again.
_TRANSPORTED = {
    "mpeg1video", "mpeg2video", "mpeg4", "h264", "hevc", "vvc", "cavs", "dirac", "vc1", "mp2",
    "mp3", "aac", "aac_latm", "ac3", "eac3", "dts", "truehd", "opus", "s302m", "dvb_subtitle",
    "dvb_teletext", "klv", "timed_id3", "smpte_2038",
}  # fmt: skip


def can_hold(container: str, stream: Stream) -> bool:
    """Tell whether a container can hold a stream, by writing a header with it to memory."""
    if container == "mpegts" and codec_of(stream) not in _TRANSPORTED:
        return False
    if container == "webm" and stream.type in {"attachment", "data"}:  # left out without a word
        return False
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
    describe_like(copy, stream)
    return copy


def describe_like(copy: Stream, stream: Stream) -> None:
    """Give a stream the tags, with the language, and the dispositions of another."""
    copy.disposition = stream.disposition
    copy.metadata.update(fresh_tags(stream.metadata))


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
    others = [name for name in _PREFERRED_CONTAINERS if can_hold(name, stream)]
    remedy = f"a {others[0]} file can" if others else "no container known here can"
    return f"{called(stream)} left out: a {container} file cannot hold it, {remedy}"
