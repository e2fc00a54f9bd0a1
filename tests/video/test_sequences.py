"""Numbered pictures: found, read as a video, and painted from one with the right colours."""

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import picture

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.frames import ColorSpec, Frame, Reading, VideoInfo
from sepconv_video.numbered import files_like, is_pattern, pictures_at, pictures_in
from sepconv_video.video import Encoding, Reader, Track, container_for, measure, write_picture
from sepconv_video.video.formats import layout_of


def level(number, size=(20, 30)):
    return np.full((*size, 3), number, np.uint8)


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def test_a_pattern_means_the_names_written_like_it(tmp_path):
    touch(tmp_path, "a002.png", "a010.png", "a1.png", "a0003.png", "b001.png", "a004.jpg")
    assert list(files_like(tmp_path / "a%03d.png")) == [2, 10]
    assert list(files_like(tmp_path / "a%d.png")) == [1]
    touch(tmp_path, "100%_7.png", "a1234.png")
    assert list(files_like(tmp_path / "100%%_%d.png")) == [7]
    assert list(files_like(tmp_path / "a%03d.png")) == [2, 10, 1234]


def test_what_is_no_pattern(tmp_path):
    assert not is_pattern(Path("clip%d.mp4"))
    assert not is_pattern(Path("100%.png"))
    assert not is_pattern(Path("a%d_%d.png"))
    assert not is_pattern(Path("a%s.png"))
    assert not is_pattern(tmp_path / f"%d{'a' * 300}.png")  # too long for any file
    assert is_pattern(tmp_path / "%05d.PNG")
    touch(tmp_path, "%05d.PNG")
    assert not is_pattern(tmp_path / "%05d.PNG")


def test_a_folder_is_counted_as_people_do(tmp_path):
    touch(tmp_path, "a10.png", "a2.png", "a1.png", ".hidden.png", "notes.txt")
    assert [path.name for path in pictures_in(tmp_path)] == ["a1.png", "a2.png", "a10.png"]
    touch(tmp_path, "thumbnail.jpg")
    with pytest.raises(OptionsError, match=r"several kinds, \.jpg \.png") as caught:
        pictures_at(tmp_path)
    assert "%05d.jpg" in caught.value.hint


def test_missing_pictures_are_explained(tmp_path):
    with pytest.raises(VideoError, match="no picture has such a name"):
        Reader(tmp_path / "%05d.png")
    with pytest.raises(VideoError, match="no such file"):
        Reader(tmp_path / "missing" / "%05d.png")
    with pytest.raises(VideoError, match="it is a folder"):
        Reader(tmp_path)


def test_pictures_are_a_video_of_the_rate_asked_for(tmp_path):
    for number in range(4):
        write_picture(tmp_path / f"{number + 7:03d}.png", level(40 * number))
    rate = Fraction(24000, 1001)
    for source in (tmp_path / "%03d.png", tmp_path):
        with Reader(source, Reading(rate=rate)) as reader:
            frames = list(reader.frames())
            assert (reader.info.rate, reader.info.path) == (rate, source)
            assert reader.info.frame_count_from_header == 4
            assert reader.damage is None
        times = [frame.pts * reader.info.time_base * rate for frame in frames]
        assert times == [0, 1, 2, 3]
        assert frames[-1].duration * reader.info.time_base == 1 / rate
        means = [frame.planes[0].mean() for frame in frames]
        assert means == sorted(means)
        assert means[0] < means[-1]
    extent = measure(tmp_path / "%03d.png")
    assert (extent.frames, extent.pixels) == (4, 600)


def test_equal_pictures_are_read_equal(tmp_path):
    """FFmpeg's PNG decoder takes what is not marked as a key frame for a difference."""
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", level(200))
    with Reader(tmp_path) as reader:
        first, *others = reader.frames()
    for other in others:
        for plane, same in zip(other.planes, first.planes, strict=True):
            np.testing.assert_array_equal(plane, same)


