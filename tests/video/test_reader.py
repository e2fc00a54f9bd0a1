"""Reading: exact planes, exact times, and a clear word about what is broken."""

import errno
import gc
from fractions import Fraction
from pathlib import Path

import av
import matroska
import numpy as np
import pytest
from clips import ClipSpec, make_clip, picture, variable_times, video_frame

from sepconv_video.errors import VideoError
from sepconv_video.video import Extent, Reader, measure, write_picture
from sepconv_video.video.layers import without_layers
from sepconv_video.video.unpacker import Unpacker

NATIVE = [
    *(f"yuv{s}p" for s in (420, 422, 444)),
    *(f"yuv{s}p{b}le" for s in (420, 422, 444) for b in (9, 10, 12, 14, 16)),
    "gray",
    "gray10le",
    "gray12le",
    "gray16le",
]


def read(path):
    with Reader(path) as reader:
        return list(reader.frames()), reader


def interleaved(*planes):
    return np.stack(planes, -1).reshape(planes[0].shape[0], -1)


def pack(planes, pix_fmt, size):
    """A frame in a semi-planar, packed or big-endian format, without swscale."""
    luma, blue, red = planes
    if pix_fmt in {"yuyv422", "uyvy422"}:
        even = np.pad(luma, ((0, 0), (0, luma.shape[1] % 2)))
        order = (even[:, ::2], blue, even[:, 1::2], red)
        order = order if pix_fmt == "yuyv422" else (blue, order[0], red, order[2])
        stored = [interleaved(*order)]
    elif pix_fmt.endswith("be"):
        stored = [plane.byteswap() for plane in planes]
    else:
        pair = (red, blue) if pix_fmt == "nv21" else (blue, red)
        shift = 6 if pix_fmt.startswith("p") else 0
        stored = [luma << shift, interleaved(*pair) << shift]
    frame = av.VideoFrame(*size, pix_fmt)
    for plane, values in zip(frame.planes, stored, strict=True):
        raw = np.ascontiguousarray(values).view(np.uint8)
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : raw.shape[1]] = raw
    return frame


@pytest.mark.parametrize("pix_fmt", NATIVE)
def test_native_formats_come_back_bit_by_bit(tmp_path, pix_fmt):
    spec = ClipSpec(codec="ffv1", pix_fmt=pix_fmt, width=65, height=49, count=3)
    frames, reader = read(make_clip(tmp_path / "a.mkv", spec))
    assert (reader.info.pix_fmt, reader.notes, reader.damage) == (pix_fmt, [], None)
    assert reader.info.bits == av.VideoFormat(pix_fmt).components[0].bits
    assert len(frames) == 3
    for frame in frames:
        expected = picture(frame.index, 65, 49, pix_fmt)
        for plane, values in zip(frame.planes, expected, strict=True):
            assert plane.dtype == values.dtype
            assert plane.flags.owndata
            np.testing.assert_array_equal(plane, values)


@pytest.mark.parametrize(
    ("pix_fmt", "twin"),
    [
        ("nv12", "yuv420p"),
        ("nv21", "yuv420p"),
        ("nv16", "yuv422p"),
        ("nv24", "yuv444p"),
        ("yuyv422", "yuv422p"),
        ("uyvy422", "yuv422p"),
        ("p010le", "yuv420p10le"),
        ("p210le", "yuv422p10le"),
        ("yuv420p10be", "yuv420p10le"),
    ],
)
@pytest.mark.parametrize("size", [(66, 50), (65, 49)])
def test_formats_with_a_planar_twin_lose_nothing(tmp_path, pix_fmt, twin, size):
    decoded = pack(picture(0, *size, twin), pix_fmt, size)
    unpack = Unpacker(decoded, tmp_path)
    assert (unpack.pix_fmt, unpack.notes) == (twin, [])
    for plane, values in zip(unpack(decoded), picture(0, *size, twin), strict=True):
        np.testing.assert_array_equal(plane, values)


