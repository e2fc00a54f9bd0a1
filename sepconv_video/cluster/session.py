"""The workers while they work through tasks, seen from the process that hands these out."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError, RayTaskError

from sepconv_video import timing
from sepconv_video.cluster.places import Place, living_nodes, places
from sepconv_video.errors import DeviceError, Interrupted, SepConvVideoError, VideoError
from sepconv_video.executor import (
    MOST_ATTEMPTS,
    Message,
    OnFrames,
    Outcome,
    Task,
    Work,
    interrupted,
)
from sepconv_video.options import CUTS, Job, Options
from sepconv_video.production import ShouldStop
from sepconv_video.shipped import OFFICIAL_MODELS, shipped_models

PATIENCE_S = 120.0
"""Seconds to wait while no worker is there: nodes start, engines load, others' jobs end."""
STOP_PATIENCE_S = 60.0
"""Seconds for workers to finish the frame in hand when the user wants to stop."""
_HIRE_S = 3.0  # how often nodes that have joined are looked for
_PULSE_S = 1.0  # how often a worker is asked how far it is


def with_absolute_paths(options: Options) -> Options:
    """Give options that mean the same on every node: files by their whole paths."""
    if options.model not in shipped_models():
        official = OFFICIAL_MODELS.get(options.model)
        path = Path(options.model) if official is None else official.file
        options = replace(options, model=str(path.absolute()))
    if options.cuts not in CUTS:
        options = replace(options, cuts=str(Path(options.cuts).absolute()))
    return options


class _Worker:
    """A worker, seen from here."""

    def __init__(self, place: Place, actor: Any, *, is_founder: bool) -> None:  # noqa: ANN401
        self.place, self.actor, self.is_founder = place, actor, is_founder
        self.is_ready = False
        self.task: Task | None = None
        self.answer: Any = actor.prepare.remote()
        self.pulse: Any = None
        self._pulsed = 0.0

    @property
    def is_idle(self) -> bool:
        return self.answer is None

    def give(self, task: Task) -> None:
        job = Job(source=task.job.source.absolute(), target=task.job.target.absolute())
        task_there = replace(task, job=job, options=with_absolute_paths(task.options))
        self.task, self.answer, self.pulse = task, self.actor.do.remote(task_there), None
        self._pulsed = time.monotonic()

    def ask(self, *, is_stopping: bool) -> None:
        """Ask how far the task is, if the last answer is there and not fresh."""
        if self.task and self.pulse is None and time.monotonic() - self._pulsed >= _PULSE_S:
            self._pulsed = time.monotonic()
            self.pulse = self.actor.pulse.remote(is_stopping)

    def awaited(self) -> list[Any]:
        return [reference for reference in (self.answer, self.pulse) if reference is not None]


