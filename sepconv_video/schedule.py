"""What lies between the source frames, and when: a video becomes intervals and their moments.

Pure: it looks at indices and ticks, never at pixels, and knows neither the network nor the
codec. The caller says how each frame is related to the one before.

All times are integer ticks of the target's grid, which is fine enough for every source time
and for every new one: no rounding, at a constant and at a variable rate alike. Only where in
time between two frames a new one *shows* things may be rounded, to an eighth, as the network
only halves; with a factor it is exact.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from sepconv_video.errors import VideoError
from sepconv_video.frames import CAPTION, POSITIONS, Frame, Interval, Moment, Relation, VideoInfo
from sepconv_video.options import check_factor

LONGEST_RUN = 4
"""Frames that show one drawing, at most: animation is on twos or threes, seldom on fours. What
stands longer stands on purpose, and would else begin to creep."""
MOST_MOMENTS = 100_000
"""Frames of the target for one of the source, at most: with more, a time is damaged."""
UNEVEN = Fraction(1, 7)
"""Frames are evenly spaced if their distances differ by less: 8 and 9 ms do, in whole ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """When the target's frames are shown.

    Made by `by_factor` or `by_rate`.
    """

    time_base: Fraction
    """Seconds per tick."""
    rate: Fraction
    """Nominal frames per second."""
    fastest: Fraction
    """Frames per second that would hold all times, as far as is known."""
    ticks_per_tick: int
    """Ticks of the grid in a tick of the source; in slow motion those of the longer time."""
    factor: int | None
    """Frames for each frame of the source; None for a frame every `step` ticks."""
    step: int = 0
    origin: int = 0
    """Time of the first frame in ticks of the grid; with a `step` only."""

    def times(self, start: int, end: int) -> list[int]:
        """List when frames are shown from `start` up to `end`, all in ticks of the grid."""
        if self.factor is not None:
            return [start + k * (end - start) // self.factor for k in range(self.factor)]
        first = -((self.origin - start) // self.step)
        return list(range(self.origin + first * self.step, end, self.step))

    def duration(self, start: int, end: int) -> int:
        """Say how long each frame from `start` up to `end` is shown, in ticks of the grid."""
        return self.step if self.factor is None else (end - start) // self.factor


def by_factor(info: VideoInfo, factor: int, *, slowmo: bool = False) -> Grid:
    """Show `factor` frames for each frame of the source, in its time or in `factor` times it.

    Frame `k` of an interval is shown at `factor * start + k * (end - start)` ticks: evenly
    spaced, the first exactly when the source's was.

    Raises:
        OptionsError: The factor is none of the accepted ones.
    """
    check_factor(factor)
    return Grid(
        time_base=info.time_base if slowmo else info.time_base / factor,
        rate=info.rate if slowmo else info.rate * factor,
        fastest=max(info.rate, info.fastest) * (1 if slowmo else factor),
        ticks_per_tick=factor,
        factor=factor,
    )


def by_rate(info: VideoInfo, fps: Fraction) -> Grid:
    """Show `fps` frames a second, the first one with the source's first."""
    ticks = _common_tick(info.time_base, 1 / fps)
    ratio = int(info.time_base / ticks)
    return Grid(
        time_base=ticks,
        rate=fps,
        fastest=fps,
        ticks_per_tick=ratio,
        factor=None,
        step=int(1 / fps / ticks),
        origin=info.start_pts * ratio,
    )


def _common_tick(one: Fraction, other: Fraction) -> Fraction:
    """Give the longest time of which both are multiples."""
    common = math.gcd(one.numerator * other.denominator, other.numerator * one.denominator)
    return Fraction(common, one.denominator * other.denominator)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two neighbours, or the last frame and the end."""

    left: Frame
    right: Frame | None
    end_pts: int
    relation: Relation
    """Of `right` to `left`."""

    @property
    def is_repeat(self) -> bool:
        return self.right is not None and self.relation in {Relation.STILL, Relation.REPEAT}


def intervals(
    related: Iterable[tuple[Frame, Relation]],
    grid: Grid,
    *,
    default_duration: int = 1,
    dedup: bool = False,
) -> Iterator[Interval]:
    """Pair each frame with the next, looking ahead two frames, or a drawing's repeats and one.

    Args:
        related: The frames in presentation order, `pts` strictly increasing, each with its
            relation to the one before it; the first one's means nothing.
        grid: When frames are shown.
        default_duration: Ticks that a lone frame is shown if its stream does not say; at
            least 1.
        dedup: Whether up to `LONGEST_RUN` frames that show one picture are taken for that
            picture, and what is shown until the next one is made between those two.

    Yields:
        One interval per source frame. The last has no `right`, is never synthesised, and ends
        after the frame's own duration or, where the stream does not say, after the time
        between the last two frames, so that the video keeps its duration and a constant rate.

    Raises:
        VideoError: A frame does not come after the one before it, or so long after it that more
            than `MOST_MOMENTS` would lie between.
    """
    found = _found(_pairs(related, max(default_duration, 1)), grid, dedup=dedup)
    earlier: _Found | None = None
    own = next(found, None)
    while own is not None:
        later = next(found, None)
        yield _with_neighbours(earlier, own, later)
        earlier, own = own, later


@dataclass(frozen=True, slots=True)
class _Found:
    """An interval, and whether a shot goes on in it with a new picture."""

    interval: Interval
    goes_on: bool

    @property
    def ticks(self) -> int:
        """From the one frame to the other, in ticks of the source."""
        interval = self.interval
        return interval.right.pts - interval.left.pts if interval.right is not None else 0


def _with_neighbours(earlier: _Found | None, own: _Found, later: _Found | None) -> Interval:
    """Name the frames before and after an interval, where they tell of its motion."""
    if earlier is None or later is None or not (earlier.goes_on and own.goes_on and later.goes_on):
        return own.interval
    before, after = earlier.interval.left, later.interval.right
    uneven = any(abs(other.ticks - own.ticks) >= UNEVEN * own.ticks for other in (earlier, later))
    if after is None or uneven:
        return own.interval
    return replace(own.interval, around=(before, after))


def _found(pairs: Iterable[_Pair], grid: Grid, *, dedup: bool) -> Iterator[_Found]:
    """Make intervals of pairs; see `intervals`."""
    captions = b""
    for run in _runs(pairs):
        last = run[-1]
        is_drawing = len(run) > 1 and last.relation == Relation.JOINED
        for number, pair in enumerate(run):
            if is_drawing and dedup:
                interval = _interval(pair, run[0].left, last.right, grid, synthesise=True)
            else:
                joined = pair.relation in {Relation.JOINED, Relation.REPEAT}
                interval = _interval(pair, pair.left, pair.right, grid, synthesise=joined)
            captions += pair.left.captions
            moments = _captioned(interval.moments, captions)
            captions = captions if not moments else b""  # the next moment shows them then
            is_repeat = is_drawing and number > 0
            interval = replace(interval, moments=moments, is_repeat=is_repeat)
            yield _Found(interval, pair.relation == Relation.JOINED and not is_drawing)


def _pairs(related: Iterable[tuple[Frame, Relation]], delta: int) -> Iterator[_Pair]:
    left = None
    for right, relation in related:
        if left is not None:
            delta = right.pts - left.pts
            if delta <= 0:
                raise _out_of_order(left, right)
            yield _Pair(left, right, right.pts, relation)
        left = right
    if left is not None:
        duration = left.duration if left.duration > 0 else delta
        yield _Pair(left, None, left.pts + duration, Relation.STILL)


def _runs(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    """Collect the pairs from the first frame of a drawing to the first of the next one.

    Where a drawing stands longer than `LONGEST_RUN` frames, and at the end, pairs come alone.
    """
    run: list[_Pair] = []
    is_long = False
    for pair in pairs:
        run.append(pair)
        if pair.is_repeat and len(run) < LONGEST_RUN and not is_long:
            continue
        is_long = pair.is_repeat
        if is_long or pair.right is None or len(run) == 1:
            yield from ([single] for single in run)
        else:
            yield run
        run = []


def _interval(
    pair: _Pair, left: Frame, right: Frame | None, grid: Grid, *, synthesise: bool
) -> Interval:
    scale = grid.ticks_per_tick
    start, end = pair.left.pts * scale, pair.end_pts * scale
    if grid.step and end - start > MOST_MOMENTS * grid.step:
        raise _too_long(pair.left, (end - start) * grid.time_base)
    whole = (right.pts if right is not None else pair.end_pts) * scale - left.pts * scale
    moments, error, duration = [], Fraction(0), grid.duration(start, end)
    for pts in grid.times(start, end):
        exact = Fraction((pts - left.pts * scale) * POSITIONS, whole)
        position = math.ceil(exact - Fraction(1, 2))
        moments.append(Moment(pts=pts, duration=duration, position=position))
        if synthesise:
            error = max(error, abs(exact - position) * whole / POSITIONS)
    return Interval(
        index=pair.left.index,
        left=left,
        right=right,
        synthesise=synthesise,
        end_pts=end,
        moments=tuple(moments),
        error_ticks=error,
    )


def _captioned(moments: tuple[Moment, ...], captions: bytes) -> tuple[Moment, ...]:
    """Share captions out evenly, as so many a second is all that receivers of television take."""
    if not captions:
        return moments
    each = CAPTION * math.ceil(len(captions) / (CAPTION * max(1, len(moments))))
    return tuple(
        replace(moment, captions=captions[place * each : (place + 1) * each])
        for place, moment in enumerate(moments)
    )


def _out_of_order(left: Frame, right: Frame) -> VideoError:
    return VideoError(
        f"cannot order the frames: frame {right.index} at {right.pts} ticks does not come "
        f"after frame {left.index} at {left.pts} ticks",
        "rewrite the time stamps first, e.g. `ffmpeg -i in.mp4 -vf setpts=N/FR/TB out.mp4`",
    )


def _too_long(frame: Frame, shown_s: Fraction) -> VideoError:
    return VideoError(
        f"cannot fill the time until the next frame: frame {frame.index} is shown for "
        f"{float(shown_s):.0f} s, which takes more than {MOST_MOMENTS} frames",
        "leave it out with `--start` and `--end`, take `--factor` instead of `--fps`, or rewrite "
        "the time stamps first, e.g. `ffmpeg -i in.mp4 -vf setpts=N/FR/TB out.mp4`",
    )


def is_made(interval: Interval, moment: Moment) -> bool:
    """Say whether the network makes the frame of a moment."""
    return interval.synthesise and 0 < moment.position < POSITIONS


def most_made(grid: Grid, *, dedup: bool) -> int:
    """Say how many frames the network makes between two, at most, with those on the way."""
    # what is not a factor may want any position, and so may a drawing that stands for several
    return POSITIONS - 1 if dedup or grid.factor is None else grid.factor - 1


def held_frame(interval: Interval, moment: Moment) -> Frame:
    """Say which source frame is shown at a moment for which none is made.

    The nearer in time; half way, `left`: so a cut never comes earlier than in the source, and
    at a factor of 2 it comes exactly when it did. After the last frame there is only `left`.

    Returns:
        `interval.left` or `interval.right`, as decoded.
    """
    if interval.right is None or 2 * moment.position <= POSITIONS:
        return interval.left
    return interval.right
