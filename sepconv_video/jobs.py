"""Which files to make, and where each goes; nothing is opened yet."""

import fnmatch
import glob
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sepconv_video.errors import OptionsError, SepConvVideoError, reason_of
from sepconv_video.numbered import PICTURE_SUFFIXES, is_pattern, pictures_in
from sepconv_video.options import LABELLED, Job
from sepconv_video.video import container_for

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    }
)
"""What counts as a video when a folder is searched; a file named outright is always tried."""


def find_jobs(
    inputs: Sequence[Path], output: Path | None, label: str, pattern: str | None = None
) -> list[Job]:
    """Give each source its target, and make the target folders.

    Numbered pictures, named by a pattern such as `in/%05d.png` or by a folder without videos,
    are one job and need the name of a video or of numbered pictures as `output`.

    A file goes to `output`, or to `NAME.2x.SUFFIX` beside it, or under its new name into
    `output` if that is a folder. Of a folder all videos in it and below go into `output`,
    under the same names in the same tree; hidden files and links to folders are left out.
    So are files found by a pattern that another of the jobs makes.

    Args:
        inputs: Files, folders and patterns such as `clips/*.mp4`.
        output: Target file or folder; None for a file's default.
        label: What is made, for the default names, e.g. `2x`.
        pattern: Of a folder's files take those whose name or path in it matches this, whatever
            their suffix.

    Returns:
        The jobs, in the order of their sources' names.

    Raises:
        OptionsError: A folder without an output folder or without videos, two sources for one
            target, a URL, or an output folder that cannot be made.
    """
    for path in (*inputs, *([output] if output else [])):
        _refuse_url(path)
    if any(is_sequence(path, pattern) for path in inputs) or (output and is_pattern(output)):
        return [_sequence_job(inputs, output)]
    sources = [path for given in inputs for path in _expanded(given)]
    _check(sources, output, pattern)
    jobs: list[Job] = []
    for source in sources:
        if _is_folder(source):
            inside = Path(source.name) if sum(_is_folder(path) for path in sources) > 1 else Path()
            jobs.extend(_folder_jobs(source, _folder(source, output), inside, pattern))
        elif output is None or _is_folder(output) or len(sources) > 1:
            jobs.append(Job(source=source, target=_default_target(source, output, label)))
        else:
            jobs.append(Job(source=source, target=output))
    jobs = _distinct(sorted(jobs, key=lambda job: job.source))
    jobs = _without_own(jobs, named=set(inputs))
    if goes_into_folder(sources, output):  # which need not exist yet
        for job in jobs:
            make_folder(job.target.parent)
    return jobs


def _check(sources: Sequence[Path], output: Path | None, pattern: str | None) -> None:
    """Refuse one target file for several inputs, and `--pattern` without a folder."""
    if pattern is not None and not any(map(_is_folder, sources)):
        raise OptionsError(
            f"`--pattern {pattern}` chooses among a folder's files, but no input is a folder",
            "leave it out, or name a folder",
        )
    is_one = len(sources) == 1 and not _is_folder(sources[0])
    if is_one or output is None or _is_folder(output):
        return
    if output.suffix.lower() in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
        what = f"{len(sources)} inputs" if len(sources) > 1 else f"the folder `{sources[0]}`"
        raise OptionsError(
            f"cannot write {what} to one file, `{output}`",
            f"name a folder, e.g. `-o {output.parent / output.stem}/`",
        )


def is_sequence(path: Path, pattern: str | None = None) -> bool:
    """Tell whether a path stands for numbered pictures; a folder with a video in it does not."""
    if is_pattern(path):
        return True
    if pattern is not None or not _is_folder(path) or not _pictures_in(path):
        return False
    inside = _files(path, path / ".parts")
    return not any(file.suffix.lower() in VIDEO_SUFFIXES for file in inside)


