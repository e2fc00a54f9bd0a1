"""360 degrees, 3D and cropping: what a picture shows, and to whom."""

import json
import shutil
import struct
import subprocess

import av
import pytest
from making import ffmpeg, make

from sepconv_video.video import Reader

pytestmark = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="NO FFMPEG HERE"
)

PICTURE = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4"]
WHOLE, PART, CUBE = (0,) * 4, (1 << 28, 2 << 28, 3 << 28, 4 << 28), "cube"
ANGLES = (10 << 16, -20 << 16, 30 << 16)
BESIDE, BELOW = 2, 1  # as st3d says it: left and right, top and bottom


def box(name, content):
    return struct.pack(">I", 8 + len(content)) + name + content


def video(path, projection=None, stereo=None, boxes=b""):
    """An MP4 with the boxes of Google's Spherical Video V2, put into it by hand, its index last."""
    ffmpeg(*PICTURE, "-c:v", "libx264", path)
    boxes += b"" if stereo is None else box(b"st3d", bytes([0, 0, 0, 0, stereo]))
    if projection is not None:
        shape = box(b"cbmp", struct.pack(">3I", 0, 0, 7))
        if projection != CUBE:
            shape = box(b"equi", struct.pack(">5I", 0, *projection))
        header = box(b"prhd", struct.pack(">I3i", 0, *ANGLES))
        boxes += box(b"sv3d", box(b"svhd", b"\0\0\0\0meta\0") + box(b"proj", header + shape))
    data = bytearray(path.read_bytes())
    index = data.index(b"moov")
    entry = data.index(b"avc1", index) - 4
    end = entry + struct.unpack_from(">I", data, entry)[0]
    data[end:end] = boxes
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        place = data.index(name, index) - 4
        size = struct.unpack_from(">I", data, place)[0]
        struct.pack_into(">I", data, place, size + len(boxes))
    path.write_bytes(data)
    return path


def space_of(path):
    """As the command `ffprobe` sees it, which is of another version than PyAV's FFmpeg."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-select_streams", "v"]
    done = subprocess.run([*command, str(path)], capture_output=True, check=True)
    return [
        data
        for data in json.loads(done.stdout)["streams"][0].get("side_data_list", [])
        if data["side_data_type"] in {"Spherical Mapping", "Stereo 3D"}
    ]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("stereo", [None, BESIDE, BELOW])
@pytest.mark.parametrize("projection", [None, WHOLE, PART, CUBE])
def test_space_is_kept(tmp_path, suffix, projection, stereo):
    source, target = video(tmp_path / "a.mp4", projection, stereo), tmp_path / f"b.{suffix}"
    expected = space_of(source)
    assert len(expected) == (projection is not None) + (stereo is not None)
    notes = make(source, target).notes
    assert not any("marks of" in note for note in notes)
    assert space_of(target) == expected
    with Reader(source) as before, Reader(target) as after:
        assert (after.info.sphere, after.info.eyes) == (before.info.sphere, before.info.eyes)
        if projection is not None:
            assert after.info.sphere[1:4] == ANGLES
    again = tmp_path / f"c.{suffix}"
    make(target, again)
    assert space_of(again) == expected


@pytest.mark.parametrize("options", [{"codec": "libx265"}, {"crf": 30}, {"codec": "ffv1"}])
def test_space_is_kept_beside_what_else_is_said(tmp_path, options):
    source, target = video(tmp_path / "a.mp4", WHOLE, BELOW), tmp_path / "b.mkv"
    light = ["-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"]
    deep = tmp_path / "deep.mkv"
    ffmpeg("-i", source, "-c:v", "libx265", "-pix_fmt", "yuv420p10le", *light, deep)
    make(source, target, **options)
    assert space_of(target) == space_of(source)
    with av.open(str(target)) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height, stream.frames or 20) == (64, 48, 20)


@pytest.mark.parametrize(
    ("name", "options"),
    [("b.mov", {}), ("b.ts", {}), ("b.avi", {}), ("b.mp4", {"codec": "mpeg4"}), ("%d.png", {})],
)
def test_space_that_is_lost_is_named(tmp_path, name, options):
    source = video(tmp_path / "a.mp4", WHOLE, BESIDE)
    notes = make(source, tmp_path / name, **options).notes
    lost, remedy = "marks of 360 degrees and 3D left out", "cannot hold them, matroska can"
    assert sum(lost in note and note.endswith(remedy) for note in notes) == 1
    if "%" not in name:
        assert space_of(tmp_path / name) == []


@pytest.mark.parametrize("mode", ["left_right", "right_left", "top_bottom", "col_interleaved_lr"])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_3d_that_a_tag_tells_is_kept_or_named(tmp_path, suffix, mode):
    source, target = tmp_path / "a.mkv", tmp_path / f"b.{suffix}"
    ffmpeg(*PICTURE, "-c:v", "libx264", "-metadata:s:v", f"stereo_mode={mode}", source)
    notes = make(source, target).notes
    holds = suffix == "mkv" or mode in {"left_right", "top_bottom"}
    assert space_of(target) == (space_of(source) if holds else [])
    told = "marks of 3D left out: mp4 cannot hold them, matroska can"
    assert sum(told in note for note in notes) == (not holds)


def clean_aperture(top, bottom, left, right):
    """The box of MP4 that says what is to be shown of 64x48 pixels: sizes, and their centre."""
    sizes = (64 - left - right, 1, 48 - top - bottom, 1)
    return box(b"clap", struct.pack(">4I4i", *sizes, left - right, 2, top - bottom, 2))


@pytest.mark.parametrize("crop", [(4, 6, 2, 10), (0, 8, 0, 0), (1, 1, 3, 3), (9, 9, 16, 16)])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_cropping_is_kept(tmp_path, suffix, crop):
    source = video(tmp_path / "a.mp4", boxes=clean_aperture(*crop))
    target = tmp_path / f"b.{suffix}"
    assert not any("marks of" in note for note in make(source, target).notes)
    with Reader(source) as before, Reader(target) as after:
        assert before.info.crop == after.info.crop == crop
        assert (after.info.width, after.info.height) == (64, 48)
    if suffix != "mkv":
        assert clean_aperture(*crop)[4:24] in target.read_bytes()


@pytest.mark.parametrize("name", ["b.ts", "b.avi", "%d.png"])
def test_cropping_that_is_lost_is_named(tmp_path, name):
    source = video(tmp_path / "a.mp4", boxes=clean_aperture(4, 6, 2, 10))
    notes = make(source, tmp_path / name).notes
    assert sum("marks of cropping left out" in note for note in notes) == 1
