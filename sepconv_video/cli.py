"""The command line: text to options, errors to one line and an exit code, signals to a stop.

Everything heavy is imported in the body of the command, so that `--help` is instant.
Exit codes: 0 all good, 1 some file failed, 2 usage, 130 or 143 interrupted.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sepconv_video import __version__, timing
from sepconv_video.arguments import Read, Source, Target, doctor, flag, is_given, list_models
from sepconv_video.display import (
    Display,
    display,
    one_line,
    say,
    show_error,
    show_times,
    tell_error,
)
from sepconv_video.errors import Interrupted, OptionsError, SepConvVideoError
from sepconv_video.interrupts import GracefulStop, leave_at_once, terminate
from sepconv_video.options import (
    CUTS,
    FACTORS,
    MAX_CRF,
    PRECISIONS,
    Job,
    Options,
    parse_rate,
    parse_shard,
    parse_time,
)

if TYPE_CHECKING:
    from sepconv_video.batch import Result
    from sepconv_video.executor import Executor


_FOR_FILES = ("devices", "ray", "shard", "pattern")
"""Options of no use for pipes and pairs of pictures."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug, as_json = "--debug" in arguments, "--json" in arguments
    signal.signal(signal.SIGTERM, terminate)
    if sys.stderr is None:  # closed by who started us
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the end
    # torch's threads would spin while they wait, and take the cores from decoder and encoder
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # not standalone: click would turn Ctrl-C into exit code 1
        code = command.main(args=list(arguments), prog_name="sepconv-video", standalone_mode=False)
    except click.ClickException as error:
        code = _show_early(error, as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted: finished segments are kept")
        leave_at_once(130)
    except SystemExit as request:  # by `terminate`
        leave_at_once(int(request.code or 0))
    except SepConvVideoError as error:
        _trace(error, debug=debug)
        code = _show_early(error, as_json=as_json)
    except BrokenPipeError:  # our output's reader has gone, as with `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - or Python complains at exit
        code = 1
    sys.exit(code or 0)


def _trace(error: SepConvVideoError | None, *, debug: bool) -> None:
    """Print where an error comes from, if that is wanted."""
    if debug and error is not None:
        say("".join(traceback.format_exception(error)))


def _show_early(error: click.ClickException | SepConvVideoError, *, as_json: bool) -> int:
    """Show an error that came before the work began, as JSON too; the exit code."""
    if isinstance(error, click.ClickException):
        error.show()
        code, message, hint = error.exit_code, error.format_message(), ""
    else:
        show_error(error)
        code, message, hint = _code_of_end(error), error.message, error.hint
    if as_json:
        tell_error(message, hint, code)
    return code


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("inputs", nargs=-1, type=Source(path_type=Path), metavar="INPUT...")
@click.option(
    "-o", "--output", type=Target(path_type=Path),
    help="File to write, or folder if INPUT is a folder.  [default: NAME.2x.SUFFIX beside INPUT]",
)  # fmt: skip
@click.option(
    "--factor", type=click.Choice([str(f) for f in FACTORS]), default="2", show_default=True,
    help="Frames out for each frame in.",
)  # fmt: skip
@click.option(
    "--fps", type=Read(parse_rate), metavar="RATE",
    help="Frame rate of the output, instead of a factor, e.g. 60 or 60000/1001.",
)  # fmt: skip
@click.option("--slowmo", is_flag=True, help="Play FACTOR times as long, at the source's rate.")
@click.option("--stretch-sound", is_flag=True, help="In slow motion keep the sound, stretched.")
@click.option(
    "--dedup", is_flag=True, help="Replace repeated frames by new ones, as in animation on twos."
)
@click.option(
    "--cuts", default="auto", show_default=True, metavar="auto|off|FILE",
    help="Make no frames across cuts: find them, ignore cuts (off), or read them from FILE.",
)  # fmt: skip
@click.option("--start", "start_s", type=Read(parse_time), metavar="TIME", help="Begin at TIME.")
@click.option("--end", "end_s", type=Read(parse_time), metavar="TIME", help="End at TIME.")
@click.option(
    "--deinterlace", is_flag=True, help="Deinterlace interlaced video; else it is refused."
)
@click.option(
    "--source-fps", type=Read(parse_rate), default="25", show_default=True, metavar="RATE",
    help="Frame rate of numbered pictures or raw video.",
)  # fmt: skip
@click.option("--raw", metavar="WxH:FORMAT", help="Size and pixel format of raw video on stdin.")
@click.option(
    "--model", default="fast", show_default=True, metavar="NAME|FILE",
    help="A shipped model, an official one (l1, lf) or a weights file.",
)  # fmt: skip
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|cuda:N",
    help="Where the network runs.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True,
    help="Number format; auto is fp16 on a GPU, bf16 on CPUs with AMX, else fp32.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(min=1), help="Frame pairs at once.  [default: by memory]"
)
@click.option(
    "--tile", type=int, metavar="PIXELS",
    help="Process frames in tiles of at most this side.  [default: by memory]",
)  # fmt: skip
@click.option("--codec", help="FFmpeg encoder, e.g. libx265.  [default: by container and depth]")
@click.option(
    "--crf", type=click.IntRange(0, MAX_CRF),
    help="Quality: lower is better.  [default: visually lossless]",
)  # fmt: skip
@click.option("--preset", help="The encoder's preset, e.g. slow.  [default: by encoder]")
@click.option("--pix-fmt", metavar="FORMAT", help="Pixel format, e.g. yuv444p10le. [default: kept]")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--no-resume", is_flag=True, help="Start afresh instead of resuming an earlier run.")
@click.option(
    "--keep-parts", is_flag=True, help="Keep the segments (NAME.parts) of complete files."
)
@click.option("--pattern", help="Take only files of a folder that match, e.g. '*_raw.mkv'.")
@click.option("--devices", metavar="LIST", help="Use several devices at once, e.g. cuda:0,cuda:1.")
@click.option("--shard", metavar="I/N", help="Do only part I of N of the files, e.g. 2/4.")
@click.option(
    "--ray", is_flag=False, flag_value="auto", metavar="[ADDRESS]",
    help="Work on the Ray cluster at ADDRESS, or on the one found.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines on stdout.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option("--verbose", is_flag=True, help="Say at the end where the time went.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@flag("--list-models", list_models, "List the available models.")
@flag("--doctor", doctor, "Check the installation; test kernels and models.")
@click.version_option(__version__, message="sepconv-video %(version)s")
def command(
    inputs: tuple[Path, ...],
    output: Path | None,
    factor: str,
    no_resume: bool,
    **chosen: Any,  # noqa: ANN401 - the other options
) -> int:
    """Raise a video's frame rate with adaptive separable convolution.

    INPUT is a video, a folder of videos or a pattern (with `-o FOLDER`), numbered pictures
    like `frames/%05d.png` or a folder of them, `-` for standard input, or two pictures,
    to make the one between them (with `-o PICTURE`). Run the same command again to resume
    an interrupted run.
    """
    if not inputs:
        raise click.UsageError("no INPUT: name a video, a folder of videos or two pictures")
    if chosen["fps"] is not None and is_given("factor"):
        raise click.UsageError("--fps and --factor exclude each other: name one of them")
    if chosen["quiet"] and chosen["verbose"]:
        raise click.UsageError("--quiet and --verbose exclude each other: name one of them")
    fields = {name: chosen.pop(name) for name in Options.__dataclass_fields__ if name in chosen}
    options = Options(factor=int(factor), resume=not no_resume, **fields)
    started = time.monotonic()
    code = _run(inputs, output, options, chosen)
    if options.verbose:
        show_times(timing.take(), time.monotonic() - started)
    return code


def _run(
    inputs: Sequence[Path], output: Path | None, options: Options, chosen: dict[str, Any]
) -> int:
    """Find out what kind of work it is, and do it; the exit code."""
    from sepconv_video.numbered import is_pattern  # noqa: PLC0415 - of use here only
    from sepconv_video.video import PIPE, is_picture  # noqa: PLC0415 - imports av

    if options.raw is not None and PIPE not in inputs:
        raise click.UsageError("--raw describes raw video on standard input: give `-` as INPUT")
    if PIPE in inputs or output == PIPE:
        return _run_stream(inputs, output, options, chosen)
    if all(is_picture(path) and not is_pattern(path) for path in inputs):
        return _join_pictures(inputs, output, options, chosen)
    return _run_videos(inputs, output, options, chosen)


def _join_pictures(
    inputs: Sequence[Path], output: Path | None, options: Options, chosen: dict[str, Any]
) -> int:
    if len(inputs) != 2 or output is None:
        raise click.UsageError(
            "to make the picture between two, give both and an output: "
            "sepconv-video first.png second.png -o middle.png; for a sequence, name a pattern like "
            "frames/%05d.png or its folder"
        )
    for name in ("as_json", *_FOR_FILES):
        if chosen[name]:
            raise click.UsageError(f"--{name.removeprefix('as_')} is for videos: leave it out")
    from sepconv_video.jobs import make_folder  # noqa: PLC0415 - imports av
    from sepconv_video.numbered import is_pattern, numbered  # noqa: PLC0415
    from sepconv_video.pipeline import interpolate_pictures  # noqa: PLC0415 - imports torch

    is_several = is_pattern(output)
    if is_several:
        make_folder(output.parent)
    notes = interpolate_pictures(inputs[0], inputs[1], output, options)
    if not chosen["quiet"]:
        for note in notes:
            say(f"note: {one_line(note)}")
        last = f" to `{numbered(output, options.factor - 1).name}`" if is_several else ""
        say(f"wrote `{one_line(str(numbered(output, 1) if is_several else output))}`{last}")
    return 0


def _run_stream(
    inputs: Sequence[Path], output: Path | None, options: Options, chosen: dict[str, Any]
) -> int:
    """Make one video that comes through a pipe, or goes through one."""
    job = _stream_job(inputs, output, options, chosen)
    from sepconv_video.batch import Progress, Result  # noqa: PLC0415 - imports torch
    from sepconv_video.pipeline import interpolate_stream  # noqa: PLC0415 - imports torch

    with GracefulStop() as stop, display(quiet=chosen["quiet"], as_json=chosen["as_json"]) as shown:
        shown.start([job])

        def told(done: int, expected: int | None) -> None:
            shown.progress(Progress(job=job, done=done, kept=0, expected=expected))

        try:
            report = interpolate_stream(
                job, options, on_progress=told, should_stop=stop.is_requested
            )
        except SepConvVideoError as error:
            return _end(error, shown, stop, debug=chosen["debug"])
        state = "damaged" if report.damage else "done"
        result = Result(job=job, state=state, report=report)
        code = _code_of(result, is_alone=True)
        shown.result(result)
        shown.end(code, [])
    return code


def _stream_job(
    inputs: Sequence[Path], output: Path | None, options: Options, chosen: dict[str, Any]
) -> Job:
    """Check what belongs to pipes and what does not."""
    from sepconv_video.video import PIPE  # noqa: PLC0415 - imports av

    if len(inputs) != 1 or output is None:
        raise click.UsageError("a pipe needs one INPUT and a target: sepconv-video - -o out.mp4")
    if chosen["as_json"] and output == PIPE:
        raise click.UsageError("--json and `-o -` exclude each other: both want standard output")
    for name in _FOR_FILES:
        if chosen[name]:
            raise click.UsageError(f"--{name} does not work with pipes: leave it out")
    return Job(source=inputs[0], target=output)


def _run_videos(
    inputs: Sequence[Path], output: Path | None, options: Options, chosen: dict[str, Any]
) -> int:
    from sepconv_video.batch import run_jobs  # noqa: PLC0415 - imports torch
    from sepconv_video.folder_report import FolderReport  # noqa: PLC0415
    from sepconv_video.jobs import (  # noqa: PLC0415 - imports av
        find_jobs,
        goes_into_folder,
        make_folder,
        passed_over,
        shard,
    )

    _check_rate_is_wanted(inputs)
    if output is not None and click.get_current_context().meta["ends_with_slash"]:
        make_folder(output)
    jobs = find_jobs(inputs, output, options.label, chosen["pattern"])
    if len(jobs) > 1 and options.cuts not in CUTS:
        raise click.UsageError("--cuts FILE is for one video, not several: run it once for each")
    for note in () if chosen["quiet"] else passed_over(inputs, chosen["pattern"]):
        say(f"note: {one_line(note)}")
    if chosen["shard"] is not None:
        jobs = shard(jobs, *parse_shard(chosen["shard"]))
    folder_report = (
        FolderReport(output) if output is not None and goes_into_folder(inputs, output) else None
    )
    executor = _executor(options, chosen)
    code = 0
    with GracefulStop() as stop, display(quiet=chosen["quiet"], as_json=chosen["as_json"]) as shown:
        shown.start(jobs)
        try:
            results = run_jobs(
                jobs,
                options,
                executor,
                folder_report=folder_report,
                on_progress=shown.progress,
                should_stop=stop.is_requested,
            )
            for result in results:
                if result.state == "failed":
                    _trace(result.error, debug=chosen["debug"])
                code = max(code, _code_of(result, is_alone=len(jobs) == 1))
                shown.result(result)
        except SepConvVideoError as error:
            return _end(error, shown, stop, debug=chosen["debug"])
        shown.end(code, executor.notes)
    return code


def _check_rate_is_wanted(inputs: Sequence[Path]) -> None:
    """Refuse `--source-fps` for videos; folders are searched only where it is given."""
    from sepconv_video.jobs import is_sequence  # noqa: PLC0415 - imports av

    if is_given("source_fps") and not any(map(is_sequence, inputs)):
        raise click.UsageError(
            "--source-fps is for numbered pictures and raw video: videos have their own rate; "
            "`--fps` sets that of the output"
        )


def _code_of(result: "Result", *, is_alone: bool) -> int:
    """Exit code for one file; a mistake of usage counts as such only if there is no other file."""
    if is_alone and isinstance(result.error, OptionsError):
        return 2
    return 0 if result.is_good and not (is_alone and result.error) else 1


def _end(error: SepConvVideoError, shown: Display, stop: GracefulStop, *, debug: bool) -> int:
    """Show what ended everything; the exit code."""
    is_stop = isinstance(error, Interrupted)
    _trace(error, debug=debug and not is_stop)
    code = stop.code if is_stop else _code_of_end(error)
    shown.error(error, code)
    return code


def _code_of_end(error: SepConvVideoError) -> int:
    return 2 if isinstance(error, OptionsError) else 1


def _executor(options: Options, chosen: dict[str, Any]) -> "Executor":
    """Decide who works: this process, one process per device, or a cluster."""
    from sepconv_video.executor import EngineWork, LocalExecutor, check  # noqa: PLC0415

    if chosen["ray"] == "":
        raise click.UsageError(
            "--ray has an empty address: give one, or `--ray` alone to find a cluster"
        )
    if chosen["ray"] and chosen["devices"] is not None:
        raise click.UsageError("--ray and --devices exclude each other: Ray finds the devices")
    if chosen["ray"]:
        from sepconv_video.cluster import RayExecutor, with_absolute_paths  # noqa: PLC0415 - imports ray

        return RayExecutor(chosen["ray"], partial(EngineWork, with_absolute_paths(options)))
    if chosen["devices"] is not None:
        from sepconv_video.workers import ProcessExecutor  # noqa: PLC0415

        devices = [name.strip() for name in chosen["devices"].split(",") if name.strip()]
        if not devices:  # nobody would work, and nothing would fail
            raise click.UsageError(
                f"`--devices {chosen['devices']}` names no device: list them as cuda:0,cuda:1"
            )
        check(options, devices)
        return ProcessExecutor(devices, partial(EngineWork, options))
    return LocalExecutor(EngineWork(options, options.device))
