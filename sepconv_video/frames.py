"""The words of the project: what a video, a frame and the interval between two frames are.

Only data; no decoding, no arithmetic on pixels, no torch.
"""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Picture = Plane
"""(H, W, 3), RGB."""


LUMA_WEIGHTS = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
}
"""Of the matrices that are no RGB: Kr and Kb, the weights of red and blue in luma. ITU-T H.273,
table 4, MatrixCoefficients 5 and 6, 1, 9, 4 and 7; non-constant luminance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorSpec:
    """Which colours the numbers in the planes mean.

    The five tags are numbers exactly as the source carries them, to be written to the output
    unchanged: code points of ITU-T H.273 (2 = unspecified), but for `range_tag` and
    `siting_tag`. `matrix`, `full_range` and `siting` are what the tags mean, or the players'
    guess where they are missing.
    """

    matrix: str
    """Luma coefficients for the conversion to RGB: `bt601`, `bt709`, `bt2020`, `fcc` or
    `smpte240m`; `rgb` where the planes are G, B, R."""
    full_range: bool
    """True when luma spans 0..2^bits-1, False for 16..235 (times 2^(bits-8))."""
    colorspace_tag: int = 2
    range_tag: int = 0
    """As FFmpeg's AVColorRange: 0 unspecified, 1 limited, 2 full."""
    primaries_tag: int = 2
    transfer_tag: int = 2
    siting: str = "left"
    """Where subsampled chroma lies among the luma samples: `left`, `center`, `topleft`, `top`."""
    siting_tag: int = 0
    """As FFmpeg's AVChromaLocation: 0 unspecified, 1 left, 2 center, 3 topleft, 4 top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LightLevels:
    """What HDR10 says of a whole video: on what display it was graded and how bright it gets.

    None where a part is missing.
    """

    primaries: tuple[Fraction, ...] | None = None
    """CIE 1931 x and y of red, green, blue and white, eight numbers."""
    luminance: tuple[Fraction, Fraction] | None = None
    """Darkest and brightest the display shows, in cd/m2."""
    content: tuple[int, int] | None = None
    """Brightest sample (MaxCLL) and brightest frame on average (MaxFALL), in cd/m2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What is known of a video stream before its frames are decoded."""

    path: Path
    width: int
    """Luma samples per row, as stored (before any rotation)."""
    height: int
    pix_fmt: str
    """Planar format of `Frame.planes`, in FFmpeg's words, e.g. `yuv420p10le`, `gray`, `gbrp`."""
    bits: int
    """Bits per sample, 8 to 16; planes are uint8 up to 8 bits, uint16 above."""
    chroma_shift: tuple[int, int] | None
    """log2 of the chroma subsampling (horizontal, vertical); None for gray, zeros for RGB."""
    color: ColorSpec
    time_base: Fraction
    """Seconds per tick of `Frame.pts`."""
    rate: Fraction
    """Nominal frames per second; for variable rate the average. Display and defaults only."""
    fastest: Fraction = Fraction(0)
    """Frames per second that would hold all times, as FFmpeg guesses; 0 where it does not."""
    start_pts: int = 0
    """When the first frame is shown, in ticks."""
    frame_count_from_header: int | None
    """What the header says, which may be wrong or missing: for progress display only."""
    sample_aspect_ratio: Fraction | None
    """Width of a sample over its height; None where unset."""
    display_matrix: tuple[int, ...] | None = None
    """How players turn or mirror the picture: FFmpeg's nine numbers; None where unset."""
    sphere: tuple[int, ...] | None = None
    """How the picture lies around the viewer (360 degrees): FFmpeg's nine numbers; None where
    unset."""
    eyes: tuple[int, int] | None = None
    """Where the views of both eyes lie in it (3D), by FFmpeg's number, and whether the right eye's
    comes first; None where unset."""
    crop: tuple[int, int, int, int] | None = None
    """Rows above and below, columns left and right that players are not to show; None where unset.
    They are in the planes."""
    dolby: bytes | None = None
    """Dolby Vision's record, as `video.dolby` knows it; None where there is none to be kept."""
    light: LightLevels | None = None
    """HDR10's static metadata; None where there are none."""


class Dynamic(NamedTuple):
    """HDR metadata of a single frame, each empty where there are none; a new one has the same."""

    hdr10_plus: bytes = b""
    """A message of registered user data, ITU-T T.35."""
    dolby_vision: bytes = b""
    """A unit of H.265, of kind 62."""


NO_DYNAMIC = Dynamic()
CAPTION = 3
"""Bytes of a closed caption, a letter or two (CEA-608 and 708)."""


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
    """Y, U, V (Y alone for gray; G, B, R for RGB), each (rows, columns), native subsampling
    and depth."""
    captions: bytes = b""
    """Closed captions that come with it, `CAPTION` bytes each."""
    dynamic: Dynamic = NO_DYNAMIC
    begins_shot: bool = False
    """Whether the stream itself changes here, in size or format: nothing is made before it."""


class Relation(StrEnum):
    """How a frame is related to the one before it."""

    JOINED = "joined"
    """One shot goes on, and so frames may be made between the two."""
    CUT = "cut"
    """It begins a shot."""
    FLASH = "flash"
    """It looks like a cut, but the shot before goes on within a few frames."""
    STILL = "still"
    """It is the same picture, sample for sample."""
    REPEAT = "repeat"
    """It is the same picture but for the noise of compression."""


POSITIONS = 8
"""The network halves, three times at most: new frames lie at eighths between two others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A frame of the target: when it is shown, and where between two source frames it lies."""

    pts: int
    """In ticks of the target's grid."""
    duration: int
    position: int
    """0 is the frame on the left, `POSITIONS` the one on the right."""
    captions: bytes = b""
    """Its share of the closed captions that came since the moment before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interval:
    """The time from one source frame to the next, or to the end, and what is shown in it."""

    index: int
    """Index of the source frame it begins with."""
    left: Frame
    """That frame or, where repeated frames are made anew, the one that they repeat."""
    right: Frame | None
    """The next source frame that is not such a repeat; None after the last one."""
    synthesise: bool
    """False where nothing may be invented (a cut, a still, the end): frames are held."""
    end_pts: int
    """When it ends, in ticks of the target's grid."""
    moments: tuple[Moment, ...]
    """What is shown, in order; may be none where the target has fewer frames than the source."""
    is_repeat: bool = False
    """Whether it begins with a frame that repeats the one before, and soon another follows."""
    error_ticks: Fraction = Fraction(0)
    """The furthest that a new frame is from its true position in time, in ticks of the grid."""
    around: tuple[Frame, Frame] | None = None
    """The frames before `left` and after `right`, where one shot goes on through all four and they
    are evenly spaced in time: these tell how motion bends."""


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
    stretch_sound: bool = False
    """Whether sound that must become longer is stretched, or left out."""


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
