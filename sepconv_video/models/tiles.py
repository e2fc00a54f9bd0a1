"""Frames too large for the memory, worked on in tiles, each with a halo of what lies around it.

A convolution sees a limited surrounding: given that much more than it is to make, a network
makes the same of a tile as of the frame. What depends on the whole frame (a mean, a position)
must be told to it. This module knows neither networks nor how much memory there is.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

SMALLEST_TILE = 256
"""Below this, nearly all the work is done for the halo."""


class Place(NamedTuple):
    """Where in a frame a piece of it lies, in pixels."""

    top: int
    left: int
    height: int
    """Of the frame, as is `width`."""
    width: int


Predict = Callable[[Tensor, Tensor, Place | None], Tensor]
"""Makes of two pieces (N, C, H, W), at a place, the piece (N, C', H, W) of the result; the place is
None for whole frames."""


@runtime_checkable
class Tiled(Protocol):
    """A network that can work on frames in tiles; any other callable is given whole frames."""

    halo: int
    """Pixels around a tile that it must see: the result is that of whole frames within one
    level of 255."""
    bytes_per_pixel: int
    """Peak memory of its activations for one pair, per pixel of what it sees at once, with
    float32; measured, see `tests/test_memory.py`."""
    frame_bytes_per_pixel: int
    """Peak memory of what it keeps of one whole pair besides, as tiles are worked on: copies of
    the frames and the result, per pixel of a frame."""

    def __call__(self, left: Tensor, right: Tensor, tile: int | None = None) -> Tensor:
        """Predict the frame half way, in tiles of at most `tile` pixels a side if it is given."""


def in_tiles(
    predict: Predict, left: Tensor, right: Tensor, *, tile: int | None, halo: int, multiple: int
) -> Tensor:
    """Predict tile by tile, or whole frames at once.

    Args:
        predict: What a network does with padded frames.
        left: Earlier frames, (N, C, H, W), H and W multiples of `multiple`.
        right: Later frames, same shape.
        tile: Most pixels a side that come out at once; rounded down to a multiple. None for all.
        halo: Pixels that `predict` sees around a tile, where the frame has them; rounded up.
        multiple: Tiles begin and end at multiples of this, so that pooling, which divides
            the frame into cells, divides the tiles into the same.

    Returns:
        (N, C', H, W).
    """
    if tile is None:
        return predict(left, right, None)
    height, width = left.shape[-2:]
    halo = -(-halo // multiple) * multiple
    rows, columns = (list(_cuts(size, tile, multiple)) for size in (height, width))
    made: Tensor | None = None
    for top, bottom in rows:
        for start, end in columns:
            above, before = max(0, top - halo), max(0, start - halo)
            seen = slice(above, bottom + halo), slice(before, end + halo)
            place = Place(above, before, height, width)
            piece = predict(left[..., *seen], right[..., *seen], place)
            if made is None:
                made = piece.new_empty((*piece.shape[:2], height, width))
            # what lies beyond the tile is dropped
            made[..., top:bottom, start:end] = piece[
                ..., top - above : bottom - above, start - before : end - before
            ]
    assert made is not None  # a frame has at least one tile
    return made


def _cuts(size: int, tile: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Cut `size` pixels into as few and as equal pieces as possible of at most `tile`."""
    cells, most = size // multiple, max(1, tile // multiple)
    count = -(-cells // most)
    edges = [cells * i // count * multiple for i in range(count + 1)]
    yield from pairwise(edges)


def seen_pixels(height: int, width: int, tile: int | None, halo: int) -> int:
    """Pixels that a network sees at once of a frame of this size."""
    if tile is None:
        return height * width
    return min(height, tile + 2 * halo) * min(width, tile + 2 * halo)
