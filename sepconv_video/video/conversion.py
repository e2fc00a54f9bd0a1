"""Planes into a format that cannot hold all of them, because the user or the codec wants it."""

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph

from sepconv_video.frames import ColorSpec, Plane, VideoInfo
from sepconv_video.video.formats import Layout, frame_of, layout_of

# swscale knows factors for 8 bits only: of 16 bits of RGB it takes this, not 65535, for white
_WHITE_OF_SWSCALE = 255 * 256
_ACCURATE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


class Conversion:
    """Converts all frames of a video, source and new ones alike, by FFmpeg's `scale` filter.

    The filter and not PyAV's reformatter, which knows no chroma siting: it would move the
    colours of 4:2:0 by half a luma sample.
    """

    def __init__(self, info: VideoInfo, pix_fmt: str, color: ColorSpec) -> None:
        """Prepare for planes as `info` describes, to become `pix_fmt` with the colours `color`."""
        layout = layout_of(info.pix_fmt)
        assert layout is not None  # frames are planar
        self._pix_fmt, self._layout, self._top = info.pix_fmt, layout, 0
        if layout.is_rgb and layout.bits > 8 and color.matrix != "rgb":
            self._pix_fmt, self._layout = "gbrp16le", Layout(16, (0, 0), is_rgb=True)
            self._top = (1 << layout.bits) - 1
        graph = Graph()
        source = graph.add_buffer(
            width=info.width,
            height=info.height,
            format=av.VideoFormat(self._pix_fmt, info.width, info.height),
            time_base=Fraction(1),
        )
        scale = graph.add("scale", _options(info.color, color))
        wanted = graph.add("format", f"pix_fmts={pix_fmt}")
        graph.link_nodes(source, scale, wanted, graph.add("buffersink")).configure()
        self._graph = graph

    def __call__(self, planes: Sequence[Plane]) -> av.VideoFrame:
        """Convert one frame."""
        if self._top:
            scaled = (plane * np.float64(_WHITE_OF_SWSCALE / self._top) for plane in planes)
            planes = [cast(Plane, np.rint(plane).astype(np.uint16)) for plane in scaled]
        picture = frame_of(planes, self._pix_fmt, self._layout)
        picture.pts, picture.time_base = 0, Fraction(1)
        self._graph.vpush(picture)
        return self._graph.vpull()


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
