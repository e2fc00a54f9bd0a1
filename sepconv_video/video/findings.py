"""What is found in a stream while it is decoded, kept for the user: faults and changes."""

from fractions import Fraction

from sepconv_video.video.unpacker import Form, change

_MOST_NAMED = 3  # changes in mid-stream that are named one by one


class Faults:
    """Counts what was found broken while decoding."""

    def __init__(self) -> None:
        """Start with a sound stream."""
        self.packets = 0
        self.pictures = 0
        self.broken_off = False
        self.reading = ""

    @property
    def summary(self) -> str | None:
        """All of it in one line; None if there is nothing."""
        parts = []
        if self.broken_off:
            parts.append("the file is broken off before its end")
        if self.reading:
            parts.append(f"reading stopped early: {self.reading}")
        if self.packets:
            parts.append(f"{self.packets} {_plural('packet', self.packets)} could not be decoded")
        if self.pictures:
            parts.append(f"{self.pictures} {_plural('frame', self.pictures)} decoded with errors")
        return "; ".join(parts) or None


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


class Changes:
    """Counts what is not for all pictures as it is for the first.

    Attributes:
        marked: Pictures that are marked as interlaced.
    """

    def __init__(self) -> None:
        """Start before the first picture."""
        self.marked = 0
        self._forms: list[str] = []
        self._aspects: list[str] = []
        self._aspect: Fraction | None = None

    def form(self, index: int, before: Form, after: Form) -> None:
        """Note that frame `index` has another size or format than the one before it."""
        self._forms.append(f"{change(before, after)} at frame {index}")

    def aspect(self, index: int, found: Fraction | None) -> None:
        """Note the sample aspect ratio that frame `index` is to be shown with."""
        if found and self._aspect and found != self._aspect:
            self._aspects.append(f"from {self._aspect} to {found} at frame {index}")
        self._aspect = found or self._aspect

    @property
    def notes(self) -> list[str]:
        """One line for size and format together, one for the aspect."""
        found = []
        if self._forms:
            found.append(f"the picture changes {_listed(self._forms)}: made like the first")
        if self._aspects:
            found.append(f"the sample aspect ratio changes {_listed(self._aspects)}: first kept")
        return found


def _listed(changes: list[str]) -> str:
    more = len(changes) - _MOST_NAMED
    return ", ".join(changes[:_MOST_NAMED]) + (f" and {more} times more" if more > 0 else "")
