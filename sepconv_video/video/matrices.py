"""What the colour tags of a video mean, and what players take for granted where there are none."""

import av
from av.video.stream import VideoStream

from sepconv_video.frames import ColorSpec
from sepconv_video.video.formats import is_rgb

# MatrixCoefficients of H.273 table 4 that `color` knows exactly
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
# Those it does not. Most are no sum of weighted R, G and B as coded; conversion there and back
# is exact with any matrix, and the network hardly minds: only the tag must stay.
_OTHERS = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
_BT2020 = 9
_SITINGS = {1: "left", 2: "center", 3: "topleft", 4: "top"}
_LOCATIONS = {"dvvideo": 3}
"""Of codecs that know only one, which FFmpeg does not tell before it decodes."""
_UNSET_MATRIX, _UNSET_RANGE = 2, 0


def color_of(stream: VideoStream, first: av.VideoFrame, chroma_location: int) -> ColorSpec:
    """Read the colour tags; where the matrix is missing, guess as players do, by size.

    Args:
        stream: A video.
        first: Its first picture.
        chroma_location: What its file says of that, `headers.Facts`.
    """
    context, name = stream.codec_context, first.format.name
    space = _tag(first.colorspace, context.colorspace, _UNSET_MATRIX)
    signal_range = _tag(first.color_range, context.color_range, _UNSET_RANGE)
    if name.startswith("yuvj"):  # the format's name is the tag
        signal_range = 2
    location = chroma_location or _LOCATIONS.get(context.name, 0)
    rgb = is_rgb(first.format)
    primaries = _tag(first.color_primaries, context.color_primaries, 2)
    if rgb and signal_range == _UNSET_RANGE:
        signal_range = 2  # players would take it for limited where a codec has no third word
    return ColorSpec(
        matrix="rgb" if rgb else _matrix(space, primaries, first),
        full_range=signal_range == 2,
        colorspace_tag=0 if rgb else space,
        range_tag=signal_range,
        primaries_tag=primaries,
        transfer_tag=_tag(first.color_trc, context.color_trc, 2),
        siting=_SITINGS.get(location, "left"),
        siting_tag=location,
    )


def matrix_note(first: av.VideoFrame) -> str:
    """Say that a matrix is one of those treated as another; empty for all others."""
    name = _OTHERS.get(int(first.colorspace))
    if name is None or is_rgb(first.format):
        return ""
    used = _matrix(int(first.colorspace), int(first.color_primaries), first)
    return f"new frames are made as if the {name} colours were {used}; the tag is kept"


def guessed_matrix(width: int, height: int) -> str:
    """Guess the matrix of an untagged video: BT.709 above standard definition, else BT.601."""
    return "bt709" if height > 576 or width > 1024 else "bt601"


def _matrix(space: int, primaries: int, first: av.VideoFrame) -> str:
    if space in MATRICES:
        return MATRICES[space]
    if space in _OTHERS:
        return "bt2020" if primaries == _BT2020 else "bt709"
    return guessed_matrix(first.width, first.height)


def _tag(in_frame: int, in_header: int, unset: int) -> int:
    return int(in_frame) if int(in_frame) != unset else int(in_header)
