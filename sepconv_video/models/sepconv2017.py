"""The network of Niklaus, Mai, Liu: Video Frame Interpolation via Adaptive Separable Convolution.

ICCV 2017, https://arxiv.org/abs/1708.01692. Written from the paper so that the authors' state
dicts load; their weights are for academic use only and are not part of this project.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import planar, sepconv_pair
from sepconv_video.models.blocks import (
    Convolution,
    check_frames,
    pad_to_multiple,
    side_by_side,
)
from sepconv_video.models.tiles import Place, in_tiles

TAPS = 51
MULTIPLE = 32
"""Five poolings halve the frame; the authors pad to 128, which is more than needed."""


def _conv_relu(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    """3x3 convolution with ReLU, which has a number of its own among the authors' layers."""
    return Convolution(inputs, outputs, slope=0.0), nn.Identity()


def _basic(inputs: int, outputs: int) -> nn.Sequential:
    """Three 3x3 convolutions, each with ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs, outputs):
        layers += _conv_relu(channels, outputs)
    return nn.Sequential(*layers)


class _Double(nn.Module):
    """Bilinear enlargement by 2 that maps the frame's corners to corners (`align_corners`).

    It stretches 2N-1 steps over N-1, so what it makes of a place depends on where in the frame
    that place is: by up to half a cell, which shows.
    """

    def __init__(self, cell: int) -> None:
        """Enlarge maps whose cells are `cell` pixels of the frame."""
        super().__init__()
        self.cell = cell

    def forward(self, maps: Tensor, place: Place | None = None) -> Tensor:
        """(N, C, rows, columns), of the whole frame or of the piece at `place`, to twice that."""
        if place is None:
            return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)
        maps = _stretch(maps, 2, place.top // self.cell, place.height // self.cell)
        return _stretch(maps, 3, place.left // self.cell, place.width // self.cell)


def _stretch(maps: Tensor, dim: int, start: int, size: int) -> Tensor:
    """Double along a dimension what begins at cell `start` of the `size` that the frame has."""
    count = maps.shape[dim]
    made = torch.arange(2 * start, 2 * (start + count), dtype=torch.float64, device=maps.device)
    # beyond the piece lies its edge again; that is in the halo
    at = (made * ((size - 1) / (2 * size - 1)) - start).clamp(0, count - 1)
    before = at.long()
    after = (before + 1).clamp(max=count - 1)
    shape = [-1 if d == dim else 1 for d in range(maps.dim())]
    weight = (at - before).to(maps.dtype).view(shape)
    return maps.index_select(dim, before).lerp_(maps.index_select(dim, after), weight)


class _Layers(nn.Sequential):
    """Layers one after the other, of which some want to know the place."""

    def forward(self, maps: Tensor, place: Place | None = None) -> Tensor:
        for layer in self:
            maps = layer(maps, place) if isinstance(layer, _Double) else layer(maps)
        return maps


def _upsample(channels: int, cell: int) -> _Layers:
    return _Layers(_Double(cell), *_conv_relu(channels, channels))


def _subnet() -> _Layers:
    """Features (N, 64, H/2, W/2) to coefficients (N, TAPS or more, H, W)."""
    return _Layers(
        *_conv_relu(64, 64),
        *_conv_relu(64, 64),
        *_conv_relu(64, TAPS),
        _Double(2),
        Convolution(TAPS, TAPS),
    )


class SepConv2017(nn.Module):
    """21.7 million parameters, 380,484 multiply-accumulates per pixel besides the operator.

    Attribute names are the authors' without `module` or `net` and with a small first letter.
    """

    halo = 256
    bytes_per_pixel = 1750
    frame_bytes_per_pixel = 27
    bf16_suffices = False
    """Frames and taps would have it too."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        self.conv1 = _basic(6, 32)
        self.conv2 = _basic(32, 64)
        self.conv3 = _basic(64, 128)
        self.conv4 = _basic(128, 256)
        self.conv5 = _basic(256, 512)
        self.deconv5 = _basic(512, 512)
        self.deconv4 = _basic(512, 256)
        self.deconv3 = _basic(256, 128)
        self.deconv2 = _basic(128, 64)
        self.upsample5 = _upsample(512, 32)
        self.upsample4 = _upsample(256, 16)
        self.upsample3 = _upsample(128, 8)
        self.upsample2 = _upsample(64, 4)
        self.vertical1, self.vertical2 = _subnet(), _subnet()
        self.horizontal1, self.horizontal2 = _subnet(), _subnet()

    def forward(self, left: Tensor, right: Tensor, tile: int | None = None) -> Tensor:
        """Predict the frame half way.

        Args:
            left: Earlier frames, (N, 3, H, W), RGB in [0, 1], any H and W; float32, or as the
                weights.
            right: Later frames; shape, dtype and device of `left`.
            tile: Most pixels a side to work on at once (besides a halo); None for whole frames.

        Returns:
            (N, 3, H, W), same dtype; not clamped.

        Raises:
            ValueError: `left` and `right` are no frames of a pair.
        """
        check_frames(left, right)
        height, width = left.shape[-2:]
        # the authors' network was trained on blue-green-red
        kind = next(self.parameters()).dtype
        first = pad_to_multiple(left.flip(1).to(kind), MULTIPLE)
        second = pad_to_multiple(right.flip(1).to(kind), MULTIPLE)
        middle = in_tiles(
            self._predict, first, second, tile=tile, halo=self.halo, multiple=MULTIPLE
        )
        return middle[..., :height, :width].flip(1).to(left.dtype)

    def _predict(self, first: Tensor, second: Tensor, place: Place | None) -> Tensor:
        """Predict from padded frames in blue-green-red, or from the pieces of them at `place`."""
        features = self._features(side_by_side([first, second]), place)
        reach = [TAPS // 2] * 4
        subnets = (self.vertical1, self.horizontal1, self.vertical2, self.horizontal2)
        # one after the other into place: all four and their concatenation would be twice as much
        taps = first.new_empty((len(first), 4 * TAPS, *first.shape[2:]))
        for maps, subnet in zip(taps.chunk(4, 1), subnets, strict=True):
            planar(subnet(features, place)[:, :TAPS], maps)
        return sepconv_pair(
            F.pad(first, reach, mode="replicate"),
            F.pad(second, reach, mode="replicate"),
            taps,
        )

    def _features(self, pair: Tensor, place: Place | None) -> Tensor:
        """(N, 6 or 8, H, W) to (N, 64, H/2, W/2)."""
        conv2 = self.conv2(F.avg_pool2d(self.conv1(pair), 2))
        conv3 = self.conv3(F.avg_pool2d(conv2, 2))
        conv4 = self.conv4(F.avg_pool2d(conv3, 2))
        conv5 = self.conv5(F.avg_pool2d(conv4, 2))
        up = self.upsample5(self.deconv5(F.avg_pool2d(conv5, 2)), place)
        up = self.upsample4(self.deconv4(up + conv5), place)
        up = self.upsample3(self.deconv3(up + conv4), place)
        features: Tensor = self.upsample2(self.deconv2(up + conv3), place) + conv2
        return features
