#!/usr/bin/env python3
"""Give broken files to the tool: each must be made, or refused in one line and leave nothing.

    python scripts/fuzz.py --count 10000 --seed 0 --out ../fuzz
    python scripts/fuzz.py --replay 4711 --out ../fuzz
    python scripts/fuzz.py --replay ../fuzz/findings/4711.full.mp4 --out ../fuzz

A file counts as a finding if its process crashes, hangs, prints, raises anything but a
`SepConvVideoError`, leaves a thread running or leaves a file beside the target. The network
is a plain average: what is tested is everything around it. Findings are kept with what
happened; a number and the seed give the same file again.
"""

import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from fuzz_corpus import PICTURES, build_seeds, mutated, swept

from sepconv_video.engine import Engine
from sepconv_video.errors import SepConvVideoError
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import interpolate_file
from sepconv_video.video import Reader, read_picture

LARGEST_FILE_BYTES = 2**28
"""A target that grows beyond this counts as endless."""
TARGETS = {".avi": "avi", ".mov": "mov", ".mp4": "mp4", ".ts": "ts", ".webm": "mkv", ".nut": "nut"}


@dataclass(frozen=True)
class Limits:
    """What one file may take, and what it is made into."""

    seconds: float
    memory_bytes: int
    suffix: str | None
    """None for a container that suits the source's."""


@dataclass
class Outcome:
    """What became of one file."""

    kind: str
    """`made`, `refused`, or what is a finding: `raised`, `crashed`, `hung`, `printed`, `left`."""
    detail: str
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def is_finding(self) -> bool:
        """Whether it must not happen."""
        return self.kind not in {"made", "refused"}


def attempt(source: Path, target: Path) -> tuple[str, str]:
    """Probe a file and raise its rate: kind of outcome, and the message."""
    try:
        if source.suffix in PICTURES:
            read_picture(source)
            return "made", ""
        with Reader(source):
            pass
        engine = Engine(lambda left, right: (left + right) / 2)
        report = interpolate_file(Job(source=source, target=target), Options(), engine=engine)
    except SepConvVideoError as error:
        is_line = error.message and "\n" not in error.message
        return ("refused" if is_line else "raised"), error.message
    except BaseException:
        return "raised", traceback.format_exc()
    is_whole = target.stat().st_size > 0 and report.frames == 2 * report.source_frames
    return ("made" if is_whole else "left"), "; ".join([report.damage or "", *report.notes])


def child(source: Path, target: Path, channel: int, limits: Limits) -> None:
    """Do the work in a process of its own and send the outcome; never returns."""
    printed = os.memfd_create("printed")
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, LARGEST_FILE_BYTES))
    kind, detail = attempt(source, target)
    text = os.pread(printed, 4000, 0).decode(errors="replace")
    threads = [thread.name for thread in threading.enumerate()[1:]]
    if kind != "raised" and (text or threads):
        kind, detail = "printed", f"{text} threads left: {threads}"
    gc.collect()  # frees what PyAV holds: a crash on closing counts too
    os.write(channel, json.dumps([kind, detail[-4000:]]).encode())
    os._exit(0)


def run_one(source: Path, folder: Path, limits: Limits) -> Outcome:
    """Fork, wait, and look at what is left in `folder`."""
    target = folder / f"target.{limits.suffix or TARGETS.get(source.suffix, 'mkv')}"
    started = time.monotonic()
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(source, target, send, limits)
    os.close(send)
    message = _receive(receive, started + limits.seconds)
    if message is None:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    os.close(receive)
    outcome = _judge(message, status)
    outcome.seconds, outcome.peak_bytes = time.monotonic() - started, usage.ru_maxrss * 1024
    allowed = {target} if outcome.kind == "made" else set()
    parts = target.with_name(f"{target.name}.parts")
    if outcome.kind == "refused" and list(parts.glob("0*.json")):
        allowed.add(parts)  # finished segments are kept, also where they cannot be joined
    left = {path for path in folder.iterdir() if path != source} - allowed
    if left and not outcome.is_finding:
        outcome.kind, outcome.detail = "left", f"{sorted(left)}: {outcome.detail}"
    return outcome


def _receive(channel: int, until: float) -> bytes | None:
    """Read until the other end closes; None if it does not in time."""
    data = b""
    while (rest := until - time.monotonic()) > 0:
        if select.select([channel], [], [], rest)[0]:
            piece = os.read(channel, 65536)
            if not piece:
                return data
            data += piece
    return None


def _judge(message: bytes | None, status: int) -> Outcome:
    if message is None:
        return Outcome("hung", "killed at the limit of time")
    if status or not message:
        name = signal.Signals(status & 127).name if status & 127 else f"status {status}"
        return Outcome("crashed", f"{name}: {message.decode(errors='replace')}")
    return Outcome(*json.loads(message))


