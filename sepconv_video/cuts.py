"""The cuts that the user names: the file of `--cuts FILE`.

It knows neither frames nor pixels.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from sepconv_video.errors import OptionsError
from sepconv_video.options import parse_time

_COLUMN = "Start Frame"
"""Of PySceneDetect's list of scenes; its frames count from 1."""
_MAX_BYTES = 1 << 24
"""More is no list of cuts, but a video given by mistake."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """The cuts of a file: each names the first frame of a shot."""

    frames: frozenset[int] = frozenset()
    """Indices of frames in the source, from 0."""
    times_s: tuple[Fraction, ...] = ()
    """Times from the first frame on, in seconds."""

    def as_json(self) -> list[str]:
        """Give all of them in a fixed order."""
        return [*map(str, sorted(self.frames)), *(f"{time_s} s" for time_s in self.times_s)]

    def note_beyond(self, count: int) -> str:
        """Say how many of the frames named are not among the first `count`; empty if none."""
        beyond = sum(index >= count for index in self.frames)
        return (
            f"{beyond} of the cuts lie beyond the last frame: is it the list of another video?"
            * (beyond > 0)
        )

    def is_cut_at(self, index: int, before_s: Fraction, time_s: Fraction) -> bool:
        """Say whether a shot begins with a frame.

        A time names the first frame that is shown at it or later, up to half a millisecond
        earlier, as lists are often rounded to milliseconds.

        Args:
            index: The frame's index in the source, from 0.
            before_s: When the frame before it is shown, in seconds.
            time_s: When it is shown itself.
        """
        slack = Fraction(1, 2000)
        return index in self.frames or any(
            before_s + slack < cut <= time_s + slack for cut in self.times_s
        )


def chosen_cuts(choice: str) -> Cuts | None:
    """Turn `auto`, `off` or the name of a file into the cuts that are known; None to find them.

    Raises:
        OptionsError: The file cannot be read, or a line of it is no cut.
    """
    if choice == "auto":
        return None
    return Cuts() if choice == "off" else read_cuts(Path(choice))


def read_cuts(path: Path) -> Cuts:
    """Read a file of cuts.

    One cut a line: the index of a shot's first frame, from 0, as `240`; or its time, as `10.0`
    or `0:10`. What follows a `#` is a comment. PySceneDetect's list of scenes (CSV) will do too.

    Args:
        path: A text file.

    Raises:
        OptionsError: The file cannot be read, or a line of it is no cut.
    """
    lines = _lines(path)
    for place, line in enumerate(lines):
        if _COLUMN in line.split(","):
            return _scenes(path, lines, place)
    frames, times = set(), set()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if _is_index(text):
            frames.add(int(text))
        elif text:
            times.add(_time(path, number, text))
    return Cuts(frozenset(frames), tuple(sorted(times)))


def _lines(path: Path) -> list[str]:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise OptionsError(
                f"`{path}` cannot be a list of cuts: it has {size} bytes", "give a text file"
            )
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "it is not text").lower()
        raise OptionsError(
            f"cannot read the cuts in `{path}`: {reason}",
            "give a text file with one frame number or time per line, or `--cuts auto`",
        ) from error


def _time(path: Path, number: int, text: str) -> Fraction:
    try:
        if "." not in text and ":" not in text:
            raise OptionsError(f"`{text}` is neither a frame number nor a time")
        return parse_time(text)
    except OptionsError as error:
        raise _no_cut(path, number, text) from error


def _scenes(path: Path, lines: list[str], header: int) -> Cuts:
    """The scenes after the first one, whose beginning is no cut."""
    column = lines[header].split(",").index(_COLUMN)
    frames = set()
    for number, line in enumerate(lines[header + 1 :], header + 2):
        cells = line.split(",")
        if line and (len(cells) <= column or not _is_index(cells[column])):
            raise _no_cut(path, number, line)
        if line:
            frames.add(int(cells[column]) - 1)
    return Cuts(frozenset(frames - {0}))


def _is_index(text: str) -> bool:
    return re.fullmatch(r"\d{1,12}", text, re.ASCII) is not None


def _no_cut(path: Path, number: int, text: str) -> OptionsError:
    return OptionsError(
        f"line {number} of `{path}` is not a cut: `{text[:80]}`",
        "write the number of a shot's first frame, as `240`, or its time, as `10.0` or `0:10`",
    )
