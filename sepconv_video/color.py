"""Planes (YUV, gray, or RGB itself) to RGB and back, on whatever device the planes are.

Owns the matrix, the range, the bit depth and where the chroma samples lie. It must not know
files or networks; gamma (the transfer function) is left as decoded, in and out.

The two directions are inverse to each other: a frame that goes to RGB and comes straight back
is the frame, bit for bit. Otherwise made frames would differ from the source frames between
them, which go through untouched, and the video would flicker at half its rate. So `to_rgb`
does not clamp, and the chroma filters are a pair with perfect reconstruction (see
`_DOWN_ON`).
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from sepconv_video.frames import LUMA_WEIGHTS, Frame, Plane, VideoInfo

# Whether a chroma sample lies on a luma sample (across, along the picture) or half way between
# two. `left` is what MPEG-2, H.264 and H.265 have by default, `center` is JPEG and MPEG-1,
# `topleft` BT.2020. Going up is bilinear at that siting: [1 2 1]/2 on, [1 3 3 1]/4 between.
# Going down takes the duals of these two splines among the biorthogonal wavelets (LeGall &
# Tabatabai, ICASSP 1988; Cohen, Daubechies, Feauveau, 1992): they average away what lies over
# the Nyquist frequency, as a box and [1 2 1]/4 would, and yet give back every sample that was
# interpolated. On 30 clips moved by one luma sample (the hardest case) they are also nearest
# to the truth: 49.5 dB against 47.6 for box and [1 2 1]/4 and 48.6 for picking every second
# column.
_ON_LUMA = {
    "left": (True, False),
    "center": (False, False),
    "topleft": (True, True),
    "top": (False, True),
}
_DOWN_ON = (-1 / 8, 2 / 8, 6 / 8, 2 / 8, -1 / 8)
_DOWN_BETWEEN = (-1 / 4, 3 / 4, 3 / 4, -1 / 4)


def upload(frames: Sequence[Frame], device: torch.device | str) -> tuple[Tensor, ...]:
    """Stack the planes of some frames into one tensor per plane.

    Args:
        frames: N frames of one video.
        device: Where the tensors go.

    Returns:
        Y, U, V (or Y alone), each (N, rows, columns), torch.uint8 or torch.uint16.
    """
    stacks = zip(*(frame.planes for frame in frames), strict=True)
    return tuple(_upload(planes, torch.device(device)) for planes in stacks)


def _upload(planes: Sequence[Plane], device: torch.device) -> Tensor:
    """Stack planes, through pinned memory where they go to a GPU, without waiting for it."""
    host = torch.empty(
        (len(planes), *planes[0].shape),
        dtype=torch.uint8 if planes[0].dtype == np.uint8 else torch.uint16,
        # PyTorch gives it to nobody else before the copy has ended
        pin_memory=device.type == "cuda",
    )
    # copies, so padded rows and read-only buffers need no care
    np.stack(planes, out=host.numpy())
    return host.to(device, non_blocking=True)


def download(planes: Sequence[Tensor]) -> list[tuple[Plane, ...]]:
    """Undo `upload`: the planes of each frame, ready for `Frame.planes`.

    Args:
        planes: One tensor per plane, (N, rows, columns), torch.uint8 or torch.uint16.

    Returns:
        N tuples of arrays (rows, columns), uint8 or uint16.
    """
    stacks = [plane.cpu().numpy() for plane in planes]
    return list(zip(*stacks, strict=True))


def to_rgb(planes: Sequence[Tensor], info: VideoInfo, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert planes to RGB.

    Args:
        planes: Y, U, V (Y alone for gray; G, B, R for RGB), each (N, rows, columns), integer
            codes of `info.bits` bits.
        info: Size, subsampling, depth, matrix and range.
        dtype: Of the result; the arithmetic is float32 in any case.

    Returns:
        (N, 3, H, W), RGB, gamma as decoded. Black is 0 and white 1; codes beyond them
        (super-whites, colours out of gamut) stay outside [0, 1].
    """
    black, luma_span, neutral, chroma_span = _code_levels(info)
    y = _levels(planes[0], black, luma_span)
    if info.chroma_shift is None:
        return y.to(dtype).unsqueeze(1).expand(-1, 3, -1, -1)
    rgb = y.new_empty(len(y), 3, *y.shape[1:])
    red, green, blue = rgb.unbind(dim=1)
    if info.color.matrix == "rgb":
        green.copy_(y)
        for target, plane in zip((blue, red), planes[1:], strict=True):
            target.copy_(_levels(plane, black, luma_span))
        return rgb.to(dtype)
    chroma = torch.stack([_levels(plane, neutral, chroma_span) for plane in planes[1:]], dim=1)
    cb, cr = _upsample(chroma, info).unbind(dim=1)
    kr, kb = LUMA_WEIGHTS[info.color.matrix]
    of_cr, of_cb, kg = 2 * (1 - kr), 2 * (1 - kb), 1 - kr - kb
    # straight to where they belong: what is read and written takes the time
    torch.add(y, cr, alpha=of_cr, out=red)
    torch.add(y, cb, alpha=of_cb, out=blue)
    torch.sub(y, cr, alpha=of_cr * kr / kg, out=green).sub_(cb, alpha=of_cb * kb / kg)
    return rgb.to(dtype)


