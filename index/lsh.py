"""Approximate search in hash tables of vectors: cross-polytope or hyperplane buckets, multiprobe, exact distances."""

import math
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.hashing.cross_polytope import MOST_HASHES, MOST_TABLES, CrossPolytope
from nearhash.index.arguments import MAX_DIM, check_count
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress, Slots
from nearhash.index.codecs import make_codec
from nearhash.index.codecs.base import take_finite
from nearhash.index.exact import exact_search
from nearhash.index.hits import Hits
from nearhash.index.lsh_tables import Tables
from nearhash.index.metrics import normalised, norms
from nearhash.index.points import Filter, NewPoints, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.storage import take_tensor
from nearhash.index.tune import Space, TunableIndex
from nearhash.kernels.lsh_tables import search_tables
from nearhash.kernels.rerank import rerank as rerank_exactly
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.threads import resolve_threads, run_chunks

Family = Literal["cross-polytope", "simhash"]
FAMILIES = ("cross-polytope", "simhash")

MOST_PROBES = 1 << 20
# New vectors are in no table at first and are measured by every search; merging them costs a pass over all tables.
_LEAST_TAIL, _TAIL_SHARE = 512, 64
_LEAST_FOUND = 4  # times k candidates, about, that an effort worth a trial finds
_CHUNK, _HASH_CHUNK = 128, 4096  # queries, vectors
_RERANK, _LEAST_RERANK = 3, 32  # exact distances: so many times k of the best by codes, and no fewer
# Inner product: see GraphIndex. A bound that a longer vector exceeds grows by more than it must.
_HEADROOM = 1.2


