"""The folder of finished pieces: what counts, what is missing, who may touch it."""

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepconv_video.errors import BusyError, VideoError
from sepconv_video.parts import Parts, identify, read_json, write_json
from sepconv_video.pieces import Part, Seen, gaps

IDENTITY = {"source": {"bytes": 5}, "factor": 2, "crf": None}


def a_part(first=0, source_frames=5, *, key="", is_last=False, size_bytes=3):
    return Part(
        key=key,
        first=first,
        source_frames=source_frames,
        frames=2 * source_frames,
        is_last=is_last,
        seen=Seen(cuts=(first + 1,), flashes=(), stills=0, repeats=2, error_s=0.25),
        pts=tuple(range(2 * first, 2 * (first + source_frames))),
        end_pts=2 * (first + source_frames),
        rounded=0,
        damage=None,
        notes=(),
        size_bytes=size_bytes,
    )


def add(parts, first=0, source_frames=5, **more):
    part = a_part(first, source_frames, key=parts.key, **more)
    parts.writing_path(first).write_bytes(b"abc")
    parts.add(part)
    return part


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path / "out.mp4", IDENTITY)
    with parts.claim():
        parts.begin(resume=True)
        yield parts


def test_what_was_added_is_found_again_in_order(parts):
    later, earlier = add(parts, 5), add(parts, 0)
    assert Parts(parts.target, IDENTITY).finished() == [earlier, later]
    assert {path.name for path in parts.folder.iterdir()} == {
        "lock", "clearing", "manifest.json",
        "00000000.nut", "00000000.json", "00000005.nut", "00000005.json",
    }  # fmt: skip


def test_what_is_not_whole_does_not_count(parts):
    add(parts, 0)
    add(parts, 5)
    parts.segment_path(5).write_bytes(b"a")  # cut short by a dying disk
    add(parts, 10)
    (parts.folder / "00000010.json").write_text('{"first": 10')
    add(parts, 15)
    parts.segment_path(15).unlink()
    (parts.folder / "00000020.json").write_text("[]")
    add(parts, 25)
    changed = dataclasses.replace(a_part(25), key="of other settings")
    write_json(parts.folder / "00000025.json", dataclasses.asdict(changed))
    assert [part.first for part in parts.finished()] == [0]


@pytest.mark.parametrize(
    "change",
    [{"pts": 3}, {"pts": [0, "1"]}, {"first": "0"}, {"seen": []}, {"damage": 1}, {"notes": None}],
)
def test_what_says_something_senseless_does_not_count(parts, change):
    content = dataclasses.asdict(add(parts))
    assert len(parts.finished()) == 1
    write_json(parts.folder / "00000000.json", content | change)
    assert parts.finished() == []
    seen = content["seen"] | {"cuts": 5}
    write_json(parts.folder / "00000000.json", content | {"seen": seen})
    assert parts.finished() == []


def test_of_two_that_overlap_one_counts(parts):
    add(parts, 0, 5)
    add(parts, 3, 5)
    add(parts, 5, 5)
    assert [part.first for part in parts.finished()] == [0, 5]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=8), st.booleans())
def test_gaps_and_parts_cover_everything_once(steps, is_complete):
    found, position = [], 0
    for skip, length in steps:
        found.append(a_part(position + skip, length))
        position += skip + length
    if found and is_complete:
        found[-1] = dataclasses.replace(found[-1], is_last=True)
    spans = [(part.first, part.end) for part in found]
    missing = gaps(found)
    assert (missing and missing[-1][1] is None) or (found and is_complete)
    borders = sorted(spans + [(first, end or 1000) for first, end in missing])
    assert borders[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(borders))


