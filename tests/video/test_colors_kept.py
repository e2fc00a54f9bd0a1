"""Colour from file to file: samples, tags, light levels; judged by the FFmpeg programs."""

import json
import re
import subprocess
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.bitstream import BitStreamFilterContext
from av.sidedata.sidedata import Type
from clips import ClipSpec, make_clip, video_frame

from sepconv_video.engine import Engine
from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import NO_DYNAMIC, LightLevels, Reading, Relation
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.schedule import by_factor, intervals
from sepconv_video.video import Reader, hdr
from sepconv_video.video.hdr import metadata_notes
from sepconv_video.video.headers import facts_of

HDR = {"colorspace": 9, "color_range": 1, "primaries": 9, "transfer": 16}
MASTERING = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,50)"
LIGHT = LightLevels(
    primaries=tuple(
        Fraction(n, 50_000) for n in (35400, 14600, 8500, 39850, 6550, 2300, 15635, 16450)
    ),
    luminance=(Fraction(50, 10_000), Fraction(1000)),
    content=(1000, 400),
)


def average(left, right):
    return (left + right) / 2


def convert(source, target, **chosen):
    """Twice the frames, the new ones averages."""
    options = Options(factor=2, cuts="off", **chosen)
    return interpolate_file(Job(source=source, target=target), options, engine=Engine(average))


