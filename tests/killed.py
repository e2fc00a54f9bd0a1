"""Kill a run with SIGKILL at random moments, again and again, then let it end.

    python tests/killed.py SOURCE FOLDER KILLS SEED

Makes `FOLDER/whole.mkv` undisturbed and `FOLDER/killed.mkv` with the kills. Children are forked
from a process that has imported everything, so that most of their short lives is work. The
last line printed is JSON: kills, and the finished segments found after each.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from sepconv_video import segmenting
from sepconv_video.engine import Engine
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file

segmenting.SEGMENT_FRAMES = 10


def slow_average(left, right):
    time.sleep(0.01)
    return (left + right) / 2


def convert(source, target):
    interpolate_file(
        Job(source=source, target=target), Options(codec="ffv1"), engine=Engine(slow_average)
    )


def in_a_child(source, target, delay_s=None):
    """Run in a child, killed after a time; without one it must come to its end."""
    child = os.fork()
    if child == 0:
        convert(source, target)
        os._exit(0)
    if delay_s is not None:
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if delay_s is None and status:
        raise SystemExit("an undisturbed run failed")


def main(source, folder, kills, seed):
    source, folder, rng = Path(source), Path(folder), random.Random(int(seed))
    started = time.monotonic()
    in_a_child(source, folder / "whole.mkv")
    whole_s = time.monotonic() - started
    target, found, killed = folder / "killed.mkv", [], 0
    while killed < int(kills):
        # a moment in the whole, but few of the kills at its beginning: progress must be possible
        in_a_child(source, target, rng.uniform(0, whole_s * 4 / int(kills)))
        if target.exists():  # complete before its time: once more from the beginning
            target.unlink()
            continue
        killed += 1
        found.append(len(list(folder.glob("killed.mkv.parts/0*.json"))))
    in_a_child(source, target)
    print(json.dumps({"kills": killed, "segments_after_each": found, "whole_s": round(whole_s, 2)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
