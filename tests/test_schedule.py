from collections import defaultdict
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import POSITIONS, ColorSpec, Frame, Relation, VideoInfo
from sepconv_video.options import FACTORS
from sepconv_video.schedule import (
    LONGEST_RUN,
    MOST_MOMENTS,
    by_factor,
    by_rate,
    held_frame,
    intervals,
    is_made,
    most_made,
)

PLANES = (np.zeros((2, 2), np.uint8),)
JOINED, CUT, STILL, REPEAT = Relation.JOINED, Relation.CUT, Relation.STILL, Relation.REPEAT


def make_info(time_base=Fraction(1, 25), rate=Fraction(25), start_pts=0):
    return VideoInfo(
        path=Path("made up"),
        width=2,
        height=2,
        pix_fmt="gray",
        bits=8,
        chroma_shift=None,
        color=ColorSpec(matrix="bt709", full_range=True),
        time_base=time_base,
        rate=rate,
        start_pts=start_pts,
        frame_count_from_header=None,
        sample_aspect_ratio=None,
    )


def make_frames(times, duration=0):
    return [
        Frame(index=index, pts=pts, duration=duration, planes=PLANES)
        for index, pts in enumerate(times)
    ]


def related(frames, relations=None):
    return zip(frames, relations or [JOINED] * len(frames), strict=True)


def schedule(times, grid=None, relations=None, duration=0, **options):
    frames = make_frames(times, duration)
    return list(intervals(related(frames, relations), grid or by_factor(make_info(), 2), **options))


def moments(found):
    return [moment for interval in found for moment in interval.moments]


@st.composite
def times(draw):
    """Strictly increasing ticks from any start, variable rate, one frame at least."""
    start = draw(st.integers(-(10**12), 10**12))
    deltas = draw(st.lists(st.integers(1, 10**6), max_size=40))
    return list(accumulate(deltas, initial=start))


