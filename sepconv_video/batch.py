"""Many files with one executor: do what nobody has done yet, go on after a failure."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction

from sepconv_video.errors import BusyError, OptionsError, SepConvVideoError
from sepconv_video.executor import Executor, Task
from sepconv_video.folder_report import FolderReport
from sepconv_video.options import Job, Options
from sepconv_video.pieces import Span
from sepconv_video.production import Production, ShouldStop
from sepconv_video.report import Report
from sepconv_video.segmenting import SEGMENT_FRAMES
from sepconv_video.shipped import weights_digest
from sepconv_video.video import Extent, measure

PIECES_PER_WORKER = 3
"""A video longer than a worker's share is cut into spans, so many to a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one job."""

    job: Job
    state: str
    """`done`; `damaged`: done, but not all of the source could be decoded; `skipped`: complete
    from an earlier run; `taken`: another process is making it; `failed`."""
    report: Report | None = None
    error: SepConvVideoError | None = None

    @property
    def is_good(self) -> bool:
        """Whether the whole video is there or on its way, made from an undamaged source."""
        damage = self.report.damage if self.report else None
        return self.state in {"done", "skipped", "taken"} and damage is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one job is, in frames of its target."""

    job: Job
    done: int
    kept: int
    """Those done by an earlier run."""
    expected: int | None
    """What the source's header promises."""
    note: str = ""
    """At the beginning: why what an earlier run had finished cannot be used."""


OnProgress = Callable[[Progress], None]


def run_jobs(
    jobs: Sequence[Job],
    options: Options,
    executor: Executor,
    *,
    folder_report: FolderReport | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop = lambda: False,
) -> Iterator[Result]:
    """Do the jobs, longest first; a failure does not stop the rest.

    Args:
        jobs: What to make.
        options: How, for all of them.
        executor: Who does it; with several workers long videos are shared among them.
        folder_report: Records what became of each, and knows which are finished already.
        on_progress: Called as frames are written.
        should_stop: Asked now and then; True ends the work soon and keeps what is finished.

    Yields:
        One result per job, as they end.

    Raises:
        Interrupted: Because of `should_stop`.
        SepConvVideoError: No worker can be had: no such device, or all were lost.
    """
    weights_digest(options.model)  # or each file would fail for lack of the same model
    with _Dispatcher(options, executor, folder_report, on_progress) as dispatcher:
        todo = dispatcher.longest_first(jobs)
        while todo:
            for outcome in executor.run(dispatcher.tasks(todo), dispatcher.count, should_stop):
                dispatcher.end_of(outcome.task, outcome.error)
                yield from dispatcher.news()
            todo = dispatcher.given_up()
            yield from dispatcher.news()


@dataclass(slots=True)
class _OpenJob:
    """A job that is being done."""

    production: Production
    claim: ExitStack
    open_tasks: int
    kept: int
    done: dict[Span, int]