def decoded(path, pix_fmt, *filters):
    """All frames, 64x48, as the ffmpeg program decodes them, bytes of each."""
    command = ["ffmpeg", "-v", "error", "-i", path, *filters, "-f", "rawvideo"]
    command += ["-pix_fmt", pix_fmt, "-vsync", "passthrough", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    described = av.VideoFormat(pix_fmt, 64, 48)
    size = sum(p.width * p.height * (2 if p.bits > 8 else 1) for p in described.components)
    assert len(raw) % size == 0
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def probe(path):
    """What ffprobe says of the video stream and its first frame."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_streams"]
    command += ["-show_frames", "-read_intervals", "%+#1", "-of", "json", path]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    # older ffprobes give packets and frames under names that depend on the options
    return {"streams": found["streams"], "frame": found["frames"][0]}


def tags(path):
    stream = probe(path)["streams"][0]
    names = ("color_space", "color_range", "color_primaries", "color_transfer")
    return {name: stream.get(name) for name in names}


def levels(found):
    """Mastering display and light levels among some side data, as numbers."""
    numbers = {}
    for data in found.get("side_data_list", []):
        if data["side_data_type"].startswith(("Mastering", "Content light")):
            numbers |= {k: Fraction(v) for k, v in data.items() if k != "side_data_type"}
    return numbers


def generate(path, *options):
    """A clip by the ffmpeg program."""
    pattern = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2"]
    subprocess.run(["ffmpeg", "-v", "error", *pattern, *options, path], check=True)


def make_rgb(path, codec, pix_fmt, count=3):
    """A clip whose codes fill the range of an RGB format."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, 25, width=64, height=48)
        stream.pix_fmt = pix_fmt
        for index in range(count):
            if pix_fmt.startswith("gbrp"):
                frame = video_frame(index, 64, 48, pix_fmt)
            else:
                frame = av.VideoFrame(64, 48, pix_fmt)
                size = frame.planes[0].buffer_size
                frame.planes[0].update(np.random.default_rng(index).bytes(size))
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def assert_sources_kept(source, target, pix_fmt):
    before, after = decoded(source, pix_fmt), decoded(target, pix_fmt)
    assert len(after) == 2 * len(before)
    assert after[::2] == before


RGB = [
    ("rawvideo", "bgr24", "gbrp"),
    ("png", "rgb24", "gbrp"),
    ("ffv1", "bgr0", "gbrp"),
    ("png", "rgb48be", "gbrp16le"),
    ("ffv1", "gbrp10le", "gbrp10le"),
    ("ffv1", "gbrp12le", "gbrp12le"),
    ("ffv1", "gbrp16le", "gbrp16le"),
]


@pytest.mark.parametrize(("codec", "pix_fmt", "planes"), RGB)
def test_rgb_stays_rgb_bit_by_bit(tmp_path, codec, pix_fmt, planes):
    source = make_rgb(tmp_path / "a.nut", codec, pix_fmt)
    report = convert(source, tmp_path / "b.mkv", codec="ffv1")
    assert report.notes == []
    assert_sources_kept(source, tmp_path / "b.mkv", planes)
    with Reader(tmp_path / "b.mkv") as reader:
        assert (reader.info.pix_fmt, reader.info.color.matrix) == (planes, "rgb")


def test_deep_rgb_stays_rgb_by_default(tmp_path):
    source = make_rgb(tmp_path / "a.mkv", "ffv1", "gbrp10le")
    assert convert(source, tmp_path / "b.mp4").notes == []
    stream = probe(tmp_path / "b.mp4")["streams"][0]
    assert (stream["codec_name"], stream["pix_fmt"]) == ("hevc", "gbrp10le")
    assert stream["color_space"] == "gbr"


def test_rgb_becomes_bt709_where_the_codec_has_none(tmp_path):
    source = make_rgb(tmp_path / "a.mkv", "ffv1", "gbrp10le")
    source8 = make_rgb(tmp_path / "a8.mkv", "ffv1", "bgr0")
    with pytest.raises(VideoError, match="without loss"):
        convert(source, tmp_path / "c.mp4", codec="libsvtav1")
    report = convert(source8, tmp_path / "b.mp4", crf=0)
    assert "RGB converted to yuv444p" in report.notes[0]
    found = tags(tmp_path / "b.mp4")
    assert (found["color_space"], found["color_range"]) == ("bt709", "tv")
    accurate = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd"
    expected = decoded(source8, "yuv444p", "-vf", accurate + "+full_chroma_int+full_chroma_inp")
    for one, other in zip(decoded(tmp_path / "b.mp4", "yuv444p")[::2], expected, strict=True):
        codes = [np.frombuffer(raw, np.uint8).astype(int) for raw in (one, other)]
        assert abs(codes[0] - codes[1]).max() <= 1


@pytest.mark.parametrize(
    ("bits", "depth", "chosen"),
    [
        (10, 10, {"codec": "libx264", "crf": 0}),
        (12, 12, {"codec": "ffv1", "pix_fmt": "yuv444p12le"}),
        (16, 12, {"codec": "libx265", "crf": 0}),
    ],
)
def test_deep_rgb_becomes_deep_bt709(tmp_path, bits, depth, chosen):
    """Against H.273's equations; swscale alone would make white 0.4 % too bright."""
    source = make_rgb(tmp_path / "a.mkv", "ffv1", f"gbrp{bits}le")
    target = tmp_path / "b.mkv"
    report = convert(source, target, **chosen)
    assert [note for note in report.notes if f"to yuv444p{depth}le" in note]
    with Reader(source) as reader, Reader(target) as written:
        rgb, color = next(reader.frames()).planes, written.info.color
        ours = next(written.frames()).planes
    assert (color.matrix, color.full_range, color.range_tag) == ("bt709", False, 1)
    green, blue, red = (plane / (2**bits - 1) for plane in rgb)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    scale = 2 ** (depth - 8)
    chroma = [
        128 * scale + 224 * scale * (a - luma) / b for a, b in ((blue, 1.8556), (red, 1.5748))
    ]
    error = [o - e for o, e in zip(ours, (16 * scale + 219 * scale * luma, *chroma), strict=True)]
    assert np.abs(np.mean(error, axis=(1, 2))).max() < 0.3
    assert np.abs(error).max() < (1 if chosen["codec"] == "ffv1" else 20)  # coding noise


def test_palettes_are_expanded_and_alpha_is_named(tmp_path):
    source, target = tmp_path / "a.gif", tmp_path / "b.mkv"
    generate(source)
    report = convert(source, target, codec="ffv1")
    assert [note for note in report.notes if "alpha channel dropped" in note]
    assert_sources_kept(source, target, "gbrp")


@pytest.mark.parametrize("location", [1, 2, 3, 4])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_chroma_siting_is_read_and_kept(tmp_path, codec, location):
    names = {1: "left", 2: "center", 3: "topleft", 4: "top"}
    options = {"chroma_sample_location": str(location), "preset": "ultrafast"}
    source = make_clip(tmp_path / "a.mp4", ClipSpec(codec=codec, options=options, count=3))
    with Reader(source) as reader:
        color = reader.info.color
    assert (color.siting, color.siting_tag) == (names[location], location)
    convert(source, tmp_path / "b.mkv", codec=codec, preset="ultrafast")
    found = probe(tmp_path / "b.mkv")
    assert found["streams"][0]["chroma_location"] == names[location]
    assert found["frame"]["chroma_location"] == names[location]


SITINGS = {
    "a.avi": ("mjpeg", "yuvj420p", 2),
    "a.mpg": ("mpeg1video", "yuv420p", 2),
    "b.mpg": ("mpeg2video", "yuv420p", 1),
    "c.ts": ("libx264", "yuv420p", 1),
    "a.y4m": ("wrapped_avframe", "yuv420p", 2),
    "a.mkv": ("ffv1", "yuv420p", 0),
}


@pytest.mark.parametrize("name", SITINGS)
def test_chroma_siting_follows_the_codec(tmp_path, name):
    codec, pix_fmt, expected = SITINGS[name]
    generate(tmp_path / name, "-pix_fmt", pix_fmt, "-c:v", codec)
    with av.open(str(tmp_path / name)) as source:
        assert facts_of(source.streams.video[0]).chroma_location == expected


def test_chroma_of_dv_lies_where_its_decoder_says(tmp_path):
    """No file says so, and FFmpeg not before it decodes."""
    source, target = tmp_path / "a.avi", tmp_path / "b.mp4"
    generate(source, "-s", "720x576", "-r", "25", "-pix_fmt", "yuv420p", "-c:v", "dvvideo")
    with Reader(source, Reading(deinterlace=True)) as reader:
        assert (reader.info.color.siting, reader.info.color.siting_tag) == ("topleft", 3)
    convert(source, target, deinterlace=True)
    assert probe(target)["streams"][0]["chroma_location"] == "topleft"


def make_hdr(path, codec="libx265", **changes):
    params = f"log-level=none:lossless=1:master-display={MASTERING}:max-cll=1000,400:hdr10=1"
    options = {"x265-params": params, "preset": "ultrafast"} if codec == "libx265" else {}
    spec = ClipSpec(codec=codec, pix_fmt="yuv420p10le", options=options, count=4, **HDR)
    return make_clip(path, replace(spec, **changes))


HDR_TARGETS = {
    "default.mp4": (None, "hevc"),
    "default.mkv": (None, "hevc"),
    "default.ts": (None, "hevc"),
    "avc.mp4": ("libx264", "h264"),
    "av1.mp4": ("libsvtav1", "av1"),
    "av1.webm": ("libsvtav1", "av1"),
    "ffv1.mkv": ("ffv1", "ffv1"),
    "prores.mov": ("prores_ks", "prores"),
}


@pytest.mark.parametrize("name", HDR_TARGETS)
def test_hdr10_is_kept(tmp_path, name):
    codec, found_codec = HDR_TARGETS[name]
    source = make_hdr(tmp_path / "a.mkv")
    report = convert(source, tmp_path / name, codec=codec)
    assert not [note for note in report.notes if "left out" in note]
    assert tags(tmp_path / name) == {
        "color_space": "bt2020nc",
        "color_range": "tv",
        "color_primaries": "bt2020",
        "color_transfer": "smpte2084",
    }
    found = probe(tmp_path / name)
    stream = found["streams"][0]
    assert (stream["codec_name"], stream["pix_fmt"][-4:]) == (found_codec, "10le")
    with Reader(source) as reader, Reader(tmp_path / name) as written:
        assert reader.info.light == LIGHT
        light = written.info.light
    assert light.content == LIGHT.content
    exact = np.array([float(x) for x in (*LIGHT.primaries, *LIGHT.luminance)])
    rough = np.array([float(x) for x in (*light.primaries, *light.luminance)])
    np.testing.assert_allclose(rough, exact, atol=1e-4, rtol=1e-4)
    if name != "default.ts":  # which has no place but the bitstream
        assert levels(stream) == levels(probe(make_hdr(tmp_path / "c.mkv"))["frame"]), stream
    if codec in (None, "libx264"):
        with av.open(str(tmp_path / name)) as opened:
            payload = b"".join(bytes(p) for p in opened.demux(video=0))
        assert struct_of_mastering() in payload


def struct_of_mastering():
    """The SEI message's numbers (H.265 D.2.28): green, blue, red, white, most, least."""
    small = (8500, 39850, 6550, 2300, 35400, 14600, 15635, 16450)
    return b"".join(n.to_bytes(2, "big") for n in small) + (10_000_000).to_bytes(4, "big")


def test_8_bit_hdr_is_not_made_to_look_like_h264(tmp_path):
    source = make_hdr(tmp_path / "a.mkv", codec="ffv1", pix_fmt="yuv420p", transfer=18)
    convert(source, tmp_path / "b.mp4")
    stream = probe(tmp_path / "b.mp4")["streams"][0]
    assert (stream["codec_name"], stream["pix_fmt"]) == ("hevc", "yuv420p")
    assert stream["color_transfer"] == "arib-std-b67"


def test_metadata_of_single_frames_are_named_and_left_out(tmp_path):
    source = tmp_path / "a.hevc"
    make_hdr(tmp_path / "a.mkv")
    with av.open(str(tmp_path / "a.mkv")) as opened:
        annexb = BitStreamFilterContext("hevc_mp4toannexb", opened.streams.video[0])
        packets = [one for p in opened.demux(video=0) if p.size for one in annexb.filter(p)]
    source.write_bytes(b"".join(with_hdr10plus(bytes(packet)) for packet in packets))
    assert "HDR10+" in str(probe(source)["frame"]) or "2094-40" in str(probe(source)["frame"])
    report = convert(source, tmp_path / "b.mp4")
    assert [note for note in report.notes if note.startswith("HDR10+ metadata left out")]
    assert "2094-40" not in str(probe(tmp_path / "b.mp4"))
    with Reader(tmp_path / "b.mp4") as reader:
        assert reader.info.light == LIGHT  # the static ones stay


def with_hdr10plus(unit):
    """Put an SEI message of SMPTE ST 2094-40 (application 4) before a picture's slices."""
    fields = [(1, 2), (1000, 27), (0, 1), *[(5000, 17)] * 4, (0, 4), (100, 10), (0, 1), (0, 2)]
    bits = "".join(f"{value:0{length}b}" for value, length in fields)
    bits += "0" * (-len(bits) % 8)
    body = bytes.fromhex("b5003c00010401") + int(bits, 2).to_bytes(len(bits) // 8, "big")
    nal = bytes([0x4E, 0x01, 4, len(body)]) + body + b"\x80"
    nal = re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\0\0\3", nal)
    starts = [match.start() for match in re.finditer(rb"\x00\x00\x01", unit)]
    slice_at = next(at for at in starts if unit[at + 3] >> 1 < 32)  # types below 32 are pictures
    return unit[:slice_at] + b"\0\0\1" + nal + unit[slice_at:]


class SideData:
    """One of a frame's, as PyAV gives it."""

    def __init__(self, kind):
        self.type = Type[kind]

    def __bytes__(self):
        return b"?"


@pytest.fixture
def of_a_double(monkeypatch):
    """Side data is read from a stand-in for a frame, which PyAV would not take."""
    monkeypatch.setattr(hdr, "SideDataContainer", lambda frame: frame.side_data)


def test_dolby_vision_is_named(of_a_double):
    """On what a decoder gives: no encoder here makes Dolby Vision."""
    kinds = [SideData("DOVI_RPU_BUFFER"), SideData("DOVI_METADATA")]
    (note,) = metadata_notes(
        SimpleNamespace(side_data=kinds, color_trc=16),
        NO_DYNAMIC,
        is_dolby=False,
        needs_dolby=False,
    )
    assert note.startswith("Dolby Vision metadata left out")
    (other,) = metadata_notes(
        SimpleNamespace(side_data=kinds), NO_DYNAMIC, is_dolby=True, needs_dolby=True
    )
    assert "colours may be wrong" in other  # profile 5 has no meaning without them


def test_dolby_vision_is_known_by_its_code_in_mp4(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(codec="libx265", pix_fmt="yuv420p10le"))
    content = source.read_bytes()
    for code in (b"hev1", b"hvc1"):
        content = content.replace(code, b"dvh1")
    source.write_bytes(content)
    report = convert(source, tmp_path / "b.mp4")
    assert [note for note in report.notes if note.startswith("Dolby Vision metadata left out")]
    assert b"dvh1" not in (tmp_path / "b.mp4").read_bytes()


class Unnamed:
    """Side data of which PyAV says `ValueError` when they are looked at."""

    def __iter__(self):
        raise ValueError("37 is not a valid Type")


def test_metadata_that_cannot_be_read_are_named(of_a_double):
    (note,) = metadata_notes(
        SimpleNamespace(side_data=Unnamed(), color_trc=16),
        NO_DYNAMIC,
        is_dolby=False,
        needs_dolby=False,
    )
    assert "HDR light levels, if any, left out" in note


@pytest.mark.parametrize(
    ("tag", "name"), [(8, "YCgCo"), (10, "BT.2020 with constant luminance"), (14, "ICtCp")]
)
def test_other_matrices_are_named_and_their_tag_kept(tmp_path, tag, name):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(count=3, colorspace=tag, codec="ffv1"))
    report = convert(source, tmp_path / "b.mkv", codec="ffv1")
    assert [note for note in report.notes if f"as if the {name} colours were" in note]
    assert tags(tmp_path / "b.mkv") == tags(source)
    assert_sources_kept(source, tmp_path / "b.mkv", "yuv420p")


@pytest.mark.parametrize(("tag", "matrix"), [(4, "fcc"), (7, "smpte240m"), (9, "bt2020")])
def test_matrices_are_known_by_their_tags(tmp_path, tag, matrix):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(count=3, colorspace=tag, codec="ffv1"))
    report = convert(source, tmp_path / "b.mp4")
    assert report.notes == []
    for path in (source, tmp_path / "b.mp4"):
        with Reader(path) as reader:
            assert (reader.info.color.matrix, reader.info.color.colorspace_tag) == (matrix, tag)


