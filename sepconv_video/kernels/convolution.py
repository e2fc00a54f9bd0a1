"""3x3 convolutions of networks: PyTorch's, or on a CPU our own where that takes half the time."""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_CELLS = 400
"""Of fewer PyTorch's are as fast."""


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
    size from PyTorch's.

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
    if stride == 1 and _is_for_our_own(given):
        from sepconv_video.kernels import convolution_cpu  # noqa: PLC0415 - numba is heavy

        return convolution_cpu.convolve(maps, weight, bias, slope, base)
    made = F.conv2d(maps, weight, bias, stride, padding=1)
    if slope != 1:
        made = F.leaky_relu(made, slope, inplace=True)
    return made if base is None else made + base


def _is_for_our_own(given: list[Tensor]) -> bool:
    """Whether it is for a CPU, in single precision, without gradients, and maps are large."""
    maps = given[0]
    if not maps.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return False
    is_single = all(tensor.dtype == torch.float32 for tensor in given)
    return is_single and maps[:, 0].numel() >= LEAST_CELLS
