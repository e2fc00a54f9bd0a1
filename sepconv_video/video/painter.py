"""From the frames of a video to RGB pictures: the same conversion for source and new frames."""

from dataclasses import replace
from typing import cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from sepconv_video.frames import ColorSpec, VideoInfo
from sepconv_video.video.pictures import ACCURATE, Picture, is_deep, upright

_SPACES = {"bt709": 1, "bt601": 5, "bt2020": 9}
"""Numbers that swscale has for the matrices."""
_RGB, _FULL = 0, 2


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
        self._color, self._matrix = info.color, info.display_matrix
        self._reformatter = VideoReformatter()
        self.info = _upright_info(info)

    def __call__(self, picture: av.VideoFrame) -> av.VideoFrame:
        """Convert with the matrix and range of the video, and turn upright."""
        times = picture.pts, picture.duration, picture.time_base
        if not picture.format.is_rgb:
            painted = self._reformatter.reformat(
                picture,
                format=self.pix_fmt,
                interpolation=ACCURATE,
                src_colorspace=_SPACES.get(self._color.matrix),
                src_color_range=2 if self._color.full_range else 1,
                dst_color_range=_FULL,
            )
        else:
            painted = self._reformatter.reformat(picture, format=self.pix_fmt)
        if self._matrix is not None:
            turned = upright(cast(Picture, painted.to_ndarray()), self._matrix)
            painted = av.VideoFrame.from_ndarray(np.ascontiguousarray(turned), self.pix_fmt)
        painted.pts, painted.duration, painted.time_base = times
        painted.colorspace, painted.color_range = _RGB, _FULL
        painted.color_primaries = self._color.primaries_tag
        painted.color_trc = self._color.transfer_tag
        return painted


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
