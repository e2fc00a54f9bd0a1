"""Closed captions, as television has them: read with a picture, written into H.264 and H.265.

They are CEA-608 and 708, in the form of ATSC A/53, part 4, 6.2.3: three bytes each, some with each
picture.
"""

import re

import av

from sepconv_video.frames import CAPTION
from sepconv_video.video.hdr import side_data

_KIND = "A53_CC"
_MOST = 31
"""In one message."""
_HEAD = b"\xb5\x00\x31GA94\x03"
"""Of a message: the United States, ATSC, what kind of data, captions."""
_MESSAGE = 4
"""Registered user data, H.264 annex D.1.1; the same in H.265."""
_END = b"\x80"
# for each encoder that separates units by start codes: the first bytes of a unit of messages, and
# those that may begin one of pictures
_H264 = b"\x06", bytes(head for head in range(0x80) if 1 <= head & 0x1F <= 5)
_H265 = b"\x4e\x01", bytes(head for head in range(0x40))
_UNITS = {"libx264": _H264, "h264_nvenc": _H264, "libx265": _H265, "hevc_nvenc": _H265}


def captions_of(picture: av.VideoFrame) -> bytes:
    """Give the captions that come with a decoded picture; none where PyAV cannot read what does."""
    return side_data(picture).get(_KIND, b"")


def can_hold(codec: str) -> bool:
    """Tell whether captions can be put into what an encoder makes."""
    return codec in _UNITS


def with_captions(packet: bytes, captions: bytes, codec: str) -> bytes:
    """Put captions into the packet of a picture, before it.

    Args:
        packet: As an encoder of `can_hold` makes it.
        captions: `CAPTION` bytes each.
        codec: That encoder.
    """
    head, pictures = _UNITS[codec]
    found = re.search(b"\0?\0\0\1[" + re.escape(pictures) + b"]", packet)
    place = found.start() if found else 0
    step = _MOST * CAPTION
    some = (captions[start : start + step] for start in range(0, len(captions), step))
    messages = b"".join(map(_message, some)) + _END
    # nothing in it may look like a start code
    unit = b"\0\0\0\1" + head + re.sub(b"\0\0(?=[\0-\3])", b"\0\0\3", messages)
    return packet[:place] + unit + packet[place:]


def _message(captions: bytes) -> bytes:
    content = _HEAD + bytes([0x40 | len(captions) // CAPTION, 0xFF]) + captions + b"\xff"
    return bytes([_MESSAGE, len(content)]) + content
