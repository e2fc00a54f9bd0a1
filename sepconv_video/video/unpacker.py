"""From decoded pictures to planes: exact where possible, else converted, with a note."""

from pathlib import Path

import av
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from sepconv_video.errors import VideoError
from sepconv_video.frames import Plane
from sepconv_video.video import formats
from sepconv_video.video.faults import quoted

_ACCURATE = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


class Unpacker:
    """Turns decoded pictures into planes, converting those that are not planar YUV.

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
        self._is_planar = source.replace("yuvj", "yuv") == self.pix_fmt or (
            source.startswith("yuva") and source.replace("yuva", "yuv") == self.pix_fmt
        )
        # only RGB changes its matrix and range; samples of YUV must stay what they are
        self._is_rgb = first.format.is_rgb or first.format.has_palette
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
                return self._reformatter.reformat(
                    picture,
                    format=self.pix_fmt,
                    interpolation=_ACCURATE,
                    dst_colorspace=Colorspace.ITU709,
                    src_color_range=2,
                    dst_color_range=1,
                )
            return self._reformatter.reformat(picture, format=self.pix_fmt, interpolation=_ACCURATE)
        except (av.FFmpegError, ValueError) as fault:
            raise VideoError(
                f"cannot read `{self._path}`: pixel format `{picture.format.name}` cannot be "
                "converted to YUV",
                f"convert it first, e.g. `ffmpeg -i {quoted(self._path)} -pix_fmt yuv420p new.mkv`",
            ) from fault


def _shape(form: tuple[int, int, str]) -> str:
    return f"{form[0]}x{form[1]} {form[2]}"
