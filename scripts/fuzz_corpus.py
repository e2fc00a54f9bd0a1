"""The corpus of `fuzz.py`: tiny good files of many kinds, and ways to break them."""

import random
import re
import struct
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av

from sepconv_video.frames import ColorSpec, Dynamic, Frame, Timeline, VideoInfo
from sepconv_video.video import Encoding, SegmentWriter, Track, container_for, join
from sepconv_video.video.formats import layout_of, planes_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import matroska
from clips import ClipSpec, make_clip, video_frame

# name, encoder, its pixel format, options of the container
_PLAIN: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("h264.mp4", "libx264", "yuv420p", {}),
    ("fragments.mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    ("pieces.mp4", "libx264", "yuv420p", {"movflags": "frag_every_frame+default_base_moof"}),
    ("front.mp4", "mpeg4", "yuv420p", {"movflags": "faststart"}),
    ("hevc10.mp4", "libx265", "yuv420p10le", {}),
    ("av1.mp4", "libsvtav1", "yuv420p", {}),
    ("vp9.mp4", "libvpx-vp9", "yuv444p", {}),
    ("prores.mov", "prores_ks", "yuv422p10le", {}),
    ("mjpeg.mov", "mjpeg", "yuvj420p", {}),
    ("png.mov", "png", "rgba", {}),
    ("animation.mov", "qtrle", "rgb24", {}),
    ("raw.mov", "rawvideo", "uyvy422", {}),
    ("cfhd.mov", "cfhd", "yuv422p10le", {}),
    ("sorenson.mov", "svq1", "yuv410p", {}),
    ("ffv1.mkv", "ffv1", "yuv422p12le", {}),
    ("vp8.mkv", "libvpx", "yuv420p", {}),
    ("mpeg2.mkv", "mpeg2video", "yuv420p", {}),
    ("raw.mkv", "rawvideo", "gray", {}),
    ("live.mkv", "libx264", "yuv444p", {"live": "1"}),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {}),
    ("av1.webm", "libsvtav1", "yuv420p10le", {}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {}),
    ("msmpeg4.avi", "msmpeg4", "yuv420p", {}),
    ("mjpeg.avi", "mjpeg", "yuvj422p", {}),
    ("huffyuv.avi", "huffyuv", "bgra", {}),
    ("cinepak.avi", "cinepak", "rgb24", {}),
    ("utvideo.avi", "utvideo", "gbrp", {}),
    ("zmbv.avi", "zmbv", "bgr0", {}),
    ("h264.ts", "libx264", "yuv420p", {}),
    ("mpeg2.ts", "mpeg2video", "yuv420p", {}),
    ("hevc.m2ts", "libx265", "yuv420p", {}),
    ("ffv1.nut", "ffv1", "yuv420p", {}),
    ("mpeg4.nut", "mpeg4", "yuv420p", {}),
    ("snow.nut", "snow", "yuv420p", {}),
    ("sorenson.flv", "flv", "yuv420p", {}),
    ("h264.flv", "libx264", "yuv420p", {}),
    ("mpeg1.mpg", "mpeg1video", "yuv420p", {}),
    ("mpeg2.vob", "mpeg2video", "yuv422p", {}),
    ("wmv2.wmv", "wmv2", "yuv420p", {}),
    ("rv20.rm", "rv20", "yuv420p", {}),
    ("mpeg2.mxf", "mpeg2video", "yuv420p", {}),
    ("vp8.ogv", "libvpx", "yuv420p", {}),
    ("vp9.ivf", "libvpx-vp9", "yuv420p", {}),
    ("av1.obu", "libsvtav1", "yuv420p", {}),
    ("raw.h264", "libx264", "yuv420p", {}),
    ("raw.hevc", "libx265", "yuv420p", {}),
    ("raw.mjpeg", "mjpeg", "yuvj420p", {}),
    ("raw.m4v", "mpeg4", "yuv420p", {}),
    ("raw.y4m", "rawvideo", "yuv420p", {}),
    ("dirac.drc", "vc2", "yuv422p10le", {}),
    ("turning.gif", "gif", "rgb8", {}),
    ("turning.apng", "apng", "rgba", {}),
    ("flash.swf", "flv", "yuv420p", {}),
    ("h263.3gp", "h263", "yuv420p", {}),
    ("recording.wtv", "mpeg2video", "yuv420p", {}),
    ("one.png", "png", "rgb24", {}),
    ("one.jpg", "mjpeg", "yuvj420p", {}),
    ("one.webp", "libwebp", "bgra", {}),
    ("one.bmp", "bmp", "bgr24", {}),
    ("one.tif", "tiff", "rgb24", {}),
)
_QUIET = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"crf": "35", "preset": "8"}}
_FORMATS = {".mpg": "mpeg", ".m4v": "m4v", ".y4m": "yuv4mpegpipe", ".ogv": "ogg", ".drc": "dirac"}
_FULL = ClipSpec(
    count=3,
    audio=True,
    subtitles=True,
    chapters=True,
    rotation=90,
    times=(0, 1700, 3000),
    time_base=Fraction(1, 30_000),
    metadata={"title": "seed"},
)
_RICH: dict[str, ClipSpec] = {
    "full.mp4": _FULL,
    "full.mov": _FULL,
    "full.mkv": ClipSpec(count=3, audio=True, subtitles=True, chapters=True, attachment=b"font"),
    "variable.mkv": ClipSpec(times=(0, 1, 90), time_base=Fraction(1, 1000), codec="ffv1"),
    "sound.ts": ClipSpec(count=3, audio=True),
    "sound.avi": ClipSpec(count=3, audio=True, codec="mpeg4", options={"qscale": "2"}),
    "sound.flv": ClipSpec(count=3, audio=True),
    "ten.mkv": ClipSpec(count=3, codec="libx265", pix_fmt="yuv422p10le"),
}
_DESCRIBED = ("described.mp4", "described.mkv", "described.ts")
PICTURES = (".png", ".jpg", ".webp", ".bmp", ".tif")

