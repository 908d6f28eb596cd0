"""What all indexes of vectors have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.index.arguments import METRICS, as_float32, as_matrix, check_count, check_dim, check_metric, for_kernels
from nearhash.index.hits import Hits
from nearhash.index.locks import ReadWriteLock
from nearhash.index.metrics import normalised
from nearhash.index.points import NewPoints, Points, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.storage import read_file, refusing, write_file
from nearhash.kernels.threads import resolve_threads

Progress = Callable[[int, int], None]
Slots = NDArray[np.integer[Any]]
Self = TypeVar("Self", bound="VectorIndex")


class VectorIndex(ABC):
    """An index of vectors by id: the frame that every kind of index fills in.

    Here is what does not depend on how vectors are searched: arguments are checked, ids become slots (rows of all
    arrays) and slots ids, changes have the index alone and happen whole or not at all. A kind of index brings the
    arrays of its vectors and the methods below "to be filled in", which deal in checked rows and slots, and are called
    with the lock held.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 32,768.
    metric : {"l2", "ip", "cosine"}
        Distance: squared Euclidean; minus the inner product; one minus the cosine.
    threads : int, optional
        Threads for building, by default all cores.

    Notes
    -----
    Searches may run in several threads at once; changes wait for them and have the index alone.
    """

    kind: ClassVar[str]
    """Name of the kind in files and `info`."""
    _SETTINGS: ClassVar[tuple[str, ...]] = ()
    """Further arguments of the constructor that are attributes, part of `info` and of the header of a file."""
    _METRICS: ClassVar[tuple[str, ...]] = METRICS
    _COMPACT_AT: ClassVar[float] = 1.0
    """Share of removed vectors above which the index compacts itself; 1 for never."""

    def __init__(self, dim: int, metric: str, threads: int | None = None) -> None:
        self.dim = check_dim(dim)
        self.metric = check_metric(metric, self._METRICS)
        self.threads = threads if threads is None else resolve_threads(threads)
        self._points = Points()
        self._lock = ReadWriteLock()

    # --- change ---

    def add(
        self,
        vectors: ArrayLike,
        ids: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        progress: Progress | None = None,
        *,
        attributes: Mapping[str, ArrayLike] | None = None,
    ) -> NDArray[np.int64]:
        """Add vectors and return their ids.

        Parameters
        ----------
        vectors : (n, dim) or (dim,) array of a float or integer dtype
            Finite values.
        ids : (n,) integers, optional
            Distinct, not negative, not in the index; by default consecutive, from 0 or the largest id so far plus one.
        labels : (n,) numbers, optional
            Stored as float64, for ``window=`` of `search`. Vectors added without labels match no window.
        progress : callable, optional
            Called with (vectors done, vectors in all). If it raises, nothing has been added.
        attributes : dict of name to (n,) integers or bools, optional
            Columns stored as int64, for ``where=`` of `search`; numbers to be asked for by ranges of floats are labels.
            The first vectors decide which attributes the index has: all others must bring the same.

        Returns
        -------
        (n,) int64
            The ids.

        Raises
        ------
        InvalidArgumentError
            Wrong shape or dtype, NaN or inf, duplicate ids, ...; the index is then unchanged.
        """
        rows = self._rows_of(as_matrix(vectors, self._columns, "vectors"))
        with self._lock.write():
            new = self._points.check(len(rows), ids, labels, attributes)
            if len(rows):
                order = self._slot_order(new)
                if order is None:
                    placed = new
                else:
                    rows, placed = rows[order], new.take(order)
                self._insert(rows, placed, progress)
                self._points.append(placed)
        return new.ids

    def remove(self, ids: ArrayLike) -> None:
        """Remove vectors by id: they are in no result from now on. An unknown id raises and nothing is removed."""
        with self._lock.write():
            self._points.remove(self._points.slots_of(ids))
            if self._points.deleted > self._COMPACT_AT * self._points.slots:
                self._compact()
            self._tidy()

    def compact(self, progress: Progress | None = None) -> None:
        """Give back the memory of removed vectors. Ids stay."""
        with self._lock.write():
            self._compact(progress)

    def _compact(self, progress: Progress | None = None) -> None:
        if self._points.deleted:
            slots = self._points.live_slots
            self._keep(slots, progress)
            self._points.keep(slots)

    # --- search ---

    @abstractmethod
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | SlotMask | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
    ) -> Hits:
        """The k nearest vectors of each query.

        Parameters
        ----------
        queries : (q, dim) or (dim,) array of a float or integer dtype
        k : int
            Results per query, at least 1. Where fewer vectors match, the rest is id -1 at distance inf; there are
            never fewer results than min(k, matches).
        window : (lo, hi) or (q, 2), optional
            Only vectors with lo <= label < hi; -inf and inf for open ends.
        allow : boolean mask or ids, optional
            Only these vectors. ``mask[i]`` speaks of id i; ids beyond the mask are not allowed, unknown ids ignored. Or
            what `mask` made of either.
        threads : int, optional
            Threads to use, by default all cores. The result does not depend on it.
        where : Predicate, optional
            Only vectors whose attributes satisfy it, see `nearhash.where`. All filters hold together.

        Returns
        -------
        Hits
            Ids and distances, each (q, k); ties in the order in which the vectors were added.
        """

    def _search(
        self,
        queries: ArrayLike,
        k: int,
        window: ArrayLike | None,
        allow: ArrayLike | SlotMask | None,
        threads: int | None,
        where: Predicate | None,
        effort: Any = None,
    ) -> Hits:
        """What `search` of every kind does around its own `_nearest`; `effort` is handed on to it."""
        k = check_count(k, "k")
        threads = resolve_threads(threads)
        prepared = self._queries_of(as_matrix(queries, self._columns, "queries"))
        with self._lock.read():
            wanted = self._filter(len(prepared), window, allow, where)
            slots, distances = self._nearest(prepared, k, wanted, effort, threads)
            return Hits(self._points.ids_of(slots), distances)

    def mask(self, allow: ArrayLike) -> SlotMask:
        """Look an ``allow`` up once, for many searches with it; adding to the index makes it useless.

        Parameters
        ----------
        allow : boolean mask or ids
            As for `search`, which takes the result in its place.
        """
        with self._lock.read():
            return self._points.mask(allow)

    # --- facts ---

    def __len__(self) -> int:
        return self._points.size

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the vectors in the index, in the order in which they were added."""
        with self._lock.read():
            return self._points.ids[self._points.live_slots]

    @property
    def nbytes(self) -> int:
        """Bytes of memory (or of the mapped file) that the index holds."""
        return self._own_nbytes() + self._points.nbytes

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """(n, dim) float32 stored vectors of some ids; under cosine these are unit vectors."""
        with self._lock.read():
            return self._stored_vectors(self._points.slots_of(ids))

    def attributes(self, ids: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """Attributes of some ids: (n,) int64 by name, of all names; empty for an index without attributes."""
        with self._lock.read():
            return self._points.attributes(self._points.slots_of(ids))

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        return {
            **self._identity(),
            "size": self._points.size,
            "deleted": self._points.deleted,
            "labelled": self._points.labelled,
            "attributes": list(self._points.attribute_names),
            "nbytes": self.nbytes,
        }

    def _identity(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in self._SETTINGS}
        return {"kind": self.kind, "dim": self.dim, "metric": self.metric, **settings}

    # --- storage ---

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to a file, atomically; `nearhash.load` reads it."""
        with self._lock.read():
            write_file(path, *self._to_file())

    def _to_file(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Header and tensors of a file, which `_from_file` takes."""
        header = {**self._identity(), **self._state(), "next_id": self._points.next_id}
        return header, {**self._tensors(), **self._points.tensors()}

    @classmethod
    def _read(cls: type[Self], path: str | PathLike[str], mmap: bool, verify: bool) -> Self:
        """The index in a file of this kind; arguments and errors of `nearhash.load`."""
        header, tensors = read_file(path, mmap=mmap, verify=verify)
        with refusing(path):
            return cls._from_file(header, tensors)

    @classmethod
    def _from_file(cls: type[Self], header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Self:
        """The index in a file that was read; raises CorruptIndexError, or what the constructor raises."""
        index = cls._from_header(header)
        index._points = Points.from_tensors(tensors, header.get("next_id"))
        index._restore(header, tensors)
        return index

    @classmethod
    def _from_header(cls: type[Self], header: dict[str, Any]) -> Self:
        """An empty index with the settings of a file; raises what the constructor raises."""
        return cls(header["dim"], header["metric"], **{name: header[name] for name in cls._SETTINGS})

    # --- to be filled in ---

    @property
    def _columns(self) -> int:
        """Columns of the arrays that `add` and `search` take."""
        return self.dim

    def _rows_of(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """New vectors (n, dim) of any real dtype in the form that `_insert` takes; raises if that cannot hold them."""
        floats = as_float32(matrix, "vectors")
        return normalised(floats) if self.metric == "cosine" else floats

    def _queries_of(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Queries (q, dim) of any real dtype in the form that `_nearest` takes."""
        floats = for_kernels(as_float32(matrix, "queries"))
        return normalised(floats) if self.metric == "cosine" else floats

    def _filter(
        self, queries: int, window: ArrayLike | None, allow: ArrayLike | SlotMask | None, where: Predicate | None
    ) -> Any:
        """What `_nearest` gets as `wanted`; for an index that filters in a way of its own to override."""
        return self._points.filter(queries, window, allow, where)

    @abstractmethod
    def _insert(self, rows: NDArray[Any], new: NewPoints, progress: Progress | None) -> None:
        """Take at least one row as slots ``self._points.slots`` and following; `new` holds what belongs to them.

        Nothing may have changed if it raises, as it does where `progress` does.
        """

    @abstractmethod
    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        """Keep only the rows in `slots`, which ascend, in that order; change nothing if it fails."""

    def _slot_order(self, new: NewPoints) -> NDArray[np.int64] | None:
        """Order in which new vectors take their slots, if not that in which they are given."""
        return None

    def _tidy(self) -> None:  # noqa: B027 - most have nothing to do
        """What an index does after vectors were removed, if it does anything."""

    @abstractmethod
    def _nearest(
        self, queries: NDArray[Any], k: int, wanted: Any, effort: Any, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Slots (q, k), -1 where fewer than k match, and distances (q, k), ascending, inf there."""

    @abstractmethod
    def _own_nbytes(self) -> int:
        """Bytes of all but the points."""

    @abstractmethod
    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        """(n, dim) vectors of slots, a copy."""

    def _state(self) -> dict[str, Any]:
        """What the header of a file holds beside the settings."""
        return {}

    @abstractmethod
    def _tensors(self) -> dict[str, NDArray[Any]]:
        """Arrays for a file, all but those of the points."""

    @abstractmethod
    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        """Take state and tensors from a file into a new index whose points are set.

        Whatever a kernel could leave its arrays with raises CorruptIndexError.
        """
