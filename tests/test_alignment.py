"""The motion of a pair: what is found on textures that move by a known way."""

import pytest
import torch
import torch.nn.functional as F
from reduced import in_cells

from sepconv_video.models.alignment import (
    CELL,
    better_motion,
    correct_by_pixels,
    find_motions,
)
from sepconv_video.models.blocks import box, shrink, upsample, warp

HEIGHT, WIDTH = 192, 256
REACH = 64


def texture(seed=0):
    """Noise with details of all sizes, as in pictures, with room for motion; spread 1."""
    random = torch.Generator().manual_seed(seed)
    height, width = HEIGHT + 2 * REACH, WIDTH + 2 * REACH
    picture = torch.zeros(1, 3, height, width)
    for cell in (64, 32, 16, 8, 4):
        noise = torch.randn(1, 3, height // cell, width // cell, generator=random)
        picture += F.interpolate(noise, (height, width), mode="bicubic")
    return picture / picture.std()


def view(picture, x, y):
    return picture[..., REACH + y : REACH + y + HEIGHT, REACH + x : REACH + x + WIDTH]


def all_motions(left, right):
    """In both ways, the better of them, and that as it is used."""
    cells = in_cells(left, right)
    found = find_motions(cells)
    better = better_motion(cells, found)
    return *found, better, correct_by_pixels(left, right, better)


def inner(motion):
    """Away from the edges, beyond which a part of one frame lies."""
    return motion[..., 32:-32, 40:-40]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (-3, 5), (14, -8), (-24, 6)])
