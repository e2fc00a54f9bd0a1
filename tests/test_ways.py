"""Ways in and out: numbered pictures, folders of them, pipes; resumed, refused, cut off."""

import json
import os
import pty
import subprocess
import sys
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip, picture, variable_times

from sepconv_video.cli import main
from sepconv_video.engine import Engine
from sepconv_video.errors import Interrupted, OptionsError, VideoError
from sepconv_video.jobs import find_jobs, passed_over
from sepconv_video.options import Job, Options
from sepconv_video.parts import identify
from sepconv_video.pipeline import interpolate_file, interpolate_stream
from sepconv_video.production import Production
from sepconv_video.video import PIPE, Reader, pipes, write_picture

FFMPEG = ["ffmpeg", "-v", "error", "-nostdin"]


@pytest.fixture(scope="module")
def engine():
    """The mean of two frames: quick, and known."""
    return Engine(lambda left, right: (left + right) / 2)


def make(source, target, engine, **options):
    return interpolate_file(
        Job(source=Path(source), target=Path(target)), Options(**options), engine=engine
    )


def make_pictures(folder, count, suffix=".png", size=(24, 32)):
    """A texture that moves to the right, so that no two are equal."""
    folder.mkdir(exist_ok=True)
    x = np.arange(size[1])
    for number in range(count):
        row = 128 + 100 * np.sin((x - number) / 4)
        write_picture(
            folder / f"{number + 1:04d}{suffix}",
            np.broadcast_to(row[None, :, None], (*size, 3)).astype(np.uint8),
        )
    return folder


def probe(path):
    """What ffprobe says of the video stream, its frames counted."""
    found = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)],
        check=True,
        capture_output=True,
    )
    return next(s for s in json.loads(found.stdout)["streams"] if s["codec_type"] == "video")


