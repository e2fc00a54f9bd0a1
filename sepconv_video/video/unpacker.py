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
from sepconv_video.video.matrices import matrix_note


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
        self._expected = (first.width, first.height, first.format.name)
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

    def __call__(self, picture: av.VideoFrame) -> tuple[Plane, ...]:
        """Give a picture's planes.

        Raises:
            VideoError: If its size or format is not that of the first picture.
        """
        found = (picture.width, picture.height, picture.format.name)
        if found != self._expected:
            raise VideoError(
                f"cannot go on with `{self._path}`: the picture changes from "
                f"{_shape(self._expected)} to {_shape(found)}",
                "cut the file where it changes and treat the parts one by one",
            )
        if not self._is_planar:
            picture = self._convert(picture)
        return formats.planes_of(picture, self.layout)

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


def _shape(form: tuple[int, int, str]) -> str:
    return f"{form[0]}x{form[1]} {form[2]}"
