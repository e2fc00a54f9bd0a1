"""When each decoded picture is shown: the file's times, made usable where they are not."""

from fractions import Fraction

import av
from av.video.stream import VideoStream

from sepconv_video.video.source import HIGHEST_RATE, most_ticks, tick_of


class Clock:
    """Gives every picture a time later than the one before it.

    AVI stores no presentation times, and those that FFmpeg makes up for it are wrong where
    there are B-frames; decoding times in presentation order, counted from the start, are right.

    Attributes:
        tick: Seconds per tick.
    """

    def __init__(self, stream: VideoStream, *, has_times: bool, first_dts: int | None) -> None:
        """Start at nothing.

        Args:
            stream: Where the pictures come from.
            has_times: Whether the file says when pictures are shown.
            first_dts: Decoding time of the packet that decoding began with, if known.
        """
        self.tick = tick = tick_of(stream)
        self._has_times = has_times
        self._most = most_ticks(tick)
        self._start = self._usable(first_dts) or 0
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        is_sane = 1 / HIGHEST_RATE <= rate <= HIGHEST_RATE
        self._step = max(1, round(1 / (rate * tick))) if is_sane else 1
        self._second = round(1 / tick)
        self._last: int | None = None
        self._stored: int | None = None  # the last time that was not made up
        self._offset = 0
        self._missing = 0
        self._backward = 0

    def duration(self, picture: av.VideoFrame) -> int:
        """Read how long a picture is shown, in ticks; 0 where that is not said or absurd."""
        return max(0, self._usable(picture.duration) or 0) if self._has_times else 0

    def pts(self, picture: av.VideoFrame) -> int:
        """Read or make up when a picture is shown, in ticks."""
        pts = self._found(picture)
        if pts is None:
            self._missing += 1
            pts = 0 if self._last is None else self._last + self._step
        else:
            pts = self._after_jump(pts)
            self._stored = pts
        if self._last is not None and pts <= self._last:
            self._backward += 1
            pts = self._last + 1
        if self._last is not None:
            self._step = pts - self._last
        self._last = pts
        return pts

    def _after_jump(self, pts: int) -> int:
        """Go on from a jump back of more than a second; made-up times before it are none."""
        if self._stored is None or self._last is None or self._stored - pts <= self._second:
            return pts
        self._backward += 1
        self._offset += self._last + self._step - pts
        return self._last + self._step

    def is_left_over(self, picture: av.VideoFrame) -> bool:
        """Tell whether a picture is made of the scraps of a broken packet.

        Where a transport stream is damaged, whatever looks like a beginning becomes a picture
        of its own. Only the first has the packet's time; the others would push all the rest.
        """
        if not (picture.is_corrupt and self._has_times) or self._stored is None:
            return False
        found = self._found(picture)
        return found is None or found <= self._stored

    def _found(self, picture: av.VideoFrame) -> int | None:
        is_stored = self._has_times and picture.pts is not None
        found = self._usable(picture.pts if is_stored else picture.dts)
        if found is not None and self._last is None and not self._has_times:
            self._offset = self._start - found
        return None if found is None else self._usable(found + self._offset)

    def _usable(self, ticks: int | None) -> int | None:
        """Leave out what cannot be a time."""
        return ticks if ticks is not None and -self._most <= ticks <= self._most else None

    @property
    def notes(self) -> list[str]:
        """What was mended, one line each."""
        found = []
        if self._missing and self._has_times:
            found.append(f"{self._missing} frames had no usable time and were spaced evenly")
        if self._backward:
            found.append(
                f"{self._backward} frames had times not later than the one before: moved on"
            )
        return found


def pts_of(picture: av.VideoFrame) -> int:
    """Read the time that a clock has given a picture, in ticks."""
    assert picture.pts is not None
    return picture.pts
