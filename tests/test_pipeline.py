"""A whole file: counts, times, sound, bit-exact source frames, failures that leave nothing."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip, payloads, picture, variable_times

from sepconv_video.engine import Engine
from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file, interpolate_pictures
from sepconv_video.production import QUEUE_BYTES, queue_depth
from sepconv_video.video import Reader, read_picture, write_picture

LOSSLESS = "ffv1"


def average(left, right):
    return (left + right) / 2


def convert(source, target, **chosen):
    options = Options(**chosen)
    return interpolate_file(Job(source=source, target=target), options, engine=Engine(average))


def read(path):
    with Reader(path) as reader:
        return reader.info, list(reader.frames())


def seconds(path):
    """Times of all frames and the end of the last one, in seconds."""
    info, frames = read(path)
    ticks = [frame.pts for frame in frames] + [frames[-1].pts + frames[-1].duration]
    return [tick * info.time_base for tick in ticks]


TIMINGS = {
    "constant 25": ClipSpec(count=7),
    "constant 29.97": ClipSpec(count=7, rate=Fraction(30000, 1001), time_base=Fraction(1, 30000)),
    "variable": ClipSpec(
        count=9, time_base=Fraction(1, 90000), times=variable_times(9), last_duration=1500
    ),
    "odd size": ClipSpec(count=5, width=63, height=47, pix_fmt="yuv444p"),
    "odd size 4:2:0": ClipSpec(count=5, width=63, height=47, codec="ffv1"),
    "10 bit": ClipSpec(count=5, codec="libx265", pix_fmt="yuv420p10le"),
}


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("name", TIMINGS)
def test_counts_times_sound_and_source_frames(tmp_path, name, factor):
    spec = TIMINGS[name]
    suffix = "mkv" if spec.codec == "ffv1" else "mp4"
    spec = replace(spec, audio=True)
    source = make_clip(tmp_path / f"source.{suffix}", spec)
    # ffv1 in Matroska rounds times to 1 ms; H.264 in MP4 keeps them
    target = tmp_path / f"target.{suffix}"
    codec = "ffv1" if suffix == "mkv" else None
    crf = 0 if spec.codec == "libx264" else None
    report = convert(source, target, factor=factor, codec=codec, crf=crf)
    n = len(spec.starts)
    assert (report.source_frames, report.frames, report.damage) == (n, factor * n, None)
    before, after = seconds(source), seconds(target)
    assert len(after) == factor * n + 1
    if suffix == "mp4":
        assert after[:-1:factor] == before[:-1]
        assert after[-1] == before[-1]
    else:
        slack = Fraction(1, 1000)
        assert all(abs(a - b) <= slack for a, b in zip(after[:-1:factor], before[:-1], strict=True))
    assert after == sorted(set(after))
    assert payloads(target, "audio") == payloads(source, "audio")
    if codec == "ffv1" or crf == 0:
        source_frames, frames = read(source)[1], read(target)[1]
        for index, frame in enumerate(source_frames):
            for mine, its in zip(frames[index * factor].planes, frame.planes, strict=True):
                np.testing.assert_array_equal(mine, its)


def test_new_frames_lie_between(tmp_path):
    source = make_clip(tmp_path / "source.mkv", ClipSpec(codec="ffv1", count=3, pix_fmt="yuv444p"))
    convert(source, tmp_path / "target.mkv", codec=LOSSLESS)
    frames = read(tmp_path / "target.mkv")[1]
    first, second = (picture(i, 64, 48, "yuv444p")[0].astype(float) for i in (0, 1))
    assert np.abs(frames[1].planes[0] - (first + second) / 2).max() <= 1
    for mine, held in zip(frames[5].planes, frames[4].planes, strict=True):
        np.testing.assert_array_equal(mine, held)  # after the last frame there is only it


def test_nothing_is_blended_across_a_cut_and_stills_are_held(tmp_path):
    """A dark shot of a bright disc, and a bright one of dark stripes that stands still."""
    source = tmp_path / "cuts.mkv"
    y, x = np.mgrid[:96, :128]
    disc = np.where(np.hypot(x - 40, y - 50) < 25, 180, 30 + y / 4)
    stripes = np.where((x + 2 * y) // 24 % 2, 90, 220)
    shots = [disc] * 2 + [stripes] * 3
    with av.open(str(source), "w") as output:
        stream = output.add_stream("ffv1", 25, width=128, height=96, pix_fmt="yuv444p")
        for index, shot in enumerate(shots):
            luma = (shot + index).astype(np.uint8) if index < 2 else shot.astype(np.uint8)
            gray = np.full_like(luma, 128)
            frame = av.VideoFrame.from_ndarray(np.stack([luma, gray, gray]), format="yuv444p")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    report = convert(source, tmp_path / "target.mkv", factor=4, codec=LOSSLESS)
    assert report.cuts == [2]
    assert report.stills == 2
    frames = read(tmp_path / "target.mkv")[1]
    originals = [frame.planes[0] for frame in read(source)[1]]
    for made in frames[4:]:  # from the last frame before the cut on, there are only originals
        assert any(np.array_equal(made.planes[0], original) for original in originals)


@pytest.mark.parametrize(
    ("width", "height", "bits"),
    [(64, 48, 8), (1920, 1080, 8), (3840, 2160, 10), (7680, 4320, 12)],
)
def test_queues_are_bounded_in_bytes(tmp_path, width, height, bits):
    info, _ = read(make_clip(tmp_path / "any.mp4", ClipSpec(count=1)))
    depth = queue_depth(replace(info, width=width, height=height, bits=bits))
    size = width * height * 3 * (2 if bits > 8 else 1)
    assert 1 <= depth <= 32
    assert depth == 1 or depth * size <= QUEUE_BYTES


def test_an_existing_target_is_not_touched_without_overwrite(tmp_path):
    source = make_clip(tmp_path / "source.mp4")
    target = tmp_path / "target.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(OptionsError, match="exists already"):
        convert(source, target)
    assert target.read_bytes() == b"precious"
    convert(source, target, overwrite=True)
    assert len(read(target)[1]) == 20


def test_the_source_is_never_the_target(tmp_path):
    source = make_clip(tmp_path / "source.mp4")
    content = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    for target in (source, tmp_path / "link.mp4"):
        with pytest.raises(OptionsError, match="the source itself"):
            convert(source, target, overwrite=True)
    assert source.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder.mp4", "it is a folder"),
        (f"{'a' * 300}.mp4", "name too long"),
        ("no/folder.mp4", "there is no folder"),
    ],
)
def test_a_target_that_cannot_be_is_refused_at_once(tmp_path, name, words):
    source = make_clip(tmp_path / "source.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OptionsError, match=words):
        convert(source, tmp_path / name, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.mp4", "source.mp4"]


@pytest.mark.parametrize("stage", ["network", "progress"])
def test_a_fault_in_any_stage_leaves_nothing(tmp_path, stage):
    source = make_clip(tmp_path / "source.mp4")

    def fails(*_):
        raise ZeroDivisionError(stage)

    engine = Engine(fails if stage == "network" else average)
    on_progress = fails if stage == "progress" else None
    with pytest.raises(ZeroDivisionError, match=stage):
        interpolate_file(
            Job(source=source, target=tmp_path / "target.mp4"),
            engine=engine,
            on_progress=on_progress,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]


def test_a_link_to_nowhere_is_not_replaced_either(tmp_path):
    source, target = make_clip(tmp_path / "a.mkv", ClipSpec(count=3)), tmp_path / "b.mkv"
    target.symlink_to(tmp_path / "nowhere.mkv")
    with pytest.raises(OptionsError, match="exists already"):
        convert(source, target)
    assert target.is_symlink()


def test_a_failed_overwrite_keeps_the_old_file(tmp_path):
    source = make_clip(tmp_path / "source.mp4")
    target = tmp_path / "target.mp4"
    target.write_bytes(b"precious")

    def interrupt(*_):
        raise KeyboardInterrupt

    job, options = Job(source=source, target=target), Options(overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        interpolate_file(job, options, engine=Engine(average), on_progress=interrupt)
    assert target.read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"source.mp4", "target.mp4"}


def test_a_truncated_clip_gives_what_can_be_decoded(tmp_path):
    spec = ClipSpec(count=40, codec="mpeg4", options={"g": "5"})
    whole = make_clip(tmp_path / "whole.mkv", spec)
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    report = convert(broken, tmp_path / "target.mkv")
    assert report.damage
    assert 2 <= report.source_frames < 40
    assert len(read(tmp_path / "target.mkv")[1]) == 2 * report.source_frames


def test_one_frame_is_not_enough(tmp_path):
    source = make_clip(tmp_path / "source.mp4", ClipSpec(count=1))
    with pytest.raises(VideoError, match="has only one frame"):
        convert(source, tmp_path / "target.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["source.mp4"]


def test_progress_counts_every_frame(tmp_path):
    source = make_clip(tmp_path / "source.mp4", ClipSpec(count=6))
    told = []
    interpolate_file(
        Job(source=source, target=tmp_path / "target.mp4"),
        Options(factor=4),
        engine=Engine(average),
        on_progress=lambda *now: told.append(now),
    )
    assert told == [(written, 24) for written in range(4, 25, 4)]


def test_two_pictures(tmp_path):
    for name, level in (("a", 10), ("b", 90)):
        write_picture(tmp_path / f"{name}.png", np.full((33, 47, 3), level, np.uint8))
    interpolate_pictures(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "middle.png")
    middle = read_picture(tmp_path / "middle.png")
    assert middle.shape == (33, 47, 3)
    assert 10 <= middle.min() <= middle.max() <= 90
    write_picture(tmp_path / "c.png", np.zeros((33, 48, 3), np.uint8))
    with pytest.raises(VideoError, match="one is 47x33, the other 48x33"):
        interpolate_pictures(tmp_path / "a.png", tmp_path / "c.png", tmp_path / "no.png")


@pytest.mark.parametrize(("suffix", "bits"), [("png", 16), ("tif", 16), ("jpg", 8)])
def test_two_pictures_of_sixteen_bits(tmp_path, suffix, bits):
    """One of 8 joins them; what the target cannot hold is rounded."""
    ramp = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    deep = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], -1)
    first, second, target = (tmp_path / name for name in ("a.png", "b.png", f"middle.{suffix}"))
    write_picture(first, deep)
    for other in (deep, np.rint(deep / 257).astype(np.uint8)):
        write_picture(second, other)
        interpolate_pictures(first, second, target, Options(overwrite=True))
        middle = read_picture(target, deep=True)
        assert middle.itemsize * 8 == bits
        error = middle / (257 if bits == 16 else 1) - deep / 257
        assert np.abs(error).mean() < (0.3 if bits == 16 else 2)
        assert abs(error.mean()) < (0.03 if bits == 16 else 0.3)
        assert len(np.unique(middle)) > (1000 if bits == 16 else 200)


PEAK = """
import resource, sys
from pathlib import Path
from sepconv_video.engine import Engine
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
job = Job(source=Path(sys.argv[1]), target=Path(sys.argv[2]))
engine = Engine(lambda left, right: (left + right) / 2)
report = interpolate_file(job, Options(overwrite=True), engine=engine)
print(report.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


# what is in use is to be measured, not how glibc's heaps of many threads happen to be scattered
TIDY = os.environ | {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "65536"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slowmo": True}, "`--slowmo` has no effect on two pictures"),
        ({"start_s": Fraction(1)}, "`--start` has no effect"),
        ({"resume": False}, "`--no-resume` has no effect"),
        ({"factor": 4}, "`--factor 4` makes 3 pictures, not one"),
    ],
)
def test_two_pictures_refuse_what_is_for_videos(tmp_path, options, words):
    with pytest.raises(OptionsError, match=words):
        interpolate_pictures(
            tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png", Options(**options)
        )


