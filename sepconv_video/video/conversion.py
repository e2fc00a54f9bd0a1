"""Planes into a format that cannot hold all of them, as the user or the codec requires."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph

from sepconv_video.frames import LUMA_WEIGHTS, ColorSpec, Plane, VideoInfo
from sepconv_video.video.formats import Layout, frame_of, layout_of, planar_twin, planes_of, widen

# swscale knows factors for 8 bits only: of 16 bits of RGB it takes this, not 65535, for white
_WHITE_OF_SWSCALE = 255 * 256
_ACCURATE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


class Conversion:
    """Converts all frames of a video, source and new ones alike, by FFmpeg's `scale` filter.

    The filter and not PyAV's reformatter, which knows no chroma siting: it would move the
    colours of 4:2:0 by half a luma sample. It takes all gray for full range whatever it is
    told, so it is given, and asked for, 4:4:4 instead.
    """

    def __init__(self, info: VideoInfo, pix_fmt: str, color: ColorSpec) -> None:
        """Prepare for planes as `info` describes, to become `pix_fmt` with the colours `color`."""
        layout, self._twin = layout_of(info.pix_fmt), planar_twin(pix_fmt) or ""
        assert layout is not None  # frames are planar
        self._color, self._given, self._wanted = info.color, layout, layout_of(self._twin)
        self._pix_fmt, self._layout, self._top = _with_chroma(info.pix_fmt), layout, 0
        if layout.chroma_shift is None:
            self._layout = Layout(layout.bits, (0, 0))
        elif layout.is_rgb and layout.bits > 8 and color.matrix != "rgb":
            self._pix_fmt, self._layout = "gbrp16le", Layout(16, (0, 0), is_rgb=True)
            self._top = (1 << layout.bits) - 1
        options = _options(info.color, color)
        self._is_gray = self._wanted is not None and self._wanted.chroma_shift is None
        self._is_weighted = bool(
            self._wanted and self._wanted.is_rgb and self._wanted.bits > 8 and not layout.is_rgb
        )
        if self._is_gray:
            pix_fmt = _with_chroma(self._twin)
        elif self._is_weighted:  # what is limited gets more bits by a shift, exactly
            limited = replace(info.color, full_range=False)
            pix_fmt, options = "yuv444p16le", _options(limited, limited)
        self._graph = _graph(info, self._pix_fmt, pix_fmt, options)

    def __call__(self, planes: Sequence[Plane]) -> av.VideoFrame:
        """Convert one frame: to the format asked for, or its planar twin."""
        given, wanted, full_range = self._given, self._wanted, self._color.full_range
        if wanted and self._is_gray and not given.is_rgb:
            luma = _at_depth(planes[0], given.bits, wanted, full_range=full_range)
            return frame_of([luma], self._twin, wanted)
        if self._top:
            scaled = (plane * np.float64(_WHITE_OF_SWSCALE / self._top) for plane in planes)
            planes = [cast(Plane, np.rint(plane).astype(np.uint16)) for plane in scaled]
        elif self._layout != given:
            planes = widen(planes, given, self._layout, full_range=full_range)
        converted = self._scaled(planes)
        if wanted and self._is_gray:
            return frame_of(planes_of(converted, wanted), self._twin, wanted)
        if wanted and self._is_weighted:
            whole = planes_of(converted, Layout(16, (0, 0)))
            made = _weighted(whole, given.bits, self._color, wanted.bits)
            return frame_of(made, self._twin, wanted)
        return converted

    def _scaled(self, planes: Sequence[Plane]) -> av.VideoFrame:
        picture = frame_of(planes, self._pix_fmt, self._layout)
        picture.pts, picture.time_base = 0, Fraction(1)
        self._graph.vpush(picture)
        return self._graph.vpull()


def _with_chroma(pix_fmt: str) -> str:
    return pix_fmt.replace("gray", "yuv444p")


def _at_depth(plane: Plane, bits: int, wanted: Layout, *, full_range: bool) -> Plane:
    top, new_top = (1 << bits) - 1, (1 << wanted.bits) - 1
    factor = new_top / top if full_range else 2.0 ** (wanted.bits - bits)
    return cast(Plane, np.rint(plane * factor).clip(0, new_top).astype(wanted.dtype))


def _graph(info: VideoInfo, given: str, wanted: str, options: str) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=info.width,
        height=info.height,
        format=av.VideoFormat(given, info.width, info.height),
        time_base=Fraction(1),
    )
    scale, made = graph.add("scale", options), graph.add("format", f"pix_fmts={wanted}")
    graph.link_nodes(source, scale, made, graph.add("buffersink")).configure()
    return graph


def _weighted(planes: Sequence[Plane], bits: int, color: ColorSpec, wanted: int) -> list[Plane]:
    """Turn Y, Cb and Cr of `bits` bits, shifted to 16, into G, B and R of `wanted` bits.

    Where that is more than 8, swscale is up to 255 of 65535 too dark.
    """
    top = ((1 << bits) - 1) << (16 - bits)
    black, luma, chroma = (0, top, top) if color.full_range else (16 << 8, 219 << 8, 224 << 8)
    zeros, spans = (black, 128 << 8, 128 << 8), (luma, chroma, chroma)
    y, cb, cr = (
        (plane.astype(np.float32) - zero) / span
        for plane, zero, span in zip(planes, zeros, spans, strict=True)
    )
    kr, kb = LUMA_WEIGHTS[color.matrix]
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    levels = (np.clip(part, 0, 1) * ((1 << wanted) - 1) for part in (green, blue, red))
    return [cast(Plane, np.rint(part).astype(np.uint16)) for part in levels]


def _options(given: ColorSpec, wanted: ColorSpec) -> str:
    options = {
        "flags": _ACCURATE,
        "in_range": "pc" if given.full_range else "tv",
        "out_range": "pc" if wanted.full_range else "tv",
        "in_chroma_loc": given.siting,
        "out_chroma_loc": wanted.siting,
    }
    if given.matrix != "rgb":
        options["in_color_matrix"] = given.matrix
    if wanted.matrix != "rgb":
        options["out_color_matrix"] = wanted.matrix
    return ":".join(f"{name}={value}" for name, value in options.items())
