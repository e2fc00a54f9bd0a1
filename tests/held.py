"""The proof that nothing is blended across a cut, for tests of whole files."""

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

Shown = tuple[Fraction, tuple[np.ndarray, ...]]
"""When a frame is shown, in seconds, and its planes."""


def blends(cuts: Iterable[int], sources: Sequence[Shown], made: Sequence[Shown]) -> list[int]:
    """Find the frames between the two sides of a cut that are neither of the two.

    Times decide what lies between, so that it holds for any rate; in slow motion, multiply the
    sources' times first. What was made must have been encoded without loss.

    Args:
        cuts: Indices of the first frames of shots, in `sources`.
        sources: The source's frames in order.
        made: The target's frames in order.

    Returns:
        Places in `made`; none, if all is well.
    """
    found = []
    for cut in cuts:
        (start, left), (end, right) = sources[cut - 1 : cut + 1]
        for place, (time, planes) in enumerate(made):
            if start <= time <= end and not (_equal(planes, left) or _equal(planes, right)):
                found.append(place)
    return found


def _equal(planes, others) -> bool:
    return all(map(np.array_equal, planes, others))
