"""Pixel formats: which planes a format has, and the way in and out of PyAV's frames.

Everything here is exact: a format either goes through bit by bit (`layout_of`,
`planar_twin`) or into one that holds every value of it (`widen`). What cannot be exact,
such as RGB of 5 bits, is named by `closest_planar` and converted by the reader, which says so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from sepconv_video.frames import Plane

ACCURATE = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
"""How swscale converts what cannot be kept exactly."""

# log2 of the subsampling across and along, in the order in which `wider_formats` tries them
_SUBSAMPLING = {
    "410": (2, 2),
    "420": (1, 1),
    "411": (2, 0),
    "422": (1, 0),
    "440": (0, 1),
    "444": (0, 0),
}
_YUV = re.compile(r"yuv(a?)j?(420|422|444|440|411|410)p(9|10|12|14|16)?(?:le|be)?")
_GRAY = re.compile(r"(?:gray|ya)(8|9|10|12|14|16)?(?:le|be)?")
_RGB = re.compile(r"gbra?p(9|10|12|14|16)?(?:le|be)?")
_PACKED_RGB = re.compile(r"(?:rgb|bgr)(24|48)(?:le|be)?|(?:rgba|bgra)(64)(?:le|be)")
_SEMI_PLANAR = re.compile(r"p([024])(10|12|16)(?:le|be)")
_REORDERED = {
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "nv16": "yuv422p",
    "nv24": "yuv444p",
    "nv42": "yuv444p",
    "yuyv422": "yuv422p",
    "yvyu422": "yuv422p",
    "uyvy422": "yuv422p",
    "y210le": "yuv422p10le",
    "y212le": "yuv422p12le",
    "pal8": "gbrp",
    "x2rgb10le": "gbrp10le",
    "x2bgr10le": "gbrp10le",
} | dict.fromkeys(("rgb0", "bgr0", "0rgb", "0bgr", "rgba", "bgra", "argb", "abgr"), "gbrp")


@dataclass(frozen=True, slots=True)
class Layout:
    """The planes of a format: bits per sample and log2 of the chroma subsampling."""

    bits: int
    chroma_shift: tuple[int, int] | None
    is_rgb: bool = False

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type of the samples in a numpy plane."""
        return np.uint8 if self.bits == 8 else np.uint16

    def shapes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each plane; odd sizes round up."""
        if self.chroma_shift is None:
            return ((height, width),)
        across, down = self.chroma_shift
        chroma = (-(-height >> down), -(-width >> across))
        return ((height, width), chroma, chroma)


def layout_of(pix_fmt: str) -> Layout | None:
    """Describe a planar format that frames may have; None for every other format."""
    if planar_twin(pix_fmt) != pix_fmt:
        return None
    if pix_fmt.startswith("gray"):
        return Layout(int(re.sub(r"\D", "", pix_fmt) or 8), None)
    if match := _RGB.fullmatch(pix_fmt):
        return Layout(int(match[1] or 8), (0, 0), is_rgb=True)
    match = _YUV.fullmatch(pix_fmt)
    return Layout(int(match[3] or 8), _SUBSAMPLING[match[2]]) if match else None


def planar_twin(pix_fmt: str) -> str | None:
    """Name the planar little-endian format with the same samples, alpha left out.

    Returns:
        The format itself where it is planar already; None where there is no such twin.
    """
    if match := _YUV.fullmatch(pix_fmt):
        return _named(f"yuv{match[2]}p", match[3])
    if match := _GRAY.fullmatch(pix_fmt):
        return _named("gray", match[1])
    if match := _RGB.fullmatch(pix_fmt):
        return _named("gbrp", match[1])
    if match := _PACKED_RGB.fullmatch(pix_fmt):
        return "gbrp" if match[1] == "24" else "gbrp16le"
    if match := _SEMI_PLANAR.fullmatch(pix_fmt):
        return _named(f"yuv42{match[1]}p".replace("424", "444"), match[2])
    return _REORDERED.get(pix_fmt)


def closest_planar(pix_fmt: str) -> str:
    """Name the format nearest to one without a planar twin: RGB stays RGB, others are 4:4:4."""
    described = av.VideoFormat(pix_fmt)
    deepest = max(component.bits for component in described.components)
    depth = 8 if deepest <= 8 else 10 if deepest <= 10 else 12 if deepest <= 12 else 16
    return _named("gbrp" if described.is_rgb else "yuv444p", f"{depth}")


def is_rgb(video_format: av.VideoFormat) -> bool:
    """Tell whether the samples are red, green and blue, in a palette or not."""
    return video_format.is_rgb or video_format.has_palette


def has_alpha(pix_fmt: str) -> bool:
    """Tell whether a format carries transparency (a palette may, and counts)."""
    video_format = av.VideoFormat(pix_fmt)
    return video_format.has_palette or any(part.is_alpha for part in video_format.components)


def planes_of(frame: av.VideoFrame, layout: Layout) -> tuple[Plane, ...]:
    """Copy a decoded frame's planes, exactly, without the padding at the ends of rows."""
    shapes = layout.shapes(frame.width, frame.height)
    return tuple(
        cast(Plane, _samples(frame.planes[number], shape, layout).copy())
        for number, shape in enumerate(shapes)
    )


