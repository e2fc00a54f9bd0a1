"""Segments and joining: what goes in comes out, to the bit and to the tick, and nothing is lost."""

import dataclasses
import shutil
import subprocess
import tempfile
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip, payloads, picture, variable_times

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import Frame, Timeline
from sepconv_video.video import (
    Encoding,
    Reader,
    Segment,
    SegmentWriter,
    Track,
    container_for,
    join,
    rehearse,
    write_picture,
)

LOSSLESS = Encoding(codec="libx264", crf=0)
FFV1 = Encoding(codec="ffv1")


def copy(source, target, encoding=None, factor=1, every=7):
    """Write every source frame `factor` times, as the pipeline would, in segments of `every`."""
    with Reader(source) as reader:
        frames, info = list(reader.frames()), reader.info
    encoding = encoding or Encoding()
    track = Track(
        info,
        time_base=info.time_base / factor,
        rate=info.rate * factor,
        fastest=info.fastest * factor,
        encoding=dataclasses.replace(
            encoding, container=encoding.container or container_for(target)
        ),
    )
    pieces = []
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, len(frames), every):
            path = Path(folder, str(first))
            with SegmentWriter(path, track, target) as writer:
                for frame in repeated(frames, first, first + every, factor):
                    writer.write(frame)
                pieces.append((path, writer.finish()))
        return Copy(
            codec=track.codec, notes=join(pieces, target, track, source, target, Timeline()).notes
        )


@dataclasses.dataclass
class Copy:
    codec: str
    notes: list[str]


def repeated(frames, first, end, factor):
    """Show each of some frames `factor` times within its time."""
    ends = [frame.pts for frame in frames[1:]]
    last = frames[-1]
    ends.append(last.pts + (last.duration or last.pts - frames[-2].pts))
    for frame, until in list(zip(frames, ends, strict=True))[first:end]:
        step = until - frame.pts
        for part in range(factor):
            yield dataclasses.replace(frame, pts=factor * frame.pts + part * step, duration=step)


def read(path):
    with Reader(path) as reader:
        frames = list(reader.frames())
        assert reader.damage is None
        return frames, reader.info


def seconds(path):
    frames, info = read(path)
    return [frame.pts * info.time_base for frame in frames]


def end_of(path):
    frames, info = read(path)
    return (frames[-1].pts + frames[-1].duration) * info.time_base


def assert_same_planes(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for plane, values in zip(one.planes, other.planes, strict=True):
            np.testing.assert_array_equal(plane, values)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "gray"])
@pytest.mark.parametrize(("suffix", "encoding"), [(".mp4", LOSSLESS), (".mkv", FFV1)])
def test_planes_reach_the_encoder_bit_by_bit(tmp_path, pix_fmt, suffix, encoding):
    spec = ClipSpec(codec="ffv1", pix_fmt=pix_fmt)
    source = make_clip(tmp_path / "a.mkv", spec)
    target = tmp_path / f"b{suffix}"
    copy(source, target, encoding)
    found, info = read(target)
    expected, _ = read(source)
    if pix_fmt == "gray" and info.pix_fmt == "yuv420p":  # FFmpeg decodes gray H.264 as such
        expected = [dataclasses.replace(f, planes=f.planes[:1]) for f in expected]
        found = [dataclasses.replace(f, planes=f.planes[:1]) for f in found]
    assert_same_planes(found, expected)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "yuv444p12le", "gray16le"])
