"""Timecode: the label of a video's first frame, HH:MM:SS:FF (SMPTE ST 12-1).

With `;` before the frames some labels are left out, so that those of 30000/1001 frames a second, or
a multiple of it, keep to the clock: the first two of 30 in each minute but every tenth.
"""

import math
import re
from fractions import Fraction

_LABEL = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d{2,3})")
_DROPPING = Fraction(30000, 1001)
_DAY_MINUTES = 24 * 60


def relabelled(label: str, rate: Fraction, later_s: Fraction, new_rate: Fraction) -> str:
    """Give the label of a frame that is shown later, counted at another rate.

    Args:
        label: Of the first frame.
        rate: Frames per second that it counts.
        later_s: When the first frame from then on is shown.
        new_rate: Frames per second to count. The second stays what it is.

    Returns:
        The label; as it was if it is none.
    """
    found = _LABEL.fullmatch(label)
    if found is None:
        return label
    hours, minutes, seconds, frames = (int(found[group]) for group in (1, 2, 3, 5))
    nominal, new = (max(1, round(each)) for each in (rate, new_rate))  # none counts fewer
    dropped = nominal // 15 if found[4] in ";." and nominal % 30 == 0 else 0
    minutes += 60 * hours
    count = (60 * minutes + seconds) * nominal + frames - dropped * (minutes - minutes // 10)
    count += math.ceil(later_s * rate)
    minutes, rest = _minutes(count, nominal, dropped)
    seconds, frames = divmod(rest, nominal)
    hours, minutes = divmod(minutes % _DAY_MINUTES, 60)
    mark = ";" if dropped and (new_rate / _DROPPING).denominator == 1 else ":"
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{frames * new // nominal:02d}"


def _minutes(count: int, nominal: int, dropped: int) -> tuple[int, int]:
    """Divide frames into minutes and labels of the last one."""
    minute = 60 * nominal - dropped
    tens, rest = divmod(count, 10 * minute + dropped)
    if rest < minute + dropped:  # the first of ten has all its labels
        return 10 * tens, rest
    minutes, rest = divmod(rest - dropped, minute)
    return 10 * tens + minutes, rest + dropped
