"""The models that come with the package, and how to know weights again, without loading any."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from sepconv_video.errors import OptionsError, WeightsError

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


def shipped_models() -> dict[str, ShippedModel]:
    """Read the manifest: the models that come with the package, by name.

    Raises:
        WeightsError: The package was installed without its weights.
    """
    folder = _weights_folder()
    manifest = tomllib.loads((folder / "MANIFEST.toml").read_text(encoding="utf-8"))
    return {
        name: ShippedModel(
            name=name,
            file=folder / entry["file"],
            sha256=entry["sha256"],
            licence=entry["licence"],
            summary=entry["summary"],
        )
        for name, entry in manifest.items()
    }


def _weights_folder() -> Path:
    """`weights_data` inside an installed package, `weights` beside it in a checkout."""
    for folder in (_HERE / "weights_data", _HERE.parent / "weights"):
        if (folder / "MANIFEST.toml").is_file():
            return folder
    raise WeightsError(
        f"no weights came with this installation: no MANIFEST.toml in `{_HERE / 'weights_data'}`",
        "reinstall the package, e.g. `pip install --force-reinstall sepconv-video`",
    )


def weights_digest(name_or_path: str | Path) -> str:
    """SHA-256 of a model's weights, in hexadecimal, by which to know them again.

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
    """Find a weights file that was named by its path.

    Raises:
        OptionsError: There is none.
    """
    path = Path(name_or_path)
    if not path.is_file():
        raise OptionsError(
            f"unknown model `{name_or_path}`: neither a shipped model nor a file",
            f"use one of {', '.join(f'`{name}`' for name in shipped_models())}, or a weights file",
        )
    return path
