"""360 degrees, 3D and cropping: how a picture lies around the viewer, and what of it is seen."""

import struct
from typing import NamedTuple

import av

from sepconv_video.frames import VideoInfo
from sepconv_video.video.hdr import side_data

# kinds of AVSphericalMapping
_EQUIRECTANGULAR, _CUBEMAP, _PART, _RECTILINEAR = 0, 1, 2, 4
_SPHERES = {
    "matroska": {_EQUIRECTANGULAR, _CUBEMAP, _PART, _RECTILINEAR},
    "mp4": {_EQUIRECTANGULAR, _CUBEMAP, _PART},
}
# RFC 9559, sections 5.1.4.1.28.3 and 18: for kinds of AVStereo3D, left eye first or right eye
# first; in MP4 there are only two
_MODES = {
    (1, 0): 1, (1, 1): 11, (2, 0): 3, (2, 1): 2, (3, 0): 13, (3, 1): 14,
    (4, 0): 5, (4, 1): 4, (6, 0): 7, (6, 1): 6, (7, 0): 9, (7, 1): 8,
}  # fmt: skip
_EYES = {"matroska": set(_MODES), "mp4": {(1, 0), (2, 0)}}
_CROPPING = {"matroska", "mp4", "mov"}
_ALIKE = {"webm": "matroska"}


class Projection(NamedTuple):
    """360 degrees in the terms of Matroska's `Projection`."""

    kind: int
    private: bytes
    """A box of MP4 without its head, as Google's Spherical Video V2 has them."""
    angles: tuple[float, float, float]
    """Yaw, pitch and roll in degrees."""


class Space(NamedTuple):
    """The marks that a container holds, in the terms of Matroska."""

    projection: Projection | None
    mode: int | None
    """`StereoMode`."""
    crop: tuple[int, int, int, int] | None


def sphere_of(first: av.VideoFrame) -> tuple[int, ...] | None:
    """Read how a picture lies around the viewer: `VideoInfo.sphere`."""
    data = side_data(first).get("SPHERICAL", b"")
    return struct.unpack("<4i5I", data[:36]) if len(data) >= 36 else None


def eyes_of(first: av.VideoFrame) -> tuple[int, int] | None:
    """Read which part of a picture each eye sees: `VideoInfo.eyes`."""
    data = side_data(first).get("STEREO3D", b"")
    kind, is_right_first = struct.unpack("<2i", data[:8]) if len(data) >= 8 else (0, 0)
    return (kind, is_right_first & 1) if kind else None  # 0: both see all of it


def kept(info: VideoInfo, container: str) -> Space:
    """Tell which of these marks a container holds."""
    known = _ALIKE.get(container, container)
    kinds, eyes = _SPHERES.get(known, set()), _EYES.get(known, set())
    projection = _projection(info.sphere) if info.sphere and info.sphere[0] in kinds else None
    mode = _MODES[info.eyes] if info.eyes in eyes else None
    return Space(projection, mode, info.crop if known in _CROPPING else None)


def lost_space(info: VideoInfo, where: str) -> str:
    """Name the marks that a container, or a codec, loses, and what holds them; empty if none."""
    projection, mode, crop = kept(info, where)
    lost = []
    if info.sphere and projection is None:
        lost.append("360 degrees")
    if info.eyes and mode is None:
        lost.append("3D")
    if info.crop and crop is None:
        lost.append("cropping")
    if not lost:
        return ""
    remedy = "" if where == "matroska" or lost_space(info, "matroska") else ", matroska can"
    return f"marks of {' and '.join(lost)} left out: {where} cannot hold them{remedy}"


def _projection(sphere: tuple[int, ...]) -> Projection:
    kind, *angles, left, top, right, bottom, padding = sphere
    yaw, pitch, roll = (angle / 65536 for angle in angles)
    if kind == _CUBEMAP:
        return Projection(2, struct.pack(">3I", 0, 0, padding), (yaw, pitch, roll))
    bounds = struct.pack(">5I", 0, top, bottom, left, right)
    if kind == _RECTILINEAR:
        return Projection(0, b"", (yaw, pitch, roll))
    return Projection(1, bounds, (yaw, pitch, roll))
