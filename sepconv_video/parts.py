"""The folder `TARGET.parts`, in which a video's finished pieces survive any crash.

    out.mp4.parts/
      lock             held by the process at work, and free again however that ends
      manifest.json    the source and the settings that the pieces belong to
      next.json        those of a run that has begun, until its first piece is finished: only
                       then are the pieces of other settings removed (`clearing` meanwhile)
      00000120.nut     a segment, named after the first source frame in it ...
      00000120.json    ... and its `Part`, written last: without it the segment does not count
      joined.mp4       the whole, until it is renamed over the target; a folder for pictures
      report.json      written before that, as proof that the end was reached

Each file is written under a temporary name, synced and renamed. Only files known by their
names are ever removed. This module knows nothing of what is in the segments.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from sepconv_video.errors import BusyError, VideoError, reason_of
from sepconv_video.numbered import existing, is_pattern, pictures_at, publish
from sepconv_video.pieces import Part, part_of

Identity = Mapping[str, Any]
"""What pieces belong to: the file that was the `source`, and the settings, as JSON values."""

_PIECES = re.compile(r"((manifest|report)\.json|joined\.\w+|\d{8}\.(nut|json))")
_OURS = re.compile(rf"({_PIECES.pattern}|lock|next\.json|clearing(\.json)?)(\.[\w-]+\.new)?")
_TOKEN = secrets.token_hex(4)  # process numbers are not unique on a shared file system
_PART_FILES = "[0-9]" * 8 + ".json"
_SAMPLE_BYTES = 2**20
_SHOWN_VALUES = 60
"""Characters of two values that are shown to people, at most."""


class Parts:
    """The pieces of one target. Reading needs no lock; whoever changes the set holds `claim`."""

    def __init__(self, target: Path, identity: Identity) -> None:
        """Name the folder; nothing is made yet."""
        self.target, self.identity = target, identity
        canonical = json.dumps(identity, sort_keys=True)
        self.key = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self.folder = target.with_name(f"{target.name}.parts")
        self.joined = self.folder / f"joined{'.pictures' if is_pattern(target) else target.suffix}"
        self._manifest, self._next = self.folder / "manifest.json", self.folder / "next.json"
        self._clearing, self._report = self.folder / "clearing.json", self.folder / "report.json"

    @contextmanager
    def claim(self) -> Iterator[Self]:
        """Make the folder and lock it against other processes, until the context ends.

        The operating system releases the lock however the process dies. A folder
        without a finished piece in it is removed at the end.

        Raises:
            BusyError: Another process holds it.
            VideoError: The folder cannot be made.
        """
        lock = FileLock(self.folder / "lock", timeout=0)
        with explained(self.target):
            self._lock(lock)
        try:
            yield self
        finally:
            if not any(self.folder.glob(_PART_FILES)):
                self.remove()
            lock.release()

    def _lock(self, lock: FileLock) -> None:
        fault: OSError | None = None
        for _ in range(100):
            try:
                self.folder.mkdir(exist_ok=True)
                lock.acquire()
            except (FileNotFoundError, FileExistsError) as error:
                fault = error  # another process has just finished and removed the folder
            except Timeout as error:
                raise BusyError(
                    f"cannot write `{self.target}`: another sepconv-video is making it now",
                    "wait for it, or end it and run this again: its finished segments are kept",
                ) from error
            else:
                return
        assert fault is not None
        raise fault  # something else is in its place

    def begin(self, *, resume: bool) -> str:
        """Keep the pieces there are, if they belong to `identity`; else start afresh.

        Pieces of other settings stay until the first new one is there: the new settings may turn
        out to be impossible.

        Returns:
            Why pieces will be thrown away, in one line; an empty string if none will.
        """
        kept, has_pieces = read_json(self._manifest), any(self.folder.glob(_PART_FILES))
        with explained(self.target):
            for stale in (self._clearing, *self.folder.glob("*.new")):
                _remove(stale)
            if kept == self.identity and resume:
                self._next.unlink(missing_ok=True)
                return ""
            write_json(self._next, self.identity)
        if not has_pieces:
            return ""
        if not resume:
            return "started afresh, as `--no-resume` says"
        return f"started afresh: {', '.join(_differences(kept, self.identity))}"

    def has_others(self) -> bool:
        """Tell whether there are pieces of other settings, which go with the first one added."""
        return self._next.exists() and any(self.folder.glob(_PART_FILES))

    def begun(self) -> Any:  # noqa: ANN401 - from a file
        """Tell the identity of the run that has begun last; None if there is none."""
        # in this order, since one becomes the other
        found = map(read_json, (self._next, self._clearing, self._manifest))
        return next((identity for identity in found if identity is not None), None)

    def take_over(self) -> None:
        """Remove the pieces that `begin` found useless, unless that is done; any worker may call.

        Raises:
            VideoError: It cannot be removed, or pieces of other settings are made meanwhile.
        """
        with explained(self.target), FileLock(self.folder / "clearing"):
            if self.begun() != self.identity:  # this worker's run died, and another one has begun
                raise VideoError(
                    f"cannot write `{self.target}`: another run is making it with other settings",
                    "run this again when that one has ended",
                )
            try:
                self._next.rename(self._clearing)
            except FileNotFoundError:
                if not self._clearing.exists():
                    return  # nothing to remove, or another worker has done it
                # else one died over it
            self._clear(_PIECES)
            self._clearing.replace(self._manifest)
            sync_folder(self.folder)

    def segment_path(self, first: int) -> Path:
        """Name the file of the segment that begins with a source frame."""
        return self.folder / f"{first:08d}.nut"

    def writing_path(self, first: int) -> Path:
        """Name the file that the segment is in while it is written, by this process."""
        return _writing(self.segment_path(first))

    def add(self, part: Part) -> None:
        """Count a segment as finished; it is in `writing_path` and synced."""
        path = self.segment_path(part.first)
        self.take_over()
        with explained(self.target):
            _writing(path).replace(path)
            write_json(path.with_suffix(".json"), asdict(part))

    def discard(self, segment: Path) -> None:
        """Count a segment as not finished: its file turned out to be damaged."""
        with explained(self.target):
            segment.with_suffix(".json").unlink(missing_ok=True)

    def finished(self) -> list[Part]:
        """List the pieces that can be used, in order and without overlap."""
        parts: list[Part] = []
        if self._next.exists() or read_json(self._manifest) != self.identity:
            return parts
        for path in sorted(self.folder.glob(_PART_FILES)):
            part = part_of(read_json(path))
            if part is None or part.key != self.key or not self._is_whole(part):
                continue
            if not parts or part.first >= parts[-1].end:
                parts.append(part)
        return parts

    def _is_whole(self, part: Part) -> bool:
        with suppress(OSError):
            return self.segment_path(part.first).stat().st_size == part.size_bytes
        return False

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Remove the joined file, or pictures, if this fails: they take much room for nothing."""
        try:
            yield
        except BaseException:
            with suppress(OSError):
                for path in (self.joined, self.joined.with_suffix(".new")):
                    _remove(path)
            raise

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Remove the joined file in any case: it is to show that joining will work."""
        try:
            yield
        finally:
            with suppress(OSError):
                self.joined.unlink(missing_ok=True)

    def complete(self, report: Mapping[str, Any]) -> None:
        """Rename the joined file over the target, and know afterwards that this was done."""
        with explained(self.target):
            made = self.joined / self.target.name if self.joined.is_dir() else self.joined
            with self.joining():
                write_json(self._report, {"key": self.key, "made": stamp(made), "report": report})
            self._publish(report)

    def _publish(self, report: Mapping[str, Any]) -> None:
        if self.joined.is_dir():
            publish(self.joined, self.target, report["frames"])
        else:
            self.joined.replace(self.target)
        sync_folder(self.target.parent)

    def completed(self) -> Mapping[str, Any] | None:
        """Give the report of a run that died after the rename, or kept its pieces; else None."""
        found = read_json(self._report)
        if not isinstance(found, dict) or found.get("key") != self.key or self.joined.is_file():
            return None
        with suppress(OSError):
            if self.joined.is_dir():  # the moving of many pictures was cut short
                self._publish(found["report"])
            if stamp(self.target) == found.get("made"):
                report: Mapping[str, Any] = found["report"]
                return report
        return None

    def remove(self) -> None:
        """Remove the folder, if it is there, but for files in it that are not ours."""
        if not self.folder.is_dir():
            return
        with explained(self.target):
            self._clear(_OURS)
        with suppress(OSError):
            self.folder.rmdir()

    def _clear(self, names: re.Pattern[str]) -> None:
        """Remove files that match; the manifest first, as without it pieces belong to no run."""
        self._manifest.unlink(missing_ok=True)
        last = ("report.json", "lock")  # what tells of the end, and what keeps others out
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name in last):
            if names.fullmatch(path.name):
                _remove(path)


def identify(source: Path) -> dict[str, Any]:
    """Identify a source and its state: by its size, time and samples of its content.

    Of numbered pictures, names, sizes and times of all, and samples of some.

    Raises:
        SepConvVideoError: It cannot be read.
    """
    pictures = pictures_at(source)
    files = (source,) if pictures is None else pictures.files
    digest = hashlib.sha256()
    try:
        stats = [path.stat() for path in files]
        looks = [
            (path.name, status.st_size, status.st_mtime_ns)
            for path, status in zip(files, stats, strict=True)
        ]
        if len(files) > 1:
            digest.update(json.dumps(looks).encode())
        for place in range(4):  # a film's worth of bytes would take as long as its decoding
            chosen = (len(files) - 1) * place // 3
            with files[chosen].open("rb") as file:
                file.seek(max(0, stats[chosen].st_size - _SAMPLE_BYTES) * place // 3)
                digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise VideoError(
            f"cannot read `{source}`: {reason_of(error)}", "check its name and permissions"
        ) from error
    return {
        "bytes": sum(status.st_size for status in stats),
        "mtime_ns": max(status.st_mtime_ns for status in stats),
        "sha256": digest.hexdigest(),
    }


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever is in it
    """Read a JSON file; None if there is none or it is damaged."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def write_json(path: Path, content: object) -> None:
    """Write a JSON file so that at any moment there is the old one or the new one, whole."""
    new = _writing(path)
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a loss of power, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some network systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn errors of the system into ours, which name the target.

    Raises:
        VideoError: Instead of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise VideoError(
            f"cannot write `{target}`: {reason_of(error)}",
            "free some space, check the folder's permissions, or choose another one with `-o`",
        ) from error


