"""What a user may choose, with the defaults and bounds: the one place for both."""

import operator
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from sepconv_video.errors import OptionsError

FACTORS = (2, 4, 8)
"""Powers of two, as the network knows only the frame half way."""
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MAX_CRF = 63
"""The largest value any codec takes (VP9, AV1); H.264 and H.265 end at 51."""
MAX_FPS = 1000
"""No player, and hardly any container, takes more."""
MIN_TILE = 64
"""Pixels a side; of smaller tiles most of the work would be their margins."""
CUTS = ("auto", "off")
LABELLED = re.compile(r"(.+?)\.(?:\d+x(?:-slow)?|[\d.]+fps)")
"""A file's stem with the `label` of some options."""
_TELEVISION_RATES = {"23.976", "23.98", "29.97", "47.952", "59.94", "119.88"}
"""Written short for multiples of 1000/1001, which they mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How videos are made; checked when built.

    Rates and times may be given as other numbers, or as on the command line: `59.94`, `"1:30"`.

    Raises:
        OptionsError: A value is out of its bounds.
    """

    factor: int = 2
    """How many frames come out for one that goes in: 2, 4 or 8."""
    fps: Fraction | None = None
    """Frames per second of the target, instead of a factor: each at the nearest time there is."""
    slowmo: bool = False
    """Whether the target plays `factor` times as long at the source's rate."""
    stretch_sound: bool = False
    """In slow motion, whether the sound is made longer too (and encoded anew) or left out."""
    dedup: bool = False
    """Whether frames that repeat the one before are made anew, as in animation on twos."""
    cuts: str = "auto"
    """Where nothing is made: `auto` detects cuts, `off` makes frames everywhere, else the name
    of a file with one cut a line: the number of a shot's first frame, or a time."""
    start_s: Fraction | None = None
    """Where in the source to begin, in seconds as a player counts them."""
    end_s: Fraction | None = None
    """Where in the source to end."""
    deinterlace: bool = False
    """Whether interlaced video is deinterlaced; without it, it is refused."""
    source_fps: Fraction = Fraction(25)
    """The rate of sources that have none: numbered pictures, raw video."""
    raw: str | None = None
    """Size and format of raw video on stdin, as `1920x1080:yuv420p`."""
    model: str = "fast"
    """Name of a shipped or fetched model (`--list-models`) or path of a weights file."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`."""
    precision: str = "auto"
    """`auto` is fp16 on a GPU, bf16 on a CPU with AMX where the network allows it, else fp32."""
    batch: int | None = None
    """Pairs of frames in the network at once; None chooses by the memory at hand."""
    tile: int | None = None
    """Pixels a side that the network works on at once; None or 0 chooses by the memory at hand."""
    codec: str | None = None
    """FFmpeg's name of an encoder; None chooses by container and bit depth."""
    crf: int | None = None
    """Constant rate factor, less is better; None is visually lossless."""
    preset: str | None = None
    """The encoder's preset, e.g. `slow`; None is a sensible one."""
    pix_fmt: str | None = None
    """FFmpeg's name of the format to encode, e.g. `yuv420p10le`; None keeps the source's."""
    overwrite: bool = False
    """Whether an existing target may be replaced."""
    resume: bool = True
    """Whether finished pieces of an earlier run that was cut short are used."""
    keep_parts: bool = False
    """Whether the folder `TARGET.parts` stays when the target is complete."""
    verbose: bool = False
    """Whether engines made from this measure where the time goes: see `timing`."""

    def __post_init__(self) -> None:
        """Convert values given in other forms, and refuse those out of bounds."""
        for name, (read, kind) in _READERS.items():
            value = getattr(self, name)
            try:
                if value is not None or Options.__dataclass_fields__[name].default is not None:
                    object.__setattr__(self, name, read(value))
            except TypeError as error:
                raise OptionsError(f"`{name}` cannot be {value!r}", f"give {kind}") from error
        check_factor(self.factor)
        self._check_times()
        if self.precision not in PRECISIONS:
            raise OptionsError(
                f"unknown precision `{self.precision}`", f"use one of {', '.join(PRECISIONS)}"
            )
        if self.batch is not None and self.batch < 1:
            raise OptionsError(f"a batch of {self.batch} is impossible", "use 1 or more")
        if self.tile and self.tile < MIN_TILE:
            raise OptionsError(
                f"tiles of {self.tile} pixels are too small",
                f"use {MIN_TILE} or more, or leave it out to choose by the free memory",
            )
        if self.crf is not None and not 0 <= self.crf <= MAX_CRF:
            raise OptionsError(f"a crf of {self.crf} is out of bounds", f"use 0 to {MAX_CRF}")

    @property
    def label(self) -> str:
        """What is made, as a part of file names: `2x`, `59.94fps`, `4x-slow`."""
        if self.fps is not None:
            return f"{float(self.fps):.5g}fps"
        return f"{self.factor}x-slow" if self.slowmo else f"{self.factor}x"

    def _check_times(self) -> None:
        for name, rate in (("fps", self.fps), ("source-fps", self.source_fps)):
            if rate is not None and not 1 <= rate <= MAX_FPS:
                raise OptionsError(
                    f"`--{name} {float(rate):g}` is out of bounds", f"use 1 to {MAX_FPS}"
                )
        if self.fps is not None and self.slowmo:
            raise OptionsError(
                "`--fps` and `--slowmo` exclude each other: slow motion keeps the source's rate",
                "leave one of them out",
            )
        if self.stretch_sound and not self.slowmo:
            raise OptionsError("`--stretch-sound` works only with `--slowmo`", "add `--slowmo`")
        if self.start_s is not None and self.start_s < 0:
            raise OptionsError(
                "a video cannot start before 0", "give `--start` a time of 0 or more"
            )
        if self.end_s is not None and self.end_s <= (self.start_s or 0):
            raise OptionsError(
                "nothing lies between `--start` and `--end`", "give `--end` a later time"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file to make: its source and its target."""

    source: Path
    target: Path

    def __post_init__(self) -> None:
        """Accept names as paths."""
        object.__setattr__(self, "source", Path(self.source))
        object.__setattr__(self, "target", Path(self.target))


def check_factor(factor: int) -> None:
    """Refuse a factor that repeated halving cannot reach.

    Raises:
        OptionsError: The factor is none of `FACTORS`.
    """
    if factor not in FACTORS:
        raise OptionsError(
            f"cannot raise the frame rate {factor} times: the factor must be 2, 4 or 8",
            "pass `--factor 2`, `--factor 4` or `--factor 8`; `--fps` makes any other rate",
        )


def parse_rate(text: str) -> Fraction:
    """Read frames per second: `60`, `60000/1001`, or `59.94`, which means the same.

    Raises:
        OptionsError: It is no rate.
    """
    if text in _TELEVISION_RATES:
        return Fraction(round(float(text)) * 1000, 1001)
    # few digits: `1e99999999` would keep `Fraction` busy for hours
    if re.fullmatch(r"\d{1,9}(\.\d{0,30})?|\d{1,9}/0*[1-9]\d{0,8}", text.strip()) is None:
        raise OptionsError(
            f"`{text}` is not a number of frames per second", "use e.g. `60` or `60000/1001`"
        )
    return Fraction(text)


def parse_time(text: str) -> Fraction:
    """Read a time: seconds, as `75.5`, or with minutes and hours, as `1:15.5`.

    Returns:
        Seconds.

    Raises:
        OptionsError: It is no time.
    """
    match = re.fullmatch(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d{1,12})?)", text.strip())
    if match is None:
        raise OptionsError(
            f"`{text}` is not a time", "use seconds, as `75.5`, or `1:15.5`, or `0:01:15.5`"
        )
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + Fraction(seconds)


def parse_shard(text: str) -> tuple[int, int]:
    """Read which part of how many, as `2/4`, both from 1 on.

    Raises:
        OptionsError: It is no such thing.
    """
    match = re.fullmatch(r"(\d{1,9})/0*([1-9]\d{0,8})", text)
    if match is None:
        raise OptionsError(
            f"`--shard {text}` is not like 1/4 (part 1 of 4)", "use e.g. `--shard 1/4`"
        )
    return int(match[1]), int(match[2])


def _rate(value: object) -> Fraction:
    return value if isinstance(value, Fraction) else parse_rate(_text(value))


def _time(value: object) -> Fraction:
    # `str` gives `5e-05`, and up to 17 digits
    value = f"{value:.12f}" if isinstance(value, float) else value
    return value if isinstance(value, Fraction) else parse_time(_text(value))


def _text(value: object) -> str:
    if not isinstance(value, int | float | str | Decimal):
        raise TypeError
    return str(value)


_READERS: dict[str, tuple[Callable[[Any], object], str]] = {
    **dict.fromkeys(("fps", "source_fps"), (_rate, "a number")),
    **dict.fromkeys(("start_s", "end_s"), (_time, "a number of seconds")),
    **dict.fromkeys(("factor", "batch", "tile", "crf"), (operator.index, "a whole number")),
    **dict.fromkeys(("cuts", "model", "device", "precision"), (os.fspath, "text")),
    **dict.fromkeys(("raw", "codec", "preset", "pix_fmt"), (os.fspath, "text")),
}
"""How the value of an option is read, and what it must be, in words."""
