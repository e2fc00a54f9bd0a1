"""Still pictures: written and read again, and refused with a reason."""

import errno
import os

import av
import numpy as np
import pytest

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.video import is_picture, read_picture, write_picture
from sepconv_video.video.pictures import upright


def colours(height=49, width=65):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // 64, y * 255 // 48, (x + y) * 255 // 112], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_formats_are_exact(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, colours())
    np.testing.assert_array_equal(read_picture(path), colours())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_close_and_unbiased(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, colours())
    error = read_picture(path).astype(int) - colours()
    assert np.abs(error).max() <= 6
    assert abs(error.mean()) < 0.3


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / f"{'a' * 251}.png"
    write_picture(path, colours())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VideoError, match=r"a\.png`: no space left"):
        write_picture(path, 255 - colours())
    np.testing.assert_array_equal(read_picture(path), colours())
    assert list(tmp_path.iterdir()) == [path]


def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_array_that_is_not_contiguous_is_written(tmp_path):
    write_picture(tmp_path / "a.png", colours()[::2, ::-1])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), colours()[::2, ::-1])


@pytest.mark.parametrize("pix_fmt", ["rgb48be", "rgba64be", "gray16be"])
def test_sixteen_bits_become_eight(tmp_path, pix_fmt):
    """Each is rounded to the nearest level."""
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    deep = np.stack([ramp] * 3, -1)
    frame = av.VideoFrame.from_ndarray(deep, "rgb48le").reformat(format=pix_fmt)
    if pix_fmt == "gray16be":
        frame = av.VideoFrame.from_ndarray(ramp, pix_fmt)
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 256, 256, pix_fmt, 1
    (tmp_path / "a.png").write_bytes(b"".join(bytes(p) for p in context.encode(frame)))
    found = read_picture(tmp_path / "a.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.rint(deep / 257))


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (None, lambda p: p),
        ((ONE, 0, 0, 0, ONE, 0, 0, 0, ONE), lambda p: p),
        ((-ONE, 0, 0, 0, ONE, 0, 0, 0, ONE), lambda p: p[:, ::-1]),
        ((ONE, 0, 0, 0, -ONE, 0, 0, 0, ONE), lambda p: p[::-1]),
        ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, ONE), lambda p: np.rot90(p, 2)),
        ((0, -ONE, 0, ONE, 0, 0, 0, 0, ONE), np.rot90),
        ((0, ONE, 0, -ONE, 0, 0, 0, 0, ONE), lambda p: np.rot90(p, -1)),
        ((0, ONE, 0, ONE, 0, 0, 0, 0, ONE), lambda p: p.transpose(1, 0, 2)),
    ],
)
def test_orientation_is_applied(matrix, expected):
    np.testing.assert_array_equal(upright(colours(), matrix), expected(colours()))


def test_is_picture_goes_by_the_suffix():
    assert is_picture("a.PNG")
    assert is_picture("b.jpeg")
    assert not is_picture("c.mp4")
    assert not is_picture("png")


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(OptionsError, match=r"accepted endings of pictures are \.png"):
        write_picture(tmp_path / "a.xyz", colours())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", None, "no such file"),
        ("a.png", b"", "0 bytes"),
        ("a.png", b"this is not a picture " * 30, "cannot read"),
    ],
)
def test_unreadable_pictures_are_explained(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=reason) as caught:
        read_picture(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_an_unwritable_folder_is_explained(tmp_path):
    with pytest.raises(VideoError, match="no such file or folder"):
        write_picture(tmp_path / "missing" / "a.png", colours())


def test_real_photographs_are_read(shared):
    path = min((shared / "data" / "images").glob("*.jpg"))
    found = read_picture(path)
    assert found.ndim == 3
    assert 10 < found.mean() < 245