def test_deep_planes_reach_the_encoder_bit_by_bit(tmp_path, pix_fmt):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(codec="ffv1", pix_fmt=pix_fmt, count=4))
    copy(source, tmp_path / "b.mkv", FFV1)
    found, info = read(tmp_path / "b.mkv")
    assert info.pix_fmt == pix_fmt
    assert_same_planes(found, read(source)[0])


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001)])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_constant_rate_stays_exact(tmp_path, rate, factor):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(rate=rate, audio=True))
    writer = copy(source, tmp_path / "b.mp4", LOSSLESS, factor)
    assert writer.notes == []
    assert seconds(tmp_path / "b.mp4") == [index / (rate * factor) for index in range(10 * factor)]
    assert end_of(tmp_path / "b.mp4") == end_of(source) == 10 / rate
    with av.open(str(tmp_path / "b.mp4")) as output:
        video = output.streams.video[0]
        assert video.average_rate == rate * factor
        assert video.frames == 10 * factor
        assert video.duration * video.time_base == 10 / rate


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_variable_rate_stays_exact(tmp_path, suffix, seed):
    spec = ClipSpec(
        times=variable_times(40, seed), time_base=Fraction(1, 30000), last_duration=2750
    )
    source = make_clip(tmp_path / "a.mp4", spec)
    copy(source, tmp_path / f"b{suffix}", LOSSLESS, 2)
    found = seconds(tmp_path / f"b{suffix}")
    assert found[::2] == [tick * spec.ticks for tick in spec.times]
    assert len(found) == 80
    with av.open(str(tmp_path / f"b{suffix}")) as output:
        video = output.streams.video[0]
        assert video.duration * video.time_base == spec.seconds
        assert abs(Fraction(output.duration, av.time_base) - spec.seconds) < Fraction(1, 1000)
    assert end_of(source) == end_of(tmp_path / f"b{suffix}") == spec.seconds


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1", "libvpx-vp9", "mpeg4", "ffv1"])
def test_every_encoder_keeps_the_times(tmp_path, codec):
    spec = ClipSpec(times=variable_times(25, seed=1), time_base=Fraction(1, 30000))
    source = make_clip(tmp_path / "a.mp4", spec)
    copy(source, tmp_path / "b.mp4", Encoding(codec=codec), 2)
    assert seconds(tmp_path / "b.mp4")[::2] == [tick * spec.ticks for tick in spec.times]


