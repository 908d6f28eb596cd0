"""What a server searches in: an index, or a collection, seen alike."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import InvalidArgumentError, UnknownCollectionError
from nearhash.index.hits import Hits
from nearhash.service.admission import BATCH_ROWS, Batchable
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.results import Found
from nearhash.service.requests import SearchArguments

_BATCHED = frozenset({"flat", "graph", "ivf", "window"})
"""Kinds of indexes that give a query the same answer in a batch, bit by bit, and whose calls cost like a search."""

Queries = NDArray[Any]
Probe = Callable[[str, Collection, Queries, NDArray[Any]], None]
"""Told of searches without filters: name, collection, queries (q, dim) and the ids (q, k) that were found."""

Search = Callable[[Queries], Found]


class Searchable(Protocol):
    """Any index of nearhash; its ``search`` may be called from several threads at once."""

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""

    @property
    def metric(self) -> str:
        """``"l2"``, ``"ip"`` or ``"cosine"``."""

    def __len__(self) -> int: ...

    def info(self) -> dict[str, Any]:
        """Facts about the index that JSON can hold."""

    def search(self, *args: Any, **kwargs: Any) -> Hits:
        """``search(queries, k, window, allow, threads, **effort)``: the k nearest neighbours of every query."""


class Prepared(NamedTuple):
    """A search that is ready to run; `batch` if it may run as one with others."""

    run: Callable[[], Found]
    batch: Batchable[Queries, Found] | None


class ServedIndex:
    """An index that requests call by a name; it cannot be written to.

    Parameters
    ----------
    name
        As requests call it.
    index
        Whose ``search`` is called.
    """

    def __init__(self, name: str, index: Searchable) -> None:
        self.name = name
        self.index = index
        parameters = inspect.signature(index.search).parameters.values()
        self._known = frozenset(parameter.name for parameter in parameters)
        self._takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)

    @property
    def dim(self) -> int:
        return self.index.dim

    @property
    def metric(self) -> str:
        return self.index.metric

    @property
    def state(self) -> str:
        return "read-only"

    def __len__(self) -> int:
        return len(self.index)

    def info(self) -> dict[str, Any]:
        return self.index.info()

    def stats(self) -> dict[str, Any]:
        return {"name": self.name, "state": self.state, **self.index.info()}

    def prepared(self, asked: SearchArguments, threads: int) -> Prepared:
        """The search that a request asks for; raises InvalidArgumentError for what an index does not have."""
        options: dict[str, Any] = dict(asked.effort)
        if not self._takes_any:
            self._check_efforts(asked.effort)
        if asked.payloads or asked.vectors:
            raise InvalidArgumentError("with_payloads, with_vectors: expected false, as this is no collection")
        if asked.window_label is not None:
            raise InvalidArgumentError("window_label: expected none, as an index has one label without a name")
        if asked.recall is not None:
            if not (self._takes_any or "recall" in self._known):
                raise InvalidArgumentError("recall: expected none, as this index cannot be tuned")
            options["recall"] = asked.recall
        if asked.filter is not None:
            if "where" not in self._known:
                raise InvalidArgumentError("filter_json: expected none, as this index knows no filters")
            from nearhash.index.predicate_json import parse_predicate

            options["where"] = parse_predicate(asked.filter)
        search = partial(self._search, k=asked.k, window=asked.window, allow=asked.allow, threads=threads, **options)
        kind = getattr(self.index, "kind", None)
        restricted = asked.filter is not None or asked.allow is not None
        return _prepared(self, search, asked, alone=restricted or kind not in _BATCHED)

    def _search(self, queries: Queries, **arguments: Any) -> Found:
        hits = self.index.search(queries, **arguments)
        return Found(hits.ids, hits.distances)

    def _check_efforts(self, efforts: dict[str, int | float]) -> None:
        known = self._known - {"queries", "k", "window", "allow", "where", "threads", "recall"}
        unknown = sorted(efforts.keys() - known)
        if unknown:
            expected = ", ".join(sorted(known)) or "none"
            raise InvalidArgumentError(f"effort: this index knows {expected}, got {', '.join(unknown)}")


class ServedCollection:
    """A collection that requests call by a name, until it is retired.

    Parameters
    ----------
    name
        As requests call it.
    collection
        Open.
    """

    def __init__(self, name: str, collection: Collection) -> None:
        self.name = name
        self.dim = collection.dim
        self.metric = collection.metric
        self.label_names = collection.label_names
        self._collection = collection
        self.probe: Probe | None = None
        self._uses = 0
        self._retired = False
        self._changed = threading.Condition()

    def serves(self, collection: Collection) -> bool:
        """Whether it is this one that is served, not one of the same name."""
        return collection is self._collection

    @contextmanager
    def use(self) -> Iterator[Collection]:
        """The collection, which stays open within the block. Called by the threads that work with it.

        Raises
        ------
        UnknownCollectionError
            It has been retired.
        """
        with self._changed:
            if self._retired:
                raise UnknownCollectionError(f"collection: no collection {self.name!r} here any more")
            self._uses += 1
        try:
            yield self._collection
        finally:
            with self._changed:
                self._uses -= 1
                if self._retired:
                    self._changed.notify_all()

    def retire(self) -> None:
        """Let nobody use it from now on, and wait until nobody does: it may then be closed."""
        with self._changed:
            self._retired = True
            self._changed.wait_for(lambda: not self._uses)

    @property
    def state(self) -> str:
        return self._collection.state

    def __len__(self) -> int:
        with self.use() as collection:
            return len(collection)

    def info(self) -> dict[str, Any]:
        with self.use() as collection:
            return collection.info()

    def stats(self) -> dict[str, Any]:
        with self.use() as collection:
            return collection.stats()

    def prepared(self, asked: SearchArguments, threads: int) -> Prepared:
        """The search that a request asks for; raises InvalidArgumentError for what a collection does not have."""
        if asked.allow is not None:
            raise InvalidArgumentError("allow: expected none, as this is a collection; it takes a filter")
        search = partial(self._search, asked=asked, threads=threads)
        more = asked.filter is not None or asked.payloads or asked.vectors
        return _prepared(self, search, asked, alone=more)

    def _search(self, queries: Queries, asked: SearchArguments, threads: int) -> Found:
        with self.use() as collection:
            found = collection.search(
                queries,
                asked.k,
                asked.window,
                asked.filter,
                window_label=asked.window_label,
                recall=asked.recall,
                payloads=asked.payloads,
                vectors=asked.vectors,
                threads=threads,
                **asked.effort,
            )
            if self.probe is not None and asked.filter is None and asked.window is None:
                self.probe(self.name, collection, queries, found.ids)
            return found


Served = ServedIndex | ServedCollection


def _prepared(served: Served, search: Search, asked: SearchArguments, alone: bool) -> Prepared:
    queries = asked.queries
    run = partial(search, queries)
    if alone or asked.window is not None or not 1 <= len(queries) <= BATCH_ROWS // 2:
        return Prepared(run, None)
    effort = tuple(sorted(asked.effort.items()))
    key = (id(served), asked.k, effort, asked.recall, queries.dtype)
    return Prepared(run, Batchable(key, len(queries), queries, partial(_together, search)))


def _together(search: Search, queries: Sequence[Queries]) -> list[Found]:
    """What single searches would find, from one search."""
    found = search(np.concatenate(queries))
    stops = np.cumsum([len(one) for one in queries]).tolist()
    return [
        Found(found.ids[stop - len(one) : stop], found.distances[stop - len(one) : stop])
        for one, stop in zip(queries, stops, strict=True)
    ]