def test_light_levels_that_find_no_place_are_named(tmp_path):
    source = make_hdr(tmp_path / "a.mkv")
    report = convert(source, tmp_path / "b.nut", codec="ffv1")
    assert [n for n in report.notes if "mastering display and light levels left out" in n]


DEFAULTS = {
    "yuv411p": ("h264", "yuv422p"),
    "yuv440p": ("h264", "yuv444p"),
    "yuv420p": ("h264", "yuv420p"),
    "yuv422p": ("h264", "yuv422p"),
    "yuv444p": ("h264", "yuv444p"),
    "yuv420p10le": ("hevc", "yuv420p10le"),
    "yuv422p10le": ("hevc", "yuv422p10le"),
    "yuv444p12le": ("hevc", "yuv444p12le"),
    "gray10le": ("hevc", "gray10le"),
}


@pytest.mark.parametrize("pix_fmt", DEFAULTS)
def test_defaults_keep_depth_and_subsampling(tmp_path, pix_fmt):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(codec="ffv1", pix_fmt=pix_fmt, count=3))
    convert(source, tmp_path / "b.mp4", preset="ultrafast")
    stream = probe(tmp_path / "b.mp4")["streams"][0]
    assert (stream["codec_name"], stream["pix_fmt"]) == DEFAULTS[pix_fmt]


