"""Fades, flash-lights, irises: one frame is brighter than the other, whatever moves."""

import math

import pytest
import torch
import torch.nn.functional as F

from sepconv_video.models.fading import Fade, find_fade
from sepconv_video.models.pair import brightness, in_cells, normalised
from sepconv_video.weights import load_model

HEIGHT, WIDTH = 128, 192


def scene(step: float, seed: int = 3) -> torch.Tensor:
    """A frame (1, 3, 128, 192) in [0, 1] of blurred noise that pans by 6 pixels a step."""
    noise = torch.rand(1, 3, HEIGHT, 2 * WIDTH, generator=torch.Generator().manual_seed(seed))
    coarse = F.interpolate(noise[..., ::8, ::8], scale_factor=8, mode="bicubic")
    fine = F.avg_pool2d(F.avg_pool2d(noise, 5, 1, 2), 5, 1, 2)
    picture = (coarse * 0.5 + fine * 0.5).clamp(0, 1)
    start = round(6 * step) + 24
    return picture[..., start : start + WIDTH]


def found(left: torch.Tensor, right: torch.Tensor) -> Fade:
    mean, spread = brightness(left, right)
    return find_fade(in_cells(left, right, mean, spread), -mean / spread)


def near(maps: torch.Tensor, number: float, tolerance: float) -> bool:
    """Whether all of a map is some number."""
    return bool(((maps - number).abs() <= tolerance).all())


def lamp(column: float) -> torch.Tensor:
    """Light (128, 192), with something bright around a column."""
    across = torch.arange(WIDTH) - column
    down = torch.arange(HEIGHT)[:, None] - HEIGHT / 2
    return 0.5 + 0.4 * torch.exp(-(across**2 + down**2) / (2 * 40**2))


def bands(phase: float, dim: int) -> torch.Tensor:
    """Light in bands across, or down (dim -1), as of a lamp that flickers; (128, 1) or (1, 192)."""
    lines = torch.arange((HEIGHT, WIDTH)[dim])
    light = 0.75 + 0.2 * torch.sin(2 * math.pi * lines / 110 + phase)
    return light[:, None] if dim == -2 else light[None]


def psnr(made: torch.Tensor, true: torch.Tensor) -> float:
    """Of what is neither near an edge, in dB."""
    return -10 * math.log10(float((made - true)[..., 16:-16, 16:-16].square().mean()))


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize(("gain", "offset"), [(0.9, 0.0), (1.25, -0.1), (0.5, 0.0), (0.8, 0.2)])
def test_gain_and_offset_are_found_whatever_moves(step, gain, offset):
    left, right = scene(0), scene(step) * gain + offset
    fade = found(left, right)
    mean, spread = brightness(left, right)
    first, second = normalised(left, right, mean, spread)
    assert near(fade.gain, gain, 0.02)
    # of normalised brightness the origin is another
    assert near(fade.offset, float((offset + (gain - 1) * mean) / spread), 0.02)
    if not step:
        fade.even_out(first, second)
        assert (first - second).abs().max() < 0.02


@pytest.mark.parametrize("step", [0, 0.5, 2])
def test_without_a_fade_frames_stay_bit_for_bit(step):
    pair = scene(0), scene(step)
    first, second = normalised(*pair, *brightness(*pair))
    fade = found(scene(0), scene(step))
    assert near(fade.gain, 1, 0)
    assert near(fade.offset, 0, 0)
    kept = first.clone(), second.clone()
    fade.even_out(*kept)
    for frames in (kept, fade.undone(*kept)):
        assert torch.equal(frames[0], first)
        assert torch.equal(frames[1], second)


def test_what_comes_into_sight_is_no_fade():
    """Something large and white goes into the picture: the mean changes, the light does not."""
    left, right = scene(0), scene(1)
    right[..., 20:110, 120:] = 0.95
    fade = found(left, right)
    assert near(fade.gain, 1, 0.1)
    assert near(fade.offset, 0, 0.25)
    assert (fade.gain == 1).float().mean() > 0.6


def test_what_a_lamp_shines_on_becomes_as_bright_in_both_frames():
    left, right = scene(0) * lamp(80), scene(0) * lamp(112)
    mean, spread = brightness(left, right)
    first, second = normalised(left, right, mean, spread)
    fade = find_fade(in_cells(left, right, mean, spread), -mean / spread)
    fade.even_out(first, second)
    assert ((first - second) * spread).abs().mean() < 0.5 * (left - right).abs().mean()
    assert ((first * spread + mean) - (left + right) / 2).abs().mean() < 0.01


def test_a_lamp_is_the_same_whatever_moves_below():
    still, moved = (found(scene(0) * lamp(80), scene(step) * lamp(112)) for step in (0, 1))
    assert (still.gain - 1).abs().mean() > 0.05
    assert (still.gain - moved.gain).abs().mean() < 0.03


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_where_a_lamp_moves_nothing_else_does(name):
    model = load_model(name, torch.device("cpu"))
    left, middle, right = (scene(0) * lamp(column) for column in (80, 96, 112))
    with torch.inference_mode():
        made = model(left, right)
        tiled = model(left, right, tile=64)
    assert psnr(made, middle) > psnr((left + right) / 2, middle) - 1
    assert psnr(made, middle) > 38
    assert (made - tiled).abs().max() < 1 / 255


