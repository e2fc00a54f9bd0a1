"""What moves further than its own size."""

import pytest
import torch
from reduced import in_cells
from test_alignment import HEIGHT, REACH, WIDTH, texture, view

from sepconv_video.models.alignment import CELL, better_motion, find_motions
from sepconv_video.models.blocks import upsample, warp
from sepconv_video.models.matching import cell_side, follow_small


def thing(step_x, step_y, size=28, seed=5):
    """A small square before a ground that stands still, in both frames and half way."""
    ground, figure = view(texture(1), 0, 0), view(texture(seed), 0, 0)[..., :size, :size] + 1.5
    frames = []
    for time in (-1, 0, 1):
        frame = ground.clone()
        top, left = 88 + step_y * time, 120 + step_x * time
        frame[..., top : top + size, left : left + size] = figure
        frames.append(frame)
    return frames


def middle(left, right, motion):
    """The mean of both frames, moved."""
    motion = upsample(motion, CELL)
    return (warp(left, motion) + warp(right, -motion)) / 2


def found(left, right):
    cells = in_cells(left, right)
    motion = better_motion(cells, find_motions(cells))
    return motion, follow_small(cells, motion)


@pytest.mark.parametrize(("x", "y"), [(24, 0), (0, 20), (-20, 14), (26, -10)])
def test_a_small_thing_that_moves_far_is_followed(x, y):
    left, true, right = thing(x, y)
    before, after = found(left, right)
    there = (slice(None), slice(None), slice(92, 112), slice(124, 144))
    gone, seen = (
        (middle(left, right, motion) - true)[there].abs().mean() for motion in (before, after)
    )
    assert gone > 1
    assert seen < 0.3
    # elsewhere the ground stays
    around = torch.ones_like(after, dtype=torch.bool)
    around[..., 20:80, 24:108] = False
    assert torch.equal(after[around], before[around])


def test_the_ground_is_not_taken_for_a_thing():
    """What a large thing uncovers is in one frame only, and is not to be found in the other."""
    left, true, right = thing(6, 0, size=64)
    before, after = found(left, right)
    worse = (middle(left, right, after) - true).abs().mean()
    assert worse <= (middle(left, right, before) - true).abs().mean() + 0.01


def test_nothing_is_done_where_all_is_explained():
    picture = texture()
    frames = view(picture, -5, 3), view(picture, 5, -3)
    motion = torch.tensor([5.0, -3.0])[:, None, None].expand(1, 2, HEIGHT // CELL, WIDTH // CELL)
    inner = (slice(None), slice(None), slice(30, -30), slice(30, -30))
    assert torch.equal(follow_small(in_cells(*frames), motion)[inner], motion[inner])


def test_sharp_texture_that_moves_by_parts_of_a_cell_is_explained():
    """Bricks, moved by half a cell of those that are compared: the next one fits whole cells."""
    brick = 2 * torch.randn(1, 3, 18, 18, generator=torch.Generator().manual_seed(4))
    picture = brick.repeat(1, 1, 15, 15)
    frames = view(picture, 1 - REACH, 2 - REACH), view(picture, 3 - REACH, 2 - REACH)
    motion = torch.tensor([1.0, 0.0])[:, None, None].expand(1, 2, HEIGHT // CELL, WIDTH // CELL)
    assert torch.equal(follow_small(in_cells(*frames), motion), motion)


def test_what_leaves_the_frame_is_not_sought():
    picture = texture()
    frames = view(picture, -24, 9), view(picture, 24, -9)
    motion = torch.tensor([24.0, -9.0])[:, None, None].expand(1, 2, HEIGHT // CELL, WIDTH // CELL)
    assert torch.equal(follow_small(in_cells(*frames), motion), motion)


def test_pairs_of_a_batch_do_not_touch_each_other():
    first, second = thing(24, 0), thing(0, 20, seed=6)
    left, right = torch.cat((first[0], second[0])), torch.cat((first[2], second[2]))
    alone = [found(pair[0], pair[2])[1] for pair in (first, second)]
    assert (found(left, right)[1] - torch.cat(alone)).abs().max() < 1e-3


@pytest.mark.parametrize("size", [(16, 16), (34, 50), (16, 240), (656, 32)])
def test_any_even_size(size):
    left, right = torch.randn(2, 2, 3, *size)
    motion = torch.zeros(2, 2, size[0] // CELL, size[1] // CELL)
    made = follow_small(in_cells(left, right), motion)
    assert made.shape == motion.shape
    assert made.isfinite().all()


def test_cells_grow_with_the_frame():
    sides = [cell_side(h, w) for h, w in ((16, 16), (256, 448), (640, 360), (720, 1280))]
    assert sides == [4, 4, 4, 8]
    assert cell_side(1088, 1920) == 8
    assert cell_side(2160, 3840) == 16
    assert cell_side(4320, 7680) == 32
