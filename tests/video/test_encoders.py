"""Which encoder is chosen and what it is told, without encoding much."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from test_sequences import info_of

from sepconv_video.errors import OptionsError, VideoError
from sepconv_video.video.encoders import Encoding, plan
from sepconv_video.video.formats import wider_formats
from sepconv_video.video.settings import opens

NARROW = """
import sys; sys.path.insert(0, "tests/video"); sys.path.insert(0, "tests")
from fractions import Fraction
from pathlib import Path
from clips import picture
from test_sequences import info_of
from sepconv_video.frames import Frame
from sepconv_video.video import Encoding
from sepconv_video.video.segments import SegmentWriter
from sepconv_video.video.track import Track
info = info_of("yuv420p10le", "bt709", False)
track = Track(info, time_base=Fraction(1, 25), rate=Fraction(25), encoding=Encoding())
with SegmentWriter(Path(sys.argv[1]), track, Path("a")) as writer:
    for index in range(10):
        planes = tuple(picture(index, 48, 32, "yuv420p10le"))
        writer.write(Frame(index=index, pts=index, duration=1, planes=planes))
    writer.finish()
print(track.codec)
"""


def test_narrow_h265_keeps_to_its_memory(tmp_path):
    """In a process of its own, which glibc's check of the heap would end."""
    environment = os.environ | {
        "LD_PRELOAD": "libc_malloc_debug.so.0",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
    }
    made = subprocess.run(
        [sys.executable, "-c", NARROW, tmp_path / "a"],
        env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (made.returncode, made.stdout) == (0, "libx265\n"), made.stderr


def test_only_narrow_h265_is_told_so():
    info = info_of("yuv420p10le", "bt709", False)
    for width, is_told in ((48, True), (64, False)):
        params = plan(replace(info, width=width), Encoding(), "mp4").options["x265-params"]
        assert ("cutree=0" in params) == is_told


def test_av1_is_not_opened_for_small_pictures():
    info = info_of("yuv420p", "bt709", False, width=15, height=7)
    assert plan(info, Encoding(), "mp4").codec == "libvpx-vp9"
    with pytest.raises(VideoError, match="32x32 or more"):
        plan(info, Encoding(codec="libsvtav1"), "mp4")


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (15, 7), (8, 64)], ids=str)
@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le"])
def test_any_size_has_a_default(pix_fmt, size):
    info = info_of(pix_fmt, "bt709", False, width=size[0], height=size[1])
    for container in ("matroska", "avi", "nut", "mp4"):
        found = plan(info, Encoding(), container)
        assert found.codec == "ffv1"
        assert found.form.pix_fmt in wider_formats(pix_fmt)  # it has no 4:2:2 of 2x2
        assert opens("ffv1", found.form.stored_as, info, {})
        assert found.note.startswith("encoded with ffv1, which few players know")


@pytest.mark.parametrize(
    ("codec", "container", "message", "hint"),
    [
        ("huffyuv", "matroska", "cannot write `huffyuv` video into matroska", "e.g. `ffv1`"),
        ("gif", "mp4", "cannot write `gif` video into mp4", "e.g. `ffv1`"),
        ("libx264", "webm", "cannot write `libx264` video into webm", "`.mkv`, which holds"),
        ("ffv1", "mpegts", "cannot write `ffv1` video into mpegts", "`.mkv`, which holds"),
        ("aac", "matroska", "`aac` is not a video encoder but one for audio", "`libx264`"),
    ],
)
def test_codecs_that_do_not_fit(codec, container, message, hint):
    with pytest.raises(OptionsError) as caught:
        plan(info_of("yuv420p", "bt709", False), Encoding(codec=codec), container)
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_what_no_transport_stream_holds_is_no_default_for_it():
    """FFmpeg writes VP9 into it, and AV1, which nobody reads again."""
    info = info_of("yuv420p", "bt709", False, width=15, height=7)
    found = plan(info, Encoding(), "mpegts")
    assert (found.codec, found.form.pix_fmt) == ("libx264", "yuv444p")


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_crf_that_would_be_another_is_refused(codec):
    info = info_of("yuv420p", "bt709", False)
    assert plan(info, Encoding(codec=codec, crf=51), "mp4").options["crf"] == "51"
    with pytest.raises(OptionsError, match="a crf of 52 is out of bounds"):
        plan(info, Encoding(codec=codec, crf=52), "mp4")


@pytest.mark.parametrize(
    ("codec", "encoder"),
    [("h264", "libx264"), ("hevc", "libx265"), ("vp9", "libvpx-vp9"), ("av1", "libsvtav1")],
)
def test_a_codec_named_is_told_what_its_encoder_is(capfd, codec, encoder):
    info = info_of("yuv420p", "bt709", False)
    assert plan(info, Encoding(codec=codec), "mp4") == plan(info, Encoding(codec=encoder), "mp4")
    if codec != "vp9":  # which has no presets
        with pytest.raises(OptionsError, match=f"`{encoder}` has no preset `nonsense`"):
            plan(info, Encoding(codec=codec, preset="nonsense"), "mp4")
    assert capfd.readouterr().err == ""


def test_full_range_is_not_promised_in_vain():
    asked = Encoding(codec="libx264", pix_fmt="yuvj420p")
    found = plan(info_of("yuv420p", "bt709", True), asked, "mp4")
    assert (found.form.pix_fmt, found.color.full_range) == ("yuv420p", True)
    for pix_fmt, matrix, full in (("yuv420p", "bt709", False), ("gbrp", "rgb", True)):
        with pytest.raises(OptionsError, match="stays limited") as caught:
            plan(info_of(pix_fmt, matrix, full), asked, "mp4")
        assert "`--pix-fmt yuv420p`" in caught.value.hint
