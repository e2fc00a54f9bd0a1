"""Hand-over between threads: `prefetch` runs an iterable ahead of its consumer.

The only module with queues between threads; `kernels/cpu` has threads of its own, for its loops.
It knows nothing of frames: a stage is any iterable, and stages are nested by giving one's
iterator to the next.
"""

import math
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.05
"""How often a waiting side looks whether the other one has gone: bounds the time to stop, and
lets Ctrl-C through on systems where a lock held for good does not."""


@contextmanager
def prefetch(
    source: Iterable[T], depth: int, name: str = "prefetch", patience_s: float = math.inf
) -> Iterator[Iterator[T]]:
    """Iterate over `source` in a thread of its own, at most `depth` items ahead.

    Items keep their order. If `source` raises, the items before the fault still arrive, then
    the very exception is raised in the consumer. Leaving the context, for whatever reason,
    stops the thread as soon as the item in hand is done and waits for it; what it might have
    raised meanwhile is nobody's concern any more. If `source` is a generator, it is closed in
    the thread that ran it.

    Args:
        source: What to run ahead; iterated over in the new thread only.
        depth: Items that may wait in the queue, at least 1. With the one being handed in and
            the one last handed out, `depth + 2` exist at a time.
        name: The thread's name, for debuggers.
        patience_s: How long the consumer waits for an item before it counts `source` as
            hanging, as a network file system may. Nobody waits for its thread then.

    Yields:
        An iterator over the items, to be used by one thread; it ends with the context.

    Raises:
        TimeoutError: From the iterator, when patience ends.
    """
    stage = _Stage(source, depth, patience_s)
    # A daemon, so that a second Ctrl-C gets out even while a read that never returns goes on.
    thread = threading.Thread(target=stage.fill, name=name, daemon=True)
    thread.start()
    try:
        yield stage.drain()
    finally:
        stage.stop.set()
        if not stage.is_hanging:
            thread.join()


class _Stage(Generic[T]):
    """The bounded queue between one producing and one consuming thread."""

    def __init__(self, source: Iterable[T], depth: int, patience_s: float) -> None:
        if depth < 1:
            raise ValueError(f"the depth of a queue must be at least 1, not {depth}")
        self.source = source
        # One-element tuples, so that the empty one can mark the end whatever the items are.
        self.queue: queue.Queue[tuple[T, ...]] = queue.Queue(depth)
        self.patience_s, self.is_hanging = patience_s, False
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def fill(self) -> None:
        """Produce until the source ends, fails or is wanted no more (producing thread)."""
        try:
            self._produce()
        except BaseException as error:
            self.failure = error
        finally:
            self._put(())

    def _produce(self) -> None:
        iterator = iter(self.source)
        try:
            for item in iterator:
                if not self._put((item,)):
                    break
                del item  # or it would live on while the next one is made
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    def _put(self, parcel: tuple[T, ...]) -> bool:
        """Queue a parcel; False if the consumer left before there was room."""
        while not self.stop.is_set():
            try:
                self.queue.put(parcel, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def drain(self) -> Iterator[T]:
        """Yield the items, then raise what ended them if it was a fault (consuming thread)."""
        while parcel := self._get():
            yield parcel[0]
            del parcel
        if self.failure is not None:
            raise self.failure

    def _get(self) -> tuple[T, ...]:
        """Wait for a parcel; the empty one at the end, also that of the context."""
        end = time.monotonic() + self.patience_s
        while not self.stop.is_set():
            try:
                return self.queue.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() > end:
                    self.is_hanging = True
                    raise TimeoutError(f"no data came for {self.patience_s:.0f} s") from None
        return ()
