"""Whatever ends a run, what is finished is kept, and the same call completes the video."""

import json
import os
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video import production, segmenting
from sepconv_video.engine import Engine
from sepconv_video.errors import (
    BusyError,
    DeviceError,
    Interrupted,
    OptionsError,
    SepConvVideoError,
    VideoError,
)
from sepconv_video.options import Job, Options
from sepconv_video.parts import Parts, write_json
from sepconv_video.pipeline import interpolate_file
from sepconv_video.production import Production
from sepconv_video.video import Reader

LOSSLESS = "ffv1"


def average(left, right):
    return (left + right) / 2


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segmenting, "SEGMENT_FRAMES", 5)


@pytest.fixture
def job(tmp_path):
    spec = ClipSpec(count=32, audio=True, codec="ffv1")
    source = make_clip(tmp_path / "in" / "source.mkv", spec) if make_folder(tmp_path) else None
    return Job(source=source, target=tmp_path / "out" / "target.mkv")


def make_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return True


def convert(job, *, stop_at=None, engine=None, on_progress=None, **options):
    seen = [0]

    def watched(done, expected):
        seen[0] = done
        if on_progress:
            on_progress(done, expected)

    return interpolate_file(
        job,
        Options(**{"codec": LOSSLESS, "factor": 2, **options}),
        engine=engine or Engine(average),
        on_progress=watched,
        should_stop=lambda: stop_at is not None and seen[0] >= stop_at,
    )


def decoded(path):
    with Reader(path) as reader:
        return [
            (frame.pts, *(plane.tobytes() for plane in frame.planes)) for frame in reader.frames()
        ]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def parts_of(job):
    return job.target.with_name(f"{job.target.name}.parts")


def segments_of(job):
    return sorted(int(path.stem) for path in parts_of(job).glob("0*.json"))


@pytest.fixture
def undisturbed(job, tmp_path):
    """The frames of a run in one segment, without interruption."""
    length, segmenting.SEGMENT_FRAMES = segmenting.SEGMENT_FRAMES, 10_000
    whole = Job(source=job.source, target=tmp_path / "whole.mkv")
    convert(whole)
    segmenting.SEGMENT_FRAMES = length
    return decoded(whole.target)


class PowerCut(BaseException):
    pass


def cut_at(frame):
    def on_progress(done, expected):
        if done >= frame:  # told after each interval
            raise PowerCut

    return on_progress


def test_segments_cannot_be_told_from_one_piece(job, undisturbed):
    report = convert(job)
    assert decoded(job.target) == undisturbed
    assert (report.frames, report.kept_frames) == (64, 0)
    assert names(job.target.parent) == ["target.mkv"]


def test_slow_segments_are_finished_early(job, undisturbed, monkeypatch):
    monkeypatch.setattr(segmenting, "SEGMENT_S", 0.0)
    convert(job, keep_parts=True)
    assert segments_of(job) == list(range(32))
    assert decoded(job.target) == undisturbed


@pytest.mark.parametrize("frame", [1, 10, 11, 37, 63, 64])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_run_goes_on_where_it_was_cut(job, tmp_path, frame, factor):
    whole = Job(source=job.source, target=tmp_path / "whole.mkv")
    convert(whole, factor=factor)
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(frame), factor=factor)
    finished = (frame - 1) // (5 * factor)  # the last frame of a segment is not yet its end
    assert len(segments_of(job)) == finished if finished else not parts_of(job).exists()
    report = convert(job, factor=factor)
    assert report.kept_frames == 5 * factor * finished
    assert decoded(job.target) == decoded(whole.target)
    assert names(job.target.parent) == ["target.mkv"]


def test_stopping_keeps_even_the_segment_in_hand(job, undisturbed):
    for stop_at in (3, 17, 30):
        with pytest.raises(Interrupted, match="finished frames") as caught:
            convert(job, stop_at=stop_at)
        assert "run the same command again" in caught.value.hint
    assert segments_of(job) == [0, 2, 5, 9, 10]
    assert convert(job).kept_frames == 30
    assert decoded(job.target) == undisturbed


