"""The command line: exit codes, one-line errors, defaults, progress, interruption."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video import display
from sepconv_video.batch import Progress
from sepconv_video.cli import main
from sepconv_video.interrupts import GracefulStop
from sepconv_video.options import Job
from sepconv_video.video import Reader, pipes, write_picture


def run(*arguments, capsys):
    """Exit code, stdout and stderr of the command line, run in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.fixture(autouse=True)
def keep_signal_handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_default_output_lies_beside_the_input(tmp_path, capsys):
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=3))
    code, out, err = run(source, capsys=capsys)
    assert (code, out) == (0, "")
    assert "3 frames became 6" in err
    assert names(tmp_path) == ["clip.2x.mp4", "clip.mp4"]
    assert run(source, "--factor", 4, "--quiet", capsys=capsys) == (0, "", "")
    with Reader(tmp_path / "clip.4x.mp4") as reader:
        assert len(list(reader.frames())) == 12


def test_a_folder_is_mirrored_and_one_bad_file_stops_nothing(tmp_path, capsys):
    clips = tmp_path / "clips"
    (clips / "deep" / "er").mkdir(parents=True)
    make_clip(clips / "a.mp4", ClipSpec(count=2))
    make_clip(clips / "deep" / "er" / "b.mkv", ClipSpec(count=2))
    (clips / "deep" / "bad.mp4").write_text("no video")
    (clips / "notes.txt").write_text("no video")
    (clips / ".hidden.mp4").write_text("no video")
    code, _, err = run(clips, "-o", tmp_path / "out", capsys=capsys)
    assert code == 1
    assert names(tmp_path / "out") == ["a.mp4", "deep/er/b.mkv", "report.json"]
    assert err.count("error: ") == 1
    assert "bad.mp4" in err


def test_a_folder_of_one_video_makes_its_output_folder_too(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips" / "a.mp4", ClipSpec(count=2))
    code, _, _ = run(tmp_path / "clips", "-o", tmp_path / "new" / "out", capsys=capsys)
    assert code == 0
    assert names(tmp_path / "new") == ["out/a.mp4", "out/report.json"]


def test_a_target_that_ends_with_a_slash_is_a_folder(tmp_path, capsys):
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2))
    code, _, _ = run(source, "-o", f"{tmp_path}/new/out/", capsys=capsys)
    assert code == 0
    assert names(tmp_path / "new") == ["out/clip.2x.mp4", "out/report.json"]
    code, _, err = run(source, "-o", f"{source}/", capsys=capsys)
    assert code == 2
    assert "cannot make the folder" in err


def test_two_pictures(tmp_path, capsys):
    for name, level in (("a", 10), ("b", 90)):
        write_picture(tmp_path / f"{name}.png", np.full((20, 30, 3), level, np.uint8))
    code, _, err = run(
        tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "middle.png", capsys=capsys
    )
    assert (code, err) == (0, f"wrote `{tmp_path / 'middle.png'}`\n")
    pair = [tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "no.png"]
    for option in ("--devices", "--shard", "--ray", "--pattern"):
        code, _, err = run(*pair, option, "1/2", capsys=capsys)
        assert code == 2
        assert f"{option} is for videos" in err
    code, _, err = run(tmp_path / "a.png", "-o", tmp_path / "no.png", capsys=capsys)
    assert code == 2
    assert "give both and an output" in err


def make_audio_only(path):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", 44100, layout="mono")
        silence = np.zeros((1, 1024), np.float32)
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, 1024 * index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def make_truncated(path):
    whole = make_clip(path.with_name("whole.mp4"), ClipSpec(count=30))
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()


