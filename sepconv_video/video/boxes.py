"""Reading the boxes of MP4 and MOV files (ISO/IEC 14496-12): what FFmpeg does not tell.

FFmpeg does not tell where a track's presentation ends, and the durations it gives to frames
of a variable rate stored out of order (with B-frames) belong to other frames.
"""

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

_KNOWN = {
    *(b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"styp", b"meta", b"uuid", b"udta"),
    *(b"free", b"skip", b"wide", b"pnot"),
}

_SEALED = {b"encv", b"drmi"}
"""Kinds of video that are encrypted: by ISO/IEC 23001-7, and by Apple's FairPlay."""
_H265 = {b"hvc1", b"hev1", b"dvh1"}
_VISUAL_ENTRY = 78
"""Bytes of what describes a video before its own boxes."""


def starts_like_mp4(head: bytes) -> bool:
    """Tell by its first 8 bytes whether a file consists of boxes."""
    return head[4:8] in _KNOWN


def end_of_boxes(path: Path) -> int:
    """Return where the last top-level box says it ends, in bytes from the start.

    Anything that is no box of a video, such as data that cameras append, ends the walk.
    """
    size = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        for name, _, end in _children(file, 0, size):
            if name not in _KNOWN:
                break
            position = end
    return position


def is_encrypted(path: Path) -> bool:
    """Tell whether one of a file's videos can be decoded with a key only."""
    with path.open("rb") as file:
        if not starts_like_mp4(file.read(8)):
            return False
        return any(kind in _SEALED for kind, _, _ in _descriptions(file))


def leave_out_vexu(file: BinaryIO) -> None:
    """Make Apple's box about 3D and 360 degrees free space, where Google's say the same.

    FFmpeg writes all of them, but of Apple's not how the views of both eyes lie, and then reads
    that one.
    """
    file.flush()
    for _, start, end in _descriptions(file):
        inner = {name: place for name, place, _ in _children(file, start + _VISUAL_ENTRY, end)}
        if b"vexu" in inner and not inner.keys().isdisjoint({b"st3d", b"sv3d"}):
            file.seek(inner[b"vexu"] - 4)
            file.write(b"free")


def describe_more(file: BinaryIO, kind: bytes, name: bytes, content: bytes) -> None:
    """Put a box into the sample entry of the first H.265 video of a file whose index comes last.

    Args:
        file: To be read and written.
        kind: What that entry is to be called.
        name: Of the box.
        content: Of the box.
    """
    file.flush()
    start, end = next(place for found, *place in _descriptions(file) if found in _H265)
    file.seek(start - 4)
    file.write(kind)
    box = struct.pack(">I", 8 + len(content)) + name + content
    for start in _around(file, end, 0, os.fstat(file.fileno()).st_size):
        file.seek(start)
        size = int.from_bytes(file.read(4), "big")
        file.seek(start)
        file.write(struct.pack(">I", size + len(box)))
    file.seek(end)
    rest = file.read()
    file.seek(end)
    file.write(box + rest)


def _around(file: BinaryIO, place: int, start: int, end: int) -> list[int]:
    """List where the boxes begin that hold a place, from the outermost to that which ends there."""
    for name, first, last in _children(file, start, end):
        if first <= place <= last:
            skipped = 8 if name == b"stsd" else 0
            inner = [] if name in _H265 else _around(file, place, first + skipped, last)
            return [first - 8, *inner]
    return []


def _descriptions(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Walk the sample entries of all tracks: kind, and where its content is."""
    moov = _child(file, b"moov", 0, os.fstat(file.fileno()).st_size)
    for name, *track in _children(file, *moov) if moov else ():
        found = (track[0], track[1]) if name == b"trak" else None
        for inner in (b"mdia", b"minf", b"stbl", b"stsd"):
            found = found and _child(file, inner, *found)
        if found:  # before them a version and how many there are
            yield from _children(file, found[0] + 8, found[1])


def presentation_end(path: Path, track_id: int) -> Fraction | None:
    """Read when a track's last frame ceases to be shown, edits included.

    Returns:
        Seconds on the file's time line; None where the header does not say.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        moov = _child(file, b"moov", 0, size)
        header = moov and _child(file, b"mvhd", *moov)
        if not moov or not header:
            return None
        ticks = _numbers(file, header, (">12xI", ">20xI"))[0]
        for name, start, end in _children(file, *moov):
            track = _child(file, b"tkhd", start, end) if name == b"trak" else None
            if track is None:
                continue
            number, duration = _numbers(file, track, (">12xI4xI", ">20xI4xQ"))
            if number == track_id:
                is_known = 0 < duration < 2**32 - 1 and ticks
                return Fraction(duration, ticks) if is_known else None
    return None


def _numbers(file: BinaryIO, box: tuple[int, int], formats: tuple[str, str]) -> tuple[int, ...]:
    """Unpack a full box's numbers, whose places depend on its version, 0 or 1."""
    file.seek(box[0])
    content = file.read(36)
    form = formats[1] if content[:1] == b"\1" else formats[0]
    if len(content) < struct.calcsize(form):
        return (0, 0)
    return struct.unpack_from(form, content)


def _child(file: BinaryIO, wanted: bytes, start: int, end: int) -> tuple[int, int] | None:
    for name, first, last in _children(file, start, end):
        if name == wanted:
            return first, last
    return None


def _children(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Walk the boxes between two places: name, where the content begins and where it ends.

    That end is as the box says, which may be beyond the file's; the walk stays within it.
    """
    end = min(end, os.fstat(file.fileno()).st_size)
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return
        length, head = int.from_bytes(header[:4], "big"), 8
        if length == 1 and len(header) == 16:
            length, head = int.from_bytes(header[8:], "big"), 16
        if length == 0:  # up to the end
            length = end - start
        if length < head:
            return
        yield header[4:8], start + head, start + length
        start += length
