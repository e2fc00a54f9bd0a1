"""Taps of what a network predicted, on NVIDIA GPUs: launches `taps.cu`."""

from functools import cache

import torch
from torch import Tensor

from sepconv_video.kernels import cuda

SOURCES = "storage.cu", "taps.cu"
PIXELS, QUARTERS = 64, 4  # as in taps.cu


def shape_taps(maps: Tensor, change: Tensor, K: int, most: float) -> Tensor:
    """Do what `taps.shape_taps` says, in the dtype of `maps`, whose channels lie side by side."""
    N, C, H, W = maps.shape
    result = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    change = change.float().contiguous()
    words = [maps.data_ptr(), maps.stride(0), maps.stride(3), change.data_ptr()]
    words += [result.data_ptr(), H * W, *cuda.bits((most,))]
    kernel = SOURCES, options(maps.dtype, K, C - QUARTERS * K), "shape_taps"
    grid = -(-H * W // PIXELS), 1, N
    cuda.start(maps.device.index, kernel, grid, words, shared_bytes(C))
    return result


@cache
def options(dtype: torch.dtype, K: int, lead: int) -> tuple[str, ...]:
    """Compiler options for maps of such a kind, of which so many are no taps."""
    return *cuda.storage_options(dtype, "TAPS"), f"-DK={K}", f"-DLEAD={lead}"


def shared_bytes(maps: int) -> int:
    """Bytes of shared memory that a block needs."""
    return 4 * PIXELS * (maps | 1)
