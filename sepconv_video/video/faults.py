"""What goes wrong with files: PyAV's errors turned into ours, and signs of a broken-off file."""

import errno
import shlex
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from sepconv_video.errors import VideoError
from sepconv_video.video.boxes import end_of_boxes, starts_like_mp4

# PyAV's default; set again because another library may have changed it, and because
# FFmpeg's own messages must never mix with ours on the terminal.
av.logging.set_level(None)

_TRANSPORT_PACKET, _TRANSPORT_HEAD = 188, 188 * 8192
_SYNC, _SCRAMBLING = 0x47, 0xC0
_REMEDIES = {
    errno.ENOSPC: ("no space left on the device", "free some space or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another folder"),
    errno.EACCES: ("permission denied", "check who owns the file and its folder"),
    errno.EPERM: ("operation not permitted", "check who owns the file and its folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.ENOENT: ("no such file or folder", "check the name"),
    errno.EISDIR: ("it is a folder", "name a file"),
    errno.ENOTDIR: ("a part of its path is not a folder", "check the name"),
    errno.EFBIG: ("the file would be larger than the file system allows", "choose another folder"),
    errno.ENOMEM: ("not enough memory", "close other programs, or scale the video down first"),
    errno.EIO: ("the device failed to read or write", "check the disk"),
    int.from_bytes(b"PAWE", "little"): (  # AVERROR_PATCHWELCOME
        "it uses a feature that FFmpeg does not support",
        "convert it first with the program that made it",
    ),
}


def explain(fault: Exception) -> tuple[str, str]:
    """Say in lower case why a file operation failed, and what helps (which may be empty)."""
    number = errno.ENOMEM if isinstance(fault, MemoryError) else getattr(fault, "errno", None)
    if isinstance(number, int) and number in _REMEDIES:
        return _REMEDIES[number]
    reason = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
    return reason[0].lower() + reason[1:].rstrip("."), ""


def quoted(path: Path) -> str:
    """Write a name as a shell needs it: hints are copied, and names may hold `;` and `$()`."""
    return shlex.quote(str(path))


@contextmanager
def translated(action: str, path: Path, usual_hint: str = "") -> Iterator[None]:
    """Turn errors of PyAV and of the system into a `VideoError`: cannot `action` `path`: why.

    `usual_hint` is for reasons that have no hint of their own.
    """
    try:
        yield
    except (av.FFmpegError, OSError, MemoryError) as fault:
        reason, hint = explain(fault)
        raise VideoError(f"cannot {action} `{path}`: {reason}", hint or usual_hint) from fault


def is_broken_off(path: Path) -> bool:
    """Tell whether a file ends before its own structure says it does.

    MP4 and MOV (a box), Matroska and WebM (the segment) and AVI (the first RIFF chunk) name
    their sizes; other formats, and files written live, do not, and count as whole.
    """
    try:
        size, file = path.stat().st_size, path.open("rb")
    except OSError:  # gone since it was opened
        return False
    with file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            return len(head) >= 8 and 8 + struct.unpack_from("<I", head, 4)[0] > size
        if head[:4] == b"\x1aE\xdf\xa3":
            return _matroska_end(head) > size
        if starts_like_mp4(head):
            return end_of_boxes(path) > size
    return False


def is_scrambled(path: Path) -> bool:
    """Tell whether some packet near the beginning of a transport stream is encrypted.

    ISO/IEC 13818-1, 2.4.3.2: packets of 188 bytes, the fourth of which says so.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_TRANSPORT_HEAD)
    except OSError:  # gone since it was opened
        return False
    packets = (head[start : start + 4] for start in range(0, len(head), _TRANSPORT_PACKET))
    return any(len(p) == 4 and p[0] == _SYNC and p[3] & _SCRAMBLING for p in packets)


def _matroska_end(head: bytes) -> int:
    """Read the sizes of the EBML header and the segment (RFC 8794); 0 if unknown."""
    header, start = _ebml_size(head, 4)
    segment = start + header
    if head[segment : segment + 4] != b"\x18S\x80g":
        return 0
    length, start = _ebml_size(head, segment + 4)
    return start + length if length >= 0 else 0


def _ebml_size(head: bytes, position: int) -> tuple[int, int]:
    """Read a variable-length size; -1 stands for "unknown", all value bits set."""
    if position >= len(head) or not head[position]:
        return -1, position
    width = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + width], "big")
    mask = (1 << (7 * width)) - 1
    return (-1 if value & mask == mask else value & mask), position + width
