"""Nearest neighbours of binary codes by Hamming distance: a scan of all codes, or tables of substrings."""

import threading
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, DtypeError, InvalidArgumentError
from nearhash.index.arguments import as_matrix, check_count, check_dim
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress, Slots, VectorIndex
from nearhash.index.hamming_scan import nearest_codes, within_radius
from nearhash.index.hamming_tables import Tables, estimated_cost, scan_cost, substrings_for
from nearhash.index.hits import Hits, RangeHits
from nearhash.index.points import Filter, NewPoints, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.storage import take_tensor
from nearhash.kernels.multi_index import MAX_SUBSTRING
from nearhash.kernels.threads import resolve_threads

Method = Literal["auto", "scan", "multi-index"]
METHODS = ("auto", "scan", "multi-index")

_LEAST_ROWS = 4096  # a scan of fewer takes less time than finding out whether tables pay
_GROWTH = 1.25  # tables are made anew when there are so many times as many rows; new rows are scanned until then
_SAMPLE, _SAMPLE_K = 32, 10  # stored codes whose neighbours tell how far a search through tables has to go
_MARGIN = 0.5  # tables are made if their estimated cost is at most this share of a scan's


class _Plan(NamedTuple):
    """What was decided for the first `rows` codes: their tables, or none because a scan is as fast."""

    rows: int
    tables: Tables | None