def test_what_cannot_be_joined_fails_after_the_first_segment(job, tmp_path, monkeypatch):
    """Only the index of MP4 says so, at the end: not one night's work may be lost for it."""
    monkeypatch.setattr("sepconv_video.video.joiner._MOST_COUNTED", 1000)
    spec = ClipSpec(count=20, rate=Fraction(240), metadata={"timecode": "01:02:03:04"})
    source, target = make_clip(tmp_path / "fast.mkv", spec), job.target.with_suffix(".mp4")
    told = []
    with pytest.raises(
        VideoError, match=r"cannot write `.*target.mp4`: invalid argument"
    ) as caught:
        convert(
            Job(source=source, target=target),
            codec=None,
            on_progress=lambda done, expected: told.append(done),
        )
    assert "another container" in caught.value.hint
    assert told[-1] < 2 * 6
    assert names(target.with_name("target.mp4.parts")) == [
        "00000000.json", "00000000.nut", "clearing", "lock", "manifest.json",
    ]  # fmt: skip


def test_gaps_are_filled(job, undisturbed):
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(55))
    for first in (0, 10, 15):
        (parts_of(job) / f"{first:08d}.nut").unlink()
    assert convert(job).kept_frames == 20
    assert decoded(job.target) == undisturbed


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_damaged_segment_alone_is_made_anew(job, undisturbed, kept):
    """It has its size still, but nothing can be read from some place on."""
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(55))
    path = parts_of(job) / "00000010.nut"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))].ljust(len(content), b"\0"))
    with pytest.raises(VideoError, match=r"finished segment `.*10\.nut`") as caught:
        convert(job)
    assert "only its frames are made again" in caught.value.hint
    assert convert(job).kept_frames == 54
    assert decoded(job.target) == undisturbed


def test_reports_are_the_same_however_often_it_was_cut(tmp_path):
    """Cuts, stills and damage of all pieces come together."""
    rng = np.random.default_rng(0)
    shots = [rng.integers(0, 256, (48, 64)) for _ in range(2)]
    pictures = [shots[index // 15] + (index % 5 > 1) * index for index in range(30)]
    source = tmp_path / "source.mkv"
    write_gray(source, pictures)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 9 // 10])
    reports = []
    for name, frames in (("a", ()), ("b", (9, 25, 40))):
        job = Job(source=source, target=tmp_path / f"{name}.mkv")
        for frame in frames:
            with pytest.raises(PowerCut):
                convert(job, on_progress=cut_at(frame))
        report = convert(job)
        reports.append((report.cuts, report.stills, report.damage, report.frames))
    assert reports[0] == reports[1]
    assert reports[0][0] == [15]
    assert reports[0][1] > 3
    assert reports[0][2]


def test_each_cut_is_told_once_wherever_segments_end(job):
    cuts = job.source.with_name("cuts.txt")
    cuts.write_text("13\n14\n15\n16\n17\n")
    assert convert(job, cuts=str(cuts)).cuts == [13, 14, 15, 16, 17]


def write_gray(path, pictures):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", 25, width=64, height=48, pix_fmt="gray")
        for index, luma in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(luma.clip(0, 255).astype(np.uint8), format="gray")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def test_other_settings_start_afresh_and_say_so(job):
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(30))
    report = convert(job, factor=4)
    assert report.kept_frames == 0
    assert "started afresh: the factor changed from 2 to 4" in report.notes


@pytest.mark.parametrize("options", [{"codec": "libx266"}, {"pix_fmt": "foo"}, {"start_s": 100}])
def test_settings_that_cannot_be_cost_nothing_that_is_finished(job, undisturbed, options):
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(30))
    for resume in (True, False):
        with pytest.raises(SepConvVideoError):
            convert(job, resume=resume, **options)
    assert convert(job).kept_frames == 20
    assert decoded(job.target) == undisturbed


@pytest.mark.parametrize(("frame", "kept"), [(3, (20, 0)), (25, (0, 20))])
def test_other_settings_cut_short_mix_nothing(job, undisturbed, frame, kept):
    """Before their first segment, and after it."""
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(30))
    with pytest.raises(PowerCut):
        convert(job, factor=4, on_progress=cut_at(frame))
    copied = shutil.copytree(job.target.parent, job.target.parent.with_name("copy"))
    assert convert(job).kept_frames == kept[0]
    assert decoded(job.target) == undisturbed
    other = Job(source=job.source, target=copied / job.target.name)
    assert convert(other, factor=4).kept_frames == kept[1]


def test_another_source_starts_afresh_and_says_so(job, tmp_path):
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(30))
    make_clip(job.source, ClipSpec(count=20, codec="ffv1"))
    report = convert(job)
    assert (report.frames, report.kept_frames) == (40, 0)
    assert "started afresh: the source changed" in report.notes


