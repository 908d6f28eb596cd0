"""Sets that are similar: MinHash sketches in bands."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError, SketchMismatchError
from nearhash.hashing.banding import Banding, check_similarity, check_weights, key_start
from nearhash.hashing.minhash import MinHash
from nearhash.hashing.sketches import Sketches, unpacked
from nearhash.hashing.vectors import is_tensor
from nearhash.index.arguments import check_count, for_kernels
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress
from nearhash.index.locks import ReadWriteLock
from nearhash.index.minhash_estimate import jaccard_estimates, least_agreement, zero_fields
from nearhash.index.minhash_tables import MAX_QUERIES, BandTables, Run, candidates
from nearhash.index.points import NewPoints, Points
from nearhash.index.storage import read_file, refusing, take_tensor, write_file
from nearhash.kernels.agreement import COUNT_BITS, SLOT_BITS, match_one, rank_candidates
from nearhash.kernels.band_tables import look_up_one
from nearhash.kernels.threads import resolve_threads, run_chunks

_ADDED = 1 << 18  # sketches added at a time: their keys are in memory twice
_QUERIES = 1024  # queries of a task
_KEYS_READ = 1 << 16  # slots whose keys are read together, for pairs
_COMPACT_AT = 0.25
_RANKED = 1 << 15  # candidates of a task
_FEW = 256  # candidates of a single query that are sorted by insertion
_SLOTS, _COUNTS = np.uint64((1 << SLOT_BITS) - 1), np.uint64((1 << COUNT_BITS) - 1)
_COUNT_SHIFT, _QUERY_SHIFT = np.uint64(SLOT_BITS), np.uint64(SLOT_BITS + COUNT_BITS)
_ALL_LIVE: NDArray[np.uint8] = np.empty(0, np.uint8)


class Matches(NamedTuple):
    """Similar sets of a batch of queries; those of query i are at ``indptr[i]:indptr[i + 1]``.

    Attributes
    ----------
    indptr : (q + 1,) int64
        Where the matches of each query start.
    ids : (total,) int64
        Ids, for each query in order of similarity, then in the order in which they were added.
    similarities : (total,) float32
        Estimates of the Jaccard similarity; NaN where nothing was verified.
    """

    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    similarities: NDArray[np.float32]


class Pairs(NamedTuple):
    """Pairs of similar sets of an index.

    Attributes
    ----------
    left, right : (p,) int64
        Ids; left was added before right.
    similarities : (p,) float32
        Estimates of the Jaccard similarity; NaN where nothing was verified.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    similarities: NDArray[np.float32]


class _View(NamedTuple):
    """What a query reads. Nothing in it changes but `live`, which is copied where it is held on to.

    live: empty if all are; sketches: of no rows if they are not kept.
    """

    runs: tuple[Run, ...]
    ids: NDArray[np.int64]
    live: NDArray[np.uint8]
    sketches: NDArray[Any]


