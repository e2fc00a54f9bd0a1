"""Black bars around a picture, as films have them on a screen of another shape.

A picture that pans goes on behind its bars, but all that frames show is that it ends there, as if
something at rest covered it. To a network that is given the picture alone its edges are those of
any frame. Looks at luma, on the CPU; it must not know networks, nor colours.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sepconv_video.frames import Plane

DARK = 6
"""Levels of 255 above black that a sample of a bar may have: what compression makes of it."""
LEAST_LIT = 0.4
"""A line with this share of samples brighter than that, or more, belongs to the picture."""
MOST_LIT = 0.25
"""Share of such samples that a line of a bar may have, as where a subtitle stands on it."""
MOST_CHANGED = 0.02
"""Share of its samples that may change by more than DARK."""
MOST_CHANGE = 8
"""Times DARK that any of its samples may change by: a lamp that moves in the night is no noise."""
MOST_LIT_BESIDE = 0.05
"""As MOST_LIT, for a bar's last line: what is dark in a picture rarely ends so abruptly."""
SOFT_LINES = 2
"""Lines between bar and picture that may be anything, as scaling and compression blur the edge."""
DIMMED = 0.8
"""A line with less than this share of the next one's light is one of these soft lines."""
LEAST_PICTURE = 0.25
"""Share of the rows, and of the columns, that are the picture's."""
STRIP = 64
"""Lines looked at together: most pictures have no bars, and end the search in the first ones."""


class Area(NamedTuple):
    """A part of a frame: rows `top` to `bottom`, columns `start` to `end`, the latter excluded."""

    top: int
    bottom: int
    start: int
    end: int

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns, to index the last two dimensions with."""
        return slice(self.top, self.bottom), slice(self.start, self.end)


def picture_area(left: Plane, right: Plane, black: int, bits: int) -> Area:
    """Find the picture within the bars of two frames: all of them where there are none.

    Bars are as wide in both, dark or at rest, and end along a straight line.

    Args:
        left: Luma of a frame (rows, columns), or whatever tells how bright a sample is.
        right: Of the next one, same shape.
        black: Its code.
        bits: Bits per sample.
    """
    rows, columns = left.shape
    find = _Finder(black, DARK << (bits - 8))
    start, after = find.bars(left.T, right.T)
    # without the bars at the sides, which would darken each row
    top, below = find.bars(left[:, start : columns - after], right[:, start : columns - after])
    return Area(top, rows - below, start, columns - after)


class _Finder(NamedTuple):
    """What is found in some lines, (lines, samples) of a frame from one of its edges on."""

    black: int
    dark: int
    """Codes above black."""

    def bars(self, left: Plane, right: Plane) -> tuple[int, int]:
        """How many lines at either end are bars; none at both if hardly a picture were left."""
        first, last = self._bar(left, right), self._bar(left[::-1], right[::-1])
        return (first, last) if len(left) - first - last >= LEAST_PICTURE * len(left) else (0, 0)

    def _bar(self, left: Plane, right: Plane) -> int:
        """How many lines from the first one on are a bar in both frames."""
        edges = [self._edge(lines) for lines in (left, right)]
        bar = max(edges)
        if not min(edges) or bar - min(edges) > 1:
            return 0
        sure = max(1, bar - SOFT_LINES)
        first, second = left[:sure], right[:sure]
        lit = np.maximum(self._lit(first), self._lit(second))
        changes = np.maximum(first, second) - np.minimum(first, second)
        is_bar = (
            lit.max() <= MOST_LIT
            and lit[-1] <= MOST_LIT_BESIDE
            and (changes > self.dark).mean(1).max() <= MOST_CHANGED
            and changes.max() <= MOST_CHANGE * self.dark
        )
        return bar if is_bar else 0

    def _edge(self, lines: Plane) -> int:
        """Where the picture begins: the number of lines before it, 0 if there are only such."""
        for begin in range(0, len(lines), STRIP):
            found = np.flatnonzero(self._lit(lines[begin : begin + STRIP]) >= LEAST_LIT)
            if found.size:
                return self._beyond_soft(lines, begin + int(found[0]))
        return 0

    def _beyond_soft(self, lines: Plane, edge: int) -> int:
        """Skip the lines at an edge that are a mixture with the bar."""
        if not edge:
            return 0
        light = lines[edge : edge + SOFT_LINES + 1].mean(1) - self.black
        dimmed = light[:-1] < DIMMED * light[1:]
        # up to the last of them: a first one that is all dark has been skipped already
        return edge + int(np.max(np.flatnonzero(dimmed) + 1, initial=0))

    def _lit(self, lines: Plane) -> npt.NDArray[np.float64]:
        """Share of bright samples of each line."""
        return np.asarray((lines > self.black + self.dark).mean(1))
