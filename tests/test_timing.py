"""Where the time goes: what is counted, in which process, and what the user is told."""

import re
import threading
import time
from types import SimpleNamespace

import pytest
from clips import ClipSpec, make_clip
from test_cli import run

from sepconv_video import timing

LINE = re.compile(r"took (\d+\.\d) s; time in each stage \(they overlap\): (.*)\n")


@pytest.fixture
def measuring():
    timing.enable(True)
    timing.take()
    yield
    timing.enable(False)
    timing.take()


def test_a_stage_within_another_is_no_part_of_it(measuring):
    with timing.busy("network"):
        time.sleep(0.02)
        with timing.busy("operator"):
            time.sleep(0.2)
    taken = timing.take()
    assert taken["operator"] >= 0.2
    assert 0.02 <= taken["network"] < 0.2
    assert set(timing.take().values()) == {0.0}


def test_threads_add_up(measuring):
    def work():
        with timing.busy("decode"):
            time.sleep(0.1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.3 <= timing.take()["decode"] < 1


def test_nothing_is_counted_unasked():
    with timing.busy("decode"):
        time.sleep(0.01)
    assert timing.take()["decode"] == 0


def test_making_items_is_counted_and_using_them_is_not(measuring):
    closed = []

    def items():
        try:
            for number in range(3):
                time.sleep(0.05)
                yield number
        finally:
            closed.append(True)

    timed = timing.each("decode", items())
    assert next(timed) == 0
    time.sleep(0.5)
    assert next(timed) == 1
    timed.close()
    assert closed == [True]
    assert 0.1 <= timing.take()["decode"] < 0.4
    assert list(timing.each("decode", [4, 5])) == [4, 5]


class Stream:
    """A GPU's stream, whose work takes as long as it is told."""

    def __init__(self):
        self.time_ms, self.is_idle, self.waits = 0.0, False, 0

    def event(self):
        stream, at = self, self.time_ms

        class Event:
            time_ms = at

            def query(self):
                return stream.is_idle

            def synchronize(self):
                stream.is_idle, stream.waits = True, stream.waits + 1

            def elapsed_time(self, end):
                assert stream.is_idle, "the times of unfinished work cannot be read"
                return end.time_ms - self.time_ms

        return Event()


def test_a_gpu_is_not_waited_for_before_the_end(measuring, monkeypatch):
    stream, here = Stream(), timing._now
    cuda = SimpleNamespace(type="cuda")
    monkeypatch.setattr(timing, "_now", lambda device: stream.event() if device else here(device))
    with timing.busy("network", cuda):
        stream.time_ms += 1000
        with timing.busy("operator", cuda):
            stream.time_ms += 500
    timing.read_events()
    assert stream.waits == 0
    taken = timing.take()
    assert stream.waits == 2
    assert taken["network"] == pytest.approx(1)
    assert taken["operator"] == pytest.approx(0.5)


def shares(err):
    """Seconds per stage, and of the whole, that the line says."""
    wall, stages = LINE.search(err).groups()
    found = re.findall(r"(\w+) (\d+\.\d\d) s \((\d+)%\)", stages)
    assert [name for name, _, _ in found] == list(timing.STAGES)
    return {name: float(seconds) for name, seconds, _ in found}, float(wall)


def test_verbose_says_where_the_time_went(tmp_path, capsys):
    make_clip(tmp_path / "clip.mp4", ClipSpec(count=6, width=320, height=240))
    code, out, err = run(tmp_path / "clip.mp4", "--device", "cpu", "--verbose", capsys=capsys)
    assert (code, out) == (0, "")
    assert err.endswith(LINE.search(err).group())  # it is the last thing said
    seconds, wall = shares(err)
    assert 0 < seconds["network"] < wall
    assert seconds["operator"] > 0
    # asked for once is not asked for ever
    code, _, err = run(tmp_path / "clip.mp4", "--overwrite", "--no-resume", capsys=capsys)
    assert (code, LINE.search(err)) == (0, None)


def test_verbose_and_quiet_exclude_each_other(tmp_path, capsys):
    make_clip(tmp_path / "clip.mp4", ClipSpec(count=2))
    code, _, err = run(tmp_path / "clip.mp4", "--quiet", "--verbose", capsys=capsys)
    assert code == 2
    assert "--quiet and --verbose" in err


def test_what_workers_took_is_summed_up(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mp4"):
        make_clip(tmp_path / "clips" / name, ClipSpec(count=4, width=160, height=128))
    arguments = ("-o", tmp_path / "out", "--devices", "cpu", "--verbose")
    code, _, err = run(tmp_path / "clips", *arguments, capsys=capsys)
    assert code == 0
    seconds, _ = shares(err)
    assert seconds["network"] > 0
