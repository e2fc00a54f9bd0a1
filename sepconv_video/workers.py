"""Worker processes on this machine, one for each device, so that several GPUs work at a time."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait

from sepconv_video import timing
from sepconv_video.errors import Interrupted, SepConvVideoError, VideoError
from sepconv_video.executor import (
    MOST_ATTEMPTS,
    Message,
    OnFrames,
    Outcome,
    Task,
    Work,
    do,
    interrupted,
)
from sepconv_video.production import ShouldStop

_TELL_S = 0.5  # how often a worker tells how far it is


class ProcessExecutor:
    """One worker process per device, each with an engine of its own."""

    def __init__(self, devices: list[str], make_work: Callable[[str], Work]) -> None:
        """Plan the workers; they start with the first task.

        Args:
            devices: What each worker works on, e.g. `["cuda:0", "cuda:1"]`.
            make_work: Called with a device in the worker's process; must be picklable.
        """
        self.size, self.notes = len(devices), list[str]()
        self._devices, self._make_work = devices, make_work
        self._context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._stop = self._context.Event()

    def run(
        self, tasks: Iterator[Task], on_frames: OnFrames, should_stop: ShouldStop
    ) -> Iterator[Outcome]:
        """Do the tasks in the workers; see `Executor`."""
        session = _Session(self._start, self._devices, tasks, self.notes)
        try:
            with _shared_cores(self._devices):
                yield from session.outcomes(on_frames, should_stop, self._stop.set)
        except BaseException:
            session.end(patience_s=0)
            raise
        session.end(patience_s=10)

    def _start(self, device: str) -> "_Worker":
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._make_work, device, self._stop), daemon=True
        )
        process.start()
        theirs.close()  # or its death would go unnoticed
        return _Worker(ours, process, device)


class _Worker:
    """A worker process, seen from outside."""

    def __init__(
        self,
        connection: "Connection[Task | None, Message]",
        process: multiprocessing.process.BaseProcess,
        device: str,
    ) -> None:
        self.connection, self.process, self.device = connection, process, device
        self.task: Task | None = None

    def give(self, task: Task) -> None:
        self.task = task
        with suppress(OSError):  # dead already: noticed when its answer is waited for
            self.connection.send(task)

    def death(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        return f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"


class _Session:
    """The workers while they work through tasks."""

    def __init__(
        self,
        start: Callable[[str], _Worker],
        devices: list[str],
        tasks: Iterator[Task],
        notes: list[str],
    ) -> None:
        self._start, self._tasks, self._notes = start, tasks, notes
        self._again: list[Task] = []
        self._attempts: dict[Task, int] = {}
        self._unmanned = list(devices)
        self._workers: list[_Worker] = []

    def outcomes(
        self, on_frames: OnFrames, should_stop: ShouldStop, stop: Callable[[], None]
    ) -> Iterator[Outcome]:
        is_stopping = False
        while self._assign(is_stopping=is_stopping):
            if should_stop() and not is_stopping:
                is_stopping = True
                stop()
            heard = list(self._wait(on_frames))
            self._assign(is_stopping=is_stopping)  # what comes of an outcome may take long
            yield from heard
        if is_stopping:
            raise interrupted()

    def _wait(self, on_frames: OnFrames) -> Iterator[Outcome]:
        busy = {worker.connection: worker for worker in self._workers if worker.task}
        for connection in wait(list(busy), timeout=0.2):
            outcome = self._on_message(busy[connection], on_frames)  # type: ignore[index]
            if outcome is not None and not isinstance(outcome.error, Interrupted):
                yield outcome

    def _assign(self, *, is_stopping: bool) -> bool:
        """Give tasks to idle workers; False when nobody works any more."""
        idle = [worker for worker in self._workers if worker.task is None]
        while not is_stopping and (idle or self._unmanned):
            task = self._again.pop() if self._again else next(self._tasks, None)
            if task is None:
                break
            worker = idle.pop() if idle else self._hire()
            worker.give(task)
        return any(worker.task for worker in self._workers)

    def _hire(self) -> _Worker:
        worker = self._start(self._unmanned.pop(0))
        self._workers.append(worker)
        return worker

    def _on_message(self, worker: _Worker, on_frames: OnFrames) -> Outcome | None:
        """Take a worker's message; an outcome if it has done with its task."""
        task = worker.task
        assert task is not None  # only busy ones are listened to
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._on_death(worker, task)
        if not message.is_end:
            on_frames(task, message.frames, message.expected)
            return None
        worker.task = None
        timing.give(message.busy)
        if message.error is not None and message.is_fatal:
            self._dismiss(worker, task, message.error)
            return None
        return Outcome(task=task, error=message.error)

    def _on_death(self, worker: _Worker, task: Task) -> Outcome | None:
        """A worker died: another one gets its task, unless the task is what kills them."""
        self._workers.remove(worker)
        self._unmanned.append(worker.device)
        self._attempts[task] = self._attempts.get(task, 0) + 1
        if self._attempts[task] < MOST_ATTEMPTS:
            self._again.append(task)
            return None
        return Outcome(
            task=task,
            error=VideoError(
                f"cannot make `{task.job.target}`: its worker {worker.death()}, "
                f"{MOST_ATTEMPTS} times",
                "make sure that memory suffices, and run it again: finished segments are kept",
            ),
        )

    def _dismiss(self, worker: _Worker, task: Task, error: SepConvVideoError) -> None:
        """A device is lost: the others go on without it, as long as there are any."""
        self._workers.remove(worker)
        worker.connection.close()
        self._again.append(task)
        if not self._workers and not self._unmanned:
            raise error
        self._notes.append(f"device `{worker.device}` failed, the others went on: {error.message}")

    def end(self, patience_s: float) -> None:
        """Tell all workers to end, and kill those that do not."""
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.send(None)
            worker.connection.close()
        deadline = time.monotonic() + patience_s
        for worker in self._workers:
            worker.process.join(max(0.1, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


@contextmanager
def _shared_cores(devices: list[str]) -> Iterator[None]:
    """Let workers on the CPU share its cores: started meanwhile, they read how many they have."""
    share = max(1, (os.cpu_count() or 1) // max(1, devices.count("cpu")))
    wanted = {name: str(share) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    before = {name: os.environ.get(name) for name in wanted}
    if devices.count("cpu") > 1:
        os.environ.update({name: n for name, n in wanted.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _serve(
    connection: "Connection[Message, Task | None]",
    make_work: Callable[[str], Work],
    device: str,
    stop: "multiprocessing.synchronize.Event",
) -> None:
    """Do tasks until there are no more or the other side is gone (worker process)."""
    # Ctrl-C reaches every process of the terminal; the main one decides what it means
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    work = make_work(device)
    with suppress(EOFError, OSError):  # the main process is gone: nothing left to do
        while (task := connection.recv()) is not None:
            connection.send(_answer(work, task, connection, stop.is_set))


def _answer(
    work: Work,
    task: Task,
    connection: "Connection[Message, Task | None]",
    should_stop: ShouldStop,
) -> Message:
    told = time.monotonic()

    def tell(_: Task, frames: int, expected: int | None) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            connection.send(Message(frames, expected))

    try:
        error = do(work, task, tell, should_stop).error
        return Message(is_end=True, error=error, busy=timing.take())
    except SepConvVideoError as error:
        is_fatal = not isinstance(error, Interrupted)
        return Message(is_end=True, is_fatal=is_fatal, error=error)
