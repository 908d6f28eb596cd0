"""`Database`: a folder of collections and their snapshots, by name."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any

from nearhash.errors import (
    ClosedError,
    CollectionExistsError,
    InvalidArgumentError,
    NearhashError,
    ReadOnlyError,
    UnknownCollectionError,
)
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.names import NAME, check_collection_name
from nearhash.service.engine.results import SnapshotInfo
from nearhash.service.engine.segments import disk_bytes
from nearhash.service.engine.snapshots import INFO
from nearhash.service.engine.store import FILE, sync_folder

COLLECTIONS, SNAPSHOTS = "collections", "snapshots"
_GONE = ".dropped-"


class Database:
    """Collections by name, opened when the database is.

    Parameters
    ----------
    root : path
        A folder; made if it is missing, unless the database is only read.
    read_only : bool
        Follow collections that another process writes to, those made later as well.
    threads : int, optional
        For building segments, see `Collection`.
    most : int
        Collections that there may be.

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
        self._most = most
        self._guard = threading.RLock()
        self._open: dict[str, Collection] = {}
        self._identities: dict[str, tuple[int, int] | None] = {}  # of their files, when they were opened
        self._failed: dict[str, NearhashError] = {}
        self._closed = False
        self.on_event: Callable[[str, dict[str, Any]], None] | None = None
        if read_only:
            if not (self._root / COLLECTIONS).is_dir():
                raise UnknownCollectionError(f"{self._root}: no database here")
            return
        for name in (COLLECTIONS, SNAPSHOTS):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        for name in self._listed():
            try:
                self._opened(name)
            except NearhashError as error:
                self._failed[name] = error

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
        self._check_writable()
        check_collection_name(name)
        if settings.get("dim") is None:
            raise InvalidArgumentError("dim: expected the dimension of the vectors, got none")
        with self._guard:
            if (self._folder(name) / FILE).exists():
                if not if_missing:
                    raise CollectionExistsError(f"name: there is a collection {name!r} already")
                collection = self.get(name)
                collection.check_settings(**settings)
                return collection
            if len(self._listed()) >= self._most:
                raise InvalidArgumentError(f"max_collections: there are {self._most:,} collections, the limit")
            draft = self._root / COLLECTIONS / f".creating-{os.urandom(6).hex()}"
            try:
                Collection(draft, **settings).close()
                os.rename(draft, self._folder(name))
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            sync_folder(self._root / COLLECTIONS)
            return self._opened(name)

    def get(self, name: str) -> Collection:
        """The open collection of a name.

        Raises
        ------
        UnknownCollectionError
            There is none.
        NearhashError
            What kept it from being opened.
        """
        opened = self._open.get(name)
        if opened is not None and (not self._read_only or self._identity(name) == self._identities.get(name)):
            return opened
        with self._guard:
            self._check_open()
            if opened is not None and self._open.get(name) is opened:
                self._forget(name)  # another process has dropped it
            if name in self._failed:
                raise self._failed[name]
            known = isinstance(name, str) and NAME.fullmatch(name) and (self._folder(name) / FILE).is_file()
            if not known:
                self._forget(name)
                raise UnknownCollectionError(f"collection: no collection {name!r:.80} here")
            return self._open[name] if name in self._open else self._opened(name)

    def names(self) -> list[str]:
        """Names of all collections, those that could not be opened as well."""
        with self._guard:
            return self._listed()

    def failed(self) -> dict[str, NearhashError]:
        """Collections that could not be opened, and why."""
        return dict(self._failed)

    def drop(self, name: str) -> None:
        """Close a collection and delete it."""
        self._check_writable()
        with self._guard:
            if name not in self._failed:
                self.get(name)
            self._forget(name)
            self._failed.pop(name, None)
            gone = self._root / COLLECTIONS / f"{_GONE}{os.urandom(6).hex()}"
            os.rename(self._folder(name), gone)
            sync_folder(self._root / COLLECTIONS)
        shutil.rmtree(gone, ignore_errors=True)

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
        with self._guard:
            if self._folder(name).exists():
                raise CollectionExistsError(f"name: there is a collection {name!r} already")
            Collection.restore(source, self._folder(name), threads=self._threads).close()
            return self._opened(name)

    # --- life ---

    def close(self) -> None:
        """Close all collections."""
        with self._guard:
            self._closed = True
            for name in list(self._open):
                self._forget(name)

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _folder(self, name: str) -> Path:
        return self._root / COLLECTIONS / name

    def _listed(self) -> list[str]:
        folders = (self._root / COLLECTIONS).iterdir()
        return sorted(path.name for path in folders if NAME.fullmatch(path.name) and (path / FILE).is_file())

    def _identity(self, name: str) -> tuple[int, int] | None:
        """Of the file that the name leads to: another one once the collection was dropped and made anew."""
        try:
            found = os.stat(self._folder(name) / FILE)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _opened(self, name: str) -> Collection:
        self._identities[name] = self._identity(name)
        collection = Collection(self._folder(name), threads=self._threads, read_only=self._read_only)
        collection.on_event = self._noted
        self._open[name] = collection
        return collection

    def _forget(self, name: str) -> None:
        collection = self._open.pop(name, None)
        if collection is not None:
            collection.close()

    def _remove_leftovers(self) -> None:
        """What crashes have left of collections being made or dropped."""
        for folder in (self._root / COLLECTIONS, self._root / SNAPSHOTS):
            for path in folder.iterdir():
                if path.name.startswith((_GONE, ".")):
                    shutil.rmtree(path, ignore_errors=True)

    def _noted(self, kind: str, detail: dict[str, Any]) -> None:
        if self.on_event is not None:
            self.on_event(kind, detail)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._root}: the database was closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnlyError(f"{self._root}: opened for reading only")


def _snapshot_info(folder: Path) -> SnapshotInfo:
    try:
        facts = json.loads((folder / INFO).read_text())
        return SnapshotInfo(folder.name, str(facts["collection"]), disk_bytes(folder), float(facts["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return SnapshotInfo(folder.name, "", disk_bytes(folder), folder.stat().st_mtime)