class HammingIndex(VectorIndex):
    """Exact nearest neighbours of binary codes under the Hamming distance.

    Codes are packed bits, as `numpy.packbits` and `nearhash.hashing.SimHash` make them. Every search is exact unless
    `flips` says otherwise: by a scan of all codes, or, where neighbours are so close that it is faster, by multi-index
    hashing (Norouzi, Punjani & Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012).

    Parameters
    ----------
    bits : int
        Bits of a code, a multiple of 8, 8 to 32,768.
    threads : int, optional
        Threads for building tables, by default all cores.
    method : {"auto", "scan", "multi-index"}
        How to search. "auto" looks at the distances between stored codes, at the first search and again when there are
        a quarter more codes, and makes tables where these should halve the cost; a query for which they do not pay
        is scanned all the same.
    substrings : int, optional
        Substrings, each with a table, that codes are cut into; by default bits / log2 of the number of codes. None
        may be longer than 24 bits.

    Notes
    -----
    Tables take 4 to 8 bytes for each code and substring; they are not saved but made when a search first wants them.
    Searches may run in several threads at once; changes wait for them and have the index alone. Removed codes give back
    their memory by themselves when they are a quarter of all.
    """

    kind = "hamming"
    _SETTINGS = ("method", "substrings")
    _METRICS = ("hamming",)
    _COMPACT_AT = 0.25

    def __init__(
        self, bits: int, threads: int | None = None, *, method: Method = "auto", substrings: int | None = None
    ) -> None:
        if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or bits % 8:
            raise InvalidArgumentError(f"bits: expected a multiple of 8, got {bits!r}")
        super().__init__(check_dim(int(bits)), "hamming", threads)
        if method not in METHODS:
            raise InvalidArgumentError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
        self.method: Method = method
        if substrings is not None:
            substrings = check_count(substrings, "substrings", -(-self.dim // MAX_SUBSTRING), self.dim)
        self.substrings = substrings
        self._codes = Growable.empty((-(-self.dim // 64),), np.uint64)
        self._plan: _Plan | None = None
        self._planning = threading.Lock()

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.dim

    @property
    def _columns(self) -> int:
        return self.dim // 8

    # --- change ---

    def _rows_of(self, matrix: NDArray[Any]) -> NDArray[np.uint64]:
        return self._words(matrix, "vectors")

    def _queries_of(self, matrix: NDArray[Any]) -> NDArray[np.uint64]:
        return self._words(matrix, "queries")

    def _words(self, matrix: NDArray[Any], name: str) -> NDArray[np.uint64]:
        """(n, bits / 8) bytes as (n, w) uint64, the first byte lowest, with zeros to the next word."""
        if matrix.dtype != np.uint8:
            if matrix.size and (matrix.dtype.kind == "f" or matrix.min() < 0 or matrix.max() > 255):
                raise DtypeError(f"{name}: expected packed bits, uint8, got dtype {matrix.dtype}")
            matrix = matrix.astype(np.uint8)
        words: NDArray[np.uint64] = np.zeros((len(matrix), self._codes.view.shape[1]), np.uint64)
        words.view(np.uint8)[:, : self._columns] = matrix
        return words

    def _insert(self, rows: NDArray[Any], new: NewPoints, progress: Progress | None) -> None:
        present = len(self._codes.view)
        try:
            self._codes.append(rows)
            if progress is not None:
                progress(len(rows), len(rows))
        except BaseException:
            self._codes.truncate(present)
            raise

    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        self._codes = Growable(self._codes.view[slots])
        self._plan = None

    # --- search ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | SlotMask | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
        flips: int | None = None,
    ) -> Hits:
        """The k nearest codes of each query.

        Parameters are those of `VectorIndex.search`, and:

        queries : (q, bits / 8) or (bits / 8,) uint8
            Packed bits.
        flips : int, optional
            Approximate search through tables: look only at codes with a substring that differs from the query's in
            at most so many bits. 0 is the fastest. If fewer than k codes are found that way, or a scan is estimated
            to cost less, the search goes on until it is exact. By default it is exact.

        Returns
        -------
        Hits
            Distances are numbers of bits, as float32.
        """
        if flips is not None:
            flips = check_count(flips, "flips", 0)
            if self.method == "scan":
                raise InvalidArgumentError("flips: an index with method='scan' has no tables; expected None")
        return self._search(queries, k, window, allow, threads, where, flips)

    def _nearest(
        self, queries: NDArray[Any], k: int, wanted: Filter, effort: int | None, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        rows = self._codes.view
        tables = self._current_tables(approximate=effort is not None)
        return nearest_codes(queries, rows, tables, k, effort, wanted, threads)

    def _current_tables(self, approximate: bool) -> Tables | None:
        """Tables of the rows, or of all but some new ones; None where searches scan."""
        if self.method == "scan":
            return None
        rows = self._codes.view
        with self._planning:  # searches share the lock of the index, so two may come here at once
            plan = self._plan
            if plan is None or len(rows) > _GROWTH * plan.rows:
                plan = _Plan(len(rows), self._made_tables() if self._tables_pay() else None)
            if approximate and plan.tables is None and len(rows):
                plan = _Plan(len(rows), self._made_tables())
            self._plan = plan
            return plan.tables

    def _made_tables(self) -> Tables:
        rows = self._codes.view
        substrings = self.substrings or substrings_for(self.dim, len(rows))
        return Tables(rows, self.dim, substrings, resolve_threads(self.threads))

    def _tables_pay(self) -> bool:
        """Whether an exact search for a neighbourhood like those of some stored codes is cheaper through tables."""
        rows = self._codes.view
        if self.method == "multi-index" or len(rows) < _LEAST_ROWS:
            return self.method == "multi-index" and len(rows) > 0
        sample = rows[:: -(-len(rows) // _SAMPLE)]
        everything = self._points.filter(len(sample))
        k = _SAMPLE_K + 1  # a code finds itself
        _, distances = nearest_codes(
            np.ascontiguousarray(sample), rows, None, k, None, everything, resolve_threads(self.threads)
        )
        if np.isinf(distances).any():  # too few are alive
            return False
        substrings = self.substrings or substrings_for(self.dim, len(rows))
        cost = estimated_cost(self.dim, substrings, len(rows), int(np.median(distances[:, -1])))
        return cost <= _MARGIN * scan_cost(rows)

    def range_search(
        self,
        queries: ArrayLike,
        radius: float,
        window: ArrayLike | None = None,
        allow: ArrayLike | SlotMask | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
    ) -> RangeHits:
        """All codes that differ from each query in at most `radius` bits, nearest first, by a scan.

        Other parameters are those of `search`.
        """
        if isinstance(radius, bool) or not isinstance(radius, int | float | np.number) or np.isnan(float(radius)):
            raise InvalidArgumentError(f"radius: expected a number, got {radius!r}")
        threads = resolve_threads(threads)
        prepared = self._queries_of(as_matrix(queries, self._columns, "queries"))
        most = int(np.floor(np.clip(float(radius), -1, self.dim)))
        with self._lock.read():
            wanted = self._filter(len(prepared), window, allow, where)
            indptr, slots, distances = within_radius(prepared, self._codes.view, most, wanted, threads)
            return RangeHits(indptr, self._points.ids[slots], distances)

    # --- facts and storage ---

    def codes(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """(n, bits / 8) uint8 stored codes of some ids."""
        with self._lock.read():
            words = self._codes.view[self._points.slots_of(ids)]
            return np.ascontiguousarray(words.view(np.uint8)[:, : self._columns])

    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        """(n, bits) float32 zeros and ones, in the order of `numpy.unpackbits`."""
        packed = np.ascontiguousarray(self._codes.view[slots]).view(np.uint8)[:, : self._columns]
        return np.unpackbits(packed, axis=1).astype(np.float32)

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        plan = self._plan
        tables = None if plan is None or plan.tables is None else plan.tables
        return {**super().info(), "tables": 0 if tables is None else tables.substrings}

    def _own_nbytes(self) -> int:
        plan = self._plan
        return self._codes.nbytes + (plan.tables.nbytes if plan is not None and plan.tables is not None else 0)

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {"codes": self._codes.view}

    @classmethod
    def _from_header(cls, header: dict[str, Any]) -> "HammingIndex":
        if header["metric"] not in cls._METRICS:
            raise CorruptIndexError(f"header 'metric': expected 'hamming', got {header['metric']!r:.80}")
        return cls(header["dim"], method=header["method"], substrings=header["substrings"])

    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        codes = take_tensor(tensors, "codes", np.uint64, (self._points.slots, -(-self.dim // 64)))
        if self.dim % 64 and codes.size and int(codes[:, -1].max()) >> (self.dim % 64):
            raise CorruptIndexError("tensor 'codes': bits are set beyond the length of a code")
        self._codes = Growable(codes)