def passed_over(inputs: Sequence[Path], pattern: str | None = None) -> list[str]:
    """Name the folders whose pictures are ignored, as they hold videos too; one line each."""
    counts = {
        folder: _pictures_in(folder)
        for folder in inputs
        if pattern is None and _is_folder(folder) and not is_sequence(folder)
    }
    return [
        f"{count} pictures in `{folder}` ignored, as it holds videos too"
        for folder, count in counts.items()
        if count > 1  # a poster beside a film is not worth a note
    ]


def _pictures_in(folder: Path) -> int:
    try:
        return len(pictures_in(folder))
    except OSError:  # whoever looks for videos in it says so
        return 0


def _sequence_job(inputs: Sequence[Path], output: Path | None) -> Job:
    """Pair one source with one target where either is numbered pictures."""
    if len(inputs) != 1:
        raise OptionsError(
            f"with numbered pictures there can be only one input: {len(inputs)} were given",
            "run it once for each",
        )
    source = inputs[0]
    if output is None or _is_folder(output):
        raise OptionsError(
            f"cannot choose an output for the pictures `{source}`",
            "name a video, e.g. `-o out.mp4`, or numbered pictures, e.g. `-o out/%05d.png`",
        )
    if _is_folder(source) and not is_sequence(source):
        raise OptionsError(
            f"cannot write all videos in `{source}` to one sequence, `{output}`",
            "name one of them, or a folder with `-o out/`",
        )
    make_folder(output.parent)
    return Job(source=source, target=output)


def _refuse_url(path: Path) -> None:
    """Refuse URLs, which would become strange folders: `Path` makes `s3:/a` of `s3://a`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) and not _exists(path):
        raise OptionsError(
            f"cannot work on `{str(path).replace(':/', '://', 1)}`: it is a URL, not a file or "
            "folder",
            "mount the storage as a folder, e.g. with `rclone mount`, or copy the files",
        )


def goes_into_folder(inputs: Sequence[Path], output: Path | None) -> bool:
    """Say whether `output` is a folder for what `find_jobs` finds, be it there yet or not."""
    if output is None or is_pattern(output) or any(map(is_sequence, inputs)):
        return False
    given = [path for one in inputs for path in _expanded(one)]
    return _is_folder(output) or len(given) > 1 or any(_is_folder(path) for path in given)


def _is_folder(path: Path) -> bool:
    # `Path` raises where access is denied or a name is too long; opening it will say so
    return os.path.isdir(path)  # noqa: PTH112


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - likewise


def _expanded(given: Path) -> list[Path]:
    if os.path.lexists(given) or not glob.has_magic(str(given)):
        return [given]
    found = sorted(glob.glob(str(given), recursive=True))  # noqa: PTH207 - knows absolute ones
    if not found:
        raise OptionsError(
            f"no file matches `{given}`", "check the pattern; `**` matches folders at any depth"
        )
    return [Path(name) for name in found]


def make_folder(folder: Path) -> None:
    """Make a folder, and those it is in.

    Raises:
        OptionsError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(
            f"cannot make the folder `{folder}`: {reason_of(error)}",
            "choose another one with `-o`",
        ) from error


def _folder(source: Path, output: Path | None) -> Path:
    """Check that `output` can take what comes from a folder."""
    is_there = output is not None and _exists(output)
    if output is None or (is_there and not _is_folder(output)):
        raise OptionsError(
            f"the folder `{source}` needs a folder to write to", "name one with `-o out/`"
        )
    if is_there and output.samefile(source):
        raise OptionsError(
            f"cannot write into `{source}`: it is the source folder itself",
            "name another one with `-o out/`",
        )
    return output


