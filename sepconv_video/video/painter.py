"""From the frames of a video to RGB pictures: the same conversion for source and new frames."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import av
from av.video.reformatter import VideoReformatter

from sepconv_video.errors import OptionsError
from sepconv_video.frames import ColorSpec, Picture, Plane, VideoInfo
from sepconv_video.video.conversion import Conversion
from sepconv_video.video.encoders import Encoding, Form, Plan
from sepconv_video.video.formats import frame_of, layout_of
from sepconv_video.video.pictures import is_deep, upright

_RGB, _FULL = 0, 2
"""Tags of pictures: the matrix of RGB, and FFmpeg's number of the full range."""


def picture_plan(info: VideoInfo, encoding: Encoding, container: str) -> Plan:
    """Decide how to store pictures: without a loss, segments hold PNG whatever is made of it.

    Raises:
        OptionsError: Something is asked for that only videos have.
    """
    if encoding.codec or encoding.crf is not None or encoding.preset or encoding.pix_fmt:
        raise OptionsError(
            f"`--codec`, `--crf`, `--preset` and `--pix-fmt` have no effect on numbered pictures "
            f"(`.{container}`)",
            "leave them out: the suffix of the name chooses the format",
        )
    layout = layout_of(info.pix_fmt)
    assert layout is not None  # the reader gives planar formats only
    deep = info.bits > 8 and is_deep(f".{container}")
    lost = "" if deep or info.bits == 8 else f"{info.bits} bits per sample reduced to 8"
    return Plan(
        codec="png",
        form=Form(pix_fmt=info.pix_fmt, stored_as="rgb48be" if deep else "rgb24"),
        layout=layout,
        color=replace(
            info.color, matrix="rgb", full_range=True, colorspace_tag=_RGB, range_tag=_FULL
        ),
        note=lost and f"{lost}, as {container} holds no more; png and tif do",
    )


class Painter:
    """Turns the planes of a video into upright RGB pictures, all of them in the same way.

    Attributes:
        info: The video's description as it is after that.
    """

    def __init__(self, info: VideoInfo, plan: Plan) -> None:
        """Paint the planes of `info`, in the plan's layout, into the format it stores."""
        self._form, self._layout = plan.form, plan.layout
        self._turn = info.display_matrix
        self._reformatter = VideoReformatter()
        self._conversion = None
        if not plan.layout.is_rgb:
            self._conversion = Conversion(info, plan.form.stored_as, plan.color)
        self.info = _upright_info(info, plan.color)

    def __call__(self, planes: Sequence[Plane]) -> av.VideoFrame:
        """Convert with the matrix and range of the video, and turn upright."""
        painted = self._paint(planes)
        if self._turn is None:
            return painted
        turned = upright(cast(Picture, painted.to_ndarray()), self._turn)
        return av.VideoFrame.from_ndarray(turned, self._form.stored_as)

    def _paint(self, planes: Sequence[Plane]) -> av.VideoFrame:
        if self._conversion is not None:
            picture = self._conversion(planes)
        else:
            picture = frame_of(planes, self._form.pix_fmt, self._layout)
        # the same samples in another order
        return self._reformatter.reformat(picture, format=self._form.stored_as)


def _upright_info(info: VideoInfo, color: ColorSpec) -> VideoInfo:
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
        light=None,
    )