def test_matroska_rounds_to_milliseconds_and_says_so_where_the_rate_varies(tmp_path):
    spec = ClipSpec(times=variable_times(25), time_base=Fraction(1, 30000))
    varies = make_clip(tmp_path / "v.mp4", spec)
    notes = copy(varies, tmp_path / "w.mkv", FFV1, 2).notes
    assert ["frame times rounded to 1/1000 s" in note for note in notes] == [True]
    source = make_clip(tmp_path / "a.mp4", ClipSpec(rate=Fraction(30000, 1001)))
    assert copy(source, tmp_path / "b.mkv", FFV1, 2).notes == []
    expected = [Fraction(index * 1001, 60000) for index in range(20)]
    for found, exact in zip(seconds(tmp_path / "b.mkv"), expected, strict=True):
        assert abs(found - exact) <= Fraction(1, 2000)
    even = make_clip(tmp_path / "c.mp4", ClipSpec(audio=True))
    assert copy(even, tmp_path / "d.mkv", FFV1, 2).notes == []
    assert seconds(tmp_path / "d.mkv") == [Fraction(index, 50) for index in range(20)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("start", [0, 38])
def test_sound_is_copied_byte_for_byte_at_its_time(tmp_path, suffix, start):
    spec = ClipSpec(audio=True, times=tuple(range(start, start + 50)))
    source = make_clip(tmp_path / f"a{suffix}", spec)
    copy(source, tmp_path / f"b{suffix}", LOSSLESS, 2)
    assert payloads(tmp_path / f"b{suffix}", "audio") == payloads(source, "audio")
    assert seconds(tmp_path / f"b{suffix}")[0] == Fraction(start, 25)


def test_sound_and_picture_are_interleaved(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(audio=True, count=250))
    copy(source, tmp_path / "b.mp4", LOSSLESS)
    with av.open(str(tmp_path / "b.mp4")) as output:
        packets = sorted(
            (packet.pos, packet.stream.type, float(packet.dts * packet.time_base))
            for packet in output.demux()
            if packet.size
        )
    times = {"video": 0.0, "audio": 0.0}
    for _, kind, time in packets:
        times[kind] = time
        assert abs(times["video"] - times["audio"]) < 2.5


def test_a_broadcast_clock_starts_anew_with_sound_in_step(tmp_path):
    spec = ClipSpec(audio=True, count=25, times=tuple(range(100, 125)))
    source = make_clip(tmp_path / "a.ts", spec)
    copy(source, tmp_path / "b.mp4", LOSSLESS)
    lag = payloads(source, "audio")[5][1] - seconds(source)[0]
    assert payloads(tmp_path / "b.mp4", "audio")[5][1] - seconds(tmp_path / "b.mp4")[0] == (
        pytest.approx(lag, abs=1e-4)
    )
    assert seconds(tmp_path / "b.mp4")[0] < 5


def test_damaged_sound_does_not_stop_the_video(tmp_path):
    source = make_clip(tmp_path / "a.ts", ClipSpec(audio=True, count=50))
    content = bytearray(source.read_bytes())
    headers = [at for at in range(len(content) - 1) if content[at : at + 2] == b"\xff\xf1"]
    for at in headers[10:20]:
        content[at + 2 : at + 8] = b"\0" * 6
    source.write_bytes(content)
    notes = copy(source, tmp_path / "b.mp4", LOSSLESS).notes
    assert any("damaged packets of sound" in note for note in notes)
    assert len(read(tmp_path / "b.mp4")[0]) == 50


@pytest.fixture
def png(tmp_path):
    write_picture(tmp_path / "cover.png", np.full((8, 8, 3), 90, np.uint8))
    return (tmp_path / "cover.png").read_bytes()


def rich(png, **more):
    return ClipSpec(
        count=25,
        audio=True,
        subtitles=True,
        chapters=True,
        rotation=90,
        cover=png,
        aspect=Fraction(4, 3),
        metadata={"title": "A title"},
        **more,
    )


def outline(path):
    """What a file holds beside pictures, comparable between files."""
    with av.open(str(path)) as file:
        _, info = read(path)
        return {
            "title": file.metadata["title"],
            "chapters": [
                (
                    c["metadata"]["title"],
                    c["start"] * c["time_base"],
                    c["end"] * c["time_base"],
                )
                for c in file.chapters()
            ],
            "streams": [
                (s.type, s.codec_context and s.codec_context.name, s.language, s.disposition)
                for s in file.streams
            ],
            "attachments": [(s.name, s.mimetype, s.data) for s in file.streams.attachments],
            "shape": (info.sample_aspect_ratio, info.display_matrix, info.width, info.height),
        }


def test_mp4_keeps_everything(tmp_path, png):
    source = make_clip(tmp_path / "a.mp4", rich(png))
    writer = copy(source, tmp_path / "b.mp4", LOSSLESS, 2)
    assert writer.notes == []
    assert outline(tmp_path / "b.mp4") == outline(source)
    assert payloads(tmp_path / "b.mp4", "subtitle") == payloads(source, "subtitle")


def test_matroska_keeps_everything(tmp_path, png):
    source = make_clip(tmp_path / "a.mkv", rich(png, attachment=b"glyphs" * 50))
    writer = copy(source, tmp_path / "b.mkv", LOSSLESS, 2)
    assert writer.notes == []
    assert outline(tmp_path / "b.mkv") == outline(source)
    assert payloads(tmp_path / "b.mkv", "subtitle") == payloads(source, "subtitle")


def test_what_the_container_cannot_hold_is_named(tmp_path, png):
    source = make_clip(tmp_path / "a.mkv", rich(png, attachment=b"glyphs"))
    notes = copy(source, tmp_path / "b.mp4").notes
    assert len(notes) == 2
    assert "subtitle stream 2 (srt, eng) converted to mov_text" in notes[0]
    assert "attachment stream 4 (font.ttf) left out" in notes[1]
    assert "matroska can" in notes[1]
    with av.open(str(tmp_path / "b.mp4")) as output:
        kinds = [stream.type for stream in output.streams if stream.type != "data"]
    assert kinds == ["video", "audio", "subtitle", "video"]


def test_a_cover_moves_from_mp4_to_matroska(tmp_path, png):
    spec = dataclasses.replace(rich(png), subtitles=False, aspect=None)
    source = make_clip(tmp_path / "a.mp4", spec)
    assert copy(source, tmp_path / "b.mkv", FFV1).notes == []
    with av.open(str(tmp_path / "b.mkv")) as output:
        cover = output.streams.video[1]
        assert next(bytes(packet) for packet in output.demux(cover)) == png


@pytest.mark.parametrize(("encoding", "suffix"), [(LOSSLESS, ".mp4"), (FFV1, ".mkv")])
@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"colorspace": 1, "color_range": 1, "primaries": 1, "transfer": 1},
        {"colorspace": 6, "color_range": 1, "primaries": 6, "transfer": 6},
        {"colorspace": 9, "color_range": 1, "primaries": 9, "transfer": 16},
        {"colorspace": 5, "color_range": 2, "primaries": 5, "transfer": 6},
    ],
)
def test_colour_tags_are_kept(tmp_path, encoding, suffix, tags):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=2, **tags))
    copy(source, tmp_path / f"b{suffix}", encoding)
    assert read(tmp_path / f"b{suffix}")[1].color == read(source)[1].color


