"""Numbered pictures: read as the packets of a video, and written out of its segments."""

import shutil
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from sepconv_video.numbered import numbered
from sepconv_video.video.faults import translated
from sepconv_video.video.pictures import encode_picture, write_synced
from sepconv_video.video.pipes import Evenness, left_out
from sepconv_video.video.segments import Segment, packets
from sepconv_video.video.source import LARGEST_PIXELS, main_video, open_source
from sepconv_video.video.track import Track

_LARGEST_BYTES = LARGEST_PIXELS * 16
"""No picture that may be read has more, stored in whatever way."""


def picture_packet(file: Path, place: int, stream: VideoStream) -> "Packet[VideoStream]":
    """Read a picture's file as the packet of one frame.

    Args:
        file: The picture.
        place: Its place in the video, which is its time in frames.
        stream: The stream of the first picture, whose time base is one frame.

    Raises:
        OSError: It cannot be read, or is far too large.
    """
    if file.stat().st_size > _LARGEST_BYTES:
        raise OSError(f"{file} is too large")
    packet = Packet(file.read_bytes())
    packet.pts = packet.dts = place
    packet.duration = 1
    packet.is_keyframe = True  # else FFmpeg takes a PNG for the difference to the one before
    packet.time_base = Fraction(stream.time_base or 1)
    return cast("Packet[VideoStream]", packet)


def save_pictures(
    pieces: Sequence[tuple[Path, Segment]], folder: Path, track: Track, source: Path, called: Path
) -> list[str]:
    """Write the pictures of a video, numbered from 1, into a folder of their own.

    Args:
        pieces: The segments' files and times, in order; at least one.
        folder: Folder to make, when all is in it; an existing one is replaced.
        track: What the segments were encoded with.
        source: File whose other streams are named as left out.
        called: Pattern of the pictures' names, as of their final place.

    Returns:
        One line for each thing that could not be kept, for the user.

    Raises:
        VideoError: They cannot be written, or a segment is damaged.
    """
    making = folder.with_suffix(".new")
    even = Evenness(track.time_base, track.rate)
    with translated("write", called):
        for stale in (making, folder):
            if stale.is_dir():
                shutil.rmtree(stale)
        making.mkdir()
        # pictures are never out of order
        timed = chain.from_iterable(packets(path, segment.pts) for path, segment in pieces)
        for number, (packet, pts) in enumerate(timed, 1):
            even.add(pts)
            picture = numbered(making / called.name, number)
            write_synced(picture, _stored(picture, packet))
        making.replace(folder)
    with open_source(source) as container:
        lost = left_out(container, main_video(container, source), "pictures hold nothing else")
    rate = (
        f"numbered pictures have no rate: these are to be shown at {float(track.rate):g} a second"
    )
    return [note for note in (track.note, rate, even.note("pictures"), lost) if note]


def _stored(path: Path, packet: "Packet[VideoStream]") -> bytes:
    """Give the contents of a picture's file: segments hold PNG, other formats are made of it."""
    if path.suffix.lower() == ".png":
        return bytes(packet)
    context = VideoCodecContext.create("png", "r")
    assert isinstance(context, VideoCodecContext)
    (picture,) = [*context.decode(packet), *context.decode(None)]
    return encode_picture(picture, path.suffix)