CODECS = {
    "libx264": ("a.mp4", {"preset": "veryfast", "crf": 20}, "h264", "yuv420p"),
    "libx265": ("a.mp4", {"preset": "veryfast", "crf": 20}, "hevc", "yuv420p"),
    "libsvtav1": ("a.mp4", {"preset": "10", "crf": 30}, "av1", "yuv420p"),
    "libvpx-vp9": ("a.webm", {"crf": 30}, "vp9", "yuv420p"),
    "ffv1": ("a.mkv", {}, "ffv1", "yuv420p"),
    "prores_ks": ("a.mov", {}, "prores", "yuv422p10le"),
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_from_end_to_end(tmp_path, codec):
    name, chosen, found_codec, pix_fmt = CODECS[codec]
    source = make_clip(tmp_path / "source.mkv", ClipSpec(count=4, colorspace=1, color_range=1))
    convert(source, tmp_path / name, codec=codec, **chosen)
    stream = probe(tmp_path / name)["streams"][0]
    assert (stream["codec_name"], stream["pix_fmt"]) == (found_codec, pix_fmt)
    assert stream["color_space"] == "bt709"
    pictures = decoded(tmp_path / name, "yuv420p")
    sources = decoded(source, "yuv420p")
    assert len(pictures) == 8
    for one, other in zip(pictures[::2], sources, strict=True):
        error = np.frombuffer(one, np.uint8).astype(int) - np.frombuffer(other, np.uint8)
        assert (error**2).mean() < 30


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"codec": "libx264", "preset": "sideways"}, "`libx264` has no preset `sideways`"),
        ({"codec": "libx265", "preset": "sideways"}, "`libx265` has no preset `sideways`"),
        ({"codec": "libsvtav1", "preset": "slow"}, "`libsvtav1` has no preset `slow`"),
        ({"codec": "ffv1", "preset": "slow"}, "`ffv1` has no presets"),
        ({"codec": "hevc_nvenc", "preset": "veryslow"}, "`hevc_nvenc` has no preset `veryslow`"),
        ({"pix_fmt": "yuv999p"}, "there is no pixel format `yuv999p`"),
        ({"codec": "libsvtav1", "pix_fmt": "yuv444p"}, "`libsvtav1` cannot encode 64x48 yuv444p"),
    ],
)
def test_presets_and_formats_that_do_not_exist(tmp_path, capfd, chosen, message):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(count=3))
    with pytest.raises(OptionsError) as caught:
        convert(source, tmp_path / "b.mkv", **chosen)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")  # some encoders write to stderr by themselves
    assert caught.value.hint


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc", "av1_nvenc"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it may have an encoder")
def test_hardware_that_is_not_there_is_one_line(tmp_path, codec):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(count=3, width=256, height=256))
    with pytest.raises(VideoError) as caught:
        convert(source, tmp_path / "b.mkv", codec=codec, preset="p5")
    assert "\n" not in caught.value.message
    assert codec in caught.value.message
    assert "NVIDIA GPU" in caught.value.hint


