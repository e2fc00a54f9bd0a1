"""From the frames of a video to RGB pictures: the same conversion for source and new frames."""

from dataclasses import replace
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from sepconv_video.frames import ColorSpec, VideoInfo
from sepconv_video.video.formats import Layout, planes_of
from sepconv_video.video.pictures import ACCURATE, Picture, is_deep, upright

_SPACES = {"bt709": 1, "bt601": 5, "bt2020": 9}
"""Numbers that swscale has for the matrices."""
_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Weights of red and blue in luma (ITU-T H.273, table 4)."""
_RGB, _LIMITED, _FULL = 0, 1, 2


class Painter:
    """Turns the pictures of a video into upright RGB, all of them in the same way.

    Attributes:
        info: The video's description as it is after that.
        pix_fmt: `rgb24`, or `rgb48be` above 8 bits.
        note: What is lost, in one line, or an empty string.
    """

    def __init__(self, info: VideoInfo, form: str) -> None:
        """Paint the frames of `info` for pictures in a format, by its suffix without the dot."""
        is_wide = info.bits > 8 and is_deep(f".{form}")
        self.pix_fmt = "rgb48be" if is_wide else "rgb24"
        self.note = (
            f"{info.bits} bits per sample reduced to 8, as {form} holds no more; png and tif do"
            if info.bits > 8 and not is_wide
            else ""
        )
        self._bits, self._color, self._matrix = info.bits, info.color, info.display_matrix
        self._reformatter = VideoReformatter()
        self.info = _upright_info(info)

    def __call__(self, picture: av.VideoFrame) -> av.VideoFrame:
        """Convert with the matrix and range of the video, and turn upright."""
        painted = self._paint(picture)
        if self._matrix is not None:
            turned = upright(cast(Picture, painted.to_ndarray()), self._matrix)
            painted = av.VideoFrame.from_ndarray(np.ascontiguousarray(turned), self.pix_fmt)
        painted.pts, painted.duration = picture.pts, picture.duration
        painted.time_base = cast(Any, picture.time_base)
        painted.colorspace, painted.color_range = _RGB, _FULL
        painted.color_primaries = self._color.primaries_tag
        painted.color_trc = self._color.transfer_tag
        return painted

    def _paint(self, picture: av.VideoFrame) -> av.VideoFrame:
        if picture.format.is_rgb:  # the same samples in another order
            return self._reformatter.reformat(picture, format=self.pix_fmt)
        if self.pix_fmt == "rgb48be":
            return self._paint_deep(picture)
        return self._reformatter.reformat(
            picture,
            format=self.pix_fmt,
            interpolation=ACCURATE,
            src_colorspace=_SPACES.get(self._color.matrix),
            src_color_range=_FULL if self._color.full_range else _LIMITED,
            dst_color_range=_FULL,
        )

    def _paint_deep(self, picture: av.VideoFrame) -> av.VideoFrame:
        """Convert above 8 bits, where swscale is up to 255 of 65535 levels too dark (FFmpeg 8.1).

        It only brings the chroma to full size here.
        """
        wide = self._reformatter.reformat(
            picture,
            format=f"yuv444p{self._bits}le",
            interpolation=ACCURATE,
            src_color_range=_LIMITED,
            dst_color_range=_LIMITED,
        )
        top, one = (1 << self._bits) - 1, 1 << (self._bits - 8)
        black, luma, chroma = (
            (0, top, top) if self._color.full_range else (16 * one, 219 * one, 224 * one)
        )
        y, cb, cr = (
            (plane.astype(np.float32) - zero) / span
            for plane, zero, span in zip(
                planes_of(wide, Layout(self._bits, (0, 0))),
                (black, 128 * one, 128 * one),
                (luma, chroma, chroma),
                strict=True,
            )
        )
        rgb = np.empty((*y.shape, 3), np.float32)
        red, blue = _WEIGHTS[self._color.matrix]
        rgb[..., 0] = y + 2 * (1 - red) * cr
        rgb[..., 2] = y + 2 * (1 - blue) * cb
        rgb[..., 1] = (y - red * rgb[..., 0] - blue * rgb[..., 2]) / (1 - red - blue)
        levels = np.rint(np.clip(rgb, 0, 1) * 65535).astype(np.uint16)
        return av.VideoFrame.from_ndarray(levels, self.pix_fmt)


def _upright_info(info: VideoInfo) -> VideoInfo:
    color = ColorSpec(
        matrix=info.color.matrix,
        full_range=True,
        colorspace_tag=_RGB,
        range_tag=_FULL,
        primaries_tag=info.color.primaries_tag,
        transfer_tag=info.color.transfer_tag,
    )
    matrix, aspect = info.display_matrix, info.sample_aspect_ratio
    width, height = info.width, info.height
    if matrix is not None and abs(matrix[1]) > abs(matrix[0]):
        width, height, aspect = height, width, 1 / aspect if aspect else None
    return replace(
        info,
        width=width,
        height=height,
        color=color,
        sample_aspect_ratio=aspect,
        display_matrix=None,
    )
