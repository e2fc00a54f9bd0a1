"""What workers do in tests, in a module of its own, since other processes must import it."""

import os
import signal
import time
from functools import partial
from pathlib import Path

from sepconv_video.engine import Engine
from sepconv_video.errors import DeviceError, Interrupted, VideoError
from sepconv_video.production import Production


def average(left, right):
    return (left + right) / 2


class AverageWork:
    """Makes averages of the two neighbours."""

    def __init__(self, device):
        self.device = device

    def check(self, task):
        pass

    def prepare(self):
        self.engine = Engine(average)

    def __call__(self, task, watch):
        Production(task.job, task.options).make(self.engine, task.span, watch)


class UnreadyWork(AverageWork):
    """Must never be needed."""

    def prepare(self):
        raise AssertionError("there is nothing to do")


class DyingWork(AverageWork):
    """Dies at one file, always or if a mark is not there yet."""

    def __init__(self, device, name="", mark=None):
        super().__init__(device)
        self.name, self.mark = name, mark

    @classmethod
    def once(cls, mark: Path):
        return partial(cls, mark=mark)

    @classmethod
    def at(cls, name):
        return partial(cls, name=name)

    def __call__(self, task, watch):
        if self.mark is not None and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task.job.source.name == self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        super().__call__(task, watch)


class AskedToEndWork(AverageWork):
    """Is asked to end, as `timeout` and systemd ask all processes of a group."""

    def __call__(self, task, watch):
        os.kill(os.getpid(), signal.SIGTERM)
        super().__call__(task, watch)


class FailingWork(AverageWork):
    def __call__(self, task, watch):
        if task.job.source.name == "b.mkv":
            raise VideoError("cannot do it", "a hint")
        super().__call__(task, watch)


class FailingBeginningWork(AverageWork):
    """Cannot make the first piece of a video."""

    def __call__(self, task, watch):
        if task.span[0] == 0:
            raise VideoError("cannot do it", "a hint")
        super().__call__(task, watch)


class LostWork(AverageWork):
    """The device `bad` is lost with the first task."""

    def __call__(self, task, watch):
        if self.device == "bad":
            raise DeviceError("the device is lost")
        super().__call__(task, watch)


class SleepingWork(AverageWork):
    """Sleeps until it is to stop."""

    def __call__(self, task, watch):
        for _ in range(1200):
            if watch.wants_to_stop():
                raise Interrupted("stopped")
            time.sleep(0.05)
            if watch.on_progress:
                watch.on_progress(1, 2)
