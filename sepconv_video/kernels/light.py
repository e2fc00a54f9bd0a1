"""What is done to each pixel of a frame before a network sees it, and after, in one pass each.

PyTorch's operations make some thirty maps as large as the frame on the way, on a CPU in two to ten
times the time. Nothing here is differentiable.
"""

from torch import Tensor

from sepconv_video.kernels.operation import kernels_for


def normalise(frames: Tensor, mean: Tensor, spread: Tensor, made: Tensor, side: int) -> None:
    """Take the mean off frames, or off cells of them, and divide by their spread.

    Args:
        frames: (N, 3, h, w), float32 on a CPU, or on an NVIDIA GPU a half as well; the last row and
            column are repeated as needed.
        mean: (N, 1, 1, 1).
        spread: As `mean`.
        made: Where to, (N, 3, H, W), contiguous; as `frames`, but float32 if `side` is 2.
        side: Pixels a side of the cells, 1 or 2.
    """
    kernels_for(frames, "light").normalise(frames, mean, spread, made, side)


def relight(frames: Tensor, gain: Tensor, offset: Tensor) -> None:
    """Multiply frames by a gain, add an offset; they are overwritten.

    Args:
        frames: (N, 3, H, W), as those of `normalise`, contiguous.
        gain: (N, 3, H/k, W/k), float32, k being even or 1; enlarged bilinearly.
        offset: As `gain`.
    """
    kernels_for(frames, "light").relight(frames, gain, offset)


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
    kernels_for(made, "light").hold(made, left, right, allowed, light)