_EXTREMES = (
    0,
    1,
    7,
    8,
    15,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**60,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_BOX = re.compile(
    rb"ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|hdlr|minf|vmhd|dinf|dref|stbl|stsd|stts|ctts"
    rb"|stsc|stsz|stco|stss|avc1|avcC|hvcC|mdat|moof|mfhd|traf|tfhd|tfdt|trun|mvex|trex|udta|meta"
    rb"|chpl|tref|sgpd|sbgp|colr|pasp|smhd|mp4a|esds|tx3g|av1C|mfra|tfra"
    rb"|st3d|sv3d|svhd|proj|prhd|equi|encv|sinf"
)
_ELEMENT = re.compile(
    rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x11\x4d\x9b\x74|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\xae"
    rb"|\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b|\x10\x43\xa7\x70|\x19\x41\xa4\x69|\x12\x54\xc3\x67"
    rb"|\xe7|\x91|\x92|\xe0|\xb0|\xba|\xa3|\xa0|\x2a\xd7\xb1|\x44\x89|\x63\xa2|\x23\xe3\x83|\x86"
)
_WIDE_NUMBER = re.compile(rb"\x01\0{6}\x08")


def build_seeds(folder: Path) -> list[Path]:
    """Write every seed that this FFmpeg can write; existing ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, codec, pix_fmt, options in _PLAIN:
        if not (folder / name).exists():
            write_plain(folder / name, codec, pix_fmt, options)
    for name, spec in _RICH.items():
        if not (folder / name).exists():
            make_clip(folder / name, spec)
    for name in _DESCRIBED:
        if not (folder / name).exists():
            _write_described(folder / name)
    (folder / "wide.mkv").write_bytes(_wide_matroska())
    return sorted(folder.iterdir())


def _wide_matroska() -> bytes:
    """A file in which all numbers have room for 64 bits; FFmpeg's own are as short as can be."""
    parts = [
        matroska.chapters((0, 40_000_000), (40_000_000, 120_000_000)),
        matroska.tags({b"TITLE": b"seed"}),
        matroska.tags({b"NUMBER_OF_FRAMES": b"3", b"DURATION": b"00:00:00.12"}, 1),
        *matroska.clip_of([0, 40, 80]),
        matroska.cluster(80, matroska.block(bytes(640), track=2)),
    ]
    duration = matroska.number("23e383", 40_000_000)
    tracks = [matroska.video_track(extra=duration), matroska.sound_track(2), matroska.text_track(3)]
    return matroska.matroska(tracks, parts)


def _write_described(path: Path) -> None:
    """H.265 with captions, HDR10+, 360 degrees and 3D, which FFmpeg's encoders do not write."""
    tick = Fraction(1, 25)
    info = VideoInfo(
        path=path,
        width=64,
        height=48,
        pix_fmt="yuv420p10le",
        bits=10,
        chroma_shift=(1, 1),
        color=ColorSpec(matrix="bt709", full_range=False),
        time_base=tick,
        rate=1 / tick,
        frame_count_from_header=3,
        sample_aspect_ratio=None,
        sphere=(0, 1, 2, 3, 4, 5, 6, 7, 0),
        eyes=(1, 0),
        dolby=bytes((1, 0, 16, 45, 64)) + bytes(19),
    )
    encoding = Encoding(codec="libx265", container=container_for(path))
    track = Track(info, time_base=tick, rate=1 / tick, encoding=encoding)
    layout, piece = layout_of("yuv420p10le"), path.with_suffix(".piece")
    assert layout is not None
    with SegmentWriter(piece, track, path) as writer:
        for index in range(3):
            frame = Frame(
                index=index,
                pts=index,
                duration=1,
                planes=planes_of(video_frame(index, 64, 48, "yuv420p10le"), layout),
                captions=b"\xfc\x94\x20\xfa\0\0",
                dynamic=Dynamic(b"\xb5\0\x3c\0\1\4" + bytes(30), b"\x7c\1" + bytes(range(1, 40))),
            )
            writer.write(frame)
        segment = writer.finish()
    join([(piece, segment)], path, track, piece, path, Timeline())
    piece.unlink()


def write_plain(path: Path, codec: str, pix_fmt: str, options: dict[str, str]) -> None:
    """Three moving frames (one for a picture), nothing beside them."""
    is_picture = path.suffix in PICTURES
    size = (176, 144) if codec == "h263" else (64, 48)
    with av.open(
        str(path),
        "w",
        format="image2" if is_picture else _FORMATS.get(path.suffix),
        container_options={
            "fflags": "bitexact",
            **options,
            **({"update": "1"} if is_picture else {}),
        },
    ) as output:
        stream = output.add_stream(codec, 25, width=size[0], height=size[1])
        stream.pix_fmt = pix_fmt
        stream.bit_rate = 0 if codec == "libsvtav1" else 400_000
        stream.options = _QUIET.get(codec, {})
        for index in range(1 if is_picture else 3):
            frame = video_frame(index, *size, "yuv420p").reformat(format=pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def mutated(seeds: list[bytes], key: str) -> tuple[int, bytes]:
    """Break one seed; `key` decides which and how, so that each result can be had again.

    Returns:
        The seed's number and the broken file.
    """
    rng = random.Random(key)
    number = rng.randrange(len(seeds))
    data = bytearray(seeds[number])
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rng.choice(_MUTATIONS)(data, rng, rng.choice(seeds))
    return number, bytes(data)


def swept(seeds: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Put extreme numbers into every field of some headers, one at a time.

    Chance would rarely hit the few fields where one number of 64 bits matters.
    """
    for path in seeds:
        data = path.read_bytes()
        order = "little" if path.suffix == ".avi" else "big"
        for place, size, value in _fields(path.name, data):
            number = value.to_bytes(size, order)
            yield path.name, data[:place] + number + data[place + size :]


def _fields(name: str, data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where to put which numbers of how many bytes."""
    if name == "wide.mkv":
        for found in _WIDE_NUMBER.finditer(data):
            yield from ((found.end(), 8, value) for value in _EXTREMES)
    elif name in {"full.mp4", "pieces.mp4", "sound.avi"}:
        places = range(0, len(data) - 8, 4)
        ends = [place for place in places if place < 600 or place > len(data) - 3000]
        for place in ends:
            yield from ((place, 4, value) for value in (0, 2**31 - 1, 2**32 - 1))
            yield place, 8, 2**63 - 1


def _place(data: bytearray, rng: random.Random) -> int:
    """Prefer the ends of the file, where headers and indices are."""
    size = max(1, len(data))
    near = rng.randrange(min(2048, size))
    return rng.choice((near, near % 256 % size, size - 1 - near, rng.randrange(size)))


def _flip(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.choice((1, 2, 4, 32)) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random, other: bytes) -> None:
    start, length = _place(data, rng), rng.choice((1, 4, 16, 200))
    fill = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    data[start : start + length] = fill[: max(0, len(data) - start)]


def _truncate(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[max(1, _place(data, rng)) :]


def _delete(data: bytearray, rng: random.Random, other: bytes) -> None:
    start = _place(data, rng)
    del data[start : start + rng.choice((1, 3, 8, 100, 1000))]


def _insert(data: bytearray, rng: random.Random, other: bytes) -> None:
    start, length = _place(data, rng), rng.choice((1, 3, 8, 100, 1000))
    source = _place(data, rng)
    data[start:start] = rng.choice((rng.randbytes(length), bytes(data[source : source + length])))


def _splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    cut = _place(data, rng)
    data[cut:] = other[rng.choice((cut, rng.randrange(len(other)), 0)) :]


def _extreme(data: bytearray, rng: random.Random, other: bytes) -> None:
    _put_number(data, rng, _place(data, rng) & rng.choice((~0, ~3)))


def _put_number(data: bytearray, rng: random.Random, place: int) -> None:
    """Overwrite a field with a number that arithmetic tends to go wrong with."""
    form, top = rng.choice(((">H", 16), ("<H", 16), (">I", 32), ("<I", 32), (">Q", 64), ("<Q", 64)))
    number = rng.choice(_EXTREMES) & ((1 << top) - 1)
    packed = struct.pack(form, number)
    data[place : place + len(packed)] = packed


def _box(data: bytearray, rng: random.Random, other: bytes) -> None:
    """Give an MP4 box another size, another place, or an extreme number inside."""
    boxes = [found.start() - 4 for found in _BOX.finditer(data) if found.start() >= 4]
    if not boxes:
        return _extreme(data, rng, other)
    place, to = rng.choice(boxes), rng.choice(boxes)
    kind = rng.choice(("size", "name", "number", "number", "move"))
    if kind == "size":
        data[place : place + 4] = struct.pack(">I", rng.choice(_EXTREMES) & (2**32 - 1))
    elif kind == "name":
        data[place + 4 : place + 8] = data[to + 4 : to + 8]
    elif kind == "number":
        _put_number(data, rng, place + 8 + 4 * rng.randrange(12))
    else:
        length = min(int.from_bytes(data[place : place + 4], "big"), 4096)
        data[to:to] = data[place : place + length]
    return None


def _element(data: bytearray, rng: random.Random, other: bytes) -> None:
    """Give an EBML element another size, or an extreme number or nothing inside."""
    places = [found.end() for found in _ELEMENT.finditer(data)]
    if not places or data[:4] != b"\x1aE\xdf\xa3":
        return _extreme(data, rng, other)
    wide = [found.end() for found in _WIDE_NUMBER.finditer(data)]
    if wide and rng.random() < 0.7:
        place = rng.choice(wide)
        data[place : place + 8] = rng.choice(_EXTREMES).to_bytes(8, "big")
        return None
    place = rng.choice(places)
    kind = rng.choice(("size", "size", "number", "empty"))
    if kind == "size":
        sizes = (b"\x01" + b"\xff" * 7, b"\x01" + b"\0" * 7, b"\xff", b"\x80", b"\x40\0", b"\0")
        size = rng.choice(sizes)
        data[place : place + len(size)] = size
    elif kind == "number":
        width = 9 - data[place].bit_length() if place < len(data) else 1
        _put_number(data, rng, place + width)
    else:
        data[place : place + 1] = b"\x80"
    return None


_MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    _flip,
    _flip,
    _overwrite,
    _truncate,
    _delete,
    _insert,
    _splice,
    _extreme,
    _extreme,
    _box,
    _box,
    _element,
    _element,
)