class Session:
    """The workers while they work through tasks."""

    def __init__(
        self,
        device: str,
        make_work: Callable[[str], Work],
        tasks: Iterator[Task],
        notes: list[str],
    ) -> None:
        """Start no worker yet: perhaps there is nothing to do."""
        self._device, self._make_work = device, make_work
        self._tasks, self._notes = tasks, notes
        self._open: list[Task] = []
        self._lost_on: dict[Task, list[str]] = {}
        self._stillborn: dict[Place, int] = {}
        self._refused: set[Place] = set()
        self._workers: list[_Worker] = []
        self._hired: float | None = None
        self._manned = 0.0
        self._stopped: float | None = None

    def outcomes(self, on_frames: OnFrames, should_stop: ShouldStop) -> Iterator[Outcome]:
        """Do the tasks; see `executor.Executor`."""
        self._manned = time.monotonic()
        while self._assign() and not self._is_patience_over():
            if self._stopped is None and should_stop():
                self._stopped = time.monotonic()
            if self._stopped is None:
                self._hire()
            for worker in self._workers:
                worker.ask(is_stopping=self._stopped is not None)
            for outcome in self._wait(on_frames):
                if outcome.error is None:  # else other tasks may have become pointless
                    self._assign()  # now, as whoever takes the outcome may take long to join
                yield outcome
        if self._stopped is not None:
            raise interrupted()

    def _is_patience_over(self) -> bool:
        return self._stopped is not None and time.monotonic() - self._stopped > STOP_PATIENCE_S

    def _assign(self) -> bool:
        """Give tasks to idle workers; False when nothing is left to do or to wait for."""
        idle = [worker for worker in self._workers if worker.is_idle]
        is_stopping = self._stopped is not None
        # without any worker at all one task is taken, to know whether it is worth waiting
        while not is_stopping and (idle or not (self._open or self._is_busy())):
            task = self._open.pop() if self._open else next(self._tasks, None)
            if task is None:
                break
            if idle:
                idle.pop().give(task)
            else:
                self._open.append(task)
        return self._is_busy() or (not is_stopping and bool(self._open))

    def _is_busy(self) -> bool:
        return any(worker.task for worker in self._workers)

    def _hire(self) -> None:
        """Start workers wherever there is none yet, and see that there are any."""
        now = time.monotonic()
        if any(worker.is_ready for worker in self._workers):
            self._manned = now
        elif now - self._manned > PATIENCE_S:
            raise DeviceError(
                f"the Ray cluster has had no worker for {PATIENCE_S:.0f} s",
                "look at `ray status`: which nodes are up, what is busy? then run it again",
            )
        if self._hired is not None and now - self._hired < _HIRE_S:
            return
        taken = self._refused | {worker.place for worker in self._workers}
        for place in places(self._device):
            if place not in taken:
                actor = place.hire(self._make_work)
                self._workers.append(_Worker(place, actor, is_founder=self._hired is None))
        self._hired = now

    def _wait(self, on_frames: OnFrames) -> Iterator[Outcome]:
        """Wait a little for what the workers say."""
        speakers = {answer: worker for worker in self._workers for answer in worker.awaited()}
        if not speakers:
            time.sleep(0.2)
            return
        ready, _ = ray.wait(list(speakers), num_returns=1, timeout=0.2)
        for reference in ready:
            worker = speakers[reference]
            try:
                message = ray.get(reference)
            except RayTaskError:
                raise  # as it may be another error's subclass as well
            except (RayActorError, ActorUnschedulableError) as error:
                outcome = self._on_death(worker, error)
            else:
                outcome = self._on_message(worker, message, on_frames)
            if outcome is not None and not isinstance(outcome.error, Interrupted):
                yield outcome

    def _on_message(self, worker: _Worker, message: Message, on_frames: OnFrames) -> Outcome | None:
        """Take what a worker says; an outcome if it has done with its task."""
        task = worker.task
        if task is not None and message.frames:
            on_frames(task, message.frames, message.expected)
        if not message.is_end:
            worker.pulse = None
            return None
        worker.answer = worker.pulse = worker.task = None
        timing.give(message.busy)
        if message.error is not None and message.is_fatal:
            self._refuse(worker, task, message.error)
            return None
        worker.is_ready = True
        return Outcome(task=task, error=message.error) if task else None

    def _refuse(self, worker: _Worker, task: Task | None, error: SepConvVideoError) -> None:
        """A place cannot be used: the others go on, unless it is the first thing that happens."""
        self._remove(worker)
        self._refused.add(worker.place)
        if task is not None:
            self._open.append(task)
        if not self._workers or (worker.is_founder and not worker.is_ready):
            raise error
        self._notes.append(f"a worker failed, the others went on: {error.message}")

    def _on_death(self, worker: _Worker, error: RayError) -> Outcome | None:
        """A worker is lost: another one gets its task, unless the task is what kills them."""
        self._remove(worker)
        task, node_id = worker.task, worker.place.node_id
        if task is None:
            self._miss(worker, error)
            return None
        lost_on = self._lost_on.setdefault(task, [])
        lost_on.append(node_id)
        if len(lost_on) < MOST_ATTEMPTS or not _is_to_blame(lost_on):
            self._open.append(task)
            return None
        return Outcome(
            task=task,
            error=VideoError(
                f"cannot make `{task.job.target}`: {MOST_ATTEMPTS} workers died making it, the "
                f"last on node `{worker.place.node}`",
                "make sure that memory suffices, and run it again: finished segments are kept",
            ),
        )

    def _miss(self, worker: _Worker, error: RayError) -> None:
        """A worker never came to be ready: that is its node's end, or its node's fault."""
        place = worker.place
        self._stillborn[place] = self._stillborn.get(place, 0) + 1
        if place.node_id not in living_nodes():
            return
        is_hopeless = isinstance(error, RayActorError) and error.actor_init_failed
        if is_hopeless or self._stillborn[place] >= MOST_ATTEMPTS:
            reason = str(error).strip().rpartition("\n")[2]
            refusal = DeviceError(
                f"node `{place.node}` cannot work: {reason}",
                'check that it is installed there: pip install "sepconv-video[cluster]"',
            )
            self._refuse(worker, None, refusal)

    def _remove(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        # it may be out of reach only
        with suppress(RayError):
            ray.kill(worker.actor)

    def end(self) -> None:
        """Dismiss all workers."""
        for worker in list(self._workers):
            self._remove(worker)


def _is_to_blame(lost_on: list[str]) -> bool:
    """Whether a task lost enough workers on nodes that live, as far as Ray has noticed yet."""
    living = living_nodes()
    return sum(node_id in living for node_id in lost_on) >= MOST_ATTEMPTS
