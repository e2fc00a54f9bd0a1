"""Changes in mid-stream: size, format, range and aspect become those of the first picture."""

import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip, picture, planes_shapes

from sepconv_video.video import Reader
from sepconv_video.video.source import LARGEST_PIXELS


def read(path):
    with Reader(path) as reader:
        return list(reader.frames()), reader


def joined(folder, suffix, *specs):
    """One stream of several clips, each 10 frames long."""
    parts = []
    for number, spec in enumerate(specs):
        part = make_clip(folder / f"{number}.ts", spec)
        parts.append(part.read_bytes())
    whole = folder / "whole.ts"
    whole.write_bytes(b"".join(parts))
    return whole if suffix == ".ts" else remuxed(whole, folder / f"whole{suffix}")


def remuxed(path, target):
    """Copy packets into another container, with even times."""
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        copy = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for index, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream, packet.time_base = copy, Fraction(1, 25)
            packet.pts = packet.dts = index
            output.mux(packet)
    return target


def spec(width=64, height=48, pix_fmt="yuv420p", **more):
    lossless = {"qp": "0", "preset": "ultrafast", "bf": "0"}
    return ClipSpec(
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        times=more.pop("times", None),
        options=lossless,
        **more,
    )


LATER = tuple(range(10, 20))
FORMS = [
    (64, 48, "yuv422p"),
    (64, 48, "yuv444p"),
    (64, 48, "yuv420p10le"),
    (96, 80, "yuv420p"),
    (40, 30, "yuv420p"),
    (66, 50, "yuv444p10le"),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_pictures_after_a_change_are_made_like_the_first(tmp_path, suffix, form):
    path = joined(tmp_path, suffix, spec(), spec(*form, times=LATER))
    frames, reader = read(path)
    assert [frame.index for frame in frames if frame.begins_shot] == [10]
    assert len(frames) == 20
    assert (np.diff([frame.pts for frame in frames]) > 0).all()
    was, became = "64x48 yuv420p", f"{form[0]}x{form[1]} {form[2]}"
    assert any(f"from {was} to {became} at frame 10" in note for note in reader.notes)
    for frame in frames:
        shapes = [plane.shape for plane in frame.planes]
        assert shapes == planes_shapes(64, 48, "yuv420p")
        assert {plane.dtype for plane in frame.planes} == {np.dtype(np.uint8)}
    for index in range(10):  # untouched before
        np.testing.assert_array_equal(frames[index].planes[0], picture(index, 64, 48, "yuv420p")[0])
    if form[:2] == (64, 48):  # and after it no brighter or darker
        shift = av.VideoFormat(form[2]).components[0].bits - 8
        for index in range(10):
            own = picture(index, *form)[0] / 2.0**shift
            difference = frames[10 + index].planes[0] - np.clip(own, 0, 255)
            assert abs(difference.mean()) < 0.3
            assert abs(difference).max() <= 1


def test_eight_bits_become_ten_exactly(tmp_path):
    first, then = spec(pix_fmt="yuv420p10le"), spec(times=LATER)
    frames, reader = read(joined(tmp_path, ".ts", first, then))
    assert (reader.info.bits, len(frames)) == (10, 20)
    for index in range(10):
        own = picture(index, 64, 48, "yuv420p")
        for plane, expected in zip(frames[10 + index].planes, own, strict=True):
            np.testing.assert_array_equal(plane, expected.astype(np.uint16) << 2)


def test_range_and_matrix_become_the_first_ones(tmp_path):
    limited = spec(colorspace=1, color_range=1)
    frames, reader = read(
        joined(tmp_path, ".ts", limited, spec(color_range=2, colorspace=1, times=LATER))
    )
    assert frames[10].begins_shot
    assert any("from bt709, limited to bt709, full" in note for note in reader.notes)
    full = frames[12].planes[0]
    expected = picture(2, 64, 48, "yuv420p")[0] * (219 / 255) + 16
    assert abs(full - expected).max() <= 1


def test_many_changes_are_noted_in_one_line(tmp_path):
    path = tmp_path / "a.mkv"
    sizes = [(64, 48), (32, 32), (80, 40), (1, 1), (64, 48), (3, 5), (16, 1), (2, 2)]
    with av.open(str(path), "w") as output:
        stream = output.add_mux_stream("mjpeg", 25, width=64, height=48)
        stream.time_base = Fraction(1, 25)
        for index, (width, height) in enumerate(sizes):
            output.mux(packet_of(stream, encoded("mjpeg", "yuvj420p", width, height), index))
    frames, reader = read(path)
    assert len(frames) == len(sizes)
    assert {frame.planes[0].shape for frame in frames} == {(48, 64)}
    assert [frame.begins_shot for frame in frames] == [False] + [True] * 7
    note = next(note for note in reader.notes if "the picture changes" in note)
    assert "and 4 more times" in note


def encoded(codec, pix_fmt, width, height):
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        plane.update(bytes([90]) * plane.buffer_size)
    return b"".join(bytes(packet) for packet in context.encode(frame) + context.encode(None))


def packet_of(stream, content, index):
    packet = av.Packet(content)
    packet.stream, packet.time_base = stream, Fraction(1, 25)
    packet.pts = packet.dts = index
    packet.is_keyframe = True
    return packet


def test_a_giant_in_mid_stream_is_damage_and_asks_for_no_memory(tmp_path):
    png = encoded("png", "rgb24", 64, 48)
    side = int(LARGEST_PIXELS**0.5) * 2
    head = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    giant = png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as output:
        stream = output.add_mux_stream("png", 25, width=64, height=48)
        stream.time_base = Fraction(1, 25)
        # a decoder with threads may lose those still on their way where the stream ends in damage
        for index, content in enumerate([png, png, giant] + [png] * 40):
            output.mux(packet_of(stream, content, index))
    frames, reader = read(path)
    assert reader.damage == "1 packet could not be decoded"
    times = [frame.pts * reader.info.time_base for frame in frames]
    assert times == [Fraction(index, 25) for index in range(43) if index != 2]


def test_a_change_of_aspect_is_noted_only(tmp_path):
    first, then = spec(aspect=Fraction(4, 3)), spec(aspect=Fraction(16, 11), times=LATER)
    frames, reader = read(joined(tmp_path, ".ts", first, then))
    assert not any(frame.begins_shot for frame in frames)
    assert any(
        "from 4/3 to 16/11 at frame 10: the first one is kept" in note for note in reader.notes
    )
    assert reader.info.sample_aspect_ratio == Fraction(4, 3)
