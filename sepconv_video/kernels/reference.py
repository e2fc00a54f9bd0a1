"""The specification of the operator: three lines of PyTorch, slow and memory-hungry but plain.

Every other implementation is tested against this one. It knows nothing of devices or speed.
"""

import torch
from torch import Tensor


def sepconv(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Filter every pixel with its own separable kernel (Niklaus et al., ICCV 2017, section 3).

    out[n, c, y, x] = sum_ij image[n, c, y+i, x+j] * vertical[n, i, y, x] * horizontal[n, j, y, x]

    Args:
        image: (N, C, H+K-1, W+K-1), already padded.
        vertical: Coefficients along y, (N, K, H, W).
        horizontal: Coefficients along x, (N, K, H, W).

    Returns:
        (N, C, H, W). Differentiable by ordinary autograd; needs K*K times the memory of `image`.
    """
    K = vertical.shape[1]
    windows = image.unfold(2, K, 1).unfold(3, K, 1)
    return torch.einsum("ncyxij,niyx,njyx->ncyx", windows, vertical, horizontal)
