"""Choosing an encoder, its pixel format and its quality settings for a video.

An encoder is given the source's own pixel format where it can take it, else the nearest
format that holds every sample of it; never one that loses something.
"""

import io
import os
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.video.codeccontext import VideoCodecContext

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import VideoInfo
from sepconv_video.numbered import is_pattern
from sepconv_video.video.formats import Layout, layout_of, wider_formats
from sepconv_video.video.pictures import is_picture

# Quality that a viewer cannot tell from the source, and speed in proportion to the network's.
_QUALITY = {
    "libx264": 16,
    "libx265": 18,
    "libsvtav1": 18,
    "libvpx-vp9": 18,
    "h264_nvenc": 18,
    "hevc_nvenc": 18,
    "av1_nvenc": 22,
}
_SETTINGS = {
    "libx264": {"preset": "medium"},
    # x265 writes its progress to stderr by itself, whatever FFmpeg's log level
    "libx265": {"preset": "medium", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "6"},
    # limited range, which nearly all video has, is outside the JPEG standard
    "mjpeg": {"strict": "unofficial"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "2", "row-mt": "1", "b": "0"},
}
_BY_QUANTISER = {"mpeg4", "mpeg2video", "mpeg1video", "mjpeg"}
# What hardware encoders ask for; PyAV reorders the samples, exactly for even sizes.
_SEMI_PLANAR = {"yuv420p10le": "p010le", "yuv422p10le": "p210le"}
_CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".m2ts": "mpegts",
    ".nut": "nut",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How to encode; None leaves the choice to `plan`."""

    codec: str | None = None
    """FFmpeg's name of an encoder, e.g. `libx264`, `libsvtav1`, `ffv1`, `hevc_nvenc`."""
    crf: int | None = None
    """Constant quality, lower is better; only for encoders that have such a setting."""
    container: str | None = None
    """FFmpeg's name of a container; None takes it from the target's suffix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An encoder with everything decided."""

    codec: str
    pix_fmt: str
    """Planar format of the frames it is given."""
    layout: Layout
    """Layout of `pix_fmt`."""
    stored_as: str
    """Format the encoder asks for: `pix_fmt`, or one with the same samples in another order."""
    options: dict[str, str] = field(default_factory=dict)
    quantiser: int | None = None
    """Fixed quantiser for encoders without a quality setting."""
    note: str = ""


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
            f"cannot write `{target}`: one picture holds no video",
            f"write numbered pictures, e.g. `-o {numbers}`, or a video",
        )
    if suffix not in _CONTAINERS:
        raise OptionsError(
            f"cannot write `{target}`: `{suffix or 'no suffix'}` names no container; "
            f"accepted are {', '.join(_CONTAINERS)}",
            "choose another name, e.g. "
            f"`{target.with_suffix('.mp4') if target.name else 'out.mp4'}`",
        )
    return _CONTAINERS[suffix]


def plan(info: VideoInfo, encoding: Encoding, container: str) -> Plan:
    """Decide on encoder, pixel format and settings.

    Raises:
        OptionsError: If the encoder is unknown or has no quality setting for `crf`.
        VideoError: If it cannot hold the video, or the container cannot hold its stream.
    """
    # SVT-AV1 writes to stderr by itself; it looks here, once, for how much
    os.environ.setdefault("SVT_LOG", "-1")
    if is_picture(f"a.{container}"):
        return _picture_plan(info, encoding, container)
    chosen = encoding.codec
    names = [chosen] if chosen else _default_codecs(info, container)
    fitting = [name for name in names if holds(container, name)]
    if not fitting:
        codec = names[0]
        raise VideoError(
            f"cannot write `{codec}` video into a {container} file",
            "choose another codec, or a name ending in `.mkv`, which holds all of them",
        )
    for exact in (True, False):
        for codec in fitting:
            formats = _pixel_format(codec, info, exact=exact)
            if formats:
                return _plan(codec, formats, info, encoding.crf)
    raise VideoError(
        f"`{fitting[0]}` cannot encode {info.width}x{info.height} {info.pix_fmt} without loss of "
        f"depth or colour; it accepts {', '.join(_listed(fitting[0])) or 'other formats'}",
        "choose another codec, e.g. `libx264` (8 bits), `libx265` (to 12 bits) or `ffv1` in `.mkv`",
    )


