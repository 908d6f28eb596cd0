"""What a server serves, by name: the collections of a database, and an index beside them."""

from __future__ import annotations

from typing import Any

from nearhash.errors import (
    CollectionExistsError,
    InvalidArgumentError,
    NearhashError,
    ReadOnlyError,
    UnknownCollectionError,
)
from nearhash.service.engine.database import Database
from nearhash.service.searchable import Probe, Searchable, Served, ServedCollection, ServedIndex


class Catalog:
    """Finds what requests name.

    Parameters
    ----------
    default
        The name that an empty one stands for, and that of the index.
    index
        Served for reading beside the collections.
    database
        The collections; closed by whoever opened it.

    Raises
    ------
    InvalidArgumentError
        There is nothing to serve, or index and a collection have the same name.
    """

    def __init__(self, default: str, index: Searchable | None = None, database: Database | None = None) -> None:
        if index is None and database is None:
            raise InvalidArgumentError("index, database: expected at least one of them to serve, got none")
        self.default = default
        self.index = None if index is None else ServedIndex(default, index)
        self._database = database
        self._served: dict[str, ServedCollection] = {}
        self._probe: Probe | None = None
        self._dropping: set[str] = set()  # these are gone for callers while they are still on the disk
        if database is not None and index is not None and default in database.names():
            raise InvalidArgumentError(f"collection: expected a name for the index that no collection has: {default!r}")
        if database is not None and not database.read_only:
            for name in database.names():
                if name not in database.failed():
                    self._served[name] = ServedCollection(name, database.get(name))

    def watch(self, probe: Probe) -> None:
        """Tell somebody of the searches of all collections, see `Probe`."""
        self._probe = probe
        for served in self._served.values():
            served.probe = probe

    @property
    def database(self) -> Database:
        """Where collections are; raises ReadOnlyError if there is only an index."""
        if self._database is None:
            raise ReadOnlyError("a single index is served, no collections")
        return self._database

    def known(self, name: str) -> Served | None:
        """What is served under a name, if that is known without looking at the disk."""
        if self.index is not None and name == self.index.name:
            return self.index
        served = self._served.get(name)
        if name in self._dropping:
            return None
        if served is not None and self._database is not None and self._database.read_only:
            # Another process may have dropped it, or made another one of that name.
            return served if served.serves(self._database.get(name)) else None
        return served

    def find(self, name: str) -> Served:
        """What is served under a name; may look at the disk.

        Raises
        ------
        UnknownCollectionError
            There is nothing.
        NearhashError
            What keeps the collection from being opened.
        """
        known = self.known(name)
        if known is not None:
            return known
        if self._database is None:
            raise UnknownCollectionError(f"collection: no collection {name!r:.80} here, only {self.default!r}")
        if name in self._dropping:
            raise UnknownCollectionError(f"collection: no collection {name!r:.80} here any more")
        collection = self._database.get(name)
        served = self._served.get(name)
        if served is None or not served.serves(collection):
            served = self._served[name] = ServedCollection(name, collection)
            served.probe = self._probe
        return served

    def collection(self, name: str) -> ServedCollection:
        """The collection of a name; raises as `find` does, and ReadOnlyError for the index."""
        served = self.find(name)
        if isinstance(served, ServedIndex):
            raise ReadOnlyError(f"{name!r} is an index")
        return served

    def names(self) -> list[str]:
        """Names of everything, also of what cannot be opened."""
        names = [] if self._database is None else [one for one in self._database.names() if one not in self._dropping]
        return sorted(names if self.index is None else [*names, self.index.name])

    def all_names(self) -> list[str]:
        """Names of everything, collections of documents included."""
        if self._database is None or self._database.read_only:
            return self.names()
        return sorted({*self.names(), *self._database.documents.names()})

    def failed(self) -> dict[str, NearhashError]:
        """Collections that cannot be opened, and why."""
        return {} if self._database is None else self._database.failed()

    def create(self, name: str, if_missing: bool, settings: dict[str, Any]) -> ServedCollection:
        """Make a collection, see `Database.create`."""
        self._check_free(name)
        self.database.create(name, if_missing=if_missing, **settings)
        return self.collection(name)

    def drop(self, name: str) -> None:
        """Delete a collection once nobody uses it any more."""
        database = self.database
        served = None if name in database.failed() else self.collection(name)
        self._dropping.add(name)
        try:
            if served is not None:
                served.retire()
            self._served.pop(name, None)
            database.drop(name)
        finally:
            self._dropping.discard(name)

    def restore(self, snapshot: str, name: str) -> ServedCollection:
        """Make a collection of a snapshot, see `Database.restore`."""
        self._check_free(name)
        self.database.restore(snapshot, name)
        return self.collection(name)

    def _check_free(self, name: str) -> None:
        if self.index is not None and name == self.index.name:
            raise CollectionExistsError(f"name: there is an index {name!r} already")
