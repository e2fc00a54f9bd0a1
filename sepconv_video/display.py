"""What the user sees of the work: a bar or plain lines, results, a table; or JSON for programs.

Human text goes to stderr, JSON to stdout, one object a line.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from sepconv_video.errors import SepConvVideoError
from sepconv_video.options import Job

if TYPE_CHECKING:
    from sepconv_video.batch import Progress, Result
    from sepconv_video.report import Report

PLAIN_PROGRESS_S = 10.0
"""Without a terminal, one line of progress in this time."""
JSON_PROGRESS_S = 1.0
"""One JSON object of progress per file in this time."""
PATIENCE_S = 5.0
"""Seconds without a frame until a note says why."""
_WAITING = (
    "note: no frame yet: the first run on a machine compiles its kernels, "
    "which takes up to half a minute"
)
NAME_LENGTH = 30
"""Characters of a file's name before the bar, at most."""
SHOWN_CUTS = 5
"""At most so many cuts are listed one by one."""


def say(text: str) -> None:
    """Print a line for people; where nobody can read it any more, the work goes on without."""
    try:
        click.echo(text, err=True)
    except OSError:  # a terminal that was closed, a full disk
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - or Python fails at exit too


def show_error(error: SepConvVideoError) -> None:
    """Print what failed and why and, after an empty line, what to do about it."""
    say(f"error: {one_line(error.message)}")
    if error.hint:
        say(f"\nhint: {one_line(error.hint)}")


def tell_error(error: str, hint: str, exit_code: int) -> None:
    """Print an error that came before the work began, as JSON."""
    _Json().error(error, hint, [], exit_code)


def show_times(busy_s: Mapping[str, float], wall_s: float) -> None:
    """Print how long each stage of the work was busy, in seconds and as a share of the whole."""
    stages = ", ".join(
        f"{stage} {seconds:.2f} s ({seconds / wall_s:.0%})" for stage, seconds in busy_s.items()
    )
    say(f"took {wall_s:.1f} s; time in each stage (they overlap): {stages}")


def one_line(text: str) -> str:
    """Keep names with line breaks or control characters from breaking the terminal's lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def display(*, quiet: bool, as_json: bool) -> Iterator["Display"]:
    """Choose what is shown, and leave the terminal in order."""
    bar: _Bar | _Lines | None = None
    if not quiet:
        bar = _Bar() if _has_width() else _Lines()
    shown = Display(bar, _Json() if as_json else None, quiet=quiet)
    try:
        yield shown
    finally:
        shown.close()


def _has_width() -> bool:
    """Whether stderr is a terminal; those without a window report a width of 0."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


class Display:
    """Shows the work from its beginning to its end."""

    def __init__(self, bar: "_Bar | _Lines | None", events: "_Json | None", *, quiet: bool) -> None:
        """Take where progress goes and where events go; None for nowhere."""
        self._bar, self._events, self._quiet = bar, events, quiet
        self._results: list[Result] = []
        self._told: set[str] = set()
        self._waiting = threading.Timer(PATIENCE_S, say, [_WAITING])
        self._waiting.daemon = True

    def close(self) -> None:
        """Leave the terminal in order."""
        self._waiting.cancel()
        if self._bar:
            self._bar.close()

    def start(self, jobs: Sequence[Job]) -> None:
        """Say what there is to do."""
        if not jobs and not self._quiet:
            say("nothing to do: there are fewer files than shards")
        if self._events:
            self._events.start(jobs)
        if self._bar:
            self._bar.files = len(jobs)
            self._waiting.start()

    def progress(self, progress: "Progress") -> None:
        """Show how far a job is, or what is worth knowing before it is begun."""
        if progress.note:
            self._tell_before(progress)
        else:
            self._waiting.cancel()
            if self._bar:
                self._bar.progress(progress)
        if self._events:
            self._events.progress(progress)

    def _tell_before(self, progress: "Progress") -> None:
        if self._bar:
            self._bar.close()
            self._told.add(progress.note)
            target = one_line(str(progress.job.target))
            say(
                f"note: `{target}` is {one_line(progress.note)}; the earlier run's segments are "
                "deleted once the first new one is finished: Ctrl-C before then keeps them"
            )

    def result(self, result: "Result") -> None:
        """Show what became of a job."""
        self._results.append(result)
        if self._bar:
            self._bar.forget(result.job)
        if self._events:
            self._events.result(result)
        _show_result(result, self._told, quiet=self._quiet)

    def end(self, exit_code: int, notes: Sequence[str]) -> None:
        """Sum up, where there is more than one result, and print the notes."""
        self.close()
        if self._events:
            self._events.end(self._results, exit_code, notes)
        for note in notes:
            say(f"warning: {one_line(note)}")
        if len(self._results) > 1 and not self._quiet:
            for line in _table(self._results):
                say(line)

    def error(self, error: SepConvVideoError, exit_code: int) -> None:
        """Show what ended everything."""
        self.close()
        if self._events:
            self._events.error(error.message, error.hint, self._results, exit_code)
        show_error(error)