def rgb(path):
    """Pixels as FFmpeg decodes them."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# numbered pictures


@pytest.mark.parametrize("is_folder", [False, True])
def test_pictures_become_a_video_at_their_rate(tmp_path, engine, is_folder):
    folder = make_pictures(tmp_path / "in", 5)
    source = folder if is_folder else folder / "%04d.png"
    rate = Fraction(24000, 1001)
    report = make(source, tmp_path / "out.mp4", engine, source_fps=rate)
    assert (report.source_frames, report.frames, report.damage) == (5, 10, None)
    found = probe(tmp_path / "out.mp4")
    assert (found["nb_read_frames"], found["r_frame_rate"]) == ("10", "48000/1001")
    assert Fraction(found["duration_ts"]) * Fraction(found["time_base"]) == 5 / rate
    assert names(tmp_path) == [*(f"in/{n:04d}.png" for n in range(1, 6)), "out.mp4"]


def test_a_missing_number_is_damage_and_its_time_stays(tmp_path, engine):
    folder = make_pictures(tmp_path / "in", 5)
    (folder / "0003.png").unlink()
    report = make(folder / "%04d.png", tmp_path / "out.mp4", engine)
    assert (report.source_frames, report.frames) == (4, 8)
    assert report.damage == "1 number missing among the pictures"
    with Reader(tmp_path / "out.mp4") as reader:
        base = reader.info.time_base
        times = [frame.pts * base * 50 for frame in reader.frames()]
    assert times == [0, 1, 2, 4, 6, 7, 8, 9]


def test_pictures_become_more_pictures(tmp_path, engine):
    folder = make_pictures(tmp_path / "in", 4)
    out = tmp_path / "out"
    out.mkdir()
    report = make(folder / "%04d.png", out / "%05d.png", engine)
    assert names(out) == [f"{number:05d}.png" for number in range(1, 9)]
    for number in range(1, 5):
        error = rgb(out / f"{2 * number - 1:05d}.png") - rgb(folder / f"{number:04d}.png") * 1.0
        assert np.abs(error).max() == 0
    assert "numbered pictures have no rate: these are to be shown at 50 a second" in report.notes


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "bmp"])
def test_other_formats_hold_what_png_does(tmp_path, engine, suffix):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=2, pix_fmt="yuv444p"))
    for one in ("png", suffix):
        make(source, tmp_path / f"%d.{one}", engine)
    for number in range(1, 5):
        expected = rgb(tmp_path / f"{number}.png").astype(int)
        error = np.abs(rgb(tmp_path / f"{number}.{suffix}") - expected)
        assert error.mean() <= (2 if suffix == "jpg" else 0)


@pytest.mark.parametrize(("pix_fmt", "stored"), [("yuv420p", "rgb24"), ("yuv420p10le", "rgb48be")])
def test_a_video_becomes_pictures_of_its_depth_and_matrix(tmp_path, engine, pix_fmt, stored):
    codec = "libx264" if pix_fmt == "yuv420p" else "libx265"
    spec = ClipSpec(count=3, codec=codec, pix_fmt=pix_fmt, colorspace=1, color_range=1, audio=True)
    source = make_clip(tmp_path / "a.mp4", spec)
    report = make(source, tmp_path / "o%d.png", engine)
    assert probe(tmp_path / "o6.png")["pix_fmt"] == stored
    assert "other streams left out (1 audio): pictures hold nothing else" in report.notes
    y, u, v = (p.astype(float) / (1 if codec == "libx264" else 4) for p in picture(
        1, spec.width, spec.height, pix_fmt))  # fmt: skip
    mean = (y.mean() - 16) / 219, (u.mean() - 128) / 224, (v.mean() - 128) / 224
    with av.open(str(tmp_path / "o3.png")) as container:
        found = next(container.decode(video=0)).to_ndarray(format="rgb48le") / 65535
    middle = (found > 0.02) & (found < 0.98)
    assert middle.mean() > 0.5  # or clipping would hide what is wrong
    green = mean[0] - 0.1873 * mean[1] - 0.4681 * mean[2]  # BT.709
    assert abs(found[..., 1].mean() - green) < 0.03


def test_a_variable_rate_is_told_to_be_lost(tmp_path, engine):
    spec = ClipSpec(count=6, time_base=Fraction(1, 10_000), times=variable_times(6))
    report = make(make_clip(tmp_path / "a.mp4", spec), tmp_path / "%d.png", engine)
    assert any(note.startswith("times are lost in pictures") for note in report.notes)


def test_existing_pictures_are_replaced_only_on_request(tmp_path, engine):
    folder = make_pictures(tmp_path / "in", 3)
    out = make_pictures(tmp_path / "out", 9)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OptionsError, match="exists already") as caught:
        make(folder, out / "%04d.png", engine)
    assert "no old one is kept" in caught.value.hint
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    report = make(folder, out / "%04d.png", engine, overwrite=True)
    assert "3 older pictures removed, from `0007.png` on" in report.notes
    # a mixture of two runs would be worse than none
    assert names(out) == [f"{number:04d}.png" for number in range(1, 7)]


def test_pictures_are_not_written_over_their_source(tmp_path, engine):
    folder = make_pictures(tmp_path / "in", 3)
    for source in (folder, folder / "%04d.png"):
        with pytest.raises(OptionsError, match="it is the source itself"):
            make(source, folder / "%04d.png", engine, overwrite=True)


def test_an_interrupted_sequence_goes_on(tmp_path, engine, monkeypatch):
    monkeypatch.setattr("sepconv_video.segmenting.SEGMENT_FRAMES", 2)
    folder = make_pictures(tmp_path / "in", 7)
    job = Job(source=folder, target=tmp_path / "%d.png")
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        interpolate_file(job, Options(), engine=engine, should_stop=lambda: next(calls) >= 3)
    assert not list(tmp_path.glob("*.png"))
    report = interpolate_file(job, Options(), engine=engine)
    assert report.kept_frames >= 4
    whole = make(folder, tmp_path / "again%d.png", engine)
    assert whole.kept_frames == 0
    for number in range(1, 15):
        one, other = tmp_path / f"{number}.png", tmp_path / f"again{number}.png"
        assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_a_death_while_pictures_are_moved_is_survived(tmp_path, engine, monkeypatch):
    job = Job(source=make_pictures(tmp_path / "in", 3), target=tmp_path / "%d.png")
    moved, replace = [], Path.replace

    def die(self, target):
        if self.parent.name == "joined.pictures":
            moved.append(self)
            if len(moved) == 4:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            interpolate_file(job, Options(), engine=engine)
    assert len(list(tmp_path.glob("*.png"))) == 3
    report = interpolate_file(job, Options(), engine=engine)
    assert report.frames == 6
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"{n}.png" for n in range(1, 7)]
    assert not list(tmp_path.glob("*.parts"))


def test_a_changed_picture_or_rate_starts_afresh(tmp_path):
    folder = make_pictures(tmp_path / "in", 40)
    before = identify(folder)
    assert identify(folder) == before == identify(folder / "%04d.png")
    status = (folder / "0017.png").stat()
    os.utime(folder / "0017.png", ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
    assert identify(folder) != before
    job = Job(source=folder, target=tmp_path / "out.mp4")
    keys = {Production(job, Options(source_fps=Fraction(n))).parts.key for n in (24, 25)}
    assert len(keys) == 2


# which files are meant


def test_pictures_are_one_job(tmp_path):
    folder = make_pictures(tmp_path / "in", 2)
    target = tmp_path / "new" / "out.mp4"
    assert find_jobs([folder], target, "2x") == [Job(source=folder, target=target)]
    assert target.parent.is_dir()
    pattern = folder / "%04d.png"
    assert find_jobs([pattern], target, "2x") == [Job(source=pattern, target=target)]


def test_a_folder_with_videos_is_one_of_videos(tmp_path, capsys):
    folder = make_pictures(tmp_path / "in", 3)
    make_clip(folder / "clip.mp4", ClipSpec(count=2))
    (job,) = find_jobs([folder], tmp_path / "out", "2x")
    assert job.source == folder / "clip.mp4"
    assert passed_over([folder]) == [f"3 pictures in `{folder}` ignored, as it holds videos too"]
    assert find_jobs([folder], tmp_path / "out", "2x", "*.png")[0].source == folder / "0001.png"


@pytest.mark.parametrize(
    ("output", "reason"), [(None, "cannot choose an output"), ("", "cannot choose an output")]
)
def test_pictures_need_the_name_of_a_target(tmp_path, output, reason):
    folder = make_pictures(tmp_path / "in", 2)
    with pytest.raises(OptionsError, match=reason) as caught:
        find_jobs([folder], None if output is None else tmp_path, "2x")
    assert "-o out/%05d.png" in caught.value.hint


def test_many_sources_do_not_go_into_one_sequence(tmp_path):
    clips = [make_clip(tmp_path / f"{name}.mp4", ClipSpec(count=2)) for name in "ab"]
    with pytest.raises(OptionsError, match="2 were given"):
        find_jobs(clips, tmp_path / "%d.png", "2x")
    with pytest.raises(OptionsError, match="to one sequence"):
        find_jobs([tmp_path], tmp_path / "o" / "%d.png", "2x")


# pipes


@contextmanager
def feeding(monkeypatch, *arguments):
    """Make what FFmpeg writes our standard input."""
    with subprocess.Popen([*FFMPEG, *arguments, "-"], stdout=subprocess.PIPE) as process:
        monkeypatch.setattr(pipes, "_STDIN", process.stdout.fileno())
        yield
        process.stdout.close()


@contextmanager
def piped_to(monkeypatch, *arguments):
    """Make our standard output FFmpeg's input."""
    with subprocess.Popen([*FFMPEG[:3], "-y", *arguments], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(pipes, "_STDOUT", process.stdin.fileno())
        yield
    assert process.returncode == 0


def stream(engine, source=PIPE, target=PIPE, **options):
    job = Job(source=Path(source), target=Path(target))
    return interpolate_stream(job, Options(**options), engine=engine)


Y4M_FORMATS = [
    "yuv420p", "yuv444p", "gray", "yuv420p10le", "yuv422p10le", "yuv444p12le", "gray10le",
]  # fmt: skip


@pytest.mark.parametrize("pix_fmt", Y4M_FORMATS)
def test_y4m_goes_through_bit_by_bit(tmp_path, engine, monkeypatch, pix_fmt):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(count=4, codec="ffv1", pix_fmt=pix_fmt))
    y4m = ("-i", str(source), "-strict", "-1", "-f", "yuv4mpegpipe")
    with (
        feeding(monkeypatch, *y4m),
        piped_to(monkeypatch, "-i", "-", "-c:v", "ffv1", str(tmp_path / "out.nut")),
    ):
        report = stream(engine)
    assert (report.source_frames, report.frames, report.damage) == (4, 8, None)
    found = probe(tmp_path / "out.nut")
    assert (found["pix_fmt"], found["r_frame_rate"]) == (pix_fmt, "50/1")
    with Reader(tmp_path / "out.nut") as reader:
        frames = list(reader.frames())
    for index in range(4):
        for plane, wanted in zip(
            frames[2 * index].planes, picture(index, 64, 48, pix_fmt), strict=True
        ):
            np.testing.assert_array_equal(plane, wanted)