def test_motion_jpeg_is_full_range_and_exact(tmp_path):
    spec = ClipSpec(codec="mjpeg", pix_fmt="yuvj420p", count=2)
    path = make_clip(tmp_path / "a.mkv", spec)
    frames, reader = read(path)
    assert (reader.info.pix_fmt, reader.info.color.full_range) == ("yuv420p", True)
    assert reader.info.color.range_tag == 2
    with av.open(str(path)) as source:
        luma = [frame.to_ndarray()[:48] for frame in source.decode(video=0)]
    for frame, expected in zip(frames, luma, strict=True):
        np.testing.assert_array_equal(frame.planes[0], expected)


def test_alpha_is_dropped_with_a_note(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", 25, width=66, height=50)
        stream.pix_fmt = "yuva420p"
        output.mux(stream.encode(video_frame(0, 66, 50, "yuv420p").reformat(format="yuva420p")))
        output.mux(stream.encode(None))
    frames, reader = read(path)
    assert reader.info.pix_fmt == "yuv420p"
    assert "alpha channel dropped" in reader.notes[0]
    for plane, values in zip(frames[0].planes, picture(0, 66, 50, "yuv420p"), strict=True):
        np.testing.assert_array_equal(plane, values)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_second_layers_are_left_out(tmp_path, suffix):
    """What Apple's encoder makes of pictures with alpha: nothing of it was read by FFmpeg 8."""
    path = make_clip(tmp_path / f"a{suffix}", ClipSpec(codec="libx265", count=7))
    with Reader(path) as reader:
        expected = list(reader.frames())
        assert not reader.notes
    with av.open(path) as file:
        header = file.streams.video[0].codec_context.extradata
    path.write_bytes(path.read_bytes().replace(header, with_layer(header)))
    with av.open(path) as file:
        assert not list(file.decode(video=0))
    with Reader(path) as reader:
        found = list(reader.frames())
    assert [frame.pts for frame in found] == [frame.pts for frame in expected]
    assert all(map(np.array_equal, found[3].planes, expected[3].planes))
    assert reader.damage is None
    assert reader.notes == [
        "the second layer of the video left out: an alpha channel, or the other eye's view"
    ]


def with_layer(header):
    """Have the header of an HEVC stream say that there are two layers, and then nonsense."""
    place = header.index(bytes([0x40, 0x01]), 23)  # its video parameter set
    size = int.from_bytes(header[place - 2 : place], "big")
    number = int.from_bytes(header[place : place + size], "big")
    end = (number & -number).bit_length()  # after the bit that ends it: whether it is extended
    text = bytearray((number | 1 << end).to_bytes(size, "big"))
    text[3] |= 0x10
    return header[:place] + text + header[place + size :]


def test_a_damaged_header_stays_as_it_is():
    whole = bytes([1, *bytes(21), 1, 32, 0, 1, 0, 5, 0x40, 1, 0xC, 0x11, 0xFF])
    assert without_layers(whole) == whole.replace(b"\x11", b"\x01")
    for length in range(len(whole)):
        assert without_layers(whole[:length]) == whole[:length]


@pytest.mark.parametrize(
    ("pix_fmt", "result"),
    [("rgb24", "gbrp"), ("gbrp10le", "gbrp10le"), ("gbrp12le", "gbrp12le")],
)
def test_rgb_is_read_as_it_is(tmp_path, pix_fmt, result):
    path = tmp_path / "a.nut"
    with av.open(str(path), "w", format="nut") as output:
        stream = output.add_stream("rawvideo" if pix_fmt == "rgb24" else "ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        pure_green = np.zeros((48, 64, 3), np.uint8)
        pure_green[..., 1] = 255
        frame = av.VideoFrame.from_ndarray(pure_green, "rgb24").reformat(format=pix_fmt)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    frames, reader = read(path)
    color, shift = reader.info.color, reader.info.bits - 8
    assert (reader.info.pix_fmt, color.matrix, color.full_range) == (result, "rgb", True)
    assert (color.colorspace_tag, color.range_tag, reader.notes) == (0, 2, [])
    assert [int(plane[9, 9]) >> shift for plane in frames[0].planes] == [255, 0, 0]


@pytest.mark.parametrize(
    ("tag", "size", "matrix"),
    [
        (2, (64, 48), "bt601"),
        (2, (1280, 720), "bt709"),
        (2, (1026, 16), "bt709"),
        (2, (720, 576), "bt601"),
        (1, (64, 48), "bt709"),
        (6, (1280, 720), "bt601"),
        (9, (64, 48), "bt2020"),
    ],
)
def test_matrix_follows_the_tag_or_the_size(tmp_path, tag, size, matrix):
    width, height = size
    spec = ClipSpec(colorspace=tag, width=width, height=height, count=1, color_range=1)
    _, reader = read(make_clip(tmp_path / "a.mp4", spec))
    color = reader.info.color
    assert (color.matrix, color.colorspace_tag) == (matrix, tag)
    assert not color.full_range


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_full_range_is_seen(tmp_path, suffix):
    _, reader = read(make_clip(tmp_path / f"a{suffix}", ClipSpec(color_range=2, count=1)))
    assert reader.info.color.full_range
    assert reader.info.color.range_tag == 2


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_constant_rate_times_are_exact(tmp_path, rate, suffix):
    frames, reader = read(make_clip(tmp_path / f"a{suffix}", ClipSpec(rate=rate, count=12)))
    base = reader.info.time_base
    assert [frame.pts * base for frame in frames] == [index / rate for index in range(12)]
    assert {frame.duration * base for frame in frames} == {1 / rate}
    assert (reader.info.rate, reader.info.frame_count_from_header) == (rate, 12)


@pytest.mark.parametrize("seed", range(5))
def test_variable_times_are_exact(tmp_path, seed):
    times = variable_times(30 + seed, seed)
    spec = ClipSpec(times=times, time_base=Fraction(1, 30000), last_duration=2222)
    frames, reader = read(make_clip(tmp_path / "a.mp4", spec))
    base = reader.info.time_base
    assert [f.pts * base for f in frames] == [t * spec.ticks for t in spec.times]
    # the header that knows the end counts in milliseconds
    assert abs(frames[-1].duration * base - 2222 * spec.ticks) < Fraction(1, 500)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_last_frame_has_a_duration(tmp_path, suffix):
    frames, reader = read(make_clip(tmp_path / f"a{suffix}"))
    assert frames[-1].duration * reader.info.time_base == Fraction(1, 25)


def test_a_start_other_than_zero_is_kept(tmp_path):
    spec = ClipSpec(times=tuple(range(75, 85)))
    frames, reader = read(make_clip(tmp_path / "a.mp4", spec))
    assert frames[0].pts * reader.info.time_base == 3


def test_a_stream_without_times_follows_its_rate(tmp_path):
    frames, reader = read(make_clip(tmp_path / "a.h264"))
    assert [frame.pts * reader.info.time_base for frame in frames] == [
        Fraction(index, 25) for index in range(10)
    ]


def test_avi_with_b_frames_has_even_times(tmp_path):
    frames, reader = read(make_clip(tmp_path / "a.avi", ClipSpec(count=20)))
    assert [frame.pts * reader.info.time_base for frame in frames] == [
        Fraction(index, 25) for index in range(20)
    ]


@pytest.mark.parametrize("name", ["12:30.mp4", "100%d.mp4", "ä ö's `x`.mp4", "-i.mp4"])
def test_odd_file_names(tmp_path, name):
    path = make_clip(tmp_path / "a.mp4", ClipSpec(count=2)).rename(tmp_path / name)
    frames, reader = read(path)
    assert len(frames) == 2
    assert reader.info.path == path


def test_no_picture_waits_for_the_collector_of_cycles(tmp_path):
    """With `frame.side_data` all would, and their decoders with them."""
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=120))
    gc.collect()
    gc.disable()
    try:
        with Reader(source) as reader:
            frames = reader.frames()
            counts = [alive() for place, _ in enumerate(frames) if place > 60]
    finally:
        gc.enable()
    assert max(counts) < 40


