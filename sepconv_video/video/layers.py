"""HEVC in layers: pictures, and beside them an alpha channel or the other eye's view.

FFmpeg 8 decodes nothing at all of some of these, such as what Apple's encoder makes of pictures
with alpha, as it does not understand what the header says of the second layer. Of others, as films
for two eyes, it gives the first layer anyway.
"""

from collections.abc import Iterator

from av.video.codeccontext import VideoCodecContext

_ARRAYS = 22
"""Where in the header the number of its arrays stands (ISO/IEC 14496-15, 8.3.3.1.2)."""
_KIND, _VPS = 0x3F, 32
"""Of an array: the bits that say what is in it, and a video parameter set (ISO/IEC 23008-2)."""


def drop_layers(decoder: VideoCodecContext) -> str:
    """Have a decoder that is not open yet make the pictures alone.

    Returns:
        What is left out, in one line; empty if nothing is.
    """
    header = decoder.extradata or b""
    pictures_alone = without_layers(header) if decoder.name == "hevc" else header
    if pictures_alone == header:
        return ""
    decoder.extradata = pictures_alone
    return "the second layer of the video left out: an alpha channel, or the other eye's view"


def without_layers(header: bytes) -> bytes:
    """Say in the header of an HEVC stream, as MP4 and Matroska have it, that it has one layer.

    Where it says so already, or is none, it stays as it is.
    """
    changed = bytearray(header)
    for place in _parameter_sets(header):
        # after 16 bits of what it is, and 6 others, 6 bits: how many layers, less one
        changed[place + 2] &= 0b11111100
        changed[place + 3] &= 0b00001111
    return bytes(changed)


def _parameter_sets(header: bytes) -> Iterator[int]:
    """Find where the video parameter sets begin."""
    if len(header) <= _ARRAYS or header[0] != 1:
        return
    place = _ARRAYS + 1
    for _ in range(header[_ARRAYS]):
        kind, count = header[place : place + 1], _number(header, place + 1)
        place += 3
        for _ in range(count):
            size = _number(header, place)
            place += 2
            if place + size > len(header):
                return
            if kind and kind[0] & _KIND == _VPS and size >= 4:
                yield place
            place += size


def _number(header: bytes, place: int) -> int:
    return int.from_bytes(header[place : place + 2], "big")