@pytest.mark.parametrize("form", ["nut", "mpegts", "matroska", "yuv4mpegpipe"])
def test_a_pipe_becomes_a_file(tmp_path, engine, monkeypatch, form):
    spec = ClipSpec(count=5, width=96, height=64, audio=True, options={"bf": "0", "qp": "0"})
    source = make_clip(tmp_path / "a.mp4", spec)
    codec = () if form == "yuv4mpegpipe" else ("-c", "copy")
    with feeding(monkeypatch, "-i", str(source), *codec, "-f", form):
        report = stream(engine, target=tmp_path / "out.mp4")
    assert (report.frames, report.damage) == (10, None)
    has_sound = form != "yuv4mpegpipe"
    assert any("other streams left out (1 audio)" in note for note in report.notes) == has_sound
    found = probe(tmp_path / "out.mp4")
    assert (found["nb_read_frames"], Fraction(found["r_frame_rate"])) == ("10", 50)
    assert float(found["start_time"]) == 0
    assert names(tmp_path) == ["a.mp4", "out.mp4"]


def test_a_pipe_becomes_pictures(tmp_path, engine, monkeypatch):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=2))
    with feeding(monkeypatch, "-i", str(source), "-f", "nut"):
        stream(engine, target=tmp_path / "%02d.png")
    assert names(tmp_path) == ["01.png", "02.png", "03.png", "04.png", "a.mp4"]


