"""The search for motion: what is found on textures that move by a known way, before training."""

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.models.matching import (
    CELL,
    Choice,
    Grey,
    Matching,
    Refinement,
    neighbours,
    still_and_smooth,
)

KNOWLEDGE = 4
HEIGHT, WIDTH = 64, 96


def texture(seed=0):
    """Fine-grained grey noise, with room for 16 pixels of motion on every side."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, HEIGHT + 32, WIDTH + 32, generator=random)


def view(picture, x, y):
    return picture[..., 16 + y : 16 + y + HEIGHT, 16 + x : 16 + x + WIDTH]


def moving(x, y, *, middle=False):
    """Left and right frames of a texture that moves by (x, y) pixels per half step."""
    picture = texture()
    # what is at p in the middle is at p + (x, y) in the left frame
    left, right = view(picture, -x, -y), view(picture, x, y)
    return Grey(left, right, view(picture, 0, 0) if middle else None)


def motion_of(x, y, cell=CELL):
    field = torch.tensor([x, y, -x, -y], dtype=torch.float32)
    return field.reshape(1, 4, 1, 1).expand(1, 4, HEIGHT // cell, WIDTH // cell).clone()


def knowledge(cell=CELL):
    return torch.zeros(1, KNOWLEDGE, HEIGHT // cell, WIDTH // cell)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (2, -1), (-3, 3)])
@torch.no_grad()
def test_refinement_finds_what_is_left_of_the_motion(x, y):
    refine = Refinement(3, KNOWLEDGE)
    found = refine(moving(x + 4, y - 2), motion_of(4, -2), knowledge()).motion
    inner = (found - motion_of(x + 4, y - 2))[..., 4:-4, 4:-4]
    assert inner.abs().max() < 0.3


@torch.no_grad()
def test_choice_takes_the_candidate_that_makes_the_frames_meet():
    candidates = [motion_of(0, 0), motion_of(5, 1), motion_of(-5, 7)]
    found = Choice(3, KNOWLEDGE)(moving(5, 1), candidates, knowledge()).motion
    inner = (found - motion_of(5, 1))[..., 4:-4, 4:-4]
    assert inner.abs().max() < 0.3


@torch.no_grad()
def test_smaller_cells_choose_by_the_same_window_of_pixels():
    candidates = [motion_of(0, 0, 2), motion_of(5, 1, 2), motion_of(-5, 7, 2)]
    found = Choice(3, KNOWLEDGE, 2)(moving(5, 1), candidates, knowledge(2)).motion
    assert found.shape == (1, 4, HEIGHT // 2, WIDTH // 2)
    inner = (found - motion_of(5, 1, 2))[..., 8:-8, 8:-8]
    assert inner.abs().max() < 0.3


@torch.no_grad()
def test_the_truth_of_both_stages_is_the_motion_itself():
    """What training teaches them: the belief's true cost is least where the motion is right."""
    chosen = Choice(3, KNOWLEDGE)(
        moving(5, 1, middle=True), [motion_of(0, 0), motion_of(5, 1), motion_of(-5, 7)], knowledge()
    )
    assert chosen.belief.true_cost[..., 4:-4, 4:-4].argmin(1).eq(1).all()
    refine = Refinement(3, KNOWLEDGE)
    refined = refine(moving(6, -1, middle=True), motion_of(4, -2), knowledge())
    best = refined.belief.true_cost[..., 4:-4, 4:-4].argmin(1)
    assert (refine.offsets[best] == torch.tensor([2.0, 1.0])).all()


@torch.no_grad()
def test_a_volume_finds_large_motion():
    volume = Matching(4, 6, 8, KNOWLEDGE)
    random = torch.Generator().manual_seed(3)
    coarse = F.interpolate(torch.randn(1, 3, 24, 32, generator=random), scale_factor=4)
    left, right = view(coarse, -12, 8), view(coarse, 12, -8)
    likelihood = volume.weigh(volume.cost(left, right), knowledge())
    torch.testing.assert_close(likelihood.sum(1), torch.ones(1, 16, 24))
    found = volume.motion(likelihood)[0, :, 4:-4, 4:-4].flatten(1).median(1).values
    assert (found - torch.tensor([12.0, -8.0])).abs().max() < 2


def test_neighbours_are_those_above_below_left_and_right():
    field = torch.arange(12.0).reshape(1, 1, 3, 4)
    own, above, below, left, right = (c[0, 0, 1, 1].item() for c in neighbours(field, 1))
    assert (own, above, below, left, right) == (5, 1, 9, 4, 6)
    assert [c[0, 0, 0, 0].item() for c in neighbours(field, 1)] == [0, 0, 4, 0, 1]  # repeated edges


def test_smooth_motion_is_a_mean_and_still_is_none():
    same = torch.full((1, 4, 8, 8), 2.5)
    own, still, smooth = still_and_smooth(same)
    assert own is same
    assert not still.any()
    torch.testing.assert_close(smooth, same)
