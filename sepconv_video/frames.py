"""The words of the project: what a video, a frame and the interval between two frames are.

Only data; no decoding, no arithmetic on pixels, no torch.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorSpec:
    """How the numbers in the planes mean colours.

    The four tags are the code points of ITU-T H.273 exactly as the source carries them
    (2 = unspecified), to be written to the output unchanged. `matrix` and `full_range`
    are what the tags mean, or the players' guess where they are missing.
    """

    matrix: str
    """Luma coefficients for the conversion to RGB: `bt601`, `bt709` or `bt2020`."""
    full_range: bool
    """True when luma spans 0..2^bits-1, False for 16..235 (times 2^(bits-8))."""
    colorspace_tag: int = 2
    range_tag: int = 0
    """As FFmpeg's AVColorRange: 0 unspecified, 1 limited, 2 full."""
    primaries_tag: int = 2
    transfer_tag: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What is known of a video stream before its frames are decoded."""

    path: Path
    width: int
    """Luma samples per row, as stored (before any rotation)."""
    height: int
    pix_fmt: str
    """Planar format of `Frame.planes`, in FFmpeg's words, e.g. `yuv420p10le` or `gray`."""
    bits: int
    """Bits per sample, 8 to 16; planes are uint8 up to 8 bits, uint16 above."""
    chroma_shift: tuple[int, int] | None
    """log2 of the chroma subsampling (horizontal, vertical); None for gray."""
    color: ColorSpec
    time_base: Fraction
    """Seconds per tick of `Frame.pts`."""
    rate: Fraction
    """Nominal frames per second; for variable rate the average. Display and defaults only."""
    frame_count_from_header: int | None
    """What the header says, which may be wrong or missing: for progress display only."""
    sample_aspect_ratio: Fraction | None
    """Width of a sample over its height; None where unset."""
    display_matrix: tuple[int, ...] | None = None
    """How players turn or mirror the picture: FFmpeg's nine numbers; None where unset."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One picture: the same type for decoded and for made frames."""

    index: int
    """Position in the stream, counted from 0 in presentation order."""
    pts: int
    """Presentation time in ticks of the stream's time base."""
    duration: int
    """Ticks the frame is shown, as its stream says; 0 where it does not."""
    planes: tuple[Plane, ...]
    """Y, U, V (or Y alone for gray), each (rows, columns), native subsampling and depth."""
    begins_shot: bool = False
    """Whether the stream itself says that nothing joins it to the frame before, as where the
    picture's size changes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interval:
    """The time from one source frame to the next, or to the end of the video."""

    left: Frame
    right: Frame | None
    """The next source frame; None after the last one."""
    end_pts: int
    """Where the interval ends: `right.pts`, or the last frame's pts plus its duration."""
    synthesise: bool
    """False where nothing may be invented (a cut, a still, the end): frames are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Which stretch of a source is used, and how its times become the target's.

    A time `t` of the source becomes `(t - begin) * slowdown`, where `begin` is `start_s` after
    the beginning of the file if there is a `start_s`, else 0: then times stay what they are.
    """

    start_s: Fraction | None = None
    """From here on, in seconds from the beginning of the file; None for all of it."""
    end_s: Fraction | None = None
    """Up to here, likewise."""
    slowdown: int = 1
    """How many times as long the target is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a source is read."""

    timeline: Timeline = Timeline()
    deinterlace: bool = False
    """Whether interlaced pictures are deinterlaced; else they are refused."""
    rate: Fraction = Fraction(25)
    """Frames per second of what has none: numbered pictures, raw video."""
    raw: str | None = None
    """Size and format of raw video on stdin, as `1920x1080:yuv420p`."""
