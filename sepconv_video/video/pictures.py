"""Still pictures: read to and written from RGB arrays, through the same library as videos."""

import os
import secrets
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import Picture
from sepconv_video.video.faults import translated
from sepconv_video.video.formats import ACCURATE, Layout, frame_of, is_rgb
from sepconv_video.video.source import (
    display_matrix_of,
    open_source,
    reject_giant,
    why_without_size,
)

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
WRITTEN = tuple(_ENCODERS)
"""The suffixes of pictures that can be written."""
_DEEP = {".png": "rgb48be", ".tif": "rgb48le", ".tiff": "rgb48le"}
"""Formats for more than 8 bits."""
_BT601 = 5


def is_picture(path: Path | str) -> bool:
    """Tell by its suffix whether a file is a still picture that can be written."""
    return Path(path).suffix.lower() in _ENCODERS


def is_deep(suffix: str) -> bool:
    """Tell whether the format of a suffix holds 16 bits per sample."""
    return suffix.lower() in _DEEP


def read_picture(path: Path | str, *, deep: bool = False) -> Picture:
    """Read a picture as it is meant to be seen, turned upright.

    Transparency is dropped. Where a photograph says that it is mirrored (cameras turn pictures,
    but hardly ever mirror them) it stays so.

    Args:
        path: File to read.
        deep: Whether samples of more than 8 bits become 16, not 8.

    Returns:
        (H, W, 3), RGB, uint8 or, only with `deep`, uint16.

    Raises:
        VideoError: If there is no picture that can be read.
    """
    path = Path(path)
    with open_source(path) as container:
        frame = None
        if container.streams.video:
            stream = container.streams.video[0]
            reject_giant(stream, path)
            if why := why_without_size(stream):
                raise VideoError(f"cannot read `{path}`: {why}", "name a complete picture")
            with translated("read", path, "name a complete picture"):
                frame = next(container.decode(stream), None)
        if frame is None:
            raise VideoError(f"cannot read `{path}`: there is no picture in it", "name a picture")
        with translated("read", path):
            return upright(_rgb_of(frame, deep=deep), display_matrix_of(frame))


def _rgb_of(frame: av.VideoFrame, *, deep: bool) -> Picture:
    """Convert a picture to RGB of 8 bits, or 16.

    To 8 by way of 16 bits, as swscale divides by 256, not 257, and rounds up: half a level too
    bright. Not so YUV of limited range, which it converts rightly, but whose white of 16 bits is
    too dark.
    """
    parts = frame.format.components
    is_limited = len(parts) > 2 and not is_rgb(frame.format) and frame.color_range != 2
    has_16 = max(part.bits for part in parts) > 8 and not is_limited
    rgb = VideoReformatter().reformat(
        frame,
        format="rgb48le" if has_16 else "rgb24",
        interpolation=ACCURATE,
        # JPEG and WebP are BT.601 and seldom say so
        src_colorspace=_BT601 if frame.colorspace == 2 else None,
        src_color_range=frame.color_range,
        dst_color_range=2,
    )
    samples = rgb.to_ndarray()
    if has_16 and not deep:
        samples = ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return cast(Picture, samples)


def write_picture(path: Path | str, rgb: Picture) -> None:
    """Write a picture in the format its suffix names; all but JPEG are lossless.

    It appears complete, over an older one, or not at all.

    Args:
        path: File to write, ending in .png, .jpg, .webp, .bmp or .tif.
        rgb: (H, W, 3), RGB, uint8, or uint16 where the format `is_deep`.

    Raises:
        OptionsError: If the suffix names no such format.
        VideoError: If the file cannot be written.
    """
    path = Path(path)
    if not is_picture(path):
        raise OptionsError(
            f"cannot write `{path}`: accepted endings of pictures are {', '.join(WRITTEN)}",
            f"choose another name, e.g. `{path.stem or 'middle'}.png`",
        )
    pix_fmt = "rgb24" if rgb.dtype == np.uint8 else "rgb48le"
    frame = av.VideoFrame.from_ndarray(cast(Picture, np.ascontiguousarray(rgb)), pix_fmt)
    with translated("write", path):
        _replace(path, encode_picture(frame, path.suffix))


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside the one it is to replace, and only then rename it over that."""
    # a short name of its own, since the target's may be as long as names can be
    new = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        write_synced(new, content)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file so that it survives a loss of power."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def encode_picture(rgb: av.VideoFrame, suffix: str) -> bytes:
    """Encode an RGB frame in the format of a suffix, with 16 bits per sample if it has them.

    Raises:
        av.FFmpegError: It cannot be encoded.
    """
    codec, pix_fmt, options = _ENCODERS[suffix.lower()]
    if rgb.format.name != "rgb24":
        pix_fmt = _DEEP[suffix.lower()]
    context = VideoCodecContext.create(codec, "w")
    assert isinstance(context, VideoCodecContext)
    context.height, context.width = rgb.height, rgb.width
    context.pix_fmt = pix_fmt
    context.time_base = cast(Any, 1)
    context.options = options
    frame = rgb
    if pix_fmt == "yuvj444p":
        frame = frame_of(_jpeg_planes(cast(Picture, rgb.to_ndarray())), pix_fmt, Layout(8, (0, 0)))
        frame.color_range = 2
    elif pix_fmt != rgb.format.name:
        frame = VideoReformatter().reformat(rgb, format=pix_fmt)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def _jpeg_planes(rgb: Picture) -> list[Picture]:
    """Convert to full-range BT.601 (JFIF 1.02); swscale's chroma is half a level too low here."""
    matrix = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
        np.float32,
    )
    ycc = rgb.astype(np.float32) @ matrix.T + np.array([0, 128, 128], np.float32)
    rounded = np.clip(np.rint(ycc), 0, 255).astype(np.uint8)
    return [rounded[..., number] for number in range(3)]


def upright(rgb: Picture, matrix: tuple[int, ...] | None) -> Picture:
    """Turn and mirror an RGB array as the camera noted: x' = a x + c y, y' = b x + d y."""
    if matrix is None:
        return rgb
    a, b, _, c, d = matrix[:5]
    across, down = a, d
    if abs(b) > abs(a):
        rgb = rgb.transpose(1, 0, 2)
        across, down = c, b
    rgb = rgb[:, ::-1] if across < 0 else rgb
    return cast(Picture, np.ascontiguousarray(rgb[::-1] if down < 0 else rgb))
