"""Building a disk index from vectors that need not fit memory.

The vectors are read twice and sorted twice on disk: by cell, a coarse region whose vectors fit memory, to find the
lists; and by list, to write them. SPANN (Chen et al., NeurIPS 2021) with an external sort.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.index.arguments import as_float32, as_matrix, check_count, check_dim, check_metric, check_range
from nearhash.index.base import Progress
from nearhash.index.disk_centroids import Centroids
from nearhash.index.disk_lists import PAGE, Layout, page_start
from nearhash.index.disk_partition import even_centroids
from nearhash.index.disk_spool import Spool
from nearhash.index.metrics import normalised, norms
from nearhash.index.partition import Partition, draw_sample, train_centroids
from nearhash.index.points import Points
from nearhash.index.storage import Stream, write_file
from nearhash.kernels.closure import choose_closure
from nearhash.kernels.threads import resolve_threads, run_chunks

CODECS: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "u8": np.dtype("u1"),
    "i8": np.dtype("i1"),
}
# Vectors of a list, before others are replicated to it: so many bytes, but no fewer than so many vectors, or the
# centroids would not be small beside the data.
LIST_BYTES, LEAST = 1 << 14, 20
# No list takes more than so many times the average of its own vectors, and so many with those replicated to it.
LONGEST, ROOM = 2, 2
# A vector is replicated to lists whose centroid is at most REACH times as far as the nearest; SPACING is explained in
# kernels/closure.py. Word vectors are hardly replicated at 1 and read a quarter less for the same recall at 1.3; images
# hardly notice.
REACH, SPACING = 1.5, 1.2
GRAPH_PREFIX = "graph."
LEAST_MEMORY = 1 << 24


@dataclass(frozen=True)
class Settings:
    """What is to be built, checked."""

    count: int
    dim: int
    metric: str
    codec: str
    lists: int
    replicas: int
    seed: int
    threads: int
    memory: int

    @property
    def width(self) -> int:
        """Dimension in which vectors are partitioned."""
        return self.dim + (self.metric == "ip")

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector on disk."""
        return self.dim * int(CODECS[self.codec].itemsize)

    def rows_of(self, share: int) -> int:
        """How many vectors fit a share (one of so many) of the memory, as float32."""
        return max(1, self.memory // share // (4 * self.width))

    @property
    def cells(self) -> int:
        """So many that a cell is small beside the memory, and that lists and cells are found with equal effort."""
        return min(self.lists, max(-(-self.count // self.rows_of(32)), math.isqrt(self.lists)))

    @property
    def members(self) -> float:
        """Average number of vectors of a list before replication."""
        return self.count / self.lists


def check_settings(
    shape: tuple[int, ...],
    metric: str,
    codec: str,
    lists: int | None,
    replicas: int,
    seed: int,
    threads: int | None,
    memory: int,
) -> Settings:
    """The arguments of `DiskIndex.build`; raises InvalidArgumentError."""
    if len(shape) != 2 or not shape[0]:
        raise DimensionError(f"vectors: expected shape (n, dim) with n at least 1, got {shape}")
    dim, metric = check_dim(shape[1]), check_metric(metric)
    if codec not in CODECS:
        raise InvalidArgumentError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}")
    if metric == "cosine" and codec in ("u8", "i8"):
        raise InvalidArgumentError(f"codec: expected f32 or f16 for cosine, whose unit vectors {codec} cannot hold")
    count = int(shape[0])
    if lists is None:
        lists = max(1, count // max(LEAST, LIST_BYTES // (dim * CODECS[codec].itemsize + 4)))
    return Settings(
        count, dim, metric, codec,
        check_count(lists, "lists", most=count),
        check_count(replicas, "replicas", most=64),
        check_count(seed, "seed", least=0, most=2**64 - 1),
        resolve_threads(threads),
        check_count(memory, "memory", least=LEAST_MEMORY),
    )  # fmt: skip


def build(
    path: str | os.PathLike[str],
    vectors: Any,
    settings: Settings,
    ids: ArrayLike | None,
    labels: ArrayLike | None,
    attributes: Mapping[str, ArrayLike] | None,
    progress: Progress | None,
) -> None:
    """Write a disk index to `path`; see `DiskIndex.build`."""
    points = Points()
    points.append(points.check(settings.count, ids, labels, attributes))
    folder = os.path.dirname(os.path.realpath(os.fsdecode(path)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder, to write {os.path.basename(os.fsdecode(path))!r} into")
    done = _Progress(progress, settings.count)
    source = _Source(vectors, settings)
    sample, bound = _survey(source, settings, done)
    cells = Partition(train_centroids(sample, settings.cells, False, settings.seed, settings.threads), "l2")
    del sample
    by_cell = np.dtype([("slot", "<i4"), ("row", "<f4", (settings.dim,))])
    by_list = np.dtype(
        [("list", "<i4"), ("slot", "<i4"), ("square", "<f4"), ("row", CODECS[settings.codec], (settings.dim,))]
    )
    with Spool(folder, by_cell, cells.lists) as rows:
        for start, floats in source.chunks():
            records = np.empty(len(floats), by_cell)
            records["slot"], records["row"] = np.arange(start, start + len(floats)), floats
            rows.append(cells.assign(lifted(floats, settings.metric, bound), settings.threads), records)
            done.add(len(floats))
        means, parts = _find_lists(rows, settings, bound, done)
        centroids = Centroids.over(means, settings.seed, settings.threads)
        replicas = _Replicas(settings, len(centroids))
        with Spool(folder, by_list, replicas.groups) as entries:
            _replicate(rows, parts, entries, replicas, centroids, means, settings, bound, done)
            rows.close()
            _write(path, entries, replicas, points, centroids, settings, bound, done)


def lifted(floats: NDArray[np.float32], metric: str, bound: float) -> NDArray[np.float32]:
    """Vectors in the space in which they are partitioned, where the nearest by Euclidean distance are wanted.

    For inner product one more coordinate brings all vectors to the norm `bound` (Bachrach et al., RecSys 2014).
    """
    if metric != "ip":
        return floats
    squares = norms(floats).astype(np.float64) ** 2
    extra = np.sqrt(np.maximum(bound**2 - squares, 0.0)).astype(np.float32)
    return np.concatenate([floats, extra[:, None]], axis=1)


def stored_rows(floats: NDArray[np.float32], codec: str) -> NDArray[Any]:
    """Vectors as they are written; raises if the codec cannot hold them."""
    dtype = CODECS[codec]
    if codec == "f16":
        with np.errstate(over="ignore"):
            halves = floats.astype(dtype)
        check_range(halves, floats, "vectors", float(np.finfo(np.float16).max))
        return halves
    if codec != "f32":
        limits = np.iinfo(dtype)
        if floats.min() < limits.min or floats.max() > limits.max or (floats != np.rint(floats)).any():
            raise DtypeError(f"vectors: expected whole numbers from {limits.min} to {limits.max} (codec={codec!r})")
    return floats.astype(dtype, copy=False)


class _Source:
    """The vectors, a chunk at a time."""

    def __init__(self, vectors: Any, settings: Settings) -> None:
        self._vectors = vectors
        self._settings = settings

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first slot, float32 vectors, unit vectors for cosine) of consecutive chunks."""
        settings = self._settings
        step = settings.rows_of(32)
        for start in range(0, settings.count, step):
            stop = min(start + step, settings.count)
            try:
                part = as_matrix(self._vectors[start:stop], settings.dim, "vectors")
                if len(part) != stop - start:
                    raise DimensionError(f"vectors: expected {stop - start} rows, got {len(part)}")
                floats = as_float32(part, "vectors")
                stored_rows(floats, settings.codec)
            except InvalidArgumentError as error:
                raise type(error)(f"{error} (counted from row {start:,} on)") from error
            yield start, normalised(floats) if settings.metric == "cosine" else floats


class _Progress:
    """The passes over the vectors as one number that grows."""

    PASSES = 5

    def __init__(self, report: Progress | None, count: int) -> None:
        self._report, self._total, self._done = report, self.PASSES * count, 0

    def add(self, vectors: int) -> None:
        self._done += vectors
        if self._report is not None:
            self._report(self._done, self._total)


def _survey(source: _Source, settings: Settings, done: _Progress) -> tuple[NDArray[np.float32], float]:
    """(lifted sample, greatest norm for ip), having looked at all vectors: what is wrong with them is found here."""
    most = min(settings.rows_of(8), 256 * settings.cells)
    if most < settings.cells:
        raise InvalidArgumentError(
            f"memory: expected at least {settings.memory * settings.cells // most + 1:,} bytes for {settings.lists:,} "
            f"lists of {settings.count:,} vectors, got {settings.memory:,}"
        )
    chosen = draw_sample(settings.count, most, settings.seed, stream=0)
    order = np.argsort(chosen)
    ascending = chosen[order]
    sample = np.empty((len(chosen), settings.dim), np.float32)
    bound = 0.0
    for start, floats in source.chunks():
        first, last = np.searchsorted(ascending, [start, start + len(floats)])
        sample[order[first:last]] = floats[ascending[first:last] - start]
        if settings.metric == "ip":
            bound = max(bound, float(norms(floats).max()))
        done.add(len(floats))
    return lifted(sample, settings.metric, bound), bound


def _find_lists(
    rows: Spool, settings: Settings, bound: float, done: _Progress
) -> tuple[NDArray[np.float32], list[slice]]:
    """Centroids of all lists, those of a cell together, and which they are."""
    means: list[NDArray[np.float32]] = []
    parts, found = [], 0
    for cell in range(settings.cells):
        size = rows.size(cell)
        if not size:
            parts.append(slice(found, found))
            continue
        floats = lifted(rows.read(cell, settings.rows_of(16))["row"], settings.metric, bound)
        floats = np.ascontiguousarray(floats)
        share = max(1, min(len(floats), round(size / settings.members)))
        most = max(1, int(LONGEST * settings.members * len(floats) / size))
        means.append(even_centroids(floats, share, most, settings.seed + 1 + cell, settings.threads))
        parts.append(slice(found, found + len(means[-1])))
        found = parts[-1].stop
        done.add(size)
    return np.concatenate(means), parts


class _Replicas:
    """Which vectors each list gets: counted first, then known."""

    def __init__(self, settings: Settings, lists: int) -> None:
        self.own: NDArray[np.int64] = np.zeros(lists, np.int64)
        self.all: NDArray[np.int64] = np.zeros(lists, np.int64)
        self.homes: NDArray[np.int32] = np.zeros(settings.count, np.int32)
        self._room = max(1, int(ROOM * settings.members))
        # Lists sorted in memory at once.
        expected = settings.members * min(settings.replicas, ROOM) * (settings.row_bytes + 12)
        self.at_once = max(1, int(settings.memory / 32 / expected))
        self.groups = -(-lists // self.at_once)

    def count(self, slots: NDArray[np.int32], homes: NDArray[np.int32], chosen: NDArray[np.int32]) -> None:
        """Take note of the homes (n,) and of all lists chosen (n, most) for some vectors."""
        self.homes[slots] = homes
        self.own += np.bincount(homes, minlength=len(self.own))
        self.all += np.bincount(chosen[chosen >= 0], minlength=len(self.all))

    @property
    def kept(self) -> NDArray[np.int64]:
        """Entries of each list: all its own vectors, and the nearest others that there is room for."""
        return np.minimum(self.all, np.maximum(self.own, self._room))


def _replicate(
    rows: Spool,
    parts: list[slice],
    entries: Spool,
    replicas: _Replicas,
    centroids: Centroids,
    means: NDArray[np.float32],
    settings: Settings,
    bound: float,
    done: _Progress,
) -> None:
    """Choose the lists of every vector: its home and others close to it.

    The home is the nearest list of the vector's own cell, where the lists were made for it, so that no list has many
    more than the others. It is almost always the nearest of all; but where vectors are far from each other in all
    directions, a centroid in the middle can be the nearest one to most of them.
    """
    candidates = min(len(centroids), max(16, 4 * settings.replicas))
    for cell, own in enumerate(parts):
        for part in rows.pieces(cell, settings.rows_of(32)):
            floats = np.ascontiguousarray(part["row"])
            lifts = lifted(floats, settings.metric, bound)
            homes = centroids.nearest_among(lifts, own, 1, settings.threads)[0]
            chosen = homes
            if settings.replicas > 1:
                near, squares = centroids.nearest(lifts, candidates, settings.threads)
                chosen = _closure(near, squares, means, settings)
                _include(homes[:, 0], chosen)
            replicas.count(part["slot"], homes[:, 0], chosen)
            row, rank = np.nonzero(chosen >= 0)
            records = np.empty(len(row), entries.dtype)
            records["list"], records["slot"] = chosen[row, rank], part["slot"][row]
            # The distance decides which replicas a full list drops; the vectors at home there come before all others.
            records["square"] = -1.0
            away = np.flatnonzero(records["list"] != homes[row, 0])
            if len(away):
                place = (near[row[away]] == records["list"][away, None]).argmax(axis=1)
                records["square"][away] = squares[row[away], place]
            records["row"] = stored_rows(floats, settings.codec)[row]
            entries.append(records["list"] // replicas.at_once, records)
            done.add(len(part))


def _closure(
    near: NDArray[np.int32], squares: NDArray[np.float32], means: NDArray[np.float32], settings: Settings
) -> NDArray[np.int32]:
    """Lists (n, replicas) near vectors, of the candidates in `near`; see ``kernels.closure``."""
    chosen = np.empty((len(near), settings.replicas), np.int32)
    reach, spacing = np.float32(REACH**2), np.float32(SPACING**2)

    def task(first: int, last: int) -> None:
        choose_closure(near[first:last], squares[first:last], means, reach, spacing, chosen[first:last])

    run_chunks(task, len(near), settings.threads, 1024)
    return chosen


def _include(homes: NDArray[np.int32], chosen: NDArray[np.int32]) -> None:
    """Have the home (n,) of each vector among its lists (n, most), in the first free place or the last one."""
    missing = np.flatnonzero((chosen != homes[:, None]).all(axis=1))
    place = np.minimum((chosen[missing] >= 0).sum(axis=1), chosen.shape[1] - 1)
    chosen[missing, place] = homes[missing]


def _write(
    path: str | os.PathLike[str],
    entries: Spool,
    replicas: _Replicas,
    points: Points,
    centroids: Centroids,
    settings: Settings,
    bound: float,
    done: _Progress,
) -> None:
    layout = Layout(replicas.kept, settings.row_bytes)
    checksums: NDArray[np.uint32] = np.zeros(len(layout.counts), np.uint32)

    def chunks(start: int) -> Iterator[NDArray[np.uint8]]:
        lead = page_start(start) - start
        yield np.zeros(lead, np.uint8)
        for group in range(replicas.groups):
            numbers = np.arange(group * replicas.at_once, min((group + 1) * replicas.at_once, len(layout.counts)))
            yield _pages(_kept(entries, group, numbers, layout, settings), numbers, layout, checksums)
            done.add(int(replicas.own[numbers].sum()))
        yield np.zeros(PAGE - lead, np.uint8)

    graph_header, graph_tensors = centroids.graph._to_file()
    header = {
        "kind": "disk", "dim": settings.dim, "metric": settings.metric, "codec": settings.codec,
        "replicas": settings.replicas, "seed": settings.seed, "norm_bound": bound,
        "next_id": points.next_id, "graph": graph_header,
    }  # fmt: skip
    # One page more than the lists have: they begin at the first whole page of the file. Checksums come by writing
    # them, and are written behind them, as their name is greater.
    lists = Stream(np.dtype("u1"), (layout.total + PAGE,), chunks)
    tensors: dict[str, NDArray[Any] | Stream] = {
        "homes": replicas.homes, "lists": lists, "lists.checksums": checksums, "lists.counts": layout.counts,
        **points.tensors(), **{GRAPH_PREFIX + name: tensor for name, tensor in graph_tensors.items()},
    }  # fmt: skip
    write_file(path, header, tensors)


def _kept(entries: Spool, group: int, numbers: NDArray[np.int64], layout: Layout, settings: Settings) -> NDArray[Any]:
    """The records of consecutive lists that there is room for: those of the least distances.

    Central lists attract many times more than that, so it is not all read at once.
    """
    kept = np.empty(0, entries.dtype)
    for piece in entries.pieces(group, settings.rows_of(16)):
        records = np.concatenate([kept, piece])
        order = np.lexsort((records["slot"], records["square"], records["list"]))
        lists = records["list"][order]
        rank = np.arange(len(order)) - np.searchsorted(lists, lists)
        kept = records[order[rank < layout.counts[lists]]]
    return kept


def _pages(
    records: NDArray[Any], numbers: NDArray[np.int64], layout: Layout, checksums: NDArray[np.uint32]
) -> NDArray[np.uint8]:
    """The bytes of consecutive lists; their checksums are noted."""
    order = np.lexsort((records["slot"], records["list"]))
    rows, slots = records["row"][order], records["slot"][order]
    ends = np.cumsum(layout.counts[numbers])
    base = layout.starts[numbers[0]]
    pages: NDArray[np.uint8] = np.zeros(int(layout.nbytes[numbers].sum()), np.uint8)
    for number, stop in zip(numbers.tolist(), ends.tolist(), strict=True):
        block = slice(stop - int(layout.counts[number]), stop)
        start = int(layout.starts[number] - base)
        page = pages[start : start + int(layout.nbytes[number])]
        layout.fill(number, rows[block], slots[block], page)
        checksums[number] = google_crc32c.extend(0, page)
    return pages