def test_ten_bit_hdr_is_kept_by_default(tmp_path):
    tags = {"colorspace": 9, "color_range": 1, "primaries": 9, "transfer": 16}
    spec = ClipSpec(codec="libx265", pix_fmt="yuv420p10le", count=4, **tags)
    source = make_clip(tmp_path / "a.mp4", spec)
    writer = copy(source, tmp_path / "b.mp4")
    found, expected = read(tmp_path / "b.mp4")[1], read(source)[1]
    assert (writer.codec, found.pix_fmt, found.color) == ("libx265", "yuv420p10le", expected.color)
    with av.open(str(tmp_path / "b.mp4")) as output:
        assert output.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(
    ("pix_fmt", "suffix", "codec"),
    [
        ("yuv420p", ".mp4", "libvpx-vp9"),
        ("yuv420p10le", ".mp4", "libsvtav1"),
        ("yuv444p", ".mp4", "libx264"),
        ("yuv422p10le", ".mkv", "libx265"),
        ("yuv420p", ".webm", "libvpx-vp9"),
        ("yuv420p16le", ".mkv", "ffv1"),
        ("gray", ".mp4", "libx264"),
    ],
)
def test_odd_sizes_are_kept_by_default(tmp_path, pix_fmt, suffix, codec):
    spec = ClipSpec(codec="ffv1", pix_fmt=pix_fmt, width=65, height=49, count=3)
    source = make_clip(tmp_path / "a.mkv", spec)
    writer = copy(source, tmp_path / f"b{suffix}")
    frames, info = read(tmp_path / f"b{suffix}")
    assert (writer.codec, len(frames)) == (codec, 3)
    assert (info.width, info.height) == (65, 49)
    with av.open(str(tmp_path / f"b{suffix}")) as output:
        stream = output.streams.video[0]
        assert (stream.codec_context.width, stream.codec_context.height) == (65, 49)
    truth = picture(0, 65, 49, pix_fmt)[0].astype(float)
    assert np.abs(frames[0].planes[0] - truth).mean() < 0.02 * truth.max()


@pytest.mark.parametrize("size", [(65, 48), (64, 49), (65, 49), (17, 17)])
def test_h264_takes_odd_sizes_with_repeated_chroma(tmp_path, size):
    width, height = size
    spec = ClipSpec(codec="ffv1", width=width, height=height, count=3)
    source = make_clip(tmp_path / "a.mkv", spec)
    writer = copy(source, tmp_path / "b.mp4", LOSSLESS)
    assert "encoded as yuv4" in writer.notes[0]
    frames, info = read(tmp_path / "b.mp4")
    assert (info.width, info.height) == size
    across, down = (1 - shift for shift in info.chroma_shift)
    thinned = [
        dataclasses.replace(
            f,
            planes=(f.planes[0], *(p[:: 1 << down, :: 1 << across] for p in f.planes[1:])),
        )
        for f in frames
    ]
    assert_same_planes(thinned, read(source)[0])


def test_prores_gets_a_deeper_format_that_holds_every_sample(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=2))
    writer = copy(source, tmp_path / "b.mov", Encoding(codec="prores_ks"))
    assert "yuv422p10le" in writer.notes[0]
    assert read(tmp_path / "b.mov")[1].pix_fmt == "yuv422p10le"


@pytest.mark.parametrize(
    ("encoding", "error", "words"),
    [
        (Encoding(codec="no-such"), OptionsError, "no encoder `no-such`"),
        (Encoding(codec="ffv1", crf=3), OptionsError, "no constant-quality setting"),
        (Encoding(codec="prores_ks"), OptionsError, "`prores_ks` video into mp4"),
        (Encoding(codec="libx264", crf=3, container="webm"), OptionsError, "into webm"),
        (Encoding(codec="aac"), OptionsError, "`aac` is not a video encoder"),
        (Encoding(codec="libx264", crf=-9999), VideoError, "cannot open encoder `libx264`"),
    ],
)
def test_impossible_encodings_are_refused(tmp_path, encoding, error, words):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=2))
    with pytest.raises(error) as caught:
        copy(source, tmp_path / "b.mp4", encoding)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_a_hardware_encoder_without_hardware_is_explained(tmp_path, pix_fmt):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(codec="ffv1", pix_fmt=pix_fmt, count=2))
    encoding = Encoding(codec="hevc_nvenc")
    if has_nvenc():
        assert copy(source, tmp_path / "b.mp4", encoding).notes == []
        return
    with pytest.raises(VideoError, match="cannot open encoder `hevc_nvenc`") as caught:
        copy(source, tmp_path / "b.mp4", encoding)
    assert "NVIDIA" in caught.value.hint