def frame_of(planes: Sequence[Plane], pix_fmt: str, layout: Layout) -> av.VideoFrame:
    """Put planes, exactly, into a new frame for an encoder.

    Args:
        planes: Y, U, V or Y alone; Y gives the frame its size.
        pix_fmt: Format of the frame, whose layout is `layout`.
        layout: Layout of `planes`; those of a larger picture would not fit.

    Raises:
        ValueError: If a plane's shape is not what the format asks for.
    """
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pix_fmt)
    for number, (plane, shape) in enumerate(zip(planes, layout.shapes(width, height), strict=True)):
        if plane.shape != shape:
            raise ValueError(f"plane {number} is {plane.shape}, {pix_fmt} asks for {shape}")
        _samples(frame.planes[number], shape, layout)[:] = plane
    return frame


def widen(
    planes: Sequence[Plane], source: Layout, target: Layout, *, full_range: bool
) -> tuple[Plane, ...]:
    """Put planes into a deeper or less subsampled layout that holds every value of them.

    Chroma is repeated, never blended, and gray gets neutral chroma: taking every second
    sample again gives back the planes bit by bit.
    """
    height, width = planes[0].shape
    shapes = target.shapes(width, height)
    wide = [
        _deepen(plane, source.bits, target.bits, _zero(number, source) if full_range else None)
        for number, plane in enumerate(planes)
    ]
    if source.chroma_shift is None:
        neutral = 1 << (target.bits - 1)
        wide += [np.full(shape, neutral, target.dtype) for shape in shapes[1:]]
    elif target.chroma_shift is not None:
        across = source.chroma_shift[0] - target.chroma_shift[0]
        down = source.chroma_shift[1] - target.chroma_shift[1]
        wide[1:] = [plane.repeat(1 << down, 0).repeat(1 << across, 1) for plane in wide[1:]]
    return tuple(
        cast(Plane, plane[: shape[0], : shape[1]].astype(target.dtype, copy=False))
        for plane, shape in zip(wide, shapes, strict=True)
    )


def wider_formats(pix_fmt: str) -> list[str]:
    """List the formats `widen` can reach, the format itself first, the nearest next."""
    layout = layout_of(pix_fmt)
    if layout is None:
        return []
    found = []
    for bits in (bits for bits in (8, 9, 10, 12, 14, 16) if bits >= layout.bits):
        depth = f"{bits}"
        if layout.is_rgb:
            found.append(_named("gbrp", depth))
            continue
        if layout.chroma_shift is None:
            found.append(_named("gray", depth))
        for name, (across, down) in _SUBSAMPLING.items():
            shift = layout.chroma_shift or (1, 1)
            if across <= shift[0] and down <= shift[1]:
                found.append(_named(f"yuv{name}p", depth))
    return found


def _named(base: str, depth: str | None) -> str:
    return base if depth in (None, "", "8") else f"{base}{depth}le"


def _samples(
    plane: av.video.plane.VideoPlane, shape: tuple[int, int], layout: Layout
) -> npt.NDArray[np.generic]:
    """View a plane as (rows, columns) of samples; writing to it writes to the frame."""
    rows, columns = shape
    line = abs(plane.line_size)
    item = np.dtype(layout.dtype).itemsize
    raw = np.frombuffer(memoryview(plane), np.uint8)[: rows * line].reshape(rows, line)
    if plane.line_size < 0:  # stored bottom up
        raw = raw[::-1]
    samples: npt.NDArray[np.generic] = raw[:, : columns * item].view(layout.dtype)
    return samples


def _zero(number: int, layout: Layout) -> int:
    """Give the value that means zero in plane `number`: neutral for chroma, else black."""
    return 1 << (layout.bits - 1) if number and not layout.is_rgb else 0


def _deepen(plane: Plane, bits: int, wanted: int, zero: int | None) -> npt.NDArray[np.generic]:
    """Raise the depth: by a shift in limited range (`zero` None), to the new top in full range."""
    if bits == wanted:
        return plane
    wide = plane.astype(np.int64)
    if zero is None:
        return (wide << (wanted - bits)).astype(np.uint16)
    top, new_top = (1 << bits) - 1, (1 << wanted) - 1
    scaled = ((wide - zero) * new_top * 2 + top) // (2 * top) + (zero << (wanted - bits))
    return np.clip(scaled, 0, new_top).astype(np.uint16)
