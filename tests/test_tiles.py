"""Tiles: they cover the frame, and what is made of them is what is made of the frame."""

import pytest
import torch
import torch.nn.functional as F
from test_models import official_state
from torch import nn

from sepconv_video.models import SepConv2017
from sepconv_video.models.sepconv2017 import _Double
from sepconv_video.models.tiles import Place, in_tiles, seen_pixels
from sepconv_video.weights import _canonical_key

LEVEL = 1 / 255


def pooling_network(left, right, place=None):
    """Sees 1 + 2*(1 + 1) + 1 = 6 pixels around and needs its pooling cells of 2 to coincide."""
    kernel = torch.tensor([[1.0, 2, 1], [0, 1, 3], [2, 1, 1]])[None, None] / 12
    mixed = F.conv2d(torch.cat((left, right)).mean(0, keepdim=True), kernel, padding=1)
    coarse = F.conv2d(F.conv2d(F.avg_pool2d(mixed, 2), kernel, padding=1), kernel, padding=1)
    return F.conv2d(F.interpolate(coarse, scale_factor=2), kernel, padding=1)


@pytest.mark.parametrize("size", [(32, 32), (40, 72), (8, 8)])
@pytest.mark.parametrize("tile", [1, 16, 24, 30, 500])
def test_tiles_make_what_the_frame_makes(size, tile):
    left, right = torch.rand(2, 1, 1, *size, generator=torch.Generator().manual_seed(1))
    made = in_tiles(pooling_network, left, right, tile=tile, halo=7, multiple=8)
    torch.testing.assert_close(made, pooling_network(left, right))


def test_without_a_halo_they_do_not():
    left, right = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    made = in_tiles(pooling_network, left, right, tile=16, halo=0, multiple=8)
    assert (made - pooling_network(left, right)).abs().max() > LEVEL


def test_no_more_is_seen_than_was_said():
    seen = []

    def predict(left, right, place):
        seen.append((place.top, place.left, *left.shape[-2:]))
        assert (place.height, place.width) == (96, 224)
        return left[:, :1]

    frame = torch.rand(2, 3, 96, 224)
    made = in_tiles(predict, frame, frame, tile=70, halo=32, multiple=32)
    assert torch.equal(made, frame[:, :1])
    assert all(number % 32 == 0 for place in seen for number in place)
    assert max(height * width for *_, height, width in seen) <= seen_pixels(96, 224, 70, 32)
    assert seen_pixels(96, 224, None, 32) == 96 * 224


class Normalising(nn.Module):
    """As `fast` does it: the mean and spread of the whole pair, then work in tiles."""

    def forward(self, left, right, tile=None):
        pair = torch.cat((left, right), 1)
        mean, spread = pair.mean(), pair.std() + 0.02
        left, right = (left - mean) / spread, (right - mean) / spread
        if tile is None:
            made = pooling_network(left, right)
        else:
            made = in_tiles(pooling_network, left, right, tile=tile, halo=8, multiple=8)
        return made * spread + mean


def test_what_depends_on_the_whole_frame_is_found_before_it_is_cut():
    # a frame of two very different halves
    left, right = torch.rand(2, 1, 1, 32, 64, generator=torch.Generator().manual_seed(1))
    left[..., 32:] *= 0.1
    model = Normalising()
    torch.testing.assert_close(model(left, right, 16), model(left, right))


@pytest.mark.parametrize("place", [Place(0, 0, 48, 80), Place(16, 24, 48, 80)])
def test_corners_to_corners_depends_on_the_place(place):
    maps = torch.rand(1, 2, 12, 20, generator=torch.Generator().manual_seed(1))
    whole = _Double(4)(maps)
    piece = _Double(4)(maps[..., place.top // 4 :, place.left // 4 :], place)
    # its own edge is the halo's
    expected = whole[..., place.top // 2 :, place.left // 2 :]
    torch.testing.assert_close(piece[..., 1:, 1:], expected[..., 1:, 1:], atol=1e-5, rtol=0)
    unaware = F.interpolate(maps[..., 4:, 6:], scale_factor=2, mode="bilinear", align_corners=True)
    assert (unaware - whole[..., 8:, 12:])[..., 1:, 1:].abs().max() > 10 * LEVEL


def test_the_2017_network_makes_the_same_of_tiles():
    model = SepConv2017().eval()
    model.load_state_dict({_canonical_key(k): v for k, v in official_state("module").items()})
    left, right = torch.rand(2, 1, 3, 33, 640, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = model(left, right)
        error = (model(left, right, 256) - whole).abs().max()
        # random weights give any range: a level is 1/255 of the span of nearly all pixels
        level = 4 * whole.std() * LEVEL
        print(f"error {error / level:.3f} levels")
        assert error < level
        model.halo = 32
        assert (model(left, right, 256) - whole).abs().max() > level
