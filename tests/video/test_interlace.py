"""Interlaced video: seen whatever its marks say, refused with a hint, or deinterlaced exactly."""

import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip, picture

from sepconv_video import Job, Options, interpolate_file
from sepconv_video.engine import Engine
from sepconv_video.errors import VideoError
from sepconv_video.frames import Reading
from sepconv_video.video import Reader, interlace
from sepconv_video.video.formats import frame_of, layout_of, planes_of
from sepconv_video.video.interlace import Examination

ORDERS = {"tff": "top", "bff": "bottom"}
WIDE, HIGH = 96, 240
MARKED = {
    "h264": ("a.mp4", "libx264", "yuv420p"),
    "h264-10": ("a.mkv", "libx264", "yuv420p10le"),
    "mpeg2": ("a.ts", "mpeg2video", "yuv420p"),
}


def combed(index, order, pix_fmt="yuv420p"):
    """A picture of the moments `2 index` and `2 index + 1`, line by line."""
    first, second = (picture(2 * index + k, WIDE, HIGH, pix_fmt) for k in (0, 1))
    late = 1 if order == "tff" else 0
    for plane, other in zip(first, second, strict=True):
        plane[late::2] = other[late::2]
    return first


def write(
    path, pictures, codec="libx264", pix_fmt="yuv420p", mark="", *, times=None, steps=None, rate=25
):
    """Encode pictures, as interlaced in the order `mark`, or without marks."""
    options = {"libx264": {"qp": "0", "preset": "ultrafast", "bf": "2"}}.get(codec, {})
    if mark and codec == "libx264":
        options = options | {"x264-params": f"{mark}=1"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, 25, options=options, width=WIDE, height=HIGH)
        stream.pix_fmt, context = pix_fmt, stream.codec_context
        if codec == "mpeg2video":
            context.qscale, context.global_quality = True, 2 * 118
            if mark:
                context.flags |= av.codec.context.Flags.interlaced_dct
        context.colorspace, context.color_range, context.color_primaries = 1, 1, 9
        times = times or range(len(pictures))
        context.time_base = Fraction(1, rate)
        for planes, pts in zip(pictures, times, strict=True):
            frame = frame_of(tuple(planes), pix_fmt, layout_of(pix_fmt))
            frame.colorspace, frame.color_range, frame.color_primaries = 1, 1, 9
            frame.pts, frame.time_base = pts, context.time_base
            packets = stream.encode(fielded(frame, mark) if mark else frame)
            muxed(output, packets, steps)
        muxed(output, stream.encode(None), steps)
    return path


def muxed(output, packets, steps):
    for packet in packets:
        if steps:
            packet.duration = steps[packet.pts]
        output.mux(packet)


