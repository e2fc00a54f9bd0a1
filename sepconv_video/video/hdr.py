"""HDR metadata of a video: read from its first picture, and given to the encoder.

The static ones, HDR10's, hold for the whole video and so for new frames too. The dynamic ones
(Dolby Vision, HDR10+) belong to single frames; those in H.265 are left to `messages`.
"""

import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

import av
from av.sidedata.sidedata import SideDataContainer

from sepconv_video.frames import Dynamic, LightLevels

_DYNAMIC = {
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
}
DOLBY_TAGS = {"dvh1", "dvhe", "dva1", "dvav", "dav1"}
WRONG_COLOURS = "; colours may be wrong, as this stream is not meant to be shown without it"
_HDR_TRANSFERS = {16, 18}  # PQ and HLG, H.273 table 3
# Encoders that write the levels into the stream itself, and the option that takes them
PARAMETERS = {
    "libx264": "x264-params",
    "libx265": "x265-params",
    "libsvtav1": "svtav1-params",
}


def is_hdr(transfer_tag: int) -> bool:
    """Tell by the code point of its transfer function whether a video is HDR10 or HLG."""
    return transfer_tag in _HDR_TRANSFERS


def light_of(first: av.VideoFrame) -> LightLevels | None:
    """Read HDR10's static metadata; None where there are none."""
    found = side_data(first)
    primaries = luminance = content = None
    if data := found.get("MASTERING_DISPLAY_METADATA"):
        # AVMasteringDisplayMetadata: ten AVRationals and two flags
        *numbers, has_primaries, has_luminance = struct.unpack("<22i", data[:88])
        ratios = [
            Fraction(top, bottom or 1)
            for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)
        ]
        primaries = tuple(ratios[:8]) if has_primaries else None
        luminance = (ratios[8], ratios[9]) if has_luminance else None
    if data := found.get("CONTENT_LIGHT_LEVEL"):
        content = cast(tuple[int, int], struct.unpack("<2I", data[:8]))
    if not (primaries or luminance or content):
        return None
    return LightLevels(primaries=primaries, luminance=luminance, content=content)


def metadata_notes(
    first: av.VideoFrame, kept: Dynamic, *, is_dolby: bool, needs_dolby: bool
) -> list[str]:
    """Name the metadata of single frames that cannot be kept, one line for each kind.

    Args:
        first: A decoded frame.
        kept: Its metadata that can be.
        is_dolby: Whether the stream is said to be Dolby Vision's.
        needs_dolby: Whether its colours are then other ones than usual.
    """
    kinds = {_DYNAMIC[name] for name in side_data(first) if name in _DYNAMIC}
    kinds |= {"Dolby Vision"} if is_dolby else set()
    kinds -= {"HDR10+"} if kept.hdr10_plus else set()
    kinds -= {"Dolby Vision"} if kept.dolby_vision else set()
    unknown = (
        ["metadata of single frames and HDR light levels, if any, left out: they cannot be read"]
        if _all_of(first) is None
        else []
    )
    return unknown + [
        f"{kind} metadata left out: this form of it cannot be kept"
        + (WRONG_COLOURS if kind == "Dolby Vision" and needs_dolby else "")
        for kind in sorted(kinds)
    ]


def parameters(codec: str, light: LightLevels) -> list[str]:
    """Write the levels as parameters of an encoder of `PARAMETERS`."""
    found = []
    if light.primaries and light.luminance:  # none takes one without the other
        unit = 1 if codec == "libsvtav1" else 50_000
        dim = 1 if codec == "libsvtav1" else 10_000
        red, green, blue, white = (_pair(light.primaries[k : k + 2], unit) for k in (0, 2, 4, 6))
        levels = _pair(light.luminance[::-1], dim)
        name = "master-display" if codec == "libx265" else "mastering-display"
        found.append(f"{name}=G{green}B{blue}R{red}WP{white}L{levels}")
    if light.content:
        names = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}
        found.append(f"{names[codec]}={light.content[0]},{light.content[1]}")
    return found


def _pair(values: tuple[Fraction, ...], unit: int) -> str:
    """Write two numbers in units of `1/unit`: whole ones, decimals where the unit is 1."""
    one, two = (value if unit == 1 else round(value * unit) for value in values)
    return f"({float(one):.6f},{float(two):.6f})" if unit == 1 else f"({one},{two})"


def side_data(frame: av.VideoFrame) -> Mapping[str, bytes]:
    """Read what comes with a frame, by FFmpeg's names; nothing where PyAV cannot."""
    return {data.type.name: bytes(data) for data in _all_of(frame) or []}


def _all_of(frame: av.VideoFrame) -> list[Any] | None:
    """Give what comes with a frame; None where PyAV 18.1 has no name for a kind, as EXIF."""
    try:
        # not `frame.side_data`, which the frame keeps and which keeps the frame: it, and its
        # decoder, would stay in memory until Python looks for cycles
        return list(cast(Any, SideDataContainer)(frame))  # of values, whatever its type says
    except ValueError:
        return None