def _folder_jobs(folder: Path, output: Path, inside: Path, pattern: str | None) -> Iterator[Job]:
    """Find the videos of a folder; their targets are in the folder `inside` of `output`."""
    sources = [path for path in _files(folder, output) if _is_wanted(path, folder, pattern)]
    if not sources:
        raise OptionsError(
            f"there is no {f'file that matches `{pattern}`' if pattern else 'video'} in the folder "
            f"`{folder}`",
            f"videos are files with one of the suffixes {' '.join(sorted(VIDEO_SUFFIXES))}; "
            "`--pattern` chooses others",
        )
    for source in sources:
        target = output / inside / source.relative_to(folder)
        yield Job(source=source, target=target.with_suffix(_writable_suffix(source)))


def _files(folder: Path, output: Path) -> Iterator[Path]:
    """Walk through a folder, without hidden files, our own output, and links to folders."""

    def refuse(error: OSError) -> None:
        raise OptionsError(
            f"cannot read the folder `{error.filename}`: {reason_of(error)}",
            "make it readable, or name the files that you want",
        ) from error

    forbidden = os.path.realpath(output)  # `Path` raises where links go in a circle
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".parts")
            and os.path.realpath(Path(place, name)) != forbidden
        ]
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _is_wanted(path: Path, folder: Path, pattern: str | None) -> bool:
    if not _may_be_file(path):  # a socket, or a link to nowhere
        return False
    if pattern is None:
        return path.suffix.lower() in VIDEO_SUFFIXES
    within = path.relative_to(folder).as_posix()
    return fnmatch.fnmatch(path.name, pattern) or fnmatch.fnmatch(within, pattern)


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # one may not look: opening it will say so
        return True


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """Give sources that would meet in one target their whole name: `a.flv.mkv`, `a.mkv`."""
    owners: dict[Path, Path] = {}
    # who keeps its suffix keeps its name: a new `a.flv` must not take that of `a.mkv`
    for job in sorted(jobs, key=lambda job: job.source.suffix != job.target.suffix):
        owners.setdefault(job.target, job.source)
    first: dict[Path, Job] = {}
    found: list[Job] = []
    for job in jobs:
        target = job.target
        if job.source != owners[target]:
            target = target.with_name(f"{job.source.name}{target.suffix}")
        if target in first:
            if job.source == first[target].source:
                continue  # named twice
            raise OptionsError(
                f"`{first[target].source}` and `{job.source}` would both become `{target}`",
                "make them in two runs with two output folders",
            )
        first[target] = Job(source=job.source, target=target)
        found.append(first[target])
    return found


def _without_own(jobs: Sequence[Job], named: Collection[Path]) -> list[Job]:
    """Leave out files that patterns find but an earlier run, or another shard, has made.

    Those made with other options, beside their sources, are known by their names: `a.4x.mp4`, if
    there is an `a.mp4` too.
    """
    makers = {os.path.realpath(job.target): job for job in jobs}
    stems = {(job.source.parent, job.source.stem) for job in jobs}

    def is_own(job: Job) -> bool:
        source, labelled = job.source, LABELLED.fullmatch(job.source.stem)
        if makers.get(os.path.realpath(source), job) != job:
            return True
        is_beside = os.path.realpath(job.target.parent) == os.path.realpath(source.parent)
        return bool(is_beside and labelled and (source.parent, labelled[1]) in stems)

    return [job for job in jobs if job.source in named or not is_own(job)]


def _default_target(source: Path, folder: Path | None, label: str) -> Path:
    name = f"{source.stem}.{label}{_writable_suffix(source)}"
    return (folder or source.parent) / name


def _writable_suffix(source: Path) -> str:
    """The source's suffix, or Matroska's, which holds everything, if that cannot be written."""
    try:
        container_for(source)
    except SepConvVideoError:
        return ".mkv"
    return source.suffix


def shard(jobs: Sequence[Job], number: int, count: int) -> list[Job]:
    """Take every `count`-th job from the `number`-th on, so that `count` machines do them all.

    Raises:
        OptionsError: There is no such shard.
    """
    if not 1 <= number <= count:
        raise OptionsError(
            f"there is no shard {number} of {count}", f"use `--shard 1/{count}` to {count}/{count}"
        )
    return list(jobs[number - 1 :: count])
