"""The models that come with the package, and the official ones that a user may fetch.

Also how to recognise weights. Nothing is loaded here, and nothing downloaded.
"""

import hashlib
import os
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from sepconv_video.errors import OptionsError, WeightsError, reason_of

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedModel:
    """One entry of the manifest."""

    name: str
    file: Path
    sha256: str
    licence: str
    summary: str
    """One line for `--list-models`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialModel:
    """Weights of the 2017 paper, for academic use only: never shipped, fetched on demand."""

    name: str
    blob_id: str
    """Git's name of the content: SHA-1 of `blob SIZE\\0` and the content, in hexadecimal."""
    summary: str
    """One line for `--list-models`."""

    @property
    def file_name(self) -> str:
        """What its author calls the file."""
        return f"network-{self.name}.pytorch"

    @property
    def file(self) -> Path:
        """Where it lies once it has been fetched."""
        return cache_folder() / self.file_name

    @property
    def command(self) -> str:
        """What fetches it."""
        return f"python scripts/download_weights.py {self.name}"

    @property
    def missing(self) -> str:
        """Why it cannot be used (not fetched, or not readable); empty where it can."""
        try:
            return "" if _is_file(self.file) else f"to fetch: {self.command}"
        except WeightsError as error:
            return error.message


OFFICIAL_MODELS = {
    model.name: model
    for model in (
        OfficialModel(
            name="l1",
            blob_id="8831cb9988a128fa12de379d3788f9299c21713e",
            summary="SepConv of 2017, trained for accuracy; 396k multiply-accumulates per pixel",
        ),
        OfficialModel(
            name="lf",
            blob_id="1f89347abc8d39fed37bf52a4ae32a419f1169e0",
            summary="SepConv of 2017, trained for looks; 396k multiply-accumulates per pixel",
        ),
    )
}
OFFICIAL_LICENCE = "academic use only"
REINSTALL = "reinstall the package, e.g. `pip install --force-reinstall sepconv-video`"


def cache_folder() -> Path:
    """Where fetched weights lie: `$SEPCONV_VIDEO_CACHE`, else in the platform's usual place.

    Raises:
        WeightsError: That place is in a home folder, and the user has none.
    """
    if chosen := os.environ.get("SEPCONV_VIDEO_CACHE"):
        return Path(chosen)
    variable, usual = {
        "win32": ("LOCALAPPDATA", "~/AppData/Local"),
        "darwin": ("", "~/Library/Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    try:
        return Path(os.environ.get(variable) or usual).expanduser() / "sepconv-video"
    except RuntimeError as error:  # as for a number without a name in a container
        raise WeightsError(
            "there is no place for fetched weights, as this user has no home folder",
            "set `SEPCONV_VIDEO_CACHE` to a folder",
        ) from error


def git_blob_id(content: bytes) -> str:
    """Name a file's content as `git hash-object` does, 40 hexadecimal digits."""
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def shipped_models() -> dict[str, ShippedModel]:
    """Read the manifest: the models that come with the package, by name.

    Raises:
        WeightsError: The package was installed without its weights, or the manifest is damaged.
    """
    folder = _weights_folder()
    path = folder / "MANIFEST.toml"
    try:
        return {
            name: ShippedModel(
                name=name,
                file=folder / entry["file"],
                sha256=entry["sha256"],
                licence=entry["licence"],
                summary=entry["summary"],
            )
            for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()
        }
    # ValueError: it is no TOML, or not even text; the others: an entry is not as it should be
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"`{path}` is damaged: {reason_of(error)}", REINSTALL) from error


def _weights_folder() -> Path:
    """`weights_data` inside an installed package, `weights` beside it in a checkout."""
    for folder in (_HERE / "weights_data", _HERE.parent / "weights"):
        if (folder / "MANIFEST.toml").is_file():
            return folder
    raise WeightsError(
        f"no weights came with this installation: no MANIFEST.toml in `{_HERE / 'weights_data'}`",
        REINSTALL,
    )


def weights_digest(name_or_path: str | Path) -> str:
    """SHA-256 of a model's weights, in hexadecimal, to recognise them.

    Raises:
        OptionsError: There is no such model and no such file.
        WeightsError: The file cannot be read.
    """
    shipped = shipped_models().get(str(name_or_path))
    if shipped is not None:
        return shipped.sha256
    path = weights_file(name_or_path)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read `{path}`: {error.strerror or error}") from error


def weights_file(name_or_path: str | Path) -> Path:
    """Find a weights file that was named by its path, or an official one by its name.

    Raises:
        OptionsError: There is none.
        WeightsError: The official weights have not been fetched yet, or one may not look.
    """
    official = OFFICIAL_MODELS.get(str(name_or_path))
    if official is not None:
        return _fetched(official)
    path = Path(name_or_path)
    if not _is_file(path):
        raise OptionsError(
            f"unknown model `{name_or_path}`: neither a shipped model nor a file",
            f"use one of {', '.join(f'`{name}`' for name in shipped_models())}, or a weights file",
        )
    return path


def _fetched(model: OfficialModel) -> Path:
    if not _is_file(model.file):
        raise WeightsError(
            f"the official weights `{model.name}` are not installed: no file `{model.file}`",
            f"fetch them with `{model.command}`, which shows their licence first "
            f"({OFFICIAL_LICENCE})",
        )
    return model.file


def _is_file(path: Path) -> bool:
    """Tell whether there is such a file; access may be denied and names too long."""
    try:
        return path.is_file()
    except OSError as error:
        raise WeightsError(
            f"cannot read `{path}`: {reason_of(error)}", "check its name and permissions"
        ) from error
