"""One new frame under a limit of memory, for test_memory.py: prints as JSON what it took.

    python limited.py MODEL WIDTH HEIGHT BYTES

BYTES is the whole address space or, for the MODEL `hungry`, what may be taken on top of what
the libraries have. `hungry-whole` is the same network, of which the engine knows no tiles.
"""

import itertools
import json
import re
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from test_engine import INFO

from sepconv_video.engine import Engine
from sepconv_video.errors import DeviceError
from sepconv_video.frames import Frame, Relation
from sepconv_video.models.tiles import in_tiles
from sepconv_video.schedule import by_factor, intervals
from sepconv_video.weights import load_model


class Hungry(torch.nn.Module):
    """A box filter by way of 255 channels, twice."""

    halo, bytes_per_pixel = 16, 2100

    def forward(self, left, right, tile=None):
        if tile is None:
            return self._predict(left, right)
        return in_tiles(self._predict, left, right, tile=tile, halo=self.halo, multiple=16)

    def _predict(self, left, right, place=None):
        wide = ((left + right) / 2).repeat_interleave(85, 1)
        return torch.nn.functional.avg_pool2d(wide, 3, 1, 1)[:, ::85]


def network(name):
    """The network, and the memory that was taken so far."""
    if not name.startswith("hungry"):
        return load_model(name), 0
    model = Hungry()
    model(*torch.rand(2, 1, 3, 64, 64))
    taken = status("VmSize")
    return (model if name == "hungry" else model._predict), taken


def status(name):
    """A size in bytes, from `/proc/self/status`."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def pair(width, height):
    """Two intervals of noise that moves 4 pixels to the right."""
    rng = np.random.default_rng(1)
    luma = rng.integers(16, 236, (height, width + 4), np.uint8)
    gray = np.full((height // 2, width // 2), 128, np.uint8)
    for index in range(2):
        planes = (luma[:, 4 - 4 * index :][:, :width], gray, gray)
        yield Frame(index=index, pts=2 * index, duration=2, planes=planes)


def main(name, width, height, limit):
    width, height = int(width), int(height)
    info = replace(INFO, width=width, height=height, pix_fmt="yuv420p", chroma_shift=(1, 1))
    model, taken = network(name)
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(limit),) * 2)
    engine = Engine(model)
    joined = zip(pair(width, height), [Relation.JOINED] * 2, strict=True)
    started, error, digest = time.monotonic(), None, None
    try:
        made = list(itertools.chain(*engine.run(intervals(joined, by_factor(info, 2)), info)))
        digest = [int(plane.astype(np.int64).sum()) for plane in made[1].planes]
    except DeviceError as failure:
        error = failure.message
    took = {"seconds": time.monotonic() - started, "cpu_s": time.process_time()}
    sizes = {"address_space": status("VmPeak"), "resident": status("VmHWM")}
    print(json.dumps({"notes": engine.notes, "error": error, "sums": digest, **took, **sizes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
