"""Real Ray clusters of several nodes, all on this machine; whole nodes are killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video.batch import run_jobs
from sepconv_video.errors import DeviceError, Interrupted, VideoError
from sepconv_video.executor import LocalExecutor, Task
from sepconv_video.folder_report import FolderReport
from sepconv_video.frames import POSITIONS, Frame
from sepconv_video.options import Job, Options
from sepconv_video.production import Production
from sepconv_video.video import Reader

ray = pytest.importorskip("ray", reason='RAY MISSING: pip install "sepconv-video[cluster]"')

from sepconv_video import cluster as under_test  # noqa: E402 - needs ray
from sepconv_video.cluster import RayExecutor, session  # noqa: E402

FACTOR = 2
OPTIONS = Options(codec="ffv1", factor=FACTOR)
STORE_BYTES = 80 * 2**20
SLEEP_S = 0.4


class Averages:
    """An engine without torch, which would take most of the time of these tests to import."""

    notes = ()

    def run(self, intervals, info, most_made):
        for interval in intervals:
            yield [
                Frame(
                    index=0,
                    pts=moment.pts,
                    duration=moment.duration,
                    planes=blended(interval, moment.position),
                )
                for moment in interval.moments
            ]


def blended(interval, position):
    if interval.right is None:
        return interval.left.planes
    return tuple(
        np.asarray(
            (left.astype(int) * (POSITIONS - position) + right * position) // POSITIONS, np.uint8
        )
        for left, right in zip(interval.left.planes, interval.right.planes, strict=True)
    )


def test_files_are_named_by_their_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = Options(model="mine.safetensors", cuts="cuts.txt")
    assert under_test.with_absolute_paths(given) == Options(
        model=str(tmp_path / "mine.safetensors"), cuts=str(tmp_path / "cuts.txt")
    )
    assert under_test.with_absolute_paths(OPTIONS) == OPTIONS


def nothing(*_):
    pass


def here():
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "driver"


@dataclass
class Works:
    """Makes spans with an engine that takes the average, and notes in a folder what it does.

    Travels to the workers by value, as this module cannot be imported there.
    """

    notes: Path
    frame_s: float = 0.0
    """To work slowly."""

    def check(self, task):
        pass

    def prepare(self):
        pass

    def __call__(self, task, watch):
        self.note(task, "begin")
        if "poison" in task.job.source.name:
            raise VideoError("poisoned", "another drink")
        if "bug" in task.job.source.name:
            raise KeyError("a bug")
        if "deadly" in task.job.source.name:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.frame_s:
            tell = watch.on_progress
            pause_s = FACTOR * self.frame_s  # told after each interval
            watch = replace(watch, on_progress=lambda *n: (tell(*n), time.sleep(pause_s)))
        Production(task.job, task.options).make(Averages(), task.span, watch)
        self.note(task, "end")

    def note(self, task, what):
        name = f"{time.time():.3f} {what} {task.job.source.name} {task.span[0]} {here()}"
        (self.notes / name).touch()


@dataclass
class Sleeps(Works):
    """Sleeps instead."""

    def __call__(self, task, watch):
        self.note(task, "begin")
        time.sleep(SLEEP_S)
        self.note(task, "end")


@dataclass
class Refuses(Works):
    """Cannot work at all."""

    def prepare(self):
        raise DeviceError("no such device", "buy one")


def works(kind, notes, device, **more):
    assert device == "cpu"
    return kind(notes, **more)


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def noted(notes, what):
    """What was noted: time, source, first frame, node."""
    lines = [path.name.split() for path in sorted(notes.iterdir())]
    return [(float(at), name, int(first), node) for at, kind, name, first, node in lines
            if kind == what]  # fmt: skip


class Nodes:
    """A cluster of a head that does no work, and as many workers as a test wants."""

    def __init__(self):
        from ray.cluster_utils import Cluster as LocalCluster

        self.cluster = LocalCluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
            },
        )
        self.nodes = []

    def want(self, count):
        while len(self.nodes) < count:
            self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))
        while len(self.nodes) > count:
            self.cluster.remove_node(self.nodes.pop(), allow_graceful=True)
        return self.cluster.address

    def kill(self, node_id):
        node = next(node for node in self.nodes if node.node_id == node_id)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture(autouse=True)
def disconnect():
    """Ray's threads end with each test."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()