def alive():
    return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())


def test_one_frame(tmp_path):
    frames, _ = read(make_clip(tmp_path / "a.mp4", ClipSpec(count=1)))
    assert len(frames) == 1
    assert frames[0].duration > 0


def test_rotation_and_aspect_are_read(tmp_path):
    spec = ClipSpec(rotation=90, aspect=Fraction(4, 3), count=1)
    _, reader = read(make_clip(tmp_path / "a.mp4", spec))
    assert reader.info.display_matrix is not None
    assert reader.info.sample_aspect_ratio == Fraction(4, 3)


def bad_files(folder):
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video\n" * 40)
    (folder / "text.txt").write_text("this is not a video\n" * 40)
    (folder / "folder.mp4").mkdir()
    with av.open(str(folder / "sound.m4a"), "w", format="mp4") as output:
        stream = output.add_stream("aac", 44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    whole = make_clip(folder / "whole.mp4", ClipSpec(count=30)).read_bytes()
    (folder / "no_index.mp4").write_bytes(whole[: len(whole) // 2])
    later = matroska.element("4282", b"matroska") + matroska.number("4285", 8)
    (folder / "later.mkv").write_bytes(matroska.element("1a45dfa3", later))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.mp4", "no such file"),
        ("folder.mp4", "it is a folder"),
        ("empty.mp4", "0 bytes"),
        ("text.mp4", "not a video file"),
        ("text.txt", "it is text"),
        ("sound.m4a", "no video stream, only audio"),
        ("no_index.mp4", "index (the moov box) is missing"),
        ("later.mkv", "uses a feature that FFmpeg does not support"),
    ],
)
def test_bad_input_is_one_line_with_a_hint(tmp_path, name, reason):
    bad_files(tmp_path)
    with pytest.raises(VideoError) as caught:
        Reader(tmp_path / name)
    assert reason in caught.value.message
    assert f"`{tmp_path / name}`" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    """Root may read all, so it is denied here: to FFmpeg, and to whoever asks why."""
    path = make_clip(tmp_path / "a.mp4", ClipSpec(count=2))

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(av, "open", denied)
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(VideoError, match="permission denied") as caught:
        Reader(path)
    assert "who owns the file" in caught.value.hint
    assert measure(path) == Extent()


def test_a_file_without_streams_is_named(tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(matroska.matroska([], [matroska.cluster(0)]))
    with pytest.raises(VideoError, match="it has no video stream, nor any other"):
        Reader(path)


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "a.mkv"
    write_picture(tmp_path / "c.png", np.zeros((8, 8, 3), np.uint8))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", 44100, layout="mono")
        output.add_attachment("cover.png", "image/png", (tmp_path / "c.png").read_bytes())
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    with pytest.raises(VideoError, match="only a cover picture and audio"):
        Reader(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_broken_off_file_gives_its_frames_and_says_so(tmp_path, suffix):
    spec = ClipSpec(count=60, width=128, height=96)
    whole = make_clip(tmp_path / f"whole{suffix}", spec)
    if suffix == ".mp4":  # the index must come first for anything to be readable
        source, whole = av.open(str(whole)), tmp_path / "front.mp4"
        with av.open(str(whole), "w", container_options={"movflags": "faststart"}) as output:
            copy = output.add_stream_from_template(source.streams[0], opaque=True)
            for packet in source.demux():
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
        source.close()
    content = whole.read_bytes()
    part = tmp_path / f"part{suffix}"
    part.write_bytes(content[: len(content) * 6 // 10])
    frames, reader = read(part)
    assert 20 < len(frames) < 45
    assert "ends too early" in reader.damage
    for frame in frames[:20]:
        np.testing.assert_array_equal(frame.planes[0], picture(frame.index, 128, 96, "yuv420p")[0])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_damage_in_the_middle_is_counted_not_raised(tmp_path, suffix):
    path = make_clip(tmp_path / f"a{suffix}", ClipSpec(count=40, width=128, height=96))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    frames, reader = read(path)
    assert len(frames) >= 20
    assert reader.damage
    assert (np.diff([frame.pts for frame in frames]) > 0).all()


def test_nothing_is_printed(tmp_path, capfd):
    bad_files(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        try:
            read(path)
        except VideoError:
            continue
    assert capfd.readouterr() == ("", "")


def test_frames_outlive_the_reader_and_closing_early_is_fine(tmp_path):
    path = make_clip(tmp_path / "a.mp4", ClipSpec(count=30))
    with Reader(path) as reader:
        first = next(reader.frames())
    np.testing.assert_array_equal(first.planes[1], picture(0, 64, 48, "yuv420p")[1])


def test_real_clips_are_read_whole(shared):
    path = min((shared / "data" / "val").rglob("*.mp4"), key=lambda file: file.stat().st_size)
    frames, reader = read(path)
    assert reader.damage is None
    assert len(frames) == reader.info.frame_count_from_header
