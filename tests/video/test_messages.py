"""What comes with single pictures: the closed captions of television, and HDR10+."""

import json
import re
import shutil
import struct
import subprocess
import sys
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import average, ffmpeg, make

from sepconv_video.engine import Engine
from sepconv_video.frames import CAPTION, Frame
from sepconv_video.options import Job
from sepconv_video.pipeline import interpolate_file
from sepconv_video.video.dolby import at_rate
from sepconv_video.video.messages import captions_of, held_by, units_of, with_units

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="NO FFMPEG HERE"
)

FRAMES = 50
RATE = 25
SLICE = b"\0\0\1\x01"
"""Where the first slice of an MPEG-2 picture begins."""

PIPED = """
import sys
from pathlib import Path
from sepconv_video.engine import Engine
from sepconv_video.options import Job
from sepconv_video.pipeline import interpolate_stream
job = Job(source=Path("-"), target=Path(sys.argv[1]))
report = interpolate_stream(job, engine=Engine(lambda left, right: (left + right) / 2))
print(*report.notes, sep="\\n", file=sys.stderr)
"""


def odd(value):
    """Set the highest of 8 bits so that an odd number of them is set."""
    return value | 0x80 * (value.bit_count() % 2 == 0)


def letters(text):
    """The pairs of CEA-608 that load a line of text and then show it."""
    control = [(0x14, 0x20), (0x14, 0x2E), (0x14, 0x70)]
    codes = text.encode().ljust(len(text) + len(text) % 2, b" ")
    return [*control, *zip(codes[::2], codes[1::2], strict=True), (0x14, 0x2F)]


def captions(place):
    """What comes with a picture: a pair of the first field, one of the second, two of CEA-708."""
    spoken = {10: letters("HELLO THERE"), 30: letters("GOOD BYE")}
    pair = next(
        (
            pairs[place - start]
            for start, pairs in spoken.items()
            if 0 <= place - start < len(pairs)
        ),
        (0, 0),
    )
    return bytes([0xFC, *map(odd, pair), 0xFD, 0x80, 0x80, 0xFE, place, 0, 0xFA, 0, 0])