def test_raw_video_in_and_out(tmp_path, engine, monkeypatch):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(count=3, codec="ffv1"))
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p")
    size = ("-s", "64x48", "-r", "60000/1001")
    target = tmp_path / "out.nut"
    with (
        feeding(monkeypatch, "-i", str(source), *raw),
        piped_to(monkeypatch, *raw, *size, "-i", "-", "-c:v", "ffv1", str(target)),
    ):
        report = stream(
            engine, raw="64x48:yuv420p", source_fps=Fraction(30000, 1001), codec="rawvideo"
        )
    assert "raw video without a header: 64x48:yuv420p at 60000/1001 frames a second" in report.notes
    with Reader(target) as reader:
        frames = list(reader.frames())
    assert len(frames) == 6
    np.testing.assert_array_equal(frames[4].planes[0], picture(2, 64, 48, "yuv420p")[0])


def test_what_y4m_cannot_hold_is_told(tmp_path, engine, monkeypatch):
    spec = ClipSpec(
        count=6, time_base=Fraction(1, 10_000), times=variable_times(6), colorspace=1, rotation=90,
        audio=True,
    )  # fmt: skip
    source = make_clip(tmp_path / "a.mp4", spec)
    with piped_to(monkeypatch, "-i", "-", "-f", "null", "-"):
        notes = stream(engine, source).notes
    text = "\n".join(notes)
    assert "y4m has no place for the colour tags (bt709) and the rotation" in text
    assert "times are lost in y4m" in text
    assert "other streams left out (1 audio): only pictures go through a pipe" in text


@pytest.mark.parametrize("raw", ["64x48", "0x48:yuv420p", "64x48:nonsense", "axb:yuv420p"])
def test_raw_video_must_be_described(raw):
    with pytest.raises(OptionsError, match="is not a size and a pixel format"):
        pipes.raw_options(raw)


