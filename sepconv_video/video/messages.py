"""What comes with single pictures of H.264 and H.265, in messages that their encoders do not write.

Closed captions, as television has them (CEA-608 and 708), are in the form of ATSC A/53, part 4,
6.2.3: three bytes each, some with each picture. HDR10+ (SMPTE ST 2094-40) says how bright a picture
is meant to be, and holds for new pictures beside it, too.
"""

import re
from collections.abc import Iterator, Sequence

import av
from av.video.stream import VideoStream

from sepconv_video.frames import CAPTION, Frame
from sepconv_video.video.hdr import side_data

CAPTIONS, HDR10_PLUS = "closed captions", "HDR10+ metadata"
_CAPTIONS_AT = "A53_CC"
_MOST = 31
"""Captions in one message."""
_MESSAGE = 4
"""Registered user data, H.264 annex D.1.1; the same in H.265."""
_END = b"\x80"
# how such a message begins, by whom it is registered: the United States (and whom there), and
# what it is
_CAPTIONS_BEGIN = b"\xb5\x00\x31GA94\x03"
_HDR10_PLUS_BEGINS = b"\xb5\x00\x3c\x00\x01\x04"
# the first bytes of a unit of messages, and those that may begin one of pictures
_H264 = b"\x06", bytes(head for head in range(0x80) if 1 <= head & 0x1F <= 5)
_H265 = b"\x4e\x01", bytes(range(0x40))
# of encoders that separate units by start codes
_UNITS = {"libx264": _H264, "h264_nvenc": _H264, "libx265": _H265, "hevc_nvenc": _H265}
_HOLDING = {CAPTIONS: set(_UNITS), HDR10_PLUS: {"libx265", "hevc_nvenc"}}
_WITH_MESSAGES = 39
"""The kind of unit of H.265 that holds messages before a picture; kinds below 32 hold pictures."""


def captions_of(picture: av.VideoFrame) -> bytes:
    """Give the captions that come with a decoded picture; none where PyAV cannot read what does."""
    return side_data(picture).get(_CAPTIONS_AT, b"")


def hdr10_plus_of(packet: bytes, stream: VideoStream) -> bytes:
    """Give HDR10+'s message in a packet of H.265, without its head; empty if there is none."""
    for unit in _units(packet, stream.codec_context.extradata or b""):
        kind = unit[0] >> 1 & 0x3F if unit else 0
        if kind < 32:
            break
        if kind == _WITH_MESSAGES:
            for message in _messages(unit[2:].replace(b"\0\0\3", b"\0\0")):
                if message.startswith(_HDR10_PLUS_BEGINS):
                    return message
    return b""


def kinds_of(frame: Frame) -> set[str]:
    """Name what comes with a frame."""
    given = {CAPTIONS: frame.captions, HDR10_PLUS: frame.hdr10_plus}
    return {kind for kind, data in given.items() if data}


def lost(found: set[str], codec: str) -> str:
    """Name those of the kinds found that an encoder's stream has no place for; empty if none."""
    names = [kind for kind in sorted(found) if codec not in _HOLDING[kind]]
    remedy = "libx265 can" if HDR10_PLUS in names else "libx264 and libx265 can"
    return f"{' and '.join(names)} left out: {codec} cannot hold them, {remedy}" if names else ""


def messages_of(frame: Frame, codec: str) -> list[bytes]:
    """List the messages to write with a frame that an encoder's stream has a place for."""
    step = _MOST * CAPTION
    starts = range(0, len(frame.captions), step)
    captions = [_captions(frame.captions[start : start + step]) for start in starts]
    found = {CAPTIONS: captions, HDR10_PLUS: [frame.hdr10_plus] if frame.hdr10_plus else []}
    return [message for kind, some in found.items() if codec in _HOLDING[kind] for message in some]


def with_messages(packet: bytes, messages: Sequence[bytes], codec: str) -> bytes:
    """Put messages of `messages_of` into the packet of a picture, before it."""
    head, pictures = _UNITS[codec]
    found = re.search(b"\0?\0\0\1[" + re.escape(pictures) + b"]", packet)
    place = found.start() if found else 0
    content = b"".join(bytes([_MESSAGE]) + _size(message) + message for message in messages)
    # nothing in it may look like a start code
    unit = b"\0\0\0\1" + head + re.sub(b"\0\0(?=[\0-\3])", b"\0\0\3", content + _END)
    return packet[:place] + unit + packet[place:]


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
