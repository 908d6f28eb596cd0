"""Approximate search on a graph over compressed vectors."""

from collections.abc import Callable
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.arguments import as_float32, as_matrix, check_count, check_dim, check_metric, for_kernels
from nearhash.index.arrays import Growable
from nearhash.index.codecs import make_codec
from nearhash.index.exact import exact_search
from nearhash.index.hits import Hits
from nearhash.index.locks import ReadWriteLock
from nearhash.index.metrics import normalised, norms
from nearhash.index.points import Filter, Points
from nearhash.index.storage import write_file
from nearhash.index.vamana import Vamana
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.threads import resolve_threads, run_chunks

Progress = Callable[[int, int], None]

# A filtered walk looks at about beam * degree * n / m vectors in random order to find its answers among m of n, a scan
# at m in order, each cheaper: below m^2 = SCAN_SHARE * beam * degree * n the scan is faster.
SCAN_SHARE = 0.5
# Inner product needs a bound on the norms. When a longer vector arrives the bound grows by more than it must, so
# that the rebuilds this causes are few.
NORM_HEADROOM = 1.2


class GraphIndex:
    """Approximate nearest neighbours by walking a Vamana graph over compressed vectors.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 32,768.
    metric : {"l2", "ip", "cosine"}
        Distance: squared Euclidean; minus the inner product; one minus the cosine. Under cosine unit vectors are
        stored, and a zero vector has similarity 0, distance 1, with every other. Inner product is reduced to
        Euclidean distance by one extra coordinate (Bachrach et al., RecSys 2014), which keeps the graph navigable.
    codec : {"lvq8", "f32"}
        What the walk reads: one byte a dimension, beside which float32 vectors are kept for the final distances, or
        float32 itself. "lvq8" is the faster one.
    degree : int
        Most links of a node, at least 2. More give a better recall at the same beam, at 4 bytes each.
    build_beam : int
        Beam of the searches that find links. More give a better graph and a longer build.
    seed : int
        Of the order of insertion, 0 to 2**64 - 1. The same data, calls and seed give the same file at any `threads`.
    threads : int, optional
        Threads for building, by default all cores.

    Notes
    -----
    Searches may run in several threads at once; changes wait for them and have the index alone.
    """

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        codec: str = "lvq8",
        degree: int = 32,
        build_beam: int = 128,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self.dim = check_dim(dim)
        self.metric = check_metric(metric)
        self.degree = check_count(degree, "degree", least=2, most=1024)
        self.build_beam = check_count(build_beam, "build_beam", most=1 << 20)
        self.seed = check_count(seed, "seed", least=0, most=2**64 - 1)
        self.threads = threads if threads is None else resolve_threads(threads)
        self._codec = make_codec(codec, self.dim, has_extra=self.metric == "ip")
        self._points = Points()
        self._codes = Growable.empty((self._codec.width,), self._codec.dtype)
        self._vectors = None if self._codec.exact else Growable.empty((self.dim,), np.float32)
        self._graph = Vamana(self.degree, self.build_beam, self.seed)
        self._norm_bound = 0.0  # ip: no vector is longer
        self._lock = ReadWriteLock()

    @property
    def codec(self) -> str:
        """Name of the codec."""
        return self._codec.name

    # --- change ---

    def add(
        self,
        vectors: ArrayLike,
        ids: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.int64]:
        """Add vectors and return their ids.

        The first call also fixes the entry point and, for "lvq8", the mean that codes are relative to: give it a
        sample of what is to come, not a handful of special vectors.

        Parameters
        ----------
        vectors : (n, dim) or (dim,) array of a float or integer dtype
            Finite values that fit float32.
        ids : (n,) integers, optional
            Distinct, not negative, not in the index; by default consecutive, from 0 or the largest id so far plus one.
        labels : (n,) numbers, optional
            Stored as float64, for ``window=`` of `search`. Vectors added without labels match no window.
        progress : callable, optional
            Called with (vectors done, vectors in all). If it raises, nothing has been added.

        Returns
        -------
        (n,) int64
            The ids.

        Raises
        ------
        InvalidArgumentError
            Wrong shape or dtype, NaN or inf, duplicate ids, ...; the index is then unchanged.
        """
        floats = as_float32(as_matrix(vectors, self.dim, "vectors"), "vectors")
        if self.metric == "cosine":
            floats = normalised(floats)
        with self._lock.write():
            new_ids, new_labels = self._points.check(len(floats), ids, labels)
            if len(floats):
                self._insert(floats, progress)
                self._points.append(new_ids, new_labels)
        return new_ids

    def _insert(self, floats: NDArray[np.float32], progress: Progress | None) -> None:
        longest = float(norms(floats).max()) if self.metric == "ip" else 0.0
        first = self._graph.nodes == 0
        if longest > self._norm_bound and not first:
            everything = np.concatenate([self._stored(), floats])
            self._rebuild(everything, longest * NORM_HEADROOM, progress)
            return
        if first:
            self._norm_bound = longest
            self._codec.train(floats)
        present = self._graph.nodes
        codes = self._codes.extend(len(floats))
        try:
            if self._vectors is not None:
                self._vectors.append(floats)
            self._encode(self._stored()[present:] if self._vectors is not None else floats, codes)
            entry = _medoid(floats) if first else -1
            self._graph.grow(self._codes.view, self.dim, entry, resolve_threads(self.threads), progress)
        except BaseException:
            self._codes.truncate(present)
            if self._vectors is not None:
                self._vectors.truncate(present)
            raise

    def _rebuild(self, floats: NDArray[np.float32], norm_bound: float, progress: Progress | None = None) -> None:
        """Build codes and graph anew over `floats`; nothing changes if that fails."""
        fresh = GraphIndex(self.dim, self.metric, self.codec, self.degree, self.build_beam, self.seed, self.threads)
        if len(floats):
            fresh._norm_bound = norm_bound
            fresh._codec.train(floats)
            fresh._codes.extend(len(floats))
            if fresh._vectors is not None:
                fresh._vectors.append(floats)
            fresh._encode(floats, fresh._codes.view)
            threads = resolve_threads(self.threads)
            fresh._graph.grow(fresh._codes.view, self.dim, _medoid(floats), threads, progress)
        self._codec, self._codes, self._vectors = fresh._codec, fresh._codes, fresh._vectors
        self._graph, self._norm_bound = fresh._graph, fresh._norm_bound

    def remove(self, ids: ArrayLike) -> None:
        """Remove vectors by id: they are in no result from now on. An unknown id raises and nothing is removed.

        Their nodes stay as waypoints until `compact`.
        """
        with self._lock.write():
            self._points.remove(self._points.slots_of(ids))

    def compact(self, progress: Progress | None = None) -> None:
        """Build the index anew without the removed vectors, giving back their memory. Ids stay."""
        with self._lock.write():
            if self._points.deleted:
                slots = self._points.live_slots
                floats = self._stored()[slots]
                bound = float(norms(floats).max()) if self.metric == "ip" and len(floats) else 0.0
                self._rebuild(floats, bound, progress)
                self._points.keep(slots)

    # --- search ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | None = None,
        threads: int | None = None,
        *,
        beam: int = 64,
        rerank: int | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, approximately.

        Parameters
        ----------
        queries : (q, dim) or (dim,) array of a float or integer dtype
        k : int
            Results per query, at least 1. Where fewer vectors match, the rest is id -1 at distance inf; there are
            never fewer results than min(k, matches).
        window : (lo, hi) or (q, 2), optional
            Only vectors with lo <= label < hi; -inf and inf for open ends.
        allow : boolean mask or ids, optional
            Only these vectors. ``mask[i]`` speaks of id i; ids beyond the mask are not allowed, unknown ids ignored.
        threads : int, optional
            Threads to use, by default all cores. The result does not depend on it.
        beam : int
            Effort: how many candidates the walk keeps, at least k of them. Recall and time grow with it. Filters
            widen it in proportion to what they leave out, or are answered by an exact scan where that is cheaper.
        rerank : int, optional
            How many of the nearest candidates are measured exactly, by default max(4 k, 32).

        Returns
        -------
        Hits
            Ids and exact distances, each (q, k); ties in the order in which the vectors were added.
        """
        k, beam = check_count(k, "k"), check_count(beam, "beam")
        rerank = max(4 * k, 32) if rerank is None else max(k, check_count(rerank, "rerank"))
        threads = resolve_threads(threads)
        floats = for_kernels(as_float32(as_matrix(queries, self.dim, "queries"), "queries"))
        if self.metric == "cosine":
            floats = normalised(floats)
        with self._lock.read():
            wanted = self._points.filter(len(floats), window, allow)
            slots, distances = self._search(floats, k, wanted, max(beam, k), rerank, threads)
            ids = np.where(slots >= 0, self._points.ids[slots] if self._points.slots else -1, -1)
        return Hits(ids, distances)

    def _search(
        self, floats: NDArray[np.float32], k: int, wanted: Filter, beam: int, rerank: int, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Slots and distances, by a walk where it pays and by a scan of what the filter leaves elsewhere."""
        nodes = self._points.slots
        results = _Results.empty(len(floats), k)
        if not nodes or not len(floats):
            return results.slots, results.distances
        encoded = self._encoded_queries(floats)
        vectors, prepared = self._exact_form(floats, encoded)
        metric, offset = (L2 if self.metric == "l2" else DOT), np.float32(self.metric == "cosine")

        def walk(part: NDArray[np.int64] | slice, beams: NDArray[np.int64], found: _Results) -> None:
            chosen = wanted.of(part)
            self._graph.search(
                self._codes.view, self.dim, encoded[part], beams, rerank,
                (vectors, prepared[part], metric, offset), (chosen.mask, chosen.labels, chosen.windows), found, threads,
            )  # fmt: skip

        if wanted.everything:
            # All nodes can be reached, so a pool of at least k ends with min(k, nodes) of them.
            walk(slice(None), np.full(len(floats), min(beam, nodes)), results)
            return results.slots, results.distances
        # Rounded up to powers of two, so that a pool is not made for every query of its own size.
        widening = 2.0 ** np.ceil(np.log2(nodes / np.maximum(wanted.counts, 1)))
        beams = np.minimum(beam * widening, nodes).astype(np.int64)
        scanned = wanted.counts.astype(np.float64) ** 2 <= SCAN_SHARE * beam * self.degree * nodes
        scanned &= wanted.counts < nodes
        walked = np.flatnonzero(~scanned)
        found = _Results.empty(len(walked), k)
        walk(walked, beams[walked], found)
        results.slots[walked], results.distances[walked] = found.slots, found.distances
        # Too little of the filter where the walk was: the scan knows for certain.
        scanned[walked] = found.matches < np.minimum(k, wanted.counts[walked])
        rest = np.flatnonzero(scanned)
        if len(rest):
            results.slots[rest], results.distances[rest] = exact_search(
                prepared[rest], vectors, np.empty(0, np.float32), self.metric, wanted.of(rest), k, threads
            )
        return results.slots, results.distances

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
        vectors = 0 if self._vectors is None else self._vectors.nbytes
        return self._codes.nbytes + vectors + self._graph.nbytes + self._points.nbytes

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """(n, dim) float32 stored vectors of some ids; under cosine these are unit vectors."""
        with self._lock.read():
            slots = self._points.slots_of(ids)
            source = self._codes if self._vectors is None else self._vectors
            return np.ascontiguousarray(source.view[slots, : self.dim])

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        return {
            "kind": "graph",
            "dim": self.dim,
            "metric": self.metric,
            "codec": self.codec,
            "degree": self.degree,
            "build_beam": self.build_beam,
            "seed": self.seed,
            "size": self._points.size,
            "deleted": self._points.deleted,
            "labelled": self._points.labelled,
            "nbytes": self.nbytes,
        }

    # --- storage ---

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to a file, atomically; `nearhash.load` reads it."""
        with self._lock.read():
            header = {
                "kind": "graph",
                "dim": self.dim,
                "metric": self.metric,
                "codec": self.codec,
                "degree": self.degree,
                "build_beam": self.build_beam,
                "seed": self.seed,
                "entry": self._graph.entry,
                "norm_bound": self._norm_bound,
                "next_id": self._points.next_id,
            }
            tensors = {
                "codes": self._codes.view,
                **self._codec.tensors(),
                **self._graph.tensors(),
                **self._points.tensors(),
            }
            if self._vectors is not None:
                tensors["vectors"] = self._vectors.view
            write_file(path, header, tensors)

    @classmethod
    def _from_file(cls, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> "GraphIndex":
        index = cls(*(header[name] for name in ("dim", "metric", "codec", "degree", "build_beam", "seed")))
        codec = index._codec
        codes = tensors.get("codes")
        if codes is None or codes.dtype != codec.dtype or codes.ndim != 2 or codes.shape[1] != codec.width:
            raise CorruptIndexError(f"tensor 'codes': expected {np.dtype(codec.dtype)} of shape (n, {codec.width})")
        nodes = len(codes)
        index._points = Points.from_tensors(tensors, header.get("next_id"), nodes)
        index._graph.restore(tensors, header.get("entry"), nodes)
        codec.restore(tensors)
        index._codes = Growable(codes)
        if index._vectors is not None:
            vectors = tensors.get("vectors")
            if vectors is None or vectors.dtype != np.float32 or vectors.shape != (nodes, index.dim):
                raise CorruptIndexError(f"tensor 'vectors': expected float32 of shape ({nodes}, {index.dim})")
            index._vectors = Growable(vectors)
        bound = header.get("norm_bound")
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound < np.inf:
            raise CorruptIndexError(f"header 'norm_bound': expected a finite number >= 0, got {bound!r}")
        index._norm_bound = float(bound)
        return index

    # --- representation ---

    def _stored(self) -> NDArray[np.float32]:
        """(n, dim) float32 vectors of all slots."""
        source = self._codes if self._vectors is None else self._vectors
        return source.view[:, : self.dim]

    def _encode(self, floats: NDArray[np.float32], rows: NDArray[Any]) -> None:
        """Codes of new vectors, in parallel; for ip with the coordinate that lifts all of them to one norm."""

        def task(first: int, last: int) -> None:
            part = floats[first:last]
            extra = np.zeros(len(part), np.float32)
            if self.metric == "ip":
                squares = norms(part).astype(np.float64) ** 2
                extra = np.sqrt(np.maximum(self._norm_bound**2 - squares, 0.0)).astype(np.float32)
            self._codec.encode(part, extra, rows[first:last])

        run_chunks(task, len(floats), resolve_threads(self.threads), 8192)

    def _encoded_queries(self, floats: NDArray[np.float32]) -> NDArray[Any]:
        """Queries as rows of codes; their extra coordinate is 0."""
        encoded = np.empty((len(floats), self._codec.width), self._codec.dtype)
        self._codec.encode(floats, np.zeros(len(floats), np.float32), encoded)
        return encoded

    def _exact_form(
        self, floats: NDArray[np.float32], encoded: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(vectors, queries) of one width for exact distances.

        Rows of an exact codec serve as they are: the padding is zero, and so is the extra coordinate of queries.
        """
        if self._vectors is None:
            return self._codes.view, encoded
        return self._vectors.view, floats


class _Results(NamedTuple):
    """What a walk writes."""

    slots: NDArray[np.int32]
    distances: NDArray[np.float32]
    matches: NDArray[np.int64]
    """How many candidates in the pool passed the filter."""

    @classmethod
    def empty(cls, queries: int, k: int) -> "_Results":
        slots = np.full((queries, k), -1, np.int32)
        return cls(slots, np.full((queries, k), np.inf, np.float32), np.zeros(queries, np.int64))


def _medoid(floats: NDArray[np.float32]) -> int:
    """Row nearest to the mean."""
    mean = floats.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.empty(len(floats), np.float32)
    for first in range(0, len(floats), 8192):
        difference = floats[first : first + 8192] - mean
        squares[first : first + 8192] = np.einsum("ij,ij->i", difference, difference)
    return int(squares.argmin())
