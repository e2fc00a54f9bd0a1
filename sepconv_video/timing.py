"""Where the time goes: how long this process was busy with each stage of the work.

Any thread may be busy; each of them counts, so that stages side by side add up to more than
the time on the clock. Time in a stage within another one counts for the inner one only: the
operator's is no part of the network's. Nothing is measured, and hardly anything done, until
`enable(True)`.
"""

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

STAGES = ("decode", "upload", "network", "operator", "download", "encode")
"""`decode` finds the cuts too; `upload` and `download` convert to RGB and back."""


@dataclass(slots=True)
class _State:
    """What has been measured in this process."""

    is_on: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    marked: list[tuple[str, str | None, Any, Any]] = field(default_factory=list)
    """Stages on a GPU whose time is not read yet: stage, the one around it, and two events."""


_state = _State()
_lock = threading.Lock()
_thread = threading.local()  # .stage: what this thread is busy with


def enable(wanted: bool) -> None:
    """Begin to measure, or stop; what has been measured stays until it is taken."""
    _state.is_on = wanted


@contextmanager
def busy(stage: str, device: "torch.device | None" = None) -> Iterator[None]:
    """Count the time within as time spent on a stage.

    Args:
        stage: One of `STAGES`.
        device: Where the work is done. On a GPU it is only launched here: events on its current
            stream say how long it took, and nobody waits for them.
    """
    if not _state.is_on:
        yield
        return
    around = getattr(_thread, "stage", None)
    _thread.stage = stage
    start = _now(device)
    try:
        yield
    finally:
        _thread.stage = around
        end = _now(device)
        if isinstance(end, float):
            _add(stage, around, end - start)
        else:
            with _lock:
                _state.marked.append((stage, around, start, end))


def each(stage: str, items: Iterable[T]) -> Iterator[T]:
    """Give the items, and count the time it takes to get each of them."""
    iterator = iter(items)
    try:
        while True:
            with busy(stage):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]
            del item  # or it would live on while the next one is made
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


_END = object()


def read_events() -> None:
    """Read the times of what a GPU has done, and leave for later what it has not."""
    with _lock:
        marked, _state.marked = _state.marked, []
    for stage, around, start, end in marked:
        if end.query():
            _add(stage, around, start.elapsed_time(end) / 1000)
        else:
            with _lock:
                _state.marked.append((stage, around, start, end))


def take() -> dict[str, float]:
    """Give the busy seconds of each stage since the last time; a GPU at work is waited for."""
    for *_, end in _state.marked:
        end.synchronize()
    read_events()
    with _lock:
        seconds, _state.seconds = _state.seconds, dict.fromkeys(STAGES, 0.0)
    return seconds


def give(seconds: Mapping[str, float]) -> None:
    """Count what another process took."""
    for stage, some in seconds.items():
        _add(stage, None, some)


def _add(stage: str, around: str | None, seconds: float) -> None:
    with _lock:
        _state.seconds[stage] += seconds
        if around is not None:
            _state.seconds[around] -= seconds


def _now(device: "torch.device | None") -> Any:  # noqa: ANN401 - seconds, or a `torch.cuda.Event`
    """Read the clock, or put an event onto the device's current stream."""
    if device is None or device.type != "cuda":
        return time.perf_counter()
    import torch  # noqa: PLC0415 - heavy, and loaded already where there is a GPU at work

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
