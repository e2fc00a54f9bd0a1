"""What a user may choose, with the defaults and bounds: the one place for both."""

from dataclasses import dataclass
from pathlib import Path

from sepconv_video.errors import OptionsError

FACTORS = (2, 4, 8)
"""Powers of two, as the network knows only the frame half way."""
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MAX_CRF = 63
"""The largest value any codec takes (VP9, AV1); H.264 and H.265 end at 51."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How videos are made; checked when built.

    Raises:
        OptionsError: A value is out of its bounds.
    """

    factor: int = 2
    """How many frames come out for one that goes in: 2, 4 or 8."""
    model: str = "fast"
    """Name of a shipped model (`--list-models`) or path of a weights file."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`."""
    precision: str = "auto"
    """`auto` is fp16 on a GPU and fp32 on a CPU."""
    batch: int | None = None
    """Pairs of frames in the network at once; None chooses by the memory at hand."""
    codec: str | None = None
    """FFmpeg's name of an encoder; None chooses by container and bit depth."""
    crf: int | None = None
    """Constant rate factor, less is better; None is visually lossless."""
    overwrite: bool = False
    """Whether an existing target may be replaced."""
    resume: bool = True
    """Whether finished pieces of an earlier run that was cut short are used."""
    keep_parts: bool = False
    """Whether the folder `TARGET.parts` stays when the target is complete."""

    def __post_init__(self) -> None:
        """Refuse what is out of bounds."""
        check_factor(self.factor)
        if self.precision not in PRECISIONS:
            raise OptionsError(
                f"unknown precision `{self.precision}`", f"use one of {', '.join(PRECISIONS)}"
            )
        if self.batch is not None and self.batch < 1:
            raise OptionsError(f"a batch of {self.batch} is impossible", "use 1 or more")
        if self.crf is not None and not 0 <= self.crf <= MAX_CRF:
            raise OptionsError(f"a crf of {self.crf} is out of bounds", f"use 0 to {MAX_CRF}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file to make: nothing but where it comes from and where it goes."""

    source: Path
    target: Path


def check_factor(factor: int) -> None:
    """Refuse a factor that repeated halving cannot reach.

    Raises:
        OptionsError: The factor is none of `FACTORS`.
    """
    if factor not in FACTORS:
        raise OptionsError(
            f"cannot raise the frame rate {factor} times: the factor must be 2, 4 or 8",
            "pass `--factor 2`, `--factor 4` or `--factor 8`",
        )
