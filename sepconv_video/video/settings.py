"""Settings of encoders: quality, speed, and what keeps them out of trouble."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
from av.codec import Codec
from av.video.codeccontext import VideoCodecContext

from sepconv_video.errors import OptionsError
from sepconv_video.frames import VideoInfo

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
_NVENC = {"preset": "p6", "tune": "hq"}
_SETTINGS = {
    "libx264": {"preset": "medium"},
    # x265 writes its progress to stderr by itself, whatever FFmpeg's log level
    "libx265": {"preset": "medium", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "6"},
    # limited range, which nearly all video has, is outside the JPEG standard
    "mjpeg": {"strict": "unofficial"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "2", "row-mt": "1", "b": "0"},
    "h264_nvenc": _NVENC,
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
}
_X26 = ("libx264", "libx265")
_X26_WORST_CRF = 51
_X26_PRESETS = (
    "ultrafast, superfast, veryfast, faster, fast, medium, slow, slower, veryslow, placebo"
)


def settings_of(codec: str, info: VideoInfo) -> dict[str, str]:
    """Give the settings that an encoder always gets."""
    settings = dict(_SETTINGS.get(codec, {}))
    if codec == "libx265" and info.width < 64:
        settings["x265-params"] += ":cutree=0"  # which writes beyond the rows of narrow pictures
    return settings


def quality(codec: str, crf: int | None) -> dict[str, str]:
    """Choose the settings for a constant quality; none for encoders without it."""
    name = _private(codec, "crf", "cq")
    wanted = crf if crf is not None else _QUALITY.get(codec)
    if crf is not None and name is None:
        raise OptionsError(
            f"`{codec}` has no constant-quality setting, so `--crf {crf}` has no effect",
            "leave `--crf` out, or choose libx264, libx265, libsvtav1 or libvpx-vp9",
        )
    if crf is not None and crf > _X26_WORST_CRF and codec.startswith(_X26):
        raise OptionsError(
            f"a crf of {crf} is out of bounds for `{codec}`", f"use 0 to {_X26_WORST_CRF}"
        )
    if name is None or wanted is None:
        return {}
    return {name: str(wanted)} | ({"rc": "vbr", "b": "0"} if name == "cq" else {})


def check_preset(codec: str, preset: str, pix_fmt: str, info: VideoInfo) -> None:
    """Refuse a preset that the encoder does not know, by opening it if need be."""
    if not _private(codec, "preset"):
        raise OptionsError(
            f"`{codec}` has no presets, so `--preset {preset}` has no effect",
            "leave `--preset` out, or choose libx264, libx265 or libsvtav1",
        )
    settings = settings_of(codec, info)
    if codec.startswith(_X26):  # x264 would complain on stderr by itself
        is_known = preset in _X26_PRESETS.split(", ")
    elif opens(codec, pix_fmt, info, settings):
        is_known = opens(codec, pix_fmt, info, settings | {"preset": preset})
    else:  # it needs a device that is not here
        is_known = preset in _words(codec, "preset")
    if not is_known:
        raise OptionsError(
            f"`{codec}` has no preset `{preset}`",
            f"libx264 and libx265 have {_X26_PRESETS}; libsvtav1 has 0 to 13, NVENC p1 to p7",
        )


def opens(codec: str, pix_fmt: str, info: VideoInfo, options: Mapping[str, str]) -> bool:
    """Try whether an encoder opens."""
    context = VideoCodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = info.width, info.height, pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = dict(options)
    try:
        context.open()
    except av.FFmpegError:
        return False
    return True


def _private(codec: str, *names: str) -> str | None:
    """Give the first of some options that the encoder has of its own."""
    private = {option.name for option in _options(codec)}
    return next((name for name in names if name in private), None)


def _words(codec: str, name: str) -> set[str]:
    """List the words that one of the encoder's own options takes, where it takes words."""
    found = (option.choices for option in _options(codec) if option.name == name)
    return {choice.name for choices in found for choice in choices}


def _options(codec: str) -> tuple[Any, ...]:
    return tuple(Codec(codec, "w").create("video").supported_options.private)