class LSHIndex(TunableIndex):
    """Approximate nearest neighbours in hash tables of directions, with query-directed multiprobe.

    The buckets of a query, and then those that are next most likely to hold neighbours, are read from all tables; what
    is in them is measured by codes of one byte a dimension, and the best of that exactly. Build time and memory are the
    least of all approximate indexes here, vectors can be added at any time at a steady cost, and nothing is trained
    but the mean of the codes; GraphIndex and IVFIndex answer faster.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 32,768 (32,767 for "ip").
    metric : {"cosine", "l2", "ip"}
        Cosine hashes directions; l2 hashes directions seen from the mean of the first vectors; ip hashes with one more
        coordinate that gives all vectors one length (Neyshabur & Srebro, ICML 2015).
    family : {"cross-polytope", "simhash"}
        What a bucket is: the nearest vertices of rotated cross-polytopes (Andoni et al., NIPS 2015), or the sides of
        hyperplanes (Charikar, STOC 2002). See `nearhash.hashing.CrossPolytope`.
    tables : int
        Tables, 1 to 1,024, each 4 bytes a vector and 4 a bucket. More find more in fewer candidates.
    hashes : int
        Polytopes or hyperplanes of a table, 1 to 64. Buckets should hold a few vectors: 2 polytopes of 128 dimensions
        make 65,536 of them; hyperplanes need about log2 of the number of vectors.
    seed : int
        Of the hash functions, 0 to 2**64 - 1. The same data, calls and seed give the same file at any `threads`.
    threads : int, optional
        Threads for building, by default all cores.
    last_dims : int, optional
        Dimensions of the last polytope, for a number of buckets in between: 1 makes 2 of it, by default as many as the
        others have. For family "cross-polytope".

    Notes
    -----
    Searches may run in several threads at once; changes wait for them and have the index alone.
    """

    kind = "lsh"
    _SETTINGS = ("family", "tables", "hashes", "seed", "last_dims")
    _EFFORTS: ClassVar = {"probes": int}
    _COMPACT_AT = 0.25

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        family: Family = "cross-polytope",
        tables: int = 16,
        hashes: int = 2,
        seed: int = 0,
        threads: int | None = None,
        last_dims: int | None = None,
    ) -> None:
        super().__init__(dim, metric, threads)
        if metric == "ip" and self.dim == MAX_DIM:
            raise InvalidArgumentError(f"dim: expected at most {MAX_DIM - 1:,} for metric 'ip', got {dim!r}")
        if family not in FAMILIES:
            raise InvalidArgumentError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
        self.family: Family = family
        self.tables = check_count(tables, "tables", most=MOST_TABLES)
        self.hashes = check_count(hashes, "hashes", most=MOST_HASHES)
        self.seed = check_count(seed, "seed", least=0, most=2**64 - 1)
        if last_dims is not None and family == "simhash":
            raise InvalidArgumentError("last_dims: hyperplanes have no dimensions; expected None for family 'simhash'")
        hashed = self.dim + (metric == "ip")
        dims = 1 if family == "simhash" else None
        self._hash = CrossPolytope(hashed, self.tables, self.hashes, self.seed, last_dims, dims)
        self.last_dims = last_dims
        self._codec = make_codec("lvq8", self.dim, has_extra=False)
        self._codes = Growable.empty((self._codec.width,), self._codec.dtype)
        self._vectors = Growable.empty((self.dim,), np.float32)
        self._tables = Tables(self.tables, self._hash.buckets)
        self._centre: NDArray[np.float32] = np.zeros(self.dim, np.float32)  # l2: where directions are seen from
        self._norm_bound = 0.0  # ip: no vector is longer
        self._numbers: NDArray[np.int32] = np.empty(0, np.int32)  # 0, 1, 2, ... for selection

    # --- change ---

    def _insert(self, rows: NDArray[np.float32], new: NewPoints, progress: Progress | None) -> None:
        present, total = self._points.slots, self._points.slots + len(rows)
        before = self._tables, self._norm_bound, self._centre
        try:
            if not present:
                self._codec.train(rows)
                if self.metric == "l2":
                    self._centre = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
            self._vectors.append(rows)
            codes = self._codes.extend(len(rows))
            self._encode(rows, codes)
            rehash = self._raise_bound(rows)
            built = self._tables.built
            if rehash or not built or total - built > max(_LEAST_TAIL, built // _TAIL_SHARE):
                self._build(rehash)
            if progress is not None:
                progress(len(rows), len(rows))
        except BaseException:
            self._vectors.truncate(present)
            self._codes.truncate(present)
            self._tables, self._norm_bound, self._centre = before
            raise

    def _raise_bound(self, rows: NDArray[np.float32]) -> bool:
        """ip: whether a longer vector than any before changes the directions of all; the bound is then raised."""
        longest = float(norms(rows).max()) if self.metric == "ip" else 0.0
        if longest <= self._norm_bound:
            return False
        self._norm_bound = longest * (_HEADROOM if self._norm_bound else 1.0)
        return True

    def _encode(self, rows: NDArray[np.float32], codes: NDArray[Any]) -> None:
        def task(first: int, last: int) -> None:
            self._codec.encode(rows[first:last], np.zeros(last - first, np.float32), codes[first:last])

        run_chunks(task, len(rows), resolve_threads(self.threads), 8192)

    def _build(self, anew: bool) -> None:
        """Put all vectors into tables: those that are in none yet, or all."""
        vectors, threads = self._vectors.view, resolve_threads(self.threads)
        tables = self._tables
        if anew or not tables.fits(len(vectors)):
            tables = Tables(self.tables, self._hash.buckets)
        first = tables.built
        keys = np.empty((len(vectors) - first, self.tables), np.uint64)
        for start in range(0, len(keys), 16 * _HASH_CHUNK):  # blocks: no second copy of all vectors
            block = slice(start, start + 16 * _HASH_CHUNK)
            keys[block] = self._hash.hash(self._directions(vectors[first:][block]), threads)
        self._tables = tables.with_slots(keys, threads)

    def _directions(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """What of vectors is hashed."""
        if self.metric == "l2":
            return rows - self._centre
        if self.metric == "ip":
            squares = norms(rows).astype(np.float64) ** 2
            rest = np.sqrt(np.maximum(self._norm_bound**2 - squares, 0.0)).astype(np.float32)
            return np.concatenate([rows, rest[:, None]], axis=1)
        return rows

    def _query_directions(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.metric == "ip":
            return normalised(np.concatenate([queries, np.zeros((len(queries), 1), np.float32)], axis=1))
        return normalised(queries - self._centre) if self.metric == "l2" else queries

    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        fresh = LSHIndex(
            self.dim, self.metric, self.family, self.tables, self.hashes, self.seed, self.threads, self.last_dims
        )
        rows = self._vectors.view[slots]
        if len(rows):
            fresh._insert(rows, NewPoints(slots.astype(np.int64), None, {}), progress)
        self._codec, self._codes, self._vectors, self._tables = (
            fresh._codec,
            fresh._codes,
            fresh._vectors,
            fresh._tables,
        )
        self._centre, self._norm_bound = fresh._centre, fresh._norm_bound

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
        probes: int = 256,
        rerank: int | None = None,
        recall: float | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, approximately; all but the effort is said in `VectorIndex.search`.

        Parameters
        ----------
        queries, k, window, allow, threads, where
            See `VectorIndex.search`.
        probes : int
            Effort: how many buckets are read, the best over all tables. Recall and time grow with it. Where they hold
            fewer than min(k, matches) vectors that match, or so few match that it is cheaper, the matches are scanned.
        rerank : int, optional
            How many of the nearest candidates are measured exactly, by default max(3 k, 32).
        recall : float, optional
            Instead of probes: those that `tune` found for such a recall.

        Returns
        -------
        Hits
            Ids and exact distances, each (q, k); ties in the order in which the vectors were added.
        """
        effort = self._search_effort(k, recall, probes=probes)
        if rerank is not None:
            effort = effort._replace(rerank=check_count(rerank, "rerank"))
        return self._search(queries, k, window, allow, threads, where, effort)

    def _nearest(
        self, queries: NDArray[np.float32], k: int, wanted: Filter, effort: "_Effort", threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        slots = np.full((len(queries), k), -1, np.int32)
        distances = np.full((len(queries), k), np.inf, np.float32)
        if not self._points.slots or not len(queries):
            return slots, distances
        # A filter that leaves one in so many is answered from so many times the buckets, in steps of two so that
        # queries of about equal filters are searched together; or from its matches, if those are fewer.
        rarity = self._points.slots / np.maximum(wanted.counts, 1)
        steps = np.rint(np.log2(rarity)).astype(np.int64)
        most = self.tables * self._hash.buckets
        probes_at = np.minimum(effort.probes * 2.0**steps, most).astype(np.int64)
        few = wanted.counts <= np.maximum(2 * k, self._expected_candidates(probes_at))
        for probes in np.unique(probes_at[~few]).tolist():
            hashed = np.flatnonzero(~few & (probes_at == probes))
            complete = self._probe(queries, hashed, k, wanted, probes, effort.rerank, slots, distances, threads)
            few[hashed] = ~complete
        rest = np.flatnonzero(few)
        if len(rest):
            slots[rest], distances[rest] = self._scan(queries[rest], k, wanted.of(rest), threads)
        return slots, distances

    def _expected_candidates(self, probes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Vectors in so many buckets if all were equally full."""
        return np.asarray(self._points.slots * np.minimum(1.0, probes / self._hash.buckets))

    def _probe(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        k: int,
        wanted: Filter,
        probes: int,
        rerank: int | None,
        slots: NDArray[np.int32],
        distances: NDArray[np.float32],
        threads: int,
    ) -> NDArray[np.bool_]:
        """Search the tables for the chosen queries, write their results, and say which found min(k, matches)."""
        rows, count = self._vectors.view, self._points.slots
        measured = min(max(k, max(_RERANK * k, _LEAST_RERANK) if rerank is None else rerank), count)
        metric, base = (L2, np.float32(0.0)) if self.metric == "l2" else (DOT, np.float32(self.metric == "cosine"))
        numbers = self._counting(max(self.tables * self._hash.vertices, count) + 64)
        complete = np.empty(len(chosen), np.bool_)
        unbounded = np.empty(0, np.float32)

        def task(first: int, last: int) -> None:
            part = chosen[first:last]
            own, filtered = queries[part], wanted.of(part)
            keys, sizes = np.empty((len(part), measured + 16), np.uint64), np.empty(len(part), np.int64)
            search_tables(
                self._codec.model, self._codes.view, self._query_directions(own), own, metric, probes,
                self._hash.signs, self._hash.plan, self._tables.shift, self._tables.starts, self._tables.entries,
                filtered.mask, filtered.labels, filtered.windows, numbers, keys, sizes,
            )  # fmt: skip
            found, near = np.empty((len(part), k), np.int32), np.empty((len(part), k), np.float32)
            rerank_exactly(own, rows, metric, base, keys, sizes, measured, False, unbounded, found, near)
            slots[part], distances[part] = found, near
            complete[first:last] = sizes >= np.minimum(k, filtered.counts)

        run_chunks(task, len(chosen), threads, _CHUNK if len(chosen) >= _CHUNK * threads else 8)
        return complete

    def _counting(self, size: int) -> NDArray[np.int32]:
        """At least 0, 1, ... size - 1; kept, since making them would take longer than a search of one query."""
        numbers = self._numbers
        if len(numbers) < size:
            numbers = self._numbers = np.arange(size, dtype=np.int32)
        return numbers

    def _scan(
        self, queries: NDArray[np.float32], k: int, wanted: Filter, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return exact_search(queries, self._vectors.view, np.empty(0, np.float32), self.metric, wanted, k, threads)

    # --- effort ---

    def _effort_space(self, k: int) -> Space:
        most = min(MOST_PROBES, self.tables * self._hash.buckets)
        # With fewer, exact scans for queries that find less than k in their buckets would look like good results.
        low = max(self.tables, math.ceil(_LEAST_FOUND * k * self._hash.buckets / max(1, self._points.slots)))
        return Space("probes", min(low, most), most, [{}], lambda effort: float(effort["probes"]))

    def _effort_of(self, effort: dict[str, int]) -> "_Effort":
        return _Effort(min(effort["probes"], MOST_PROBES), None)

    def _exact(self, queries: NDArray[Any], k: int, threads: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return self._scan(queries, k, self._points.filter(len(queries)), threads)

    # --- facts and storage ---

    def _own_nbytes(self) -> int:
        return self._codes.nbytes + self._vectors.nbytes + self._tables.nbytes + self._hash.signs.nbytes

    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._vectors.view[slots])

    def _state(self) -> dict[str, Any]:
        return {"norm_bound": self._norm_bound}

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {
            "vectors": self._vectors.view, "codes": self._codes.view, "centre": self._centre,
            **self._codec.tensors(), **self._tables.tensors(),
        }  # fmt: skip

    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        count = self._points.slots
        self._vectors = Growable(take_tensor(tensors, "vectors", np.float32, (count, self.dim)))
        self._codes = Growable(take_tensor(tensors, "codes", self._codec.dtype, (count, self._codec.width)))
        self._codec.restore(tensors)
        self._centre = take_finite(tensors, "centre", (self.dim,))
        self._tables.restore(tensors, count)
        bound = header.get("norm_bound")
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound < np.inf:
            raise CorruptIndexError(f"header 'norm_bound': expected a finite number >= 0, got {bound!r}")
        self._norm_bound = float(bound)


class _Effort(NamedTuple):
    """How much a search may cost, see `LSHIndex.search`."""

    probes: int
    rerank: int | None
