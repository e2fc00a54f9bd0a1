"""Files and names made to do harm: refused in one line, or done, in bounded time and memory."""

import os
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import matroska as mkv
import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video.cli import main
from sepconv_video.engine import Engine
from sepconv_video.errors import VideoError
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.video import Reader, is_picture, read_picture, write_picture
from sepconv_video.video.boxes import end_of_boxes, presentation_end
from sepconv_video.video.faults import translated
from sepconv_video.video.source import MOST_STREAMS, open_source


@pytest.fixture(autouse=True)
def average(monkeypatch):
    """No test here is about the network."""
    engine = Engine(lambda left, right: (left + right) / 2)
    monkeypatch.setattr(Engine, "from_options", lambda options: engine)
    return engine


@pytest.fixture(autouse=True)
def in_time(request):
    started = time.monotonic()
    yield
    assert request.node.get_closest_marker("slow") or time.monotonic() - started < 10


def interpolated(source, target, **options):
    engine = Engine(lambda left, right: (left + right) / 2)
    return interpolate_file(Job(source=source, target=target), Options(**options), engine=engine)


def written(path, content):
    path.write_bytes(content)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.err


def png(width, height, rows=None):
    """A black picture of 1 bit per pixel; its header may promise more rows than there are."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    lines = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0),
        b"IDAT": lines + packer.flush(),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def gif(width, height):
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    colours = b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + colours + 3 * frame + b";"


GIANTS = {
    "header.mkv": mkv.matroska([mkv.video_track(16385, 8192)], mkv.clip_of([0, 40])),
    "largest.mkv": mkv.matroska([mkv.video_track(2**31 - 1, 2**31 - 1)], mkv.clip_of([0, 40])),
    "line.mkv": mkv.matroska([mkv.video_track(2**31 - 1, 1)], mkv.clip_of([0, 40])),
    "bomb.mkv": mkv.matroska(
        [mkv.png_track(40_000, 40_000)],
        [mkv.cluster(time, mkv.block(png(40_000, 40_000, 500))) for time in (0, 40)],
    ),
    "bomb.png": png(40_000, 40_000, 500),
    "header.png": png(2**31 - 1, 2**31 - 1, 1),
    "turning.gif": gif(65_535, 65_535),
}


@pytest.mark.parametrize("name", GIANTS)
def test_giant_frames_are_refused_before_memory_is_asked_for(tmp_path, name):
    source = written(tmp_path / name, GIANTS[name])
    open_it = read_picture if is_picture(source) else Reader
    with pytest.raises(VideoError, match="too large: at most 134217728 pixels"):
        open_it(source)


def test_a_container_that_lies_about_the_size_gains_nothing(tmp_path):
    bomb = mkv.cluster(0, mkv.block(png(40_000, 40_000, 500)))
    source = written(tmp_path / "a.mkv", mkv.matroska([mkv.png_track(64, 64)], [bomb, bomb]))
    with pytest.raises(VideoError, match="not one frame can be decoded"):
        Reader(source)


def test_hundreds_of_streams_work_and_thousands_are_refused(tmp_path):
    texts = [mkv.text_track(number) for number in range(2, 5000)]
    clip = mkv.clip_of([0, 40, 80])
    few = mkv.matroska([mkv.video_track(), *texts[: MOST_STREAMS - 1]], clip)
    report = interpolated(written(tmp_path / "few.mkv", few), tmp_path / "out.mkv")
    assert (report.frames, report.notes) == (6, [])
    with open_source(tmp_path / "out.mkv") as made:
        assert len(made.streams) == MOST_STREAMS
    many = written(tmp_path / "many.mkv", mkv.matroska([mkv.video_track(), *texts], clip))
    with pytest.raises(VideoError, match="more than 500 streams"):
        Reader(many)


def test_hundreds_of_covers_take_no_longer_than_one(tmp_path):
    covers = mkv.pictures(MOST_STREAMS - 1, png(8, 8))
    source = mkv.matroska([mkv.video_track()], [covers, *mkv.clip_of([0, 40])])
    started = time.monotonic()
    report = interpolated(written(tmp_path / "a.mkv", source), tmp_path / "b.mkv")
    assert report.notes == []
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "ts", "webm", "nut"])
@pytest.mark.parametrize(
    "times", [(0, 2**62, 2**62 + 40), (2**62, 2**62 + 40, 2**62 + 80), (0, 2**63 - 1, 40)]
)
def test_absurd_times_are_no_times(tmp_path, suffix, times):
    source = written(
        tmp_path / "a.mkv", mkv.matroska([mkv.video_track()], mkv.clip_of(list(times)))
    )
    report = interpolated(source, tmp_path / f"b.{suffix}")
    assert report.frames == 6
    assert any("no usable time" in note for note in report.notes)
    with Reader(tmp_path / f"b.{suffix}") as reader:
        frames = list(reader.frames())
    assert (frames[-1].pts - frames[0].pts) * reader.info.time_base < 10


@pytest.mark.parametrize("gap", [2**31, 2**40, 2**52])
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi", "ts"])
def test_pauses_of_weeks_and_years_end(tmp_path, gap, suffix):
    times = [0, gap, gap + 40]
    source = written(tmp_path / "a.mkv", mkv.matroska([mkv.video_track()], mkv.clip_of(times)))
    target = tmp_path / f"b.{suffix}"
    with suppress(VideoError):
        interpolated(source, target)
    # finished pieces stay, also where the container turns out not to hold their times
    assert names(tmp_path) in (["a.mkv"], ["a.mkv", target.name], ["a.mkv", f"{target.name}.parts"])
    assert not target.exists() or target.stat().st_size < 100_000


@pytest.mark.parametrize("frame_ns", [1, 2**40, 2**63 - 1])
@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_absurd_rates_are_not_believed(tmp_path, frame_ns, suffix):
    track = mkv.video_track(extra=mkv.number("23e383", frame_ns))
    source = written(tmp_path / "a.mkv", mkv.matroska([track], mkv.clip_of([0, 40, 80])))
    with Reader(source) as reader:
        assert 2**-20 <= reader.info.rate <= 2**20
    if (suffix, frame_ns) == ("avi", 2**40):  # by which the last picture stays for 18 minutes
        with pytest.raises(VideoError, match="cannot write a pause of"):
            interpolated(source, tmp_path / "b.avi")
        return
    assert interpolated(source, tmp_path / f"b.{suffix}").frames == 6


@pytest.mark.parametrize("when", [2**62, 2**63 - 1])
def test_sound_at_an_absurd_time_is_left_out(tmp_path, when):
    sound = [mkv.cluster(at, mkv.block(bytes(640), track=2)) for at in (0, when, 40)]
    tracks = [mkv.video_track(), mkv.sound_track(2)]
    source = written(tmp_path / "a.mkv", mkv.matroska(tracks, [*mkv.clip_of([0, 40]), *sound]))
    assert interpolated(source, tmp_path / "b.mkv").frames == 4


def test_absurd_chapters_and_tags(tmp_path):
    parts = [
        mkv.chapters((2**63, 2**64 - 1), (5, 1), (0, 2**63 - 1)),
        mkv.tags({b"NUMBER_OF_FRAMES": b"9" * 5000, b"TITLE": b"x" * 100_000}, 1),
        mkv.tags({b"a\nb\x1b": b"\xff\xfe\n", b"": b""}),
    ]
    content = mkv.matroska([mkv.video_track()], [*parts, *mkv.clip_of([0, 40])])
    source = written(tmp_path / "a.mkv", content)
    for suffix in ("mkv", "mp4", "mov"):
        assert interpolated(source, tmp_path / f"b.{suffix}").frames == 4


def test_boxes_that_claim_to_be_endless(tmp_path):
    endless = struct.pack(">I4sQ", 1, b"free", 2**63)
    inner = struct.pack(">I4sQ", 1, b"trak", 2**64 - 1) + endless
    content = struct.pack(">I4sI4x", 16, b"ftyp", 0)
    header = struct.pack(">I4s16x", 24, b"mvhd")
    content += struct.pack(">I4sQ", 1, b"moov", 2**64 - 1) + header + inner
    path = written(tmp_path / "a.mp4", content)
    assert presentation_end(path, 1) is None
    assert end_of_boxes(path) == 16 + 2**64 - 1


LISTS = {
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "address.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
    "concat.mp4": "ffconcat version 1.0\nfile secret.ts\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_video_cannot_name_other_files_to_be_read(tmp_path, name):
    make_clip(tmp_path / "secret.ts", ClipSpec(count=3))
    (tmp_path / name).write_text(LISTS[name])
    with pytest.raises(VideoError, match="a list of other files or addresses"):
        Reader(tmp_path / name)


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(VideoError, match="a pipe or a device"):
            Reader(path)


def test_too_little_memory_is_an_error_like_others(tmp_path):
    with pytest.raises(VideoError, match="not enough memory"), translated("read", tmp_path):
        raise MemoryError


NAMES = [
    "new\nline.mp4",
    "cr\rtab\t.mp4",
    "-dash.mp4",
    "--overwrite.mp4",
    "..mp4",
    "...mp4",
    "%d.mp4",
    "%03d.png.mp4",
    "12:30.mp4",
    "http:x.mp4",
    "concat:a|b.mp4",
    "'single' \"double\" `back`.mp4",
    "$(touch sprung);.mp4",
    "*?[a]{b}.mp4",
    "back\\slash.mp4",
    " spaces .mp4",
    "esc\x1b[31m.mp4",
    "\u202eright to left.mp4",
    os.fsdecode(b"no utf-8 \xff\xfe.mp4"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, so that names stand at the beginning of arguments."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_read_and_written(folder, capsys, name):
    make_clip(folder / "plain.mp4", ClipSpec(count=2)).rename(folder / name)
    code, _ = run("--", name, capsys=capsys)
    assert code == 0
    made = f"{name.removesuffix('.mp4')}.2x.mp4"
    assert names(folder) == sorted([name, made])
    assert names(folder.parent) == ["work"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_errors_about_any_name_are_one_line(folder, capsys, name):
    (folder / name).write_bytes(b"no video" * 99)
    code, err = run("--", name, capsys=capsys)
    assert code == 1
    assert err.count("\n") == 3  # the error, an empty line, the hint
    assert names(folder) == [name]


@pytest.mark.parametrize("name", ["%d.png", "%03d.png", "*.png", "a\nb.png", "x:y.png"], ids=ascii)
def test_pictures_of_any_name(folder, name):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    write_picture(Path(name), rgb)
    write_picture(folder / "1.png", 255 - rgb)  # what `%d` would stand for
    assert np.array_equal(read_picture(Path(name)), rgb)
    assert names(folder) == sorted([name, "1.png"])


def test_commands_in_hints_can_be_copied_whatever_the_name(folder):
    path = written(folder / "a; rm b.m3u8", b"#EXTM3U\n#EXTINF:1,\na.ts\n")
    with pytest.raises(VideoError) as caught:
        Reader(path)
    assert f"-i '{path}' " in caught.value.hint


def test_a_name_that_no_system_has(tmp_path):
    for name in ("zero\0byte.mp4", "x" * 300 + ".mp4"):
        with pytest.raises(VideoError, match="cannot read"):
            Reader(tmp_path / name)


def test_links_that_lead_round_in_circles(folder, capsys):
    clips = folder / "clips"
    clips.mkdir()
    make_clip(clips / "a.mp4", ClipSpec(count=2))
    (clips / "again").symlink_to(clips)
    (clips / "b.mp4").symlink_to("b.mp4")
    (clips / "c.mp4").symlink_to("d.mp4")
    (clips / "d.mp4").symlink_to("c.mp4")
    code, _ = run("clips", "-o", "out", capsys=capsys)
    assert code == 0
    assert names(folder / "out") == ["a.mp4", "report.json"]
    code, err = run("clips/b.mp4", capsys=capsys)
    assert code == 1
    assert err.startswith("error: cannot read `clips/b.mp4`: ")


def test_a_link_in_the_output_folder_is_replaced_not_followed(folder, capsys):
    make_clip(folder / "a.mp4", ClipSpec(count=2))
    outside = written(folder / "outside.mp4", b"precious")
    (folder / "out").mkdir()
    (folder / "out" / "a.2x.mp4").symlink_to(outside)
    code, _ = run("a.mp4", "-o", "out/", "--overwrite", capsys=capsys)
    assert code == 0
    assert outside.read_bytes() == b"precious"
    assert not (folder / "out" / "a.2x.mp4").is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_broken_files_of_all_kinds(tmp_path, seed):
    """A little of what `scripts/fuzz.py` does by the ten thousand."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, root / "scripts" / "fuzz.py", "--out", tmp_path]
    fuzzed = subprocess.run(
        [*command, "--count", "150", "--seed", str(seed)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert fuzzed.returncode == 0, fuzzed.stdout


def test_what_a_file_says_cannot_take_over_the_terminal(folder, capsys):
    language = mkv.element("22b59c", b"\x1b]0;evil\x07\nerror: lies")
    tracks = [mkv.video_track(), mkv.text_track(2, language)]
    source = mkv.matroska(tracks, mkv.clip_of([0, 40]))
    written(folder / "new\nline.mkv", source)
    code, err = run("new\nline.mkv", "-o", "b\x1b.mp4", capsys=capsys)
    assert code == 0
    assert "converted to mov_text" in err
    assert all(line.isprintable() for line in err.splitlines())
    assert all(line.startswith(("note: ", "wrote ")) for line in err.splitlines())


@pytest.mark.parametrize("length", [240, 248, 300])
def test_names_too_long_for_the_system_are_errors(folder, capsys, length):
    name = "x" * length + ".mp4"
    if length < 252:
        make_clip(folder / "a.mp4", ClipSpec(count=2)).rename(folder / name)
    code, err = run(name, capsys=capsys)
    assert code in {0, 1, 2}  # 0: the name is short enough for the target after all
    assert code == 0 or err.startswith("error: ")
    assert len(names(folder)) <= 2