def folder_jobs(tmp_path, **counts):
    """Clips of so many frames, to be made in a folder."""
    sources, out = tmp_path / "in", tmp_path / "out"
    sources.mkdir()
    out.mkdir()
    return [
        Job(
            source=make_clip(sources / f"{name}.mkv", ClipSpec(count=count, codec="ffv1")),
            target=out / f"{name}.mkv",
        )
        for name, count in counts.items()
    ]


def tasks_of(jobs, stack):
    """One whole task for each job, begun as `run_jobs` would."""
    for job in jobs:
        production = Production(job, OPTIONS)
        stack.enter_context(production.parts.claim())
        production.begin()
        yield Task(job=job, options=OPTIONS, span=(0, None))


def pictures(path):
    with Reader(path) as reader:
        return [[np.array(plane) for plane in frame.planes] for frame in reader.frames()]


def assert_same_as_alone(jobs, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    copies = [Job(source=job.source, target=alone / job.target.name) for job in jobs]
    notes = alone / "notes"
    notes.mkdir()
    assert all(result.is_good for result in run_jobs(copies, OPTIONS, LocalExecutor(Works(notes))))
    for job, copy in zip(jobs, copies, strict=True):
        ours, theirs = pictures(job.target), pictures(copy.target)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert all(np.array_equal(*planes) for planes in zip(one, other, strict=True))


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "nonsense"])
@pytest.mark.parametrize("stale", ["", "127.0.0.1:9"])
def test_without_a_cluster_one_line_says_how_to_start_one(monkeypatch, address, stale):
    monkeypatch.setenv("RAY_ADDRESS", stale)  # left over from a cluster that is gone
    begun = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        RayExecutor(address, partial(works, Works, Path()))
    assert "no Ray cluster" in caught.value.message
    assert "\n" not in caught.value.message
    assert "`ray start --head`" in caught.value.hint
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("model", "there"),
    [("fast", "fast"), ("l1", "/cache/network-l1.pytorch"), ("/a/b.pt", "/a/b.pt")],
)
def test_a_model_means_the_same_on_every_node(monkeypatch, model, there):
    monkeypatch.setenv("SEPCONV_VIDEO_CACHE", "/cache")
    assert under_test.with_absolute_paths(Options(model=model)).model == there


