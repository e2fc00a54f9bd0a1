"""The timecode of the first frame, counted at the new rate and from the new beginning."""

import shutil
import subprocess
from fractions import Fraction
from itertools import islice

import av
import pytest
from clips import ClipSpec, make_clip
from making import average, make

from sepconv_video.engine import Engine
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.video.timecode import relabelled

NTSC = Fraction(30000, 1001)


def labels(nominal):
    """All labels that leave some out, from midnight on, by the rule as it is written."""
    for minute in range(24 * 60):
        for second in range(60):
            first = nominal // 15 if minute % 10 and second == 0 else 0
            for frame in range(first, nominal):
                yield f"{minute // 60:02d}:{minute % 60:02d}:{second:02d};{frame:02d}"


@pytest.mark.parametrize("nominal", [30, 60])
def test_labels_are_left_out_as_the_rule_says(nominal):
    rate = NTSC * (nominal // 30)
    for count, label in enumerate(islice(labels(nominal), 40_000)):
        assert relabelled("00:00:00;00", rate, count / rate, rate) == label
        if count < 3000:
            assert relabelled(label, rate, Fraction(0), rate) == label


@pytest.mark.parametrize(
    ("label", "rate", "later_s", "new_rate", "expected"),
    [
        ("01:02:03:04", Fraction(25), 0, Fraction(50), "01:02:03:08"),
        ("01:02:03:04", Fraction(25), 600, Fraction(50), "01:12:03:08"),
        ("10:00:00:12", Fraction(24000, 1001), 0, Fraction(60), "10:00:00:30"),
        ("01:02:03;04", NTSC, 0, 2 * NTSC, "01:02:03;08"),
        ("01:02:03;04", NTSC, 0, Fraction(50), "01:02:03:06"),  # which leaves none out
        ("01:02:03;04", NTSC, 0, Fraction(60), "01:02:03:08"),
        ("23:59:59;29", NTSC, 1 / NTSC, NTSC, "00:00:00;00"),
        ("23:59:59:24", Fraction(25), Fraction(1, 25), Fraction(25), "00:00:00:00"),
        ("01:02:03:99", Fraction(25), 0, Fraction(25), "01:02:06:24"),  # beyond a second
        ("01:02:03:00", Fraction(1, 10), 0, Fraction(1, 5), "01:02:03:00"),  # a timelapse
        ("nonsense", NTSC, 5, NTSC, "nonsense"),
    ],
)
def test_a_label_of_another_time_and_rate(label, rate, later_s, new_rate, expected):
    assert relabelled(label, rate, Fraction(later_s), new_rate) == expected


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="NO FFMPEG HERE")
@pytest.mark.parametrize("suffix", ["mov", "mp4", "mkv"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "01:02:59;58"),
        ({"fps": 50}, "01:02:59:48"),
        ({"start_s": "0.5"}, "01:03:00;32"),
        ({"factor": 4, "slowmo": True}, "01:02:59;29"),
    ],
)
def test_the_timecode_of_what_is_made(tmp_path, suffix, options, expected):
    source, target = tmp_path / "a.mov", tmp_path / f"b.{suffix}"
    clip = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=30000/1001:d=1", "-c:v", "libx264"]
    sound = ["-f", "lavfi", "-i", "sine=d=1"]
    start = ["-timecode", "01:02:59;29"]
    subprocess.run(["ffmpeg", "-v", "error", *sound, *clip, *start, source], check=True)
    job = Job(source=source, target=target)
    notes = interpolate_file(job, Options(**options), engine=Engine(average)).notes
    assert not any("does not know left out" in note for note in notes)
    with av.open(str(target)) as file:
        found = [stream.metadata for stream in file.streams if stream.type != "audio"]
        assert {key.lower(): tag for key, tag in found[0].items()}["timecode"] == expected
        assert len(found) == (1 if suffix == "mkv" else 2)  # with a track of its own


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="NO FFMPEG HERE")
@pytest.mark.parametrize("suffix", ["avi", "ts", "nut"])
def test_a_timecode_that_is_lost_is_named(tmp_path, suffix):
    source = tmp_path / "a.mov"
    clip = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", "-c:v", "libx264"]
    start = ["-timecode", "01:02:03:04"]
    subprocess.run(["ffmpeg", "-v", "error", *clip, *start, source], check=True)
    job = Job(source=source, target=tmp_path / f"b.{suffix}")
    notes = interpolate_file(job, engine=Engine(average)).notes
    assert sum("timecode left out" in note and "matroska has" in note for note in notes) == 1


@pytest.mark.parametrize(
    ("rate", "suffix", "is_kept"),
    [(127, "mp4", True), (128, "mp4", False), (240, "mov", False), (240, "mkv", True)],
)
def test_timecode_that_cannot_be_counted_is_named(tmp_path, rate, suffix, is_kept):
    """It used to be told when all the work was done, by "invalid argument"."""
    spec = ClipSpec(count=4, rate=Fraction(rate), metadata={"timecode": "01:02:03:04"})
    source, target = make_clip(tmp_path / "a.mkv", spec), tmp_path / f"b.{suffix}"
    notes = make(source, target).notes
    with av.open(str(target)) as file:
        tags = {key.lower(): tag for key, tag in file.streams.video[0].metadata.items()}
    assert ("timecode" in tags) is is_kept
    assert any("timecode left out" in note for note in notes) is not is_kept
