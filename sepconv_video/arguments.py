"""Additions to click for the command line: types, and flags that answer at once."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click
from click.core import ParameterSource

from sepconv_video import __version__


def list_models(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the models that there are, and leave."""
    if not value or context.resilient_parsing:
        return
    from sepconv_video import shipped  # noqa: PLC0415 - of use here only

    for model in shipped.shipped_models().values():
        click.echo(f"{model.name:8} {model.summary} ({model.licence})")
    for official in shipped.OFFICIAL_MODELS.values():
        state = f"; {official.missing}" if official.missing else ""
        click.echo(f"{official.name:8} {official.summary} ({shipped.OFFICIAL_LICENCE}){state}")
    context.exit()


def doctor(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print what is found of the installation, and leave."""
    if not value or context.resilient_parsing:
        return
    from sepconv_video.doctor import examine  # noqa: PLC0415 - imports torch

    click.echo(f"sepconv-video {__version__}")
    for line in examine():
        click.echo(line)
    context.exit()


def is_given(name: str) -> bool:
    """Whether an option is on the command line, be it with its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT


class Read(click.ParamType):  # type: ignore[type-arg]  # before click 8.4 it takes none
    """Text read by a function that raises `OptionsError`."""

    def __init__(self, read: Callable[[str], Fraction]) -> None:
        """Take the function."""
        self.name, self._read = "text", read

    def convert(self, value: Any, param: Any, ctx: Any) -> Fraction:  # noqa: ANN401 - click's
        """Read it, unless it is a default."""
        return value if isinstance(value, Fraction) else self._read(value)


class Source(click.Path):
    """A file or folder; an empty name, as an unset variable gives, is not the current folder."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 - click's
        """Refuse an empty name."""
        if value == "":
            self.fail("the name is empty: is a variable unset?", param, ctx)
        return super().convert(value, param, ctx)


class Target(Source):
    """A file or folder to write; a slash at its end, which `Path` forgets, is remembered."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 - click's
        """Note whether it ends with a slash as `ends_with_slash` of the context."""
        ctx.meta["ends_with_slash"] = str(value).endswith("/")
        return super().convert(value, param, ctx)


def flag(name: str, callback: Callable[..., None], text: str) -> Callable[..., Any]:
    """Make an option that is answered by `callback` before anything else; `text` is its help."""
    return click.option(
        name, is_flag=True, is_eager=True, expose_value=False, callback=callback, help=text
    )
