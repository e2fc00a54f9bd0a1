"""What stands still, pixel by pixel, while all around it moves: captions, logos, scores."""

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.models.alignment import in_cells
from sepconv_video.models.fast import normalised
from sepconv_video.models.standing import hold, standing
from sepconv_video.weights import load_model


def texture(height: int, width: int) -> torch.Tensor:
    """Blurred noise, (1, 3, height, width) in [0, 1]."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
    blurred = F.avg_pool2d(F.avg_pool2d(noise, 5, 1, 2), 5, 1, 2)
    return (blurred - 0.5) * 2 + 0.5


def strokes(height: int, width: int) -> torch.Tensor:
    """Where a caption is: upright strokes of 3 pixels, (height, width), true or false."""
    letters = torch.zeros(height, width, dtype=torch.bool)
    for column in range(24, width - 24, 7):
        letters[height - 40 : height - 24, column : column + 3] = True
    return letters


def scene(step: int, captioned: bool) -> torch.Tensor:
    """A frame of 128x192 that pans by 6 pixels a step, with a white caption in black outline."""
    frame = texture(128, 256)[..., 6 * step : 6 * step + 192].clone()
    if captioned:
        letters = strokes(128, 192)
        outline = F.max_pool2d(letters[None].float(), 3, 1, 1)[0] > 0
        frame[..., outline], frame[..., letters] = 0.02, 0.95
    return frame


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_a_caption_stays_while_the_picture_pans(name):
    letters = strokes(128, 192)
    model = load_model(name, torch.device("cpu"))
    with torch.inference_mode():
        made = model(scene(0, True), scene(2, True))
    wrong = (made - scene(1, True)).abs().amax(1)[0]
    assert wrong[letters].mean() < 0.5 / 255
    assert wrong[letters].max() < 3 / 255


def test_what_moves_does_not_stand():
    left, right, _, _ = normalised(scene(0, False), scene(2, False))
    assert not standing(in_cells(left, right)).any()
    left, right, _, _ = normalised(scene(0, True), scene(2, True))
    allowed = F.interpolate(standing(in_cells(left, right)), scale_factor=2)[0, 0]
    letters = strokes(128, 192)
    assert (allowed[letters] > 0.1).all()
    around = F.max_pool2d(letters[None].float(), 17, 1, 8)[0] > 0
    assert not allowed[~around].any()


def test_noise_of_a_flat_wall_is_nothing_that_stands():
    """It says nothing of whether something passed in between."""
    wall = 0.5 + torch.randn(1, 3, 64, 64) / 255
    left, right, _, _ = normalised(wall, wall)
    left[..., :32, :], right[..., :32, :] = 0.5, 0.5
    assert not standing(in_cells(left, right))[..., :14, :].any()


def test_what_stands_in_a_shadow_that_falls_on_it_stands():
    lines = torch.full((1, 3, 96, 96), 0.1)
    lines[..., ::12, :] = lines[..., 1::12, :] = lines[..., ::12] = lines[..., 1::12] = 0.7
    shadow = torch.linspace(0, 0.08, 96)[:, None]
    left, right, _, _ = normalised(lines, lines - shadow)
    allowed = F.interpolate(standing(in_cells(left, right)), scale_factor=2)
    assert (allowed[(lines > 0.5)[:, :1]] > 0.1).all()


def test_only_what_differs_little_is_held():
    left = torch.zeros(1, 3, 8, 8)
    right = torch.full_like(left, 0.1)
    right[..., 4:] = 0.3
    made = torch.full_like(left, 5)
    held = hold(made, left, right, torch.full((1, 1, 4, 4), 0.2))
    torch.testing.assert_close(held[..., :4], torch.full((1, 3, 8, 4), 0.05), atol=0.1, rtol=0)
    assert torch.equal(held[..., 4:], made[..., 4:])
    assert torch.equal(hold(made, left, left, torch.zeros(1, 1, 4, 4)), made)