def from_rgb(rgb: Tensor, info: VideoInfo) -> tuple[Tensor, ...]:
    """Convert RGB to planes, rounding to the nearest code.

    Args:
        rgb: (N, 3, H, W), any floating dtype, black 0, white 1, gamma as it shall be stored.
        info: Size, subsampling, depth, matrix and range of the planes.

    Returns:
        Y, U, V (Y alone for gray; G, B, R for RGB), each (N, rows, columns), torch.uint8 up to
        8 bits, torch.uint16 above, clamped to 0..2^bits-1 only: head- and footroom are kept.
    """
    black, luma_span, neutral, chroma_span = _code_levels(info)
    if info.color.matrix == "rgb" and info.chroma_shift is not None:
        codes = _quantise(rgb[:, [1, 2, 0]].to(torch.float32) * luma_span + black, info.bits)
        return codes.unbind(dim=1)
    # gray of an RGB video has weights too, whose sum alone matters
    kr, kb = LUMA_WEIGHTS.get(info.color.matrix, LUMA_WEIGHTS["bt709"])
    red, green, blue = rgb.to(torch.float32).unbind(dim=1)
    y = (kr * red).add_(green, alpha=1 - kr - kb).add_(blue, alpha=kb)
    if info.chroma_shift is None:
        return (_quantise(y.mul_(luma_span).add_(black), info.bits),)
    chroma = y.new_empty(len(y), 2, *y.shape[1:])
    for target, color, weight in zip(chroma.unbind(dim=1), (blue, red), (kb, kr), strict=True):
        torch.sub(color, y, out=target).mul_(chroma_span / (2 * (1 - weight)))
    luma = _quantise(y.mul_(luma_span).add_(black), info.bits)
    chroma = _downsample(chroma, info).add_(neutral)
    return (luma, *_quantise(chroma, info.bits).unbind(dim=1))


def brightness(frame: Frame, info: VideoInfo) -> tuple[Plane, int]:
    """Tell how bright each sample of a frame is, (rows, columns) of codes, and the code of black.

    It is luma or, of RGB, the greatest of the three.
    """
    planes = frame.planes if info.color.matrix == "rgb" else frame.planes[:1]
    return reduce(np.maximum, planes), _code_levels(info)[0]


def _code_levels(info: VideoInfo) -> tuple[int, int, int, int]:
    """Codes of black and of neutral chroma, and what 1 spans (ITU-T H.273, section 8.3)."""
    if info.color.full_range:
        white = 2**info.bits - 1
        return 0, white, 2 ** (info.bits - 1), white
    scale = 2 ** (info.bits - 8)
    return 16 * scale, 219 * scale, 128 * scale, 224 * scale


def _levels(codes: Tensor, zero: int, span: int) -> Tensor:
    """Codes as shares of what 1 spans, float32."""
    return codes.to(torch.float32).sub_(zero).div_(span)


def _quantise(codes: Tensor, bits: int) -> Tensor:
    """Round half up and clamp to the codes there are."""
    codes = (codes + 0.5).floor_().clamp_(0, 2**bits - 1)
    return codes.to(torch.uint8 if bits <= 8 else torch.uint16)


def _upsample(chroma: Tensor, info: VideoInfo) -> Tensor:
    """(N, 2, rows, columns) of chroma to (N, 2, H, W): bilinear, edges repeated."""
    across, along = info.chroma_shift or (0, 0)
    on_column, on_row = _ON_LUMA[info.color.siting]
    for shift in reversed(range(across)):
        chroma = _double(chroma, 3, on_column)[..., : -(-info.width >> shift)]
    for shift in reversed(range(along)):
        chroma = _double(chroma, 2, on_row)[..., : -(-info.height >> shift), :]
    return chroma


def _double(image: Tensor, dim: int, on_luma: bool) -> Tensor:
    """Interpolate along a dimension to twice as many samples."""
    shape, last = image.shape, image.shape[dim] - 1
    pairs = image.new_empty(*shape[: dim + 1], 2, *shape[dim + 1 :])
    even, odd = pairs.unbind(dim + 1)
    lower, upper = image.narrow(dim, 0, last), image.narrow(dim, 1, last)
    if on_luma:
        even.copy_(image)
    else:
        torch.lerp(upper, lower, 0.25, out=even.narrow(dim, 1, last))
        even.select(dim, 0).copy_(image.select(dim, 0))
    torch.lerp(lower, upper, 0.5 if on_luma else 0.25, out=odd.narrow(dim, 0, last))
    odd.select(dim, last).copy_(image.select(dim, last))
    return pairs.flatten(dim, dim + 1)


def _downsample(chroma: Tensor, info: VideoInfo) -> Tensor:
    """(N, 2, H, W) to (N, 2, rows, columns), exactly undoing `_upsample`, odd sizes included."""
    across, along = info.chroma_shift or (0, 0)
    on_column, on_row = _ON_LUMA[info.color.siting]
    for _ in range(across):
        chroma = _halve(chroma, -1, on_column)
    for _ in range(along):
        chroma = _halve(chroma, -2, on_row)
    return chroma


def _halve(image: Tensor, dim: int, on_luma: bool) -> Tensor:
    """Filter along a dimension and keep every second sample, ceil(size / 2) of them.

    Beyond the edge lies the edge's sample again or, for chroma between luma samples, the
    picture mirrored about its border: whichever makes the filter undo the upsampling there too.
    """
    taps = _DOWN_ON if on_luma else _DOWN_BETWEEN
    size = image.shape[dim]
    half = (size + 1) // 2
    lead = (len(taps) - 1) // 2
    beyond = torch.arange(size, 2 * half - 2 + len(taps) - lead, device=image.device)
    index = beyond if on_luma else 2 * size - 1 - beyond
    before = [image.narrow(dim, 0, 1)] * lead
    after = image.index_select(dim, index.clamp(0, size - 1))
    extended = torch.cat([*before, image, after], dim).transpose(dim, -1)
    terms = [extended[..., k : k + 2 * half - 1 : 2] for k in range(len(taps))]
    total = terms[0] * taps[0]
    for term, weight in zip(terms[1:], taps[1:], strict=True):
        total.add_(term, alpha=weight)
    return total.transpose(dim, -1)
