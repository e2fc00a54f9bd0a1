"""Where no frames may be made: hard cuts, flashes, and stills.

Looks at frames in their order, luma only, on the CPU. It must not know the schedule that asks,
nor the colours.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from sepconv_video.bars import Area, picture_area
from sepconv_video.frames import Frame, Plane, Relation

Grey = npt.NDArray[np.float32]

CONTEXT_FRAMES = 4
"""Frames before one that its verdict depends on."""
LOOK_AHEAD = 3
"""Frames after one that its verdict depends on; so long may a flash be."""
CUT_SCORE = 0.82
"""From this score on two frames may belong to different shots. The middle of what serves the
training half of the labelled set equally well, 0.72 to 0.90; no pair within its clips, 5,584 at
their full rate, a half and a third of it, is then taken for a cut."""

REPEAT_CHANGE = 10.0
"""Levels of 255 by which no 8 x 8 samples of a repeat change; see scripts/judge_repeats.py."""
REPEAT_MEAN = 0.7
"""Levels of 255 by which a repeat changes less on average."""

# All chosen on the training half of the labelled set, see scripts/judge_cuts.py.
_SAME_SHOT = 0.8  # below this score the shot before a flash goes on after it
_RISE = 0.3  # by so much a cut stands out from what goes on around it
_FADE = 0.5  # texture below this share of that nearby is fading in or out
_UNLIKE = 1.5  # the score of pictures that cannot be compared, as of different sizes
_PEAK = 0.1  # correlation from which on a shift of the whole picture is believed

_GRID = 64  # cells along the longer side of the picture
_SAMPLES = 5  # luma samples per cell and direction, at most
_BLOCK = 6  # cells along a side of the blocks whose motion is sought
_REACH = 4  # cells a block may move: a sixteenth of the longer side
_BITS = 10  # of luma codes as they are counted
_LEVELS = 1 << _BITS
_BLACKEST = 0.1  # a border of the frame that is brighter is none of black bars
_BINS = 32
_NOISE = 0.004  # texture below a level of 255 says nothing
_LEAST_SPAN = 0.05  # a picture flatter than 13 levels of 255 is stretched no further
_STEADY = 0.008  # mean change, 2 levels of 255, that no cut stays under
_STRIP = 64  # rows compared at a time when repeats are sought
_HISTOGRAM_WEIGHT, _HISTOGRAM_LIMIT = 0.5, 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """What is kept of a frame to compare it with others; all levels from 0 black to 1 white."""

    codes: npt.NDArray[np.uint16]
    """The luma samples of the frame that are looked at, with 10 bits."""
    area: Area
    """Which of them all else is about: bars are the same in all shots, as are subtitles in them."""
    cells: Grey
    """Mean luma of square cells, 64 along the longer side."""
    contrast: Grey
    """The same less the mean of the 5 x 5 cells around: a flash hardly changes it."""
    texture: float
    """Mean magnitude of `contrast`."""
    histogram: npt.NDArray[np.intp]
    """How many samples have each luma code of 10 bits."""
    low: float
    """The darkest sample."""
    high: float
    """The brightest sample."""

    @classmethod
    def of(cls, luma: Plane, bits: int) -> Self:
        """Sketch a frame, or the picture within its black bars.

        Args:
            luma: Its first plane, (rows, columns), any size.
            bits: Bits per sample.
        """
        codes = _sampled(luma, bits)
        return cls._of(codes, _within_bars(codes))

    def within(self, area: Area) -> Self:
        """The sketch of another part of the same frame."""
        return self if area == self.area else self._of(self.codes, area)

    @classmethod
    def _of(cls, codes: npt.NDArray[np.uint16], area: Area) -> Self:
        picture = codes[area.part]
        histogram = np.bincount(picture.ravel(), minlength=_LEVELS)
        used = np.flatnonzero(histogram) / (_LEVELS - 1)
        cells = _cell_means(picture)
        contrast = _local_contrast(cells)
        texture = float(np.abs(contrast).mean())
        low, high = float(used[0]), float(used[-1])
        return cls(codes, area, cells, contrast, texture, histogram, low, high)


def cut_score(left: Sketch, right: Sketch, texture: float = 0.0) -> float:
    """Measure how unlike two frames are, whatever moves between them.

    The sum of two distances. One is of structure: each block of a small copy of the picture,
    local mean removed (so that a flash is no change), is sought in the other frame nearby;
    what it differs by at the best place, relative to the texture there is. The other is of
    the luma histograms, which motion does not change, cut off so that it can never decide
    alone (a flash changes nothing else).

    Args:
        left: A frame's sketch.
        right: Another one's.
        texture: The texture to relate to, where that of the two frames is less.

    Returns:
        About 0 to 0.7 within a shot, 1 to 1.5 at a cut.
    """
    if left.codes.shape != right.codes.shape:
        return _UNLIKE
    left, right = _alike(left, right)
    low = min(left.low, right.low)
    span = max(left.high - low, right.high - low, _LEAST_SPAN)
    if float(np.abs(left.cells - right.cells).mean()) < _STEADY * span:
        return 0.0
    return _score(left, right, (0, 0), texture)


def relations(frames: Iterable[Frame], bits: int) -> Iterator[tuple[Frame, Relation]]:
    """Say of each frame how it relates to the one before it.

    Meant for hard cuts. Fades, dissolves, pans and fast motion are none; what flashes up for
    at most 3 frames is told apart. Looks 3 frames ahead, and keeps the sketches of 4 behind:
    a relation is the same wherever the frames begin, if that is at least `CONTEXT_FRAMES`
    before, and wherever they end, if that is at least `LOOK_AHEAD` after.

    Args:
        frames: In presentation order.
        bits: Bits per sample.

    Yields:
        Each frame with its relation; the first one is `JOINED`.
    """
    window: deque[_Seen] = deque(maxlen=CONTEXT_FRAMES + 1 + LOOK_AHEAD)
    waiting: deque[Frame] = deque()  # apart from what was seen of them: frames are large
    for frame, seen in _looked_at(frames, bits):
        window.append(seen)
        waiting.append(frame)
        if len(waiting) > LOOK_AHEAD:
            yield waiting.popleft(), _related(window, len(window) - 1 - LOOK_AHEAD)
    for place in range(len(window) - len(waiting), len(window)):
        first = max(place - CONTEXT_FRAMES, 0)
        yield waiting.popleft(), _related(list(window)[first:], place - first)


def is_still(left: Frame, right: Frame) -> bool:
    """Say whether two frames are the same picture, sample for sample.

    What lies between them is the picture itself, so there is nothing to synthesise.
    """
    return all(map(np.array_equal, left.planes, right.planes))


def is_repeat(left: Frame, right: Frame, bits: int) -> bool:
    """Say whether two frames are the same drawing, apart from compression.

    Judged by the 8 x 8 samples that changed most, in any plane, so that a mouth that moves is
    no repeat; and by the mean change of what has been looked at, so that a slow pan is none.

    Args:
        left: A frame.
        right: Another one.
        bits: Bits per sample.
    """
    unit = 2.0 ** (bits - 8)
    return all(
        first.shape == second.shape and _is_unchanged(first, second, unit)
        for first, second in zip(left.planes, right.planes, strict=True)
    )


def _is_unchanged(first: Plane, second: Plane, unit: float) -> bool:
    """Compare two planes in strips, as most pairs differ in the first ones."""
    means = []
    for row in range(0, first.shape[0], _STRIP):
        here, there = first[row : row + _STRIP], second[row : row + _STRIP]
        changes = (np.maximum(here, there) - np.minimum(here, there)).astype(np.float32)
        high, wide = (min(8, size) for size in changes.shape)
        blocks = _block_means(changes, high, wide)
        if float(blocks.max()) >= REPEAT_CHANGE * unit:
            return False
        means.append(float(blocks.mean()))
    return float(np.mean(means)) < REPEAT_MEAN * unit


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What is remembered of a frame."""

    sketch: Sketch
    unchanged: Relation | None
    """`STILL` or `REPEAT` if it shows the same picture as the frame before."""
    begins_shot: bool
    score: float
    """The cut score of the frame before and this one."""


