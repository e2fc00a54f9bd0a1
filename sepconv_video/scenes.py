"""Where nothing may be invented: hard cuts, and stills.

Looks at two neighbouring frames only, luma only, on the CPU. It must not know the schedule
that asks, nor the colours.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from sepconv_video.frames import Frame, Plane, Relation

Grey = npt.NDArray[np.float32]

CUT_SCORE = 0.95
"""From this score on two frames belong to different shots. Best F1 on the training clips at
full and at half their rate: 1,234 cuts between clips score 0.97 and more, 6,041 of 6,044 pairs
within a shot less than 0.95 (the other 3 show a jumping motorcycle at half rate)."""

_GRID = 64  # cells along the longer side of the picture
_SAMPLES = 5  # luma samples per cell and direction, at most
_BLOCK = 6  # cells along a side of the blocks whose motion is sought
_REACH = 4  # cells a block may move: a sixteenth of the longer side
_NOISE = 0.004  # texture below a level of 255 says nothing
_LEAST_SPAN = 0.05  # a picture flatter than 13 levels of 255 is stretched no further
_STEADY = 0.008  # mean change, 2 levels of 255, that no cut stays under
_HISTOGRAM_WEIGHT, _HISTOGRAM_LIMIT = 0.5, 0.4


def is_cut(left: Frame, right: Frame, bits: int) -> bool:
    """Say whether a new shot begins with `right`.

    Meant for hard cuts. Fast motion, pans and flashes are not cuts; a dissolve is none at any
    pair of its frames.

    Args:
        left: A frame.
        right: The next frame, of the same size.
        bits: Bits per sample of both.
    """
    return cut_score(left, right, bits) >= CUT_SCORE


def cut_score(left: Frame, right: Frame, bits: int) -> float:
    """Measure how unlike two neighbouring frames are, whatever moves between them.

    The sum of two distances. One is of structure: each block of a small copy of the picture,
    local mean removed (so that a flash is no change), is sought in the other frame nearby;
    what it differs by at the best place, relative to the texture there is. The other is of
    the luma histograms, which motion does not change, cut off so that it can never decide
    alone (a flash changes nothing else).

    Args:
        left: A frame.
        right: The next frame, of the same size.
        bits: Bits per sample of both.

    Returns:
        About 0 to 0.7 within a shot, 1 to 1.5 at a cut.
    """
    first, second = (_sampled(frame.planes[0], bits) for frame in (left, right))
    first, second = _stretched(first, second)
    cells = [_cell_means(grey) for grey in (first, second)]
    if float(np.abs(cells[0] - cells[1]).mean()) < _STEADY:
        return 0.0
    here, there = (_local_contrast(grey) for grey in cells)
    residual = (_matching_error(here, there) + _matching_error(there, here)) / 2
    texture = float(np.abs(here).mean() + np.abs(there).mean()) / 2
    histogram = min(_histogram_distance(first, second), _HISTOGRAM_LIMIT)
    return residual / (texture + _NOISE) + _HISTOGRAM_WEIGHT * histogram


def is_duplicate(left: Frame, right: Frame) -> bool:
    """Say whether two frames are the same picture, sample for sample.

    What lies between them is the picture itself, so there is nothing to synthesise.
    """
    return all(map(np.array_equal, left.planes, right.planes))


def _sampled(plane: Plane, bits: int) -> Grey:
    """Thin out a plane to what the cells need, at most 5 x 64 samples a side, black 0, white 1."""
    step = -(-max(plane.shape) // (_GRID * _SAMPLES))
    return plane[::step, ::step].astype(np.float32) / np.float32(2**bits - 1)


def _stretched(first: Grey, second: Grey) -> tuple[Grey, Grey]:
    """Spread the range the two share over 0 to 1, so that a dark scene counts as any other."""
    low = min(first.min(), second.min())
    span = max(first.max() - low, second.max() - low, np.float32(_LEAST_SPAN))
    return (first - low) / span, (second - low) / span


def _cell_means(grey: Grey) -> Grey:
    """Average square cells, 64 along the longer side; what fills no cell is left out."""
    side = -(-max(grey.shape) // _GRID)
    return _block_means(grey, min(side, grey.shape[0]), min(side, grey.shape[1]))


def _block_means(images: Grey, high: int, wide: int) -> Grey:
    """Average blocks of the last two dimensions, (..., rows, columns), dropping a remainder."""
    rows, columns = images.shape[-2] // high, images.shape[-1] // wide
    images = images[..., : rows * high, : columns * wide]
    # Strided sums: numpy's mean over two short axes takes several times as long.
    tall = sum((images[..., k::high, :] for k in range(1, high)), images[..., ::high, :])
    total = sum((tall[..., k::wide] for k in range(1, wide)), tall[..., ::wide])
    return np.asarray(total / np.float32(high * wide), np.float32)


def _local_contrast(grey: Grey) -> Grey:
    """Subtract the mean of the 5 x 5 cells around."""
    around = sliding_window_view(np.pad(grey, 2, mode="edge"), (5, 5))
    return np.asarray(grey - around.mean(axis=(-2, -1)), np.float32)


def _matching_error(image: Grey, other: Grey) -> float:
    """Mean absolute difference of the blocks of `image` to their best match in `other`."""
    shifted = sliding_window_view(np.pad(other, _REACH, mode="edge"), image.shape)
    high, wide = min(_BLOCK, image.shape[0]), min(_BLOCK, image.shape[1])
    errors = _block_means(np.abs(shifted - image), high, wide)
    return float(errors.min(axis=(0, 1)).mean())


def _histogram_distance(first: Grey, second: Grey) -> float:
    """Share of the samples that would have to change their bin of 32: 0 alike, 1 disjoint."""
    bins = [(grey * np.float32(31.99)).astype(np.intp).ravel() for grey in (first, second)]
    counts = [np.bincount(indices, minlength=32) for indices in bins]
    return float(np.abs(counts[0] - counts[1]).sum() / (2 * first.size))


class KnownCuts:
    """temporary"""

    def apply(self, related: Iterator[tuple[Frame, Relation]]) -> Iterator[tuple[Frame, Relation]]:
        """Temporary"""
        return related


def relations(frames: Iterable[Frame], bits: int) -> Iterator[tuple[Frame, Relation]]:
    """Temporary"""
    before = None
    for frame in frames:
        relation = Relation.JOINED
        if before is not None:
            if is_duplicate(before, frame):
                relation = Relation.STILL
            elif is_cut(before, frame, bits):
                relation = Relation.CUT
            elif np.abs(before.planes[0].astype(int) - frame.planes[0]).max() < 3:
                relation = Relation.REPEAT
        yield frame, relation
        before = frame
