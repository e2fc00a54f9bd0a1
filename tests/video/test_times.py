"""Times of what cameras, cutters and muxers really write, against ffprobe's opinion."""

import json
import shutil
import subprocess
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video import Job, Options, interpolate_file
from sepconv_video.engine import Engine
from sepconv_video.frames import Reading, Timeline
from sepconv_video.video import Reader

B_FRAMES = {"qp": "4", "preset": "ultrafast", "bf": "2", "g": "12"}  # lossless x264 has none
RATES = [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(25)]


@pytest.fixture(autouse=True)
def tools():
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("FFMPEG MISSING: the program makes these files and tells their times")


def clip(path, rate=Fraction(25), count=30):
    return make_clip(path, ClipSpec(rate=rate, count=count, options=B_FRAMES, width=96))


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def probed(path):
    """Times and durations that ffprobe gives, in seconds."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json", "-show_entries"]
    command += ["frame=pts:stream=time_base", str(path)]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    base = Fraction(said["streams"][0]["time_base"])
    return [frame["pts"] * base for frame in said["frames"]]


def read(path):
    with Reader(path) as reader:
        frames, base = list(reader.frames()), reader.info.time_base
    return [frame.pts * base for frame in frames], frames[-1].duration * base, reader


def steps(times):
    return [after - before for before, after in pairwise(times)]


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".avi"])
def test_b_frames_at_a_constant_rate_are_even(tmp_path, suffix, rate):
    path = clip(tmp_path / f"a{suffix}", rate)
    with av.open(str(path)) as source:
        assert 3 in {int(frame.pict_type) for frame in source.decode(video=0)}
    times, last, reader = read(path)
    tick = Fraction(1, 90_000) if suffix == ".ts" else 0
    for index, time in enumerate(times):
        assert abs(time - times[0] - index / rate) <= tick / 2
    assert len(times) == 30
    assert abs((last or 1 / rate) - 1 / rate) <= tick
    if suffix != ".avi":  # which has no times, and FFmpeg makes up wrong ones
        assert times == probed(path)
    assert not any("time" in note for note in reader.notes)


@pytest.mark.parametrize("rate", RATES[:2], ids=str)
def test_matroska_keeps_its_milliseconds_and_no_new_frame_jitters_more(tmp_path, rate):
    path = clip(tmp_path / "a.mkv", rate)
    times, _, reader = read(path)
    assert times == [
        Fraction(int(1000 * index / rate + Fraction(1, 2)), 1000) for index in range(30)
    ]
    assert abs(reader.info.rate - rate) < Fraction(1, 100)
    job = Job(source=path, target=tmp_path / "out.mp4")
    engine = Engine(lambda left, right: (left + right) / 2)
    report = interpolate_file(job, Options(device="cpu"), engine=engine)
    assert (report.frames, report.cuts, report.stills) == (60, [], 0)
    made = probed(job.target)
    assert made[::2] == times
    for index, time in enumerate(made):
        assert abs(time - Fraction(index, 2) / rate) <= Fraction(1, 2000)


def test_an_edit_list_that_skips_the_beginning(tmp_path):
    """`-ss` with `-c copy`: frames before the cut are in the file, to be decoded, not shown."""
    whole, path = clip(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    ffmpeg("-ss", "0.6", "-i", whole, "-c", "copy", path)
    with av.open(str(path)) as source:
        packets = sum(bool(packet.size) for packet in source.demux(video=0))
    times, last, _ = read(path)
    assert packets > len(times)
    assert times == probed(path)
    assert times[0] == 0
    assert set(steps(times)) == {Fraction(1, 25)}
    assert last == Fraction(1, 25)
    shown = {frame.planes[0].tobytes() for frame in frames_of(path)}
    assert shown == {frame.planes[0].tobytes() for frame in frames_of(whole)[30 - len(times) :]}


def frames_of(path):
    with Reader(path) as reader:
        return list(reader.frames())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_delayed_beginning(tmp_path, suffix):
    """`-itsoffset`: in MP4 an empty edit."""
    whole, path = clip(tmp_path / "a.mp4"), tmp_path / f"b{suffix}"
    ffmpeg("-itsoffset", "1.5", "-i", whole, "-c", "copy", path)
    times, _, _ = read(path)
    assert times == probed(path)
    assert len(times) == 30
    assert times[0] >= Fraction(3, 2)
    np.testing.assert_allclose([float(step) for step in steps(times)], 0.04, atol=1e-3)


def test_negative_first_decoding_times(tmp_path):
    path = tmp_path / "b.mp4"
    ffmpeg("-i", clip(tmp_path / "a.mp4"), "-c", "copy", "-movflags", "negative_cts_offsets", path)
    with av.open(str(path)) as source:
        assert min(p.dts for p in source.demux(video=0) if p.size) < 0
    times, last, _ = read(path)
    assert times == [Fraction(index, 25) for index in range(30)]
    assert last == Fraction(1, 25)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_lying_frame_count_changes_nothing(tmp_path, suffix):
    """Fragments have no count in their header; Matroska a tag that anybody can write."""
    path = tmp_path / f"b{suffix}"
    flags = ["-movflags", "empty_moov+frag_keyframe"] if suffix == ".mp4" else []
    lie = ["-metadata:s:v", "NUMBER_OF_FRAMES=7"]
    ffmpeg("-i", clip(tmp_path / "a.mp4"), "-c", "copy", *flags, *lie, path)
    times, last, reader = read(path)
    assert reader.info.frame_count_from_header != 30 or suffix == ".mp4"
    assert times == probed(path)
    assert [time - times[0] for time in times] == [Fraction(index, 25) for index in range(30)]
    assert last == Fraction(1, 25)


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001)], ids=str)
def test_a_clock_between_microseconds_begins_with_the_first_frame(tmp_path, rate, suffix):
    """FFmpeg rounds the beginning: with B-frames 132000/90000 s becomes 1.466667 s, after it."""
    codec = {".ts": "libx264", ".mpg": "mpeg2video"}[suffix]
    spec = ClipSpec(codec=codec, count=40, rate=rate, options=B_FRAMES)
    path, engine = make_clip(tmp_path / f"a{suffix}", spec), Engine(lambda left, right: left)
    whole = [frame.planes[0].tobytes() for frame in frames_of(path)]
    for start, first in ((None, 0), (Fraction(0), 0), (30 / rate, 30)):
        timeline = Timeline(start_s=start)
        with Reader(path, Reading(timeline=timeline)) as reader:
            assert next(reader.frames()).planes[0].tobytes() == whole[first]
        target = tmp_path / f"{start is None}{first}.mp4"
        options = Options(codec="ffv1", start_s=start, device="cpu")
        interpolate_file(Job(source=path, target=target), options, engine=engine)
        assert probed(target)[0] == 0
    with Reader(path, Reading(timeline=Timeline(end_s=30 / rate))) as reader:
        assert len(list(reader.frames())) == 30
