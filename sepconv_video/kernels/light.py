"""What `models/fading.py` and `standing.py` do to each pixel of a frame, a pixel at a time.

PyTorch's operations make some twenty maps as large as the frame on the way, on a CPU in five to ten
times the time.
"""

from torch import Tensor


def relight(frames: Tensor, gain: Tensor, offset: Tensor) -> None:
    """Multiply frames by a gain, add an offset; they are overwritten. Not differentiable.

    Args:
        frames: (N, 3, H, W), contiguous; float32 on a CPU, or on an NVIDIA GPU a half as well.
        gain: (N, 3, H/k, W/k), float32, k being even or 1; enlarged bilinearly.
        offset: As `gain`.
    """
    if frames.is_cuda:
        from sepconv_video.kernels import light_cuda  # noqa: PLC0415 - cupy is heavy

        return light_cuda.relight(frames, gain, offset)
    from sepconv_video.kernels import light_cpu  # noqa: PLC0415 - numba is heavy

    return light_cpu.relight(frames, gain, offset)


def hold(
    made: Tensor, left: Tensor, right: Tensor, allowed: Tensor, light: tuple[Tensor, ...]
) -> None:
    """Write the mean of both frames over what was made, where they differ little.

    Args:
        made: (N, 3, H, W), as the frames of `relight`; overwritten.
        left: Frames, likewise, after `relight`, which is taken back first.
        right: Likewise.
        allowed: By how much they may differ, (N, 1, H/2, W/2), float32: all of the mean is taken up
            to half of it, none from it on.
        light: Gain and offset for the left frame, then for the right one, as in `relight`.
    """
    if made.is_cuda:
        from sepconv_video.kernels import light_cuda  # noqa: PLC0415 - cupy is heavy

        return light_cuda.hold(made, left, right, allowed, light)
    from sepconv_video.kernels import light_cpu  # noqa: PLC0415 - numba is heavy

    return light_cpu.hold(made, left, right, allowed, light)
