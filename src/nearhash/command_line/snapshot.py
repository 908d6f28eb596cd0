"""``nearhash snapshot``: copies of collections."""

import time
from typing import Annotated

import typer
from rich.table import Table

from nearhash.command_line.places import DataOption, ServerOption, opened
from nearhash.command_line.remote import ApiKeyOption, CaOption, InsecureOption, TlsOption
from nearhash.command_line.report import JsonOption, print_json, results

snapshot = typer.Typer(no_args_is_help=True, help="Copies of collections: make, restore and list them.")


@snapshot.command()
def create(
    collection: Annotated[str, typer.Argument(help="Name of the collection.")],
    name: Annotated[
        str | None, typer.Argument(help="Of the copy.", show_default="the collection's name and the time")
    ] = None,
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Copy a collection, as it is at one moment, into the folder of snapshots beside the collections."""
    with opened(data, server, api_key, tls, ca, insecure, write=True) as place:
        made = place.snapshot(collection, name)
    if json:
        print_json(made._asdict())
    else:
        results().print(
            f"snapshot {made.name} of {made.collection}: {made.bytes:,} bytes", soft_wrap=True, markup=False
        )


@snapshot.command()
def restore(
    name: Annotated[str, typer.Argument(help="Name of the snapshot.")],
    collection: Annotated[str, typer.Argument(help="Name of the new collection.")],
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Make a new collection of a snapshot, which stays."""
    with opened(data, server, api_key, tls, ca, insecure, write=True) as place:
        place.restore(name, collection)
        size = place.describe(collection)["size"]
    if json:
        print_json({"collection": collection, "snapshot": name, "size": size})
    else:
        results().print(f"collection {collection}: {size:,} points, from {name}", soft_wrap=True, markup=False)


@snapshot.command("list")
def list_snapshots(
    data: DataOption = None,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    tls: TlsOption = False,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """List the snapshots: of what, how large, and when they were made."""
    with opened(data, server, api_key, tls, ca, insecure, write=False) as place:
        listed = place.snapshots()
    if json:
        print_json({"snapshots": [one._asdict() for one in listed]})
        return
    table = Table("snapshot", "collection", "bytes", "created")
    for one in listed:
        table.add_row(
            one.name, one.collection, f"{one.bytes:,}", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.created))
        )
    results().print(table)
