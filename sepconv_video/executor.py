"""Who does the work: this process, or others (see `workers`, `cluster`).

An executor takes tasks, each a span of one video, as its workers get free, and tells what became
of them in whatever order they end. A task may be done twice without harm, so one whose worker
died is given to the next. It knows nothing of claims, targets and reports.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from sepconv_video.errors import DeviceError, Interrupted, SepConvVideoError
from sepconv_video.options import Job, Options
from sepconv_video.pieces import Span
from sepconv_video.production import Production, ShouldStop, Watch, reading_of
from sepconv_video.segmenting import one_frame
from sepconv_video.video import Reader

if TYPE_CHECKING:
    from sepconv_video.engine import Engine

MOST_ATTEMPTS = 3
"""A task that killed so many workers is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A span of one video, to be made by one worker."""

    job: Job
    options: Options
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task."""

    task: Task
    error: SepConvVideoError | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker in another process says, of itself or of the task it has."""

    frames: int = 0
    expected: int | None = None
    is_end: bool = False
    """Whether it has done with what it was told to do."""
    is_fatal: bool = False
    """Whether no other task can be done by this worker either."""
    error: SepConvVideoError | None = None
    busy: dict[str, float] = field(default_factory=dict)
    """Where its time went, in seconds per stage; with the end of a task."""


OnFrames = Callable[[Task, int, int | None], None]
"""Called with the frames a task has written and those expected of its whole video."""


class Executor(Protocol):
    """Some workers."""

    notes: list[str]
    """What the user must know of the workers, one line each, e.g. that one was lost."""

    @property
    def size(self) -> int:
        """How many tasks can be done at a time."""

    def run(
        self, tasks: Iterator[Task], on_frames: OnFrames, should_stop: ShouldStop
    ) -> Iterator[Outcome]:
        """Do tasks, taken one by one as workers get free, and yield as they end.

        Raises:
            Interrupted: Because of `should_stop`; finished segments are kept.
            SepConvVideoError: No worker can be had.
        """


class Work(Protocol):
    """What a worker does."""

    def check(self, task: Task) -> None:
        """Look whether a task can be done at all, before anything is prepared for it.

        Raises:
            SepConvVideoError: It cannot.
        """

    def prepare(self) -> None:
        """Get ready for tasks.

        Raises:
            SepConvVideoError: No task can be done here.
        """

    def __call__(self, task: Task, watch: Watch) -> None:
        """Do a task.

        Raises:
            SepConvVideoError: This one cannot be done.
        """


class EngineWork:
    """Makes spans with one engine, built when the first task comes."""

    def __init__(self, options: Options, device: str) -> None:
        """Remember how to build the engine, and on which device."""
        self._options = replace(options, device=device)
        self._engine: Engine | None = None

    def check(self, task: Task) -> None:
        """Decode a frame or two, before an engine is started for it; see `Work`."""
        source = task.job.source
        with Reader(source, reading_of(task.options)) as reader:
            if task.span[0] == 0 and len(list(islice(reader.frames(), 2))) < 2:
                raise one_frame(source)

    def prepare(self) -> None:
        """Build the engine, if there is none yet; see `Work`."""
        from sepconv_video.engine import Engine  # noqa: PLC0415 - torch, where there is work only

        self._engine = self._engine or Engine.from_options(self._options)

    def __call__(self, task: Task, watch: Watch) -> None:
        """Make a span; see `Work`."""
        assert self._engine is not None  # prepared before
        Production(task.job, task.options).make(self._engine, task.span, watch)


class LocalExecutor:
    """This process itself."""

    size = 1

    def __init__(self, work: Work) -> None:
        """Take what does a task."""
        self._work, self.notes = work, list[str]()

    def run(
        self, tasks: Iterator[Task], on_frames: OnFrames, should_stop: ShouldStop
    ) -> Iterator[Outcome]:
        """Do the tasks one after the other; see `Executor`."""
        for task in tasks:
            if should_stop():
                raise interrupted()
            yield do(self._work, task, on_frames, should_stop)


def do(work: Work, task: Task, on_frames: OnFrames, should_stop: ShouldStop) -> Outcome:
    """Do one task here and turn its failure into an outcome.

    Raises:
        Interrupted: Because of `should_stop`.
        SepConvVideoError: No other task can be done here either, e.g. as the device is lost.
    """

    def told(count: int, expected: int | None) -> None:
        on_frames(task, count, expected)

    try:
        work.check(task)
    except SepConvVideoError as error:
        return Outcome(task=task, error=error)
    work.prepare()
    try:
        work(task, Watch(on_progress=told, should_stop=should_stop))
    except (Interrupted, DeviceError):
        raise
    except SepConvVideoError as error:
        return Outcome(task=task, error=error)
    return Outcome(task=task)


def interrupted() -> Interrupted:
    """Say that the user stopped the work between two tasks."""
    return Interrupted(
        "interrupted: finished segments are kept", "run the same command again to go on from there"
    )


def check(options: Options, devices: list[str]) -> None:
    """Refuse what no worker could work with, before any of them starts.

    Raises:
        SepConvVideoError: There is no such device, or the precision does not suit it.
    """
    from sepconv_video.devices import choose_device, choose_dtype  # noqa: PLC0415 - imports torch

    for name in devices:
        choose_dtype(options.precision, choose_device(name))
