"""The adaptive separable convolution: one operator, three implementations.

`sepconv`, and `sepconv_pair` for both frames at once, work on the CPU (numba) and on NVIDIA GPUs
(CuPy), under autograd, `torch.compile` and `torch.library.opcheck`. `reference` holds the
specification. This package owns the arithmetic only: it knows nothing of networks, frames or
videos, and imports numba and cupy on first use.
"""

from sepconv_video.kernels.operation import (
    has_bf16_units,
    implementations,
    notes,
    planar,
    sepconv,
    sepconv_pair,
)
from sepconv_video.kernels.taps import shape_taps

__all__ = [
    "has_bf16_units",
    "implementations",
    "notes",
    "planar",
    "sepconv",
    "sepconv_pair",
    "shape_taps",
]
