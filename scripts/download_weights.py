#!/usr/bin/env python3
"""Fetch the official SepConv weights of 2017, which are for academic use only.

    python scripts/download_weights.py l1
    python scripts/download_weights.py lf --yes
    python scripts/download_weights.py l1 --from ~/.cache/torch/hub/checkpoints/sepconv-l1

Their licence is shown first, and nothing is done without your word: an answer on the terminal, or
`--yes`. They come from their author's site or, where that fails, from the next of the mirrors, and
are kept in `$SEPCONV_VIDEO_CACHE` (else the platform's usual cache folder), where
`sepconv-video --model l1` finds them. What is not exactly the official file is refused.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import click

from sepconv_video.display import show_error
from sepconv_video.errors import OptionsError, SepConvVideoError, WeightsError
from sepconv_video.shipped import OFFICIAL_MODELS, OfficialModel, git_blob_id

LICENCE = """\
The SepConv weights `l1` and `lf` belong to the authors of "Video Frame Interpolation via Adaptive
Separable Convolution" (Simon Niklaus, Long Mai, Feng Liu; ICCV 2017). Their terms, from
https://github.com/sniklaus/sepconv-slomo:

    The provided implementation is strictly for academic purposes only. Should you be interested
    in using our technology for any commercial use, please feel free to contact us.
"""
MIRRORS = (
    "http://content.sniklaus.com/sepconv",  # the author's own, without TLS: hence the check
    "https://content.sniklaus.com/sepconv",
    "https://web.archive.org/web/2020id_/http://content.sniklaus.com/sepconv",
)
"""Folders that hold the files, tried in this order."""
TIMEOUT_S = 30.0
MOST_BYTES = 2**28  # three times a file: an answer without an end must not fill the memory


def fetch(model: OfficialModel, mirrors: Sequence[str]) -> bytes:
    """Download a file from the first mirror that has the right one.

    Raises:
        WeightsError: None has.
    """
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{model.file_name}"
        print(f"fetching {url}", flush=True)
        try:
            content = download(url)
            check(model, content, url)
        # URLError, timeouts and refused connections are OSErrors; ValueError: not a URL
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"`{url}`: {reason(error)}")
        except WeightsError as error:
            failures.append(error.message)
        else:
            return content
    raise WeightsError(
        f"cannot fetch `{model.name}`: {'; '.join(failures)}",
        f"check the network, or get `{model.file_name}` in another way and install it with "
        f"`{model.command} --from FILE`",
    )


def reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()  # it is an answer, with a connection
        return str(error)
    return str(getattr(error, "reason", error))


def download(url: str) -> bytes:
    with urlopen(url, timeout=TIMEOUT_S) as answer:
        return answer.read(MOST_BYTES)


def check(model: OfficialModel, content: bytes, origin: str | Path) -> None:
    """Refuse what is not the official file.

    Raises:
        WeightsError: It is another file, or damaged.
    """
    found = git_blob_id(content)
    if found != model.blob_id:
        raise WeightsError(
            f"`{origin}` is not the official `{model.file_name}`: {len(content)} bytes with the "
            f"git blob id {found}, not {model.blob_id}",
            "get the file again, or add `--force` to install it anyway",
        )


def read(model: OfficialModel, path: Path, *, force: bool) -> bytes:
    """Read a file that the user has got otherwise; with `force` it may be any.

    Raises:
        WeightsError: It cannot be read, or is not the official one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read `{path}`: {error.strerror or error}") from error
    if not force:
        check(model, content, path)
    return content


def install(model: OfficialModel, content: bytes) -> None:
    """Put a file into the cache folder: whole, or not at all.

    Raises:
        WeightsError: It cannot be written.
    """
    partial = model.file.with_name(f"{model.file_name}.{os.getpid()}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(model.file)
    except OSError as error:
        raise WeightsError(
            f"cannot write `{model.file}`: {error.strerror or error}",
            "set `SEPCONV_VIDEO_CACHE` to a folder that can be written",
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def agree(*, yes: bool) -> None:
    """Show the licence and get the user's word.

    Raises:
        OptionsError: There is nobody to ask.
        click.Abort: The user does not agree.
    """
    print(LICENCE, flush=True)
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():  # None: closed by who started us
        raise OptionsError(
            "these terms must be accepted, and there is no terminal to ask on",
            "add `--yes` if you accept them",
        )
    click.confirm("Do you accept these terms?", abort=True)


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))  # examples as they are
@click.argument("name", type=click.Choice(list(OFFICIAL_MODELS)))
@click.option("--yes", is_flag=True, help="You have read the licence and accept it.")
@click.option(
    "--from", "source", metavar="FILE", type=click.Path(path_type=Path), help="Install this."
)
@click.option(
    "--mirror", multiple=True, metavar="URL", help="URL of a folder to try first; repeatable."
)
@click.option("--force", is_flag=True, help="Install FILE even if it is not the official one.")
def main(name, yes, source, mirror, force) -> None:
    model = OFFICIAL_MODELS[name]
    if force and source is None:
        raise click.UsageError("--force is for --from: downloads are always checked")
    try:
        agree(yes=yes)
        if source is not None:
            content = read(model, source, force=force)
        else:
            content = fetch(model, (*mirror, *MIRRORS))
        install(model, content)
    except SepConvVideoError as error:
        show_error(error)
        sys.exit(2 if isinstance(error, OptionsError) else 1)
    print(f"installed `{model.file}`: sepconv-video input.mp4 --model {name}")


if __name__ == "__main__":
    main()
