"""The cluster itself: joining it, its nodes, and where on them workers can be."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import services
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sepconv_video.cluster.worker import RayWorker
from sepconv_video.errors import DeviceError
from sepconv_video.executor import Work

_CONNECT_S = 5.0
_list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
_remote: Callable[..., Any] = ray.remote  # whose types know nothing of groups
# a thread of its own to answer in while the other one works
_Actor = _remote(concurrency_groups={"control": 1}, max_restarts=0)(RayWorker)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker can be."""

    node_id: str
    node: str
    number: int
    """Of the place on its node."""
    cpus: int
    gpus: int
    threads: int

    def hire(self, make_work: Callable[[str], Work]) -> Any:  # noqa: ANN401 - Ray's handle
        """Start a worker here; Ray does so when what it needs is free."""
        return _Actor.options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.node_id, soft=False),
        ).remote(make_work, "cuda" if self.gpus else "cpu", self.node, self.threads)


def living_nodes() -> dict[str, dict[str, Any]]:
    """Give what Ray knows of the nodes that are alive, by their identity."""
    return {node["NodeID"]: node for node in _list_nodes() if node["Alive"]}


def places(device: str) -> list[Place]:
    """List where workers can be now."""
    return [
        Place(
            node_id=node_id,
            node=node["NodeManagerHostname"],
            number=number,
            cpus=min(cpus, 1) if device == "cuda" else cpus,
            gpus=int(device == "cuda"),
            threads=max(1, cpus // count),
        )
        for node_id, node in living_nodes().items()
        for cpus, gpus in [(int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))]
        for count in [gpus if device == "cuda" else min(cpus, 1)]
        for number in range(count)
    ]


def connect(address: str) -> None:
    """Join the cluster, and keep Ray from printing anything.

    Raises:
        DeviceError: There is none.
    """
    try:
        where = address
        if address == "auto":
            where = services.get_ray_address_from_environment(address, None)
        _knock(where)
        with _own_sigterm():
            ray.init(
                address=where,
                ignore_reinit_error=True,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, first_line(error)) from error
    # Ray tells of lost nodes on stdout, many lines each, and knows no option against it
    ray._private.worker._worker_logs_enabled = False


def _knock(address: str) -> None:
    """Check quickly that the address answers, since Ray would try for many minutes.

    Raises:
        ConnectionError: It does not.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()) or "//" in host:
        return  # not what we know: Ray will say
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"nobody answers at `{address}`") from error


def _no_cluster(address: str, reason: str) -> DeviceError:
    return DeviceError(
        f"no Ray cluster at `{address}`: {reason}",
        "start one with `ray start --head`, and join other nodes with "
        "`ray start --address=HEAD:6379`",
    )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep our handling of SIGTERM, which Ray would replace by its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def first_line(error: BaseException) -> str:
    """Give what fits into one line of ours."""
    return str(error).strip().partition("\n")[0]