def test_a_gap_in_the_numbers_keeps_its_time_and_is_told(tmp_path):
    for number in (1, 2, 4, 7):
        write_picture(tmp_path / f"{number}.png", level(number))
    with Reader(tmp_path / "%d.png") as reader:
        assert [frame.pts for frame in reader.frames()] == [0, 1, 3, 6]
        assert reader.damage == "3 numbers missing among the pictures"


def test_a_broken_picture_is_left_out_and_told(tmp_path):
    for number in range(5):
        write_picture(tmp_path / f"{number}.png", level(number))
    (tmp_path / "2.png").write_bytes(b"no picture at all")
    (tmp_path / "3.png").unlink()
    (tmp_path / "3.png").mkdir()
    with Reader(tmp_path / "%d.png") as reader:
        assert [frame.pts for frame in reader.frames()] == [0, 1, 4]
        assert reader.damage == "2 pictures could not be decoded"


def test_a_picture_of_another_size_is_made_like_the_first(tmp_path):
    write_picture(tmp_path / "1.png", level(1))
    write_picture(tmp_path / "2.png", level(2, (30, 30)))
    with Reader(tmp_path) as reader:
        found = list(reader.frames())
    assert [frame.planes[0].shape for frame in found] == [(20, 30)] * 2
    assert found[1].begins_shot
    assert any("30x20" in note and "30x30" in note for note in reader.notes)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "dpx", "exr"])
def test_all_formats_are_read(tmp_path, suffix):
    # one call a picture: FFmpeg would write one animated WebP
    for number in (1, 2):
        make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"color=c=0x{number}05030:s=32x16"]
        one = tmp_path / f"{number:05d}.{suffix}"
        subprocess.run([*make, "-frames:v", "1", str(one)], check=True)
    with Reader(tmp_path / f"%05d.{suffix}") as reader:
        frames = list(reader.frames())
        assert (reader.info.width, reader.info.height) == (32, 16)
    assert len(frames) == 2
    assert reader.damage is None
    assert any((a != b).any() for a, b in zip(*(f.planes for f in frames), strict=True))


SPACES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def info_of(pix_fmt, matrix, full, *, width=48, height=32, display=None):
    layout = layout_of(pix_fmt)
    return VideoInfo(
        path=Path("a.mp4"),
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        bits=layout.bits,
        chroma_shift=layout.chroma_shift,
        color=ColorSpec(matrix=matrix, full_range=full),
        time_base=Fraction(1, 25),
        rate=Fraction(25),
        frame_count_from_header=None,
        sample_aspect_ratio=None,
        display_matrix=display,
    )


def painted(planes, info, target="o%d.png"):
    """RGB, in levels of its own depth, of a frame as a track makes it for a picture."""
    encoding = Encoding(container=container_for(Path(target)))
    track = Track(info, time_base=info.time_base, rate=info.rate, encoding=encoding)
    picture = track.picture(Frame(index=0, pts=0, duration=1, planes=planes), 0, 1)
    return picture, picture.to_ndarray()