def test_a_pipe_that_breaks_off_is_damage(tmp_path, engine, monkeypatch):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=8))
    whole = subprocess.run(
        [*FFMPEG, "-i", str(source), "-f", "yuv4mpegpipe", "-"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    receive, send = os.pipe()
    os.write(send, whole[: len(whole) * 2 // 3])
    os.close(send)
    monkeypatch.setattr(pipes, "_STDIN", receive)
    report = stream(engine, target=tmp_path / "out.mp4")
    os.close(receive)
    assert report.damage
    assert 10 <= int(probe(tmp_path / "out.mp4")["nb_read_frames"]) == report.frames < 16


def test_nothing_and_nonsense_through_a_pipe(tmp_path, engine, monkeypatch):
    for content in (b"", b"this is no video\n" * 50):
        receive, send = os.pipe()
        os.write(send, content)
        os.close(send)
        monkeypatch.setattr(pipes, "_STDIN", receive)
        with pytest.raises(VideoError, match="cannot read `-`") as caught:
            stream(engine, target=tmp_path / "out.mp4")
        os.close(receive)
        assert caught.value.hint
    assert names(tmp_path) == []


def test_a_reader_that_goes_away_ends_it(tmp_path, engine, monkeypatch):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=30, width=256, height=128))
    receive, send = os.pipe()
    os.close(receive)
    monkeypatch.setattr(pipes, "_STDOUT", send)
    with pytest.raises(VideoError, match="cannot write `-`: broken pipe"):
        stream(engine, source)
    os.close(send)


def test_terminals_are_refused(tmp_path, engine, monkeypatch):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=2))
    leader, follower = pty.openpty()
    monkeypatch.setattr(pipes, "_STDOUT", follower)
    monkeypatch.setattr(pipes, "_STDIN", follower)
    with pytest.raises(OptionsError, match="standard output is a terminal"):
        stream(engine, source)
    with pytest.raises(OptionsError, match="standard input is a terminal"):
        stream(engine, target=tmp_path / "out.mp4")
    os.close(leader)
    os.close(follower)


def test_an_interrupted_pipe_leaves_nothing(tmp_path, engine, monkeypatch):
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=8))
    job = Job(source=PIPE, target=tmp_path / "out.mp4")
    with feeding(monkeypatch, "-i", str(source), "-f", "nut"), pytest.raises(Interrupted):
        interpolate_stream(job, Options(), engine=engine, should_stop=lambda: True)
    assert names(tmp_path) == ["a.mp4"]


def test_an_existing_file_is_not_replaced_by_a_pipe(tmp_path, engine):
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(OptionsError, match="exists already"):
        stream(engine, target=tmp_path / "out.mp4")
    with pytest.raises(OptionsError, match="y4m is not encoded"):
        stream(engine, crf=20)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-"], "a target"),
        (["-", "-", "-o", "-"], "one INPUT"),
        (["-", "-o", "-", "--json"], "both want standard output"),
        (["-", "-o", "-", "--shard", "1/2"], "does not work with pipes"),
        (["-", "-o", "-", "--devices", "cpu"], "does not work with pipes"),
        (["a.mp4", "-o", "-", "--raw", "2x2:gray"], "give `-` as INPUT"),
        (["a.mp4", "--raw", "2x2:gray"], "give `-` as INPUT"),
    ],
)
def test_options_without_use_for_pipes_are_refused(arguments, reason, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_whole_chain_in_a_shell(tmp_path):
    """The real command between two FFmpegs, told apart from both by the exit code only."""
    source = make_clip(tmp_path / "a.mp4", ClipSpec(count=4))
    out = tmp_path / "out.mp4"
    chain = (
        f"ffmpeg -v error -i {source} -f yuv4mpegpipe - | {sys.executable} -m sepconv_video - -o - "
        f"| ffmpeg -v error -i - {out}"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", chain], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "wrote `-`: 4 frames became 8" in done.stderr
    assert done.stdout == ""
    assert probe(out)["nb_read_frames"] == "8"


def test_two_pictures_with_several_between(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(Engine, "from_options", lambda options: engine)
    for name, value in (("a", 0), ("b", 200)):
        write_picture(tmp_path / f"{name}.png", np.full((20, 30, 3), value, np.uint8))
    out = tmp_path / "between"
    out.mkdir()
    arguments = [tmp_path / "a.png", tmp_path / "b.png", "--factor", 4, "-o", out / "%02d.png"]
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert left.value.code == 0
    assert names(out) == ["01.png", "02.png", "03.png"]
    means = [rgb(out / name).mean() for name in names(out)]
    assert means == [50, 100, 150]
