"""Choosing an encoder, its pixel format and its quality settings for a video.

An encoder is given the source's own pixel format where it can take it, else the nearest
format that holds every sample of it. Only RGB becomes something else by itself, for codecs that
have none; whatever else loses something, the user must ask for.
"""

import io
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace

import av
from av.codec import Codec
from av.codec.codec import UnknownCodecError

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import ColorSpec, VideoInfo
from sepconv_video.video.containers import create, is_readable
from sepconv_video.video.formats import Layout, is_rgb, layout_of, planar_twin, wider_formats
from sepconv_video.video.hdr import PARAMETERS, is_hdr, parameters
from sepconv_video.video.settings import check_preset, opens, quality, settings_of

_BY_QUANTISER = {"mpeg4", "mpeg2video", "mpeg1video", "mjpeg"}
# Least rows and columns: opened for fewer, SVT-AV1 may end the program.
_LEAST = {"libsvtav1": 32, "libx265": 16}
# What some encoders ask for instead; PyAV reorders the samples, exactly (4:2:0 and 4:2:2 for
# even sizes).
_REORDERED = {"yuv420p10le": "p010le", "yuv422p10le": "p210le", "gbrp": "bgr0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How to encode; None leaves the choice to `plan`."""

    codec: str | None = None
    """FFmpeg's name of an encoder, e.g. `libx264`, `libsvtav1`, `ffv1`, `hevc_nvenc`, or of a
    codec, e.g. `hevc`."""
    crf: int | None = None
    """Constant quality, lower is better; only for encoders that have such a setting."""
    container: str | None = None
    """What `container_for` gives; None is `matroska`."""
    preset: str | None = None
    """The encoder's preset; only for encoders that have any."""
    pix_fmt: str | None = None
    """FFmpeg's name of the format to encode, whatever is lost by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the source's planes become what an encoder takes."""

    pix_fmt: str
    """Format of the frames it is given, planar unless `is_converted`."""
    stored_as: str
    """Format the encoder asks for: `pix_fmt`, or one with the same samples in another order."""
    is_converted: bool = False
    """Whether swscale converts, and something may be lost; else every sample is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An encoder with everything decided."""

    codec: str
    form: Form
    layout: Layout
    """Layout of the form's planes; of the source's where they are converted."""
    color: ColorSpec
    """The tags to write: the source's, except where RGB becomes YUV or the other way."""
    options: dict[str, str] = field(default_factory=dict)
    quantiser: int | None = None
    """Fixed quantiser for encoders without a quality setting."""
    note: str = ""


def plan(info: VideoInfo, encoding: Encoding, container: str) -> Plan:
    """Decide on encoder, pixel format and settings.

    Raises:
        OptionsError: If the encoder is unknown, or does not have the setting for `crf`, the
            preset or the pixel format, or the container cannot hold its stream.
        VideoError: If it cannot hold the video.
    """
    # SVT-AV1 writes to stderr by itself; it looks here, once, for how much
    os.environ.setdefault("SVT_LOG", "-1")
    wanted = info if encoding.pix_fmt is None else _as_asked(info, encoding.pix_fmt)
    # the encoder's own name, under which its settings are known: `libx265` for `hevc`
    given = encoding.codec and _encoder(encoding.codec).name
    names = [given] if given else _default_codecs(wanted, container)
    last = [] if given else ["ffv1"]  # which takes any size
    fitting, last = ([name for name in some if holds(container, name)] for some in (names, last))
    if not fitting + last:
        raise OptionsError(
            f"cannot write `{names[0]}` video into {container}", _where_held(names[0])
        )
    if encoding.pix_fmt is not None:
        return _plan(*_asked(fitting + last, encoding.pix_fmt, info), info, encoding)
    for codecs in (fitting, last):
        for find in (_exact, _wider, _from_rgb):
            for codec in codecs:
                form = find(codec, info)
                if form:
                    return _plan(codec, form, info, encoding)
    raise VideoError(
        f"`{names[0]}` cannot encode {info.width}x{info.height} {info.pix_fmt} without loss of "
        f"depth or colour; it accepts {_accepted(names[0])}",
        "choose another codec, e.g. `libx264` (8 bits), `libx265` (to 12 bits) or `ffv1` in "
        "`.mkv`, or pass `--pix-fmt` with one of these formats",
    )


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
        return ["ffv1", "libx265"] if info.pix_fmt.startswith("gbrp") else ["ffv1"]
    usual = "libx264" if info.bits == 8 and not is_hdr(info.color.transfer_tag) else "libx265"
    if usual == "libx264" and info.pix_fmt == "gbrp":
        return [usual]  # few players know RGB in H.265; 4:4:4 in H.264 many more
    return ["libvpx-vp9", "libsvtav1", usual] if is_odd else [usual, "libx265"]


def _encoder(codec: str) -> Codec:
    """Find a video encoder by its name, or the one that FFmpeg takes for a codec."""
    try:
        found = Codec(codec, "w")
    except UnknownCodecError as fault:
        raise OptionsError(
            f"there is no encoder `{codec}`",
            "`ffmpeg -encoders` lists names; common ones are libx264, libx265, libsvtav1, "
            "libvpx-vp9, ffv1, prores_ks",
        ) from fault
    if found.type != "video":
        raise OptionsError(
            f"`{codec}` is not a video encoder but one for {found.type}",
            "leave `--codec` out, or choose one for video, e.g. `libx264`",
        )
    return found


def holds(container: str, codec: str) -> bool:
    """Tell whether a container holds an encoder's stream, by writing a header to memory."""
    if not is_readable(container, _encoder(codec).canonical_name):
        return False
    trial = create(io.BytesIO(), container)
    try:
        return bool(trial.add_stream(codec, rate=25))
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()


def _where_held(codec: str) -> str:
    if holds("matroska", codec):
        return "choose another codec, or a name ending in `.mkv`, which holds this one"
    return "choose another codec, e.g. `ffv1`, which loses nothing, in `.mkv`"


def _exact(codec: str, info: VideoInfo) -> Form | None:
    return _first_accepted(codec, info, [info.pix_fmt])


def _wider(codec: str, info: VideoInfo) -> Form | None:
    return _first_accepted(codec, info, wider_formats(info.pix_fmt)[1:])


def _from_rgb(codec: str, info: VideoInfo) -> Form | None:
    """Find a 4:4:4 format as deep as the RGB planes, or deeper; 12 bits must do for 16."""
    if not info.pix_fmt.startswith("gbrp"):
        return None
    alike = wider_formats(info.pix_fmt.replace("gbrp", "yuv444p"))
    alike += ["yuv444p12le"] if info.bits > 12 else []
    form = _first_accepted(codec, info, alike)
    return form and Form(pix_fmt=form.pix_fmt, stored_as=form.stored_as, is_converted=True)


def _first_accepted(codec: str, info: VideoInfo, formats: list[str]) -> Form | None:
    for pix_fmt in formats:
        for stored in (pix_fmt, _REORDERED.get(pix_fmt)):
            if stored and _accepts(codec, stored, info):
                return Form(pix_fmt=pix_fmt, stored_as=stored)
    return None


def _as_asked(info: VideoInfo, pix_fmt: str) -> VideoInfo:
    """Describe the video as it is when it has become the format the user asks for."""
    try:
        av.VideoFormat(pix_fmt)
    except ValueError as fault:
        raise OptionsError(
            f"there is no pixel format `{pix_fmt}`",
            "`ffmpeg -pix_fmts` lists names; common ones are yuv420p, yuv420p10le, yuv444p",
        ) from fault
    twin = planar_twin(pix_fmt)
    layout = layout_of(twin) if twin else None
    if twin is None or layout is None:
        return info
    return replace(info, pix_fmt=twin, bits=layout.bits, chroma_shift=layout.chroma_shift)


def _asked(codecs: list[str], pix_fmt: str, info: VideoInfo) -> tuple[str, Form]:
    """Choose the first encoder that takes what the user asks for, or its planar twin."""
    if "yuvj" in pix_fmt and not (info.color.full_range and info.color.matrix != "rgb"):
        raise OptionsError(
            f"`--pix-fmt {pix_fmt}` asks for full range, but the range of the video stays limited",
            f"`--pix-fmt {pix_fmt.replace('yuvj', 'yuv')}` makes the same of limited range",
        )
    pix_fmt = pix_fmt.replace("yuvj", "yuv")  # the range is tagged
    twin = planar_twin(pix_fmt) or pix_fmt
    is_exact = twin in wider_formats(info.pix_fmt)
    for codec in codecs:
        for stored in dict.fromkeys((pix_fmt, twin)):
            if _accepts(codec, stored, info):
                name = twin if is_exact else stored
                return codec, Form(pix_fmt=name, stored_as=stored, is_converted=not is_exact)
    raise OptionsError(
        f"`{codecs[0]}` cannot encode {info.width}x{info.height} {pix_fmt}; "
        f"it accepts {_accepted(codecs[0])}",
        "choose one of these with `--pix-fmt`, or another `--codec`",
    )


def _accepts(codec: str, pix_fmt: str, info: VideoInfo) -> bool:
    """Tell whether the encoder takes the format at this size, by opening it."""
    listed = _listed(codec)
    if (listed and pix_fmt not in listed) or min(info.width, info.height) < _LEAST.get(codec, 1):
        return False
    if opens(codec, pix_fmt, info, settings_of(codec, info)):
        return True
    # no such device here, a wrong setting: let the real opening say so in detail
    is_usual = info.width % 2 == info.height % 2 == 0 and min(info.width, info.height) >= 16
    return is_usual and pix_fmt in listed


def _listed(codec: str) -> list[str]:
    return [video_format.name for video_format in Codec(codec, "w").video_formats or []]


def _accepted(codec: str) -> str:
    """List what an encoder accepts, for a message."""
    least = f" of {_LEAST[codec]}x{_LEAST[codec]} or more" if codec in _LEAST else ""
    return (", ".join(_listed(codec)) or "other formats") + least


def _plan(codec: str, form: Form, info: VideoInfo, encoding: Encoding) -> Plan:
    layout = layout_of(info.pix_fmt if form.is_converted else form.pix_fmt)
    assert layout is not None  # wider_formats lists planar formats
    options = settings_of(codec, info) | quality(codec, encoding.crf)
    if encoding.preset is not None:
        check_preset(codec, encoding.preset, form.stored_as, info)
        options["preset"] = encoding.preset
    color = _color_as(info, form)
    if color.siting_tag:
        options["chroma_sample_location"] = str(color.siting_tag)
    if info.light and codec in PARAMETERS:
        name = PARAMETERS[codec]
        given = [options[name]] if name in options else []
        options[name] = ":".join([*given, *parameters(codec, info.light)])
    return Plan(
        codec=codec,
        form=form,
        layout=layout,
        color=color,
        options=options,
        quantiser=2 if codec in _BY_QUANTISER else None,
        note=_note(codec, form, info, encoding),
    )


def _color_as(info: VideoInfo, form: Form) -> ColorSpec:
    """Give the tags that are right once the video has its form."""
    color = info.color
    was_rgb, becomes_rgb = color.matrix == "rgb", is_rgb(av.VideoFormat(form.stored_as))
    if was_rgb and not becomes_rgb:
        return replace(
            color, matrix="bt709", full_range=False, colorspace_tag=1, range_tag=1, siting_tag=0
        )
    if becomes_rgb and not was_rgb:
        return replace(
            color, matrix="rgb", full_range=True, colorspace_tag=0, range_tag=2, siting_tag=0
        )
    return color


def _note(codec: str, form: Form, info: VideoInfo, encoding: Encoding) -> str:
    if encoding.pix_fmt is not None:
        return f"converted from {info.pix_fmt} to {form.stored_as}, as asked" * form.is_converted
    if form.is_converted:
        return (
            f"RGB converted to {form.pix_fmt} (BT.709, limited range): `{codec}` does not take "
            f"{info.pix_fmt}; `--pix-fmt yuv420p` plays everywhere, `--codec ffv1` into `.mkv` "
            "keeps RGB"
        )
    if codec == "ffv1" and encoding.codec is None and info.bits <= 12:
        return (
            "encoded with ffv1, which few players know: the usual codecs do not take "
            f"{info.pix_fmt} at {info.width}x{info.height} in such a file"
        )
    if form.pix_fmt == info.pix_fmt:
        return ""
    return (
        f"encoded as {form.pix_fmt}, which holds every sample of {info.pix_fmt}: "
        f"`{codec}` does not take {info.pix_fmt} at {info.width}x{info.height}"
    )
