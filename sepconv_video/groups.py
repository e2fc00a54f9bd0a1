"""What the engine works on at once: some intervals, and what is to be made for them."""

from collections.abc import Sequence

from torch import Tensor

from sepconv_video import color
from sepconv_video.bars import Area, picture_area
from sepconv_video.frames import Interval, VideoInfo
from sepconv_video.neighbours import Step
from sepconv_video.schedule import is_made


class Group:
    """Some intervals, the pairs of frames they lie between, and the positions wanted there."""

    def __init__(self) -> None:
        """Begin with none."""
        self._positions: dict[tuple[int, int], set[int]] = {}
        self.area: Area | None = None
        """Where the pictures of all its pairs lie; None as long as there are none."""
        self.intervals: list[Interval] = []
        self.pairs: list[Step] = []
        self.around: list[Step | None] = []

    def add(self, interval: Interval, area: Area | None) -> None:
        """Take in an interval and its `area_of`; several may lie between the same pair."""
        self.intervals.append(interval)
        self.area = area or self.area
        positions = {m.position for m in interval.moments if is_made(interval, m)}
        if not positions or interval.right is None:
            return
        key = (interval.left.index, interval.right.index)
        if key not in self._positions:
            self._positions[key] = set()
            self.pairs.append((interval.left, interval.right))
            self.around.append(interval.around)
        self._positions[key] |= positions

    def is_full(self, interval: Interval, area: Area | None, most: int) -> bool:
        """Whether an interval brings one pair too many, or one whose picture lies elsewhere."""
        if area is None or interval.right is None or not self.pairs:
            return False
        is_known = (interval.left.index, interval.right.index) in self._positions
        return not is_known and (len(self.pairs) >= most or area != self.area)

    @property
    def positions(self) -> list[set[int]]:
        """For each pair the positions wanted."""
        return list(self._positions.values())

    def pictures(self, rgb: dict[int, Tensor]) -> dict[int, Tensor]:
        """What lies within the bars of frames (3, H, W), by their index."""
        return {index: frame[..., *self._part] for index, frame in rgb.items()}

    def in_frames(self, made: Sequence[Tensor], rgb: dict[int, Tensor]) -> list[Tensor]:
        """Put what was made of the pictures, as `places` counts it, into the frames before it."""
        lefts = [left for left, _, _ in self.places()]
        if made[0].shape == rgb[lefts[0]].shape:
            return list(made)
        framed = [rgb[index].clone() for index in lefts]
        for frame, picture in zip(framed, made, strict=True):
            frame[..., *self._part] = picture
        return framed

    @property
    def _part(self) -> tuple[slice, slice]:
        assert self.area is not None  # it has pairs
        return self.area.part

    def places(self) -> dict[tuple[int, int, int], int]:
        """Number what `between` returns: by indices of the pair and position."""
        keys = (
            (*pair, position)
            for pair, positions in self._positions.items()
            for position in sorted(positions)
        )
        return {key: place for place, key in enumerate(keys)}


def area_of(interval: Interval, info: VideoInfo) -> Area | None:
    """Where the picture lies in the two frames of an interval; None if nothing is made of them."""
    if interval.right is None or not any(is_made(interval, m) for m in interval.moments):
        return None
    (left, black), (right, _) = (
        color.brightness(frame, info) for frame in (interval.left, interval.right)
    )
    return picture_area(left, right, black, info.bits)
