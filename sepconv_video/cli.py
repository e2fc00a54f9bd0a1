"""The command line: text to options, errors to one line and an exit code, progress.

Everything heavy is imported in the body of the command, so that `--help` is instant.
Exit codes: 0 all good, 1 some file failed, 2 usage, 130 interrupted.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from sepconv_video import __version__
from sepconv_video.errors import OptionsError, SepConvVideoError
from sepconv_video.options import FACTORS, MAX_CRF, PRECISIONS, Options

if TYPE_CHECKING:
    from sepconv_video.batch import Result

PLAIN_PROGRESS_S = 10.0
"""Without a terminal, one line of progress in this time."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    signal.signal(signal.SIGTERM, _terminate)
    # torch's threads would spin while they wait, and take the cores from decoder and encoder
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # not standalone: click would turn Ctrl-C into exit code 1
        code = command.main(args=list(arguments), prog_name="sepconv-video", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: the file in hand was not written", err=True)
        code = 130
    except SepConvVideoError as error:
        if debug:
            raise
        show_error(error)
        code = 2 if isinstance(error, OptionsError) else 1
    except BrokenPipeError:  # our output's reader has gone, as with `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - or Python complains at exit
        code = 1
    sys.exit(code or 0)


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Turn a request to end into an exception, so that partial files are removed."""
    sys.exit(128 + signum)


def show_error(error: SepConvVideoError) -> None:
    """Print what failed and why and, after an empty line, what to do about it."""
    message = " ".join(error.message.split("\n"))
    click.echo(f"error: {message}", err=True)
    if error.hint:
        click.echo(f"\nhint: {error.hint}", err=True)


def _list_models(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from sepconv_video.weights import shipped_models  # noqa: PLC0415 - imports torch

    for model in shipped_models().values():
        click.echo(f"{model.name:8} {model.summary} ({model.licence})")
    context.exit()


def _doctor(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from sepconv_video.doctor import examine  # noqa: PLC0415 - imports torch

    click.echo(f"sepconv-video {__version__}")
    for line in examine():
        click.echo(line)
    context.exit()


def _flag(name: str, callback: Callable[..., None], text: str) -> Callable[..., Any]:
    return click.option(
        name, is_flag=True, is_eager=True, expose_value=False, callback=callback, help=text
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="File to write, or folder where the input is one.  [default: NAME.2x.SUFFIX beside it]",
)  # fmt: skip
@click.option(
    "--factor", type=click.Choice([str(f) for f in FACTORS]), default="2", show_default=True,
    help="Frames out for one frame in.",
)  # fmt: skip
@click.option(
    "--model", default="fast", show_default=True, metavar="NAME|FILE",
    help="A shipped model or a weights file.",
)  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N",
    help="Where the network runs.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
    help="Of the network; auto is fp16 on a GPU.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(min=1), help="Pairs of frames at once.  [default: by memory]"
)
@click.option("--codec", help="FFmpeg encoder, e.g. libx265.  [default: by container and depth]")
@click.option(
    "--crf", type=click.IntRange(0, MAX_CRF),
    help="Quality, less is better.  [default: visually lossless]",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@_flag("--list-models", _list_models, "List the models that come with the package.")
@_flag("--doctor", _doctor, "Examine the installation and test the operators.")
@click.version_option(__version__, message="sepconv-video %(version)s")
def command(
    inputs: tuple[Path, ...],
    output: Path | None,
    factor: str,
    quiet: bool,
    debug: bool,
    **chosen: Any,  # noqa: ANN401 - exactly the other fields of Options
) -> int:
    """Raise a video's frame rate with adaptive separable convolution.

    INPUT is a video, or a folder of videos (with `-o FOLDER`), or two pictures, between which
    one is made (with `-o PICTURE`).
    """
    if not inputs:
        raise click.UsageError("no INPUT: name a video, a folder of videos or two pictures")
    options = Options(factor=int(factor), **chosen)
    from sepconv_video.video import is_picture  # noqa: PLC0415 - imports av

    if all(is_picture(path) for path in inputs):
        return _join_pictures(inputs, output, options, quiet)
    return _run_videos(inputs, output, options, quiet=quiet, debug=debug)


def _join_pictures(
    inputs: Sequence[Path], output: Path | None, options: Options, quiet: bool
) -> int:
    if len(inputs) != 2 or output is None:
        raise click.UsageError(
            "pictures come in twos, with a third to write: "
            "sepconv-video first.png second.png -o middle.png"
        )
    from sepconv_video.pipeline import interpolate_pictures  # noqa: PLC0415 - imports torch

    interpolate_pictures(inputs[0], inputs[1], output, options)
    if not quiet:
        click.echo(f"wrote `{output}`", err=True)
    return 0


def _run_videos(
    inputs: Sequence[Path], output: Path | None, options: Options, *, quiet: bool, debug: bool
) -> int:
    from sepconv_video.batch import find_jobs, run_jobs  # noqa: PLC0415 - imports torch

    jobs = find_jobs(inputs, output, options.factor)
    code = 0
    with progress(is_shown=not quiet) as on_progress:
        for result in run_jobs(jobs, options, on_progress):
            if result.error is not None:
                if debug:
                    raise result.error
                # alone, a mistake of usage is told from a file that failed
                is_usage = len(jobs) == 1 and isinstance(result.error, OptionsError)
                code = 2 if is_usage else 1
            elif not result.is_good:
                code = 1
            show_result(result, quiet=quiet)
    return code


def show_result(result: "Result", *, quiet: bool) -> None:
    """Print what became of one file: its error, or its figures and what is worth knowing."""
    if result.error is not None:
        show_error(result.error)
        return
    report = result.report
    if report is None:
        return
    if report.damage:
        click.echo(
            f"warning: `{result.job.source}` is damaged: {report.damage}; "
            f"what could be decoded of it, {report.source_frames} frames, was used",
            err=True,
        )
    if quiet:
        return
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    held = [
        f"{count} {noun if count == 1 else noun + 's'}"
        for count, noun in ((len(report.cuts), "cut"), (report.stills, "still pair"))
        if count
    ]
    click.echo(
        f"wrote `{report.target}`: {report.source_frames} frames became {report.frames} "
        f"in {report.seconds:.1f} s ({report.frames_per_s:.1f} frames/s)"
        + (f"; held at {' and '.join(held)}" if held else ""),
        err=True,
    )


@contextlib.contextmanager
def progress(*, is_shown: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show progress on stderr: a bar on a terminal, a line now and then elsewhere.

    Yields:
        A callable for the frames written and those expected; it starts anew when a new file
        begins. None when nothing is shown.
    """
    if not is_shown:
        yield None
    elif sys.stderr.isatty():
        with _Bar() as bar:
            yield bar.update
    else:
        yield _Lines().update


class _Bar:
    """A tqdm bar, one per file."""

    def __init__(self) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - slow to import

        self._make = tqdm
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def update(self, written: int, expected: int | None) -> None:
        if self._bar is None or written == 1:
            self._close()
            self._bar = self._make(
                total=expected, unit="frame", dynamic_ncols=True, leave=False, smoothing=0.1
            )
        self._bar.update(written - self._bar.n)
        if expected is not None and written >= expected:
            self._close()


class _Lines:
    """Plain lines for logs: frames, frames per second and the time left."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()

    def update(self, written: int, expected: int | None) -> None:
        now = time.monotonic()
        if written == 1:
            self._started = self._told = now
        if now - self._told < PLAIN_PROGRESS_S:
            return
        self._told = now
        rate = written / (now - self._started)
        of = f"/{expected}" if expected else ""
        left = f", {(expected - written) / rate:.0f} s left" if expected else ""
        click.echo(f"{written}{of} frames, {rate:.1f} frames/s{left}", err=True)