def _show_result(result: "Result", told: Set[str], *, quiet: bool) -> None:
    """Print what became of one file: its error, or its figures and what is not `told` yet."""
    if result.state == "taken" and not quiet:
        say(f"another sepconv-video is making `{one_line(str(result.job.target))}`")
    elif result.error is not None:
        show_error(result.error)
    report = result.report
    if report is None:
        return
    if report.damage:
        say(
            f"warning: `{one_line(str(result.job.source))}` is damaged: {one_line(report.damage)}; "
            f"the {report.source_frames} frames that could be decoded were used"
        )
    if quiet:
        return
    if result.state == "skipped":
        say(f"`{one_line(str(report.target))}` is already complete")
        return
    _show_written(report, told)


def _show_written(report: "Report", told: Set[str]) -> None:
    kept = f", {report.kept_frames} of them from an earlier run" if report.kept_frames else ""
    pace = f" ({report.frames_per_s:.1f} frames/s)" if report.frames > report.kept_frames else ""
    say(
        f"wrote `{one_line(str(report.target))}`: {report.source_frames} frames became "
        f"{report.frames}{kept} in {report.seconds:.1f} s{pace}{_held(report)}"
    )
    for note in report.notes:
        if note not in told:
            say(f"note: {one_line(note)}")


def _held(report: "Report") -> str:
    """Say where no frames were made, e.g. `; no frames made across 1 cut (frame 33)`."""
    counts = (
        (len(report.cuts), "cut"),
        (len(report.flashes), "flash edge"),
        (report.stills, "identical pair"),
    )
    held = [f"{count} {noun if count == 1 else noun + 's'}" for count, noun in counts if count]
    if 0 < len(report.cuts) <= SHOWN_CUTS:
        frames = "frame" if len(report.cuts) == 1 else "frames"
        held[0] += f" ({frames} {', '.join(map(str, report.cuts))})"
    return f"; no frames made across {', '.join(held)}" if held else ""


def _table(results: Sequence["Result"]) -> Iterator[str]:
    """One line per file, those that need a look last, and a line of sums."""
    yield f"\n{'state':8}  {'frames':>8}  {'seconds':>8}  file"
    for result in sorted(results, key=lambda r: (not r.is_good, str(r.job.source))):
        report = result.report
        frames, seconds = (str(report.frames), f"{report.seconds:.1f}") if report else ("", "")
        seconds = "" if result.state == "skipped" else seconds
        name = one_line(str(result.job.source))
        why = f": {one_line(result.error.message)}" if result.error and not report else ""
        yield f"{result.state:8}  {frames:>8}  {seconds:>8}  {name}{why}"
    counts = Counter(result.state for result in results)
    sums = ", ".join(f"{count} {state}" for state, count in counts.items())
    yield f"{len(results)} files: {sums}"


