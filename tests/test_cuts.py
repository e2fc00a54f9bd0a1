"""The file of `--cuts FILE`."""

from fractions import Fraction

import pytest

from sepconv_video.cuts import Cuts, read_cuts
from sepconv_video.errors import OptionsError


def written(folder, text):
    path = folder / "cuts.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_numbers_times_and_comments(tmp_path):
    text = "# cuts of the film\n\n240\n  12  # the door\r\n10.5\n1:02\n0:01:02.250\n240\n"
    cuts = read_cuts(written(tmp_path, text))
    assert cuts.frames == {12, 240}
    assert cuts.times_s == (Fraction(21, 2), Fraction(62), Fraction(249, 4))


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "\ufeff\n"])
def test_no_cuts_are_cuts_too(tmp_path, text):
    assert read_cuts(written(tmp_path, text)) == Cuts()


def test_scenes_of_pyscenedetect(tmp_path):
    text = (
        "Timecode List:,00:00:00.567,00:00:01.134\n"
        "Scene Number,Start Frame,Start Timecode,Start Time (seconds),End Frame\n"
        "1,1,00:00:00.000,0.000,17\n2,18,00:00:00.567,0.567,34\n3,35,00:00:01.134,1.134,50\n"
    )
    assert read_cuts(written(tmp_path, text)).frames == {17, 34}
    with pytest.raises(OptionsError, match=r"line 3 of .* is no cut: `2,x,`"):
        read_cuts(written(tmp_path, "Scene Number,Start Frame,End\n1,1,9\n2,x,\n"))


@pytest.mark.parametrize("line", ["x", "-3", "1:2:3:4", "12 13", "1.5s", "9" * 5000, "²"])
def test_what_is_no_cut_is_named(tmp_path, line):
    with pytest.raises(OptionsError, match=r"line 2 of .*cuts.txt` is no cut: `") as caught:
        read_cuts(written(tmp_path, f"7\n{line} # why\n"))
    assert line[:80] in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_files_that_are_no_lists(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path, written(tmp_path, b"\x00\xff\xfe")):
        with pytest.raises(OptionsError, match="cannot read the cuts"):
            read_cuts(path)
    with written(tmp_path, "").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(OptionsError, match="cannot be a list of cuts"):
        read_cuts(tmp_path / "cuts.txt")


def test_a_time_names_the_first_frame_from_then_on():
    """Whatever the rate: exactly one frame for each time, also if it was rounded."""
    for rate in (Fraction(24000, 1001), Fraction(25), Fraction(60)):
        for text, frame in (
            (Fraction(1), -(-rate // 1)),
            (Fraction(round(1000 * 7 / rate), 1000), 7),
        ):
            cuts = Cuts(times_s=(text,))
            found = [k for k in range(1, 99) if cuts.is_cut_at(k, (k - 1) / rate, k / rate)]
            assert found == [frame]
    assert Cuts(frames=frozenset({4})).is_cut_at(4, Fraction(0), Fraction(1))