def exact_rgb(planes, bits, matrix, full):
    """H.273 equations 24 to 38, in levels of the pictures' depth (8 or 16)."""
    top, scale = (1 << bits) - 1, 1 << (bits - 8)
    y, cb, cr = (plane.astype(np.float64) for plane in planes)
    if full:
        y, cb, cr = y / top, (cb - 128 * scale) / top, (cr - 128 * scale) / top
    else:
        y = (y - 16 * scale) / (219 * scale)
        cb, cr = ((c - 128 * scale) / (224 * scale) for c in (cb, cr))
    kr, kb = SPACES[matrix]
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.stack([r, g, b], -1), 0, 1) * (255 if bits == 8 else 65535)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", list(SPACES))
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_pictures_have_the_videos_colours(bits, matrix, full):
    suffix = "" if bits == 8 else f"{bits}le"
    rng, top = np.random.default_rng(bits), 1 << bits
    kind = np.uint8 if bits == 8 else np.uint16
    planes = tuple(rng.integers(top // 16, top - top // 16, (32, 48)).astype(kind) for _ in "yuv")
    _, found = painted(planes, info_of(f"yuv444p{suffix}", matrix, full))
    assert found.dtype == (np.uint8 if bits == 8 else np.uint16)
    error = found.astype(float) - exact_rgb(planes, bits, matrix, full)
    one = 1 if bits == 8 else 65535 / (top - 1)  # one level of the source
    assert np.abs(error).max() <= 1.5 * one
    assert abs(error.mean()) <= 0.1 * one


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le"])
def test_gray_pictures_heed_the_range(pix_fmt, full):
    layout = layout_of(pix_fmt)
    kind, scale = (np.uint8, 1) if layout.bits == 8 else (np.uint16, 4)
    ramp = np.tile(np.linspace(16, 235, 48) * scale, (32, 1)).astype(kind)
    _, found = painted((ramp,), info_of(pix_fmt, "bt601", full))
    neutral = np.full_like(ramp, 128 * scale)
    expected = exact_rgb((ramp, neutral, neutral), layout.bits, "bt601", full)
    assert np.abs(found - expected).max() <= (1 if layout.bits == 8 else 64)


@pytest.mark.parametrize("pix_fmt", ["gbrp", "gbrp16le"])
def test_rgb_frames_go_into_pictures_bit_by_bit(pix_fmt):
    planes = tuple(picture(3, 48, 32, pix_fmt))
    _, found = painted(planes, info_of(pix_fmt, "rgb", True))
    green, blue, red = planes
    np.testing.assert_array_equal(found, np.stack([red, green, blue], axis=-1))


ONE = 1 << 16


@pytest.mark.parametrize(
    ("display", "turn"),
    [
        ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), np.rot90),
        ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 2)),
    ],
)
def test_pictures_are_written_upright(display, turn):
    planes = tuple(plane for plane in np.random.default_rng(0).integers(0, 255, (3, 32, 48), "u1"))
    _, lying = painted(planes, info_of("yuv444p", "bt709", False))
    _, upright = painted(planes, info_of("yuv444p", "bt709", False, display=display))
    np.testing.assert_array_equal(upright, turn(lying))


def test_formats_of_eight_bits_say_what_they_drop():
    info = info_of("yuv444p10le", "bt709", False)
    for target, pix_fmt, is_told in (("a%d.jpg", "rgb24", True), ("a%d.tif", "rgb48be", False)):
        encoding = Encoding(container=container_for(Path(target)))
        track = Track(info, time_base=info.time_base, rate=info.rate, encoding=encoding)
        assert bool(track.note) == is_told
        planes = tuple(np.zeros((32, 48), np.uint16) for _ in "yuv")
        assert painted(planes, info, target)[0].format.name == pix_fmt


def test_one_picture_holds_no_video_and_pictures_no_codec():
    with pytest.raises(OptionsError, match="a single picture holds no video") as caught:
        container_for(Path("out.png"))
    assert "out%05d.png" in caught.value.hint
    info = info_of("yuv420p", "bt709", False)
    encoding = Encoding(codec="libx264", container="png")
    with pytest.raises(OptionsError, match="have no effect on numbered pictures"):
        Track(info, time_base=info.time_base, rate=info.rate, encoding=encoding)


def test_hostile_names_open_nothing_else(tmp_path):
    """A playlist named like a picture must not make FFmpeg read what it lists."""
    secret = tmp_path / "secret.png"
    write_picture(secret, level(9))
    (tmp_path / "1.png").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    with pytest.raises(VideoError, match="list of other files"):
        Reader(tmp_path / "%d.png")
    assert av.open(str(secret)).streams.video[0].width == 30
