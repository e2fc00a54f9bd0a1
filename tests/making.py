"""Videos made of others in tests: by the command `ffmpeg`, and by the program without a network."""

import subprocess
from pathlib import Path

from sepconv_video.engine import Engine
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.report import Report


def ffmpeg(*arguments: object) -> bytes:
    """Run the command, which writes over what there is, and give what it writes to stdout."""
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def average(left, right):
    """In the place of a network: whatever is asked for, at once."""
    return (left + right) / 2


def make(source: Path, target: Path, **options: object) -> Report:
    """Make a video of another one, with averages for new frames."""
    job = Job(source=source, target=target)
    return interpolate_file(job, Options(**options), engine=Engine(average))