def stamp(target: Path) -> dict[str, int]:
    """Identify the files at a target, one or numbered pictures; the same after renaming.

    Raises:
        FileNotFoundError: There is none.
    """
    found = [path.stat() for path in existing(target)]
    if not found:
        raise FileNotFoundError(target)
    return {
        "bytes": sum(status.st_size for status in found),
        "mtime_ns": max(status.st_mtime_ns for status in found),
    }


def _remove(path: Path) -> None:
    if path.is_dir():  # pictures, not yet at their place
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _writing(path: Path) -> Path:
    # workers write beside each other
    return path.with_name(f"{path.name}.{os.getpid()}-{_TOKEN}.new")


def _differences(kept: Any, identity: Identity) -> list[str]:  # noqa: ANN401 - from a file
    """Name the settings in which the pieces differ from those wanted."""
    if not isinstance(kept, dict):
        return ["the list of segments was damaged"]
    found = []
    for name in identity:
        if kept.get(name) != identity[name]:
            was, now = kept.get(name), identity[name]
            is_long = isinstance(now, dict) or len(f"{was}{now}") > _SHOWN_VALUES
            values = "" if is_long else f" from {_in_words(was)} to {_in_words(now)}"
            found.append(f"the {name} changed{values}")
    return found or ["other settings were used"]


def _in_words(value: Any) -> str:  # noqa: ANN401 - from a file
    """Write a setting's value for people."""
    words = {None: "none", False: "off", True: "on"}
    if value is None or isinstance(value, bool):
        return words[value]
    fraction = re.fullmatch(r"(\d+)/(\d+)", str(value))
    return f"{int(fraction[1]) / int(fraction[2]):.6g}" if fraction else str(value)