def has_nvenc():
    context = av.CodecContext.create("hevc_nvenc", "w")
    context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
    context.time_base = Fraction(1, 25)
    with suppress(av.FFmpegError):
        context.open()
    return context.is_open


def test_depth_is_never_lost(tmp_path):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(codec="ffv1", pix_fmt="yuv444p12le", count=2))
    with pytest.raises(VideoError, match="yuv444p12le without loss"):
        copy(source, tmp_path / "b.mp4", Encoding(codec="libx264"))


def test_unknown_suffix_names_those_known():
    with pytest.raises(OptionsError, match=r"`\.xyz` is not supported") as caught:
        container_for(Path("out.xyz"))
    assert "videos end in .mp4, .m4v" in caught.value.hint


@pytest.mark.parametrize(
    ("target", "words"),
    [("missing/b.mp4", "no such file or folder"), ("folder.mp4", "it is a folder")],
)
def test_unwritable_targets_are_explained(tmp_path, target, words):
    (tmp_path / "folder.mp4").mkdir()
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=2))
    with pytest.raises(VideoError, match=words) as caught:
        copy(source, tmp_path / target)
    assert caught.value.hint
    assert str(tmp_path / target) in caught.value.message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_a_full_disk_is_explained(tmp_path, container):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=30, width=320, height=240, audio=True))
    encoding = Encoding(codec="libx264", crf=0, container=container)
    before = open_files()
    with pytest.raises(VideoError, match="no space left on the device") as caught:
        copy(source, Path("/dev/full"), encoding)
    assert "free some space" in caught.value.hint
    assert open_files() == before


def test_a_small_file_system_fills_up(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("MOUNT NOT ALLOWED: the full-disk test needs a small tmpfs")
    try:
        spec = ClipSpec(count=30, width=320, height=240)
        source = make_clip(tmp_path / "a.mp4", spec)
        with pytest.raises(VideoError, match="no space left on the device"):
            copy(source, disk / "b.mp4", LOSSLESS)
        (disk / "b.mp4").unlink()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def open_files():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def track_of(info, container="mp4", **times):
    times = {"time_base": info.time_base, "rate": info.rate} | times
    return Track(info, encoding=Encoding(container=container), **times)


def test_leaving_by_an_exception_closes_everything(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(audio=True))
    frames, info = read(source)
    before = open_files()
    writer = SegmentWriter(tmp_path / "b", track_of(info), tmp_path / "b.mp4")
    with suppress(RuntimeError), writer:
        writer.write(frames[0])
        raise RuntimeError
    assert open_files() == before
    with pytest.raises(VideoError, match="damaged"):
        join(
            [(tmp_path / "b", SOME_TIMES)],
            tmp_path / "c.mp4",
            track_of(info),
            source,
            Path("c"),
            Timeline(),
        )
    assert open_files() == before
    (tmp_path / "b").unlink()


SOME_TIMES = Segment(pts=(0, 512), end_pts=1024, rounded=0)


def test_a_shortened_segment_is_refused(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(audio=True))
    frames, info = read(source)
    with SegmentWriter(tmp_path / "b", track_of(info), tmp_path / "b.mp4") as writer:
        writer.write(frames[0])
        assert writer.finish().pts == (0,)
    with pytest.raises(VideoError, match="1 of 2 frames are left") as caught:
        join(
            [(tmp_path / "b", SOME_TIMES)],
            tmp_path / "c.mp4",
            track_of(info),
            source,
            Path("c"),
            Timeline(),
        )
    assert "run the same command again" in caught.value.hint
    assert caught.value.path == tmp_path / "b"


def test_a_rehearsal_finds_what_cannot_be_joined(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(audio=True))
    info = read(source)[1]
    before = open_files()
    rehearse(track_of(info), source, tmp_path / "b.mp4", Timeline())
    with pytest.raises(VideoError, match="cannot open encoder"):
        rehearse(
            Track(
                info,
                time_base=info.time_base,
                rate=info.rate,
                encoding=Encoding(codec="libx264", crf=-9999, container="mp4"),
            ),
            source,
            tmp_path / "b.mp4",
            Timeline(),
        )
    assert open_files() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_frame_of_the_wrong_shape_is_refused(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=1))
    frames, info = read(source)
    luma, blue, red = frames[0].planes
    bad = Frame(index=0, pts=0, duration=1, planes=(luma, blue[1:], red))
    with (
        pytest.raises(ValueError, match="plane 1"),
        SegmentWriter(tmp_path / "b", track_of(info), tmp_path / "b.mp4") as writer,
    ):
        writer.write(bad)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_encoders_print_nothing(tmp_path, codec, capfd):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=3))
    copy(source, tmp_path / "b.mp4", Encoding(codec=codec))
    assert capfd.readouterr() == ("", "")


