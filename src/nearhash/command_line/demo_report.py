"""The demonstration as text: what was asked and answered, then what was measured."""

from typing import Any

from rich import box
from rich.table import Table

from nearhash.command_line.report import results


def print_report(document: dict[str, Any]) -> None:
    """Print what `run_demo` returns."""
    console = results()
    index = document["index"]
    console.print()
    console.print(
        f"[bold]nearhash[/] built a graph over the {document['words']:,} most frequent English words of GloVe "
        f"({index['dim']} dimensions, {index['metric']}), served it on {document['address']} and asked over gRPC:"
    )
    console.print()
    console.print(_answers(document))
    console.print()
    console.print(_measurements(document))
    console.print()
    console.print("Next: [bold]nearhash build --help[/] for your own vectors; docs/command-line.md for all commands.")


def _answers(document: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("word", style="bold cyan", no_wrap=True)
    table.add_column("nearest neighbours", ratio=1)
    table.add_column(f"among the {document['window'][1]:,.0f} most frequent words", ratio=1)
    for answer in document["answers"]:
        table.add_row(answer["word"], _words(answer["neighbours"]), _words(answer["neighbours_in_window"]))
    return table


def _words(neighbours: list[dict[str, Any]]) -> str:
    return ", ".join(neighbour["word"] for neighbour in neighbours)


def _measurements(document: dict[str, Any]) -> Table:
    rates, index = document["queries_per_second"], document["index"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("measured here", no_wrap=True)
    table.add_column(justify="right", style="bold cyan", no_wrap=True)
    table.add_column(style="dim")
    table.add_row(
        "recall@10", f"{document['recall_at_10']:.3f}", f"of exact search, {document['recall_queries']:,} words"
    )
    table.add_row("build", f"{document['build_seconds']:.1f} s", "all cores")
    table.add_row(
        "size",
        f"{document['bytes_per_vector']:,.0f} bytes",
        f"per vector on disk; the vectors alone, in float32: {4 * index['dim']}",
    )
    notes = {
        "exact_batch": ("exact search", "1 thread, all queries in one call"),
        "embedded_batch": ("graph, embedded", "1 thread, all queries in one call"),
        "embedded_single": ("", "1 thread, one query per call"),
        "grpc_batches": ("graph, over gRPC", "1 client, 64 queries per request"),
        "grpc_single": ("", "1 client, one query per request"),
    }
    for name, (what, how) in notes.items():
        table.add_row(what, f"{rates[name]:,.0f} /s", how)
    return table