def _picture_plan(info: VideoInfo, encoding: Encoding, container: str) -> Plan:
    """Store pictures without a loss; the segments hold PNG, whatever is made of it."""
    if encoding.codec or encoding.crf is not None:
        raise OptionsError(
            f"`--codec` and `--crf` mean nothing to numbered pictures (`.{container}`)",
            "leave them out: the ending of the name says which format it is",
        )
    layout = layout_of(info.pix_fmt)
    assert layout is not None  # the reader gives planar formats only
    pix_fmt = info.pix_fmt
    if layout.chroma_shift is None:
        # swscale takes all gray for full range; with neutral chroma it heeds what it is told
        pix_fmt = pix_fmt.replace("gray", "yuv444p")
        layout = Layout(layout.bits, (0, 0))
    return Plan(codec="png", pix_fmt=pix_fmt, layout=layout, stored_as=pix_fmt)


def _default_codecs(info: VideoInfo, container: str) -> list[str]:
    """List encoders to try, the best first.

    H.264 and H.265 store no odd size at 4:2:0 or 4:2:2 (their cropping counts in chroma
    samples), VP9 and AV1 do.
    """
    if container == "webm":
        return ["libvpx-vp9", "libsvtav1"]
    across, down = info.chroma_shift or (0, 0)
    is_odd = info.width % (1 << across) != 0 or info.height % (1 << down) != 0
    if info.bits > 12:
        return ["ffv1"]
    usual = "libx264" if info.bits == 8 else "libx265"
    return ["libvpx-vp9", "libsvtav1", usual] if is_odd else [usual, "libx265"]


def holds(container: str, codec: str) -> bool:
    """Tell whether a container holds an encoder's stream, by writing a header to memory."""
    try:
        Codec(codec, "w")
    except UnknownCodecError as fault:
        raise OptionsError(
            f"there is no encoder `{codec}`",
            "`ffmpeg -encoders` lists names; common ones are libx264, libx265, libsvtav1, "
            "libvpx-vp9, ffv1, prores_ks",
        ) from fault
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        return trial.add_stream(codec, rate=25).type == "video"
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()


def _pixel_format(codec: str, info: VideoInfo, *, exact: bool) -> tuple[str, str] | None:
    """Find a format the encoder takes: the video's own, or (not `exact`) one that holds it.

    Returns:
        The planar format and the encoder's own form of it; None if there is none.
    """
    formats = wider_formats(info.pix_fmt)
    for pix_fmt in formats[:1] if exact else formats[1:]:
        for stored in (pix_fmt, _SEMI_PLANAR.get(pix_fmt)):
            if stored and _accepts(codec, stored, info):
                return pix_fmt, stored
    return None


def _accepts(codec: str, pix_fmt: str, info: VideoInfo) -> bool:
    """Tell whether the encoder takes the format at this size, by opening it."""
    listed = _listed(codec)
    if listed and pix_fmt not in listed:
        return False
    context = VideoCodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = info.width, info.height, pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = dict(_SETTINGS.get(codec, {}))
    try:
        context.open()
    except av.FFmpegError:
        # no such device here, a wrong setting: let the real opening say so in detail
        is_odd = bool(info.width % 2 or info.height % 2)
        return not is_odd and pix_fmt in listed
    return True


def _listed(codec: str) -> list[str]:
    return [video_format.name for video_format in Codec(codec, "w").video_formats or []]


def _plan(codec: str, formats: tuple[str, str], info: VideoInfo, crf: int | None) -> Plan:
    pix_fmt, stored_as = formats
    layout = layout_of(pix_fmt)
    assert layout is not None  # wider_formats lists planar formats
    options = dict(_SETTINGS.get(codec, {}))
    name = _quality_option(codec)
    quality = crf if crf is not None else _QUALITY.get(codec)
    if crf is not None and name is None:
        raise OptionsError(
            f"`{codec}` has no constant-quality setting, so a crf of {crf} means nothing to it",
            "leave the crf out, or choose libx264, libx265, libsvtav1 or libvpx-vp9",
        )
    if name and quality is not None:
        options[name] = str(quality)
    if name == "cq":
        options |= {"rc": "vbr", "b": "0"}
    note = (
        ""
        if pix_fmt == info.pix_fmt
        else (
            f"encoded as {pix_fmt}, which holds every sample of {info.pix_fmt}: "
            f"`{codec}` does not take {info.pix_fmt} at {info.width}x{info.height}"
        )
    )
    return Plan(
        codec=codec,
        pix_fmt=pix_fmt,
        layout=layout,
        stored_as=stored_as,
        options=options,
        quantiser=2 if codec in _BY_QUANTISER else None,
        note=note,
    )


def _quality_option(codec: str) -> str | None:
    private = {o.name for o in Codec(codec, "w").create("video").supported_options.private}
    return next((name for name in ("crf", "cq") if name in private), None)
