"""What a worker does, in a process of Ray's on some node."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ray

from sepconv_video import timing
from sepconv_video.errors import Interrupted, SepConvVideoError, VideoError
from sepconv_video.executor import Message, Task, Work, do
from sepconv_video.parts import Parts
from sepconv_video.production import identity_of

SIGHT_S = 5.0
"""Seconds a network file system may take to show one node what another one wrote."""


class RayWorker:
    """A worker, in a process of Ray's on some node; one thread works, the other answers."""

    def __init__(
        self, make_work: Callable[[str], Work], device: str, node: str, threads: int
    ) -> None:
        """Remember what to do; nothing that may fail, since it could not be told in words."""
        self._make_work, self._device, self._node = make_work, device, node
        self._threads = threads
        self._work: Work | None = None
        self._told = Message()
        self._is_stopping = False

    def prepare(self) -> Message:
        """Build the engine."""
        # read when torch is imported, which comes with the engine
        os.environ |= {"OMP_NUM_THREADS": str(self._threads), "OMP_WAIT_POLICY": "PASSIVE"}
        try:
            self._work = self._make_work(self._device)
            self._work.prepare()
        except SepConvVideoError as error:
            return Message(is_end=True, is_fatal=True, error=self._here(error))
        return Message(is_end=True)

    def do(self, task: Task) -> Message:
        """Do a task; whatever a user may meet comes back as a value."""
        assert self._work is not None  # prepared before
        self._told = Message()
        try:
            self._check_sight(task)
        except SepConvVideoError as error:
            return Message(is_end=True, error=error)
        try:
            outcome = do(self._work, task, self._tell, lambda: self._is_stopping)
        except Interrupted as stopped:
            return replace(self._told, is_end=True, error=stopped)
        except SepConvVideoError as lost:
            return replace(self._told, is_end=True, is_fatal=True, error=self._here(lost))
        return replace(self._told, is_end=True, error=outcome.error, busy=timing.take())

    @ray.method(concurrency_group="control")
    def pulse(self, is_stopping: bool) -> Message:
        """Hear whether to stop, and say how far the task is."""
        self._is_stopping = is_stopping
        return self._told

    def _tell(self, _: Task, frames: int, expected: int | None) -> None:
        self._told = Message(frames, expected)

    def _here(self, error: SepConvVideoError) -> SepConvVideoError:
        return type(error)(f"node `{self._node}`: {error.message}", error.hint)

    def _check_sight(self, task: Task) -> None:
        """Refuse to work where this node sees other files, or has other versions, than the first.

        Raises:
            VideoError: Source or pieces are not what the process that began the target saw.
        """
        job = task.job
        if not job.source.exists():
            raise self._unseen(job.source)
        identity = identity_of(job, task.options)
        parts = Parts(job.target, identity)
        deadline = time.monotonic() + SIGHT_S
        while (begun := parts.begun()) is None:
            if time.monotonic() > deadline:
                raise self._unseen(parts.folder)
            time.sleep(0.2)
        for name, value in identity.items():
            if begun.get(name) != value:
                raise VideoError(
                    f"cannot make `{job.target}`: its {name} is {value} on node `{self._node}`, "
                    f"but {begun.get(name)} where it was begun",
                    "all nodes need the same files, and the same versions of sepconv-video and av",
                )

    def _unseen(self, path: Path) -> VideoError:
        return VideoError(
            f"`{path}` is not visible on node `{self._node}`",
            "sources and targets must lie on a file system that all nodes share, "
            "under the same path",
        )
