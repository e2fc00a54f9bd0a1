"""Video files: read frames, write them, copy everything else; every quirk of PyAV is in here.

No other module imports `av`. This package knows nothing of networks or of what is done to
the frames between reading and writing.
"""

import av

from sepconv_video.video.containers import container_for
from sepconv_video.video.encoders import Encoding
from sepconv_video.video.joiner import Joined, join, rehearse
from sepconv_video.video.pictures import is_deep, is_picture, read_picture, write_picture
from sepconv_video.video.pipes import PIPE, Evenness, PipeWriter, lost_in_pipe
from sepconv_video.video.reader import Reader
from sepconv_video.video.segments import Segment, SegmentError, SegmentWriter
from sepconv_video.video.source import Extent, measure, probe
from sepconv_video.video.track import Track

ENCODERS_VERSION = f"PyAV {av.__version__}"
"""Segments made by one version are joined by the same one only."""

__all__ = [
    "ENCODERS_VERSION",
    "PIPE",
    "Encoding",
    "Evenness",
    "Extent",
    "Joined",
    "PipeWriter",
    "Reader",
    "Segment",
    "SegmentError",
    "SegmentWriter",
    "Track",
    "container_for",
    "is_deep",
    "is_picture",
    "join",
    "lost_in_pipe",
    "measure",
    "probe",
    "read_picture",
    "rehearse",
    "write_picture",
]