class Campaign:
    """Many files, one after the other, and what became of them."""

    def __init__(self, out: Path, seed: int, limits: Limits) -> None:
        """Build or find the corpus in `out`."""
        self.seeds = build_seeds(out / "seeds")
        self._contents = [path.read_bytes() for path in self.seeds]
        self.findings = out / "findings"
        self.findings.mkdir(exist_ok=True)
        self._seed, self._limits = seed, limits
        self.kinds: Counter[str] = Counter()
        self.slowest, self.peak_bytes = 0.0, 0

    def make(self, number: int) -> tuple[str, bytes]:
        """Name and content of the broken file of a number."""
        which, data = mutated(self._contents, f"{self._seed}:{number}")
        return self.seeds[which].name, data

    def run(self, label: str, name: str, data: bytes) -> Outcome:
        """Give one file to the tool, count it, keep it if it is a finding."""
        with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
            source = Path(made) / name
            source.write_bytes(data)
            outcome = run_one(source, Path(made), self._limits)
        self.kinds[outcome.kind] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        self.peak_bytes = max(self.peak_bytes, outcome.peak_bytes)
        if outcome.is_finding:
            kept = self.findings / f"{label}.{name}"
            kept.write_bytes(data)
            kept.with_name(kept.name + ".txt").write_text(f"{outcome.kind}\n{outcome.detail}\n")
            first = outcome.detail.strip().splitlines()[-1:] or [""]
            click.echo(f"{outcome.kind}: {kept}: {first[0][:200]}")
        return outcome

    def check_seeds(self) -> None:
        """See that whole files are made: else broken ones would be refused for no good reason."""
        for path in self.seeds:
            outcome = self.run("whole", path.name, path.read_bytes())
            if outcome.kind != "made" and not self._limits.suffix:  # which may not hold all
                raise click.ClickException(f"the seed {path.name} itself: {outcome}")
        self.kinds.clear()

    def summary(self) -> str:
        """The result in one line."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        findings = sum(self.kinds.values()) - self.kinds["made"] - self.kinds["refused"]
        return (
            f"{self.kinds.total()} files of {len(self.seeds)} seeds, seed {self._seed}: {counts}; "
            f"{findings} findings; slowest {self.slowest:.1f} s, "
            f"most memory {self.peak_bytes / 2**20:.0f} MiB"
        )


def replay(campaign: Campaign, what: str) -> None:
    """Run one file again, by its number or path, and tell everything."""
    if what.isdecimal():
        name, data = campaign.make(int(what))
    else:
        name, data = Path(what).name.split(".", 1)[-1], Path(what).read_bytes()
    outcome = campaign.run("replayed", name, data)
    click.echo(f"{outcome.kind} in {outcome.seconds:.2f} s, {outcome.peak_bytes / 2**20:.0f} MiB")
    click.echo(outcome.detail)


@click.command()
@click.option("--count", default=10_000, show_default=True, help="Broken files to try.")
@click.option(
    "--sweep", is_flag=True, help="Instead put extreme numbers into every field of some headers."
)
@click.option("--first", default=0, show_default=True, help="Number of the first one.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other files.")
@click.option(
    "--seconds-each", default=10.0, show_default=True, help="Seconds for each file, at most."
)
@click.option("--memory-mb", default=1500, show_default=True, help="Limit of memory per file.")
@click.option("--minutes", default=0.0, help="Stop after so long.  [default: never]")
@click.option("--suffix", help="Make all into this, as `webm`, which takes little sound as it is.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("fuzz"), show_default=True)
@click.option("--replay", "replayed", help="Number or path of one file to run again.")
def main(out: Path, seed: int, replayed: str | None, suffix: str | None, **options: float) -> None:
    """Fuzz probe and run; exit code 1 if there was a finding."""
    os.environ["SVT_LOG"] = "-1"  # its encoder makes seeds
    torch.set_num_threads(1)  # threads do not survive a fork
    limits = Limits(options["seconds_each"], int(options["memory_mb"]) * 2**20, suffix)
    campaign = Campaign(out, seed, limits)
    if replayed:
        return replay(campaign, replayed)
    gc.freeze()  # else collecting garbage would copy the whole memory in each child
    started = time.monotonic()
    campaign.check_seeds()
    first = int(options["first"])
    numbers = range(first, first + int(options["count"]))
    broken = swept(campaign.seeds) if options["sweep"] else map(campaign.make, numbers)
    for number, (name, data) in enumerate(broken, first):
        campaign.run(f"sweep{number}" if options["sweep"] else str(number), name, data)
        if options["minutes"] and time.monotonic() - started > 60 * options["minutes"]:
            break
    click.echo(f"{campaign.summary()}; {time.monotonic() - started:.0f} s in all")
    sys.exit(any(kind not in {"made", "refused"} for kind in campaign.kinds))


if __name__ == "__main__":
    main()
