"""New frames under a limit of memory, for test_memory.py: prints what it took, a JSON line.

    python limited.py fast WIDTH HEIGHT BYTES      the whole address space is limited
    python limited.py hungry WIDTH HEIGHT BYTES    what may be taken besides the libraries

`hungry` is a made-up network, run three times: without a limit, with it, and with it when the
engine knows of no tiles.
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
from sepconv_video.memory import keep_freed
from sepconv_video.models.tiles import in_tiles
from sepconv_video.schedule import by_factor, intervals
from sepconv_video.weights import load_model


class Hungry(torch.nn.Module):
    """A box filter that wastes memory."""

    halo, bytes_per_pixel, frame_bytes_per_pixel = 16, 2050, 0

    def forward(self, left, right, tile=None):
        if tile is None:
            return self._predict(left, right)
        return in_tiles(self._predict, left, right, tile=tile, halo=self.halo, multiple=16)

    def _predict(self, left, right, place=None):
        height, width = left.shape[-2:]
        waste = torch.zeros(len(left), 512, height, width)
        return torch.nn.functional.avg_pool2d((left + right) / 2, 3, 1, 1) + waste[:, :3]


def status(name):
    """A size in bytes, from `/proc/self/status`."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def moving(width, height, count):
    """Frames of noise that moves 4 pixels to the right."""
    rng = np.random.default_rng(1)
    luma = rng.integers(16, 236, (height, width + 4 * count), np.uint8)
    gray = np.full((height // 2, width // 2), 128, np.uint8)
    for index in range(count):
        planes = (luma[:, 4 * (count - index) :][:, :width], gray, gray)
        yield Frame(index=index, pts=2 * index, duration=2, planes=planes)


def limit(size):
    """Forbid the process more address space than this."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def make(model, width, height, count=2):
    """Make the frames between so many: with four those in the middle have neighbours."""
    info = replace(INFO, width=width, height=height, pix_fmt="yuv420p", chroma_shift=(1, 1))
    engine = Engine(model)
    joined = zip(moving(width, height, count), [Relation.JOINED] * count, strict=True)
    started, error, sums = time.monotonic(), None, None
    try:
        todo = intervals(joined, by_factor(info, 2))
        made = list(itertools.chain(*engine.run(todo, info, most_made=1)))
        sums = [int(plane.astype(np.int64).sum()) for plane in made[1].planes]
    except DeviceError as failure:
        error = failure.message
    took = {"seconds": time.monotonic() - started, "cpu_s": time.process_time()}
    sizes = {"address_space": status("VmPeak"), "resident": status("VmHWM")}
    print(json.dumps({"notes": engine.notes, "error": error, "sums": sums, **took, **sizes}))


def main(name, width, height, size):
    width, height, size = int(width), int(height), int(size)
    if name == "hungry":
        model = Hungry()
        make(model, width, height)
        limit(status("VmSize") + size)
        make(model, width, height)
        make(model._predict, width, height)
    else:
        limit(size)
        keep_freed()
        make(load_model(name), width, height, count=4)


if __name__ == "__main__":
    main(*sys.argv[1:])
