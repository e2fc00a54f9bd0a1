"""Video files: read frames, write them, copy everything else; every quirk of PyAV is in here.

No other module imports `av`. This package knows nothing of networks or of what is done to
the frames between reading and writing.
"""

from sepconv_video.video.encoders import Encoding, container_for
from sepconv_video.video.pictures import is_picture, read_picture, write_picture
from sepconv_video.video.reader import Reader
from sepconv_video.video.writer import Writer

__all__ = [
    "Encoding",
    "Reader",
    "Writer",
    "container_for",
    "is_picture",
    "read_picture",
    "write_picture",
]