BAD_INPUTS = {
    "no such file": lambda path: None,
    "folder without videos": lambda path: path.mkdir(),
    "audio only": make_audio_only,
    "text": lambda path: path.write_text("this is not a video\n" * 100),
    "zero bytes": lambda path: path.touch(),
    "truncated without index": make_truncated,
    "one frame": lambda path: make_clip(path, ClipSpec(count=1)),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_input_is_one_line_with_a_hint(tmp_path, capsys, kind):
    source = tmp_path / "in" / "source.mp4"
    source.parent.mkdir()
    BAD_INPUTS[kind](source)
    before = names(tmp_path)
    content = source.read_bytes() if source.is_file() else b""
    (tmp_path / "out").mkdir()
    code, out, err = run(source, "-o", tmp_path / "out" / "target.mp4", capsys=capsys)
    assert code == (2 if kind == "folder without videos" else 1)
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3, err
    assert lines[0].startswith("error: ")
    assert "source.mp4" in lines[0]
    assert lines[2].startswith("hint: ")
    assert names(tmp_path) == before
    assert content == (source.read_bytes() if source.is_file() else b"")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--model", "nope"], 2, "unknown model `nope`"),
        (["--model", "{bad}"], 1, "cannot read weights from"),
        (["--factor", "3"], 2, "'3' is not one of"),
        (["--fps", "60", "--factor", "2"], 2, "exclude each other"),
        (["--fps", "many"], 2, "not a number of frames per second"),
        (["--fps", "1e99999999"], 2, "not a number of frames per second"),
        (["--source-fps", "1e400"], 2, "not a number of frames per second"),
        (["--source-fps", "25"], 2, "--source-fps is for numbered pictures and raw video"),
        (["--fps", "1/0"], 2, "not a number of frames per second"),
        (["--shard", "1/0"], 2, "is not like 1/4"),
        (["--shard", f"{'9' * 5000}/3"], 2, "is not like 1/4"),
        (["--shard", ""], 2, "is not like 1/4"),
        (["--fps", "60", "--slowmo"], 2, "exclude each other"),
        (["--start", "soon"], 2, "is not a time"),
        (["--start", "3", "--end", "2"], 2, "nothing lies between"),
        (["--device", "cuda:77"], 1, "no device `cuda:77`"),
        (["--device", "tpu"], 2, "unknown device `tpu`"),
        (["--precision", "fp16", "--device", "cpu"], 2, "slower than fp32"),
        (["--devices", " , "], 2, "names no device"),
        (["--devices", ""], 2, "names no device"),
        (["--batch", "0"], 2, "0 is not in the range"),
        (["--tile", "5"], 2, "tiles of 5 pixels are too small"),
        (["--tile", "-300"], 2, "tiles of -300 pixels are too small"),
        (["--codec", "nonesuch"], 2, "nonesuch"),
        (["-o", "{tmp}/no/such/folder/x.mp4"], 2, "there is no folder"),
        (["-o", ""], 2, "the name is empty"),
        ([""], 2, "the name is empty"),
        (["--ray", ""], 2, "--ray has an empty address"),
        (["-o", "{tmp}/clip.mp4"], 2, "the source itself"),
        (["-o", "{tmp}/target.nonsense"], 2, "nonsense"),
    ],
)
def test_bad_options(tmp_path, capsys, arguments, code, text):
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2))
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"junk")
    before = names(tmp_path)
    arguments = [part.format(bad=bad, tmp=tmp_path) for part in arguments]
    found, _, err = run(source, *arguments, capsys=capsys)
    assert text in err
    assert found == code
    assert "Traceback" not in err
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["clip.mp4", "-o", "x.mp4", "--device", "cuda:77"], 1, "no device"),
        (["clip.mp4", "-o", "x.mp4", "--model", "nope"], 2, "unknown model"),
        (["clip.mp4", "-o", "x.mp4", "--codec", "x"], 2, None),
        (["-", "-o", "x.mp4"], 1, "cannot read `-`"),
        (["empty", "-o", "x"], 2, "there is no video"),
        (["clip.mp4", "--fps", "many"], 2, "not a number of frames"),
        (["clip.mp4", "--devices", ","], 2, "names no device"),
        (["a.png", "b.png", "-o", "c.png"], 2, "--json is for videos"),
    ],
)
def test_events_tell_the_end_whatever_it_is(tmp_path, capsys, monkeypatch, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", ClipSpec(count=2))
    (tmp_path / "empty").mkdir()
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(pipes, "_STDIN", nothing.fileno())
        found, out, err = run(*arguments, "--json", capsys=capsys)
    events = [json.loads(line) for line in out.splitlines()]
    assert found == code
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("end", code)
    if text is None:  # a file that failed ends nothing
        assert [event["event"] for event in events] == ["start", "file", "end"]
    else:
        assert events[-2]["event"] == "error"
        assert text in events[-2]["error"]
        assert text in err


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "--json >/dev/full"])
def test_what_nobody_can_read_ends_no_work(tmp_path, where):
    source, target = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2)), tmp_path / "out.mp4"
    command = f"{sys.executable} -m sepconv_video {source} -o {target} {where}"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert target.exists()
    assert done.stderr.count("no more events: cannot write to stdout: no space") == (
        "json" in where
    )