@given(times(), st.sampled_from(FACTORS), st.integers(0, 5000), st.integers(1, 5000))
def test_output_times_are_exact_increasing_and_complete(times, factor, duration, default):
    grid = by_factor(make_info(), factor)
    found = schedule(times, grid, duration=duration, default_duration=default)
    shown = moments(found)
    pts = [moment.pts for moment in shown]

    assert len(pts) == factor * len(times)
    assert pts[::factor] == [factor * t for t in times]
    assert all(before < after for before, after in pairwise(pts))
    assert all(a.pts + a.duration == b.pts for a, b in pairwise(shown))
    for interval in found[:-1]:
        eighths = [moment.position for moment in interval.moments]
        assert eighths == [k * POSITIONS // factor for k in range(factor)]
        assert not interval.error_ticks
    # The whole lasts as long as the source, the last frame included.
    last = duration or (times[-1] - times[-2] if len(times) > 1 else default)
    assert shown[-1].pts + shown[-1].duration == factor * (times[-1] + last)


@pytest.mark.parametrize("place", ["between", "last"])
def test_a_pause_is_not_filled_without_end(place):
    """One damaged time stamp must neither take all memory nor become hours of frames."""
    long = 2 * MOST_MOMENTS if place == "between" else 1
    times, duration = [0, 1, 1 + long], 2 * MOST_MOMENTS
    grid = by_rate(make_info(), Fraction(25))
    with pytest.raises(VideoError, match="is shown for 8000 s, which takes more") as caught:
        schedule(times, grid, duration=duration)
    assert f"frame {1 if place == 'between' else 2} " in caught.value.message
    assert "`--factor`" in caught.value.hint
    assert len(moments(schedule([0, MOST_MOMENTS], grid))) == 2 * MOST_MOMENTS
    assert len(moments(schedule([0, 1, 1 + long]))) == 6


@given(times(), st.sampled_from(FACTORS))
def test_in_slow_motion_all_times_are_longer(times, factor):
    info = make_info()
    grid = by_factor(info, factor, slowmo=True)
    assert (grid.time_base, grid.rate) == (info.time_base, info.rate)
    assert [moment.pts for moment in moments(schedule(times, grid))][::factor] == [
        factor * t for t in times
    ]


@given(
    times(), st.sampled_from(["60", "50", "24", "60000/1001", "7/2", "144"]), st.integers(1, 5000)
)
def test_at_a_rate_frames_come_evenly_up_to_the_end(times, fps, duration):
    info = make_info(Fraction(1, 1000), start_pts=times[0])
    grid = by_rate(info, Fraction(fps))
    times = [times[0] + 40 * k for k in range(len(times))]
    found = schedule(times, grid, duration=duration)
    shown = moments(found)
    begin, end = times[0] * info.time_base, (times[-1] + duration) * info.time_base
    for number, moment in enumerate(shown):
        assert moment.pts * grid.time_base == begin + number / Fraction(fps)
    assert all(a.pts + a.duration == b.pts for a, b in pairwise(shown))
    assert found[-1].end_pts * grid.time_base == end
    assert 0 < end - shown[-1].pts * grid.time_base <= 1 / Fraction(fps)
    for interval in found[:-1]:
        for moment in interval.moments:
            true = Fraction(moment.pts, grid.ticks_per_tick) - interval.left.pts
            off = abs(true - Fraction(moment.position * 40, POSITIONS))
            assert off <= Fraction(40, 2 * POSITIONS)
            assert off * grid.ticks_per_tick <= interval.error_ticks


def test_24_to_60_shows_each_third_frame_and_is_at_most_a_twentieth_off():
    info = make_info(Fraction(1, 24), Fraction(24))
    found = schedule(range(5), by_rate(info, Fraction(60)), duration=1)
    places = [[moment.position for moment in interval.moments] for interval in found[:-1]]
    assert places == [[0, 3, 6], [2, 5], [0, 3, 6], [2, 5]]
    grid = by_rate(info, Fraction(60))
    error = max(interval.error_ticks for interval in found) * grid.time_base
    assert error == Fraction(1, 24) / 20
    assert len(moments(found)) == 13  # 5/24 s at 60 a second are 12.5


@given(
    st.lists(st.sampled_from([JOINED, REPEAT, STILL]), min_size=2, max_size=12),
    st.sampled_from([*FACTORS, "60", "144"]),
    st.booleans(),
)
def test_no_more_is_made_of_a_pair_than_was_said(relations, speed, dedup):
    info = make_info()
    is_factor = speed in FACTORS
    grid = by_factor(info, speed) if is_factor else by_rate(info, Fraction(speed))
    made = defaultdict(set)
    for interval in schedule(range(len(relations)), grid, relations, dedup=dedup):
        positions = {m.position for m in interval.moments if is_made(interval, m)}
        made[interval.left.index, interval.right and interval.right.index] |= positions
    most = most_made(grid, dedup=dedup)
    assert most == (speed - 1 if is_factor and not dedup else POSITIONS - 1)
    assert all(len(positions) <= most for positions in made.values())


def test_a_rate_below_the_sources_leaves_frames_out():
    info = make_info(Fraction(1, 60), Fraction(60))
    found = schedule(range(6), by_rate(info, Fraction(20)), duration=1)
    assert [len(interval.moments) for interval in found] == [1, 0, 0, 1, 0, 0]
    assert [moment.position for moment in moments(found)] == [0, 0]


@given(times())
def test_intervals_chain_the_frames(times):
    relations = [JOINED if k % 2 else CUT for k in range(len(times))]
    found = schedule(times, relations=relations)
    assert [interval.index for interval in found] == list(range(len(times)))
    assert [interval.left.pts for interval in found] == times
    assert [i.right and i.right.pts for i in found] == [*times[1:], None]
    assert [i.synthesise for i in found[:-1]] == [k % 2 == 0 for k in range(len(times) - 1)]
    assert not found[-1].synthesise


def test_no_frames_no_intervals():
    assert schedule([]) == []


def test_two_frames_of_look_ahead():
    drawn = []

    def source():
        for frame in make_frames(range(5)):
            drawn.append(frame.index)
            yield frame, JOINED

    found = intervals(source(), by_factor(make_info(), 2))
    assert drawn == []
    for k in range(4):
        assert next(found).left.index == k
        assert drawn == list(range(min(k + 3, 5)))


def around(found):
    return [i.around and tuple(frame.index for frame in i.around) for i in found]


def test_the_frames_around_an_interval_are_named_where_one_shot_goes_on():
    assert around(schedule(range(5))) == [None, (0, 3), (1, 4), None, None]
    cut = [JOINED, JOINED, JOINED, JOINED, CUT, JOINED, JOINED, JOINED]
    assert around(schedule(range(8), relations=cut)) == [
        None,
        (0, 3),
        *[None] * 3,
        (4, 7),
        None,
        None,
    ]
    for relation in (STILL, REPEAT):
        held = [JOINED, JOINED, JOINED, relation, JOINED, JOINED]
        assert around(schedule(range(6), relations=held)) == [None] * 6


def test_frames_around_are_evenly_spaced():
    times = [0, 33, 67, 100, 150, 200, 250, 267]
    assert around(schedule(times)) == [None, (0, 3), None, None, (3, 6), None, None, None]


@given(st.lists(st.sampled_from([JOINED, JOINED, JOINED, CUT, REPEAT]), max_size=30), st.data())
def test_frames_around_are_the_same_wherever_one_begins_to_look(relations, data):
    frames = make_frames(range(len(relations)))
    first = data.draw(st.integers(0, max(0, len(relations) - 1)))
    begin = max(0, first - 8)
    part = intervals(related(frames[begin:], relations[begin:]), by_factor(make_info(), 2))
    whole = intervals(related(frames, relations), by_factor(make_info(), 2))
    assert around(i for i in part if i.index >= first) == around(whole)[first:]


def test_a_lone_frame_takes_the_default_duration():
    (found,) = schedule([7], default_duration=40)
    assert found.right is None
    assert (moments([found])[-1].pts + moments([found])[-1].duration) == 2 * 47
    (found,) = schedule([7], duration=3, default_duration=40)
    assert (moments([found])[-1].pts + moments([found])[-1].duration) == 2 * 10


@pytest.mark.parametrize("times", [[0, 0], [5, 4]])
def test_time_that_stands_or_goes_back_is_refused(times):
    with pytest.raises(VideoError, match="does not come after"):
        schedule(times)


@pytest.mark.parametrize("relation", [CUT, Relation.FLASH, STILL])
@pytest.mark.parametrize(("factor", "shown"), [(2, "LL"), (4, "LLLR"), (8, "LLLLLRRR")])
def test_held_interval_shows_the_nearer_frame(factor, shown, relation):
    grid = by_factor(make_info(), factor)
    cut, end = schedule([0, 10], grid, relations=[JOINED, relation])
    for k, letter in enumerate(shown):
        assert not is_made(cut, cut.moments[k])
        assert held_frame(cut, cut.moments[k]) is (cut.left if letter == "L" else cut.right)
        assert held_frame(end, end.moments[k]) is end.left


@pytest.mark.parametrize("factor", [0, 1, 3, 16, -2])
def test_other_factors_are_refused(factor):
    with pytest.raises(OptionsError, match="2, 4 or 8"):
        by_factor(make_info(), factor)


def runs(found):
    """For each interval the frames it is made between."""
    return [(i.left.index, i.right and i.right.index) for i in found]


def test_repeats_are_made_anew_between_drawings():
    """On twos, then on threes: times stay, positions go on from drawing to drawing."""
    relations = [JOINED, REPEAT, JOINED, STILL, REPEAT, JOINED]
    found = schedule([0, 10, 20, 30, 40, 50], relations=relations, dedup=True)
    assert runs(found) == [(0, 2), (0, 2), (2, 5), (2, 5), (2, 5), (5, None)]
    assert [moment.pts for moment in moments(found)] == list(range(0, 120, 10))
    assert [m.position for m in moments(found)[:10]] == [0, 2, 4, 6, 0, 1, 3, 4, 5, 7]
    assert [interval.index for interval in found] == list(range(6))
    assert found[0].error_ticks == 0
    assert found[2].error_ticks > 0


def test_without_dedup_repeats_are_joined_and_stills_held():
    found = schedule([0, 1, 2, 3], relations=[JOINED, REPEAT, STILL, JOINED])
    assert runs(found) == [(0, 1), (1, 2), (2, 3), (3, None)]
    assert [i.synthesise for i in found] == [True, False, True, False]
    assert [i.is_repeat for i in found] == [False, True, True, False]


@pytest.mark.parametrize("ending", [CUT, Relation.FLASH, None])
def test_no_drawing_goes_on_across_a_cut_or_the_end(ending):
    relations = [JOINED, REPEAT, *([ending] if ending else [])]
    found = schedule(range(len(relations)), relations=relations, dedup=True)
    assert runs(found)[:2] == [(0, 1), (1, 2 if ending else None)]
    assert [i.synthesise for i in found[:2]] == [True, False]


def test_what_stands_long_stands():
    stands = [REPEAT] * LONGEST_RUN
    found = schedule(range(7), relations=[JOINED, *stands, JOINED, JOINED], dedup=True)
    assert runs(found) == [(k, k + 1) for k in range(6)] + [(6, None)]


@given(
    st.lists(st.sampled_from([JOINED, JOINED, CUT, REPEAT, REPEAT, STILL]), max_size=40),
    st.data(),
)
def test_drawings_are_the_same_wherever_one_begins_to_look(relations, data):
    """Workers make spans of a video: with 8 frames before it all must be decided alike."""
    whole = schedule(range(len(relations)), relations=relations, dedup=True)
    first = data.draw(st.integers(0, max(0, len(relations) - 1)))
    begin = max(0, first - 8)
    frames = make_frames(range(len(relations)))[begin:]
    part = intervals(related(frames, relations[begin:]), by_factor(make_info(), 2), dedup=True)
    assert runs(i for i in part if i.index >= first) == runs(whole[first:])