ASKED = [
    ("yuv420p", "yuv420p10le", True),
    ("yuv420p", "yuv444p", True),
    ("gray", "yuv420p", True),
    ("yuv444p10le", "yuv420p", False),
    ("yuv422p10le", "yuv422p", False),
    ("yuv444p", "gray", False),
    ("yuv444p", "gbrp10le", False),
    ("gbrp10le", "yuv420p10le", False),
]


@pytest.mark.parametrize(("pix_fmt", "asked", "exact"), ASKED)
def test_formats_on_request(tmp_path, pix_fmt, asked, exact):
    spec = ClipSpec(codec="ffv1", pix_fmt=pix_fmt, count=4)
    source, target = make_clip(tmp_path / "a.mkv", spec), tmp_path / "b.mkv"
    report = convert(source, target, codec="ffv1", pix_fmt=asked)
    assert probe(target)["streams"][0]["pix_fmt"] == asked
    if exact:
        assert report.notes == []
    else:
        assert report.notes == [f"converted from {pix_fmt} to {asked}, as asked"]
    if exact and pix_fmt != "gray":
        scaled = ["-vf", "scale=flags=neighbor"]
        assert decoded(target, pix_fmt, *scaled)[::2] == decoded(source, pix_fmt)


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_colours_are_where_they_were_when_subsampled(tmp_path, codec):
    """Chroma at the left, as players take it where nothing is said."""
    spec = ClipSpec(codec="ffv1", pix_fmt="yuv444p", count=3, colorspace=1, color_range=1)
    source = make_clip(tmp_path / "a.mkv", spec)
    convert(source, tmp_path / "b.mkv", codec=codec, crf=0 if codec == "libx264" else None,
            pix_fmt="yuv420p")  # fmt: skip
    scale = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    expected = decoded(source, "yuv420p", "-vf", f"{scale}:out_h_chr_pos=0:out_v_chr_pos=128")
    for one, other in zip(decoded(tmp_path / "b.mkv", "yuv420p")[::2], expected, strict=True):
        codes = [np.frombuffer(raw, np.uint8).astype(int) for raw in (one, other)]
        assert abs(codes[0] - codes[1]).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["yuv411p", "yuv440p", "yuv410p"])
