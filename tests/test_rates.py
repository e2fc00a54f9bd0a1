"""Rates, slow motion and repeated frames, checked in finished files by ffprobe."""

import json
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip, variable_times

from sepconv_video import Job, Options, interpolate_file
from sepconv_video.engine import Engine
from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.options import parse_rate, parse_time
from sepconv_video.video import Reader


def average(left, right):
    return (left + right) / 2


def convert(source, target, **chosen):
    job = Job(source=source, target=target)
    return interpolate_file(job, Options(**chosen), engine=Engine(average))


def probed(path):
    """Times of the pictures and how long each is shown, in seconds, and what the header says."""
    answer = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json",
         "-show_entries", "frame=pts,pkt_duration:stream=time_base,r_frame_rate,duration", path],
        capture_output=True, check=True,
    )  # fmt: skip
    found = json.loads(answer.stdout)
    stream = found["streams"][0]
    tick = Fraction(stream["time_base"])
    times = [frame["pts"] * tick for frame in found["frames"]]
    return times, stream


def lumas(path):
    """Mean luma of all frames, as decoded by PyAV."""
    with av.open(str(path)) as source:
        return [
            round(float(np.frombuffer(f.planes[0], np.uint8)[: f.width].mean()))
            for f in source.decode(video=0)
        ]