def fielded(frame, order):
    """Mark a picture as interlaced, which PyAV cannot."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def read(path, deinterlace=False):
    with Reader(path, Reading(deinterlace=deinterlace)) as reader:
        return list(reader.frames()), reader


def psnr(plane, other, top=255):
    return 10 * np.log10(top**2 / np.mean((plane.astype(float) - other) ** 2))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", MARKED)
def test_marked_and_combed_is_refused_with_the_order_and_a_hint(tmp_path, kind, order):
    name, codec, pix_fmt = MARKED[kind]
    pictures = [combed(index, order, pix_fmt) for index in range(10)]
    path = write(tmp_path / name, pictures, codec, pix_fmt, order)
    with av.open(str(path)) as source:  # the test would prove nothing without the marks
        assert next(source.decode(video=0)).interlaced_frame
    with pytest.raises(VideoError, match=f"is interlaced \\({ORDERS[order]} field first\\)") as hit:
        Reader(path)
    assert f"`{path}`" in hit.value.message
    assert "--deinterlace" in hit.value.hint


@pytest.mark.parametrize("order", ORDERS)
def test_combed_without_marks_is_refused_too(tmp_path, order):
    path = write(tmp_path / "a.mkv", [combed(index, order) for index in range(10)])
    with av.open(str(path)) as source:
        assert not any(frame.interlaced_frame for frame in source.decode(video=0))
    with pytest.raises(VideoError, match=f"interlaced \\({ORDERS[order]} field first\\)"):
        Reader(path)


@pytest.mark.parametrize("mark", ["tff", ""])
@pytest.mark.parametrize("order", ORDERS)
def test_each_field_becomes_a_frame_at_its_own_time(tmp_path, mark, order):
    mark = mark and order
    path = write(tmp_path / "a.mp4", [combed(index, order) for index in range(12)], mark=mark)
    frames, reader = read(path, deinterlace=True)
    info, base = reader.info, reader.info.time_base
    assert (info.rate, info.frame_count_from_header, len(frames)) == (50, 24, 24)
    assert [frame.pts * base for frame in frames] == [Fraction(index, 50) for index in range(24)]
    assert {frame.duration * base for frame in frames} == {Fraction(1, 50)}
    assert [frame.index for frame in frames] == list(range(24))
    assert any("each interlaced frame became two" in note for note in reader.notes)
    for frame in frames[2:-2]:  # lines that were there are there, at the right moment
        own = picture(frame.index, WIDE, HIGH, "yuv420p")[0]
        first = (frame.index % 2) ^ (order == "bff")
        np.testing.assert_array_equal(frame.planes[0][first::2], own[first::2])
        assert psnr(frame.planes[0], own) > 32


def test_irregular_times_and_the_last_duration_stay_exact(tmp_path):
    times = [0, 20, 44, 60, 121, 130, 150, 177, 200, 224]
    steps = dict(zip(times, [*np.diff(times).tolist(), 36], strict=True))
    pictures = [combed(index, "tff") for index in range(10)]
    path = write(tmp_path / "a.mp4", pictures, mark="tff", times=times, steps=steps, rate=600)
    frames, reader = read(path, deinterlace=True)
    ticks = [round(frame.pts * reader.info.time_base * 1200) for frame in frames]
    ends = [*times[1:], 224 + 36]
    expected = [t for begin, end in zip(times, ends, strict=True) for t in (2 * begin, begin + end)]
    assert ticks == expected
    assert frames[-1].duration * reader.info.time_base == Fraction(36, 1200)


def test_what_cannot_be_deinterlaced_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write(path, [combed(index, "tff") for index in range(8)], mark="tff")
    graph = interlace._graph

    def refuse(first, name, options):
        if name == "bwdif":
            raise ValueError("no such format")
        return graph(first, name, options)

    monkeypatch.setattr(interlace, "_graph", refuse)
    with pytest.raises(VideoError, match=r"cannot deinterlace `.*a\.mp4`: no such format"):
        read(path, deinterlace=True)


def test_depth_and_colour_tags_stay(tmp_path):
    pictures = [combed(index, "tff", "yuv422p10le") for index in range(8)]
    path = write(tmp_path / "a.mov", pictures, "libx264", "yuv422p10le", "tff")
    frames, reader = read(path, deinterlace=True)
    color = reader.info.color
    assert (reader.info.pix_fmt, reader.info.bits) == ("yuv422p10le", 10)
    assert (color.colorspace_tag, color.range_tag, color.primaries_tag) == (1, 1, 9)
    own = picture(6, WIDE, HIGH, "yuv422p10le")
    for plane, expected in zip(frames[6].planes, own, strict=True):
        np.testing.assert_array_equal(plane[::2], expected[::2])


@pytest.mark.parametrize("deinterlace", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_whole_pictures_marked_as_interlaced_are_untouched(tmp_path, name, deinterlace):
    codec = "libx264" if name == "a.mp4" else "mpeg2video"
    pictures = [picture(index, WIDE, HIGH, "yuv420p") for index in range(12)]
    path = write(tmp_path / name, pictures, codec, mark="tff")
    with av.open(str(path)) as source:
        decoded = list(source.decode(video=0))
    assert decoded[0].interlaced_frame
    frames, reader = read(path, deinterlace)
    assert reader.info.rate == 25
    assert any("its pictures are whole" in note for note in reader.notes)
    layout = layout_of("yuv420p")
    for frame, original in zip(frames, decoded, strict=True):
        for plane, expected in zip(frame.planes, planes_of(original, layout), strict=True):
            np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_progressive_source_is_untouched_by_deinterlacing(tmp_path, suffix):
    path = make_clip(tmp_path / f"a{suffix}", ClipSpec(count=15))
    frames, reader = read(path, deinterlace=True)
    assert reader.notes == ["not interlaced: `--deinterlace` had nothing to do"]
    assert (reader.info.rate, len(frames)) == (25, 15)
    assert [f.pts * reader.info.time_base for f in frames] == [Fraction(i, 25) for i in range(15)]
    for frame in frames:
        own = picture(frame.index, 64, 48, "yuv420p")
        for plane, expected in zip(frame.planes, own, strict=True):
            np.testing.assert_array_equal(plane, expected)


def test_only_marked_pictures_are_deinterlaced_where_marks_begin_later(tmp_path):
    whole = [picture(index, WIDE, HIGH, "yuv420p") for index in range(14)]
    mixed = whole + [combed(index, "tff") for index in range(7, 13)]
    path = tmp_path / "both.ts"
    parts = [
        write(tmp_path / "a.ts", mixed[:14], times=list(range(14))),
        write(tmp_path / "b.ts", mixed[14:], mark="tff", times=list(range(14, 20))),
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, reader = read(path)
    assert len(frames) == 20
    assert any("6 frames are marked as interlaced" in note for note in reader.notes)
    frames, reader = read(path, deinterlace=True)
    assert len(frames) == 14 + 2 * 6
    assert any("each of the 6 frames marked as" in note for note in reader.notes)
    for frame, expected in zip(frames[:14], whole, strict=True):
        np.testing.assert_array_equal(frame.planes[0], expected[0])
    late = [frame.pts * reader.info.time_base for frame in frames[14:]]
    assert set(np.diff(late)) == {Fraction(1, 50)}


def test_telecine_is_recognised_and_named(tmp_path):
    graph = av.filter.Graph()
    film = [picture(index, WIDE, HIGH, "yuv420p") for index in range(24)]
    source = graph.add(
        "buffer", video_size=f"{WIDE}x{HIGH}", pix_fmt="yuv420p", time_base="1/24", frame_rate="24"
    )
    graph.link_nodes(source, graph.add("telecine"), graph.add("buffersink")).configure()
    for pts, planes in enumerate(film):
        frame = frame_of(tuple(planes), "yuv420p", layout_of("yuv420p"))
        frame.pts, frame.time_base = pts, Fraction(1, 24)
        graph.vpush(frame)
    graph.vpush(None)
    pictures = []
    while True:
        try:
            pictures.append(planes_of(graph.vpull(), layout_of("yuv420p")))
        except (av.BlockingIOError, av.EOFError):
            break
    assert len(pictures) >= 29
    with pytest.raises(VideoError, match="is telecined") as caught:
        Reader(write(tmp_path / "a.mkv", pictures))
    assert "fieldmatch,decimate" in caught.value.hint


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("mark", ["tff", ""])
def test_few_frames(tmp_path, count, mark):
    """Too few to be sure: marks are believed, and nothing is suspected without them."""
    path = write(tmp_path / "a.mp4", [combed(i, "tff") for i in range(count)], mark=mark)
    if mark or count == 5:
        with pytest.raises(VideoError, match="interlaced"):
            Reader(path)
        frames, reader = read(path, deinterlace=True)
        times = [frame.pts * reader.info.time_base for frame in frames]
        assert times == [Fraction(index, 50) for index in range(2 * count)]
    else:
        assert len(read(path)[0]) == count


def test_a_still_beginning_leaves_it_to_the_marks(tmp_path):
    pictures = [picture(0, WIDE, HIGH, "yuv420p")] * 12
    with pytest.raises(VideoError, match="is interlaced"):
        Reader(write(tmp_path / "a.mp4", pictures, mark="tff"))
    assert len(read(write(tmp_path / "b.mp4", pictures))[0]) == 12


@pytest.mark.parametrize("space", [3, 8, 14])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "pal8", "rgb24", "gray16le"])
def test_no_colour_tag_stops_the_examination(pix_fmt, space):
    first = av.VideoFrame(64, 48, pix_fmt)
    first.time_base, first.pts, first.colorspace = Fraction(1, 25), 0, space
    examination = Examination(first, 0, Fraction(25))
    examination.add(first)
    assert not examination.scan().interlaced


@pytest.mark.parametrize(
    "pattern",
    [
        "testsrc2=s=192x108:r=25",
        "testsrc2=s=320x240:r=30",
        "testsrc2=s=640x360:r=25",
        "testsrc2=s=640x360:r=60",
        "color=black:s=320x240:r=25[a];color=white:s=32x32:r=25[b];[a][b]overlay=x=t*100:y=t*40",
    ],
)
def test_a_drawn_pattern_is_not_taken_for_fields(tmp_path, pattern):
    """As these are by `idet`, whatever its settings."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("FFMPEG MISSING: nobody makes the pattern")
    path = tmp_path / "a.mp4"
    given = ["-f", "lavfi", "-i", pattern, "-frames:v", "34", "-pix_fmt", "yuv420p"]
    subprocess.run(["ffmpeg", "-v", "error", *given, str(path)], check=True)
    with Reader(path) as reader:
        assert len(list(reader.frames())) == 34


