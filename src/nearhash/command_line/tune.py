"""``nearhash tune``: the cheapest effort that reaches a recall, found by measurement and kept in the index file."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from nearhash.command_line.report import JsonOption, print_json, progress_bar, results
from nearhash.command_line.vector_files import read_vectors

if TYPE_CHECKING:
    from nearhash.index.tune import Measured, TunableIndex, Tuning

KINDS = ("graph", "ivf")
ROWS_SHOWN = 20


def tune(
    index: Annotated[
        Path, typer.Argument(metavar="INDEX", exists=True, dir_okay=False, help="A graph or ivf index file.")
    ],
    queries: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="Typical queries, not vectors of the index; a thousand or so."),
    ],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Neighbours per query.")] = 10,
    recall: Annotated[float, typer.Option(help="Share of the k nearest that a search shall find.")] = 0.95,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what was found; keep the file.")] = False,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw recall against speed into this .png (needs matplotlib).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the cheapest effort that reaches a recall, and store it in the index file for `search --recall`."""
    if not 0 < recall < 1:
        raise typer.BadParameter(f"got {recall:g}, expected a number above 0 and below 1", param_hint="--recall")
    if plot is not None and plot.suffix != ".png":
        raise typer.BadParameter(f"got {plot}, expected a name that ends in .png", param_hint="--plot")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {plot} does not exist", param_hint="--plot")
    if plot is not None:
        check_matplotlib()

    import nearhash as nh

    loaded = nh.load(index)
    kind = loaded.info()["kind"]
    if kind not in KINDS:
        raise typer.BadParameter(f"is of kind {kind}, which has no effort to choose", param_hint="INDEX")
    tunable = cast("TunableIndex", loaded)
    vectors = read_vectors(queries)
    started = time.perf_counter()
    with progress_bar("Tuning") as progress:
        tuning = tunable.tune(vectors, k=k, recall=recall, progress=progress)
    seconds = time.perf_counter() - started
    if not dry_run:
        tunable.save(index)
    if plot is not None:
        draw(tuning, plot)
    document = {
        "file": str(index),
        "stored": not dry_run,
        "k": k,
        "recall": recall,
        "queries": len(vectors),
        "seconds": seconds,
        "chosen": _point(tuning.chosen),
        "curve": [_point(point) for point in tuning.curve],
    }
    if json:
        print_json(document)
    else:
        _print_curve(document)


def check_matplotlib() -> None:
    """Exit with 2 before anything is measured if there is nothing to draw with."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise typer.BadParameter("needs matplotlib: pip install 'nearhash[plot]'", param_hint="--plot") from error


def draw(tuning: "Tuning", path: Path) -> None:
    """Draw recall against queries per second into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=110)
    points = tuning.curve
    axes.plot([point.recall for point in points], [1 / point.seconds for point in points], marker="o", markersize=4)
    chosen = tuning.chosen
    axes.plot([chosen.recall], [1 / chosen.seconds], marker="*", markersize=14, linestyle="", label=_spelled(chosen))
    axes.axvline(tuning.recall, linestyle=":", color="grey")
    axes.set_yscale("log")
    axes.set_xlabel(f"recall@{tuning.k}")
    axes.set_ylabel("queries per second, one thread (log scale)")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _point(point: "Measured") -> dict[str, Any]:
    return {
        "effort": point.effort,
        "recall": point.recall,
        "recall_bound": point.bound,
        "work": point.work,
        "queries_per_second": 1 / point.seconds,
    }


def _spelled(point: "Measured") -> str:
    return ", ".join(f"{name} {value}" for name, value in point.effort.items())


def _print_curve(document: dict[str, Any]) -> None:
    console = results()
    names = list(document["chosen"]["effort"])
    table = Table(*names, "recall", "at least (95%)", "queries/s", "", box=None)
    for column in table.columns:
        column.justify = "right"
    step = max(1, -(-len(document["curve"]) // ROWS_SHOWN))
    chosen = document["chosen"]
    shown = [point for place, point in enumerate(document["curve"]) if place % step == 0 or point == chosen]
    for point in shown if chosen in shown else [*shown, chosen]:
        table.add_row(
            *(str(point["effort"][name]) for name in names),
            f"{point['recall']:.4f}",
            f"{point['recall_bound']:.4f}",
            f"{point['queries_per_second']:,.0f}",
            "<- chosen" if point == chosen else "",
        )
    console.print(table)
    kept = f"stored in {document['file']}" if document["stored"] else "not stored"
    console.print(
        f"recall {document['recall']:g} at k = {document['k']} on {document['queries']:,} queries, one thread, "
        f"{document['seconds']:.1f} s; {kept}",
        soft_wrap=True,
        markup=False,
    )
