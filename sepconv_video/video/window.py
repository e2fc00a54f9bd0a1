"""The stretch of a source that is used, on that source's own clock, and what times become."""

import math
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from sepconv_video.frames import Timeline
from sepconv_video.video.source import tick_of

_BROADCAST = ("mpegts", "mpeg")
_SEEK_AGAIN_S = 10
"""Where a seek went too far, one to so much earlier is tried: a file without an index finds
some packet, and the next key frame may be seconds after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A `Timeline` applied to one file; all times are seconds on the file's clock.

    A time `t` becomes `(t - origin_s) * slowdown`.
    """

    begin_s: Fraction | None
    """What is shown before is left out; None for nothing."""
    end_s: Fraction | None
    origin_s: Fraction
    """What becomes 0. It lies on a tick of the video, so that its times stay exact."""
    slowdown: int
    first_s: Fraction
    """Where the file begins."""

    def target(self, time_s: Fraction) -> Fraction:
        """Give the time in the target, in seconds."""
        return (time_s - self.origin_s) * self.slowdown

    def is_before(self, time_s: Fraction) -> bool:
        """Tell whether a time is before the stretch."""
        return self.begin_s is not None and time_s < self.begin_s

    def is_after(self, time_s: Fraction) -> bool:
        """Tell whether a time is after the stretch, which its end itself is."""
        return self.end_s is not None and time_s >= self.end_s

    def clipped(self, start_s: Fraction, end_s: Fraction) -> tuple[Fraction, Fraction] | None:
        """Cut something shown from one time to another to the stretch; None if nothing is left."""
        start = start_s if self.begin_s is None else max(start_s, self.begin_s)
        end = end_s if self.end_s is None else min(end_s, self.end_s)
        is_outside = self.is_before(end_s) or self.is_after(start_s)
        return None if is_outside or (start >= end and start_s < end_s) else (start, end)

    def share(self, duration: int | None) -> Fraction:
        """Say how much of the file the stretch is, 0 to 1, by the duration that its header has."""
        last_s = self.first_s + Fraction(duration or 0, av.time_base)
        rest = self.clipped(self.first_s, last_s) if last_s > self.first_s else None
        return (rest[1] - rest[0]) / (last_s - self.first_s) if rest else Fraction(1)

    def seek_points(self, early_s: int = 0) -> list[Fraction]:
        """List where to look for the beginning, best first; empty if it is that of the file."""
        if self.begin_s is None:
            return []
        points = (self.begin_s - early_s - again for again in (0, _SEEK_AGAIN_S))
        return [point for point in points if point > self.first_s]


def window_of(source: InputContainer, video: VideoStream, timeline: Timeline) -> Window:
    """Find the stretch in a file that is open.

    Without a start, a broadcast recording, whose clock starts anywhere, is counted from its
    beginning; files with a time line of their own keep their times.
    """
    first = _first_of(source)
    begin = None if timeline.start_s is None else first + timeline.start_s
    origin = Fraction(0)
    if begin is not None or source.format.name.startswith(_BROADCAST):
        tick = tick_of(video)
        origin = math.floor((first if begin is None else begin) / tick) * tick
    return Window(
        begin_s=begin,
        end_s=None if timeline.end_s is None else first + timeline.end_s,
        origin_s=origin,
        slowdown=timeline.slowdown,
        first_s=first,
    )


def _first_of(source: InputContainer) -> Fraction:
    """Say exactly where a file begins: FFmpeg rounds it to microseconds, streams know it."""
    rounded, error = Fraction(source.start_time or 0, av.time_base), Fraction(1, av.time_base)
    ticks = ((stream.start_time, stream.time_base) for stream in source.streams)
    starts = (Fraction(time * tick) for time, tick in ticks if time is not None and tick)
    return min((start for start in starts if abs(start - rounded) < error), default=rounded)


def seek(source: InputContainer, video: VideoStream, time_s: Fraction) -> bool:
    """Go to a key frame of the video before a time, as the file's index has it.

    Returns:
        Whether the file could go anywhere; if so, it may still be too far.
    """
    try:
        source.seek(math.floor(time_s / tick_of(video)), stream=video)
    except (av.FFmpegError, OverflowError):
        return False
    return True
