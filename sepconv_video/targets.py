"""Whether a target may be written at all, checked before any work is done for it."""

from pathlib import Path

from sepconv_video.errors import OptionsError, reason_of
from sepconv_video.numbered import existing, is_pattern
from sepconv_video.options import Job, Options


def check_place(job: Job) -> None:
    """Refuse a target that cannot be written whatever the options, before any work is done.

    Raises:
        OptionsError: It is the source, a folder, or has no folder to be in.
    """
    source, target = job.source, job.target
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise OptionsError(
            f"cannot write `{target}`: {reason_of(error)}", "choose another name with `-o`"
        ) from error
    if _meet(source, target):
        raise OptionsError(
            f"cannot write `{target}`: it is the source itself", "choose another name with `-o`"
        )
    if target.is_dir():
        raise OptionsError(
            f"cannot write `{target}`: it is a folder", "give the name of a file with `-o`"
        )
    if not target.parent.is_dir():
        raise OptionsError(
            f"cannot write `{target}`: there is no folder `{target.parent}`",
            "make the folder first, or choose another one with `-o`",
        )


def _meet(source: Path, target: Path) -> bool:
    """Tell whether writing the target would replace the source."""
    if not is_pattern(target):
        return target.exists() and source.exists() and target.samefile(source)
    if source.is_dir():
        return target.parent.exists() and target.parent.samefile(source)
    there = {path.resolve() for path in existing(target)}
    return any(path.resolve() in there for path in existing(source))


def check_free(job: Job, options: Options) -> None:
    """Refuse a target that exists, unless it may be replaced.

    Raises:
        OptionsError: It exists.
    """
    if options.overwrite or not (there := existing(job.target)):
        return
    if is_pattern(job.target):
        raise OptionsError(
            f"cannot write `{job.target}`: `{there[0].name}` exists already",
            "pass `--overwrite` to replace all pictures of that pattern (no old one is kept), "
            "or choose another name with `-o`",
        )
    raise OptionsError(
        f"cannot write `{job.target}`: it exists already",
        "pass `--overwrite` to replace it, or choose another name with `-o`",
    )
