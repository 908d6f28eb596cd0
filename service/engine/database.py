"""`Database`: a folder of collections, of points and of documents, and of snapshots, by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any

from nearhash.errors import (
    CollectionExistsError,
    InvalidArgumentError,
    NearhashError,
    ReadOnlyError,
    UnknownCollectionError,
)
from nearhash.service.engine import document_store
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.document_collection import DocumentCollection
from nearhash.service.engine.document_settings import DocumentSettings
from nearhash.service.engine.names import NAME, check_collection_name
from nearhash.service.engine.registry import Registry, remove_leftovers
from nearhash.service.engine.results import SnapshotInfo
from nearhash.service.engine.segments import disk_bytes
from nearhash.service.engine.snapshots import INFO
from nearhash.service.engine.store import FILE

COLLECTIONS, DOCUMENTS, SNAPSHOTS = "collections", "documents", "snapshots"


class Database:
    """Collections by name, opened when the database is.

    Parameters
    ----------
    root : path
        A folder; made if it is missing, unless the database is only read.
    read_only : bool
        Follow collections that another process writes to, those made later as well. Collections of documents cannot be
        followed.
    threads : int, optional
        For building segments, see `Collection`.
    most : int
        Collections that there may be of either kind.

    Notes
    -----
    A collection that cannot be opened does not keep the others from being served: `get` raises what opening it raised.
    """

    def __init__(
        self, root: str | PathLike[str], *, read_only: bool = False, threads: int | None = None, most: int = 10_000
    ) -> None:
        self._root = Path(fspath(root)).absolute()
        self._read_only = read_only
        self._threads = threads
        self.on_event: Callable[[str, dict[str, Any]], None] | None = None
        if read_only:
            if not (self._root / COLLECTIONS).is_dir():
                raise UnknownCollectionError(f"{self._root}: no database here")
        else:
            (self._root / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._root / SNAPSHOTS)
        self._collections = Registry(
            self._root / COLLECTIONS, FILE, self._open_collection, _create_collection, most, read_only
        )
        self._documents: Registry[DocumentCollection] | None = None
        if not read_only:
            self._documents = Registry(
                self._root / DOCUMENTS, document_store.FILE, self._open_documents, _create_documents, most
            )

    @property
    def root(self) -> Path:
        return self._root

    @property
    def read_only(self) -> bool:
        return self._read_only

    # --- collections ---

    def create(self, name: str, *, if_missing: bool = False, **settings: Any) -> Collection:
        """Make a collection; `settings` are those of `Collection`, `dim` among them.

        Raises
        ------
        CollectionExistsError
            There is one of that name, unless `if_missing` and all settings that are given are its own.
        """
        if settings.get("dim") is None:
            raise InvalidArgumentError("dim: expected the dimension of the vectors, got none")
        return self._collections.create(name, if_missing, settings)

    def get(self, name: str) -> Collection:
        """The open collection of a name.

        Raises
        ------
        UnknownCollectionError
            There is none.
        NearhashError
            What kept it from being opened.
        """
        return self._collections.get(name)

    def names(self) -> list[str]:
        """Names of all collections, those that could not be opened as well."""
        return self._collections.names()

    def failed(self) -> dict[str, NearhashError]:
        """Collections that could not be opened, and why."""
        return self._collections.failed()

    def drop(self, name: str) -> None:
        """Close a collection and delete it."""
        self._collections.drop(name)

    # --- collections of documents ---

    @property
    def documents(self) -> Registry[DocumentCollection]:
        """Collections of documents by name; raises ReadOnlyError where the database is only read."""
        if self._documents is None:
            raise ReadOnlyError(f"{self._root}: collections of documents are read by the process that writes them")
        return self._documents

    # --- snapshots ---

    def snapshot(self, name: str, snapshot: str | None = None) -> SnapshotInfo:
        """Copy a collection as it is now; by default the copy is named after it and the time."""
        self._check_writable()
        collection = self.get(name)
        chosen = snapshot or f"{name[:40]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"
        check_collection_name(chosen, "snapshot")
        folder = self._root / SNAPSHOTS / chosen
        if folder.exists():
            raise CollectionExistsError(f"snapshot: there is a snapshot {chosen!r} already")
        collection.snapshot(folder)
        return _snapshot_info(folder)

    def snapshots(self) -> list[SnapshotInfo]:
        """All snapshots by name."""
        folders = sorted((self._root / SNAPSHOTS).iterdir()) if (self._root / SNAPSHOTS).is_dir() else []
        return [_snapshot_info(folder) for folder in folders if NAME.fullmatch(folder.name)]

    def restore(self, snapshot: str, name: str) -> Collection:
        """Make a new collection of a snapshot, which stays."""
        self._check_writable()
        check_collection_name(name)
        check_collection_name(snapshot, "snapshot")
        source = self._root / SNAPSHOTS / snapshot
        if not (source / FILE).is_file():
            raise UnknownCollectionError(f"snapshot: no snapshot {snapshot!r} here")
        return self._collections.take(
            name, lambda folder: Collection.restore(source, folder, threads=self._threads).close()
        )

    # --- life ---

    def close(self) -> None:
        """Close all collections."""
        self._collections.close()
        if self._documents is not None:
            self._documents.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open_collection(self, folder: Path) -> Collection:
        collection = Collection(folder, threads=self._threads, read_only=self._read_only)
        collection.on_event = self._noted
        return collection

    def _open_documents(self, folder: Path) -> DocumentCollection:
        documents = DocumentCollection(folder, threads=self._threads)
        documents.on_event = self._noted
        return documents

    def _noted(self, kind: str, detail: dict[str, Any]) -> None:
        if self.on_event is not None:
            self.on_event(kind, detail)

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyError(f"{self._root}: opened for reading only")


def _create_collection(folder: Path, settings: dict[str, Any]) -> None:
    Collection(folder, **settings).close()


def _create_documents(folder: Path, settings: dict[str, Any]) -> None:
    DocumentSettings.checked(**settings)
    DocumentCollection(folder, **settings).close()


def _snapshot_info(folder: Path) -> SnapshotInfo:
    try:
        facts = json.loads((folder / INFO).read_text())
        return SnapshotInfo(folder.name, str(facts["collection"]), disk_bytes(folder), float(facts["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return SnapshotInfo(folder.name, "", disk_bytes(folder), folder.stat().st_mtime)
