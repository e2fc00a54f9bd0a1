"""The network of Niklaus, Mai, Liu: Video Frame Interpolation via Adaptive Separable Convolution.

ICCV 2017, https://arxiv.org/abs/1708.01692. Written from the paper so that the authors' state
dicts load; their weights are for academic use only and are not part of this project.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepconv_video.kernels import sepconv
from sepconv_video.models.blocks import pad_to_multiple

TAPS = 51
MULTIPLE = 32
"""Five poolings halve the frame; the authors pad to 128, which is more than needed."""


def _basic(inputs: int, outputs: int) -> nn.Sequential:
    """Three 3x3 convolutions, each with ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _double() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


def _upsample(channels: int) -> nn.Sequential:
    return nn.Sequential(
        _double(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)
    )


def _subnet() -> nn.Sequential:
    """Features (N, 64, H/2, W/2) to one map of coefficients (N, TAPS, H, W)."""
    return nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, TAPS, 3, padding=1),
        nn.ReLU(inplace=True),
        _double(),
        nn.Conv2d(TAPS, TAPS, 3, padding=1),
    )


class SepConv2017(nn.Module):
    """21.7 million parameters, 380,484 multiply-accumulates per pixel besides the operator.

    Attribute names are the authors' without `module` or `net` and with a small first letter.
    """

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
        self.upsample5 = _upsample(512)
        self.upsample4 = _upsample(256)
        self.upsample3 = _upsample(128)
        self.upsample2 = _upsample(64)
        self.vertical1, self.vertical2 = _subnet(), _subnet()
        self.horizontal1, self.horizontal2 = _subnet(), _subnet()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Predict the frame half way.

        Args:
            left: Earlier frames, (N, 3, H, W), RGB in [0, 1], any H and W.
            right: Later frames; shape, dtype and device of `left`.

        Returns:
            (N, 3, H, W), same dtype; not clamped.
        """
        height, width = left.shape[-2:]
        # the authors' network was trained on blue-green-red
        first = pad_to_multiple(left.flip(1), MULTIPLE)
        second = pad_to_multiple(right.flip(1), MULTIPLE)
        features = self._features(torch.cat((first, second), 1))
        reach = [TAPS // 2] * 4
        middle = sepconv(
            F.pad(first, reach, mode="replicate"),
            self.vertical1(features),
            self.horizontal1(features),
        )
        middle += sepconv(
            F.pad(second, reach, mode="replicate"),
            self.vertical2(features),
            self.horizontal2(features),
        )
        return middle[..., :height, :width].flip(1)

    def _features(self, pair: Tensor) -> Tensor:
        """(N, 6, H, W) to (N, 64, H/2, W/2)."""
        conv2 = self.conv2(F.avg_pool2d(self.conv1(pair), 2))
        conv3 = self.conv3(F.avg_pool2d(conv2, 2))
        conv4 = self.conv4(F.avg_pool2d(conv3, 2))
        conv5 = self.conv5(F.avg_pool2d(conv4, 2))
        up = self.upsample5(self.deconv5(F.avg_pool2d(conv5, 2)))
        up = self.upsample4(self.deconv4(up + conv5))
        up = self.upsample3(self.deconv3(up + conv4))
        features: Tensor = self.upsample2(self.deconv2(up + conv3)) + conv2
        return features
