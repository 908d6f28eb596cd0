"""Approximate search on a graph over compressed vectors."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.arguments import check_count, check_number
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress, Slots
from nearhash.index.codecs import make_codec
from nearhash.index.fine import make_fine
from nearhash.index.hits import Hits
from nearhash.index.metrics import norms
from nearhash.index.points import Filter, NewPoints, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.storage import take_tensor
from nearhash.index.tune import Space, TunableIndex
from nearhash.index.vamana import Vamana
from nearhash.kernels.threads import resolve_threads, run_chunks

# A filtered walk looks at about beam * degree * n / m vectors in random order to find its answers among m of n, a scan
# at m in order, each cheaper: below m^2 = SCAN_SHARE * beam * degree * n the scan is faster.
SCAN_SHARE = 0.5
# Ends of walks that `tune` tries; without one, or with the last, the beam alone decides.
SLACKS = (0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 1.0)
MOST_SLACK = 1e6
# Inner product needs a bound on the norms. When a longer vector arrives the bound grows by more than it must, so
# that the rebuilds this causes are few.
NORM_HEADROOM = 1.2


class GraphIndex(TunableIndex):
    """Approximate nearest neighbours by walking a Vamana graph over compressed vectors.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 32,768.
    metric : {"l2", "ip", "cosine"}
        Distance: squared Euclidean; minus the inner product; one minus the cosine. Under cosine unit vectors are
        stored, and a zero vector has similarity 0, distance 1, with every other. Inner product is reduced to
        Euclidean distance by one extra coordinate (Bachrach et al., RecSys 2014), which keeps the graph navigable.
    codec : str
        What the walk reads, one of "lvq8" (a byte a dimension), "lvq4" (half a byte), "lvq4x8", "f32", "f16",
        "float8", "pq8", and "rabitq1" to "rabitq8" (so many bits). float32 vectors are kept beside the codes, for the
        final distances. With "lvq4x8" they are not: the walk reads half a byte a dimension, candidates are measured
        with a byte more, and what is returned are the distances of what these stand for: an element is off by at most a
        7,650th of the range of its vector. It takes a third to a half of the memory of "lvq8".
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

    The first `add` also fixes the entry point and what a codec learns (a mean, codewords): give it a sample of what is
    to come, not a handful of special vectors. Removed vectors stay as waypoints until `compact`, which
    builds the index anew without them.
    """

    kind = "graph"
    _SETTINGS = ("codec", "degree", "build_beam", "seed")
    _EFFORTS: ClassVar = {"beam": int, "slack": float}

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
        super().__init__(dim, metric, threads)
        self.degree = check_count(degree, "degree", least=2, most=1024)
        self.build_beam = check_count(build_beam, "build_beam", most=1 << 20)
        self.seed = check_count(seed, "seed", least=0, most=2**64 - 1)
        self.codec, self._codec = codec, make_codec(codec, self.dim, has_extra=self.metric == "ip")
        self._codes = Growable.empty((self._codec.width,), self._codec.dtype)
        self._fine = make_fine(self._codec, self.metric)
        self._graph = Vamana(self.degree, self.build_beam, self.seed)
        self._norm_bound = 0.0  # ip: no vector is longer

    # --- change ---

    def _insert(self, rows: NDArray[np.float32], new: NewPoints, progress: Progress | None) -> None:
        floats = rows
        longest = float(norms(floats).max()) if self.metric == "ip" else 0.0
        first = self._graph.nodes == 0
        if longest > self._norm_bound and not first:
            everything = np.concatenate([self._fine.vectors(self._codes.view, slice(None)), floats])
            self._rebuild(everything, longest * NORM_HEADROOM, progress)
            return
        if first:
            self._norm_bound = longest
            self._codec.train(floats)
        present = self._graph.nodes
        codes = self._codes.extend(len(floats))
        try:
            self._fine.append(floats)
            self._encode(floats, codes, present)
            entry = _medoid(floats) if first else -1
            self._graph.grow(self._codec.model, self._codes.view, entry, resolve_threads(self.threads), progress)
        except BaseException:
            self._codes.truncate(present)
            self._fine.truncate(present)
            raise

    def _rebuild(self, floats: NDArray[np.float32], norm_bound: float, progress: Progress | None = None) -> None:
        """Build codes and graph anew over `floats`; nothing changes if that fails."""
        fresh = GraphIndex(self.dim, self.metric, self.codec, self.degree, self.build_beam, self.seed, self.threads)
        if len(floats):
            fresh._norm_bound = norm_bound
            fresh._codec.train(floats)
            fresh._codes.extend(len(floats))
            fresh._fine.append(floats)
            fresh._encode(floats, fresh._codes.view, 0)
            threads = resolve_threads(self.threads)
            fresh._graph.grow(fresh._codec.model, fresh._codes.view, _medoid(floats), threads, progress)
        self._codec, self._codes, self._fine = fresh._codec, fresh._codes, fresh._fine
        self._graph, self._norm_bound = fresh._graph, fresh._norm_bound

    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        floats = self._fine.vectors(self._codes.view, slots)
        bound = float(norms(floats).max()) if self.metric == "ip" and len(floats) else 0.0
        self._rebuild(floats, bound, progress)

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
        beam: int = 64,
        slack: float | None = None,
        rerank: int | None = None,
        recall: float | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, approximately; all but the effort is said in `VectorIndex.search`.

        Parameters
        ----------
        queries, k, window, allow, threads, where
            See `VectorIndex.search`.
        beam : int
            Effort: how many candidates the walk keeps, at least k of them. Recall and time grow with it. Filters
            widen it in proportion to what they leave out, or are answered by an exact scan where that is cheaper.
        slack : float, optional
            Effort: the walk ends, however wide its beam, where the nearest node not yet looked at is more than 1 +
            slack times as far as the k-th found (Euclidean distances; for ip those of the vectors with their extra
            coordinate; with a filter the k-th becomes a farther one, as the beam becomes wider). Easy queries end
            early, so a wide beam with a slack of .05 to .2 measures 10 to 60% less than a narrower beam without at the
            same recall, and misses less of hard queries.
        rerank : int, optional
            How many of the nearest candidates are measured exactly, by default max(4 k, 32).
        recall : float, optional
            Instead of a beam: that which `tune` found for such a recall.

        Returns
        -------
        Hits
            Ids and exact distances, each (q, k); ties in the order in which the vectors were added.
        """
        effort = self._search_effort(k, recall, beam=beam, slack=slack)
        if rerank is not None:
            effort = effort._replace(rerank=check_count(rerank, "rerank"))
        return self._search(queries, k, window, allow, threads, where, effort)

    def _nearest(
        self, queries: NDArray[np.float32], k: int, wanted: Filter, effort: "_Effort", threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """By a walk where it pays and by a scan of what the filter leaves elsewhere."""
        found = self._found(queries, k, wanted, effort, threads)
        return found.slots, found.distances

    def _found(
        self, queries: NDArray[np.float32], k: int, wanted: Filter, effort: "_Effort", threads: int
    ) -> "_Results":
        beam = max(effort.beam, k)
        rerank = max(4 * k, 32) if effort.rerank is None else max(k, effort.rerank)
        nodes, count = self._points.slots, len(queries)
        results = _Results.unwritten(count, k)
        if not nodes or not count:
            results.slots[...], results.distances[...] = -1, np.inf
            return results
        if wanted.everything:
            # All nodes can be reached, so a pool of at least k ends with min(k, nodes) of them.
            beams, nearest = np.full(count, min(beam, nodes)), np.full(count, k)
            self._walk(queries, beams, nearest, effort.reach, rerank, wanted, results, threads)
            return results
        # Rounded up to powers of two, so that a pool is not made for every query of its own size; a few removed vectors
        # are no reason to look at twice as many.
        fewer = nodes / np.maximum(wanted.counts, 1)
        beams = np.minimum(beam * 2.0 ** np.ceil(np.log2(fewer) - 0.125), nodes).astype(np.int64)
        nearest = np.ceil(k * fewer).astype(np.int64)
        scanned = wanted.counts.astype(np.float64) ** 2 <= SCAN_SHARE * beam * self.degree * nodes
        scanned &= wanted.counts < nodes
        walked = np.flatnonzero(~scanned)
        found = _Results.unwritten(len(walked), k)
        self._walk(
            queries[walked], beams[walked], nearest[walked], effort.reach, rerank, wanted.of(walked), found, threads
        )
        results.slots[walked], results.distances[walked] = found.slots, found.distances
        results.measured[walked] = found.measured
        # Too little of the filter where the walk was: the scan knows for certain.
        scanned[walked] = found.matches < np.minimum(k, wanted.counts[walked])
        rest = np.flatnonzero(scanned)
        if len(rest):
            results.slots[rest], results.distances[rest] = self._fine.scan(
                self._codes.view, queries[rest], wanted.of(rest), k, threads
            )
            results.measured[rest] = wanted.counts[rest]
        return results

    def _walk(
        self,
        queries: NDArray[np.float32],
        beams: NDArray[np.int64],
        nearest: NDArray[np.int64],
        reach: float,
        rerank: int,
        wanted: Filter,
        results: "_Results",
        threads: int,
    ) -> None:
        """Search the graph; `results` are written."""
        fine, which = self._fine.ask(self._codes.view, queries), (wanted.mask, wanted.labels, wanted.windows)
        self._graph.search(
            self._codec.model, self._codes.view, queries, beams, rerank, fine, nearest, reach, which, results, threads
        )

    # --- effort ---

    def _effort_space(self, k: int) -> Space:
        """Beams that grow, under slacks that decide where a walk ends before its beam does."""
        nodes = self._points.slots
        return Space("beam", min(k, nodes), nodes, [{"slack": slack} for slack in SLACKS])

    def _check_effort(self, name: str, value: Any) -> Any:
        if name != "slack":
            return super()._check_effort(name, value)
        return None if value is None else check_number(value, "slack", 0.0, MOST_SLACK)

    def _effort_of(self, effort: Mapping[str, Any]) -> "_Effort":
        return _Effort(effort["beam"], effort["slack"], None)

    def _counted_search(
        self, queries: NDArray[Any], k: int, wanted: Filter, effort: Mapping[str, Any]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], float]:
        """The work of a walk is the number of nodes that it measures."""
        found = self._found(queries, k, wanted, self._effort_of(effort), 1)
        return found.slots, found.distances, float(found.measured.mean())

    def _exact(self, queries: NDArray[Any], k: int, threads: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        everything = self._points.filter(len(queries), None, None)
        return self._fine.scan(self._codes.view, queries, everything, k, threads)

    # --- facts and storage ---

    def _own_nbytes(self) -> int:
        return self._codes.nbytes + self._fine.nbytes + self._graph.nbytes

    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        return self._fine.vectors(self._codes.view, slots)

    def _state(self) -> dict[str, Any]:
        return {"entry": self._graph.entry, "norm_bound": self._norm_bound}

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {
            "codes": self._codes.view, **self._codec.tensors(), **self._graph.tensors(), **self._fine.tensors(),
        }  # fmt: skip

    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        nodes = self._points.slots
        self._codes = Growable(take_tensor(tensors, "codes", self._codec.dtype, (nodes, self._codec.width)))
        self._graph.restore(tensors, header.get("entry"), nodes)
        self._codec.restore(tensors)
        self._fine.restore(tensors, nodes)
        bound = header.get("norm_bound")
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 <= bound < np.inf:
            raise CorruptIndexError(f"header 'norm_bound': expected a finite number >= 0, got {bound!r}")
        self._norm_bound = float(bound)

    # --- representation ---

    def _encode(self, floats: NDArray[np.float32], rows: NDArray[Any], slot: int) -> None:
        """Codes of new vectors, in slots from `slot` on; for ip with the coordinate that lifts all to one norm."""

        def task(first: int, last: int) -> None:
            part = floats[first:last]
            extra = np.zeros(len(part), np.float32)
            if self.metric == "ip":
                squares = norms(part).astype(np.float64) ** 2
                extra = np.sqrt(np.maximum(self._norm_bound**2 - squares, 0.0)).astype(np.float32)
            self._codec.encode(part, extra, rows[first:last])
            self._fine.encode(part, rows[first:last], slot + first)

        run_chunks(task, len(floats), resolve_threads(self.threads), 8192)


class _Effort(NamedTuple):
    """How much a search may cost, see `GraphIndex.search`."""

    beam: int
    slack: float | None
    rerank: int | None

    @property
    def reach(self) -> float:
        """How many times as far as the k-th result a node may be, of squared distances."""
        return np.inf if self.slack is None else (1 + self.slack) ** 2


class _Results(NamedTuple):
    """What a walk writes."""

    slots: NDArray[np.int32]
    distances: NDArray[np.float32]
    matches: NDArray[np.int64]
    """How many candidates in the pool passed the filter."""
    measured: NDArray[np.int64]
    """How many nodes the walk measured."""

    @classmethod
    def unwritten(cls, queries: int, k: int) -> "_Results":
        counts = np.empty(queries, np.int64), np.empty(queries, np.int64)
        return cls(np.empty((queries, k), np.int32), np.empty((queries, k), np.float32), *counts)


def _medoid(floats: NDArray[np.float32]) -> int:
    """Row nearest to the mean."""
    mean = floats.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.empty(len(floats), np.float32)
    for first in range(0, len(floats), 8192):
        difference = floats[first : first + 8192] - mean
        squares[first : first + 8192] = np.einsum("ij,ij->i", difference, difference)
    return int(squares.argmin())