class MinHashLSH:
    """Similar sets by their MinHash sketches, without looking at all of them.

    Each sketch is cut into `bands` bands of `rows` values. Sets whose sketches agree on all values of a band are
    candidates, and unless told otherwise candidates are verified by the similarity that the whole sketches estimate.
    A pair of similarity s is a candidate with probability ``1 - (1 - s**rows)**bands``, see `Banding`.

    Parameters
    ----------
    threshold : float
        Jaccard similarity from which on sets are wanted; `query` and `pairs` take another one, too.
    k, method, bits, seed
        Of the sketches, see `nearhash.hashing.MinHash`.
    bands, rows : int, optional
        Both or neither; by default those that separate best at the threshold (`Banding.for_threshold`).
        ``bands * rows`` is at most k.
    weights : (float, float)
        For this choice: how much false positives and false negatives count.
    keep_sketches : bool
        Without sketches an index takes a fraction of the memory but cannot verify.
    ngram, unit
        How `add_texts` and `query_texts` make sets of texts, see `nearhash.hashing.Shingler`.
    threads : int, optional
        Threads for changes, by default all cores. No result depends on it.

    Attributes
    ----------
    banding : Banding
        Bands, rows and their collision probability.

    Raises
    ------
    InvalidArgumentError
        If an argument is out of range.

    Notes
    -----
    For each band there are sorted arrays of 48 bits of hash and a slot, 10.5 bytes for each set and band all in all.
    New sets are a sorted run of their own that is merged with older ones as runs grow (log-structured merge). Sets
    whose bands differ meet by accident with probability ``2**-48``.

    Queries may run in several threads at once; changes wait for them and have the index alone. Removed sets give back
    their memory by themselves when they are a quarter of all.
    """

    kind: ClassVar[str] = "minhash-lsh"
    _SETTINGS = ("threshold", "k", "bands", "rows", "method", "bits", "seed", "keep_sketches", "ngram", "unit")

    def __init__(
        self,
        threshold: float = 0.5,
        k: int = 128,
        bands: int | None = None,
        rows: int | None = None,
        method: str = "fss",
        bits: int = 32,
        seed: int = 1,
        weights: tuple[float, float] = (0.5, 0.5),
        threads: int | None = None,
        *,
        keep_sketches: bool = True,
        ngram: int = 5,
        unit: str = "word",
    ) -> None:
        self.threshold = check_similarity(threshold, "threshold")
        self.minhash = MinHash(k=k, method=method, bits=bits, seed=seed)
        self.k, self.method, self.bits, self.seed = int(k), method, int(bits), int(seed)
        weights = check_weights(weights)
        if (bands is None) != (rows is None):
            raise InvalidArgumentError(f"bands, rows: expected both or neither, got {bands!r} and {rows!r}")
        if bands is None or rows is None:
            self.banding = Banding.for_threshold(self.threshold, self.k, *weights, bits=self.bits)
        else:
            self.banding = Banding(bands, rows, self.bits)
        if self.banding.values > self.k:
            raise InvalidArgumentError(f"bands, rows: expected bands * rows <= k = {self.k}, got {bands} * {rows}")
        if not isinstance(keep_sketches, bool):
            raise InvalidArgumentError(f"keep_sketches: expected True or False, got {keep_sketches!r}")
        self.keep_sketches = keep_sketches
        if unit not in ("word", "char"):
            raise InvalidArgumentError(f"unit: expected 'word' or 'char', got {unit!r}")
        self.ngram, self.unit = check_count(ngram, "ngram", most=1 << 16), unit
        self.threads = threads if threads is None else resolve_threads(threads)
        # The sketches of no sets: what others have to be like. The first that say how sets were made of texts decide
        # that for all.
        self._form = self.minhash.sketch(np.zeros(1, np.int64), np.empty(0, np.uint64))
        self._key_start, self._estimates = key_start(self.seed), jaccard_estimates(self.k, self.bits)
        self._points = Points()
        self._tables = BandTables(self.banding.bands)
        self._sketches: Growable | None = None
        if keep_sketches:
            self._sketches = Growable.empty(self._form.values.shape[1:], self._form.values.dtype)
        self._lock = ReadWriteLock()

    # --- change ---

    def add(
        self, sketches: Sketches, ids: ArrayLike | None = None, progress: Progress | None = None
    ) -> NDArray[np.int64]:
        """Add sketches and return their ids.

        Parameters
        ----------
        sketches : Sketches
            Of the k, method, bits and seed of this index.
        ids : (n,) integers, optional
            Distinct, not negative, not in the index; by default consecutive, from 0 or the largest id so far plus one.
        progress : callable, optional
            Called with (sketches done, sketches in all). If it raises, nothing has been added.

        Raises
        ------
        SketchMismatchError
            If the sketches were made in another way.
        InvalidArgumentError
            If the ids are not as above. The index is then unchanged.
        """
        values = self._values_of(sketches)
        with self._lock.write():
            new = self._points.check(len(values), ids, None)
            if not len(values):
                return new.ids
            threads, tables = resolve_threads(self.threads), self._tables
            for first in range(0, len(values), _ADDED):
                last = min(first + _ADDED, len(values))
                tables = tables.with_keys(self._keys_of(values[first:last], threads), threads)
                if progress is not None:
                    progress(last, len(values))
            self._append(new, values, tables, sketches)
        return new.ids

    def _append(self, new: NewPoints, values: NDArray[Any], tables: BandTables, form: Sketches) -> None:
        """Take sketches like `form` whose keys are in `tables`; change nothing if that fails."""
        present = self._points.slots
        try:
            if self._sketches is not None:
                self._sketches.append(values)
            self._points.append(new)
        except BaseException:
            if self._sketches is not None:
                self._sketches.truncate(present)
            raise
        self._tables = tables
        self._form = Sketches(self._form.values, {**self._form.header, **form.header})

    def add_texts(
        self, texts: Sequence[str], ids: ArrayLike | None = None, progress: Progress | None = None
    ) -> NDArray[np.int64]:
        """Add texts as the sets of their n-grams, see `add`."""
        return self.add(self._sketch(texts), ids, progress)

    def remove(self, ids: ArrayLike) -> None:
        """Remove sets by id: they are in no result from now on. An unknown id raises and nothing is removed."""
        with self._lock.write():
            self._points.remove(self._points.slots_of(ids))
            if self._points.deleted > _COMPACT_AT * self._points.slots:
                self._compact()

    def compact(self) -> None:
        """Give back the memory of removed sets. Ids stay."""
        with self._lock.write():
            self._compact()

    def _compact(self) -> None:
        if self._points.deleted:
            slots = self._points.live_slots
            tables = self._tables.kept(_renumbered(self._points.live, 0), 0, resolve_threads(self.threads))
            if self._sketches is not None:
                self._sketches = Growable(self._sketches.view[slots])
            self._tables = tables
            self._points.keep(slots)

    def merge(self, other: "MinHashLSH") -> None:
        """Add everything that is in another index, which stays as it is.

        Raises
        ------
        SketchMismatchError
            If its sketches are others, or cut into other bands, or kept by only one of the two.
        DuplicateIdError
            If an id is in both. The index is then unchanged.
        """
        if not isinstance(other, MinHashLSH):
            raise InvalidArgumentError(f"other: expected a MinHashLSH, got {type(other).__name__}")
        self._form.check(other._form)
        for name in ("banding", "keep_sketches"):
            if getattr(self, name) != getattr(other, name):
                raise SketchMismatchError(f"other: expected {name} {getattr(self, name)}, got {getattr(other, name)}")
        with other._lock.read():
            taken = other._view(hold=True)
            live = taken.live if len(taken.live) else np.ones(len(taken.ids), np.uint8)
        slots = np.flatnonzero(live)
        with self._lock.write():
            new = self._points.check(len(slots), taken.ids[slots], None)
            if not len(slots):
                return
            first, threads = self._points.slots, resolve_threads(self.threads)
            moved = BandTables(self.banding.bands, taken.runs).kept(_renumbered(live, first), first, threads)
            values = taken.sketches[slots] if self.keep_sketches else taken.sketches
            self._append(new, values, self._tables.with_runs(moved.runs, threads), other._form)

    # --- search ---

    def query(
        self, sketches: Sketches, threshold: float | None = None, verify: bool = True, threads: int | None = None
    ) -> Matches:
        """Sets similar to each query.

        Parameters
        ----------
        sketches : Sketches
            Of the k, method, bits and seed of this index.
        threshold : float, optional
            Least similarity, by default that of the index. One far below it finds little more: the bands are made for
            that of the index.
        verify : bool
            Whether to keep only candidates whose estimated similarity reaches the threshold. Otherwise all candidates,
            in the order in which they were added.
        threads : int, optional
            By default all cores; the result does not depend on it.

        Raises
        ------
        SketchMismatchError
            If the sketches were made in another way.
        InvalidArgumentError
            If sketches are to be verified that were not kept, or the threshold is out of range.
        """
        least, threads = self._least(threshold, verify), resolve_threads(threads)
        values = self._values_of(sketches)
        found: dict[int, Matches] = {}
        with self._lock.read():
            view = self._view()
            if len(values) == 1 and self.bits >= 8:
                match = self._match_of_one(view, values, least)
                if match is not None:
                    return match

            def task(first: int, last: int) -> None:
                some = values[first:last]
                parts = candidates(view.runs, self._keys_of(some, 1), np.full(last - first, -1, np.int32))
                found[first] = self._matches(
                    view, [self._ranked(view, part, some, least, 1) for part in parts], some, least > 0
                )

            run_chunks(task, len(values), threads, _QUERIES)
        if len(found) == 1:
            return found[0]
        return _joined([found[first] for first in sorted(found)])

    def _match_of_one(self, view: _View, values: NDArray[Any], least: int) -> Matches | None:
        """Matches of a single query, by kernels that leave little to do here; None if there are many candidates."""
        entries, size = np.empty(_FEW, np.uint64), 0
        rows = self.banding.rows
        for run in view.runs:
            size = look_up_one(values, rows, self._key_start, *run[:4], entries, size)
            if size < 0:
                return None
        ids, similarities = np.empty(size, np.int64), np.empty(size, np.float32)
        if size:
            size = match_one(
                entries, size, view.live, values, view.sketches, self.k, least, view.ids, self._estimates, ids,
                similarities,
            )  # fmt: skip
        return Matches(np.array((0, size)), ids[:size], similarities[:size])

    def query_texts(
        self, texts: Sequence[str], threshold: float | None = None, verify: bool = True, threads: int | None = None
    ) -> Matches:
        """Sets similar to each of some texts, see `query`."""
        return self.query(self._sketch(texts), threshold, verify, threads)

    def pairs(self, threshold: float | None = None, verify: bool = True, threads: int | None = None) -> Iterator[Pairs]:
        """All pairs of similar sets in the index, each once, a block at a time.

        Parameters
        ----------
        threshold, verify, threads
            As for `query`.

        Yields
        ------
        Pairs
            In the order in which the left ones were added, then by similarity, then as the right ones were added.
            Blocks are of up to a few million pairs, but all pairs of one left set are in one block.

        Notes
        -----
        The pairs are those of the index at the time of the call; it may be changed in between. m equal sets are
        ``m * (m - 1) / 2`` pairs: where only groups are wanted, `nearhash.deduplicate` is the better way.
        """
        least, threads = self._least(threshold, verify), resolve_threads(threads)
        with self._lock.read():
            view = self._view(hold=True)
        return self._pairs(view, least, threads)

    def _pairs(self, view: _View, least: int, threads: int) -> Iterator[Pairs]:
        tables = BandTables(self.banding.bands, view.runs)
        for start in range(0, tables.slots, _KEYS_READ):
            keys = tables.keys(start, min(start + _KEYS_READ, tables.slots), threads)
            for first in range(start, start + len(keys), MAX_QUERIES):
                some = keys[first - start : first - start + MAX_QUERIES]
                own = np.arange(first, first + len(some), dtype=np.int32)
                later = tuple(run for run in view.runs if run.last_slot > first + 1)
                for part in candidates(later, some, own):
                    if len(view.live):
                        part = part[view.live[first + (part >> np.uint64(32)).astype(np.int64)] == 1]
                    numbers = self._ranked(view, part, view.sketches[first : first + len(some)], least, threads)
                    if len(numbers):
                        left = first + (numbers >> _QUERY_SHIFT).astype(np.int64)
                        right = (numbers & _SLOTS).astype(np.int64)
                        yield Pairs(view.ids[left], view.ids[right], self._similarities(numbers, least > 0))

    def _ranked(
        self, view: _View, part: NDArray[np.uint64], queries: NDArray[Any], least: int, threads: int
    ) -> NDArray[np.uint64]:
        """Matches among candidates as ascending numbers of query, values that differ (0 for least = 0) and slot."""
        out, counts = np.empty(len(part), np.uint64), {}
        fields = zero_fields(self.bits)

        def task(first: int, last: int) -> None:
            counts[first] = rank_candidates(
                part, first, last, view.live, queries, view.sketches, fields, self.k, least, out
            )

        if len(part) <= _RANKED:
            task(0, len(part))
            numbers = out[: counts[0]]
        else:
            run_chunks(task, len(part), threads, _RANKED)
            numbers = np.concatenate([out[first : first + counts[first]] for first in sorted(counts)])
        if least:
            numbers.sort()
        return numbers

    def _matches(self, view: _View, parts: list[NDArray[np.uint64]], queries: NDArray[Any], verified: bool) -> Matches:
        numbers = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint64), *parts])
        starts = np.arange(len(queries) + 1, dtype=np.uint64) << _QUERY_SHIFT
        slots = (numbers & _SLOTS).astype(np.int64)
        return Matches(numbers.searchsorted(starts), view.ids[slots], self._similarities(numbers, verified))

    def _similarities(self, numbers: NDArray[np.uint64], verified: bool) -> NDArray[np.float32]:
        if not verified:
            return np.full(len(numbers), np.nan, np.float32)
        differ = ((numbers >> _COUNT_SHIFT) & _COUNTS).astype(np.int64)
        return jaccard_estimates(self.k, self.bits)[differ].astype(np.float32)

    # --- facts ---

    def __len__(self) -> int:
        return self._points.size

    @property
    def bands(self) -> int:
        return self.banding.bands

    @property
    def rows(self) -> int:
        return self.banding.rows

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the sets in the index, in the order in which they were added."""
        with self._lock.read():
            return self._points.ids[self._points.live_slots]

    @property
    def nbytes(self) -> int:
        """Bytes of memory (or of the mapped file) that the index holds, sketches included."""
        return self._tables.nbytes + self._points.nbytes + self.sketch_nbytes

    @property
    def sketch_nbytes(self) -> int:
        """Bytes of the sketches that are kept to verify candidates."""
        return 0 if self._sketches is None else self._sketches.nbytes

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        with self._lock.read():
            return {
                **self._identity(),
                "size": self._points.size,
                "deleted": self._points.deleted,
                "runs": [run.size for run in self._tables.runs],
                "nbytes": self.nbytes,
                "sketch_nbytes": self.sketch_nbytes,
            }

    def _identity(self) -> dict[str, Any]:
        return {"kind": self.kind, **{name: getattr(self, name) for name in self._SETTINGS}}

    # --- storage ---

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to a file, atomically; `nearhash.load` reads it."""
        with self._lock.read():
            header = {
                **self._identity(),
                "sketches": dict(self._form.header),
                "runs": len(self._tables.runs),
                "next_id": self._points.next_id,
            }
            tensors = {**self._tables.tensors(), **self._points.tensors()}
            if self._sketches is not None:
                tensors["sketches"] = self._sketches.view
            write_file(path, header, tensors)

    @classmethod
    def _read(cls, path: str | PathLike[str], mmap: bool, verify: bool) -> "MinHashLSH":
        """The index in a file of this kind; arguments and errors of `nearhash.load`."""
        header, tensors = read_file(path, mmap=mmap, verify=verify)
        with refusing(path):
            index = cls(**{name: header[name] for name in cls._SETTINGS})
            index._form = Sketches(index._form.values, _checked_header(header.get("sketches"), index._form.header))
            index._points = Points.from_tensors(tensors, header.get("next_id"))
            slots = index._points.slots
            index._tables = BandTables.from_tensors(tensors, index.banding.bands, header.get("runs"), slots)
            if index._sketches is not None:
                form = index._form.values
                index._sketches = Growable(take_tensor(tensors, "sketches", form.dtype, (slots, form.shape[1])))
            return index

    # --- representation ---

    def _values_of(self, sketches: Sketches) -> NDArray[Any]:
        if not isinstance(sketches, Sketches):
            raise InvalidArgumentError(
                f"sketches: expected nearhash.hashing.Sketches, as MinHash makes them, got {type(sketches).__name__}"
            )
        if sketches.header != self._form.header:
            self._form.check(sketches)
        form, values = self._form.values, sketches.values
        if is_tensor(values):
            values = values.cpu().numpy().astype(form.dtype, copy=False)
        if values.dtype != form.dtype or values.ndim != 2 or values.shape[1] != form.shape[1]:
            raise InvalidArgumentError(
                f"sketches: expected {form.dtype} of shape (n, {form.shape[1]}), got {values.dtype} of {values.shape}"
            )
        return for_kernels(values)

    def _sketch(self, texts: Sequence[str]) -> Sketches:
        return self.minhash.sketch_texts(texts, ngram=self.ngram, unit=self.unit, threads=self.threads)

    def _keys_of(self, values: NDArray[Any], threads: int) -> NDArray[np.uint64]:
        return self.banding.keys(unpacked(values, self.bits), self.seed, threads)

    def _least(self, threshold: float | None, verify: bool) -> int:
        """Values of a sketch that must agree; 0 where nothing is verified."""
        if not isinstance(verify, bool):
            raise InvalidArgumentError(f"verify: expected True or False, got {verify!r}")
        threshold = self.threshold if threshold is None else check_similarity(threshold, "threshold")
        if not verify:
            return 0
        if not self.keep_sketches:
            raise InvalidArgumentError("verify: expected False, as this index keeps no sketches (keep_sketches=False)")
        return max(least_agreement(threshold, self.k, self.bits), 1)

    def _view(self, hold: bool = False) -> _View:
        """What queries read; `hold` to keep it after the lock is given back."""
        live = self._points.live if self._points.deleted else _ALL_LIVE
        sketches = self._form.values if self._sketches is None else self._sketches.view
        return _View(self._tables.runs, self._points.ids, live.copy() if hold else live, sketches)


def _checked_header(header: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its sketches: what is expected, and maybe how sets were made of texts."""
    shingles = header.get("shingles", {}) if isinstance(header, dict) else None
    if not isinstance(shingles, dict) or header not in (expected, {**expected, "shingles": shingles}):
        raise CorruptIndexError(f"header 'sketches': expected {expected}, got {header!r:.300}")
    return dict(header)


def _renumbered(live: NDArray[np.uint8], first: int) -> NDArray[np.int32]:
    """New slots, from `first` on, of those alive, else -1."""
    numbers = np.cumsum(live, dtype=np.int64) + (first - 1)
    numbers[live == 0] = -1
    return numbers.astype(np.int32)


def _joined(parts: list[Matches]) -> Matches:
    """Matches of consecutive batches of queries."""
    if not parts:
        return Matches(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    counts = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)])
    return Matches(
        np.cumsum(counts, dtype=np.int64),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.similarities for part in parts]),
    )