def test_a_moving_texture_is_followed(x, y):
    """Up to 48 pixels from frame to frame, a fifth of the width."""
    picture = texture()
    frames = view(picture, -x, -y), view(picture, x, y)
    wanted = torch.tensor([x, y], dtype=torch.float32)[:, None, None]
    for found in all_motions(*frames):
        assert found.shape == (1, 2, HEIGHT // CELL, WIDTH // CELL)
        assert (inner(found) - wanted).abs().max() < 0.2


@pytest.mark.parametrize(("x", "y"), [(12, 0), (-3, 9), (-14, -8)])
def test_what_one_frame_does_not_show_moves_with_what_is_beside_it(x, y):
    """Along the edges a pan leads out of one of the frames; edges repeated are no evidence."""
    picture = texture()
    frames = view(picture, -x, -y), view(picture, x, y)
    wanted = torch.tensor([x, y], dtype=torch.float32)[:, None, None]
    for found in all_motions(*frames):
        away = (found - wanted).abs().amax(1)[0]
        rim = torch.ones_like(away, dtype=torch.bool)
        rim[8:-8, 8:-8] = False
        assert away[rim].mean() < 0.6


def test_a_turning_and_growing_texture_is_followed():
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    x, y = columns - WIDTH / 2, rows - HEIGHT / 2
    motion = torch.stack((0.05 * x - 0.08 * y, 0.08 * x + 0.05 * y))[None]
    picture, corner = texture(), (REACH, REACH)
    # small enough for a motion field to be its own inverse but for the sign
    left, right = warp(picture, -motion, corner=corner), warp(picture, motion, corner=corner)
    cells = in_cells(left, right)
    found = upsample(better_motion(cells, find_motions(cells)), CELL)
    before, after = warp(left, found), warp(right, -found)
    away = (slice(None), slice(None), slice(48, -48), slice(48, -48))
    assert (before - after)[away].abs().mean() < 0.1 * (left - right)[away].abs().mean()
    assert (found - motion)[away].abs().mean() < 1


def test_two_motions_meet_at_an_outline():
    """A square that moves over a ground that moves the other way keeps its edge."""
    ground, figure = texture(1), texture(2)
    frames = []
    for time in (-1, 1):
        frame = view(ground, -6 * time, 0).clone()
        at = slice(96 - 8 * time, 160 - 8 * time)
        frame[..., 64:128, at] = view(figure, 0, 0)[..., 64:128, 96:160]
        frames.append(frame)
    for motion in all_motions(*frames):
        found = motion[0, 0]
        # in the left frame the figure lies 8 pixels to the right, the ground 6 to the left
        assert (found[36:60, 52:76] - 8).abs().max() < 0.3
        assert (found[8:88, 92:116] + 6).abs().max() < 0.3
        assert (found[34:62, 49:79] - 8).abs().mean() < 1


def test_a_shadow_that_comes_is_not_taken_for_motion():
    picture = texture()
    # from none on the left to all of it on the right
    shadow = 2 * torch.sigmoid(torch.linspace(-3, 3, WIDTH))
    left, right = view(picture, -3, 2), view(picture, 3, -2) - shadow
    wanted = torch.tensor([3.0, -2.0])[:, None, None]
    levelled, _, found, _ = all_motions(left, right)
    assert (inner(levelled) - wanted).abs().mean() < 0.2
    assert (inner(found) - wanted).abs().mean() < 1


def test_fine_stripes_move_with_what_is_around_them():
    """On coarse grids means of few pixels would show broad ones instead, which move elsewhere."""
    picture = texture()
    rows = torch.arange(picture.shape[2]) * (2 * torch.pi / 4.2)
    across, down = slice(REACH + 64, REACH + 192), slice(REACH + 32, REACH + 160)
    picture[..., down, across] = 3 * torch.sin(rows)[down, None]
    picture /= picture.std()
    for motion in all_motions(view(picture, -1, -3), view(picture, 1, 3)):
        away = motion[..., 22:74, 38:90] - torch.tensor([1.0, 3.0])[:, None, None]
        assert away.abs().mean() < 0.3


@pytest.mark.parametrize(("period", "step"), [(10, 1), (12, 2), (24, 3)])
def test_stripes_do_not_change_places(period, step):
    """Of 10 pixels they would show as some of 40 on a coarse grid, if something were left there."""
    picture = texture()
    columns = torch.arange(picture.shape[3]) // (period // 2) % 2 * 2.0 - 1
    rows, area = slice(REACH + 40, REACH + 140), slice(REACH + 60, REACH + 180)
    picture[..., rows, area] = columns[area]
    for motion in all_motions(view(picture, -step, 0), view(picture, step, 0)):
        away = motion[..., 24:66, 36:84] - torch.tensor([float(step), 0.0])[:, None, None]
        assert away.abs().mean() < 0.3


def test_pixels_tell_what_cells_do_not():
    """A texture whose means over cells are zero, moved by a part of a pixel."""
    noise = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))
    fine = 3 * box(noise, 3)
    fine -= shrink(fine, CELL).repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    wanted = torch.tensor([0.3, -0.2])[:, None, None]
    shift = wanted.expand(1, 2, HEIGHT, WIDTH)
    frames = warp(fine, -shift, "bicubic"), warp(fine, shift, "bicubic")
    motion = torch.zeros(1, 2, HEIGHT // CELL, WIDTH // CELL)
    for _ in range(2):
        motion = correct_by_pixels(*frames, motion)
    assert (inner(motion) - wanted).abs().mean() < 0.05


def test_the_better_motion_is_taken_in_each_place():
    picture = texture()
    frames = view(picture, 5, 3), view(picture, -5, -3)
    true = torch.tensor([-5.0, -3.0])[:, None, None].expand(1, 2, HEIGHT // CELL, WIDTH // CELL)
    left_wrong, right_wrong = true.clone(), true.clone()
    left_wrong[..., : WIDTH // CELL // 2] += 7
    right_wrong[..., WIDTH // CELL // 2 :] -= 7
    found = better_motion(in_cells(*frames), (left_wrong, right_wrong))
    assert (inner(found) - inner(true)).abs().mean() < 0.1


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (34, 50), (16, 240)])
def test_any_even_size_and_no_motion_without_texture(size):
    flat = torch.full((2, 3, *size), 0.3)
    noise = torch.randn(2, 3, *size)
    for motion in (*all_motions(flat, flat), *all_motions(noise, noise)):
        assert not motion.any()
    for motion in all_motions(noise, flat):
        assert motion.shape == (2, 2, size[0] // 2, size[1] // 2)
        assert motion.isfinite().all()
