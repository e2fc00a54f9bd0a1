import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from sepconv_video.color import download, from_rgb, to_rgb, upload
from sepconv_video.frames import ColorSpec, Frame, VideoInfo

MATRICES = ("bt601", "bt709", "bt2020", "fcc", "smpte240m")
SITINGS = ("left", "center", "topleft", "top")
SHIFTS = {
    "420": (1, 1),
    "422": (1, 0),
    "444": (0, 0),
    "440": (0, 1),
    "411": (2, 0),
    "410": (2, 2),
    "gray": None,
}
SIZES = [(16, 12), (17, 13), (18, 14), (19, 15), (17, 12), (16, 13), (1, 1), (2, 1), (1, 2), (3, 3)]
SWS_MATRIX = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
    "fcc": Colorspace.FCC,
    "smpte240m": Colorspace.SMPTE240M,
}
# In levels; above 10 bits swscale's 15-bit coefficients, not ours, are what differs: see
# `test_from_rgb_is_the_formula`. On the way to 12 bits of full-range YUV it is 2 off in places.
TOLERANCE = {8: 1, 10: 1, 12: 1, 16: 24}
ACCURATE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def make_info(size=(16, 12), layout="420", bits=8, matrix="bt709", full_range=False, siting="left"):
    return VideoInfo(
        path=Path("made.mkv"),
        width=size[0],
        height=size[1],
        pix_fmt=f"yuv{layout}p",
        bits=bits,
        chroma_shift=SHIFTS[layout],
        color=ColorSpec(matrix=matrix, full_range=full_range, siting=siting),
        time_base=Fraction(1, 25),
        rate=Fraction(25),
        frame_count_from_header=None,
        sample_aspect_ratio=None,
    )


def random_planes(info, count=2, seed=0):
    """Any code there is, in or out of range and gamut."""
    rng = np.random.default_rng(seed)
    shapes = [(info.height, info.width)]
    if info.chroma_shift is not None:
        across, along = info.chroma_shift
        shapes += 2 * [(-(-info.height >> along), -(-info.width >> across))]
    dtype = np.uint8 if info.bits <= 8 else np.uint16
    return tuple(
        torch.from_numpy(rng.integers(0, 2**info.bits, (count, *shape)).astype(dtype))
        for shape in shapes
    )


def difference(planes, others):
    return [(p.int() - o.int()).numpy() for p, o in zip(planes, others, strict=True)]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("layout", SHIFTS)
@pytest.mark.parametrize("size", SIZES)
def test_there_and_back_is_the_identity(size, layout, bits, full_range):
    for matrix, siting in zip((*MATRICES, "rgb"), itertools.cycle(SITINGS)):
        if matrix == "rgb" and layout != "444":
            continue
        info = make_info(size, layout, bits, matrix, full_range, siting)
        planes = random_planes(info)
        back = from_rgb(to_rgb(planes, info), info)
        assert [b.dtype for b in back] == [p.dtype for p in planes]
        for error in difference(planes, back):
            assert not error.any()


def test_half_precision_is_unbiased_and_within_a_level():
    for bits in (8, 10):
        info = make_info((320, 180), "420", bits)
        planes = random_planes(info)
        for error in difference(planes, from_rgb(to_rgb(planes, info, torch.float16), info)):
            assert abs(error).max() <= 1
            assert abs(error.mean()) < 0.05


