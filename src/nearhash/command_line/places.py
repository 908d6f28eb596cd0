"""Where collections are: in a folder of this machine, or on a server. The same methods for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from nearhash.command_line.remote import connect

if TYPE_CHECKING:
    from nearhash.service.client import Client
    from nearhash.service.engine.database import Database
    from nearhash.service.engine.results import SnapshotInfo

DataOption = Annotated[
    Path | None, typer.Option(file_okay=False, help="Folder of collections, where no server writes to them.")
]
ServerOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Instead: the server that has them.")]

_NO_COMPACTION = "a server does that by itself: expected --data"
_CALL_SECONDS = 600.0  # copies of large collections take their time

Progress = Callable[[int, int], None]


class Place(Protocol):
    """A folder of collections, or a server."""

    def create(self, name: str, **settings: Any) -> None: ...

    def names(self) -> list[str]: ...

    def describe(self, name: str) -> dict[str, Any]: ...

    def drop(self, name: str) -> None: ...

    def compact(self, name: str, progress: Progress) -> None: ...

    def writable(self, name: str) -> Any: ...

    def snapshot(self, name: str, snapshot: str | None) -> SnapshotInfo: ...

    def snapshots(self) -> list[SnapshotInfo]: ...

    def restore(self, snapshot: str, name: str) -> None: ...


class Folder:
    """A folder, opened as a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, **settings: Any) -> None:
        self._database.create(name, **settings)

    def names(self) -> list[str]:
        return self._database.names()

    def describe(self, name: str) -> dict[str, Any]:
        return self._database.get(name).stats()

    def drop(self, name: str) -> None:
        self._database.drop(name)

    def compact(self, name: str, progress: Progress) -> None:
        self._database.get(name).compact(progress)

    def writable(self, name: str) -> Any:
        return self._database.get(name)

    def snapshot(self, name: str, snapshot: str | None) -> SnapshotInfo:
        return self._database.snapshot(name, snapshot)

    def snapshots(self) -> list[SnapshotInfo]:
        return self._database.snapshots()

    def restore(self, snapshot: str, name: str) -> None:
        self._database.restore(snapshot, name)


class Server:
    """What a client reaches."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, name: str, **settings: Any) -> None:
        self._client.create_collection(name, **settings)

    def names(self) -> list[str]:
        return sorted(self._client.collections())

    def describe(self, name: str) -> dict[str, Any]:
        return self._client.collection(name).stats()

    def drop(self, name: str) -> None:
        self._client.drop_collection(name)

    def compact(self, name: str, progress: Progress) -> None:
        raise typer.BadParameter(_NO_COMPACTION, param_hint="--server")

    def writable(self, name: str) -> Any:
        return self._client.collection(name)

    def snapshot(self, name: str, snapshot: str | None) -> SnapshotInfo:
        return self._client.snapshot(name, snapshot)

    def snapshots(self) -> list[SnapshotInfo]:
        return self._client.snapshots()

    def restore(self, snapshot: str, name: str) -> None:
        self._client.restore(snapshot, name)


@contextmanager
def opened(
    data: Path | None,
    server: str | None,
    api_key: str | None,
    tls: bool,
    ca: Path | None,
    insecure: bool,
    *,
    write: bool,
    make: bool = False,
) -> Iterator[Place]:
    """The place that options name. A folder is only made for its first collection; reading needs no lock."""
    if (data is None) == (server is None):
        raise typer.BadParameter("expected one of them", param_hint="--data, --server")
    if server is not None:
        with connect(server, api_key, tls, ca, insecure, _CALL_SECONDS) as client:
            yield Server(client)
        return
    assert data is not None
    if not make and not data.is_dir():
        raise typer.BadParameter(f"the folder {data} does not exist", param_hint="--data")

    from nearhash.service.engine.database import Database

    with Database(data, read_only=not write) as database:
        yield Folder(database)
