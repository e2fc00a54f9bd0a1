"""Numbered pictures: which files a name like `frames/%05d.png`, or a folder of pictures, means.

Only names are looked at, and nothing is opened.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sepconv_video.errors import OptionsError, VideoError, reason_of

PICTURE_SUFFIXES = frozenset(
    {".bmp", ".dpx", ".exr", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""What counts as a picture in a folder and in a pattern."""
_PATTERN = re.compile(r"((?:[^%]|%%)*)%(?:0(\d{1,2}))?d((?:[^%]|%%)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures that make a video.

    Attributes:
        files: In order; at least one.
        places: Index of each in the video, from 0: a missing number leaves a gap, so that the
            others keep their times.
    """

    files: tuple[Path, ...]
    places: tuple[int, ...]

    @property
    def missing(self) -> int:
        """How many numbers are missing between the first and the last."""
        return self.places[-1] + 1 - len(self.places)


def is_pattern(path: Path) -> bool:
    """Tell whether a name stands for numbered pictures; a file of that very name does not."""
    if path.suffix.lower() not in PICTURE_SUFFIXES or not _PATTERN.fullmatch(path.name):
        return False
    try:
        return not path.is_file()
    except OSError:  # a name too long, for one file as for many
        return False


def numbered(pattern: Path, number: int) -> Path:
    """Name one picture of a pattern."""
    return pattern.with_name(pattern.name % number)


def files_like(pattern: Path) -> dict[int, Path]:
    """Find the pictures of a pattern, by number, in order; names with other padding do not count.

    Raises:
        OSError: The folder cannot be read, or there is none.
    """
    match = _PATTERN.fullmatch(pattern.name)
    assert match is not None  # is_pattern said so
    before, after = (re.escape(text.replace("%%", "%")) for text in (match[1], match[3]))
    name = re.compile(f"{before}([0-9]{{1,18}}){after}")
    found = {}
    for path in pattern.parent.iterdir():
        digits = name.fullmatch(path.name)
        if digits and path.name == pattern.name % int(digits[1]):
            found[int(digits[1])] = path
    return dict(sorted(found.items()))


def pictures_in(folder: Path) -> list[Path]:
    """List a folder's own pictures as people count, 2 before 10; hidden ones are left out.

    Raises:
        OSError: The folder cannot be read.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    ]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", path.name)
    # text and numbers alternate, so that those at one place can always be compared
    return [(int(part) if place % 2 else 0, part) for place, part in enumerate(parts)]


def pictures_at(path: Path) -> Pictures | None:
    """Find the pictures that a pattern or a folder stands for; None for any other path.

    Raises:
        VideoError: The pattern fits none, or the folder cannot be read.
        OptionsError: The folder holds pictures of several kinds.
    """
    try:
        if is_pattern(path):
            return _like(path)
        files = pictures_in(path) if path.is_dir() else []
    except OSError as error:
        raise VideoError(
            f"cannot read `{path}`: {reason_of(error)}", "check its name and permissions"
        ) from error
    if not files:
        return None
    _reject_mixed(path, files)
    return Pictures(files=tuple(files), places=tuple(range(len(files))))


def _like(pattern: Path) -> Pictures:
    found = files_like(pattern)
    if not found:
        raise VideoError(
            f"cannot read `{pattern}`: no picture has such a name",
            "check the folder and the number of digits: `%05d` stands for 00001, `%d` for 1",
        )
    first = min(found)
    return Pictures(files=tuple(found.values()), places=tuple(number - first for number in found))


def _reject_mixed(folder: Path, files: list[Path]) -> None:
    """Refuse to guess which pictures are meant: thumbnails often lie beside the real ones."""
    kinds = sorted({path.suffix.lower() for path in files})
    if len(kinds) > 1:
        raise OptionsError(
            f"cannot read `{folder}`: it holds pictures of several kinds, {' '.join(kinds)}",
            f"name those you mean, e.g. `{folder}/%05d{kinds[0]}`",
        )


def existing(target: Path) -> list[Path]:
    """List the files that are at a target, be it one file or a pattern."""
    if is_pattern(target):
        return list(files_like(target).values()) if target.parent.is_dir() else []
    # a link to nowhere is something, too
    return [target] if os.path.lexists(target) else []


def surplus(target: Path, count: int) -> list[Path]:
    """List the pictures at a pattern that `count` new ones, from 1 on, would not replace."""
    there = files_like(target) if is_pattern(target) else {}
    return [path for number, path in there.items() if not 1 <= number <= count]


def publish(made: Path, target: Path, count: int) -> None:
    """Move a folder of pictures, numbered 1 to `count`, to where their pattern says.

    Each appears complete, over an older one, and older ones with other numbers go. May be
    called again after a run that was cut short in the middle.

    Raises:
        OSError: Something cannot be moved.
    """
    for path in files_like(made / target.name).values():
        path.replace(target.with_name(path.name))
    for path in surplus(target, count):
        path.unlink()
    made.rmdir()
