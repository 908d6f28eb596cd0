"""Approximate search in lists on disk, for vectors that do not fit memory."""

from collections.abc import Mapping
from os import PathLike
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError, ReadOnlyError
from nearhash.index.arguments import LARGEST, MAX_DIM, check_count
from nearhash.index.base import Progress, Slots, VectorIndex
from nearhash.index.disk_build import CODECS, GRAPH_PREFIX, build, check_settings
from nearhash.index.disk_centroids import Centroids
from nearhash.index.disk_lists import PAGE, Layout, ListFile, Traffic, page_start
from nearhash.index.graph import GraphIndex
from nearhash.index.hits import Hits
from nearhash.index.metrics import norms
from nearhash.index.points import Filter, NewPoints, Points, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.storage import Left, read_file_without, refusing, take_tensor
from nearhash.kernels.disk_scan import scan_read
from nearhash.kernels.pool import EMPTY_KEY
from nearhash.kernels.scan import DOT, L2, unpack_pools
from nearhash.kernels.threads import run_chunks

LONGEST = LARGEST * MAX_DIM**0.5  # no vector is longer


class DiskIndex(VectorIndex):
    """Approximate nearest neighbours in lists on disk: centroids in memory, vectors in a file.

    After SPANN (Chen et al., "Highly-efficient billion-scale approximate nearest neighbor search", NeurIPS 2021). The
    vectors are divided into many small lists, each a few pages of a file; those near a boundary are written to several.
    A search finds the nearest centroids by a graph in memory, reads their lists, all at once, and measures every vector
    in them exactly.

    An index is built by `build`, from vectors that need not fit memory, opened by `open` or `nearhash.load`, and does
    not change afterwards: `add`, `remove`, `compact` and `save` raise ReadOnlyError.

    Notes
    -----
    In memory are the centroids and their graph, 13 bytes a vector, 8 more for each label and attribute, and 16 MiB of
    buffers for each search at a time: see `nbytes`. The file is `disk_bytes` long.

    Searches may run in several threads at once; `close` waits for them.
    """

    kind = "disk"
    _SETTINGS = ("codec", "replicas", "seed")

    def __init__(self, path: str | PathLike[str], mmap: bool = True, verify: bool = True) -> None:
        header, tensors, left = read_file_without(path, "lists", mmap=mmap, verify=verify)
        with refusing(path):
            try:
                self._take(header, tensors, left, verify)
            except BaseException:
                left.close()
                raise

    # --- build and open ---

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        vectors: Any,
        metric: str = "l2",
        ids: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        attributes: Mapping[str, ArrayLike] | None = None,
        codec: str = "f32",
        lists: int | None = None,
        replicas: int = 8,
        seed: int = 0,
        threads: int | None = None,
        memory: int = 1 << 30,
        progress: Progress | None = None,
    ) -> "DiskIndex":
        """Write an index to a file and open it.

        Parameters
        ----------
        path : path
            The file; it appears when it is complete. A file of that name is replaced.
        vectors : (n, dim) array, or anything with a shape whose slices of rows are arrays
            ``np.load(..., mmap_mode="r")``, a data set of h5py, ...; it is read twice, from begin to end, in slices.
            Finite values of any float or integer dtype.
        metric : {"l2", "ip", "cosine"}
            Distance: squared Euclidean; minus the inner product; one minus the cosine.
        ids : (n,) integers, optional
            Distinct, not negative; by default 0 to n - 1.
        labels : (n,) numbers, optional
            For ``window=`` of `search`.
        attributes : dict of name to (n,) integers or bools, optional
            For ``where=`` of `search`.
        codec : {"f32", "f16", "u8", "i8"}
            How vectors are stored: float32; float16, distances being those of the rounded vectors; or bytes, for
            vectors of whole numbers, which are exact and a quarter of the size.
        lists : int, optional
            How many lists. By default as many as give 32 KiB of vectors to a list, at least 16 of them. More lists take
            more memory and less reading.
        replicas : int
            To how many lists a vector is written at most. Those that the rule of SPANN leaves are fewer.
        seed : int
            0 to 2**64 - 1. Same data, same arguments, same file, at any `threads`.
        threads : int, optional
            By default all cores.
        memory : int
            Bytes of memory to build with, beside about twice what the finished index takes. At least 16 MiB.
        progress : callable, optional
            Called with (work done, work in all). If it raises, there is no file.

        Returns
        -------
        DiskIndex
            The index, open.

        Raises
        ------
        InvalidArgumentError
            Wrong shape or dtype, NaN or inf, duplicate ids, ...; nothing has been written then.
        OSError
            If the disk is full or cannot be written. Temporary files beside `path`, together up to about five times the
            size of the vectors, have no names: they are gone when the build ends, however it ends.
        """
        shape = np.shape(vectors) if isinstance(vectors, list | tuple) else getattr(vectors, "shape", ())
        source = np.asarray(vectors) if isinstance(vectors, list | tuple) else vectors
        settings = check_settings(tuple(shape), metric, codec, lists, replicas, seed, threads, memory)
        build(path, source, settings, ids, labels, attributes, progress)
        return cls(path)

    @classmethod
    def open(cls, path: str | PathLike[str], mmap: bool = True, verify: bool = True) -> "DiskIndex":
        """Open an index that `build` wrote.

        Parameters
        ----------
        path : path
        mmap : bool
            Map what is kept in memory instead of reading it: several processes share it, and the kernel may drop it
            when memory is short.
        verify : bool
            Compare checksums: of what is kept in memory now, of each list whenever it is read.

        Raises
        ------
        CorruptIndexError
            If the file is not an intact index of this kind.
        """
        return cls(path, mmap, verify)

    @classmethod
    def _read(cls, path: str | PathLike[str], mmap: bool, verify: bool) -> "DiskIndex":
        return cls(path, mmap, verify)

    def _take(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]], left: Left, verify: bool) -> None:
        """Take what a file holds; raises CorruptIndexError, or what a constructor says to a header."""
        if header.get("kind") != self.kind:
            raise CorruptIndexError(f"header 'kind': expected 'disk', got {header.get('kind')!r:.80}")
        points = Points.from_tensors(tensors, header.get("next_id"))
        settings = check_settings(
            (points.slots, header["dim"]), header["metric"], header["codec"], 1, header["replicas"], header["seed"], 1,
            1 << 30,
        )  # fmt: skip
        super().__init__(settings.dim, settings.metric)
        self.codec, self.replicas, self.seed = settings.codec, settings.replicas, settings.seed
        self._points = points
        self._norm_bound = _norm(header, "norm_bound")
        graph_tensors = {
            name.removeprefix(GRAPH_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(GRAPH_PREFIX)
        }
        if not isinstance(header["graph"], dict):
            raise CorruptIndexError(f"header 'graph': expected an object, got {header['graph']!r:.80}")
        graph = GraphIndex._from_file(header["graph"], graph_tensors)
        lists = len(graph)
        if (graph.dim, graph.metric, graph.codec, len(graph._points.ids)) != (settings.width, "l2", "f32", lists):
            raise CorruptIndexError(f"header 'graph': expected one of l2 over f32 of {settings.width} dimensions")
        if not lists or (graph.ids != np.arange(lists)).any():
            raise CorruptIndexError("header 'graph': expected centroids 0, 1, ...")
        self._centroids = Centroids(graph)
        counts = take_tensor(tensors, "lists.counts", np.int64, (lists,))
        checksums = take_tensor(tensors, "lists.checksums", np.uint32, (lists,))
        self._homes: NDArray[np.int32] = take_tensor(tensors, "homes", np.int32, (points.slots,))
        if self._homes.min() < 0 or self._homes.max() >= lists:
            raise CorruptIndexError(f"tensor 'homes': expected lists from 0 to {lists - 1}")
        nbytes = left.entry.stop - left.entry.start
        if counts.min() < 0 or counts.max() > nbytes // settings.row_bytes:
            raise CorruptIndexError("tensor 'lists.counts': expected counts of entries that the file has room for")
        layout = Layout(counts, settings.row_bytes)
        # Summed as Python integers: what a forger put there may be more than int64 holds.
        if left.entry.dtype != np.uint8 or left.entry.shape != (sum(layout.nbytes.tolist()) + PAGE,):
            raise CorruptIndexError(
                f"tensor 'lists': expected uint8, the pages of {lists:,} lists, got {left.entry.dtype} of shape "
                f"{left.entry.shape}"
            )
        self._checksums = checksums
        start = page_start(left.entry.start)
        self._file = ListFile(left.descriptor, start, layout, checksums if verify else None)

    def close(self) -> None:
        """Close the file; searches raise ClosedError from then on. Closing again does nothing."""
        with self._lock.write():
            self._file.close()

    def __enter__(self) -> "DiskIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- no change ---

    def add(self, *arguments: Any, **options: Any) -> NoReturn:
        """Raise ReadOnlyError: build the index anew."""
        raise _read_only("add")

    def remove(self, ids: ArrayLike) -> NoReturn:
        """Raise ReadOnlyError: build the index anew, or leave vectors out of results by ``allow=``."""
        raise _read_only("remove")

    def compact(self, progress: Progress | None = None) -> NoReturn:
        """Raise ReadOnlyError: there is nothing to give back."""
        raise _read_only("compact")

    def save(self, path: str | PathLike[str]) -> NoReturn:
        """Raise ReadOnlyError: the index is its file, which can be copied."""
        raise _read_only("save")

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
        probes: int = 32,
        prune: float = 8.0,
    ) -> Hits:
        """The k nearest vectors of each query, approximately; all but the effort is said in `VectorIndex.search`.

        Queries given together share what is read: each list is read once for all of them.

        Parameters
        ----------
        queries, k, window, allow, threads, where
            See `VectorIndex.search`. Filters do not save reading, unless they leave no more than `probes` vectors; if
            the lists read hold fewer than min(k, matches), those of all other matches are read too.
        probes : int
            Effort: how many lists to read at most for a query. Recall, time and bytes grow with it.
        prune : float
            How much the lists of a query are pruned by their distances: the i-th nearest is read while
            ``i * (d_i / d_2)**prune <= probes``, d_i being the distance to its centroid. So queries with a few lists
            near and all others far read less. 0 for always `probes` lists. (SPANN prunes by ``d_i / d_1`` alone, eq. 3;
            at equal recall that read more than no pruning at all, on word vectors and on images.)

        Returns
        -------
        Hits
            Ids and exact distances to the stored vectors, each (q, k); ties in the order of the rows given to `build`.
        """
        probes = check_count(probes, "probes")
        if isinstance(prune, bool) or not isinstance(prune, int | float | np.number) or not 0 <= prune < np.inf:
            raise InvalidArgumentError(f"prune: expected a finite number of at least 0, got {prune!r}")
        effort = _Effort(probes, float(prune))
        return self._search(queries, k, window, allow, threads, where, effort)

    def _nearest(
        self, queries: NDArray[np.float32], k: int, wanted: Filter, effort: "_Effort", threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        slots, distances = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
        pools = np.full((len(queries), min(k, self._points.slots)), EMPTY_KEY)
        sizes: NDArray[np.int64] = np.zeros(len(queries), np.int64)
        if len(queries):
            # Where few vectors match, their own lists answer for certain and are no more to read.
            few = wanted.counts <= min(effort.probes, self._points.slots - 1)
            walked = np.flatnonzero(~few)
            if len(walked):
                self._scan(queries, *self._near(queries, walked, effort, threads), wanted, pools, sizes, threads)
            lacking = np.flatnonzero(sizes < np.minimum(pools.shape[1], wanted.counts))
            if len(lacking):
                self._scan(queries, *self._homes_of(wanted, lacking), wanted, pools, sizes, threads)
        unpack_pools(pools, sizes, slots, distances)
        return slots, distances

    def _near(
        self, queries: NDArray[np.float32], which: NDArray[np.int64], effort: "_Effort", threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(queries, lists) of the lists near some queries, pruned."""
        probes = min(effort.probes, len(self._centroids))
        numbers, distances = self._centroids.nearest(self._lifted(queries[which]), probes, threads)
        squares = np.maximum(distances, 0.0)
        # Measured by the second nearest centroid: a query that is a centroid itself is no reason to read one list only.
        second = squares[:, min(1, probes - 1), None]
        ratios = np.divide(squares, second, out=np.ones_like(squares), where=second > 0)
        cost = np.arange(1, probes + 1) * np.maximum(ratios, 1.0) ** (effort.prune / 2)
        row, rank = np.nonzero(cost <= effort.probes)
        return which[row], numbers[row, rank].astype(np.int64)

    def _homes_of(self, wanted: Filter, which: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(queries, lists) of all lists that matches of some queries have as their own."""
        lists = [np.unique(self._homes[wanted.slots(int(query))]).astype(np.int64) for query in which]
        return np.repeat(which, [len(part) for part in lists]), np.concatenate(lists)

    def _scan(
        self,
        queries: NDArray[np.float32],
        pairs: NDArray[np.int64],
        lists: NDArray[np.int64],
        wanted: Filter,
        pools: NDArray[np.uint64],
        sizes: NDArray[np.int64],
        threads: int,
    ) -> None:
        """Read the lists that queries want, each once, and offer their entries to the pools of those."""
        metric, base = (L2 if self.metric == "l2" else DOT), np.float32(self.metric == "cosine")
        numbers, places = np.unique(lists, return_inverse=True)
        order = np.argsort(places, kind="stable")
        pairs, places = pairs[order], places[order]
        layout, element = self._file.layout, CODECS[self.codec].itemsize
        portions = [numbers[portion] for portion in self._file.portions(numbers)]
        stop = 0
        for read, following in zip(portions, [*portions[1:], numbers[:0]], strict=False):
            start, stop = stop, stop + len(read)
            buffer = self._file.take_buffer(int(layout.nbytes[read].sum()))
            begins = self._file.read(read, buffer, threads, following)
            rows, entries = buffer.view(_kernel_dtype(self.codec)), buffer.view(np.int32)
            row_starts, slot_starts = begins // element, (begins + layout.slots_at[read]) // 4
            counts = layout.counts[read]
            first, last = np.searchsorted(places, [start, stop])
            by_query = np.argsort(pairs[first:last], kind="stable") + first
            which, starts = np.unique(pairs[by_query], return_index=True)
            indptr = np.append(starts, last - first)
            own = places[by_query] - start
            bad: list[int] = []

            def task(
                begin: int, end: int, which: Any = which, indptr: Any = indptr, own: Any = own, rows: Any = rows,
                entries: Any = entries, row_starts: Any = row_starts, slot_starts: Any = slot_starts,
                counts: Any = counts, bad: Any = bad,
            ) -> None:  # fmt: skip
                found = scan_read(
                    queries, which, begin, end, indptr, own, rows, entries, row_starts, slot_starts, counts,
                    self._points.slots, metric, base, wanted.mask, wanted.labels, wanted.windows, pools, sizes,
                )  # fmt: skip
                if found >= 0:
                    bad.append(int(found))

            run_chunks(task, len(which), threads, max(1, -(-len(which) // (4 * threads))))
            self._file.give_back(buffer)
            if bad:
                raise CorruptIndexError(f"list {read[min(bad)]}: expected slots from 0 to {self._points.slots - 1}")

    def _lifted(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries in the space of the centroids."""
        if self.metric != "ip":
            return queries
        # The length of a query says nothing about its neighbours; with that of the vectors its distances to centroids
        # can be compared with each other.
        lengths = norms(queries)[:, None]
        scale = np.divide(self._norm_bound, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return np.concatenate([queries * scale, np.zeros_like(lengths)], axis=1)

    # --- facts ---

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return len(self._centroids)

    @property
    def disk_bytes(self) -> int:
        """Bytes of the lists in the file."""
        return self._file.layout.total

    @property
    def traffic(self) -> Traffic:
        """Lists and bytes that searches have read since the index was opened, from the disk or the page cache."""
        return self._file.traffic

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        entries = int(self._file.layout.counts.sum())
        return {**super().info(), "lists": self.lists, "entries": entries, "disk_bytes": self.disk_bytes}

    def _own_nbytes(self) -> int:
        layout = self._file.layout
        directory = (layout.counts, layout.starts, layout.nbytes, layout.slots_at, self._checksums)
        return self._centroids.nbytes + self._homes.nbytes + sum(array.nbytes for array in directory)

    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        """Read from the disk, each from its own list."""
        vectors = np.empty((len(slots), self.dim), np.float32)
        layout, dtype = self._file.layout, CODECS[self.codec]
        homes = self._homes[slots]
        numbers = np.unique(homes).astype(np.int64)
        for portion in self._file.portions(numbers):
            read = numbers[portion]
            buffer = self._file.take_buffer(int(layout.nbytes[read].sum()))
            begins = self._file.read(read, buffer, 1, numbers[:0])
            for number, begin in zip(read.tolist(), begins.tolist(), strict=True):
                count, place = int(layout.counts[number]), begin + int(layout.slots_at[number])
                rows = buffer[begin : begin + count * layout.row_bytes].view(dtype).reshape(count, self.dim)
                entries = buffer[place : place + 4 * count].view(np.int32)
                here = np.flatnonzero(homes == number)
                order = np.argsort(entries, kind="stable")
                found = order[np.minimum(np.searchsorted(entries[order], slots[here]), max(0, count - 1))]
                if not count or (entries[found] != slots[here]).any():
                    raise CorruptIndexError(f"list {number}: a vector is missing that tensor 'homes' says is here")
                vectors[here] = rows[found]
            self._file.give_back(buffer)
        return vectors

    # --- an index that does not change has no use for these ---

    def _insert(self, rows: NDArray[Any], new: NewPoints, progress: Progress | None) -> NoReturn:
        raise _read_only("add")

    def _keep(self, slots: Slots, progress: Progress | None) -> NoReturn:
        raise _read_only("compact")

    def _tensors(self) -> NoReturn:
        raise _read_only("save")

    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> NoReturn:
        raise _read_only("restore")


class _Effort(NamedTuple):
    """How much a search may read, see `DiskIndex.search`."""

    probes: int
    prune: float


def _kernel_dtype(codec: str) -> Any:
    """The element type that kernels know vectors by."""
    return np.uint16 if codec == "f16" else CODECS[codec]


def _norm(header: dict[str, Any], key: str) -> float:
    value = header[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST:
        raise CorruptIndexError(f"header {key!r}: expected a number from 0 to {LONGEST:g}, got {value!r:.80}")
    return float(value)


def _read_only(what: str) -> ReadOnlyError:
    return ReadOnlyError(f"{what}: a DiskIndex does not change after it was built")
