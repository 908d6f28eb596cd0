"""``nearhash collections``: make, list, describe, drop and compact collections, and import points."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from nearhash.command_line.places import DataOption, Place, ServerOption, opened
from nearhash.command_line.point_files import array_batches, json_batches
from nearhash.command_line.remote import ApiKeyOption, CaOption, InsecureOption, TlsOption
from nearhash.command_line.report import JsonOption, print_json, progress_bar, results
from nearhash.errors import NearhashError

collections = typer.Typer(no_args_is_help=True, help="Collections in a folder or on a server.")

Name = Annotated[str, typer.Argument(help="Name of the collection.")]

_JSON_LINES = (".jsonl", ".ndjson")


@collections.command()
def create(
    name: Name,
    dim: Annotated[int, typer.Option(min=1, help="Dimension of the vectors.")],
    metric: Annotated[
        Literal["l2", "ip", "cosine"], typer.Option(help="Squared Euclidean, negative inner product or 1 - cosine.")
    ] = "cosine",
    label: Annotated[
        list[str] | None, typer.Option(help="Name of a label field; repeatable.", show_default="none")
    ] = None,
    index: Annotated[
        Literal["auto", "graph", "ivf", "window", "flat"], typer.Option(help="What sealed segments are.")
    ] = "auto",
    index_options: Annotated[
        str | None, typer.Option(metavar="JSON", help="""Arguments of that index, such as '{"degree": 64}'.""")
    ] = None,
    seal_at: Annotated[
        int | None, typer.Option(min=1, help="Points of the buffer that become a segment.", show_default="4 MB of them")
    ] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="No error where it is there with these settings.")
    ] = False,
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Make an empty collection."""
    settings = {
        "dim": dim, "metric": metric, "labels": tuple(label or ()), "index": index,
        "index_options": _options(index_options), "seal_at": seal_at, "if_missing": if_missing,
    }  # fmt: skip
    with opened(data, server, api_key, tls, ca, insecure, write=True, make=True) as place:
        place.create(name, **settings)
        made = place.describe(name)
    if json:
        print_json(made)
    else:
        results().print(f"collection {name}: dimension {dim}, {metric}, index {index}", soft_wrap=True, markup=False)


@collections.command("list")
def list_collections(
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the collections: settings, sizes and states."""
    with opened(data, server, api_key, tls, ca, insecure, write=False) as place:
        documents = [_described(place, name) for name in place.names()]
    if json:
        print_json({"collections": documents})
        return
    table = Table("collection", "points", "dim", "metric", "index", "disk", "state")
    for one in documents:
        if "error" in one:
            table.add_row(one["name"], "", "", "", "", "", escape(one["error"]))
        else:
            facts = (f"{one['size']:,}", str(one["dim"]), one["metric"], one["index"], f"{one['disk_bytes']:,}")
            table.add_row(one["name"], *facts, escape(one["state"]))
    results().print(table)


@collections.command()
def describe(
    name: Name,
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Print settings, segments and state of a collection."""
    with opened(data, server, api_key, tls, ca, insecure, write=False) as place:
        document = place.describe(name)
    if json:
        print_json(document)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for key, value in document.items():
        table.add_row(escape(key), escape(value if isinstance(value, str) else json_module.dumps(value)))
    results().print(table)


@collections.command()
def drop(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Delete a collection and all that is in it. Snapshots stay."""
    if not yes:
        typer.confirm(f"Delete the collection {name} and all its points?", abort=True, err=True)
    with opened(data, server, api_key, tls, ca, insecure, write=True) as place:
        place.drop(name)
    if json:
        print_json({"name": name, "dropped": True})
    else:
        results().print(f"collection {name} deleted", soft_wrap=True, markup=False)


@collections.command()
def compact(name: Name, data: DataOption = None, json: JsonOption = False) -> None:
    """Make one segment of everything and give back the space of what was deleted. Servers do that by themselves."""
    with opened(data, None, None, False, None, False, write=True) as place, progress_bar("Compacting") as progress:
        before = place.describe(name)["disk_bytes"]
        place.compact(name, progress)
        document = place.describe(name)
    if json:
        print_json({"name": name, "disk_bytes_before": before, **document})
    else:
        kinds = ", ".join(segment["kind"] for segment in document["segments"]) or "no segment"
        text = f"collection {name}: {document['size']:,} points, {kinds}; {document['disk_bytes']:,} bytes"
        results().print(f"{text}, before {before:,}", soft_wrap=True, markup=False)


@collections.command("import")
def import_points(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            exists=True,
            dir_okay=False,
            help="Vectors as for `nearhash build`, or .jsonl: a point with id, vector, payload, labels a line.",
        ),
    ],
    ids: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="An id per vector: .npy or text.", show_default="0, 1, 2, ..."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A number per vector, for the first label field: .npy or text."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Points that become durable together.")] = 1000,
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Write the points of a file to a collection; those whose ids are there are replaced."""
    lines = file.suffix.lower() in _JSON_LINES
    if lines and (ids is not None or labels is not None):
        raise typer.BadParameter("expected none, as lines of JSON have them", param_hint="--ids, --labels")
    written = replaced = 0
    with (
        opened(data, server, api_key, tls, ca, insecure, write=True) as place,
        progress_bar("Importing") as progress,
    ):
        target = place.writable(name)
        batches = json_batches(file, batch) if lines else array_batches(file, ids, labels, batch)
        try:
            for one in batches:
                answer = target.upsert(one.ids, one.vectors, one.labels, one.payloads)
                written += answer.written
                replaced += answer.replaced
                progress(one.done, one.total)
        except NearhashError as error:
            if not written:
                raise
            error.args = (f"{error.args[0]}; {written:,} points before that are written and stay", *error.args[1:])
            raise
        size = place.describe(name)["size"]
    if json:
        print_json({"name": name, "file": str(file), "written": written, "replaced": replaced, "size": size})
    else:
        text = f"{written:,} points written to {name}, {replaced:,} of them replaced others; it has {size:,} now"
        results().print(text, soft_wrap=True, markup=False)


def _options(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        options = json_module.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"expected JSON: {error}", param_hint="--index-options") from error
    if not isinstance(options, dict):
        raise typer.BadParameter(f"expected a JSON object, got {text!r:.80}", param_hint="--index-options")
    return options


def _described(place: Place, name: str) -> dict[str, Any]:
    """One that cannot be opened does not keep the others from being listed."""
    try:
        return place.describe(name)
    except NearhashError as error:
        return {"name": name, "error": str(error)}