def _looked_at(frames: Iterable[Frame], bits: int) -> Iterator[tuple[Frame, _Seen]]:
    before: tuple[Frame, _Seen] | None = None
    for frame in frames:
        before = frame, _look(frame, before, bits)
        yield before


def _look(frame: Frame, before: tuple[Frame, _Seen] | None, bits: int) -> _Seen:
    if before is not None and is_still(before[0], frame):
        return _Seen(before[1].sketch, Relation.STILL, frame.begins_shot, 0.0)
    sketch = Sketch.of(frame.planes[0], bits)
    if before is None:
        return _Seen(sketch, None, frame.begins_shot, 0.0)
    unchanged = Relation.REPEAT if is_repeat(before[0], frame, bits) else None
    return _Seen(sketch, unchanged, frame.begins_shot, cut_score(before[1].sketch, sketch))


def _related(window: Sequence[_Seen], place: int) -> Relation:
    """Judge the frame at `place`, with all that it may depend on around it."""
    now = window[place]
    if not place:
        return Relation.JOINED
    if now.begins_shot:
        return Relation.CUT
    if now.unchanged is not None:
        return now.unchanged
    if now.score < CUT_SCORE or not _stands_out(window, place):
        return Relation.JOINED
    return Relation.FLASH if _goes_on(window, place) else Relation.CUT


