"""Signals: what Ctrl-C and a request to end do to the command line, and how it leaves then."""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn


def leave_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads.

    One may be in the middle of a network. An orderly end would take the interpreter away from under
    it, which C++ answers with an abort: https://github.com/pytorch/pytorch/issues/38228.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it is ending already
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone
            stream.flush()
    os._exit(code)


def terminate(signum: int, frame: FrameType | None) -> None:
    """Turn a request to end into an exception, so that partial files are removed."""
    sys.exit(128 + signum)


class GracefulStop:
    """Ctrl-C and requests to end: the first stops after the frame in hand, the second at once.

    Attributes:
        code: The exit code that tells which it was.
    """

    def __init__(self) -> None:
        """Nothing has been asked for yet."""
        self.code = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_requested(self) -> bool:
        """Whether to stop."""
        return self.code != 0

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.code:
            for each in self._before:  # a third would interrupt the way out
                signal.signal(each, signal.SIG_IGN)
                self._before[each] = signal.SIG_IGN
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.code = 128 + number
        # not through `print`, in the middle of which the signal may have come
        with suppress(OSError):  # nobody reads it any more
            os.write(
                2, b"\nfinishing the current segment early, to keep it; once more to stop at once\n"
            )
