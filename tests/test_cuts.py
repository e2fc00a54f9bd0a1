"""Known cuts, and that nothing is made across those known or found."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from held import blends

from sepconv_video import Job, Options, interpolate_file
from sepconv_video.cuts import Cuts, read_cuts
from sepconv_video.engine import Engine
from sepconv_video.errors import OptionsError
from sepconv_video.production import identity_of


def written(folder, text):
    path = folder / "cuts.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_numbers_times_and_comments(tmp_path):
    text = "# cuts of the film\n\n240\n  12  # the door\r\n10.5\n1:02\n0:01:02.250\n240\n"
    cuts = read_cuts(written(tmp_path, text))
    assert cuts.frames == {12, 240}
    assert cuts.times_s == (Fraction(21, 2), Fraction(62), Fraction(249, 4))


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "\ufeff\n"])
def test_no_cuts_are_cuts_too(tmp_path, text):
    assert read_cuts(written(tmp_path, text)) == Cuts()


def test_scenes_of_pyscenedetect(tmp_path):
    text = (
        "Timecode List:,00:00:00.567,00:00:01.134\n"
        "Scene Number,Start Frame,Start Timecode,Start Time (seconds),End Frame\n"
        "1,1,00:00:00.000,0.000,17\n2,18,00:00:00.567,0.567,34\n3,35,00:00:01.134,1.134,50\n"
    )
    assert read_cuts(written(tmp_path, text)).frames == {17, 34}
    with pytest.raises(OptionsError, match=r"line 3 of .* is not a cut: `2,x,`"):
        read_cuts(written(tmp_path, "Scene Number,Start Frame,End\n1,1,9\n2,x,\n"))
    with pytest.raises(OptionsError, match=r"line 3 of .* is not a cut: `2`"):  # as it was cut off
        read_cuts(written(tmp_path, "Scene Number,Start Frame,End\n1,1,9\n2"))


@pytest.mark.parametrize("line", ["x", "-3", "1:2:3:4", "12 13", "1.5s", "9" * 5000, "²"])
def test_what_is_no_cut_is_named(tmp_path, line):
    with pytest.raises(OptionsError, match=r"line 2 of .*cuts.txt` is not a cut: `") as caught:
        read_cuts(written(tmp_path, f"7\n{line} # why\n"))
    assert line[:80] in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_files_that_are_no_lists(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path, written(tmp_path, b"\x00\xff\xfe")):
        with pytest.raises(OptionsError, match="cannot read the cuts"):
            read_cuts(path)
    with written(tmp_path, "").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(OptionsError, match="cannot be a list of cuts"):
        read_cuts(tmp_path / "cuts.txt")


def test_a_time_names_the_first_frame_from_then_on():
    """Whatever the rate: exactly one frame for each time, also if it was rounded."""
    for rate in (Fraction(24000, 1001), Fraction(25), Fraction(60)):
        for text, frame in (
            (Fraction(1), -(-rate // 1)),
            (Fraction(round(1000 * 7 / rate), 1000), 7),
        ):
            cuts = Cuts(times_s=(text,))
            found = [k for k in range(1, 99) if cuts.is_cut_at(k, (k - 1) / rate, k / rate)]
            assert found == [frame]
    assert Cuts(frames=frozenset({4})).is_cut_at(4, Fraction(0), Fraction(1))


def average(left, right):
    return (left + right) / 2


def convert(source, target, **chosen):
    job = Job(source=source, target=target)
    return interpolate_file(job, Options(codec="ffv1", **chosen), engine=Engine(average))


def shown(path):
    """Times and planes of all frames, as PyAV decodes them."""
    with av.open(str(path)) as source:
        tick = source.streams.video[0].time_base
        return [
            (frame.pts * tick, tuple(plane_of(plane) for plane in frame.planes))
            for frame in source.decode(video=0)
        ]


def plane_of(plane):
    return np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].copy()


def write(path, pictures, rate=25):
    with av.open(str(path), "w") as output:
        height, width = pictures[0].shape
        stream = output.add_stream("ffv1", rate, width=width, height=height, pix_fmt="gray")
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "gray")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def joined(shared, tmp_path_factory):
    """Seven frames of each of six real clips, one after the other, and where the cuts are."""
    clips = sorted((shared / "data" / "val").glob("*.mp4"))[:12:2]
    pictures = []
    for clip in clips:
        with av.open(str(clip)) as source:
            first = itertools.islice(source.decode(video=0), 7)
            pictures += [frame.reformat(320, 180, "gray").to_ndarray() for frame in first]
    path = write(tmp_path_factory.mktemp("cuts") / "joined.nut", pictures)
    return path, list(range(7, len(pictures), 7))


@pytest.mark.parametrize(
    "chosen", [{"factor": 4}, {"fps": Fraction(60)}, {"factor": 2, "slowmo": True}]
)
def test_no_frame_is_blended_across_a_cut(joined, tmp_path, chosen):
    source, cuts = joined
    report = convert(source, tmp_path / "target.nut", **chosen)
    assert report.cuts == cuts
    longer = 2 if "slowmo" in chosen else 1
    sources = [(longer * time_s, planes) for time_s, planes in shown(source)]
    assert blends(report.cuts, sources, shown(report.target)) == []


def test_the_proof_sees_blends(joined, tmp_path):
    """Without cuts frames are made across them, and `blends` must find them all."""
    source, cuts = joined
    report = convert(source, tmp_path / "target.nut", cuts="off")
    assert report.cuts == []
    assert len(blends(cuts, shown(source), shown(report.target))) == len(cuts)


@pytest.mark.parametrize("line", ["2", "0:00:00.08", "0.08"])
def test_known_cuts_are_cuts_and_found_ones_are_none(tmp_path, line):
    rng = np.random.default_rng(1)
    noise = [np.repeat(np.repeat(rng.integers(0, 256, (6, 8)), 8, 0), 8, 1) for _ in range(2)]
    pictures = [noise[index > 2].astype(np.uint8) + np.uint8(index) for index in range(6)]
    source = write(tmp_path / "source.nut", pictures)
    assert convert(source, tmp_path / "auto.nut").cuts == [3]
    report = convert(source, tmp_path / "known.nut", cuts=str(written(tmp_path, line)))
    assert report.cuts == [2]
    frames = shown(report.target)
    assert all(map(np.array_equal, frames[3][1], frames[2][1]))
    middle = (pictures[2].astype(float) + pictures[3]) / 2
    assert np.abs(frames[5][1][0] - middle).max() <= 1


def test_other_cuts_begin_afresh(tmp_path):
    source = write(tmp_path / "source.nut", [np.full((48, 64), k, np.uint8) for k in range(9)])
    first = identity_of(Job(source=source, target=tmp_path / "a.nut"), Options(cuts="off"))
    path = written(tmp_path, "3\n")
    other = identity_of(Job(source=source, target=tmp_path / "a.nut"), Options(cuts=str(path)))
    assert (first["cuts"], other["cuts"]) == ([], ["3"])
