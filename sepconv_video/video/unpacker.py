"""From decoded pictures to planes: exact where possible, else converted, with a note."""

import re
from pathlib import Path
from typing import NamedTuple

import av
from av.video.reformatter import VideoReformatter

from sepconv_video.errors import VideoError
from sepconv_video.frames import Plane
from sepconv_video.video import formats
from sepconv_video.video.faults import quoted
from sepconv_video.video.formats import ACCURATE
from sepconv_video.video.matrices import MATRICES, guessed_matrix, matrix_note

# swscale knows fewer matrices than H.273: 170M (6) is 601 (5), constant luminance (10) is 2020 (9)
_SWS_BY_TAG = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_SWS_MATRICES = {"bt601": 5, "bt709": 1}
_RANGES = {1: "limited", 2: "full"}


class Form(NamedTuple):
    """What must be the same for all pictures of a video."""

    width: int
    height: int
    pix_fmt: str
    matrix: int
    """As swscale numbers it."""
    signal_range: int
    """1 limited, 2 full."""


class Unpacker:
    """Turns decoded pictures into planes, converting those that are not planar.

    Attributes:
        pix_fmt: Format of the planes.
        layout: Its layout.
        notes: What is converted or dropped, one line each.
    """

    def __init__(self, first: av.VideoFrame, path: Path) -> None:
        """Prepare for pictures like `first`; `path` is for messages."""
        self._path = path
        self._expected = form_of(first)
        source = first.format.name
        twin = formats.planar_twin(source)
        self.pix_fmt = twin or formats.closest_planar(source)
        layout = formats.layout_of(self.pix_fmt)
        assert layout is not None  # both functions above name planar formats
        self.layout = layout
        self.notes: list[str] = []
        if formats.has_alpha(source):
            self.notes.append(f"alpha channel dropped: `{source}` has one, the output has none")
        if twin is None:
            self.notes.append(f"pixel format `{source}` converted to `{self.pix_fmt}`")
        # without their last plane, formats with alpha are those without
        self._is_planar = re.sub("^yuv[aj]", "yuv", source.replace("gbrap", "gbrp")) == self.pix_fmt
        self._is_rgb = formats.is_rgb(first.format)
        self.notes += [note for note in (matrix_note(first),) if note]
        self._reformatter = VideoReformatter()
        self._fitter = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> tuple[Plane, ...]:
        """Give a picture's planes.

        One of another form than the first, as after a change in mid-stream, is made like it.

        Raises:
            VideoError: If it cannot be converted.
        """
        form = form_of(picture, self._expected)
        if form != self._expected:
            picture = self._fitted(picture, form)
        if not self._is_planar:
            picture = self._convert(picture)
        return formats.planes_of(picture, self.layout)

    def _fitted(self, picture: av.VideoFrame, form: Form) -> av.VideoFrame:
        """Scale and convert a picture to the first one's size, format, matrix and range."""
        wanted = self._expected
        try:
            return self._fitter.reformat(
                picture,
                width=wanted.width,
                height=wanted.height,
                format=wanted.pix_fmt,
                interpolation=ACCURATE,
                src_colorspace=form.matrix,
                dst_colorspace=wanted.matrix,
                src_color_range=form.signal_range,
                dst_color_range=wanted.signal_range,
            )
        except (av.FFmpegError, ValueError) as fault:
            raise VideoError(
                f"cannot go on with `{self._path}`: the picture changes {change(wanted, form)}",
                "cut the file where it changes and process the parts one by one",
            ) from fault

    def _convert(self, picture: av.VideoFrame) -> av.VideoFrame:
        try:
            if self._is_rgb:
                # whatever its tags say: samples are put in another order, nothing else
                return self._reformatter.reformat(
                    picture,
                    format=self.pix_fmt,
                    interpolation=ACCURATE,
                    src_color_range=2,
                    dst_color_range=2,
                )
            return self._reformatter.reformat(picture, format=self.pix_fmt, interpolation=ACCURATE)
        except (av.FFmpegError, ValueError) as fault:
            raise VideoError(
                f"cannot read `{self._path}`: pixel format `{picture.format.name}` cannot be "
                "converted to planes",
                f"convert it first, e.g. `ffmpeg -i {quoted(self._path)} -pix_fmt yuv420p new.mkv`",
            ) from fault


def form_of(picture: av.VideoFrame, before: Form | None = None) -> Form:
    """Find a picture's form; what is not tagged is as `before`, or else what players guess."""
    width, height, name = picture.width, picture.height, picture.format.name
    if formats.is_rgb(picture.format):
        return Form(width, height, name, _SWS_MATRICES["bt709"], 2)
    matrix = _SWS_BY_TAG.get(int(picture.colorspace))
    if matrix is None:
        matrix = before.matrix if before else _SWS_MATRICES[guessed_matrix(width, height)]
    signal_range = 2 if name.startswith("yuvj") else int(picture.color_range)
    return Form(width, height, name, matrix, signal_range or (before.signal_range if before else 1))


def change(before: Form, after: Form) -> str:
    """Say for the user what changed."""
    if before[:3] == after[:3]:
        words = [
            f"{MATRICES[form.matrix]}, {_RANGES[form.signal_range]}" for form in (before, after)
        ]
    else:
        words = [f"{form.width}x{form.height} {form.pix_fmt}" for form in (before, after)]
    return f"from {words[0]} to {words[1]}"
