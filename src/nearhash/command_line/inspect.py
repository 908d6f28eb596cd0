"""``nearhash inspect``: what is in an index file. Reads the container only, so it needs no compiled kernels."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from nearhash.command_line.report import JsonOption, print_json, results


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="An index file.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and compare the checksums.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the header and the tensors of an index file."""
    from nearhash.index.storage import inspect_file, read_file

    contents = inspect_file(file)
    if verify:
        read_file(file, mmap=True, verify=True)
    document = {"file": str(file), "verified": verify, **contents}
    if json:
        print_json(document)
    else:
        _print_contents(document)


def _print_contents(document: dict[str, Any]) -> None:
    console = results()
    console.print(
        f"{document['file']}: {document['file_size']:,} bytes, format version {document['format_version']}",
        soft_wrap=True,
        markup=False,
    )
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    for name, value in document["header"].items():
        facts.add_row(escape(name), escape(value if isinstance(value, str) else json_module.dumps(value)))
    console.print(facts)
    tensors = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    tensors.add_column("tensor", style="cyan", no_wrap=True)
    tensors.add_column("dtype")
    tensors.add_column("shape", justify="right")
    tensors.add_column("bytes", justify="right")
    tensors.add_column("crc32c")
    for name, tensor in document["tensors"].items():
        shape = " x ".join(f"{size:,}" for size in tensor["shape"])
        tensors.add_row(escape(name), tensor["dtype"], shape or "scalar", f"{tensor['nbytes']:,}", tensor["crc32c"])
    console.print(tensors)
    console.print(
        "all checksums match" if document["verified"] else "checksums of tensors were not compared; --verify does that"
    )