def test_rare_subsamplings_are_read_as_they_are(tmp_path, pix_fmt):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(codec="ffv1", pix_fmt=pix_fmt, count=3))
    assert convert(source, tmp_path / "b.mkv", codec="ffv1").notes == []
    assert_sources_kept(source, tmp_path / "b.mkv", pix_fmt)


def test_rgb_of_h264(tmp_path):
    source = make_rgb(tmp_path / "a.mkv", "ffv1", "bgr0")
    assert convert(source, tmp_path / "b.mkv", codec="libx264rgb", crf=0).notes == []
    assert_sources_kept(source, tmp_path / "b.mkv", "gbrp")


STILLS = ["yuv420p", "yuv422p", "yuv444p", "gray", "gbrp"]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("depth", ["", "10le", "12le"])
@pytest.mark.parametrize("family", STILLS)
def test_new_frames_of_a_still_clip_are_the_still(tmp_path, family, depth, full_range):
    """Made, not held: from the planes of one frame twice, in half precision too."""
    spec = ClipSpec(codec="ffv1", pix_fmt=family + depth, count=2, color_range=1 + full_range)
    if spec.pix_fmt == "gbrp":
        source = make_rgb(tmp_path / "a.mkv", "ffv1", "bgr0", 2)
    else:
        source = make_clip(tmp_path / "a.mkv", spec)
    with Reader(source) as reader:
        info, still = reader.info, next(reader.frames())
    later = replace(still, index=1, pts=still.pts + 40)
    joined = [(still, Relation.JOINED), (later, Relation.JOINED)]
    made, _ = Engine(average).run(intervals(joined, by_factor(info, 4)), info)
    assert len(made) == 4
    for frame in made:
        for plane, expected in zip(frame.planes, still.planes, strict=True):
            error = plane.astype(int) - expected
            assert abs(error).max() <= 1
            assert abs(error.mean()) < 0.05


