"""3x3 convolutions of networks: PyTorch's, or on a CPU our own where that takes half the time.

On a GPU what follows them is our own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sepconv_video.kernels.operation import HALF_OR_SINGLE, kernels_for

EIGHTS = 8
"""On a GPU our own code is for so many channels, or multiples."""


def convolve(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    slope: float = 1.0,
    base: Tensor | None = None,
) -> Tensor:
    """Convolve maps with zeros around, then rectify them: leaky_relu(conv(maps) + bias) + base.

    Differentiable. Our own code does not serve for that; its sums differ by some 1e-6 of their
    size from PyTorch's on a CPU, and on a GPU bias and base are added before anything is rounded.

    Args:
        maps: (N, inputs, H, W).
        weight: (outputs, inputs, 3, 3).
        bias: (outputs,).
        stride: 1, or 2: half the resolution, rounded up.
        slope: Of the rectifier below zero; 1 for none.
        base: As what is returned, or None.

    Returns:
        (N, outputs, H/stride, W/stride).
    """
    given = [maps, weight, bias] if base is None else [maps, weight, bias, base]
    is_for_our_own = _is_for_our_own(given, len(weight))
    if is_for_our_own and maps.is_cuda:
        from sepconv_video.kernels import convolution_cuda  # noqa: PLC0415 - cupy is heavy

        made = F.conv2d(maps, weight, None, stride, padding=1)
        return convolution_cuda.rectify(made, bias, slope, base)
    if is_for_our_own and stride == 1:
        from sepconv_video.kernels import convolution_cpu  # noqa: PLC0415 - numba is heavy

        return convolution_cpu.convolve(maps, weight, bias, slope, base)
    made = F.conv2d(maps, weight, bias, stride, padding=1)
    if slope != 1:
        made = F.leaky_relu(made, slope, inplace=True)
    return made if base is None else made + base


def add_enlarged(maps: Tensor, base: Tensor) -> Tensor:
    """Enlarge maps bilinearly to twice their size, and add them to others.

    Differentiable, by `F.interpolate`.

    Args:
        maps: (N, C, H, W).
        base: (N, C, 2*H, 2*W); may be overwritten.

    Returns:
        As `base`.
    """
    if _is_for_our_own([maps, base], base.shape[1]):
        made: Tensor = kernels_for(maps, "convolution").add_enlarged(maps, base)
        return made
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False).add_(base)


def _is_for_our_own(given: list[Tensor], outputs: int) -> bool:
    """Whether our own code can do it, and is the faster one: without gradients, as things are."""
    maps = given[0]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return False
    if len({tensor.dtype for tensor in given}) > 1:
        return False
    if maps.is_cuda:
        suits = maps.dtype in HALF_OR_SINGLE and outputs % EIGHTS == 0
    else:
        suits = maps.is_cpu and maps.dtype == torch.float32
    return suits and not torch.is_autocast_enabled(maps.device.type)
