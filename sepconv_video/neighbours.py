"""What the frames before and after a pair tell of its motion: each step's is found only once."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sepconv_video.frames import Frame
from sepconv_video.models.bending import UNKNOWN, Bending, Found, Known

Step = tuple[Frame, Frame]
"""From one frame to the next."""


class Neighbours:
    """Motions between frames that follow each other, kept as long as pairs to come need them."""

    def __init__(self, model: object) -> None:
        """Take the network, which finds them; one that is not `Bending` needs none."""
        self._model = model if isinstance(model, Bending) else None
        self._found: dict[tuple[int, int], Found] = {}

    def steps(self, pair: Step, around: Step | None) -> list[Step]:
        """List the steps of which something must be known for a pair."""
        if around is None or self._model is None:
            return []
        return [(around[0], pair[0]), pair, (pair[1], around[1])]

    def unknown(self, steps: Iterable[Step]) -> list[Step]:
        """List those that have not been looked at, each once."""
        new = {_key(step): step for step in steps}
        return [step for key, step in new.items() if key not in self._found]

    def look(self, steps: Sequence[Step], rgb: dict[int, Tensor]) -> None:
        """Find what is to be known of some steps, by their frames (3, H, W) in RGB."""
        if self._model is None or not steps:
            return
        lefts, rights = (stacked([rgb[step[k].index] for step in steps]) for k in range(2))
        found = self._model.look(lefts, rights).each()
        self._found |= {_key(step): one for step, one in zip(steps, found, strict=True)}

    def known(self, pair: Step, around: Step | None) -> Known:
        """Tell what is known of a pair, all of whose `steps` have been looked at."""
        steps = self.steps(pair, around)
        if not steps or self._model is None:
            return UNKNOWN
        earlier, own, later = (self._found[_key(step)] for step in steps)
        return Known(own, self._model.bend(earlier, own, later))

    def forget(self, before: float = math.inf) -> None:
        """Forget steps: all, or those that end before the frame of an index."""
        self._found = {key: found for key, found in self._found.items() if key[1] >= before}


def halved(known: Known) -> Known:
    """Tell what is known of either half of a pair's time."""
    # at constant acceleration the deviation grows with the square of the time
    return UNKNOWN if known.bend is None else Known(bend=known.bend / 4)


def joined(known: Sequence[Known]) -> Known:
    """Join what is known of some pairs, (1, ...) each; the others' motion does not bend."""
    bends = [one.bend for one in known if one.bend is not None]
    if not bends:
        return UNKNOWN
    even = torch.zeros_like(bends[0])
    found = [one.found for one in known if one.found is not None]
    return Known(
        # of all or none: a network finds it in a batch
        found=Found.joined(found) if len(found) == len(known) else None,
        bend=torch.cat([even if one.bend is None else one.bend for one in known]),
    )


def stacked(frames: Sequence[Tensor]) -> Tensor:
    """Make a batch; of one frame it is a view, as a copy of a large one would be half a GB."""
    return frames[0].unsqueeze(0) if len(frames) == 1 else torch.stack(list(frames))


def _key(step: Step) -> tuple[int, int]:
    return step[0].index, step[1].index