@pytest.mark.parametrize(
    ("codec", "suffix", "lost"),
    [
        ("ffv1", ".mkv", {"aspect"}), ("libx265", ".mov", set()), ("libx264", ".avi", set()),
        ("ffv1", ".nut", {"aspect", "color"}), ("ffv1", ".avi", {"aspect", "color"}),
        ("libx264", ".ts", set()), ("prores_ks", ".mov", {"color"}),
        ("prores_ks", ".mkv", {"aspect", "color"}),
        ("mjpeg", ".mkv", {"color"}), ("mpeg4", ".nut", {"color"}), ("v210", ".mov", {"color"}),
    ],
)  # fmt: skip
def test_what_is_lost_of_shape_and_colours_is_told(tmp_path, codec, suffix, lost):
    spec = ClipSpec(
        width=96, count=3, aspect=Fraction(4, 3), colorspace=1, primaries=1, transfer=1,
        color_range=2,
    )  # fmt: skip
    target = tmp_path / f"b{suffix}"
    said = " ".join(convert(make_clip(tmp_path / "a.mp4", spec), target, codec=codec).notes)
    assert ("sample aspect ratio 4/3 left out" in said) == ("aspect" in lost)
    assert bool(re.search("(matrix|full range).* left out", said)) == ("color" in lost)
    stream = probe(target)["streams"][0]
    assert (stream.get("sample_aspect_ratio") == "4:3") == ("aspect" not in lost)
    is_kept = (stream.get("color_range"), stream.get("color_space")) == ("pc", "bt709")
    assert is_kept == ("color" not in lost)


def test_what_nobody_could_read_is_not_written(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=3))
    with pytest.raises(OptionsError, match="cannot write `rawvideo` video into mov"):
        convert(source, tmp_path / "b.mov", codec="rawvideo")
