"""From decoded pictures to planes: exact where possible, else converted, with a note."""

import re
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter

from sepconv_video.errors import VideoError
from sepconv_video.frames import Plane
from sepconv_video.video import formats
from sepconv_video.video.faults import quoted
from sepconv_video.video.formats import ACCURATE
from sepconv_video.video.light import dynamic_notes
from sepconv_video.video.matrices import guessed_matrix, matrix_note

# swscale knows fewer matrices than H.273: 170M (6) is 601 (5), constant luminance (10) is 2020 (9)
_SWS_BY_TAG = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_SWS_MATRICES = {"bt601": 5, "bt709": 1}

Form = tuple[int, int, str]
"""Width, height and pixel format of a picture."""


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
        self._coding = _coding_of(first)
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
        self.notes += dynamic_notes(first)
        self._reformatter = VideoReformatter()
        self._fitter = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> tuple[Plane, ...]:
        """Give a picture's planes.

        One of another size or format than the first, as after a change in mid-stream, is made
        like it.

        Raises:
            VideoError: If it cannot be converted.
        """
        if form_of(picture) != self._expected:
            picture = self._fitted(picture)
        if not self._is_planar:
            picture = self._convert(picture)
        return formats.planes_of(picture, self.layout)

    def _fitted(self, picture: av.VideoFrame) -> av.VideoFrame:
        """Scale and convert a picture to the first one's size, format, matrix and range."""
        (width, height, pix_fmt), (matrix, signal_range) = self._expected, self._coding
        own_matrix, own_range = _coding_of(picture)
        try:
            return self._fitter.reformat(
                picture,
                width=width,
                height=height,
                format=pix_fmt,
                interpolation=ACCURATE,
                src_colorspace=own_matrix,
                dst_colorspace=matrix,
                src_color_range=own_range,
                dst_color_range=signal_range,
            )
        except (av.FFmpegError, ValueError) as fault:
            raise VideoError(
                f"cannot go on with `{self._path}`: the picture changes from "
                f"{named(self._expected)} to {named(form_of(picture))}",
                "cut the file where it changes and treat the parts one by one",
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


def form_of(picture: av.VideoFrame) -> Form:
    """Give a picture's width, height and pixel format."""
    return picture.width, picture.height, picture.format.name


def named(form: Form) -> str:
    """Name a form for the user."""
    return f"{form[0]}x{form[1]} {form[2]}"


def _coding_of(picture: av.VideoFrame) -> tuple[int, int]:
    """Find matrix and range as swscale numbers them; where untagged, as players guess."""
    if picture.format.is_rgb or picture.format.has_palette:
        return _SWS_MATRICES["bt709"], 2
    guess = _SWS_MATRICES[guessed_matrix(picture.width, picture.height)]
    is_full = picture.format.name.startswith("yuvj") or int(picture.color_range) == 2
    return _SWS_BY_TAG.get(int(picture.colorspace), guess), 2 if is_full else 1
