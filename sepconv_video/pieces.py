"""What is known of a finished piece of a video, and which pieces are missing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin

Span = tuple[int, int | None]
"""Source frames to begin with and to end before; None for the end of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found about the pairs of frames that begin in a part."""

    cuts: tuple[int, ...]
    """Source frames that begin a new shot."""
    flashes: tuple[int, ...]
    """Source frames where a flash begins or ends."""
    stills: int
    """Pairs of identical frames."""
    repeats: int
    """Frames that repeat the one before, as in animation on twos and threes."""
    error_s: float
    """The furthest that a new frame is from its true position in time."""


def sum_up(seen: Sequence[Seen]) -> Seen:
    """Add up what was found in several parts, in order."""
    return Seen(
        cuts=tuple(cut for one in seen for cut in one.cuts),
        flashes=tuple(flash for one in seen for flash in one.flashes),
        stills=sum(one.stills for one in seen),
        repeats=sum(one.repeats for one in seen),
        error_s=max(one.error_s for one in seen),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A finished segment: which frames are in it and what was found about them."""

    key: str
    """Digest of the identity it belongs to."""
    first: int
    """Index of its first source frame."""
    source_frames: int
    frames: int
    """Frames in the output, which may be none."""
    is_last: bool
    """Whether the source ends with it."""
    seen: Seen
    pts: tuple[int, ...]
    end_pts: int
    rounded: int
    """These three are those of `video.Segment`."""
    damage: str | None
    notes: tuple[str, ...]
    """Of the reader at the end of the source; only the last part has them."""
    size_bytes: int
    """Of the segment's file."""

    @property
    def end(self) -> int:
        """Index of the source frame that the next part begins with."""
        return self.first + self.source_frames


def gaps(parts: Sequence[Part]) -> list[Span]:
    """List the source frames still to be done.

    Args:
        parts: Finished pieces, in order and without overlap.
    """
    missing: list[Span] = []
    position = 0
    for part in parts:
        if part.first > position:
            missing.append((position, part.first))
        position = part.end
    if not parts or not parts[-1].is_last:
        missing.append((position, None))
    return missing


def part_of(content: Any) -> Part | None:  # noqa: ANN401 - whatever was in the file
    """Build a part from what a file of JSON says; None if that is not one."""
    if not _is_one(content, Part):
        return None
    part = Part(**_tuples(content) | {"seen": Seen(**_tuples(content["seen"]))})
    return part if _is_possible(part) else None


def _is_possible(part: Part) -> bool:
    """Tell whether the numbers make sense: damaged ones would be noticed later, or never."""
    times = (*part.pts, part.end_pts)
    is_counted = part.first >= 0 and part.source_frames > 0 and len(part.pts) == part.frames
    return is_counted and all(abs(ticks) < 2**63 for ticks in times)


def _is_one(content: Any, kind: Any) -> bool:  # noqa: ANN401
    """Tell whether JSON is what a field of this type became: tuples lists, others objects."""
    if is_dataclass(kind):
        types = {field.name: field.type for field in fields(kind)}
        return (
            isinstance(content, dict)
            and content.keys() == types.keys()
            and all(_is_one(content[name], of) for name, of in types.items())
        )
    if get_origin(kind) is tuple:
        return isinstance(content, list) and all(_is_one(one, get_args(kind)[0]) for one in content)
    if isinstance(content, bool):  # which counts as a number
        return kind is bool
    return isinstance(content, int | float if kind is float else kind)


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON's lists into what the fields hold."""
    return {k: tuple(value) if isinstance(value, list) else value for k, value in content.items()}
