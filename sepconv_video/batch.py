"""Many files with one engine: find what there is to do, do it, go on after a failure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sepconv_video.engine import Engine
from sepconv_video.errors import OptionsError, SepConvVideoError
from sepconv_video.options import Job, Options
from sepconv_video.pipeline import Progress, Report, interpolate_file
from sepconv_video.video import container_for

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
"""What counts as a video when a folder is searched; a file named outright is always tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one job: a report or an error."""

    job: Job
    report: Report | None
    error: SepConvVideoError | None

    @property
    def is_good(self) -> bool:
        """Whether the whole video was made from an undamaged source."""
        return self.report is not None and self.report.damage is None


def find_jobs(inputs: Sequence[Path], output: Path | None, factor: int) -> list[Job]:
    """Say which file becomes which, and make the folders they go to.

    A file goes to `output`, or to `NAME.2x.SUFFIX` beside it, or under its new name into
    `output` if that is a folder. Of a folder all videos in it and below go into `output`,
    under the same names in the same tree.

    Args:
        inputs: Files and folders.
        output: Target file or folder; None for a file's default.
        factor: The frame-rate factor, for the default names.

    Raises:
        OptionsError: A folder without an output folder or without videos, or an output
            folder that cannot be made.
    """
    jobs: list[Job] = []
    for source in inputs:
        if source.is_dir():
            jobs.extend(_folder_jobs(source, output))
        elif output is None or output.is_dir() or len(inputs) > 1:
            jobs.append(Job(source=source, target=_default_target(source, output, factor)))
        else:
            jobs.append(Job(source=source, target=output))
    if any(source.is_dir() for source in inputs) or len(inputs) > 1:
        _make_folders(jobs)  # `output` is a folder here, so it need not exist yet
    return jobs


def _make_folders(jobs: Sequence[Job]) -> None:
    for job in jobs:
        folder = job.target.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionsError(
                f"cannot make the folder `{folder}`: {error.strerror}",
                "choose another one with `-o`",
            ) from error


def _folder_jobs(folder: Path, output: Path | None) -> Iterator[Job]:
    if output is None or (output.exists() and not output.is_dir()):
        raise OptionsError(
            f"the folder `{folder}` needs a folder to write to", "name one with `-o out/`"
        )
    if output.exists() and output.samefile(folder):
        raise OptionsError(
            f"cannot write into `{folder}`: it is the source folder itself",
            "name another one with `-o out/`",
        )
    sources = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_relative_to(output)
    ]
    if not sources:
        raise OptionsError(
            f"there is no video in the folder `{folder}`",
            f"videos are files with one of the suffixes {' '.join(sorted(VIDEO_SUFFIXES))}",
        )
    for source in sources:
        target = output / source.relative_to(folder)
        yield Job(source=source, target=target.with_suffix(_writable_suffix(source)))


def _default_target(source: Path, folder: Path | None, factor: int) -> Path:
    name = f"{source.stem}.{factor}x{_writable_suffix(source)}"
    return (folder or source.parent) / name


def _writable_suffix(source: Path) -> str:
    """The source's own suffix, or Matroska's, which holds everything, where nothing writes it."""
    try:
        container_for(source)
    except SepConvVideoError:
        return ".mkv"
    return source.suffix


def run_jobs(
    jobs: Sequence[Job], options: Options, on_progress: Progress | None = None
) -> Iterator[Result]:
    """Do the jobs one after the other with one engine; a failure does not stop the rest.

    Yields:
        One result per job, in order.

    Raises:
        SepConvVideoError: The engine itself cannot be made: no such model or device.
    """
    engine = Engine.from_options(options)
    for job in jobs:
        report, error = None, None
        try:
            report = interpolate_file(job, options, engine=engine, on_progress=on_progress)
        except SepConvVideoError as fault:
            error = fault
        yield Result(job=job, report=report, error=error)