@pytest.mark.parametrize("name", ["fast", "fine"])
@pytest.mark.parametrize("dim", [-2, -1])
def test_bands_of_light_that_flickers_hide_no_motion(name, dim):
    model = load_model(name, torch.device("cpu"))
    first, last = bands(0, dim), bands(2, dim)
    with torch.inference_mode():
        made = model(scene(0) * first, scene(2) * last)
    assert psnr(made, scene(1) * (first + last) / 2) > 34


def test_what_is_hardly_found_again_tells_nothing_of_light():
    """Most of one picture makes way for another: what looks alike by chance is no evidence."""
    left, right = scene(0), scene(0)
    right[..., 60:] = scene(0, seed=5)[..., 60:] * 0.5
    gain = found(left, right).gain
    assert torch.equal(gain.amin((2, 3)), gain.amax((2, 3)))


@pytest.mark.parametrize("side", [16, 32])
def test_pictures_that_have_nothing_in_common_are_no_fade(side):
    pictures = torch.rand(2, 3, HEIGHT // side, WIDTH // side)
    left, right = F.interpolate(pictures, size=(HEIGHT, WIDTH)).split(1)
    fade = found(left, right * 0.5)
    assert near(fade.gain, 1, 0)
    assert near(fade.offset, 0, 0)


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_light_may_change_its_colour(name):
    model = load_model(name, torch.device("cpu"))
    colours = torch.tensor([[0.9, 0.6, 0.5], [0.8, 0.65, 0.65], [0.7, 0.7, 0.8]])[..., None, None]
    left, middle, right = (scene(step) * colours[step] for step in range(3))
    with torch.inference_mode():
        made = model(left, right)
    assert psnr(made, middle) > 38


def test_each_pair_has_its_own():
    left = torch.cat([scene(0, seed) for seed in range(3)])
    right = torch.cat([scene(2, 0), scene(2, 1) * 0.7, scene(2, 2) * 0.5 + 0.5])
    fade = found(left, right)
    for n in range(3):
        alone = found(left[n : n + 1], right[n : n + 1])
        assert torch.allclose(fade.gain[n : n + 1], alone.gain, atol=1e-3)
        assert torch.allclose(fade.offset[n : n + 1], alone.offset, atol=1e-3)


def test_their_own_light_is_given_back():
    first, second = torch.randn(2, 1, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    gain, offset = torch.tensor([1.7, 0.8]), torch.tensor([-0.4, 0.1])
    fade = Fade(gain.expand(1, 3, 1, 2), offset.expand(1, 3, 1, 2))
    even = first.clone(), second.clone()
    fade.even_out(*even)
    back = fade.undone(*even)
    assert torch.allclose(back[0], first, atol=1e-5)
    assert torch.allclose(back[1], second, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_flat_frames_make_no_fuss(level):
    flat = torch.full((1, 3, 64, 64), level)
    for other in (flat, torch.full_like(flat, 0.5), scene(0)[..., :64, :64]):
        for pair in ((flat, other), (other, flat)):
            fade = found(*pair)
            assert torch.isfinite(fade.gain).all()
            assert torch.isfinite(fade.offset).all()
            assert (fade.gain > 0).all()


@pytest.mark.parametrize("name", ["fast", "fine"])
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.8), (0.6, 1.0), (0.35, 0.05)])
def test_a_picture_that_pans_as_it_fades_is_made_half_way(name, first, last):
    model = load_model(name, torch.device("cpu"))
    left, right = scene(0) * first, scene(2) * last
    with torch.inference_mode():
        made = model(left, right)
        motion = model.look(left, right).motion
        without = model.look(scene(0), scene(2)).motion
    assert psnr(made, scene(1) * (first + last) / 2) > 38
    assert (motion - without)[..., 4:-4, 4:-4].abs().mean() < 0.05


@pytest.mark.parametrize("name", ["fast", "fine"])
@pytest.mark.parametrize("level", [0, 1])
def test_before_a_fade_nothing_moves(name, level):
    """A frame that shows nothing tells no motion: patches of black beside bright ones were made."""
    model = load_model(name, torch.device("cpu"))
    flat = torch.full_like(scene(0), level)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)) / 255
    for shown in (0.1, 0.3):
        other = torch.lerp(flat, scene(2), shown)
        for pair in ((flat + noise, other), (other, flat + noise)):
            with torch.inference_mode():
                made = model(*pair)
            assert (made - (pair[0] + pair[1]) / 2).abs().max() < 1 / 255


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_a_caption_stands_while_the_picture_fades(name):
    model = load_model(name, torch.device("cpu"))
    letters = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for stroke in range(20):
        column = 24 + 7 * stroke + stroke * stroke % 5
        letters[88:104, column : column + 3] = True
    outline = F.max_pool2d(letters[None].float(), 3, 1, 1)[0] > 0
    frames = [scene(step) * light for step, light in ((0, 0.7), (1, 0.65), (2, 0.6))]
    for frame in frames:
        frame[..., outline], frame[..., letters] = 0.02, 0.95
    with torch.inference_mode():
        made = model(frames[0], frames[2])
    assert (made - frames[1]).abs()[..., letters].mean() < 0.01
