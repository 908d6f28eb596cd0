"""``nearhash keys``: the API keys of a server."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from nearhash.command_line.report import JsonOption, notices, print_json, results

keys = typer.Typer(no_args_is_help=True, help="API keys of a server: make, remove and list them.")

FileOption = Annotated[Path, typer.Option("--file", dir_okay=False, help="The file of keys that the server reads.")]
Name = Annotated[str, typer.Argument(help="Name of the key; appears in the audit log.")]


@keys.command()
def add(
    name: Name,
    file: FileOption,
    role: Annotated[Literal["read", "write", "admin"], typer.Option(help="Each includes those before it.")],
    collection: Annotated[
        list[str] | None,
        typer.Option(help="Name of a collection, or a prefix such as 'team-*'; repeatable.", show_default="all"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DATE", help="From when it is refused, e.g. 2027-01-31.", show_default="never")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a key and print it: this once, since only its hash is stored."""
    from nearhash.service.security.key_file import add_key

    token = add_key(file, name, role, collection or ["*"], expires)
    if json:
        print_json({"name": name, "key": token, "file": str(file)})
    else:
        notices().print(f"key {name} ({role}) added to {file}; it is not shown again:", soft_wrap=True, markup=False)
        typer.echo(token)  # alone on stdout: KEY=$(nearhash keys add ...)


@keys.command()
def remove(name: Name, file: FileOption, json: JsonOption = False) -> None:
    """Remove a key. A running server refuses it within a second."""
    from nearhash.service.security.key_file import remove_key

    remove_key(file, name)
    if json:
        print_json({"name": name, "removed": True, "file": str(file)})
    else:
        results().print(f"key {name} removed from {file}", soft_wrap=True, markup=False)


@keys.command("list")
def list_keys(file: FileOption, json: JsonOption = False) -> None:
    """List the keys: names, roles, collections and when they expire."""
    from nearhash.service.security.key_file import read_keys

    entries = read_keys(file)
    documents: list[dict[str, Any]] = [
        {
            "name": entry.principal.name,
            "role": entry.principal.role,
            "collections": list(entry.principal.grants),
            "expires": None if entry.expires is None else entry.expires.isoformat(),
            "expired": entry.expired(),
        }
        for entry in entries
    ]
    if json:
        print_json({"file": str(file), "keys": documents})
        return
    table = Table("name", "role", "collections", "expires")
    for document in documents:
        expires = f"{document['expires'] or 'never'}{' (expired)' if document['expired'] else ''}"
        table.add_row(document["name"], document["role"], escape(", ".join(document["collections"])), expires)
    results().print(table)
