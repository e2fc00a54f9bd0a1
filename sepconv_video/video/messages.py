"""Metadata of single pictures in H.264 and H.265, which encoders do not write.

Closed captions, as television has them (CEA-608 and 708), are in the form of ATSC A/53, part 4,
6.2.3: three bytes each, some with each picture. HDR10+ (SMPTE ST 2094-40) and Dolby Vision say how
bright a picture is meant to be, which holds for new pictures beside it, too.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import av
from av.video.stream import VideoStream

from sepconv_video.frames import CAPTION, Dynamic, Frame
from sepconv_video.video.hdr import side_data

CAPTIONS, HDR10_PLUS, DOLBY = "closed captions", "HDR10+ metadata", "Dolby Vision metadata"
_CAPTIONS_AT = "A53_CC"
_MOST = 31
"""Captions in one message."""
_MESSAGE = 4
"""Registered user data, H.264 annex D.1.1; the same in H.265."""
_START, _END = b"\0\0\0\1", b"\x80"
# how such a message begins, by whom it is registered: the United States (and whom there), and
# what it is
_CAPTIONS_BEGIN = b"\xb5\x00\x31GA94\x03"
_HDR10_PLUS_BEGINS = b"\xb5\x00\x3c\x00\x01\x04"
# the first bytes of a unit of messages, and those that may begin one of pictures
_H264 = b"\x06", bytes(head for head in range(0x80) if 1 <= head & 0x1F <= 5)
_H265 = b"\x4e\x01", bytes(range(0x40))
# of encoders that separate units by start codes
_UNITS = {"libx264": _H264, "h264_nvenc": _H264, "libx265": _H265, "hevc_nvenc": _H265}
_WITH_MESSAGES, _OF_DOLBY = 39, 62
"""Kinds of units of H.265: of messages before a picture, and Dolby Vision's behind it."""
_WITH_DOLBY = {"mp4", "mov", "matroska"}
_REMEDIES = {
    DOLBY: "libx265 with 10 bits in mp4, mov and matroska",
    HDR10_PLUS: "libx265",
    CAPTIONS: "libx264 and libx265",
}
"""The most demanding first."""


class Units(NamedTuple):
    """What is to be written with a picture, for streams with start codes."""

    before: bytes = b""
    after: bytes = b""


def captions_of(picture: av.VideoFrame) -> bytes:
    """Give the captions that come with a decoded picture; none where PyAV cannot."""
    return side_data(picture).get(_CAPTIONS_AT, b"")


def dynamic_of(packet: bytes, stream: VideoStream) -> Dynamic:
    """Give the HDR metadata that a packet of H.265 has of its picture."""
    hdr10_plus = dolby = b""
    for unit in _units(packet, stream.codec_context.extradata or b""):
        kind = unit[0] >> 1 & 0x3F if unit else 0
        if kind == _OF_DOLBY:
            dolby = unit
        elif kind == _WITH_MESSAGES:
            for message in _messages(unit[2:].replace(b"\0\0\3", b"\0\0")):
                hdr10_plus = message if message.startswith(_HDR10_PLUS_BEGINS) else hdr10_plus
    return Dynamic(hdr10_plus, dolby)


def kinds_of(frame: Frame) -> set[str]:
    """Name the kinds of metadata that a frame has."""
    hdr10_plus, dolby = frame.dynamic
    given = {CAPTIONS: frame.captions, HDR10_PLUS: hdr10_plus, DOLBY: dolby}
    return {kind for kind, data in given.items() if data}


def held_by(codec: str, container: str) -> set[str]:
    """List the kinds that an encoder's stream in a container can hold."""
    held = {CAPTIONS} if codec in _UNITS else set[str]()
    if _UNITS.get(codec) != _H265:
        return held
    return held | {HDR10_PLUS} | ({DOLBY} if container in _WITH_DOLBY else set())


def lost_messages(lost: set[str], where: str) -> str:
    """Say that some kinds are lost, and what can hold them; empty if none."""
    remedy = next((name for kind, name in _REMEDIES.items() if kind in lost), "")
    names = " and ".join(sorted(lost))
    return f"{names} left out: {where} cannot hold them, {remedy} can" if lost else ""


def units_of(frame: Frame, held: set[str], codec: str) -> Units:
    """Write a frame's metadata, of the kinds held, as units of the encoder's stream."""
    step = _MOST * CAPTION
    starts = range(0, len(frame.captions), step) if CAPTIONS in held else ()
    messages = [_captions(frame.captions[start : start + step]) for start in starts]
    hdr10_plus, dolby = frame.dynamic
    messages += [hdr10_plus] if hdr10_plus and HDR10_PLUS in held else []
    content = b"".join(bytes([_MESSAGE]) + _size(message) + message for message in messages)
    # nothing in it may look like a start code
    safe = re.sub(b"\0\0(?=[\0-\3])", b"\0\0\3", content + _END)
    return Units(
        _START + _UNITS[codec][0] + safe if messages else b"",
        _START + dolby if dolby and DOLBY in held else b"",
    )


def with_units(packet: bytes, units: Units, codec: str) -> bytes:
    """Put units into the packet of a picture, which an encoder has made."""
    pictures = _UNITS[codec][1]
    found = re.search(b"\0?\0\0\1[" + re.escape(pictures) + b"]", packet)
    place = found.start() if found else 0
    return packet[:place] + units.before + packet[place:] + units.after


def _captions(captions: bytes) -> bytes:
    count = bytes([0x40 | len(captions) // CAPTION, 0xFF])
    return _CAPTIONS_BEGIN + count + captions + b"\xff"


def _size(message: bytes) -> bytes:
    return b"\xff" * (len(message) // 255) + bytes([len(message) % 255])


def _units(packet: bytes, header: bytes) -> Iterator[bytes]:
    """Walk the units of a packet of H.265, which begin as the stream's header says."""
    if header[:1] != b"\1" or len(header) < 22:  # start codes, as in transport streams
        for found in re.finditer(b"\0\0\1", packet):
            end = packet.find(b"\0\0\1", found.end())
            yield packet[found.end() : end if end >= 0 else len(packet)]
        return
    at, width = 0, (header[21] & 3) + 1
    while at + width < len(packet):
        size = int.from_bytes(packet[at : at + width], "big")
        yield packet[at + width : at + width + size]
        at += width + size


def _messages(unit: bytes) -> Iterator[bytes]:
    """Walk the messages of registered user data in a unit."""
    at = 0
    while at + 2 < len(unit):  # the last byte is `_END`
        numbers = [0, 0]  # kind and size
        for place in range(2):
            while at < len(unit) and unit[at] == 0xFF:
                numbers[place] += 255
                at += 1
            numbers[place] += unit[at] if at < len(unit) else 0
            at += 1
        kind, size = numbers
        if kind == _MESSAGE:
            yield unit[at : at + size]
        at += size
