"""An executor on a Ray cluster: one worker per GPU, each holding an engine, wherever there is one.

What the cluster needs:
- this package, of one version and with the same PyAV, installed on every node; nothing is sent;
- one file system for sources and targets, under the same paths on every node: workers write
  segments into `TARGET.parts`, this process joins them;
- this process on one of its nodes.

If any node has a GPU, only GPUs work, since a CPU would be a hundred times slower; else one
worker per node has all its CPUs. Only paths and counts travel through Ray, no frames.

A worker that is lost, with its node or alone, costs what it had not finished of its segment:
Ray restarts nothing, the task goes to the next free worker, which finds the finished segments.
Nodes that join later are put to work too.
"""

from collections.abc import Callable, Iterator

from sepconv_video.errors import DeviceError
from sepconv_video.executor import OnFrames, Outcome, Task, Work
from sepconv_video.production import ShouldStop

try:
    from ray.exceptions import RayError, RayTaskError
except ImportError as missing:
    raise DeviceError(
        f"cannot work on a Ray cluster from here: {missing}",
        'install Ray on every node: pip install "sepconv-video[cluster]"',
    ) from missing

from sepconv_video.cluster.places import connect, first_line, living_nodes, places
from sepconv_video.cluster.session import Session, with_absolute_paths

__all__ = ["RayExecutor", "with_absolute_paths"]


class RayExecutor:
    """The GPUs of a Ray cluster, or the CPUs of one that has none; see `executor.Executor`."""

    def __init__(self, address: str, make_work: Callable[[str], Work]) -> None:
        """Connect to a cluster that runs, and count the workers it can have.

        Args:
            address: Of its head, e.g. `10.0.0.1:6379`; `auto` for the one of this machine.
            make_work: Called with a device in the worker's process; must be picklable.

        Raises:
            DeviceError: There is no cluster, or nothing in it to work with.
        """
        self.notes: list[str] = []
        connect(address)
        has_gpu = any(node["Resources"].get("GPU", 0) >= 1 for node in living_nodes().values())
        self._device, self._make_work = "cuda" if has_gpu else "cpu", make_work
        self.size = len(places(self._device))
        if self.size == 0:
            raise DeviceError(
                "the Ray cluster has neither a GPU nor a CPU to work with",
                "add nodes that have, with `ray start --address=HEAD:6379`",
            )

    def run(
        self, tasks: Iterator[Task], on_frames: OnFrames, should_stop: ShouldStop
    ) -> Iterator[Outcome]:
        """Do the tasks on the cluster; see `executor.Executor`."""
        session = Session(self._device, self._make_work, tasks, self.notes)
        try:
            yield from session.outcomes(on_frames, should_stop)
        except RayTaskError:
            raise  # a fault of ours, with the worker's traceback
        except RayError as error:
            raise DeviceError(
                f"the Ray cluster is lost: {first_line(error)}",
                "finished segments are kept: run the same command again when it is back",
            ) from error
        finally:
            session.end()