def test_that_pieces_are_of_no_use_is_told_while_they_are_there(tmp_path, capsys):
    source, target = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2)), tmp_path / "out.mp4"
    assert run(source, "-o", target, "--keep-parts", capsys=capsys)[0] == 0
    target.unlink()
    _, _, err = run(source, "-o", target, "--crf", 20, capsys=capsys)
    told, written = err.index("Ctrl-C before then keeps them"), err.index("wrote")
    assert err.index("started afresh: the crf changed from none to 20") < told < written
    assert err.count("started afresh") == 1


def test_progress_names_the_file_and_the_table_what_failed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(display, "PLAIN_PROGRESS_S", 1e-9)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        make_clip(tmp_path / "in" / f"{name}.mp4", ClipSpec(count=3))
    (tmp_path / "in" / "c.mp4").write_bytes(b"x")
    code, _, err = run(tmp_path / "in", "-o", tmp_path / "out", capsys=capsys)
    assert code == 1
    assert re.search(r"^2/3 b\.mp4: \d/6 frames, ", err, re.M)
    assert re.search(r"^failed .*c\.mp4: cannot read", err, re.M)


def test_waiting_for_the_first_frame_is_explained(capsys, monkeypatch):
    monkeypatch.setattr(display, "PATIENCE_S", 0.01)
    job = Job(source="a.mp4", target="b.mp4")
    with display.display(quiet=False, as_json=False) as shown:
        shown.start([job])
        time.sleep(0.5)
        shown.progress(Progress(job=job, done=1, kept=0, expected=2))
    with display.display(quiet=True, as_json=False) as shown:
        shown.start([job])
        time.sleep(0.1)
    assert capsys.readouterr().err.count("compiles its kernels") == 1


def test_several_pictures_between_two_may_need_a_new_folder(tmp_path, capsys):
    for name, level in (("a", 10), ("b", 90)):
        write_picture(tmp_path / f"{name}.png", np.full((20, 30, 3), level, np.uint8))
    between = tmp_path / "new" / "%d.png"
    pair = tmp_path / "a.png", tmp_path / "b.png"
    code, _, err = run(*pair, "--factor", 4, "-o", between, capsys=capsys)
    assert (code, err) == (0, f"wrote `{between.parent / '1.png'}` to `3.png`\n")
    assert [path.name for path in sorted(between.parent.iterdir())] == ["1.png", "2.png", "3.png"]


def test_a_shard_of_nothing_says_so(tmp_path, capsys):
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2))
    code, _, err = run(source, "--shard", "2/4", capsys=capsys)
    assert (code, err) == (0, "nothing to do: there are fewer files than shards\n")


def test_a_target_that_kept_its_pieces_is_known_to_be_complete(tmp_path, capsys):
    source, target = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2)), tmp_path / "out.mp4"
    assert run(source, "-o", target, "--keep-parts", capsys=capsys)[0] == 0
    before = target.stat().st_mtime_ns
    code, out, err = run(source, "-o", target, "--keep-parts", "--json", capsys=capsys)
    assert code == 0
    assert "is already complete" in err
    states = [json.loads(line).get("state") for line in out.splitlines()]
    assert states == [None, "skipped", None]
    assert target.stat().st_mtime_ns == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path, capsys):
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2))
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run(source, "-o", tmp_path / "locked" / "x.mp4", capsys=capsys)
    assert code == 1
    assert "cannot write" in err


