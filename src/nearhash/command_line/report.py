"""How commands speak: results on stdout, as text or as one JSON document; progress and notices on stderr."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads to use.", show_default="all cores")]


def results() -> Console:
    """The console of results: stdout."""
    return Console(highlight=False)


def notices() -> Console:
    """The console of progress and notices: stderr."""
    return Console(stderr=True, highlight=False)


def print_json(document: dict[str, Any]) -> None:
    """Print `document` on stdout. Infinity and NaN are refused, because JSON has no words for them."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr if that is a terminal; yields the callback ``progress(done, total)`` that moves it."""
    console = notices()
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