@pytest.mark.parametrize(
    ("identity", "resume", "words"),
    [
        ({**IDENTITY, "factor": 4}, True, "started afresh: the factor changed from 2 to 4"),
        ({**IDENTITY, "source": {"bytes": 6}}, True, "started afresh: the source changed"),
        (IDENTITY, False, "--no-resume"),
    ],
)
def test_pieces_of_something_else_are_thrown_away_with_a_word(parts, identity, resume, words):
    add(parts)
    add(parts, 5)
    other = Parts(parts.target, identity)
    assert words in other.begin(resume=resume)
    assert other.finished() == []
    later = add(other, 5)
    assert other.finished() == [later]
    assert not parts.segment_path(0).exists()
    assert other.begin(resume=True) == ""


@pytest.mark.parametrize(("factor", "resume"), [(4, True), (4, False), (2, False)])
def test_pieces_stay_until_others_are_there(parts, factor, resume):
    """The new settings may be mistaken, and fail before anything is made."""
    kept = add(parts)
    other = Parts(parts.target, {**IDENTITY, "factor": factor})
    other.begin(resume=resume)
    assert other.finished() == []
    again = Parts(parts.target, IDENTITY)
    assert again.begin(resume=True) == ""
    assert again.finished() == [kept]


def test_a_kill_while_pieces_are_thrown_away_mixes_nothing(parts, monkeypatch):
    add(parts)
    add(parts, 5)
    other = Parts(parts.target, {**IDENTITY, "factor": 4})
    other.begin(resume=True)
    monkeypatch.setattr("sepconv_video.parts._remove", die)
    with pytest.raises(KeyboardInterrupt):
        add(other)
    monkeypatch.undo()
    assert parts.begun() == other.identity
    for one in (other, parts):
        assert one.begin(resume=True) == "started afresh: the list of segments was damaged"
        assert one.finished() == []
    add(parts, 10)
    assert [part.first for part in parts.finished()] == [10]


def test_a_worker_that_died_over_it_has_its_work_done_by_the_next(parts, monkeypatch):
    add(parts)
    add(parts, 5)
    parts.begin(resume=False)
    monkeypatch.setattr("sepconv_video.parts._remove", die)
    with pytest.raises(KeyboardInterrupt):
        add(parts)
    monkeypatch.undo()
    later = add(parts, 5)
    assert parts.finished() == [later]
    assert not parts.segment_path(0).exists()


def die(path):
    raise KeyboardInterrupt


def test_workers_remove_no_pieces_of_each_other(parts, monkeypatch):
    """Several finish their first pieces at the same time."""
    for first in range(10, 20):
        add(parts, first, 1)
    parts.begin(resume=False)
    monkeypatch.setattr("sepconv_video.parts._remove", slowly)
    with ThreadPoolExecutor(4) as workers:
        workers_parts = [Parts(parts.target, IDENTITY) for _ in range(4)]
        added = list(workers.map(add, workers_parts, (0, 5, 10, 15)))
    assert parts.finished() == added


def slowly(path):
    time.sleep(0.002)
    path.unlink(missing_ok=True)


def test_a_worker_left_over_from_other_settings_adds_nothing(parts):
    other = Parts(parts.target, {**IDENTITY, "factor": 4})
    other.begin(resume=True)
    for _ in range(2):  # before the first piece, and after it
        with pytest.raises(VideoError, match="another run is making it with other settings"):
            add(parts)
        add(other, 5)
    assert [part.first for part in other.finished()] == [5]


def test_a_folder_without_a_finished_piece_is_removed(tmp_path):
    parts = Parts(tmp_path / "out.mp4", IDENTITY)
    with parts.claim():
        parts.begin(resume=True)
        parts.writing_path(0).write_bytes(b"half a segment")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_were_joined_go_as_a_file_does(tmp_path):
    with Parts(tmp_path / "%03d.png", IDENTITY).claim() as parts:
        parts.begin(resume=True)
        add(parts)
        parts.joined.mkdir()
        (parts.joined / "001.png").touch()
        with pytest.raises(KeyboardInterrupt), parts.joining():
            raise KeyboardInterrupt
        assert not parts.joined.exists()
        parts.joined.mkdir()
        (parts.joined / "001.png").touch()
        parts.remove()
    assert not parts.folder.exists()