def _stands_out(window: Sequence[_Seen], place: int) -> bool:
    """Whether neither a fade nor motion explains that a frame differs from the one before."""
    texture = max(seen.sketch.texture for seen in window)
    score = _score_of_moved(window[place - 1].sketch, window[place].sketch, _FADE * texture)
    around = range(max(place - 2, 1), min(place + 3, len(window)))
    others = [window[k].score for k in around if k != place]
    usual = sum(others) / len(others) if others else 0.0
    return score >= max(CUT_SCORE, usual + _RISE)


def _goes_on(window: Sequence[_Seen], place: int) -> bool:
    """Whether the shot before a frame comes back soon, or the frame's own was there before."""
    sketches = [seen.sketch for seen in window]
    pairs = [(sketches[place - 1], later) for later in sketches[place + 1 :]]
    pairs += [(earlier, sketches[place]) for earlier in sketches[: place - 1]]
    return any(_score_of_moved(*pair) < _SAME_SHOT for pair in pairs)


def _score_of_moved(left: Sketch, right: Sketch, texture: float = 0.0) -> float:
    """The cut score, after a shift of the whole picture if there is one."""
    if left.codes.shape != right.codes.shape:
        return _UNLIKE
    left, right = _alike(left, right)
    score = cut_score(left, right, texture)
    if score < CUT_SCORE:
        return score
    shift = _shift(left.contrast, right.contrast)
    return score if shift is None else min(score, _score(left, right, shift, texture))


def _score(left: Sketch, right: Sketch, shift: tuple[int, int], texture: float) -> float:
    low = min(left.low, right.low)
    span = max(left.high - low, right.high - low, _LEAST_SPAN)
    there = _matching_error(left.contrast, right.contrast, shift)
    back = _matching_error(right.contrast, left.contrast, (-shift[0], -shift[1]))
    texture = max((left.texture + right.texture) / 2, texture)
    histogram = min(_histogram_distance(left, right, low, span), _HISTOGRAM_LIMIT)
    # noise counts as in a picture stretched over the whole range: a dark scene is like any other
    return (there + back) / 2 / (texture + _NOISE * span) + _HISTOGRAM_WEIGHT * histogram


def _within_bars(codes: npt.NDArray[np.uint16]) -> Area:
    """Find the picture within a frame's black bars: all of the frame where it has none."""
    borders = (codes[0], codes[-1], codes[:, 0], codes[:, -1])
    black = int(min(np.median(border) for border in borders))
    if black > _BLACKEST * _LEVELS:
        return Area(0, codes.shape[0], 0, codes.shape[1])
    return picture_area(codes, codes, black, _BITS)


def _alike(left: Sketch, right: Sketch) -> tuple[Sketch, Sketch]:
    """Sketch of two frames what is within the bars that both have."""
    areas = (left.area, right.area)
    tops, bottoms, starts, ends = zip(*areas, strict=True)
    area = Area(min(tops), max(bottoms), min(starts), max(ends))
    return left.within(area), right.within(area)


