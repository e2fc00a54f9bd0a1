"""What the frames before and after tell of a motion, from the formula to the program's engine."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from test_engine import INFO, gray_intervals, run

from sepconv_video.engine import Engine, between
from sepconv_video.models import pair as pair_module
from sepconv_video.models.bending import UNKNOWN, Bending, Found, Known, bend
from sepconv_video.models.sepconv2017 import SepConv2017
from sepconv_video.neighbours import halved, joined
from sepconv_video.schedule import by_factor
from sepconv_video.weights import load_model


def everywhere(x, y):
    """A motion, the same in all cells of 4 pixels."""
    return torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, 8, 12).contiguous()


def test_an_even_motion_does_not_bend():
    assert not bend(*[everywhere(3.0, -1.0)] * 3).any()


def test_a_motion_that_changes_evenly_bends_by_an_eighth_of_the_change():
    # from frame to frame it moves by -2 of these: by 8, 16 and 24 pixels
    found = bend(everywhere(-1.0, 0.0), everywhere(-2.0, 0.0), everywhere(-3.0, 0.0))
    # x(t) = 12 t + 4 t^2: half way 7 pixels from the first, not 8
    torch.testing.assert_close(found, everywhere(-1.0, 0.0), rtol=0.01, atol=0)


def test_what_does_not_change_evenly_is_distrusted():
    # a frame that repeats the one before: nothing moves there, and then as ever
    found = bend(everywhere(0.0, 0.0), everywhere(2.0, 0.0), everywhere(2.0, 0.0))
    assert 0 < found.amax() < 0.6
    # back and forth
    found = bend(everywhere(1.0, 0.0), everywhere(-1.0, 0.0), everywhere(1.0, 0.0))
    assert not found.any()


def swinging(phase, height=96, width=128):
    """Cloudy texture that swings to and fro; at time `phase` of its frames."""
    generator = torch.Generator().manual_seed(1)
    clouds = F.interpolate(
        torch.rand(1, 3, 40, 60, generator=generator), scale_factor=4, mode="bicubic"
    )
    offset = 12 * torch.sin(torch.tensor(0.9 * phase))
    y, x = torch.meshgrid(torch.arange(height) + 20.0, torch.arange(width) + 50.0, indexing="ij")
    grid = torch.stack(((x + offset) / 120 - 1, y / 80 - 1), -1)[None]
    return F.grid_sample(clouds, grid, mode="bicubic", align_corners=False).clamp(0, 1)


def error_of(made, phase):
    """Mean square in the middle, where nothing comes in."""
    return (made - swinging(phase))[..., 16:-16, 24:-24].square().mean().item()


@pytest.mark.parametrize("backwards", [False, True])
def test_nothing_bends_beside_black(backwards):
    """Of a still picture that fades in, or out, edges moved by a pixel for one frame."""
    model, still = load_model("fast"), swinging(0.4)
    levels = (1, 1 / 2, 1 / 4, 0) if backwards else (0, 1 / 4, 1 / 2, 1)
    frames = [still * level for level in levels]
    with torch.inference_mode():
        found = [model.look(*pair) for pair in pairwise(frames)]
        motions = [one.motion[:, :2] for one in found]
        assert bend(*motions).any()  # by chance
        known = Known(found[1], model.bend(*found))
        made = model(frames[1], frames[2], known=known)
    assert not known.bend.any()
    assert (made - still * 3 / 8).square().mean() < 1e-5


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_what_swings_is_where_it_belongs(name):
    model = load_model(name)
    assert isinstance(model, Bending)
    frames = [swinging(phase) for phase in (0.2, 1.2, 2.2, 3.2)]
    with torch.inference_mode():
        found = [model.look(*pair) for pair in pairwise(frames)]
        known = Known(found[1], model.bend(*found))
        even = model(frames[1], frames[2])
        bent = model(frames[1], frames[2], known=known)
        in_tiles = model(frames[1], frames[2], 64, known)
        quarters = between(model, frames[1], frames[2], [[2, 4, 6]], known=[known])
        evenly = between(model, frames[1], frames[2], [[2, 4, 6]])
    # 10 dB at least
    assert error_of(bent, 1.7) < error_of(even, 1.7) / 10
    torch.testing.assert_close(in_tiles, bent, rtol=0, atol=1 / 255)
    assert torch.equal(quarters[1], bent[0])
    for phase, ours, others in zip((1.45, 1.95), quarters[::2], evenly[::2], strict=True):
        assert error_of(ours[None], phase) < error_of(others[None], phase) / 4


def test_what_neighbours_know_is_the_pairs_own():
    model = load_model("fast")
    pair = swinging(0.3), 0.9 * swinging(1.0)
    with torch.inference_mode():
        known = Known(model.look(*pair))
        assert (known.found.gain < 0.95).all()
        assert torch.equal(model(*pair, known=known), model(*pair))


def test_a_network_looks_at_a_pair_only_once(monkeypatch):
    looks = []

    def looking(name, function):
        return lambda *given: looks.append(name) or function(*given)

    for name in ("brightness", "find_fade"):
        monkeypatch.setattr(pair_module, name, looking(name, getattr(pair_module, name)))
    model, pair = load_model("fast"), (swinging(0.3), swinging(1.0))
    with torch.inference_mode():
        model(*pair, known=Known(model.look(*pair)))
    assert looks == ["brightness", "find_fade"]


def all_ones(count):
    """What was found of so many pairs."""
    light = torch.ones(count, 1, 1, 1)
    return Found(torch.ones(count, 4, 2, 2), light, light, light, light, light > 1, light > 1)


def test_what_is_known_of_some_pairs_is_joined():
    one, other = Known(all_ones(1), torch.ones(1, 2, 2, 2)), UNKNOWN
    both = joined([one, other, one])
    assert both.found is None
    assert both.bend[:, 0, 0, 0].tolist() == [1, 0, 1]
    two = joined([one, one]).found
    assert [maps.shape[0] for maps in two] == [2] * 7
    assert [[maps.shape[0] for maps in found] for found in two.each()] == [[1] * 7] * 2
    assert joined([other, other]) is UNKNOWN
    assert halved(other) is UNKNOWN
    assert halved(one).found is None
    assert halved(one).bend.unique().tolist() == [0.25]


class Recording:
    """A network that averages, and remembers what it was told."""

    def __init__(self):
        self.looked, self.known = [], []

    def look(self, left, right):
        self.looked += zip(level(left).tolist(), level(right).tolist(), strict=True)
        levels = torch.stack([level(left), level(right)], 1)[..., None, None]
        return all_ones(len(levels))._replace(motion=levels)

    def bend(self, earlier, own, later):
        return torch.cat([earlier.motion[:, :1], own.motion, later.motion[:, 1:]], 1)

    def __call__(self, left, right, tile=None, known=UNKNOWN):
        self.known += [None] * len(left) if known.bend is None else known.bend.flatten(1).tolist()
        return (left + right) / 2


def level(frames):
    return (frames[:, 0, 0, 0] * 255).round()


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_an_engine_looks_at_each_step_once(batch):
    model = Recording()
    levels = [0, 40, 80, 120, 160, 200]
    made = run(Engine(model, batch=batch), gray_intervals(levels))
    assert [int(frame.planes[0][0, 0]) for frame in made[::2]] == levels
    assert sorted(model.looked) == list(pairwise(levels))
    told = [known and [round(value) for value in known] for known in model.known]
    nothing = [None, [0, 0, 0, 0]]  # as a batch has it
    assert told[0] in nothing
    assert told[1:4] == [[0, 40, 80, 120], [40, 80, 120, 160], [80, 120, 160, 200]]
    assert told[4] in nothing


@pytest.mark.parametrize("batch", [1, 4])
def test_halves_of_an_interval_bend_a_quarter(batch):
    model = Recording()
    run(Engine(model, batch=batch), gray_intervals([0, 40, 80, 120], grid=by_factor(INFO, 4)))
    told = sorted(known for known in model.known if known is not None and any(known))
    assert [[round(value, 3) for value in known] for known in told] == [
        [0, 10, 20, 30],
        [0, 10, 20, 30],
        [0, 40, 80, 120],
    ]


@pytest.mark.parametrize("held", [{0}, {1}, {2}])
def test_nothing_is_told_across_what_is_held(held):
    model = Recording()
    run(Engine(model, batch=1), gray_intervals([0, 40, 80, 120], held=held))
    assert not model.looked
    assert all(known is None for known in model.known)


def test_other_networks_are_told_nothing():
    assert not isinstance(SimpleNamespace(), Bending)
    assert not isinstance(SepConv2017(), Bending)


def test_motion_that_explains_nothing_bends_nothing():
    """As across a cut that nobody has found: the pairs beside it are as if alone."""
    model, shot = load_model("fast"), [swinging(phase) for phase in (0.0, 0.4, 0.8, 1.2)]
    blocks = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(5)).round()
    other = F.interpolate(blocks, scale_factor=8)
    steps = [model.look(*pair) for pair in pairwise([*shot, other])]
    assert [step.explains_nothing.item() for step in steps] == [False, False, False, True]
    assert model.bend(*steps[:3]).any()
    assert not model.bend(*steps[1:]).any()