def test_foreign_files_are_never_removed(tmp_path):
    parts = Parts(tmp_path / "out.mp4", IDENTITY)
    with parts.claim():
        for name in ("holiday.jpg", "00000000.nut.bak", "0.nut", "joined"):
            (parts.folder / name).write_text("mine")
        parts.begin(resume=False)
        add(parts)
        parts.remove()
    assert {path.name for path in parts.folder.iterdir()} == {
        "holiday.jpg", "00000000.nut.bak", "0.nut", "joined",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pts", []), ("pts", [10**30] * 10), ("source_frames", True), ("source_frames", 0),
        ("first", -5), ("frames", 0), ("frames", 11), ("end_pts", 10**30), ("rounded", False),
    ],
)  # fmt: skip
def test_a_piece_with_impossible_numbers_is_made_anew(parts, name, value):
    """They would be noticed when all is joined, or never."""
    add(parts)
    path = parts.folder / "00000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert parts.finished() == []


def test_a_nested_file_is_as_damaged_as_any(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text("[" * 100_000)
    assert read_json(path) is None


def hold(target, held):
    with Parts(target, IDENTITY).claim():
        held.set()
        signal.pause()


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path):
    target = tmp_path / "out.mp4"
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=hold, args=(target, held))
    holder.start()
    assert held.wait(60)
    with (
        pytest.raises(BusyError, match="another sepconv-video") as caught,
        Parts(target, IDENTITY).claim(),
    ):
        pass
    assert "its finished segments are kept" in caught.value.hint
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with Parts(target, IDENTITY).claim():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "out.mp4.parts").write_text("a file")
    with (
        pytest.raises(VideoError, match="cannot write"),
        Parts(tmp_path / "out.mp4", IDENTITY).claim(),
    ):
        pass


def test_the_end_is_known_to_have_been_reached(parts):
    assert parts.completed() is None
    parts.joined.write_bytes(b"video")
    parts.complete({"frames": 4})
    assert parts.target.read_bytes() == b"video"
    assert parts.completed() == {"frames": 4}
    assert Parts(parts.target, {**IDENTITY, "factor": 4}).completed() is None
    changed_ns = parts.target.stat().st_mtime_ns + 10**9
    parts.target.write_bytes(b"other")  # as long
    os.utime(parts.target, ns=(changed_ns, changed_ns))
    assert parts.completed() is None


def test_what_tells_of_the_end_and_what_keeps_others_out_goes_last(parts, monkeypatch):
    add(parts)
    parts.joined.write_bytes(b"video")
    parts.complete({"frames": 4})
    removed = []
    monkeypatch.setattr("sepconv_video.parts._remove", lambda path: removed.append(path.name))
    parts.remove()
    assert set(removed[-2:]) == {"report.json", "lock"}
    assert {"00000000.nut", "00000000.json"} <= set(removed)


def test_a_folder_that_goes_at_that_moment_is_made_again(tmp_path, monkeypatch):
    mkdir, calls = Path.mkdir, []

    def gone_meanwhile(path, *args, **more):
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        mkdir(path, *args, **more)

    monkeypatch.setattr(Path, "mkdir", gone_meanwhile)
    with Parts(tmp_path / "out.mp4", IDENTITY).claim() as parts:
        assert parts.folder.is_dir()
    assert len(calls) > 1


def test_a_file_is_known_again_and_a_change_noticed(tmp_path):
    path = tmp_path / "film"
    path.write_bytes(bytes(range(256)) * 20_000)
    before = identify(path)
    assert identify(path) == before == json.loads(json.dumps(before))
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(before["mtime_ns"], before["mtime_ns"]))
    assert identify(path)["sha256"] != before["sha256"]
    with pytest.raises(VideoError, match="cannot read"):
        identify(tmp_path / "missing")


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert read_json(path) == {"old": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    path.write_text("{")
    assert read_json(path) is None
