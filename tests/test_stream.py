import gc
import itertools
import threading
import time
import weakref

import pytest

from sepconv_video.stream import prefetch


class StageError(Exception):
    pass


@pytest.fixture(autouse=True)
def no_thread_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def doubled(items):
    for item in items:
        yield 2 * item


def failing_after(items, count):
    for k, item in enumerate(items):
        if k == count:
            raise StageError(str(count))
        yield item


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_order_and_completeness(depth):
    with prefetch(range(500), depth) as todo, prefetch(doubled(todo), depth) as made:
        assert list(made) == list(range(0, 1000, 2))


def test_items_may_be_false_or_none():
    with prefetch([0, None, "", ()], 1) as items:
        assert list(items) == [0, None, "", ()]


def test_runs_ahead_in_a_thread_of_its_own():
    names = []

    def source():
        for k in range(3):
            names.append(threading.current_thread().name)
            yield k

    with prefetch(source(), 3, name="decode") as items:
        while len(names) < 3:
            time.sleep(0.001)
        assert list(items) == [0, 1, 2]
    assert set(names) == {"decode"}


@pytest.mark.parametrize("stage", ["decode", "engine", "main"])
def test_a_fault_in_any_stage_surfaces_at_once(stage):
    endless = itertools.count()
    decoded = failing_after(endless, 5) if stage == "decode" else endless
    taken = []

    def run():
        with prefetch(decoded, 2) as todo:
            work = failing_after(todo, 5) if stage == "engine" else todo
            with prefetch(doubled(work), 2) as made:
                for item in made:
                    taken.append(item)
                    if stage == "main" and len(taken) == 5:
                        raise StageError("5")

    start = time.perf_counter()
    with pytest.raises(StageError, match="5"):
        run()
    assert time.perf_counter() - start < 0.5
    assert taken == [0, 2, 4, 6, 8]  # all that came before the fault, and nothing after


def test_the_very_exception_arrives_with_its_traceback():
    fault = StageError("here")

    def source():
        raise fault
        yield

    with prefetch(source(), 1) as items, pytest.raises(StageError) as caught:
        next(items)
    assert caught.value is fault
    assert any(entry.name == "source" for entry in caught.traceback)


def test_early_exit_stops_an_endless_source():
    start = time.perf_counter()
    with prefetch(itertools.count(), 2) as todo, prefetch(doubled(todo), 2) as made:
        assert next(made) == 0
    assert time.perf_counter() - start < 0.5


def test_keyboard_interrupt_in_the_consumer():
    def run():
        with prefetch(itertools.count(), 2) as todo, prefetch(doubled(todo), 2) as made:
            for item in made:
                if item == 10:
                    raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert time.perf_counter() - start < 0.5


def test_generators_are_closed_in_their_own_thread():
    closed_in = []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed_in.append(threading.current_thread().name)

    with prefetch(source(), 1, name="decode") as items:
        next(items)
    assert closed_in == ["decode"]


def test_a_fault_while_closing_an_abandoned_source_is_dropped():
    def source():
        try:
            yield from itertools.count()
        finally:
            raise StageError("too late")

    with prefetch(source(), 1) as items:
        next(items)


def test_the_iterator_ends_with_its_context():
    with prefetch(itertools.count(), 2) as items:
        next(items)
    assert list(items) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_back_pressure_bounds_the_items_alive(depth):
    class Item:
        pass

    alive = weakref.WeakSet()
    most = 0

    def source():
        for _ in range(30):
            item = Item()
            alive.add(item)
            yield item
            del item

    with prefetch(source(), depth) as items:
        for _ in items:
            time.sleep(0.003)  # long enough for the producer to fill the queue
            most = max(most, len(alive))
    del _
    gc.collect()
    assert depth < most <= depth + 2
    assert len(alive) == 0


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"), prefetch([], 0):
        pass


def test_patience_ends_with_a_source_that_hangs():
    free = threading.Event()

    def source():
        yield 1
        free.wait(30)

    started = time.monotonic()
    with prefetch(source(), 1, "hanging", patience_s=0.2) as items:
        assert next(items) == 1
        with pytest.raises(TimeoutError, match="no data came for 0 s"):
            next(items)
    assert time.monotonic() - started < 5, "the hanging thread was waited for"
    free.set()
    hanging = [thread for thread in threading.enumerate() if thread.name == "hanging"]
    for thread in hanging:
        thread.join(10)
    assert not any(thread.is_alive() for thread in hanging)


def test_patience_is_for_each_item():
    def source():
        for item in range(4):
            time.sleep(0.1)
            yield item

    with prefetch(source(), 1, patience_s=0.35) as items:
        assert list(items) == [0, 1, 2, 3]