def test_few_large_pictures_wait_for_the_verdict():
    sizes = [(1920, 1080, 21), (640, 360, 32), (3840, 2160, 5), (7680, 4320, 0), (8, 8, 0)]
    for width, height, most in sizes:
        first = av.VideoFrame(width, height, "yuv420p")
        assert abs(Examination(first, 0, Fraction(25)).most - most) <= 1


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov", "out.ts", "out.avi"])
def test_the_output_is_marked_progressive(tmp_path, name):
    if shutil.which("ffprobe") is None:
        pytest.skip("FFPROBE MISSING: nobody else reads the mark")
    path = write(tmp_path / "a.mp4", [combed(i, "tff") for i in range(6)], mark="tff")
    options = Options(deinterlace=True, device="cpu")
    job = Job(source=path, target=tmp_path / name)
    report = interpolate_file(job, options, engine=Engine(lambda left, right: (left + right) / 2))
    assert (report.source_frames, report.frames) == (12, 24)
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_frames"]
    command += ["-show_entries", "stream=field_order,nb_read_frames"]
    command += [str(tmp_path / name)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "field_order=progressive" in said
    assert "nb_read_frames=24" in said


def test_no_progressive_clip_is_taken_for_interlaced(shared):
    for path in sorted((shared / "data" / "val").glob("*.mp4")):
        with Reader(path) as reader:
            assert not reader._scan.interlaced