def test_ffprobe_agrees(tmp_path):
    if shutil.which("ffprobe") is None:
        pytest.skip("FFPROBE MISSING: a second opinion on times and duration is not to be had")
    source = make_clip(tmp_path / "a.mp4", ClipSpec(rate=Fraction(30000, 1001), audio=True))
    copy(source, tmp_path / "b.mp4", LOSSLESS, 2)
    command = ["ffprobe", "-v", "error", "-select_streams", "v", "-of", "csv=p=0"]
    shown = (
        subprocess.run(
            [*command, "-show_entries", "frame=pts_time", str(tmp_path / "b.mp4")],
            capture_output=True,
            text=True,
            check=True,
        )
        .stdout.replace(",", "")
        .split()
    )
    assert len(shown) == 20
    for index, text in enumerate(shown):
        assert float(text) == pytest.approx(index * 1001 / 60000, abs=1e-6)


def test_ticks_too_fine_for_ffmpeg_are_rounded_with_a_note(tmp_path):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=3))
    frames, info = read(source)
    track = track_of(info, time_base=Fraction(1, 3_000_000_000))
    with SegmentWriter(tmp_path / "b", track, tmp_path / "b.mp4") as writer:
        for index, frame in enumerate(frames):
            moved = dataclasses.replace(frame, pts=index * 100_000_001, duration=100_000_001)
            writer.write(moved)
        piece = (tmp_path / "b", writer.finish())
    notes = join([piece], tmp_path / "b.mp4", track, source, tmp_path / "b.mp4", Timeline()).notes
    assert "rounded to 1/1000000 s" in notes[0]
    for before, after in pairwise(seconds(tmp_path / "b.mp4")):
        assert float(after - before) == pytest.approx(1 / 30, abs=1e-5)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        *(("libx264", suffix) for suffix in (".mkv", ".avi", ".ts", ".mp4")),
        *(("libx265", suffix) for suffix in (".mkv", ".ts", ".mp4")),
        *(("libvpx-vp9", suffix) for suffix in (".mkv", ".webm", ".mp4")),
        *(("ffv1", suffix) for suffix in (".mkv", ".avi", ".nut")),
    ],
)
def test_a_join_cannot_be_seen(tmp_path, codec, suffix):
    """Decoding times run on without a step back, and FFmpeg has nothing to say on decoding."""
    spec = ClipSpec(times=variable_times(30, seed=3), time_base=Fraction(1, 30000), audio=True)
    source = make_clip(tmp_path / "a.mp4", spec)
    target = tmp_path / f"b{suffix}"
    copy(source, target, Encoding(codec=codec), 2, every=4)
    with av.open(str(target)) as output:
        packets = [(packet.dts, packet.pts) for packet in output.demux(video=0) if packet.size]
    known = [dts for dts, _ in packets if dts is not None]  # Matroska does not store them
    assert all(after > before for before, after in pairwise(known))
    assert all(None in (pts, dts) or pts >= dts for dts, pts in packets)
    frames, _ = read(target)
    assert len(frames) == 60
    if shutil.which("ffmpeg"):
        times = ["-fps_mode", "passthrough", "-enc_time_base", "1:1000000"]
        command = ["ffmpeg", "-v", "warning", "-i", str(target), *times, "-f", "null", "-"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert "non monoton" not in said.lower(), said
        assert "error" not in said.lower(), said


@pytest.mark.slow
def test_real_clips_round_trip(shared, tmp_path):
    for source in sorted((shared / "data" / "val").rglob("*.mp4"))[:6]:
        copy(source, tmp_path / "b.mp4", LOSSLESS, 2)
        found, expected = seconds(tmp_path / "b.mp4"), seconds(source)
        assert found[::2] == expected, source