class _Counts:
    """Adds up the frames of all jobs that are in work.

    Attributes:
        files: Jobs there are.
    """

    def __init__(self) -> None:
        self._latest: dict[Job, Progress] = {}
        self._ended = 0
        self.files = 1

    def add(self, progress: "Progress") -> tuple[int, int, int | None]:
        """Give frames done, those of them kept from before, and those expected."""
        self._latest[progress.job] = progress
        latest = self._latest.values()
        known = [one.expected for one in latest if one.expected is not None]
        expected = sum(known) if len(known) == len(latest) else None
        return sum(one.done for one in latest), sum(one.kept for one in latest), expected

    def forget(self, job: Job) -> None:
        self._latest.pop(job, None)
        self._ended += 1

    def label(self) -> str:
        """What is in work, e.g. `3/12 film.mkv: `; an empty text where there is one file only."""
        if self.files == 1:
            return ""
        name = ", ".join(one_line(job.source.name) for job in self._latest)
        if len(name) > NAME_LENGTH:
            name = f"{name[: NAME_LENGTH - 3]}..."
        return f"{min(self._ended + len(self._latest), self.files)}/{self.files} {name}: "

    def is_idle(self) -> bool:
        return not self._latest


class _Bar(_Counts):
    """A tqdm bar for what is in work."""

    def __init__(self) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - slow to import

        super().__init__()
        self._make = tqdm
        self._bar: tqdm[Any] | None = None

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def progress(self, progress: "Progress") -> None:
        done, kept, expected = self.add(progress)
        if self._bar is None:
            self._bar = self._make(
                unit=" frames", dynamic_ncols=True, leave=False, smoothing=0.1, initial=kept,
                total=expected, desc=self.label(),
            )  # fmt: skip
        self._bar.total = expected
        self._bar.set_description_str(self.label(), refresh=False)
        self._bar.update(done - self._bar.n)

    def forget(self, job: Job) -> None:
        super().forget(job)
        self.close()


class _Lines(_Counts):
    """Plain lines for logs: frames, frames per second and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._started = self._told = time.monotonic()

    def close(self) -> None:
        """Nothing is left on the screen."""

    def progress(self, progress: "Progress") -> None:
        now = time.monotonic()
        if self.is_idle():
            self._started = self._told = now
        done, kept, expected = self.add(progress)
        if now - self._told < PLAIN_PROGRESS_S:
            return
        self._told = now
        rate = max(done - kept, 1) / (now - self._started)
        of = f"/{expected}" if expected else ""
        left = f", {max(0, expected - done) / rate:.0f} s left" if expected else ""
        say(f"{self.label()}{done}{of} frames, {rate:.1f} frames/s{left}")


class _Json:
    """One JSON object per event on stdout; the README lists them."""

    def __init__(self) -> None:
        self._told: dict[Job, float] = {}

    def say(self, event: str, **values: object) -> None:
        try:
            click.echo(json.dumps({"event": event, **values}))
        except BrokenPipeError:  # the program that wanted them has gone
            raise
        except OSError as error:  # a full disk: no reason to lose the video
            say(
                f"warning: no more events: cannot write to stdout: {(error.strerror or '').lower()}"
            )
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the end

    def start(self, jobs: Sequence[Job]) -> None:
        self.say("start", jobs=[_names(job) for job in jobs])

    def progress(self, progress: "Progress") -> None:
        now = time.monotonic()
        if now - self._told.get(progress.job, -JSON_PROGRESS_S) >= JSON_PROGRESS_S:
            self._told[progress.job] = now
            frames = {
                "frames": progress.done,
                "kept_frames": progress.kept,
                "expected": progress.expected,
            }
            self.say("progress", **_names(progress.job), **frames)

    def result(self, result: "Result") -> None:
        values: dict[str, object] = {"state": result.state}
        if result.report is not None:
            values["report"] = result.report.as_json()
        if result.error is not None:
            values |= {"error": result.error.message, "hint": result.error.hint}
        self.say("file", **_names(result.job), **values)

    def error(self, error: str, hint: str, results: Sequence["Result"], exit_code: int) -> None:
        self.say("error", error=error, hint=hint)
        self.end(results, exit_code, [])

    def end(self, results: Sequence["Result"], exit_code: int, notes: Sequence[str]) -> None:
        states = Counter(result.state for result in results)
        self.say("end", states=dict(states), exit_code=exit_code, notes=list(notes))


def _names(job: Job) -> dict[str, str]:
    return {"source": str(job.source), "target": str(job.target)}