def test_cuts_beyond_the_end_are_told(tmp_path):
    source = make_clip(tmp_path / "a.mkv", ClipSpec(count=4))
    cuts = tmp_path / "cuts.txt"
    cuts.write_text("2\n4\n99\n")
    report = convert(source, tmp_path / "b.mkv", cuts=str(cuts))
    assert (
        "2 of the cuts lie beyond the last frame: is it the list of another video?" in report.notes
    )
    assert report.cuts == [2]


def test_memory_does_not_grow_with_length(tmp_path, shared):
    """The same clip, looped to ten times its length, stays within 10 %."""
    clip = shared / "data" / "val" / "val_traffic.mp4"
    looped = tmp_path / "looped.mp4"
    _loop(clip, looped, 10)
    peaks, frames = [], []
    for source in (clip, looped):
        command = [sys.executable, "-c", PEAK, str(source), str(tmp_path / "out.mp4")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=TIDY)
        count, peak = map(int, done.stdout.split())
        frames.append(count)
        peaks.append(peak)
    print(
        f"peak memory {peaks[0] / 1024:.0f} MiB for {frames[0]} frames, "
        f"{peaks[1] / 1024:.0f} MiB for {frames[1]}"
    )
    assert frames[1] == 10 * frames[0]
    assert peaks[1] <= 1.1 * peaks[0]


def _loop(source, target, times):
    """Repeat a clip by encoding it several times over."""
    with av.open(str(source)) as container:
        frames = list(container.decode(video=0))
        rate = container.streams.video[0].average_rate
    with av.open(str(target), "w") as output:
        stream = output.add_stream("libx264", rate, options={"preset": "ultrafast"})
        stream.width, stream.height = frames[0].width, frames[0].height
        for index in range(times * len(frames)):
            frame = frames[index % len(frames)]
            frame.pts, frame.time_base = index, 1 / rate
            frame.pict_type = 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs a small tmpfs")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        check=False, capture_output=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("A SMALL TMPFS CANNOT BE MOUNTED HERE")
    try:
        source = make_clip(tmp_path / "source.mkv", ClipSpec(count=30, codec="ffv1"))
        with pytest.raises(VideoError, match="cannot write") as caught:
            convert(source, disk / "target.mkv", codec=LOSSLESS)
        assert "space" in f"{caught.value.message} {caught.value.hint}"
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