def drawings(path, levels, rate=24):
    """A clip of flat pictures of the given lumas, which is no cut: they differ little."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate, width=64, height=64, pix_fmt="gray")
        for index, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64), level, np.uint8), "gray")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("fps", "spec"),
    [
        ("60", ClipSpec(count=13, rate=Fraction(24))),
        (
            "60000/1001",
            ClipSpec(count=13, rate=Fraction(24000, 1001), time_base=Fraction(1, 24000)),
        ),
        ("60", ClipSpec(count=13, rate=Fraction(24000, 1001), time_base=Fraction(1, 24000))),
        ("50", ClipSpec(count=9, time_base=Fraction(1, 90000), times=variable_times(9))),
        ("25", ClipSpec(count=13, rate=Fraction(60))),
    ],
)
def test_a_rate_from_any_source(tmp_path, fps, spec):
    source = make_clip(tmp_path / "source.mp4", spec)
    report = convert(source, tmp_path / "target.mp4", fps=parse_rate(fps))
    times, stream = probed(tmp_path / "target.mp4")
    assert [t * Fraction(fps) for t in times] == list(range(len(times)))
    assert len(times) == report.frames == -(-spec.seconds * Fraction(fps) // 1)
    assert abs(Fraction(stream["duration"]) - spec.seconds) < Fraction(1, 1_000_000)
    step = Fraction(max(np.diff(spec.starts).tolist())) * spec.ticks
    assert report.largest_error_s <= step / 16
    if report.largest_error_s:
        (note,) = [note for note in report.notes if "eighth" in note]
        assert f"{report.largest_error_s * 1000:.1f} ms" in note


def test_a_rate_that_halving_reaches_is_exact(tmp_path):
    source = drawings(tmp_path / "source.nut", [0, 80, 160], rate=15)
    report = convert(source, tmp_path / "target.mkv", fps=Fraction(60), codec="ffv1")
    assert lumas(report.target) == [*range(0, 160, 20), 160, 160, 160, 160]
    assert report.largest_error_s == 0
    assert report.notes == [note for note in report.notes if "eighth" not in note]


def test_a_rate_far_below_leaves_whole_segments_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("sepconv_video.segmenting.SEGMENT_FRAMES", 3)
    source = make_clip(tmp_path / "source.mp4", ClipSpec(count=60))
    report = convert(source, tmp_path / "target.mp4", fps=Fraction(1))
    times, stream = probed(tmp_path / "target.mp4")
    assert times == [0, 1, 2]
    assert float(stream["duration"]) == pytest.approx(60 / 25)
    assert report.source_frames == 60


@pytest.mark.parametrize("name", ["constant", "variable"])
def test_slow_motion_lasts_longer_at_the_sources_rate(tmp_path, name):
    times = {} if name == "constant" else {
        "time_base": Fraction(1, 90000), "times": variable_times(9), "last_duration": 1500,
    }  # fmt: skip
    spec = ClipSpec(count=9, **times)
    source = make_clip(tmp_path / "source.mp4", spec)
    report = convert(source, tmp_path / "target.mp4", factor=4, slowmo=True)
    times, stream = probed(tmp_path / "target.mp4")
    assert times[::4] == [4 * start * spec.ticks for start in spec.starts]
    assert len(times) == report.frames == 36
    assert abs(Fraction(stream["duration"]) - 4 * spec.seconds) < Fraction(1, 1_000_000)
    if name == "constant":
        assert stream["r_frame_rate"] == "25/1"


@pytest.mark.parametrize("rate", [12, 24])
def test_repeats_become_motion(tmp_path, rate):
    """Drawings on twos: with `--dedup` the new frames lie between drawings, times stay."""
    source = drawings(tmp_path / "source.mkv", [0, 0, 40, 40, 80, 80, 120, 120], rate)
    plain = convert(source, tmp_path / "plain.mkv", codec="ffv1")
    assert plain.repeats == 3
    assert any("`--dedup`" in note for note in plain.notes)
    report = convert(source, tmp_path / "target.mkv", codec="ffv1", dedup=True)
    assert lumas(report.target) == [*range(0, 120, 10), 120, 120, 120, 120]
    assert not any("`--dedup`" in note for note in report.notes)
    assert probed(report.target)[0] == probed(plain.target)[0]


def test_segments_see_the_same_repeats(tmp_path, monkeypatch):
    levels = [0, 0, 0, 30, 30, 60, 60, 60, 90, 120, 120, 150, 150, 150, 180, 180]
    source = drawings(tmp_path / "source.mkv", levels)
    whole = convert(source, tmp_path / "whole.mkv", codec="ffv1", dedup=True)
    monkeypatch.setattr("sepconv_video.segmenting.SEGMENT_FRAMES", 3)
    stops = iter([False, False, False, True])
    with pytest.raises(Exception, match="interrupted"):
        interpolate_file(
            Job(source=source, target=tmp_path / "target.mkv"),
            Options(codec="ffv1", dedup=True),
            engine=Engine(average),
            should_stop=lambda: next(stops, False),
        )
    report = convert(source, tmp_path / "target.mkv", codec="ffv1", dedup=True)
    assert report.kept_frames
    assert lumas(report.target) == lumas(whole.target)
    assert (report.repeats, report.largest_error_s) == (whole.repeats, whole.largest_error_s)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60", 60),
        ("59.94", Fraction(60000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("12.5", 12.5),
    ],
)
def test_rates_are_read(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "60fps", "1/0"])
def test_other_rates_are_refused(text):
    with pytest.raises(OptionsError, match="frames per second"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "time_s"), [("90", 90), ("1:30", 90), ("0:01:30.5", 90.5), ("1:00:00", 3600)]
)
def test_times_are_read(text, time_s):
    assert parse_time(text) == time_s


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "soon", "1:"])
def test_other_times_are_refused(text):
    with pytest.raises(OptionsError, match="is not a time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"fps": Fraction(0)}, "out of bounds"),
        ({"fps": Fraction(10**6)}, "out of bounds"),
        ({"fps": Fraction(60), "slowmo": True}, "exclude each other"),
        ({"stretch_sound": True}, "works only with `--slowmo`"),
        ({"start_s": Fraction(2), "end_s": Fraction(1)}, "nothing lies between"),
        ({"start_s": Fraction(2), "end_s": Fraction(2)}, "nothing lies between"),
        ({"end_s": Fraction(0)}, "nothing lies between"),
        ({"start_s": Fraction(-1)}, "cannot start before 0"),
        ({"batch": 0}, "a batch of 0 is impossible"),
        ({"crf": -1}, "out of bounds"),
        ({"crf": 64}, "out of bounds"),
        ({"precision": "fp8"}, "unknown precision `fp8`"),
    ],
)
def test_options_that_make_no_sense(chosen, text):
    with pytest.raises(OptionsError, match=text):
        Options(**chosen)


@pytest.mark.parametrize(("fps", "is_told"), [(200, False), (300, True)])
def test_more_frames_than_can_differ_are_told(tmp_path, fps, is_told):
    source = make_clip(tmp_path / "source.mp4", ClipSpec(count=5))
    report = convert(source, tmp_path / "target.mp4", fps=Fraction(fps))
    assert report.frames == fps // 5
    told = [note for note in report.notes if "at most 8 for each can differ" in note]
    assert bool(told) == is_told


BURST = [*range(40), *range(640, 680)]
"""Times at 25 frames a second, of 512 ticks, with a pause of 24 s in between."""


def test_a_variable_rate_in_avi_keeps_its_times(tmp_path):
    """An AVI has one rate: the fastest, or nothing would be in time with the sound."""
    times = tuple(512 * time for time in BURST)
    spec = ClipSpec(count=80, time_base=Fraction(1, 12800), times=times)
    source = make_clip(tmp_path / "source.mp4", spec)
    report = convert(source, tmp_path / "target.avi", codec="mjpeg")
    with av.open(str(report.target)) as made:
        shown = [p.dts * p.time_base for p in made.demux(video=0) if p.size]
    assert shown[::2] == [Fraction(time, 25) for time in BURST]
    assert not any("rounded" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "mpeg2video"), ("a.ts", "mpeg2video"), ("a.mp4", "mpeg1video"), ("a.ts", "mpeg4"),
     ("a.mkv", "mpeg4")],
)  # fmt: skip
def test_codecs_of_few_ticks_keep_an_even_rate(tmp_path, name, codec):
    spec = ClipSpec(count=10, rate=Fraction(30000, 1001), time_base=Fraction(1, 120_000))
    report = convert(make_clip(tmp_path / "source.mp4", spec), tmp_path / name, codec=codec)
    with Reader(report.target) as reader:
        times = [frame.pts * reader.info.time_base for frame in reader.frames()]
    expected = [times[0] + Fraction(1001 * index, 60_000) for index in range(20)]
    assert times == pytest.approx(expected, abs=1 / 1900)
    finest = "1/45000 s, the finest of mpeg4" if codec == "mpeg4" else "1/90000 s, the finest in"
    assert all(f"rounded to {finest}" in note for note in report.notes)


def test_any_times_in_avi_are_kept_to_a_thousandth(tmp_path):
    spec = ClipSpec(count=40, time_base=Fraction(1, 90_000), times=variable_times(40))
    source = make_clip(tmp_path / "source.mp4", spec)
    report = convert(source, tmp_path / "target.avi", codec="mjpeg")
    with av.open(str(report.target)) as made:
        shown = [p.dts * p.time_base for p in made.demux(video=0) if p.size]
    for found, expected in zip(shown[::2], spec.starts, strict=True):
        assert abs(found - expected * spec.ticks) <= Fraction(1, 2000)
    assert any("rounded to 1/1000 s" in note for note in report.notes)


@pytest.mark.parametrize("ticks", [10**9, 2 * 10**9])
def test_ticks_too_fine_for_vp9_are_rounded(tmp_path, ticks):
    """WebM may count in nanoseconds: half as long ones are too short for libvpx."""
    spec = ClipSpec(count=6, time_base=Fraction(1, ticks))
    source = make_clip(tmp_path / "source.mp4", spec)
    report = convert(source, tmp_path / "target.webm")
    with av.open(str(report.target)) as made:
        shown = sorted(p.pts * p.time_base for p in made.demux(video=0) if p.size)
    assert shown == [Fraction(k, 50) for k in range(12)]


def test_what_avi_cannot_hold_is_said_before_it_is_joined(tmp_path):
    uneven = ClipSpec(rate=Fraction(10), time_base=Fraction(1, 50), times=tuple(range(40)))
    pause = ClipSpec(count=3, times=(0, 1, 200_000))
    for name, spec, words in (
        ("uneven.mkv", uneven, "avi has one rate, here 20 a second"),
        ("pause.mp4", pause, "a pause of"),
        ("fast.mp4", ClipSpec(rate=Fraction(1000)), "avi has one rate, here 1000 a second"),
    ):
        source = make_clip(tmp_path / name, spec)
        with pytest.raises((OptionsError, VideoError), match=words) as caught:
            convert(source, tmp_path / "target.avi", codec="mjpeg")
        assert "`.mp4`" in caught.value.hint
        assert not (tmp_path / "target.avi").exists()


def ends(path):
    """When each stream ends, in seconds, by its packets, as ffprobe has them."""
    answer = subprocess.run(
        ["ffprobe", "-v", "error", "-of", "json", "-show_entries",
         "packet=codec_type,pts_time,duration_time", path],
        capture_output=True, check=True,
    )  # fmt: skip
    found = {}
    for packet in json.loads(answer.stdout)["packets"]:
        end = float(packet["pts_time"]) + float(packet.get("duration_time", 0))
        found[packet["codec_type"]] = max(found.get(packet["codec_type"], 0), end)
    return found


@pytest.mark.parametrize("stretch", [False, True])
def test_a_stretch_in_slow_motion_with_and_without_sound(tmp_path, stretch):
    spec = ClipSpec(count=50, audio=True, subtitles=True)
    source = make_clip(tmp_path / "source.mkv", spec)
    chosen = {"start_s": Fraction(1, 2), "end_s": Fraction(3, 2), "factor": 2, "slowmo": True}
    report = convert(source, tmp_path / "target.mkv", stretch_sound=stretch, **chosen)
    # frames 13 to 37 begin between 0.5 and 1.5 s
    assert (report.source_frames, report.frames) == (25, 50)
    found = ends(report.target)
    assert found["video"] == pytest.approx(2, abs=0.045)
    assert report.video_s == pytest.approx(found["video"], abs=0.001)
    assert ("audio" in found) == stretch
    if stretch:
        assert found["audio"] == pytest.approx(2, abs=0.045)
        assert report.audio_s == [pytest.approx(found["audio"], abs=0.03)]
    else:
        assert any("sound" in note or "audio" in note for note in report.notes)
    assert found["subtitle"] <= 2.001


def test_a_stretch_is_the_same_part_of_the_whole(tmp_path):
    source = make_clip(tmp_path / "source.mp4", ClipSpec(count=40, options={"qp": "4", "bf": "2"}))
    whole = convert(source, tmp_path / "whole.nut", codec="ffv1")
    part = convert(
        source, tmp_path / "part.nut", codec="ffv1", start_s=Fraction(4, 5), end_s=Fraction(6, 5)
    )
    assert part.source_frames == 10
    first = 2 * 20
    assert lumas(part.target)[:19] == lumas(whole.target)[first : first + 19]
    assert [t + Fraction(4, 5) for t in probed(part.target)[0]] == probed(whole.target)[0][
        first : first + 20
    ]