def _sampled(luma: Plane, bits: int) -> npt.NDArray[np.uint16]:
    """Thin out a plane to what the cells need, at most 5 x 64 samples a side, with 10 bits."""
    step = -(-max(luma.shape) // (_GRID * _SAMPLES))
    codes = luma[::step, ::step].astype(np.uint16)
    return np.left_shift(codes, 10 - bits) if bits <= 10 else np.right_shift(codes, bits - 10)


def _cell_means(codes: npt.NDArray[np.uint16]) -> Grey:
    """Average square cells, 64 along the longer side; what fills no cell is left out."""
    side = -(-max(codes.shape) // _GRID)
    grey = codes.astype(np.float32) / np.float32(_LEVELS - 1)
    return _block_means(grey, min(side, codes.shape[0]), min(side, codes.shape[1]))


def _block_means(images: Grey, high: int, wide: int) -> Grey:
    """Average blocks of the last two dimensions, (..., rows, columns), dropping a remainder."""
    rows, columns = images.shape[-2] // high, images.shape[-1] // wide
    images = images[..., : rows * high, : columns * wide]
    # Strided sums: numpy's mean over two short axes takes several times as long.
    tall = sum((images[..., k::high, :] for k in range(1, high)), images[..., ::high, :])
    total = sum((tall[..., k::wide] for k in range(1, wide)), tall[..., ::wide])
    return np.asarray(total / np.float32(high * wide), np.float32)


def _local_contrast(cells: Grey) -> Grey:
    """Subtract the mean of the 5 x 5 cells around."""
    padded = np.pad(cells, 2, mode="edge")
    rows, columns = cells.shape
    tall = sum((padded[k : k + rows] for k in range(1, 5)), padded[:rows])
    total = sum((tall[:, k : k + columns] for k in range(1, 5)), tall[:, :columns])
    return np.asarray(cells - total / np.float32(25), np.float32)


def _matching_error(image: Grey, other: Grey, shift: tuple[int, int]) -> float:
    """Mean absolute difference of the blocks of `image` to their best match in `other`."""
    rows, columns = image.shape
    margins = [(_REACH + max(-s, 0), _REACH + max(s, 0)) for s in shift]
    padded = np.pad(other, margins, mode="edge")[max(shift[0], 0) :, max(shift[1], 0) :]
    places = sliding_window_view(padded[: rows + 2 * _REACH, : columns + 2 * _REACH], image.shape)
    errors = places - image
    np.abs(errors, out=errors)
    means = _block_means(errors, min(_BLOCK, rows), min(_BLOCK, columns))
    return float(means.min(axis=(0, 1)).mean())


def _shift(left: Grey, right: Grey) -> tuple[int, int] | None:
    """How many rows and columns the whole picture moves, up to a third of it; None if it does not.

    The peak of the phase correlation, C. Kuglin and D. Hines, "The phase correlation image
    alignment method", 1975.
    """
    size = (2 * left.shape[0], 2 * left.shape[1])
    product = np.fft.rfft2(right, size) * np.conj(np.fft.rfft2(left, size))
    peaks = np.fft.irfft2(product / (np.abs(product) + 1e-9), size)
    rows, columns = (np.r_[0 : n // 3 + 1, -(n // 3) : 0] for n in left.shape)
    near = peaks[np.ix_(rows, columns)]
    row, column = np.unravel_index(near.argmax(), near.shape)
    if near[row, column] < _PEAK:
        return None
    return int(rows[row]), int(columns[column])


def _histogram_distance(left: Sketch, right: Sketch, low: float, span: float) -> float:
    """Share of the samples that would have to change their bin of 32: 0 alike, 1 disjoint."""
    levels = (np.arange(_LEVELS) / (_LEVELS - 1) - low) / span
    bins = np.clip(levels * (_BINS - 0.01), 0, _BINS - 1).astype(np.intp)
    counts = np.bincount(bins, left.histogram - right.histogram, _BINS)
    return float(np.abs(counts).sum() / (2 * left.histogram.sum()))
