"""What PyAV 18.1 neither reads nor writes, by the header of a Matroska file in memory.

FFmpeg's muxer writes into it where a stream's chroma lies, and its demuxer takes from it the
mastering display and the light levels of a stream to come, and the space that it shows. It passes
on the record of Dolby Vision. PyAV 19 has the chroma and the light as attributes.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import NamedTuple

import av
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream

from sepconv_video.frames import LightLevels, VideoInfo
from sepconv_video.video.dolby import RECORD_BYTES, box_name
from sepconv_video.video.space import Space, kept

# RFC 9559, section 5.1
_SEGMENT, _TRACKS, _TRACK, _VIDEO, _COLOUR = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x55B0
_ADDITION, _ADDITION_TYPE, _ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED
_SITING_ACROSS, _SITING_ALONG = 0x55B7, 0x55B8
_MASTERING, _MAX_CLL, _MAX_FALL = 0x55D0, 0x55BC, 0x55BD
_PRIMARIES = range(0x55D1, 0x55D9)
_BRIGHTEST, _DARKEST = 0x55D9, 0x55DA
_STEREO_MODE, _PROJECTION, _PROJECTION_TYPE, _PROJECTION_PRIVATE = 0x53B8, 0x7670, 0x7671, 0x7672
_ANGLES = range(0x7673, 0x7676)
_CROPPED = (0x54BB, 0x54AA, 0x54CC, 0x54DD)  # top, bottom, left, right
# (across, along): 1 on the luma sample, 2 between two; to FFmpeg's AVChromaLocation
_LOCATIONS = {(1, 2): 1, (2, 2): 2, (1, 1): 3, (2, 1): 4}
_CODECS = {
    "h264": b"V_MPEG4/ISO/AVC",
    "hevc": b"V_MPEGH/ISO/HEVC",
    "av1": b"V_AV1",
    "vp9": b"V_VP9",
    "ffv1": b"V_FFV1",
    "prores": b"V_PRORES",
}


class Facts(NamedTuple):
    """What a stream's file says of it that PyAV does not tell."""

    chroma_location: int
    """FFmpeg's AVChromaLocation, 0 where it is unknown, also because Matroska has no place for the
    stream."""
    crop: tuple[int, int, int, int] | None
    """As `VideoInfo.crop`."""
    dolby: bytes | None
    """Dolby Vision's record; None where it has none."""


def facts_of(stream: VideoStream) -> Facts:
    """Find out what a stream's file says of it."""
    header = _described(stream)
    colour = _elements_of(header, _VIDEO, _COLOUR)
    across, along = (colour.get(side, b"\0")[-1] for side in (_SITING_ACROSS, _SITING_ALONG))
    video = _elements_of(header, _VIDEO)
    top, bottom, left, right = (int.from_bytes(video.get(side, b""), "big") for side in _CROPPED)
    dolby = _elements_of(header, _ADDITION).get(_ADDITION_DATA, b"")
    return Facts(
        chroma_location=_LOCATIONS.get((across, along), 0),
        crop=(top, bottom, left, right) if top or bottom or left or right else None,
        dolby=dolby if len(dolby) == RECORD_BYTES else None,
    )


def _described(stream: VideoStream) -> bytes:
    """Write what is known of a stream as a Matroska track; empty where it has no place for it."""
    header = io.BytesIO()
    with suppress(av.FFmpegError, ValueError), av.open(header, "w", format="matroska") as output:
        copy = output.add_stream_from_template(stream, opaque=True)
        if copy.codec_context.name == "rawvideo":  # which must have a tag; any
            copy.codec_context.codec_tag = "I420"
        output.start_encoding()
    return header.getvalue()


def _elements_of(header: bytes, *path: int) -> dict[int, bytes]:
    """Read what is in an element of a file's first track, by what is on each level down to it."""
    for identity in (_SEGMENT, _TRACKS, _TRACK, *path):
        header = dict(_elements(header)).get(identity, b"")
    return dict(_elements(header))