def test_without_ray_one_line_says_how_to_install_it():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from sepconv_video.cli import main; main(['x.mp4', '--ray'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "sepconv-video[cluster]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


def test_two_nodes_are_twice_as_fast_as_one(tmp_path, nodes, notes):
    from contextlib import ExitStack

    jobs = folder_jobs(tmp_path, **{f"clip{n:02}": 2 for n in range(16)})
    rates = []
    for count in (1, 2):
        executor = RayExecutor(nodes.want(count), partial(works, Sleeps, notes))
        assert executor.size == count
        with ExitStack() as stack:
            outcomes = list(executor.run(tasks_of(jobs, stack), nothing, lambda: False))
        assert [outcome.error for outcome in outcomes] == [None] * len(jobs)
        begins, ends = noted(notes, "begin"), noted(notes, "end")
        # workers take seconds to start, and not the same time
        start = max(min(at for at, *_, at_node in begins if at_node == node) for *_, node in begins)
        rates.append(sum(at >= start for at, *_ in begins) / (ends[-1][0] - start))
        assert len(ends) == len(jobs)
        assert len({node for *_, node in ends}) == count
        for path in notes.iterdir():
            path.unlink()
    ratio = rates[1] / rates[0]
    print(f"tasks a second: {rates[0]:.2f} on one node, {rates[1]:.2f} on two: {ratio:.2f} times")
    assert ratio >= 1.7


def test_a_folder_is_made_as_one_process_makes_it_and_a_long_clip_is_shared(
    tmp_path, nodes, notes, monkeypatch
):
    counts = {"a": 5, "b": 9, "c": 13, "long": 480}
    jobs = folder_jobs(tmp_path, **counts)
    monkeypatch.chdir(tmp_path)  # paths that mean nothing elsewhere
    relative = [
        Job(source=Path("in", job.source.name), target=Path("out", job.target.name)) for job in jobs
    ]
    folder_report, steps = FolderReport(Path("out")), []
    executor = RayExecutor(nodes.want(2), partial(works, Works, notes))
    results = list(
        run_jobs(relative, OPTIONS, executor, folder_report=folder_report, on_progress=steps.append)
    )
    assert {result.job: result.state for result in results} == dict.fromkeys(relative, "done")
    assert {step.done for step in steps if step.job == relative[-1]} >= {2 * 480}
    assert len({node for _, name, _, node in noted(notes, "end") if name == "long.mkv"}) == 2
    first = [name for _, name, *_ in noted(notes, "begin")][:3]
    assert "long.mkv" not in first[:2]  # whole clips come before the pieces of long ones
    assert not list((tmp_path / "out").glob("*.parts"))
    assert_same_as_alone(jobs, tmp_path)
    again = list(run_jobs(relative, OPTIONS, executor, folder_report=FolderReport(Path("out"))))
    assert {result.state for result in again} == {"skipped"}


def test_a_failure_is_a_result_and_so_is_a_clip_that_kills_its_workers(tmp_path, nodes, notes):
    jobs = folder_jobs(tmp_path, a=5, poison=5, deadly=5, b=5)
    executor = RayExecutor(nodes.want(2), partial(works, Works, notes))
    results = {result.job.source.stem: result for result in run_jobs(jobs, OPTIONS, executor)}
    states = {name: result.state for name, result in results.items()}
    assert states == {"a": "done", "b": "done", "poison": "failed", "deadly": "failed"}
    error = results["poison"].error
    assert (type(error), error.message, error.hint) == (VideoError, "poisoned", "another drink")
    assert "3 workers died making it" in results["deadly"].error.message
    assert len([name for _, name, *_ in noted(notes, "begin") if name == "deadly.mkv"]) == 3


def test_a_bug_comes_up_with_the_traceback_of_the_worker(tmp_path, nodes, notes):
    jobs = folder_jobs(tmp_path, bug=5)
    executor = RayExecutor(nodes.want(2), partial(works, Works, notes))
    with pytest.raises(KeyError, match="a bug") as caught:
        list(run_jobs(jobs, OPTIONS, executor))
    assert "in __call__" in str(caught.value)


def test_a_worker_that_cannot_work_names_its_node(tmp_path, nodes, notes):
    executor = RayExecutor(nodes.want(2), partial(works, Refuses, notes))
    with pytest.raises(DeviceError, match=r"node `.*`: no such device"):
        list(run_jobs(folder_jobs(tmp_path, a=5), OPTIONS, executor))


def test_files_that_a_node_does_not_see_are_named(tmp_path, nodes, notes):
    from contextlib import ExitStack

    jobs = folder_jobs(tmp_path, a=5, b=5, c=5)
    executor = RayExecutor(nodes.want(2), partial(works, Works, notes))

    def elsewhere(stack):
        a, b, c = tasks_of(jobs, stack)
        a.job.source.rename(tmp_path / "in" / "away.mkv")
        (tmp_path / "out" / "b.mkv.parts" / "next.json").unlink()
        os.utime(c.job.source, (1, 1))
        yield from (a, b, c)

    with ExitStack() as stack:
        outcomes = list(executor.run(elsewhere(stack), nothing, lambda: False))
    errors = {outcome.task.job.source.stem: outcome.error for outcome in outcomes}
    assert f"`{jobs[0].source}` is not visible on node" in errors["a"].message
    assert "b.mkv.parts` is not visible on node" in errors["b"].message
    assert "its source is" in errors["c"].message
    assert "all nodes share" in errors["a"].hint


def test_a_stop_keeps_what_is_finished(tmp_path, nodes, notes):
    jobs = folder_jobs(tmp_path, long=480)
    executor = RayExecutor(nodes.want(2), partial(works, Works, notes, frame_s=0.01))
    steps = []
    with pytest.raises(Interrupted):
        list(
            run_jobs(
                jobs, OPTIONS, executor, on_progress=steps.append, should_stop=lambda: bool(steps)
            )
        )
    kept = Production(jobs[0], OPTIONS).frames_done()
    assert 0 < kept < 960
    results = list(run_jobs(jobs, OPTIONS, LocalExecutor(Works(notes))))
    assert results[0].report.kept_frames == kept
    assert_same_as_alone(jobs, tmp_path)


def test_a_node_is_killed_in_the_middle_of_a_folder(tmp_path, nodes, notes, monkeypatch, capsys):
    counts = {"a": 40, "b": 60, "c": 80, "d": 100, "long": 480}
    jobs = folder_jobs(tmp_path, **counts)
    joins, join = [], Production.join

    def counted(self):
        joins.append(self.job)
        return join(self)

    monkeypatch.setattr(Production, "join", counted)
    executor = RayExecutor(nodes.want(2), partial(works, Works, notes, frame_s=0.005))
    results, lost = [], []

    def kill_one():
        busy = [(node, *task) for node, task in in_hand(notes).items() if "long.mkv" in task]
        if results and busy and not lost:
            lost.append(busy[-1][1:])
            nodes.kill(busy[-1][0])
        return False

    folder_report = FolderReport(tmp_path / "out")
    results.extend(
        run_jobs(jobs, OPTIONS, executor, folder_report=folder_report, should_stop=kill_one)
    )
    assert {result.job: result.state for result in results} == dict.fromkeys(jobs, "done")
    assert len(results) == len(jobs)
    assert sorted(joins, key=jobs.index) == jobs
    begun = [task[1:3] for task in noted(notes, "begin")]
    assert begun.count(lost[0]) == 2
    assert len(begun) == len(set(begun)) + 1  # nothing else is done twice
    assert set(begun) == {task[1:3] for task in noted(notes, "end")}
    entries = FolderReport(tmp_path / "out")._files
    assert {name: entry["state"] for name, entry in entries.items()} == {
        f"{name}.mkv": "done" for name in counts
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*(job.target.name for job in jobs), "report.json"]
    )
    assert_same_as_alone(jobs, tmp_path)
    assert capsys.readouterr().out == ""  # where `--json` prints


def in_hand(notes):
    """The task that each node has begun and not ended."""
    ended = {task[1:3] for task in noted(notes, "end")}
    return {task[3]: task[1:3] for task in noted(notes, "begin") if task[1:3] not in ended}


def test_a_node_that_joins_late_takes_over_from_the_only_one(tmp_path, nodes, notes):
    jobs = folder_jobs(tmp_path, a=60, b=60)
    executor = RayExecutor(nodes.want(1), partial(works, Works, notes, frame_s=0.01))
    results = []
    for result in run_jobs(jobs, OPTIONS, executor):
        results.append(result)
        if len(results) == 1:
            nodes.kill(nodes.nodes[0].node_id)
            nodes.want(1)
    assert [result.state for result in results] == ["done", "done"]
    assert len({node for *_, node in noted(notes, "end")}) == 2


def test_a_cluster_without_workers_is_not_waited_for_for_ever(tmp_path, nodes, notes, monkeypatch):
    monkeypatch.setattr(session, "PATIENCE_S", 1.0)
    executor = RayExecutor(nodes.want(1), partial(works, Works, notes))
    monkeypatch.setattr(under_test.session, "places", lambda device: [])
    with pytest.raises(DeviceError, match="has had no worker for 1 s"):
        list(run_jobs(folder_jobs(tmp_path, a=5), OPTIONS, executor))
