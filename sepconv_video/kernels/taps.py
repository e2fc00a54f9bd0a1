"""Taps of what a network predicted: an impulse, and a part that sums to zero."""

import torch
from torch import Tensor

from sepconv_video.kernels.operation import (
    HALF_OR_SINGLE,
    is_interleaved,
    is_known_to_a_cpu,
    planar,
)


def shape_taps(maps: Tensor, change: Tensor, K: int, most: float, dtype: torch.dtype) -> Tensor:
    """Make taps that sum to one: the unit impulse plus a part that sums to zero.

    Flat regions so keep their brightness exactly, without a division that could blow up,
    and negative taps, which sharpen, stay possible.

    Args:
        maps: What was predicted, (N, any number and then 4*K, H, W), any strides; on a CPU, or an
            NVIDIA GPU.
        change: (N, 1, H, W), 0 to 1: how much of the part that sums to zero there is to be.
        K: Number of taps.
        most: Absolute sum of that part, at most.
        dtype: Of what is returned.

    Returns:
        As `maps`, contiguous, the last 4*K of them taps as `sepconv_pair` wants them, the others
        as they are; differentiable, but for `change`.
    """
    differentiate = torch.is_grad_enabled() and maps.requires_grad
    suits_a_gpu = is_interleaved(maps) and maps.dtype in HALF_OR_SINGLE and dtype in HALF_OR_SINGLE
    if maps.is_cuda and suits_a_gpu and not differentiate:
        from sepconv_video.kernels import taps_cuda  # noqa: PLC0415 - cupy is heavy

        # first of all: taps of bf16 would no longer sum to one
        return taps_cuda.shape_taps(maps.to(dtype), change, K, most)
    made = torch.empty(maps.shape, dtype=dtype, device=maps.device)
    if is_known_to_a_cpu(maps, dtype) and not differentiate:
        from sepconv_video.kernels import planar_cpu  # noqa: PLC0415 - numba takes a second

        return planar_cpu.shape_taps(maps, change, K, most, made)
    planar(maps, made)
    taps = made[:, -4 * K :].view(len(maps), 4, K, *maps.shape[2:])
    taps -= taps.mean(2, keepdim=True)
    with torch.no_grad():
        size = taps[:, :, 0].abs()
        for one in taps[:, :, 1:].unbind(2):  # map by map: a thirtieth of the time on a CPU
            size += one.abs()
        share = torch.minimum(change.to(dtype), most / size)
    taps *= share[:, :, None]
    taps[:, :, K // 2] += 1
    return made