def test_no_resume_starts_afresh(job):
    with pytest.raises(PowerCut):
        convert(job, on_progress=cut_at(30))
    assert convert(job, resume=False).kept_frames == 0


def test_a_stop_before_the_first_new_piece_keeps_the_former_ones(job):
    with pytest.raises(Interrupted):
        convert(job, stop_at=30)
    before = segments_of(job)
    with pytest.raises(Interrupted, match=r"segments of .* from an earlier run are kept"):
        convert(job, crf=None, dedup=True, stop_at=4)
    assert segments_of(job) == before
    assert convert(job).kept_frames > 0


def test_parts_are_kept_on_request_and_can_be_joined_again(job, undisturbed):
    convert(job, keep_parts=True)
    assert segments_of(job) == [0, 5, 10, 15, 20, 25, 30]
    job.target.unlink()
    assert convert(job).kept_frames == 64
    assert decoded(job.target) == undisturbed
    assert names(job.target.parent) == ["target.mkv"]


def test_kept_parts_do_not_keep_a_target_from_being_made_again(job, undisturbed):
    """Neither one that was changed since, which is joined again, nor where all is to be."""
    convert(job, keep_parts=True)
    content = job.target.read_bytes()
    job.target.write_bytes(content[:-100] + bytes(100))
    assert convert(job, keep_parts=True, overwrite=True).kept_frames == 64
    assert decoded(job.target) == undisturbed
    made = parts_of(job) / "00000000.nut"
    before = made.stat().st_mtime_ns
    convert(job, keep_parts=True, overwrite=True, resume=False)
    assert made.stat().st_mtime_ns > before


def test_a_kill_after_the_rename_is_noticed(job, monkeypatch, undisturbed):
    monkeypatch.setattr(Production, "clean", lambda self: (_ for _ in ()).throw(PowerCut))
    with pytest.raises(PowerCut):
        convert(job)
    monkeypatch.undo()
    assert parts_of(job).exists()
    before = job.target.stat().st_mtime_ns
    report = convert(job, engine=Engine(None))  # which could make nothing
    assert report.frames == 64
    assert job.target.stat().st_mtime_ns == before
    assert names(job.target.parent) == ["target.mkv"]
    assert decoded(job.target) == undisturbed


@pytest.mark.parametrize("moment", ["joined", "report.json"])
def test_a_kill_between_joining_and_renaming(job, monkeypatch, undisturbed, moment):
    """The joined file is there, and then also the report of the run."""

    def cut(self, report):
        if moment == "report.json":
            write_json(self.folder / "report.json", {"key": self.key, "bytes": 1, "report": report})
        raise PowerCut

    monkeypatch.setattr(Parts, "complete", cut)
    with pytest.raises(PowerCut):
        convert(job)
    monkeypatch.undo()
    assert not job.target.exists()
    assert convert(job).kept_frames == 64
    assert decoded(job.target) == undisturbed
    assert names(job.target.parent) == ["target.mkv"]


def test_a_target_that_appears_meanwhile_is_not_touched(job):
    def somebody_else(done, expected):
        if done == 20:
            job.target.write_bytes(b"precious")

    with pytest.raises(OptionsError, match="exists already"):
        convert(job, on_progress=somebody_else)
    assert job.target.read_bytes() == b"precious"
    assert not list(parts_of(job).glob("joined*"))
    assert convert(job, overwrite=True).kept_frames == 64


def test_pieces_that_vanish_meanwhile_are_one_clear_error(job):
    def clean_up(done, expected):
        if done == 18:
            shutil.rmtree(parts_of(job))

    with pytest.raises(VideoError, match=r"target\.mkv`: no such file or "):
        convert(job, on_progress=clean_up)
    assert convert(job).kept_frames == 0


def test_a_piece_that_vanishes_meanwhile_is_missed_and_made_anew(job, undisturbed):
    def lose(done, expected):
        if done == 40:
            (parts_of(job) / "00000005.nut").unlink()

    with pytest.raises(VideoError, match=r"segments in `.*` are missing"):
        convert(job, on_progress=lose)
    assert not job.target.exists()
    assert convert(job).kept_frames > 0
    assert decoded(job.target) == undisturbed