def television(path, first=0, b_frames=2):
    """MPEG-2 with captions behind the headers of its pictures, from the n-th on, all its life."""
    clip = ["-f", "lavfi", "-i", f"testsrc2=s=96x64:r={RATE}:d={FRAMES / RATE}"]
    ffmpeg(*clip, "-c:v", "mpeg2video", "-bf", b_frames, path)
    parts = path.read_bytes().split(SLICE)
    assert len(parts) == FRAMES + 1
    # in the order of decoding: each picture's header has its place in its group
    begun, shown, content = 0, -1, b""
    for part in parts[:-1]:
        if b"\0\0\1\xb8" in part:
            begun = shown + 1
        header = part.index(b"\0\0\1\0") + 4
        place = begun + (part[header] << 2 | part[header + 1] >> 6)
        shown = max(shown, place)
        data = captions(place)
        word = b"\0\0\1\xb2GA94\x03" + bytes([0x40 | len(data) // 3, 0xFF]) + data + b"\xff"
        content += part + (word if place >= first else b"") + SLICE
    path.write_bytes(content + parts[-1])
    return path


def found_in(path):
    """Captions of each picture, in the order in which they are shown."""
    with av.open(str(path)) as container:
        return [captions_of(picture) for picture in container.decode(video=0)]


def spoken_in(path):
    """The text that FFmpeg reads from the captions, with its times."""
    source = ["-f", "lavfi", "-i", f"movie={path}[out0+subcc]"]
    return ffmpeg(*source, "-map", "s", "-f", "srt", "-").decode()


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
def test_captions_go_on_in_new_frames(tmp_path, suffix, codec):
    source, target = television(tmp_path / "a.m2v"), tmp_path / f"b.{suffix}"
    before = found_in(source)
    assert before == [captions(place) for place in range(FRAMES)]
    assert make(source, target, codec=codec).notes == []
    after = found_in(target)
    assert len(after) == 2 * FRAMES
    # half of a picture's come with the new one behind it
    assert after == [part for data in before for part in (data[:6], data[6:])]
    assert spoken_in(target).split("\n")[2::4] == spoken_in(source).split("\n")[2::4]
    assert "HELLO THERE" in spoken_in(target)
    assert "GOOD BYE" in spoken_in(target)


@pytest.mark.parametrize(("codec", "kinds"), [("libx264", "6"), ("libx265", "39")])
def test_pictures_are_the_same_with_captions(tmp_path, codec, kinds):
    """Compared with what is left without any messages: x264 itself is not always the same."""
    captioned, bare = tmp_path / "a.mp4", tmp_path / "b.mp4"
    make(television(tmp_path / "a.m2v"), captioned, codec=codec)
    ffmpeg("-i", captioned, "-c", "copy", "-bsf:v", f"filter_units=remove_types={kinds}", bare)
    assert found_in(bare) == [b""] * 2 * FRAMES
    digests = [ffmpeg("-i", path, "-f", "framemd5", "-") for path in (captioned, bare)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("fps", [10, 40])
def test_captions_of_frames_that_are_not_shown_come_with_the_next(tmp_path, fps):
    source, target = television(tmp_path / "a.m2v"), tmp_path / "b.mkv"
    make(source, target, fps=fps)
    before, after = found_in(source), found_in(target)
    assert len(after) == FRAMES * fps // RATE
    # what comes after the last frame that is shown is not shown either
    all_before, all_after = b"".join(before), b"".join(after)
    assert all_before.startswith(all_after)
    assert len(all_before) - len(all_after) < RATE / fps * len(before[0])


def test_captions_go_on_from_segment_to_segment_after_a_kill(tmp_path):
    source, target = television(tmp_path / "a.m2v"), tmp_path / "b.mp4"
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 20

    with pytest.raises(Exception, match="are kept"):
        interpolate_file(
            Job(source=source, target=target), engine=Engine(average), should_stop=stop
        )
    assert make(source, target).kept_frames == 40
    assert b"".join(found_in(target)) == b"".join(found_in(source))


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", "mkv"), ("libvpx-vp9", "webm")])
@pytest.mark.parametrize(("first", "told"), [(0, 1), (20, 1), (FRAMES, 0)])
def test_captions_that_are_lost_are_named(tmp_path, codec, suffix, first, told):
    source = television(tmp_path / "a.m2v", first)
    notes = make(source, tmp_path / f"b.{suffix}", codec=codec).notes
    assert sum("closed captions left out" in note for note in notes) == told


@given(st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=1, max_size=300))
def test_no_caption_looks_like_the_beginning_of_a_unit(values):
    data = bytes(values).ljust(-(-len(values) // CAPTION) * CAPTION, b"\0")
    for codec, picture in (("libx264", b"\0\0\0\1\x65abc"), ("libx265", b"\0\0\1\x26\1abc")):
        before = b"\0\0\0\1\x67\1\2\3" if codec == "libx264" else b"\0\0\0\1\x42\1\2\3"
        frame = Frame(index=0, pts=0, duration=1, planes=(), captions=data)
        units = units_of(frame, held_by(codec, "mp4"), codec)
        packet = with_units(before + picture, units, codec)
        assert packet.startswith(before)
        assert packet.endswith(picture)
        unit = packet[len(before) : -len(picture)]
        assert unit.startswith(b"\0\0\0\1")
        content = unit[4:]
        assert not any(b"\0\0" + bytes([last]) in content for last in range(3))
        plain = content.replace(b"\0\0\3", b"\0\0")
        assert plain.count(b"GA94") == -(-len(data) // CAPTION // 31)


@pytest.mark.parametrize(("target", "told"), [("-", 1), ("b.mp4", 0)])
def test_captions_through_a_pipe(tmp_path, target, told):
    """Into one they are lost; out of one they come with the pictures."""
    source = television(tmp_path / "a.m2v")
    transported = tmp_path / "a.ts"
    make(source, transported)
    command = [sys.executable, "-c", PIPED, target]
    with transported.open("rb") as stdin:
        done = subprocess.run(command, stdin=stdin, cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr.decode().count("closed captions left out") == told
    if not told:
        assert b"".join(found_in(tmp_path / target)) == b"".join(found_in(source))


def bits(*fields):
    """Write numbers one after the other, each with so many bits, to whole bytes."""
    text = "".join(f"{value:0{width}b}" for value, width in fields)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def hdr10_plus(luminance):
    """SMPTE ST 2094-40: one window of a picture that bright, and no curve."""
    head = b"\xb5\x00\x3c\x00\x01\x04"
    window = [(luminance, 17)] * 3 + [(luminance, 17), (0, 4), (0, 10)]
    return head + bits((1, 8), (1, 2), (400, 27), (0, 1), *window, (0, 1), (0, 1), (0, 1))


def bright(path, suffix=".mkv", b_frames=2, fill=None):
    """H.265 with units put into each packet by hand: by default HDR10+, before the picture."""
    bare, filled, whole = (path.with_name(f"{name}.mkv") for name in ("bare", "filled", path.name))
    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    parameters = f"log-level=none:keyint=10:bframes={b_frames}:{tags}"
    clip = ["-f", "lavfi", "-i", f"testsrc2=s=96x64:r={RATE}:d=1", "-pix_fmt", "yuv420p10le"]
    ffmpeg(*clip, "-c:v", "libx265", "-x265-params", parameters, bare)
    with av.open(str(bare)) as source, av.open(str(filled), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for count, packet in enumerate(source.demux(video=0)):
            if not packet.size:
                continue
            made = av.Packet((fill or with_hdr10_plus)(bytes(packet), count))
            made.stream, made.time_base = stream, packet.time_base
            made.pts, made.dts, made.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
            target.mux(made)
    whole = whole.with_suffix(suffix)
    ffmpeg("-i", filled, "-c", "copy", whole)
    return whole


def with_hdr10_plus(packet, count):
    message = hdr10_plus(0x300 + count)  # with zeros that must not look like start codes
    data = bytes([4, len(message)]) + message + b"\x80"
    unit = b"\x4e\1" + re.sub(b"\0\0(?=[\0-\3])", b"\0\0\3", data)
    return len(unit).to_bytes(4, "big") + unit + packet


def luminances(path):
    """How bright each picture is by HDR10+, in the order shown, as `ffprobe` reads it."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_frames", "-select_streams", "v"]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True)
    return [
        data["average_maxrgb"]
        for frame in json.loads(done.stdout)["frames"]
        for data in frame.get("side_data_list", [])
        if "2094-40" in data["side_data_type"]
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_hdr10_plus_holds_for_new_frames_too(tmp_path, suffix):
    source, target = bright(tmp_path / "a", suffix), tmp_path / f"b{suffix}"
    before = luminances(source)
    assert len(set(before)) == RATE
    assert before != sorted(before)  # B-frames are not decoded in the order shown
    assert not any("HDR10+" in note for note in make(source, target).notes)
    # that of the frame on the left; half way is no nearer to the other one
    assert luminances(target) == [luminance for luminance in before for _ in range(2)]


def test_hdr10_plus_of_a_stretch(tmp_path):
    source, target = bright(tmp_path / "a", b_frames=0), tmp_path / "b.mkv"
    make(source, target, factor=4, start_s="0.4", end_s="0.8")
    expected = luminances(source)[10:20]
    found = luminances(target)
    assert len(found) == 40
    assert found[::4] == expected
    assert found[3:-4:4] == expected[1:]  # three quarters on the other one is nearer


@pytest.mark.parametrize("options", [{"codec": "ffv1"}, {"codec": "libx264"}])
def test_hdr10_plus_that_is_lost_is_named(tmp_path, options):
    source = bright(tmp_path / "a", b_frames=0)
    notes = make(source, tmp_path / "b.mkv", **options).notes
    lost = f"HDR10+ metadata left out: {options['codec']} in matroska cannot hold them, libx265 can"
    assert sum(lost in note for note in notes) == 1


def with_dolby_vision(packet, count):
    unit = b"\x7c\1" + f"RPU{count:02d}".encode() + b"\x80"
    return packet + len(unit).to_bytes(4, "big") + unit


def dolby_vision(path, profile, level, b_frames=2):
    """Units that FFmpeg takes for Dolby Vision's, and the box that names the profile, by hand."""
    whole = bright(path, ".mp4", b_frames, with_dolby_vision)
    base = 0 if profile == 5 else 4
    record = bytes([1, 0, profile << 1, level << 3 | 0b101, base << 4]) + bytes(19)
    box = struct.pack(">I", 32) + (b"dvvC" if profile == 8 else b"dvcC") + record
    data = bytearray(whole.read_bytes())
    index = data.index(b"moov")
    names = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"hev1")
    places = [data.index(name, index) - 4 for name in names]
    sizes = [struct.unpack_from(">I", data, place)[0] for place in places]
    end = places[-1] + sizes[-1]
    data[end:end] = box
    for place, size in zip(places, sizes, strict=True):
        struct.pack_into(">I", data, place, size + len(box))
    whole.write_bytes(data)
    return whole


def units_in(path):
    """What was written into the packets by hand, in the order shown."""
    with av.open(str(path)) as file:
        packets = {packet.pts: bytes(packet) for packet in file.demux(video=0) if packet.size}
    return [re.findall(rb"\x7c\x01(RPU\d\d)", packets[pts]) for pts in sorted(packets)]


def record_of(path):
    command = ["ffprobe", "-v", "quiet", "-of", "json", "-show_streams", "-select_streams", "v"]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True)
    (stream,) = json.loads(done.stdout)["streams"]
    records = [data for data in stream.get("side_data_list", []) if "dv_profile" in data]
    found = [(data["dv_profile"], data["dv_level"]) for data in records]
    return found, stream["codec_tag_string"]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("profile", "tag"), [(5, "dvh1"), (8, "hvc1")])
def test_dolby_vision_holds_for_new_frames_too(tmp_path, suffix, profile, tag):
    source, target = dolby_vision(tmp_path / "a", profile, level=1), tmp_path / f"b.{suffix}"
    before = units_in(source)
    assert len({tuple(units) for units in before}) == RATE
    notes = make(source, target).notes
    assert not any("Dolby" in note for note in notes)
    assert units_in(target) == [units for units in before for _ in range(2)]
    records, written = record_of(target)
    assert records == [(profile, 1)]
    assert written == (tag if suffix != "mkv" else "[0][0][0][0]")
    with av.open(str(target)) as file:
        assert len(list(file.decode(video=0))) == 2 * RATE


def test_the_level_is_that_of_the_rate():
    record = bytes([1, 0, 16, 4 << 3 | 0b101, 64]) + bytes(19)
    levels = {fps: at_rate(record, 1920 * 1080, Fraction(fps))[3] >> 3 for fps in (24, 30, 60, 120)}
    assert levels == {24: 4, 30: 4, 60: 5, 120: 7}
    assert at_rate(record, 7680 * 4320, Fraction(240))[3] >> 3 == 13
    assert at_rate(record, 1920 * 1080, Fraction(60))[:3] == record[:3]


@pytest.mark.parametrize(
    ("profile", "name", "options"),
    [
        (5, "b.ts", {}),
        (8, "b.mp4", {"codec": "libx264"}),
        (8, "b.mkv", {"pix_fmt": "yuv420p12le"}),
        (7, "b.mkv", {}),
        (9, "b.mkv", {}),
    ],
)
def test_dolby_vision_that_is_lost_is_named(tmp_path, profile, name, options):
    """Profile 7 has a second layer, which is left out; others are not known."""
    source, target = dolby_vision(tmp_path / "a", profile, 1, b_frames=0), tmp_path / name
    notes = [note for note in make(source, target, **options).notes if "Dolby" in note]
    assert len(notes) == 1
    assert "Dolby Vision metadata left out" in notes[0]
    assert ("colours may be wrong" in notes[0]) == (profile == 5)
    assert not any(units_in(target))
    assert record_of(target)[0] == []