def can_announce(codec: str) -> bool:
    """Tell whether `announce` works for a codec, by FFmpeg's name of it, e.g. `hevc`."""
    return codec in _CODECS


def announce(info: VideoInfo, container: str, dolby: bytes | None, stream: VideoStream) -> None:
    """Have a new stream's container store light levels, 360 degrees, 3D and cropping.

    The codec context takes all its parameters, its format among them, from a track that has
    nothing else; set them afterwards.
    """
    name = _CODECS[stream.codec_context.codec.canonical_name]
    colour, space = _colour(info.light), _space(kept(info, container))
    if not colour + space and dolby is None:
        return
    # FFmpeg refuses more cropping than there are pixels
    size = _number(0xB0, info.width) + _number(0xBA, info.height)
    header = io.BytesIO(_track(name, size + colour + space, dolby))
    with closing(av.open(header, format="matroska")) as template:
        BitStreamFilterContext("null", template.streams.video[0], stream)


def _colour(light: LightLevels | None) -> bytes:
    """Write the element of the mastering display and the light levels."""
    if light is None:
        return b""
    colour = b""
    if light.content:
        colour += _number(_MAX_CLL, light.content[0]) + _number(_MAX_FALL, light.content[1])
    mastering = b""
    for identity, value in zip(_PRIMARIES, light.primaries or (), strict=False):
        mastering += _element(identity, struct.pack(">d", value))
    for identity, value in zip((_DARKEST, _BRIGHTEST), light.luminance or (), strict=False):
        mastering += _element(identity, struct.pack(">d", value))
    colour += _element(_MASTERING, mastering) if mastering else b""
    return _element(_COLOUR, colour)


def _space(space: Space) -> bytes:
    """Write the elements of 360 degrees, 3D and cropping."""
    projection, mode, crop = space
    found = b"" if mode is None else _number(_STEREO_MODE, mode)
    for identity, width in zip(_CROPPED, crop or (), strict=False):
        found += _number(identity, width)
    if projection is None:
        return found
    content = _number(_PROJECTION_TYPE, projection.kind)
    content += _element(_PROJECTION_PRIVATE, projection.private) if projection.private else b""
    for identity, angle in zip(_ANGLES, projection.angles, strict=True):
        content += _element(identity, struct.pack(">d", angle))
    return found + _element(_PROJECTION, content)


def _track(codec: bytes, described: bytes, dolby: bytes | None) -> bytes:
    """Write a file with a track of `codec`, described by some elements, and no pictures."""
    video = _element(_VIDEO, described)
    if dolby is not None:
        kind = int.from_bytes(box_name(dolby), "big")
        addition = _number(_ADDITION_TYPE, kind) + _element(_ADDITION_DATA, dolby)
        video += _element(_ADDITION, addition)
    head = _number(0xD7, 1) + _number(0x73C5, 1) + _number(0x83, 1) + _element(0x86, codec)
    tracks = _element(_TRACKS, _element(_TRACK, head + video))
    cluster = _element(0x1F43B675, _number(0xE7, 0))
    name = _element(0x1A45DFA3, _element(0x4282, b"matroska"))
    return name + _element(_SEGMENT, tracks + cluster)


def _element(identity: int, content: bytes) -> bytes:
    """Write an EBML element (RFC 8794), its length in 8 bytes."""
    head = identity.to_bytes((identity.bit_length() + 7) // 8, "big")
    return head + (len(content) | 1 << 56).to_bytes(8, "big") + content


def _number(identity: int, value: int) -> bytes:
    return _element(identity, value.to_bytes(8, "big"))


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Read the EBML elements that follow each other, identity and content of each."""
    at = 0
    while at < len(content) and content[at]:
        length = 9 - content[at].bit_length()
        identity = int.from_bytes(content[at : at + length], "big")
        at += length
        if at >= len(content) or not content[at]:
            return
        length = 9 - content[at].bit_length()
        size = int.from_bytes(content[at : at + length], "big") & ((1 << 7 * length) - 1)
        at += length  # a size of all ones means unknown: to the end
        yield identity, content[at : at + size]
        at += size
