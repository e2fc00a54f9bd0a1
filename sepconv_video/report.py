"""What became of one file, for the user, for programs and for the next run."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one file."""

    target: Path
    source_frames: int
    frames: int
    """Frames in the target."""
    kept_frames: int
    """Those of them that an earlier run, cut short, had finished."""
    seconds: float
    """Time that this run took."""
    cuts: list[int]
    """Indices of the source frames that begin a new shot; nothing was made across these."""
    flashes: list[int]
    """Indices of the source frames where a flash begins or ends, which were held."""
    stills: int
    """Pairs of identical frames, which were held."""
    repeats: int
    """Frames that repeat the one before, as in animation on twos and threes."""
    largest_error_s: float
    """The furthest that a new frame is from its true position in time; 0 with a factor."""
    video_s: float
    """When the picture ends, in seconds, as it was written."""
    audio_s: list[float]
    """When each sound stream ends, likewise."""
    damage: str | None
    """What was broken in the source, in one line; None if nothing."""
    notes: list[str]
    """What could not be kept or had to be converted, one line each."""

    @property
    def frames_per_s(self) -> float:
        """Frames written per second of work."""
        return (self.frames - self.kept_frames) / max(self.seconds, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Give the fields as JSON has them."""
        return asdict(self) | {"target": str(self.target)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Build the report that `as_json` gave."""
        return cls(**content | {"target": Path(content["target"])})
