"""Matroska files made by hand: whatever numbers one likes, however large, where they matter.

All sizes and numbers take 8 bytes (RFC 8794 allows that), so that each can be any of 64 bits.
"""

import struct


def element(identity: str, content: bytes) -> bytes:
    """An EBML element; its identity in hexadecimal."""
    return bytes.fromhex(identity) + (len(content) | 1 << 56).to_bytes(8, "big") + content


def number(identity: str, value: int) -> bytes:
    return element(identity, value.to_bytes(8, "big"))


def video_track(width: int = 32, height: int = 32, extra: bytes = b"", identity: int = 1) -> bytes:
    """Uncompressed gray video."""
    size = number("b0", width) + number("ba", height)
    return _track(
        identity, 1, b"V_UNCOMPRESSED", element("e0", size + element("2eb524", b"Y800")) + extra
    )


def png_track(width: int, height: int) -> bytes:
    """PNG pictures, as a video in AVI has them."""
    size = number("b0", width) + number("ba", height)
    header = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MPNG", 0, 0, 0, 0, 0)
    return _track(1, 1, b"V_MS/VFW/FOURCC", element("63a2", header) + element("e0", size))


def sound_track(identity: int) -> bytes:
    """16-bit mono at 8 kHz."""
    form = element("b5", struct.pack(">d", 8000.0)) + number("9f", 1) + number("6264", 16)
    return _track(identity, 2, b"A_PCM/INT/LIT", element("e1", form))


def text_track(identity: int, extra: bytes = b"") -> bytes:
    return _track(identity, 17, b"S_TEXT/UTF8", extra)


def picture_text_track(identity: int, codec: bytes) -> bytes:
    """Subtitles as pictures: S_HDMV/PGS as Blu-ray has them, S_VOBSUB as DVDs."""
    return _track(identity, 17, codec, b"")


def _track(identity: int, kind: int, codec: bytes, extra: bytes) -> bytes:
    head = number("d7", identity) + number("73c5", identity) + number("83", kind)
    return element("ae", head + element("86", codec) + extra)


def cluster(time: int, *blocks: bytes) -> bytes:
    """Blocks whose times count from `time`."""
    return element("1f43b675", number("e7", time) + b"".join(blocks))


def block(content: bytes, time: int = 0, track: int = 1) -> bytes:
    return element("a3", bytes([0x80 | track]) + struct.pack(">hB", time, 0x80) + content)


def gray(index: int, width: int = 32, height: int = 32) -> bytes:
    """The content of a gray picture: stripes that move."""
    return bytes((40 * index + 3 * x) % 256 for x in range(width)) * height


def clip_of(times: list[int]) -> list[bytes]:
    """One cluster for each picture, at these times."""
    return [cluster(time, block(gray(index))) for index, time in enumerate(times)]


def chapters(*spans: tuple[int, int]) -> bytes:
    """Chapters from and to so many nanoseconds."""
    title = element("80", element("85", b"title") + element("437c", b"eng"))
    atoms = [
        element("b6", number("73c4", place) + number("91", start) + number("92", end) + title)
        for place, (start, end) in enumerate(spans, 1)
    ]
    return element("1043a770", element("45b9", b"".join(atoms)))


def tags(pairs: dict[bytes, bytes], track: int | None = None) -> bytes:
    """Tags of the file or of a track."""
    target = element("63c0", number("63c5", track) if track else b"")
    simple = [
        element("67c8", element("45a3", key) + element("4487", value))
        for key, value in pairs.items()
    ]
    return element("1254c367", element("7373", target + b"".join(simple)))


def pictures(count: int, content: bytes) -> bytes:
    """Attached pictures."""
    attached = [
        element("466e", b"cover%d.png" % place)
        + element("4660", b"image/png")
        + element("465c", content)
        + number("46ae", place)
        for place in range(1, count + 1)
    ]
    return element("1941a469", b"".join(element("61a7", one) for one in attached))


def matroska(
    tracks: list[bytes], rest: list[bytes], nanoseconds_per_tick: int = 1_000_000
) -> bytes:
    """A whole file: its tracks, then chapters, tags, attachments and clusters in any order."""
    head = element("1a45dfa3", element("4282", b"matroska") + number("4287", 4) + number("4285", 2))
    information = element("1549a966", number("2ad7b1", nanoseconds_per_tick))
    body = information + element("1654ae6b", b"".join(tracks)) + b"".join(rest)
    return head + element("18538067", body)
