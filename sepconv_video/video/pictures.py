"""Still pictures: read to and written from RGB arrays, through the same library as videos."""

from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.video.faults import translated
from sepconv_video.video.source import open_source

Picture = npt.NDArray[np.uint8]

# suffix -> encoder, its pixel format and settings
_ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    ".png": ("png", "rgb24", {}),
    ".jpg": ("mjpeg", "yuvj444p", {"qmin": "1", "qmax": "2"}),
    ".jpeg": ("mjpeg", "yuvj444p", {"qmin": "1", "qmax": "2"}),
    ".webp": ("libwebp", "bgra", {"lossless": "1"}),
    ".bmp": ("bmp", "bgr24", {}),
    ".tif": ("tiff", "rgb24", {}),
    ".tiff": ("tiff", "rgb24", {}),
}
_ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_BT601 = 5


def is_picture(path: Path | str) -> bool:
    """Tell by its suffix whether a file is a still picture."""
    return Path(path).suffix.lower() in _ENCODERS


def read_picture(path: Path | str) -> Picture:
    """Read a picture as it is meant to be seen, turned upright.

    Samples of more than 8 bits are reduced to 8; transparency is dropped.

    Returns:
        (H, W, 3), RGB, uint8.

    Raises:
        VideoError: If there is no picture that can be read.
    """
    path = Path(path)
    with open_source(path) as container:
        frame = None
        if container.streams.video:
            with translated("read", path):
                frame = next(container.decode(container.streams.video[0]), None)
        if frame is None:
            raise VideoError(f"cannot read `{path}`: there is no picture in it", "name a picture")
        with translated("read", path):
            rgb = VideoReformatter().reformat(
                frame,
                format="rgb24",
                interpolation=_ACCURATE,
                # JPEG and WebP are BT.601 and seldom say so
                src_colorspace=_BT601 if frame.colorspace == 2 else None,
                src_color_range=frame.color_range,
                dst_color_range=2,
            )
            return _upright(cast(Picture, rgb.to_ndarray()), frame.rotation)


def write_picture(path: Path | str, rgb: Picture) -> None:
    """Write a picture in the format its suffix names; all but JPEG are lossless.

    Args:
        path: File to write, ending in .png, .jpg, .webp, .bmp or .tif.
        rgb: (H, W, 3), RGB, uint8.

    Raises:
        OptionsError: If the suffix names no such format.
        VideoError: If the file cannot be written.
    """
    path = Path(path)
    if not is_picture(path):
        raise OptionsError(
            f"cannot write `{path}`: accepted endings of pictures are {', '.join(_ENCODERS)}",
            f"choose another name, e.g. `{path.stem or 'middle'}.png`",
        )
    codec, pix_fmt, options = _ENCODERS[path.suffix.lower()]
    with translated("write", path):
        path.write_bytes(_encode(rgb, codec, pix_fmt, options))


def _encode(rgb: Picture, codec: str, pix_fmt: str, options: dict[str, str]) -> bytes:
    context = VideoCodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    context.height, context.width = rgb.shape[:2]
    context.pix_fmt = pix_fmt
    context.time_base = cast(Any, 1)
    context.options = options
    frame = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24"),
        format=pix_fmt,
        interpolation=_ACCURATE,
        dst_colorspace=_BT601,
        src_color_range=2,
        dst_color_range=2,
    )
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def _upright(rgb: Picture, degrees: int) -> Picture:
    """Turn by the rotation a camera noted, counter-clockwise, in quarters."""
    return np.ascontiguousarray(np.rot90(rgb, round(degrees / 90) % 4))
