from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import Frame, Interval
from sepconv_video.options import FACTORS
from sepconv_video.schedule import held_frame, intervals, output_pts

PLANES = (np.zeros((2, 2), np.uint8),)


def make_frames(times, duration=0):
    return [
        Frame(index=index, pts=pts, duration=duration, planes=PLANES)
        for index, pts in enumerate(times)
    ]


def always(left, right):
    return True


@st.composite
def times(draw):
    """Strictly increasing ticks from any start, variable rate, one frame at least."""
    start = draw(st.integers(-(10**12), 10**12))
    deltas = draw(st.lists(st.integers(1, 10**6), max_size=40))
    return list(accumulate(deltas, initial=start))


@given(times(), st.sampled_from(FACTORS), st.integers(0, 5000), st.integers(1, 5000))
def test_output_times_are_exact_increasing_and_complete(times, factor, duration, default):
    frames = make_frames(times, duration)
    found = list(intervals(frames, always, default))
    pts = [t for interval in found for t in output_pts(interval, factor)]

    assert len(pts) == factor * len(frames)
    assert pts[::factor] == [factor * t for t in times]
    assert all(before < after for before, after in pairwise(pts))
    for interval, first in zip(found, pts[::factor], strict=True):
        step = interval.end_pts - interval.left.pts
        assert output_pts(interval, factor) == [first + k * step for k in range(factor)]
    # The whole lasts as long as the source, the last frame included.
    last = duration or (times[-1] - times[-2] if len(times) > 1 else default)
    step = found[-1].end_pts - found[-1].left.pts
    assert pts[-1] + step == factor * (times[-1] + last)


@given(times())
def test_intervals_chain_the_frames(times):
    frames = make_frames(times)
    found = list(intervals(frames, lambda left, right: left.index % 2 == 0))
    assert [interval.left for interval in found] == frames
    assert [interval.right for interval in found] == [*frames[1:], None]
    assert [i.synthesise for i in found[:-1]] == [k % 2 == 0 for k in range(len(frames) - 1)]
    assert not found[-1].synthesise


def test_constant_rate_stays_constant():
    found = intervals(make_frames([0, 1001, 2002, 3003]), always)
    pts = [t for interval in found for t in output_pts(interval, 4)]
    assert pts == [1001 * k for k in range(16)]


def test_no_frames_no_intervals():
    assert list(intervals([], always)) == []


def test_one_frame_of_look_ahead():
    drawn = []

    def source():
        for frame in make_frames(range(5)):
            drawn.append(frame.index)
            yield frame

    found = intervals(source(), always)
    assert drawn == []
    for k in range(4):
        assert next(found).left.index == k
        assert drawn == list(range(k + 2))


def test_a_lone_frame_takes_the_default_duration():
    (found,) = intervals(make_frames([7]), always, default_duration=40)
    assert (found.end_pts, found.right) == (47, None)
    (found,) = intervals(make_frames([7], duration=3), always, default_duration=40)
    assert found.end_pts == 10


@pytest.mark.parametrize("times", [[0, 0], [5, 4]])
def test_time_that_stands_or_goes_back_is_refused(times):
    with pytest.raises(VideoError, match="does not come after"):
        list(intervals(make_frames(times), always))


@pytest.mark.parametrize(("factor", "shown"), [(2, "LL"), (4, "LLLR"), (8, "LLLLLRRR")])
def test_held_interval_shows_the_nearer_frame(factor, shown):
    left, right = make_frames([0, 10])
    cut = Interval(left=left, right=right, end_pts=10, synthesise=False)
    end = Interval(left=left, right=None, end_pts=10, synthesise=False)
    for k, letter in enumerate(shown):
        assert held_frame(cut, factor, k) is (left if letter == "L" else right)
        assert held_frame(end, factor, k) is left
    for k in (-1, factor):
        with pytest.raises(IndexError):
            held_frame(cut, factor, k)


@pytest.mark.parametrize("factor", [0, 1, 3, 16, -2])
def test_other_factors_are_refused(factor):
    (interval,) = intervals(make_frames([0]), always)
    with pytest.raises(OptionsError, match="2, 4 or 8"):
        output_pts(interval, factor)
    with pytest.raises(OptionsError, match="2, 4 or 8"):
        held_frame(interval, factor, 0)
