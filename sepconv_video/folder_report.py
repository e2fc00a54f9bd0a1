"""`report.json` in an output folder: what became of each file, for programs and the next run.

Several processes may work on one folder: each takes the lock, reads, changes and replaces the
file whole.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from sepconv_video.errors import OptionsError, reason_of
from sepconv_video.parts import Identity, explained, stamp, write_json

FORMAT = "sepconv-video report 1"
"""Stands in the file, so that nobody else's `report.json` is overwritten."""
_FINISHED = {"done", "damaged"}


class FolderReport:
    """The report of one output folder."""

    def __init__(self, folder: Path) -> None:
        """Open the report of a folder that exists.

        Raises:
            OptionsError: There is a `report.json` that is not ours, or cannot be read.
        """
        self.folder, self.path = folder, folder / "report.json"
        self._files = self._read()

    def finished(self, target: Path, identity: Identity) -> dict[str, Any] | None:
        """Give the entry of a target that is complete and of this source and these settings.

        The file must still have the size and the time it had when it was finished.
        """
        entry = self._whole(target)
        return entry if entry.get("identity") == identity else None

    def _whole(self, target: Path) -> dict[str, Any]:
        """Give the entry of a target that is still the file that was finished; empty if not."""
        entry, found = self._files.get(self._name(target), {}), _stamp_of(target)
        if entry.get("file") != found:
            self._files = self._read()  # another process may have finished it since
            entry = self._files.get(self._name(target), {})
        is_whole = found is not None and entry.get("file") == found
        return entry if is_whole and entry.get("state") in _FINISHED else {}

    def record(self, target: Path, entry: Mapping[str, Any]) -> None:
        """Write down what became of a target; a failure not where a finished one stands yet.

        Args:
            target: A path in the folder.
            entry: What to say, as JSON has it; `state` is one of `done`, `damaged`, `failed`.

        Raises:
            VideoError: The report cannot be written.
        """
        entry = {**entry, "file": _stamp_of(target)}
        if self._files.get(self._name(target)) == entry:
            return  # it failed before in the same way
        if entry["state"] not in _FINISHED and self._whole(target):
            return  # a source that is missing for a while makes it no worse
        lock = self.folder / ".report.lock"
        with explained(self.path), FileLock(lock):
            self._files = self._read()
            self._files[self._name(target)] = entry
            files = dict(sorted(self._files.items()))
            write_json(self.path, {"format": FORMAT, "files": files})
            with suppress(OSError):  # not on Windows while it is held
                lock.unlink()

    def _name(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            files = dict(content["files"])
            if content["format"] == FORMAT and all(isinstance(e, dict) for e in files.values()):
                return files
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise OptionsError(
                f"cannot read `{self.path}`: {reason_of(error)}",
                "check its permissions, or choose another folder with `-o`",
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._not_ours() from error
        raise self._not_ours()

    def _not_ours(self) -> OptionsError:
        return OptionsError(
            f"cannot use the folder `{self.folder}`: its `report.json` is not a report of this "
            "program",
            "move that file away, or choose another folder with `-o`",
        )


def _stamp_of(path: Path) -> dict[str, int] | None:
    """Its `parts.stamp`; None if there is no such file."""
    with suppress(OSError):
        return stamp(path)
    return None
