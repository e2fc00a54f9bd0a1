"""Folders and several workers: each file once, every failure told, nothing done again."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import pytest
from clips import ClipSpec, make_clip, variable_times
from executor_work import (
    AskedToEndWork,
    AverageWork,
    DyingWork,
    FailingBeginningWork,
    FailingWork,
    LostWork,
    SleepingWork,
    UnreadyWork,
)

from sepconv_video import batch, segmenting
from sepconv_video.batch import run_jobs
from sepconv_video.errors import DeviceError, Interrupted, OptionsError, VideoError
from sepconv_video.executor import LocalExecutor
from sepconv_video.folder_report import FORMAT, FolderReport
from sepconv_video.jobs import find_jobs, shard
from sepconv_video.options import Job, Options
from sepconv_video.production import Production
from sepconv_video.video import Reader
from sepconv_video.workers import ProcessExecutor

OPTIONS = Options(codec="ffv1")


def decoded(path):
    with Reader(path) as reader:
        frames = reader.frames()
        return [(frame.pts, *(plane.tobytes() for plane in frame.planes)) for frame in frames]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(("a.mkv", "b.mkv", "sub/c.mkv", "sub/d.mkv")):
        make_clip(folder / name, ClipSpec(count=4 + index, codec="ffv1"))
    return folder


@pytest.fixture
def long_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenting, "SEGMENT_FRAMES", 5)
    monkeypatch.setattr(batch, "SEGMENT_FRAMES", 5)
    return make_clip(tmp_path / "long.mkv", ClipSpec(count=43, codec="ffv1"))


def do(clips, out, executor=None, options=OPTIONS, **more):
    jobs = find_jobs([clips], out, options.factor)
    executor = executor or LocalExecutor(AverageWork("cpu"))
    return {
        result.job.target.name: result
        for result in run_jobs(jobs, options, executor, folder_report=FolderReport(out), **more)
    }


def states(results):
    return {name: result.state for name, result in results.items()}


# ---- finding -------------------------------------------------------------------------------


def test_hidden_foreign_and_own_files_are_left_out(clips):
    (clips / ".hidden").mkdir()
    for name in (".hidden/a.mkv", ".b.mkv", "notes.txt", "out/a.mkv", "x.mkv.parts/00000000.nut"):
        (clips / name).parent.mkdir(exist_ok=True)
        (clips / name).write_text("")
    (clips / "nowhere.mkv").symlink_to(clips / "missing.mkv")
    (clips / "sub" / "loop").symlink_to(clips)
    jobs = find_jobs([clips], clips / "out", "2x")
    assert [str(job.source.relative_to(clips)) for job in jobs] == [
        "a.mkv", "b.mkv", "sub/c.mkv", "sub/d.mkv",
    ]  # fmt: skip
    assert [str(job.target.relative_to(clips / "out")) for job in jobs] == [
        "a.mkv", "b.mkv", "sub/c.mkv", "sub/d.mkv",
    ]  # fmt: skip


def test_what_cannot_be_looked_at_ends_no_search(clips, tmp_path):
    (clips / "e.mkv").symlink_to("x" * 300)  # as what lies in a folder without rights
    jobs = find_jobs([clips], tmp_path / "out", "2x")
    assert [job.source.name for job in jobs] == ["a.mkv", "b.mkv", "e.mkv", "c.mkv", "d.mkv"]
    with pytest.raises(OptionsError, match=r"cannot make the folder `.*`: file name too long"):
        find_jobs([clips], tmp_path / ("x" * 300), "2x")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(OptionsError, match="cannot make the folder"):
        find_jobs([clips], tmp_path / "circle", "2x")


def test_patterns_choose_by_name_or_path_whatever_the_suffix(clips, tmp_path):
    (clips / "raw.dat").write_text("")

    def found(pattern):
        return [job.source.name for job in find_jobs([clips], tmp_path / "out", "2x", pattern)]

    assert found("[ab].mkv") == ["a.mkv", "b.mkv"]
    assert found("sub/*") == ["c.mkv", "d.mkv"]
    assert found("*.dat") == ["raw.dat"]
    with pytest.raises(OptionsError, match=r"no file that matches `\*\.avi`"):
        found("*.avi")


def test_several_inputs_and_globs(clips, tmp_path):
    out = tmp_path / "out"
    jobs = find_jobs([clips / "*.mkv", clips / "sub" / "c.mkv"], out, "4x")
    assert [job.target for job in jobs] == [out / f"{name}.4x.mkv" for name in "abc"]
    assert len(find_jobs([clips / "**" / "*.mkv"], out, "2x")) == 4
    with pytest.raises(OptionsError, match="no file matches"):
        find_jobs([clips / "*.xyz"], out, "2x")
    both = [job.target for job in find_jobs([clips, clips / "sub"], out, "2x")]
    assert {out / "clips" / "sub" / "d.mkv", out / "sub" / "d.mkv"} < set(both)


def test_no_two_sources_become_one_target(clips, tmp_path):
    out = tmp_path / "out"
    shutil.copy(clips / "a.mkv", clips / "a.flv")
    targets = [job.target.name for job in find_jobs([clips], out, "2x")]
    assert targets == ["a.flv.mkv", "a.mkv", "b.mkv", "c.mkv", "d.mkv"]
    assert len(find_jobs([clips / "a.mkv", clips / "a.mkv"], out, "2x")) == 1
    (tmp_path / "other").mkdir()
    for name in ("a.mkv", "a.flv"):
        shutil.copy(clips / "a.mkv", tmp_path / "other" / name)
    both = [folder / name for folder in (clips, tmp_path / "other") for name in ("a.mkv", "a.flv")]
    with pytest.raises(OptionsError, match="would both become"):
        find_jobs(both, out, "2x")


@pytest.mark.parametrize("url", ["s3://bucket/out", "https://example.org/a.mp4", "gs://x/y"])
def test_urls_are_not_taken_for_folders(clips, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for inputs, output in (([clips], Path(url)), ([Path(url)], None)):
        with pytest.raises(OptionsError, match="it is a URL") as caught:
            find_jobs(inputs, output, "2x")
        assert "mount" in caught.value.hint
    assert names(tmp_path) == [
        f"clips/{name}" for name in ("a.mkv", "b.mkv", "sub/c.mkv", "sub/d.mkv")
    ]


def test_shards_are_the_whole_and_meet_nowhere(clips, tmp_path):
    jobs = find_jobs([clips], tmp_path / "out", "2x")
    shards = [shard(jobs, number, 3) for number in (1, 2, 3)]
    assert sorted((job for one in shards for job in one), key=lambda job: job.source) == jobs
    for number in (0, 4):
        with pytest.raises(OptionsError, match=f"no shard {number} of 3"):
            shard(jobs, number, 3)


def test_a_new_file_takes_no_others_target(clips, tmp_path):
    do(clips, tmp_path / "out")
    shutil.copy(clips / "b.mkv", clips / "a.flv")  # comes before it
    results = do(clips, tmp_path / "out")
    assert states(results) == {
        "a.flv.mkv": "done", "a.mkv": "skipped", "b.mkv": "skipped", "c.mkv": "skipped",
        "d.mkv": "skipped",
    }  # fmt: skip


def test_what_was_finished_by_one_that_died_over_its_pieces_leaves_none(clips, tmp_path):
    out = tmp_path / "out"
    do(clips, out)
    (out / "a.mkv.parts").mkdir()
    for name in ("00000000.nut", "00000000.json"):
        (out / "a.mkv.parts" / name).touch()
    results = do(clips, out, LocalExecutor(UnreadyWork("cpu")))
    assert set(states(results).values()) == {"skipped"}
    assert not (out / "a.mkv.parts").exists()


@pytest.mark.parametrize("name", ["one.mp4", "one.png"])
def test_a_folder_does_not_go_to_one_name(clips, tmp_path, name):
    with pytest.raises(OptionsError, match="cannot write the folder `"):
        find_jobs([clips], tmp_path / name, "2x")


@pytest.mark.parametrize("name", ["one.mp4", "one.png"])
def test_several_do_not_go_to_one_name(clips, tmp_path, name):
    sources = [clips / "a.mkv", clips / "b.mkv"]
    with pytest.raises(OptionsError, match="cannot write 2 inputs to one file"):
        find_jobs(sources, tmp_path / name, "2x")
    (tmp_path / name).mkdir()  # whoever calls a folder so may
    assert len(find_jobs(sources, tmp_path / name, "2x")) == 2


def test_a_folder_needs_another_folder_to_go_to(clips, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(clips)
    for output in (None, tmp_path / "file"):
        with pytest.raises(OptionsError, match="needs a folder to write to"):
            find_jobs([clips], output, "2x")
    for output in (clips, tmp_path / "link", clips / "sub" / ".."):
        with pytest.raises(OptionsError, match="it is the source folder itself"):
            find_jobs([clips], output, "2x")


def test_a_folder_that_may_not_be_read_is_named(clips, tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OptionsError, match=r"cannot read the folder `.*clips`: permission denied"):
        find_jobs([clips], tmp_path / "out", "2x")


def test_a_pattern_without_a_folder_is_a_mistake(clips, tmp_path):
    with pytest.raises(OptionsError, match="no input is a folder"):
        find_jobs([clips / "a.mkv"], tmp_path / "x.mkv", "2x", "*.mkv")


@pytest.mark.parametrize("output", [None, "clips"])
def test_what_patterns_made_is_no_source_of_theirs(clips, tmp_path, output):
    def found(*inputs):
        return find_jobs(inputs, output and tmp_path / "x" / ".." / output, "2x")

    before = found(clips / "*.mkv", clips / "sub" / "c.mkv")
    assert len(before) == 3
    for job in shard(before, 1, 2):  # another shard has ended already
        shutil.copy(job.source, job.target)
    assert found(clips / "*.mkv", clips / "sub" / "c.mkv") == before
    for label in ("4x", "59.94fps", "2x-slow"):  # nor what other options have made
        shutil.copy(clips / "a.mkv", clips / f"a.{label}.mkv")
    assert found(clips / "*.mkv", clips / "sub" / "c.mkv") == before
    elsewhere = find_jobs([clips], tmp_path / "elsewhere", "2x")  # where nothing is ours
    assert {"a.4x.mkv", "a.59.94fps.mkv"} < {job.source.name for job in elsewhere}
    again = found(clips / "a.2x.mkv")  # who names one gets it
    assert [job.target.name for job in again] == ["a.2x.2x.mkv"]


# ---- one after the other -------------------------------------------------------------------


def test_what_is_verified_is_not_done_again(clips, tmp_path):
    out = tmp_path / "out"
    assert set(states(do(clips, out)).values()) == {"done"}
    times = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    assert set(states(do(clips, out, LocalExecutor(UnreadyWork("cpu")))).values()) == {"skipped"}
    assert {name: (out / name).stat().st_mtime_ns for name in names(out)} == times
    assert names(out) == ["a.mkv", "b.mkv", "report.json", "sub/c.mkv", "sub/d.mkv"]


def test_what_is_not_the_same_is_done_again(clips, tmp_path):
    out = tmp_path / "out"
    do(clips, out)
    make_clip(clips / "a.mkv", ClipSpec(count=9, codec="ffv1"))  # another source
    (out / "b.mkv").write_bytes(b"cut short")  # not what was written
    (out / "sub" / "c.mkv").unlink()
    again = Options(codec="ffv1", overwrite=True)
    assert states(do(clips, out, options=again)) == {
        "a.mkv": "done", "b.mkv": "done", "c.mkv": "done", "d.mkv": "skipped",
    }  # fmt: skip
    assert len(decoded(out / "a.mkv")) == 18
    other = states(do(clips, out, options=Options(codec="ffv1", factor=4)))
    assert set(other.values()) == {"failed"}  # without leave nothing is overwritten
    assert set(states(do(clips, out)).values()) == {"skipped"}  # nor is what is known of it lost


def test_a_source_that_is_away_for_a_while_spoils_nothing(clips, tmp_path):
    out, source = tmp_path / "out", clips / "a.mkv"
    do(clips, out)
    source.rename(tmp_path / "away")
    source.touch()
    assert states(do(clips, out))["a.mkv"] == "failed"
    (tmp_path / "away").rename(source)
    assert set(states(do(clips, out)).values()) == {"skipped"}
    (out / "a.mkv").unlink()
    source.write_bytes(b"")
    assert states(do(clips, out))["a.mkv"] == "failed"
    assert FolderReport(out)._files["a.mkv"]["state"] == "failed"


def test_no_resume_does_everything_again(clips, tmp_path):
    out = tmp_path / "out"
    do(clips, out)
    options = Options(codec="ffv1", overwrite=True, resume=False)
    assert set(states(do(clips, out, options=options)).values()) == {"done"}


def test_stopping_between_two_files(clips, tmp_path):
    jobs, done = find_jobs([clips], tmp_path / "out", "2x"), []
    stop = lambda: len(done) == 2  # noqa: E731
    results = run_jobs(jobs, OPTIONS, LocalExecutor(AverageWork("cpu")), should_stop=stop)
    done += [next(results).state, next(results).state]
    with pytest.raises(Interrupted, match="finished segments are kept"):
        next(results)
    assert done == ["done", "done"]
    assert names(tmp_path / "out") == ["sub/c.mkv", "sub/d.mkv"]


def test_the_longest_comes_first(clips, tmp_path):
    assert list(do(clips, tmp_path / "out")) == ["d.mkv", "c.mkv", "b.mkv", "a.mkv"]


def test_a_report_of_somebody_else_is_not_overwritten(clips, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    damaged = f'{{"format": "{FORMAT}", "files": {{"a.mkv": 1}}}}'
    other = '{"format": "another", "files": {}}'
    for content in ('{"my": "thesis"}', "not json", '["format"]', damaged, other):
        (out / "report.json").write_text(content)
        with pytest.raises(OptionsError, match="not a report of this program"):
            do(clips, out)
        assert (out / "report.json").read_text() == content


def test_a_report_that_cannot_be_read_says_why(clips, tmp_path):
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    with pytest.raises(OptionsError, match=r"cannot read `.*report.json`: is a directory"):
        do(clips, tmp_path / "out")


def test_a_report_that_cannot_be_written_ends_nothing(clips, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out, executor = tmp_path / "out", LocalExecutor(AverageWork("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr("sepconv_video.folder_report.write_json", full)
        assert set(states(do(clips, out, executor)).values()) == {"done"}
    assert executor.notes == [
        f"the report is incomplete: cannot write `{out / 'report.json'}`: no space left on device"
    ]
    assert len(list(out.rglob("*.parts"))) == 4  # by which the next run knows that they are done
    assert set(states(do(clips, out, LocalExecutor(UnreadyWork("cpu")))).values()) == {"skipped"}
    assert set(FolderReport(out)._files) == {"a.mkv", "b.mkv", "sub/c.mkv", "sub/d.mkv"}
    assert not list(out.rglob("*.parts"))


def test_a_link_out_of_the_output_folder_is_not_followed(clips, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    results = do(clips, out)
    assert states(results) == {
        "a.mkv": "done", "b.mkv": "done", "c.mkv": "failed", "d.mkv": "failed",
    }  # fmt: skip
    assert "a link leads out" in results["c.mkv"].error.message
    assert names(elsewhere) == []


def test_an_output_folder_that_cannot_be_written(clips):
    with pytest.raises(OptionsError, match="cannot make the folder"):
        find_jobs([clips], clips / "a.mkv" / "out", "2x")
    results = {}
    with pytest.raises((OptionsError, VideoError), match="cannot"):
        results = do(clips, Path("/proc/1"))
    assert not results


def job_of(clips, out, name):
    return next(job for job in find_jobs([clips], out, "2x") if job.target.name == name)


def test_what_another_process_makes_is_left_to_it(clips, tmp_path):
    out = tmp_path / "out"
    with Production(job_of(clips, out, "b.mkv"), OPTIONS).parts.claim():
        results = do(clips, out)
    assert states(results) == {
        "a.mkv": "done", "b.mkv": "taken", "c.mkv": "done", "d.mkv": "done",
    }  # fmt: skip
    assert results["b.mkv"].is_good
    assert "another sepconv-video is making it" in results["b.mkv"].error.message
    assert names(out) == ["a.mkv", "report.json", "sub/c.mkv", "sub/d.mkv"]
    assert "b.mkv" not in FolderReport(out)._files


def test_what_another_process_gives_up_is_done_in_the_end(clips, tmp_path):
    out, other = tmp_path / "out", ExitStack()
    other.enter_context(Production(job_of(clips, out, "b.mkv"), OPTIONS).parts.claim())

    def die(step):
        if step.job.target.name == "a.mkv":  # the shortest, when all have been looked at
            other.close()

    assert set(states(do(clips, out, on_progress=die)).values()) == {"done"}
    assert names(out) == ["a.mkv", "b.mkv", "report.json", "sub/c.mkv", "sub/d.mkv"]


def test_what_another_process_finishes_at_that_moment_is_not_done_again(
    clips, tmp_path, monkeypatch
):
    out, real, looked = tmp_path / "out", FolderReport.finished, []
    do(clips, out)

    def at_first_not(self, target, identity):
        looked.append(target)
        return real(self, target, identity) if looked.count(target) > 1 else None

    monkeypatch.setattr(FolderReport, "finished", at_first_not)
    results = do(clips, out, LocalExecutor(UnreadyWork("cpu")))
    assert set(states(results).values()) == {"skipped"}
    assert not list(out.rglob("*.parts"))


def test_a_target_that_appears_meanwhile_is_that_files_failure(clips, tmp_path):
    out = tmp_path / "out"

    def appear(step):
        if step.job.target.name == "b.mkv":
            step.job.target.write_bytes(b"precious")

    results = do(clips, out, on_progress=appear)
    assert states(results) == {
        "a.mkv": "done", "b.mkv": "failed", "c.mkv": "done", "d.mkv": "done",
    }  # fmt: skip
    assert (out / "b.mkv").read_bytes() == b"precious"
    assert "b.mkv" not in FolderReport(out)._files
    (out / "b.mkv").unlink()  # all of its pieces are there still
    assert states(do(clips, out, LocalExecutor(UnreadyWork("cpu"))))["b.mkv"] == "done"


# ---- several workers -----------------------------------------------------------------------


def two_workers(work):
    return ProcessExecutor(["cpu", "cpu"], work)


def test_two_workers_do_each_file_once(clips, tmp_path):
    assert set(states(do(clips, tmp_path / "one")).values()) == {"done"}
    assert set(states(do(clips, tmp_path / "two", two_workers(AverageWork))).values()) == {"done"}
    for name in ("a.mkv", "b.mkv", "sub/c.mkv", "sub/d.mkv"):
        assert decoded(tmp_path / "two" / name) == decoded(tmp_path / "one" / name)
    assert names(tmp_path / "two") == names(tmp_path / "one")


def test_a_long_video_is_shared(long_clip, tmp_path):
    results, steps = [], []
    jobs = [Job(source=long_clip, target=tmp_path / f"{name}.mkv") for name in ("one", "two")]
    for job, executor in zip(
        jobs, (LocalExecutor(AverageWork("")), two_workers(AverageWork)), strict=True
    ):
        results += run_jobs([job], OPTIONS, executor, on_progress=steps.append)
    assert [result.state for result in results] == ["done", "done"]
    assert decoded(tmp_path / "two.mkv") == decoded(tmp_path / "one.mkv")
    assert [result.report.frames for result in results] == [86, 86]
    assert max(step.done for step in steps) <= 86


def test_headers_that_lie_of_the_length_lose_nothing(tmp_path, monkeypatch, long_clip):
    whole = list(run_jobs([Job(source=long_clip, target=tmp_path / "one.mkv")], OPTIONS,
                          LocalExecutor(AverageWork(""))))  # fmt: skip
    assert whole[0].report.frames == 86
    for promised in (7, 200):
        real = batch.measure
        monkeypatch.setattr(
            batch,
            "measure",
            lambda path, n=promised: batch.Extent(frames=n, pixels=real(path).pixels),  # noqa: B023
        )
        target = tmp_path / f"{promised}.mkv"
        (result,) = run_jobs([Job(source=long_clip, target=target)], OPTIONS,
                             two_workers(AverageWork))  # fmt: skip
        monkeypatch.setattr(batch, "measure", real)
        assert result.state == "done", result.error
        assert decoded(target) == decoded(tmp_path / "one.mkv")


def test_a_worker_that_dies_is_replaced(clips, tmp_path):
    (tmp_path / "out").mkdir()
    work = DyingWork.once(tmp_path / "died")
    results = do(clips, tmp_path / "out", two_workers(work))
    assert set(states(results).values()) == {"done"}
    assert (tmp_path / "died").exists()
    assert names(tmp_path / "out") == ["a.mkv", "b.mkv", "report.json", "sub/c.mkv", "sub/d.mkv"]


def test_workers_leave_it_to_their_master_to_end(clips, tmp_path):
    results = do(clips, tmp_path / "out", two_workers(AskedToEndWork))
    assert set(states(results).values()) == {"done"}


def test_a_file_that_kills_every_worker_is_given_up(clips, tmp_path):
    results = do(clips, tmp_path / "out", two_workers(DyingWork.at("b.mkv")))
    assert states(results) == {
        "a.mkv": "done", "b.mkv": "failed", "c.mkv": "done", "d.mkv": "done",
    }  # fmt: skip
    assert "was killed by signal 9, 3 times" in results["b.mkv"].error.message


def test_a_failure_in_a_worker_is_that_files_failure(clips, tmp_path):
    results = do(clips, tmp_path / "out", two_workers(FailingWork))
    assert states(results)["b.mkv"] == "failed"
    assert results["b.mkv"].error.hint == "a hint"
    assert list(states(results).values()).count("done") == 3


def test_a_video_of_which_one_piece_fails_is_told_once(long_clip, tmp_path):
    job = Job(source=long_clip, target=tmp_path / "out.mkv")
    (failed,) = run_jobs([job], OPTIONS, two_workers(FailingBeginningWork))
    assert (failed.state, failed.error.message) == ("failed", "cannot do it")
    assert not job.target.exists()
    (result,) = run_jobs([job], OPTIONS, two_workers(AverageWork))
    assert (result.state, result.report.frames) == ("done", 86)


def test_a_lost_device_leaves_the_work_to_the_other(clips, tmp_path):
    executor = ProcessExecutor(["bad", "good"], LostWork)
    assert set(states(do(clips, tmp_path / "out", executor)).values()) == {"done"}
    assert executor.notes == ["device `bad` failed, the others went on: the device is lost"]
    with pytest.raises(DeviceError, match="is lost"):
        do(clips, tmp_path / "other", ProcessExecutor(["bad", "bad"], LostWork))
    assert names(tmp_path / "other") == []


def test_stopping_workers_keeps_what_is_finished(clips, tmp_path):
    started = time.monotonic()
    with pytest.raises(Interrupted, match="finished segments are kept"):
        do(clips, tmp_path / "out", two_workers(SleepingWork),
           should_stop=lambda: time.monotonic() > started + 4)  # fmt: skip
    assert time.monotonic() - started < 30


def test_a_worker_follows_its_master_into_death(clips, tmp_path):
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from test_folder import do, two_workers; from executor_work import SleepingWork\n"
        "if __name__ == '__main__': do(Path(sys.argv[1]), Path(sys.argv[2]),"
        " two_workers(SleepingWork))"
    )
    path = tmp_path / "script.py"
    path.write_text(script)
    tests = os.path.dirname(__file__)  # noqa: PTH120
    command = [sys.executable, str(path), str(clips), str(tmp_path / "out"), tests]
    master = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": tests})
    wait_for(lambda: len(children(master.pid)) >= 3)  # two, and multiprocessing's own
    orphans = children(master.pid)
    master.send_signal(signal.SIGKILL)
    master.wait()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in orphans))  # noqa: PTH110


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
            return file.read().split()
    except OSError:
        return pytest.skip("NO /proc HERE: whether workers end cannot be seen")


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


# ---- two processes, and the whole program --------------------------------------------------


def program(*arguments):
    return [sys.executable, "-m", "sepconv_video", *map(str, arguments)]


def test_two_processes_on_one_folder_do_nothing_twice(tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for index in range(6):
        make_clip(clips / f"{index}.mkv", ClipSpec(count=12, codec="ffv1"))
    command = program(clips, "-o", out, "--json")
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    events = [json.loads(line) for one in both for line in one.communicate()[0].splitlines()]
    assert [one.returncode for one in both] == [0, 0]
    done = [event["source"] for event in events if event.get("state") == "done"]
    assert sorted(done) == sorted(str(path) for path in clips.iterdir())
    assert names(out) == sorted([f"{index}.mkv" for index in range(6)] + ["report.json"])
    report = json.loads((out / "report.json").read_text())
    assert {entry["state"] for entry in report["files"].values()} == {"done"}


def fifty_mixed_clips(folder):
    """Good, broken, empty, odd, deep and irregular ones, in subfolders; the state of each."""
    expected = {}
    deep = {"codec": "ffv1", "pix_fmt": "yuv420p10le"}
    irregular = {"times": variable_times(16), "time_base": Fraction(1, 30000)}
    kinds = [
        ("good.mp4", ClipSpec(count=16, width=96, audio=True)),
        ("odd.mkv", ClipSpec(count=15, codec="ffv1", width=65, height=49)),
        ("deep.mkv", ClipSpec(count=15, **deep)),
        ("irregular.mp4", ClipSpec(count=16, **irregular)),
        ("sound.mov", ClipSpec(count=16, width=96, audio=True)),
        ("one frame.mp4", ClipSpec(count=1)),
        ("empty.mp4", b""),
        ("text.mp4", b"this is not a video\n" * 50),
        ("no index.mp4", 0.5),
        ("broken off.mkv", 0.7),
    ]
    for index in range(50):
        name, content = kinds[index % len(kinds)]
        path = folder / ("." if index < 10 else f"part {index // 10}/deeper") / f"{index} {name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, float):
            make_clip(path, ClipSpec(count=30, codec="mpeg4", options={"g": "3"}))
            whole = path.read_bytes()
            path.write_bytes(whole[: int(len(whole) * content)])
        else:
            make_clip(path, content)
        bad = ("one frame", "empty", "text", "no index")
        state = "failed" if any(word in name for word in bad) else "done"
        expected[str(path)] = "damaged" if "broken off" in name else state
    return expected


def test_fifty_mixed_clips(tmp_path):
    """All end as they should; a second run does nothing, in a twentieth of the time.

    Without that of the program's start, which is most of the second run.
    """
    expected = fifty_mixed_clips(tmp_path / "clips")
    assert len(expected) == 50
    command = program(tmp_path / "clips", "-o", tmp_path / "out", "--json", "--quiet")

    def timed(command):
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done, time.monotonic() - started

    seconds, found = [], []
    for _ in range(2):
        done, taken = timed(command)
        seconds.append(taken - timed(program("--version"))[1])
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        found.append({e["source"]: e["state"] for e in events if e["event"] == "file"})
    assert found[0] == expected
    assert found[1] == {
        name: "failed" if state == "failed" else "skipped" for name, state in expected.items()
    }
    print(f"first run {seconds[0]:.1f} s, second {seconds[1]:.1f} s")
    assert seconds[1] < 0.05 * seconds[0]
    made = [name for name in names(tmp_path / "out") if name != "report.json"]
    assert len(made) == 30