def test_real_frames_come_back_untouched(shared):
    for path in sorted((shared / "data" / "val").glob("*.mp4"))[:3]:
        with av.open(path) as container:
            image = next(container.decode(video=0))
        array, height = image.to_ndarray(format="yuv420p"), image.height
        chroma = array[height:].reshape(2, height // 2, image.width // 2)
        planes = tuple(torch.from_numpy(p.copy())[None] for p in (array[:height], *chroma))
        info = make_info((image.width, height), matrix="bt601")
        for error in difference(planes, from_rgb(to_rgb(planes, info), info)):
            assert not error.any()
        for error in difference(planes, from_rgb(to_rgb(planes, info, torch.float16), info)):
            assert abs(error).max() <= 1
            assert abs(error.mean()) < 0.05


@pytest.mark.parametrize("matrix", MATRICES)
def test_grey_stays_grey_and_white_is_one(matrix):
    for full_range, black, white in ((False, 16, 235), (True, 0, 255)):
        info = make_info(matrix=matrix, full_range=full_range)
        for code, level in ((black, 0.0), (white, 1.0)):
            planes = tuple(
                torch.full_like(plane, value)
                for plane, value in zip(random_planes(info), (code, 128, 128), strict=True)
            )
            rgb = to_rgb(planes, info)
            torch.testing.assert_close(rgb, torch.full_like(rgb, level), atol=1e-6, rtol=0)


def test_beyond_white_is_kept_and_beyond_the_codes_is_clamped():
    info = make_info(layout="444")
    planes = tuple(torch.full((1, 12, 16), code, dtype=torch.uint8) for code in (255, 128, 128))
    assert to_rgb(planes, info).min() > 1.09
    bright, _, _ = from_rgb(torch.full((1, 3, 12, 16), 9.0), info)
    dark, _, _ = from_rgb(torch.full((1, 3, 12, 16), -9.0), info)
    assert bright.unique().tolist() == [255]
    assert dark.unique().tolist() == [0]


def test_rounds_half_up():
    info = make_info((4, 1), "gray", full_range=True)
    levels = torch.tensor([0.49, 0.5, 1.5, 254.5]) / 255
    (luma,) = from_rgb(levels.expand(1, 3, 1, 4), info)
    assert luma.flatten().tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize("layout", ["420", "422", "411", "410"])
@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("size", SIZES)
def test_every_siting_there_and_back_is_the_identity(size, siting, layout):
    for bits, full_range in ((8, False), (12, True)):
        info = make_info(size, layout, bits, "bt2020", full_range, siting)
        planes = random_planes(info)
        for error in difference(planes, from_rgb(to_rgb(planes, info), info)):
            assert not error.any()


# Position of the first chroma sample in luma samples, across and along: H.273 figures 1 and 8.
POSITIONS = {"left": (0, 0.5), "center": (0.5, 0.5), "topleft": (0, 0), "top": (0.5, 0)}


@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("size", [(16, 12), (17, 13), (2, 1)])
def test_chroma_is_interpolated_where_it_lies(size, siting):
    """Against linear interpolation written with positions."""
    info = make_info(size, "420", matrix="bt601", full_range=True, siting=siting)
    planes = list(random_planes(info, count=1))
    planes[0].zero_()
    rgb = to_rgb(planes, info)
    cr = (planes[2][0].double().numpy() - 128) / 255
    rows, columns = cr.shape
    across, along = POSITIONS[siting]
    x, y = (np.arange(info.width) - across) / 2, (np.arange(info.height) - along) / 2
    wide = np.stack([np.interp(x, np.arange(columns), row) for row in cr])
    whole = np.stack([np.interp(y, np.arange(rows), column) for column in wide.T]).T
    np.testing.assert_allclose(rgb[0, 0].numpy(), 2 * (1 - 0.299) * whole, atol=1e-6)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("layout", ["420", "422"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_subsampled_chroma_agrees_with_swscale(matrix, layout, bits, full_range):
    """On a smooth picture, whose chroma hardly depends on the filter; swscale means `center`."""
    info = make_info((64, 48), layout, bits, matrix, full_range, "center")
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    waves = [torch.sin(x / 20 + k) * torch.cos(y / 17 - k) for k in range(3)]
    white = white_of_swscale(bits)
    dtype = np.uint8 if bits == 8 else np.uint16
    codes = ((0.5 + 0.4 * torch.stack(waves)) * white).round().numpy().astype(dtype)
    suffix = "" if bits == 8 else f"{bits}le"
    theirs = swscale(codes[[1, 2, 0]], f"gbrp{suffix}", f"yuv{layout}p{suffix}", info)
    ours = from_rgb(torch.from_numpy(codes / white)[None], info)
    for plane, other in zip(ours, theirs, strict=True):
        rows, columns = plane.shape[1:]
        inner = (slice(2, rows - 2), slice(2, columns - 2))
        error = plane[0].int().numpy()[inner] - other[:, :columns].astype(int)[inner]
        assert abs(error).max() <= 1 << (bits - 8)


def test_rgb_planes_are_only_scaled():
    for bits, full_range, black, white in ((8, True, 0, 255), (10, False, 64, 940)):
        info = make_info((3, 1), "444", bits, "rgb", full_range)
        codes = torch.tensor([[black, white, (black + white) // 2]])[None]
        planes = tuple(codes.roll(k, -1).to(torch.uint16) for k in range(3))
        green, blue, red = (to_rgb(planes, info)[0, channel, 0] for channel in (1, 2, 0))
        for k, channel in enumerate((green, blue, red)):
            wanted = ((planes[k][0, 0].double() - black) / (white - black)).float()
            torch.testing.assert_close(channel, wanted)


@pytest.mark.parametrize("layout", ["420", "422"])
def test_flat_and_sloping_colour_survives_going_down(layout):
    """A slope over the luma grid becomes the same slope at the chroma samples."""
    info = make_info((32, 24), layout, bits=16, full_range=True)
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    slope = 0.2 + x / 100 + y / 200
    rgb = torch.stack([slope, torch.full_like(slope, 0.5), torch.full_like(slope, 0.5)])[None]
    cr = from_rgb(rgb, info)[2][0].float() / 65535 - 0.5
    kr = 0.2126
    rows = torch.arange(12.0) * 2 + 0.5 if layout == "420" else torch.arange(24.0)
    at = 0.2 + torch.arange(16.0)[None] * 2 / 100 + rows[:, None] / 200
    expected = (at - (kr * at + (1 - kr) * 0.5)) / (2 * (1 - kr))
    inner = (slice(2, -2), slice(2, -2))
    torch.testing.assert_close(cr[inner], expected[inner], atol=2e-5, rtol=0)


def swscale(planes, source, target, info):
    """swscale's accurate conversion of three full-size planes, in the order of the target."""
    image = av.VideoFrame(info.width, info.height, source)
    for plane, array in zip(image.planes, planes, strict=True):
        rows = np.zeros((info.height, plane.line_size // array.itemsize), array.dtype)
        rows[:, : info.width] = array
        plane.update(rows)
    full = ColorRange.JPEG
    yuv = full if info.color.full_range else ColorRange.MPEG
    matrix = SWS_MATRIX[info.color.matrix]
    made = VideoReformatter().reformat(
        image,
        format=target,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=yuv if source.startswith("yuv") else full,
        dst_color_range=yuv if target.startswith("yuv") else full,
        interpolation=ACCURATE,
    )
    dtype = np.uint8 if info.bits <= 8 else np.uint16
    return [
        np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        for plane in made.planes
    ]


def formats(bits):
    suffix = "" if bits == 8 else f"{bits}le"
    return f"yuv444p{suffix}", f"gbrp{suffix}"


def white_of_swscale(bits):
    """The RGB code swscale takes for white where it rescales: it knows 8-bit factors only.

    H.273 says 2^bits - 1. That is 3 levels more at 10 bits, but only within swscale's RGB.
    """
    return 255 * 2 ** (bits - 8)


def random_rgb():
    return torch.from_numpy(np.random.default_rng(1).uniform(0.01, 0.98, (1, 3, 48, 64)))


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("matrix", MATRICES)
def test_to_rgb_agrees_with_swscale(matrix, bits, full_range):
    info = make_info((64, 48), "444", bits, matrix, full_range)
    planes = from_rgb(random_rgb(), info)
    expected = swscale([p[0].numpy() for p in planes], *formats(bits), info)
    white = 2**bits - 1 if full_range else white_of_swscale(bits)
    ours = (to_rgb(planes, info)[0] * white + 0.5).floor().int().numpy()
    for channel, theirs in zip((1, 2, 0), expected, strict=True):
        assert abs(ours[channel] - theirs.astype(int)).max() <= TOLERANCE[bits]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("matrix", MATRICES)
def test_from_rgb_agrees_with_swscale(matrix, bits, full_range):
    info = make_info((64, 48), "444", bits, matrix, full_range)
    white = white_of_swscale(bits)
    dtype = np.uint8 if bits == 8 else np.uint16
    codes = (random_rgb()[0] * white).round().numpy().astype(dtype)
    expected = swscale(codes[[1, 2, 0]], *reversed(formats(bits)), info)
    ours = from_rgb(torch.from_numpy(codes / white)[None], info)
    tolerance = TOLERANCE[bits] + (bits == 12 and full_range)
    for plane, theirs in zip(ours, expected, strict=True):
        assert abs(plane[0].int().numpy() - theirs.astype(int)).max() <= tolerance


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize(
    ("matrix", "kr", "kb"), [("bt601", 0.299, 0.114), ("bt709", 0.2126, 0.0722)]
)
def test_from_rgb_is_the_formula(matrix, kr, kb, bits, full_range):
    """The nearest code to what ITU-T H.273, section 8.3, gives in double precision."""
    info = make_info((64, 48), "444", bits, matrix, full_range)
    rgb = random_rgb()
    red, green, blue = rgb[0].numpy()
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    top, one = 2**bits - 1, 2 ** (bits - 8)
    black, span, chroma = (0, top, top) if full_range else (16 * one, 219 * one, 224 * one)
    wanted = [
        luma * span + black,
        (blue - luma) / (2 * (1 - kb)) * chroma + 128 * one,
        (red - luma) / (2 * (1 - kr)) * chroma + 128 * one,
    ]
    for plane, exact in zip(from_rgb(rgb, info), wanted, strict=True):
        assert abs(plane[0].int().numpy() - exact).max() <= 0.501


@pytest.mark.parametrize("bits", [8, 16])
def test_upload_and_download_are_inverse(bits):
    info = make_info((17, 13), bits=bits)
    planes = [tuple(p[k].numpy() for p in random_planes(info)) for k in range(2)]
    frames = [Frame(index=k, pts=k, duration=1, planes=p) for k, p in enumerate(planes)]
    frames[0].planes[0].flags.writeable = False  # as buffers of a decoder may be
    uploaded = upload(frames, "cpu")
    assert [tuple(p.shape) for p in uploaded] == [(2, 13, 17), (2, 7, 9), (2, 7, 9)]
    for frame, arrays in zip(frames, download(uploaded), strict=True):
        for plane, array in zip(frame.planes, arrays, strict=True):
            assert array.dtype == plane.dtype
            assert array.flags.c_contiguous
            np.testing.assert_array_equal(array, plane)
