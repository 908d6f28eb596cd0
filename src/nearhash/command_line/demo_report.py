"""The demonstration as text: what was asked and answered, then what was measured."""

from typing import Any

from rich import box
from rich.table import Table

from nearhash.command_line.report import results


def print_report(document: dict[str, Any]) -> None:
    """Print what `run_demo` returns."""
    console = results()
    index = document["index"]
    console.print(
        f"\n[bold]nearhash[/] built a graph over the {document['words']:,} most frequent words of GloVe "
        f"({index['dim']} dimensions, {index['metric']} distance), served it on {document['address']} "
        "and asked over gRPC:"
    )
    console.print(_answers(document))
    console.print(_measurements(document))
    console.print(
        "Your own vectors: [bold]nearhash build vectors.npy --out vectors.nearhash[/], then [bold]search[/] or "
        "[bold]serve[/]; see docs/command-line.md."
    )


def _answers(document: dict[str, Any]) -> Table:
    table = _table()
    table.add_column("word", style="bold cyan", no_wrap=True)
    table.add_column("nearest words", ratio=1)
    table.add_column(f"of the {document['window'][1]:,.0f} most frequent", ratio=1)
    for answer in document["answers"]:
        table.add_row(answer["word"], _words(answer["neighbours"]), _words(answer["neighbours_in_window"]))
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _words(neighbours: list[dict[str, Any]]) -> str:
    return ", ".join(neighbour["word"] for neighbour in neighbours)


def _measurements(document: dict[str, Any]) -> Table:
    rates, index = document["queries_per_second"], document["index"]
    table = _table()
    table.add_column("measured on this machine", no_wrap=True)
    table.add_column("", justify="right", style="bold cyan", no_wrap=True)
    table.add_column("", style="dim")
    asked = f"{document['recall_queries']:,} words, beam {document['beam']}"
    table.add_row("recall@10 of exact search", f"{document['recall_at_10']:.3f}", asked)
    table.add_row("build", f"{document['build_seconds']:.1f} s", f"{document['build_threads']} threads")
    table.add_row(
        "file", f"{document['bytes_per_vector']:,.0f} B", f"per vector; bare float32 takes {4 * index['dim']}"
    )
    for name, what, how in (
        ("embedded_batch", "searches/s, embedded", f"{document['recall_queries']:,} in one call, 1 thread"),
        ("embedded_single", "", "one per call, 1 thread"),
        ("grpc_batches", "searches/s, over gRPC", f"{document['batch']} per request, 1 client"),
        ("grpc_single", "", "one per request, 1 client"),
        ("exact_batch", "searches/s, exact", f"{document['recall_queries']:,} in one call, 1 thread, FlatIndex"),
    ):
        table.add_row(what, f"{rates[name]:,.0f}", how)
    return table
