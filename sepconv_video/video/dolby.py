"""Dolby Vision: the record that containers hold of it.

It is in the box `dvcC` or `dvvC` of MP4 and Matroska, 24 bytes: "Dolby Vision Streams Within the
ISO Base Media File Format", 2.1.2, section 3.2.
"""

from fractions import Fraction

RECORD_BYTES = 24
_PROFILES = {5, 8}
"""Of H.265 with all in one layer."""
_LAST_OF_DVCC = 7
_BASE_AT, _NO_BASE = 4, 0
"""The last byte in use: as what other players may show the pictures, if at all."""
_HIGHEST_RATES = (
    22_118_400, 27_648_000, 49_766_400, 62_208_000, 124_416_000, 199_065_600, 248_832_000,
    398_131_200, 497_664_000, 995_328_000, 995_328_000, 1_990_656_000, 3_981_312_000,
)  # fmt: skip
"""Pixels a second of the levels, from the first on."""


def known_record(record: bytes | None, codec: str) -> bytes | None:
    """Give a record if what it describes can be kept, as all of it is in a stream of H.265."""
    if record is None or codec != "hevc":
        return None
    has_all = record[2] >> 1 in _PROFILES and record[3] & 0b111 == 0b101
    return record if has_all else None


def box_name(record: bytes) -> bytes:
    """Give the name of the box that a record is in."""
    return b"dvvC" if record[2] >> 1 > _LAST_OF_DVCC else b"dvcC"


def kind_of(record: bytes) -> bytes:
    """Give the kind of video in MP4: the one Apple's players know, but where no base is."""
    return b"dvh1" if needs_metadata(record) else b"hvc1"


def needs_metadata(record: bytes) -> bool:
    """Tell whether the pictures have other colours than usual, which the metadata explain."""
    return record[_BASE_AT] >> 4 == _NO_BASE


def at_rate(record: bytes, pixels: int, rate: Fraction) -> bytes:
    """Raise a record's level to that of frames of so many pixels, so many a second."""
    number = int.from_bytes(record[2:4], "big")
    known = (level for level, most in enumerate(_HIGHEST_RATES, 1) if pixels * rate <= most)
    level = max(number >> 3 & 0x3F, next(known, len(_HIGHEST_RATES)))
    return record[:2] + (number & ~(0x3F << 3) | level << 3).to_bytes(2, "big") + record[4:]
