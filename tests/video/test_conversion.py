"""Conversions that are asked for, against H.273's numbers."""

from dataclasses import replace

import numpy as np
import pytest
from clips import picture
from test_sequences import info_of

from sepconv_video.video.conversion import Conversion
from sepconv_video.video.formats import layout_of, planes_of

LIMITED_RGB = {"matrix": "rgb", "full_range": True}


def converted(planes, info, pix_fmt, **color):
    made = Conversion(info, pix_fmt, replace(info.color, **color))(planes)
    assert made.format.name == pix_fmt
    return planes_of(made, layout_of(pix_fmt))


def flat(info, *codes):
    """Planes of one value each; `codes` are of 8 bits."""
    layout = layout_of(info.pix_fmt)
    shapes = layout.shapes(info.width, info.height)
    scale = 1 << (layout.bits - 8)
    return [np.full(s, c * scale, layout.dtype) for s, c in zip(shapes, codes, strict=True)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("suffix", ["", "10le", "12le"])
@pytest.mark.parametrize("family", ["yuv420p", "yuv444p"])
def test_gray_of_a_video_is_its_luma(family, suffix, full):
    info = info_of(family + suffix, "bt709", full)
    planes = picture(0, info.width, info.height, info.pix_fmt)
    (luma,) = converted(planes, info, "gray" + suffix)
    np.testing.assert_array_equal(luma, planes[0])


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray16le"])
@pytest.mark.parametrize("given", ["yuv420p", "yuv422p10le", "yuv444p12le", "gray14le"])
def test_gray_of_another_depth_has_the_range_that_is_tagged(given, pix_fmt):
    info = info_of(given, "bt709", False)
    for code in (16, 100, 235):
        planes = flat(info, *[code, 128, 128][: 1 if given == "gray14le" else 3])
        (luma,) = converted(planes, info, pix_fmt)
        assert np.all(luma == code << (layout_of(pix_fmt).bits - 8))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "gbrp"])
def test_gray_of_limited_range_becomes_colour(pix_fmt):
    info = info_of("gray10le", "bt709", False)
    color = LIMITED_RGB if pix_fmt == "gbrp" else {}
    found = converted(flat(info, 235), info, pix_fmt, **color)
    expected = [255, 255, 255] if color else [235, 128, 128]
    assert [plane.flat[0] for plane in found] == expected


def test_gray_of_rgb_is_limited_as_its_tag_says():
    info = info_of("gbrp", "rgb", True)
    (luma,) = converted(flat(info, 255, 255, 255), info, "gray", matrix="bt709", full_range=False)
    assert np.all(luma == 235)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["gbrp10le", "gbrp12le", "gbrp16le"])
@pytest.mark.parametrize("given", ["yuv420p", "yuv420p10le", "yuv444p12le"])
def test_white_is_white_in_deep_rgb(given, pix_fmt, full):
    info = info_of(given, "bt709", full)
    planes = flat(info, 255 if full else 235, 128, 128)
    if full:
        planes[0][:] = (1 << info.bits) - 1
    found = converted(planes, info, pix_fmt, **LIMITED_RGB)
    assert np.all(np.stack(found) == (1 << layout_of(pix_fmt).bits) - 1)