class _Dispatcher:
    """Hands out tasks, keeps the claims, and finishes what is complete."""

    def __init__(
        self,
        options: Options,
        executor: Executor,
        folder_report: FolderReport | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._options, self._workers, self._notes = options, executor.size, executor.notes
        self._folder_report, self._on_progress = folder_report, on_progress
        self._open: dict[Job, _OpenJob] = {}
        self._news: deque[Result] = deque()
        self._extents: dict[Job, Extent] = {}
        self._taken: dict[Job, SepConvVideoError] = {}

    def __enter__(self) -> "_Dispatcher":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open.values():
            opened.claim.close()

    def longest_first(self, jobs: Sequence[Job]) -> list[Job]:
        """Measure the jobs and put the longest first, so that the end does not wait for it."""
        if len(jobs) > 1 or self._workers > 1:
            self._extents = {job: measure(job.source) for job in jobs}
        return sorted(jobs, key=lambda job: -self._pixels(job))

    def _pixels(self, job: Job) -> int:
        extent = self._extents.get(job)
        return extent.pixels * extent.frames if extent else 0

    def tasks(self, jobs: Sequence[Job]) -> Iterator[Task]:
        """Claim one job after the other: whole ones first, then the pieces of the long ones."""
        total = sum(map(self._pixels, jobs))
        share = Fraction(total, self._workers * PIECES_PER_WORKER)
        is_long = {job: self._workers > 1 and self._pixels(job) > share for job in jobs}
        for job in sorted(jobs, key=is_long.__getitem__):
            spans = self._begin(job)
            if is_long[job]:
                frames = max(1, round(share / self._extents[job].pixels))
                spans = [
                    piece for span in spans for piece in _pieces(span, frames, self._extents[job])
                ]
            if spans:
                self._open[job].open_tasks = len(spans)
                for span in spans:
                    if job in self._open:  # or another of its tasks has failed
                        yield Task(job=job, options=self._options, span=span)
            elif job in self._open:
                self._finish(job)

    def _begin(self, job: Job) -> list[Span]:
        """Claim a job and say what is to be made; nothing if it is not ours to do."""
        claim, production = ExitStack(), None
        try:
            self._check_inside(job)
            production = Production(job, self._options)
            if self._is_finished(job, production):
                return []
            claim.enter_context(production.parts.claim())
            if job.target.exists() and self._is_finished(job, production):
                claim.close()  # by another process, since we looked
                return []
            report = production.begin()
        except BusyError as error:
            self._taken[job] = error
        except SepConvVideoError as error:
            claim.close()
            self._tell(job, production=production, error=error)
        else:
            self._open[job] = _OpenJob(production, claim, 0, production.kept_frames, {})
            if report is None:
                why = production.note
                if why and self._on_progress is not None:  # while old pieces can still be saved
                    self._on_progress(Progress(job=job, done=0, kept=0, expected=None, note=why))
                return production.spans()
            self._close(job, report=report, was_complete=True)
        return []

    def _is_finished(self, job: Job, production: Production) -> bool:
        if self._folder_report is None or not self._options.resume:
            return False
        entry = self._folder_report.finished(job.target, production.parts.identity)
        if entry is None:
            return False
        report = Report.from_json(entry["report"])
        self._news.append(Result(job=job, state="skipped", report=report))
        if production.parts.folder.is_dir():  # whoever finished it died over their removal
            with suppress(SepConvVideoError), production.parts.claim():
                production.clean()
        return True

    def _check_inside(self, job: Job) -> None:
        """Refuse a target that a link would lead out of the output folder."""
        if self._folder_report is None:
            return
        folder = self._folder_report.folder.resolve()
        if not job.target.parent.resolve().is_relative_to(folder):
            raise OptionsError(
                f"cannot write `{job.target}`: a link leads outside `{self._folder_report.folder}`",
                "remove the link",
            )

    def count(self, task: Task, frames: int, expected: int | None) -> None:
        """Note how far a task is."""
        opened = self._open.get(task.job)
        if opened is None:
            return  # another task of the job has failed
        opened.done[task.span] = frames
        if self._on_progress is not None:
            done = opened.kept + sum(opened.done.values())
            self._on_progress(
                Progress(job=task.job, done=done, kept=opened.kept, expected=expected)
            )

    def end_of(self, task: Task, error: SepConvVideoError | None) -> None:
        """Note the end of a task; with the last one of a job the target is put together."""
        opened = self._open.get(task.job)
        if opened is None:
            return  # another task of the job has failed
        opened.open_tasks -= 1
        if error is not None:
            self._close(task.job, error=error)
        elif opened.open_tasks == 0:
            self._finish(task.job)

    def _finish(self, job: Job) -> None:
        try:
            report = self._open[job].production.join()
        except SepConvVideoError as error:
            self._close(job, error=error)
        else:
            self._close(job, report=report)

    def _close(
        self,
        job: Job,
        report: Report | None = None,
        error: SepConvVideoError | None = None,
        *,
        was_complete: bool = False,
    ) -> None:
        """Write down what became of a job, and only then remove its pieces and let it go."""
        opened = self._open.pop(job)
        with opened.claim:
            is_known = self._tell(
                job,
                production=opened.production,
                report=report,
                error=error,
                was_complete=was_complete,
            )
            if report is not None and is_known:  # or the next run has to find it out by them
                opened.production.clean()

    def _tell(
        self,
        job: Job,
        *,
        production: Production | None,
        report: Report | None = None,
        error: SepConvVideoError | None = None,
        was_complete: bool = False,
    ) -> bool:
        """Announce a result, and record it in the report; whether that could be done."""
        state = "failed" if report is None else "damaged" if report.damage else "done"
        result = Result(job=job, state=state, report=report, error=error)
        self._news.append(replace(result, state="skipped") if was_complete else result)
        # the entry of a target that must not be touched stays
        is_foreign = isinstance(error, OptionsError) and production and job.target.exists()
        if self._folder_report is None or is_foreign:
            return True
        try:
            self._folder_report.record(job.target, _entry(result, production))
        except SepConvVideoError as failure:  # e.g. a full disk, which the next file may fit on
            note = f"the report is incomplete: {failure.message}"
            if note not in self._notes:
                self._notes.append(note)
            return False
        return True

    def news(self) -> Iterator[Result]:
        """Give the results there are since the last time."""
        while self._news:
            yield self._news.popleft()

    def given_up(self) -> list[Job]:
        """List the jobs that other processes had taken and no longer hold: perhaps they died."""
        taken, self._taken = self._taken, {}
        free = [job for job in taken if self._is_free(job)]
        self._news += [
            Result(job=job, state="taken", error=error)
            for job, error in taken.items()
            if job not in free
        ]
        return free

    def _is_free(self, job: Job) -> bool:
        with ExitStack() as trial:
            try:
                trial.enter_context(Production(job, self._options).parts.claim())
            except SepConvVideoError:
                return False
        return True


def _entry(result: Result, production: Production | None) -> dict[str, object]:
    entry: dict[str, object] = {"source": str(result.job.source), "state": result.state}
    if production is not None:
        entry["identity"] = production.parts.identity
    if result.report is not None:
        entry["report"] = result.report.as_json()
    if result.error is not None:
        entry |= {"error": result.error.message, "hint": result.error.hint}
    return entry


def _pieces(span: Span, frames: int, extent: Extent) -> Iterator[Span]:
    """Cut a span at borders of segments into pieces of about so many frames.

    The last one is open to the end, since headers may promise too much or too little.
    """
    first, end = span
    step = max(1, round(frames / SEGMENT_FRAMES)) * SEGMENT_FRAMES
    border = (first // SEGMENT_FRAMES) * SEGMENT_FRAMES + step
    until = extent.frames if end is None else end
    while border + SEGMENT_FRAMES // 2 < until:
        yield first, border
        first, border = border, border + step
    yield first, end
