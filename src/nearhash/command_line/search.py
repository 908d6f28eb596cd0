"""``nearhash search``: the nearest neighbours of queries from a file."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from nearhash.command_line.report import JsonOption, ThreadsOption, print_json, results
from nearhash.command_line.vector_files import read_allow, read_vectors

if TYPE_CHECKING:
    from nearhash import Hits

QUERIES_SHOWN = 5
# The kinds of index that an effort is for.
EFFORTS = {"beam": ("graph",), "slack": ("graph",), "probes": ("ivf",), "rerank": ("ivf",), "recall": ("graph", "ivf")}


def parse_window(text: str) -> tuple[float, float]:
    """Read ``LO:HI``; a missing side is unbounded.

    Raises
    ------
    typer.BadParameter
        `text` is not two numbers with a colon between them, or LO is above HI.
    """
    low, colon, high = text.partition(":")
    try:
        window = float(low or "-inf"), float(high or "inf")
    except ValueError:
        colon = ""
    if not colon or math.isnan(window[0]) or math.isnan(window[1]):
        expected = "expected LO:HI, two numbers of which either may be missing"
        raise typer.BadParameter(f"got {text!r}, {expected}", param_hint="--window")
    if window[0] > window[1]:
        raise typer.BadParameter(f"got {text!r}: LO is above HI", param_hint="--window")
    return window


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", exists=True, dir_okay=False, help="An index file.")],
    queries: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Query vectors, in any format that build reads.")
    ],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Neighbours per query.")] = 10,
    window: Annotated[str | None, typer.Option(metavar="LO:HI", help="Only vectors with LO <= label < HI.")] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, help="Graph only: higher is slower and finds more.", show_default="64")
    ] = None,
    slack: Annotated[
        float | None,
        typer.Option(min=0.0, help="Graph only: end where nodes are more than 1 + slack as far as the k-th result."),
    ] = None,
    probes: Annotated[int | None, typer.Option(min=1, help="Ivf only: lists that are read.", show_default="32")] = None,
    rerank: Annotated[
        int | None, typer.Option(min=1, help="Ivf only: candidates measured exactly.", show_default="100")
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(help="Graph and ivf, instead: the effort that `nearhash tune` found for this recall."),
    ] = None,
    allow: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Only these vectors: ids as .npy or text, or a bool mask as .npy."
        ),
    ] = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write arrays ids and distances to this .npz.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the nearest neighbours of query vectors."""
    if out is not None and out.suffix != ".npz":
        raise typer.BadParameter(f"got {out}, expected a name that ends in .npz", param_hint="--out")

    bounds = None if window is None else parse_window(window)

    import nearhash as nh

    loaded = nh.load(index)
    given = {"beam": beam, "slack": slack, "probes": probes, "rerank": rerank, "recall": recall}
    effort: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    kind = loaded.info()["kind"]
    for name in effort:
        if kind not in EFFORTS[name]:
            kinds = " or ".join(EFFORTS[name])
            raise typer.BadParameter(f"for an index of kind {kinds}, this one is {kind}", param_hint="--" + name)
    if recall is not None and len(effort) > 1:
        raise typer.BadParameter("an effort is given as well; --recall takes its place", param_hint="--recall")
    vectors = read_vectors(queries)
    allowed = None if allow is None else read_allow(allow)
    started = time.perf_counter()
    hits = loaded.search(vectors, k=k, window=bounds, allow=allowed, threads=threads, **effort)
    seconds = time.perf_counter() - started

    if out is not None:
        np.savez(out, ids=hits.ids, distances=hits.distances)
    if json:
        print_json(_document(hits, k, seconds))
    else:
        _print_table(hits, seconds, everything_kept=out is not None)


def _document(hits: "Hits", k: int, seconds: float) -> dict[str, Any]:
    """Rows end where fewer than `k` vectors match: JSON has no infinity."""
    found = hits.ids >= 0
    return {
        "k": k,
        "queries": len(hits.ids),
        "seconds": seconds,
        "ids": [row[keep].tolist() for row, keep in zip(hits.ids, found, strict=True)],
        "distances": [row[keep].tolist() for row, keep in zip(hits.distances, found, strict=True)],
    }


def _print_table(hits: "Hits", seconds: float, everything_kept: bool) -> None:
    console = results()
    table = Table("query", "neighbour", "id", "distance", box=None)
    for column in table.columns:
        column.justify = "right"
    for query in range(min(len(hits.ids), QUERIES_SHOWN)):
        found = int((hits.ids[query] >= 0).sum())
        for place in range(found):
            name = str(query) if place == 0 else ""
            table.add_row(
                name,
                str(place + 1),
                str(hits.ids[query, place]),
                f"{hits.distances[query, place]:.6g}",
                end_section=place == found - 1,
            )
        if not found:
            table.add_row(str(query), "-", "no match", "", end_section=True)
    console.print(table)
    hidden = len(hits.ids) - QUERIES_SHOWN
    console.print(f"{len(hits.ids):,} queries in {seconds:.3f} s")
    if hidden > 0 and not everything_kept:
        console.print(f"{hidden:,} more are not shown; --out FILE.npz or --json gives all")