def test_unwritable_target_for_root_too(tmp_path, capsys):
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=2))
    code, _, err = run(source, "-o", "/proc/x.mp4", capsys=capsys)
    assert code == 1
    assert err.startswith("error: cannot write `/proc/x.mp4`")
    assert "hint: " in err


def test_a_truncated_clip_is_made_as_far_as_it_goes(tmp_path, capsys):
    spec = ClipSpec(count=40, codec="mpeg4", options={"g": "5"})
    whole = make_clip(tmp_path / "whole.mkv", spec)
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    code, _, err = run(broken, "-o", tmp_path / "out.mkv", capsys=capsys)
    assert code == 1
    assert f"warning: `{broken}` is damaged" in err
    with Reader(tmp_path / "out.mkv") as reader:
        assert 4 <= len(list(reader.frames())) < 80


def test_debug_shows_the_traceback(tmp_path, capsys):
    code, _, err = run(tmp_path / "none.mp4", "--debug", capsys=capsys)
    assert code == run(tmp_path / "none.mp4", capsys=capsys)[0]
    assert "Traceback" in err
    assert err.splitlines()[-3].startswith("error: cannot read")


def test_list_models_version_and_doctor(capsys):
    assert run("--list-models", capsys=capsys)[1].startswith("fast")
    assert run("--version", capsys=capsys)[1].startswith("sepconv-video 0.")
    code, out, _ = run("--doctor", capsys=capsys)
    assert code == 0
    for word in ("torch", "av", "reference: ok", "cpu: ok", "fast: ok", "cuda"):
        assert word in out


def test_help_is_quick_and_imports_nothing_heavy():
    probe = (
        "import sys; from sepconv_video.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'torch', 'av', 'numba', 'numpy', 'cupy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sepconv_video", "--help"], check=True,
                       capture_output=True)  # fmt: skip
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_keeps_what_is_finished(tmp_path, name, code):
    """Even the segment in hand: it is finished early."""
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=150, width=128, height=96))
    command = [sys.executable, "-m", "sepconv_video", str(source)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("*.parts/*.new")))
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "finished frames" in err
    assert "run the same command again" in err
    parts = tmp_path / "clip.2x.mp4.parts"
    assert {path.suffix for path in parts.iterdir()} == {".json", ".nut", ""}
    assert not (tmp_path / "clip.2x.mp4").exists()
    (part,) = (json.loads(path.read_text()) for path in parts.glob("0*.json"))
    assert 2 <= part["frames"] < 300
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{part['frames']} of them from an earlier run" in done.stderr
    assert names(tmp_path) == ["clip.2x.mp4", "clip.mp4"]
    with Reader(tmp_path / "clip.2x.mp4") as reader:
        assert len(list(reader.frames())) == 300


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def test_the_second_interrupt_ends_at_once(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", ClipSpec(count=150, width=128, height=96))
    command = [sys.executable, "-m", "sepconv_video", str(source)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("*.parts/*.new")))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "clip.2x.mp4" not in names(tmp_path)


@pytest.mark.parametrize(
    ("number", "fault"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_the_third_interrupt_does_not_disturb_the_second(number, fault, capfd):
    before = signal.getsignal(number)
    try:
        with GracefulStop() as stop:
            assert not stop.is_requested()
            signal.raise_signal(number)
            assert (stop.is_requested(), stop.code) == (True, 128 + number)
            assert "once more to stop at once" in capfd.readouterr().err
            with pytest.raises(fault) as caught:
                signal.raise_signal(number)
            signal.raise_signal(number)
        assert fault is KeyboardInterrupt or caught.value.code == 128 + number
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