@pytest.mark.parametrize("change", ["grows", "is replaced"])
def test_a_source_that_changes_is_not_trusted(job, change):
    def change_it(done, expected):
        if done == 20:
            if change == "grows":
                with job.source.open("ab") as file:
                    file.write(b"more")
            else:
                make_clip(job.source.with_suffix(".new.mkv"), ClipSpec(count=9)).replace(job.source)

    with pytest.raises(VideoError, match="changed while it was read"):
        convert(job, on_progress=change_it)
    assert not job.target.exists()
    assert "started afresh: the source changed" in convert(job).notes


def test_a_source_that_vanishes_costs_nothing_that_is_finished(job, undisturbed):
    moved = job.source.with_suffix(".moved")

    def vanish(done, expected):
        if done == 20:
            job.source.rename(moved)

    with pytest.raises(VideoError, match="no such file"):
        convert(job, on_progress=vanish)
    moved.rename(job.source)
    assert convert(job).kept_frames == 64
    assert decoded(job.target) == undisturbed


def test_two_at_once_do_not_meet(job):
    def second(done, expected):
        if done == 3:
            with pytest.raises(BusyError, match="another sepconv-video is making it"):
                convert(job)

    convert(job, on_progress=second)
    assert job.target.exists()


def test_reading_that_hangs_ends_with_a_word(job, monkeypatch):
    monkeypatch.setattr(production, "PATIENCE_S", 0.3)
    free, real = threading.Event(), Reader.frames

    def hanging(self, first=0):
        for frame in real(self, first):
            if frame.index == 26:  # some are read ahead, to tell cuts from flashes
                free.wait(30)
            yield frame

    monkeypatch.setattr(Reader, "frames", hanging)
    with pytest.raises(VideoError, match="no data came for") as caught:
        convert(job)
    free.set()
    assert "network file system" in caught.value.hint
    assert segments_of(job) == [0, 5, 10]
    monkeypatch.undo()
    assert convert(job).kept_frames > 0


def test_a_frame_for_which_memory_does_not_suffice_costs_nothing_finished(job, monkeypatch):
    real = Reader.frames

    def hungry(self, first=0):
        for frame in real(self, first):
            if frame.index == 26:
                raise MemoryError
            yield frame

    monkeypatch.setattr(Reader, "frames", hungry)
    with pytest.raises(DeviceError, match="out of memory at a frame of"):
        convert(job)
    assert segments_of(job) == [0, 5, 10]
    monkeypatch.undo()
    assert convert(job).kept_frames > 0


def small_disk(path, size):
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("MOUNT NOT ALLOWED: the full-disk tests need a small tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("MOUNT NOT ALLOWED: the full-disk tests need a small tmpfs")


@pytest.mark.parametrize(("room", "kept"), [(0.6, (10, 64)), (1.4, (64, 65))])
def test_a_full_disk_loses_nothing_that_is_finished(job, tmp_path, room, kept, undisturbed):
    """While segments are written, and while they are joined."""
    disk = tmp_path / "disk"
    disk.mkdir()
    convert(job, keep_parts=True)
    pages = sum(path.stat().st_size // 4096 + 1 for path in parts_of(job).iterdir())
    small_disk(disk, f"{round(room * pages * 4)}k")
    try:
        there = Job(source=job.source, target=disk / "target.mkv")
        with pytest.raises(VideoError, match="no space left on") as caught:
            convert(there)
        assert "free some space" in caught.value.hint
        assert str(there.target) in caught.value.message
        assert not there.target.exists()
        assert not list(parts_of(there).glob("joined*"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        report = convert(there)
        assert kept[0] <= report.kept_frames < kept[1]
        assert decoded(there.target) == undisturbed
        assert names(disk) == ["target.mkv"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


KILLED = Path(__file__).with_name("killed.py")


@pytest.mark.parametrize(("kills", "seed"), [(3, 1), pytest.param(20, 2, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments_loses_nothing(tmp_path, kills, seed):
    """A dozen segments, killed again and again; see killed.py, which prints what it did."""
    source = make_clip(tmp_path / "source.mkv", ClipSpec(count=120, audio=True, codec="ffv1"))
    command = [sys.executable, str(KILLED), str(source), str(tmp_path), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == kills
    assert decoded(tmp_path / "killed.mkv") == decoded(tmp_path / "whole.mkv")
    assert sorted(names(tmp_path)) == ["killed.mkv", "source.mkv", "whole.mkv"]
