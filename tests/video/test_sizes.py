"""Odd and very small pictures through the whole, from decoder to encoder."""

from fractions import Fraction

import av
import numpy as np
import pytest
from clips import ClipSpec, make_clip

from sepconv_video import Job, Options, interpolate_file
from sepconv_video.engine import Engine
from sepconv_video.video import Reader

SIZES = [(1, 1), (2, 2), (3, 5), (16, 1), (1, 16), (2, 7), (17, 15), (65, 49), (15, 130)]


def clip(path, size, pix_fmt="yuv444p"):
    spec = ClipSpec(codec="rawvideo", width=size[0], height=size[1], pix_fmt=pix_fmt, count=4)
    return make_clip(path, spec)


def check(source, target, report):
    """Count, size, times, and every source picture unchanged."""
    with Reader(source) as reader:
        originals = list(reader.frames())
    with Reader(target) as reader:
        info, frames = reader.info, list(reader.frames())
    assert (report.source_frames, report.frames, len(frames)) == (4, 8, 8)
    assert info.pix_fmt == "yuv420p" or originals[0].planes[0].shape == frames[0].planes[0].shape
    for original, kept in zip(originals, frames[::2], strict=True):
        for plane, expected in zip(kept.planes, original.planes, strict=True):
            np.testing.assert_array_equal(plane, expected)
    with av.open(str(target)) as made:
        times = [frame.pts * frame.time_base for frame in made.decode(video=0)]
    assert times == [Fraction(index, 50) for index in range(8)]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "gray", "yuv422p10le"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_is_made_lossless(tmp_path, size, pix_fmt):
    source, target = clip(tmp_path / "a.nut", size, pix_fmt), tmp_path / "out.nut"
    engine = Engine(lambda left, right: (left + right) / 2)
    options = Options(codec="rawvideo", device="cpu")
    report = interpolate_file(Job(source=source, target=target), options, engine=engine)
    check(source, target, report)


@pytest.fixture(scope="module")
def fast():
    from sepconv_video import load_model

    return Engine(load_model("fast", device="cpu"))


@pytest.mark.parametrize("suffix", [".mp4"])
@pytest.mark.parametrize("size", SIZES[:5], ids=str)
def test_every_size_passes_the_network_and_the_default_encoder(tmp_path, fast, size, suffix):
    source, target = clip(tmp_path / "a.nut", size, "yuv420p"), tmp_path / f"out{suffix}"
    report = interpolate_file(Job(source=source, target=target), Options(device="cpu"), engine=fast)
    assert report.frames == 8
    with av.open(str(target)) as made:
        pictures = list(made.decode(video=0))
    assert len(pictures) == 8
    assert {(picture.width, picture.height) for picture in pictures} == {size}
