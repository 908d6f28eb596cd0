"""``nearhash dedup``: near-duplicates among documents in files."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nearhash.command_line.report import JsonOption, ThreadsOption, notices, print_json, results


class Unit(str, Enum):
    """What an n-gram is made of."""

    word = "word"
    char = "char"


class Verify(str, Enum):
    """How candidates are verified."""

    exact = "exact"
    sketch = "sketch"
    none = "none"


class Format(str, Enum):
    """What files are."""

    text = "text"
    jsonl = "jsonl"
    parquet = "parquet"


class Errors(str, Enum):
    """What is done about bytes that are no UTF-8."""

    strict = "strict"
    substitute = "replace"


# What a stage does, and what it counts.
STAGES = {
    "sketch": ("Sketching", "bytes"),
    "bands": ("Writing bands", "documents"),
    "compare": ("Comparing", "partitions"),
    "verify": ("Reading candidates", "bytes"),
    "link": ("Verifying", "pairs"),
    "group": ("Grouping", "documents"),
    "write": ("Writing", "documents"),
}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """A number of bytes such as 512M or 1.5G."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise typer.BadParameter(f"expected a size such as 512M or 2G, got {text!r}", param_hint="--memory") from None


def dedup(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Files (.txt, .jsonl, .parquet; .gz) and folders of them.")
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="A new folder for what is kept and found.")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Jaccard similarity of near-duplicates.")] = 0.8,
    ngram: Annotated[int, typer.Option(min=1, help="Words (or characters) of a shingle.")] = 5,
    unit: Annotated[Unit, typer.Option(help="What a shingle is made of.")] = Unit.word,
    column: Annotated[str, typer.Option(help="Of JSONL and Parquet: where the text is.")] = "text",
    id_column: Annotated[
        str | None, typer.Option(help="Of JSONL and Parquet: names the documents.", show_default="file and row")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="What all files are.", show_default="by suffix")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Text files have a document in each line.")] = False,
    errors: Annotated[Errors, typer.Option(help="Bytes that are no UTF-8: stop, or read U+FFFD.")] = Errors.strict,
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Remove documents without a word.")] = False,
    verify: Annotated[
        Verify, typer.Option(help="Verify candidates by their similarity, its estimate, or not.")
    ] = Verify.exact,
    k: Annotated[int | None, typer.Option(min=1, help="Slots of a sketch.", show_default="128")] = None,
    bands: Annotated[
        int | None, typer.Option(min=1, help="Bands of a sketch.", show_default="from the threshold")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Slots of a band.", show_default="from the threshold")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sketches.")] = 1,
    memory: Annotated[str, typer.Option(help="For sketches and keys, such as 512M or 4G.")] = "1G",
    threads: ThreadsOption = None,
    store: Annotated[
        Path | None, typer.Option(file_okay=False, help="A folder that remembers documents of earlier runs.")
    ] = None,
    check_only: Annotated[bool, typer.Option("--check-only", help="Add nothing to the store.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove near-duplicates from documents in files, in bounded memory."""
    budget = parse_size(memory)

    from nearhash.index.dedup import FileOptions, Settings, deduplicate_files

    settings = Settings.choose(
        threshold, ngram, unit.value, k, bands, rows, None if verify is Verify.none else verify.value, seed
    )
    options = FileOptions(column, id_column, form and form.value, lines, errors.value, drop_empty)
    started = time.perf_counter()
    try:
        with _stage_bars() as progress:
            report = deduplicate_files(
                inputs, out, settings, options, store=store, check_only=check_only, resume=resume, memory=budget,
                threads=threads, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("nearhash: interrupted; the same command with --resume goes on", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            place = error.filename or out
            message = f"nearhash: {place}: {error.strerror}; make room, then the same command with --resume goes on"
            typer.echo(message, err=True)
            raise typer.Exit(1) from error
        raise
    report["seconds"] = time.perf_counter() - started
    if json:
        print_json(report)
    else:
        _print_summary(report, out)


@contextmanager
def _stage_bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar for each stage, with its rate and what is left, on stderr if that is a terminal."""
    console = notices()
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description:<18}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, tuple[TaskID, float, int]] = {}

        def show(stage: str, done: int, total: int) -> None:
            now = time.perf_counter()
            description, unit = STAGES[stage]
            if stage not in tasks:
                tasks[stage] = bar.add_task(description, total=total, rate=""), now, done
            task, began, first = tasks[stage]
            speed = (done - first) / (now - began) if now > began else 0.0
            rate = f"{speed / 1e6:,.1f} MB/s" if unit == "bytes" else f"{speed:,.0f} {unit}/s"
            bar.update(task, completed=done, total=total, rate=rate if speed else "")

        yield show


def _print_summary(report: dict[str, Any], out: Path) -> None:
    console = results()

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    line(
        f"{report['documents']:,} documents in {report['files']:,} files: {report['kept']:,} kept, "
        f"{report['removed']:,} removed, {report['clusters']:,} clusters; {report['seconds']:.1f} s"
    )
    if report["in_store_before"]:
        old = report["duplicates_of_the_store"]
        line(f"{old:,} are in a group with one of {report['in_store_before']:,} in the store")
    if report["empty"]:
        line(f"{report['empty']:,} documents have no word in them")
    line(
        f"{report['duplicate_pairs']:,} duplicate pairs; estimated to be wrong: "
        f"{report['estimated_false_positive_rate']:.2%}, missed: {report['estimated_false_negative_rate']:.2%}"
    )
    line(f"kept files, clusters.jsonl and report.json are in {out}")
