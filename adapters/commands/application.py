"""The commands put together, with what all of them say of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

import shrinkstats
from shrinkstats.adapters.commands import bounds, demo, dominance, estimate, evaluate, shift
from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.screen import printable


def application() -> typer.Typer:
    """The commands and their options."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
    )
    app.callback()(_root)
    for command in (
        estimate.estimate, bounds.bounds, dominance.dominance, evaluate.evaluate, shift.shift, demo.demo
    ):  # fmt: skip
        app.command()(_one_line_errors()(command))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shrinkstats {shrinkstats.__version__}")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Means and variances by shrinkage, and batch normalization that uses them.

    Examples:

    - `shrinkstats estimate measurements.csv`

    - `shrinkstats estimate images.npy --axis 1 --output channels.json`

    - `shrinkstats bounds --source 0,1 --target 0.5,0.25 -n 8`

    - `shrinkstats dominance stein --dim 16 -n 8`

    - `shrinkstats evaluate resnet20.safetensors cifar-10-batches-py --model resnet20`

    - `shrinkstats demo`
    """


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Errors a user can act on, without a traceback: status 2 for the request, 1 for the data."""
    try:
        yield
    except (ValueError, TypeError, OSError, MemoryError) as error:
        typer.echo(f"Error: {printable(str(error)) or type(error).__name__}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
