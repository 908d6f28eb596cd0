"""The band tables of MinHashLSH: sorted runs of keys that are merged as they grow (O'Neil et al., 1996)."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.storage import take_tensor
from nearhash.kernels.band_tables import (
    collect,
    fill_bands,
    intact,
    keep_bands,
    look_up,
    merge_bands,
    read_keys,
)
from nearhash.kernels.threads import run_chunks

_SMALL = 256  # a run of fewer slots is always merged with the next: queries look at few runs
_LARGE = 1 << 15  # entries
_MOST_FOUND = 1 << 22  # candidates, before they are made distinct, held at a time
MAX_QUERIES = 4096  # of a batch


class Run(NamedTuple):
    """Entries of consecutive slots: in each band sorted by key, then slot; see `nearhash.kernels.band_tables`.

    high (bands, n) uint32, low (bands, n) uint16, slots (bands, n) int32; starts (bands, 2**bits + 1) int32; the slots
    are those from first_slot to first_slot + n. Never changed, so that who holds one may read it without a lock.
    """

    high: NDArray[np.uint32]
    low: NDArray[np.uint16]
    slots: NDArray[np.int32]
    starts: NDArray[np.int32]
    first_slot: int

    @classmethod
    def empty(cls, bands: int, count: int, first_slot: int) -> "Run":
        return cls(
            np.empty((bands, count), np.uint32),
            np.empty((bands, count), np.uint16),
            np.empty((bands, count), np.int32),
            np.empty((bands, (1 << _directory_bits(count)) + 1), np.int32),
            first_slot,
        )

    @property
    def size(self) -> int:
        return int(self.high.shape[1])

    @property
    def last_slot(self) -> int:
        return self.first_slot + self.size

    @property
    def bits(self) -> int:
        return _directory_bits(self.size)

    @property
    def table(self) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.int32]]:
        return self.high, self.low, self.slots

    @property
    def nbytes(self) -> int:
        return self.high.nbytes + self.low.nbytes + self.slots.nbytes + self.starts.nbytes


def _directory_bits(count: int) -> int:
    """So many that 8 to 16 of `count` entries share a place."""
    return max(count.bit_length() - 4, 0)


class BandTables:
    """Slots by the keys of their bands: log-structured, at most 10.5 bytes for each slot and band.

    New slots are a run; two neighbouring runs become one when the older is less than twice as large. So there are at
    most ``log2 n`` runs, and an entry moves at most as often. Tables do not change: what would change them makes new
    ones, which share what stays.
    """

    def __init__(self, bands: int, runs: tuple[Run, ...] = ()) -> None:
        self.bands = bands
        self.runs = runs

    @property
    def slots(self) -> int:
        return self.runs[-1].last_slot if self.runs else 0

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self.runs)

    # --- larger and smaller ones ---

    def with_keys(self, keys: NDArray[np.uint64], threads: int) -> "BandTables":
        """Tables of these slots and of new ones; keys (n, bands) of those, n > 0."""
        run = Run.empty(self.bands, len(keys), self.slots)

        def task(first: int, last: int) -> None:
            fill_bands(keys, first, last, run.first_slot, run.bits, *run[:4])

        _over_bands(task, run, threads)
        return self.with_runs((run,), threads)

    def with_runs(self, runs: tuple[Run, ...], threads: int) -> "BandTables":
        """Tables of these slots and of further runs, whose slots continue them."""
        return BandTables(self.bands, _settled((*self.runs, *runs), threads))

    def kept(self, renumbered: NDArray[np.int32], first_slot: int, threads: int) -> "BandTables":
        """Tables of the slots that stay; renumbered (n,): the new one of each, ascending from `first_slot`, or -1."""
        runs: list[Run] = []
        for old in self.runs:
            part = np.ascontiguousarray(renumbered[old.first_slot : old.last_slot])
            count = int(np.count_nonzero(part >= 0))
            if not count:
                continue
            run = Run.empty(self.bands, count, first_slot)
            _keep(old, part, run, threads)
            runs.append(run)
            first_slot += count
        return BandTables(self.bands, _settled(tuple(runs), threads))

    # --- look-up ---

    def keys(self, first: int, last: int, threads: int) -> NDArray[np.uint64]:
        """(last - first, bands) the first 48 bits of the keys of slots, which is all that is kept."""
        keys = np.zeros((last - first, self.bands), np.uint64)

        def task(begin: int, stop: int) -> None:
            for run in self.runs:
                if run.first_slot < last and run.last_slot > first:
                    read_keys(run.table, begin, stop, first, last, keys)

        run_chunks(task, self.bands, threads, -(-self.bands // threads))
        return keys

    # --- storage ---

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {
            f"{name}.{number}": array
            for number, run in enumerate(self.runs)
            for name, array in (("high", run.high), ("low", run.low), ("slots", run.slots), ("starts", run.starts))
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[Any]], bands: int, runs: Any, slots: int) -> "BandTables":
        """Tables read from a file, of `slots` slots; raises CorruptIndexError if a look-up could go wrong in them."""
        if isinstance(runs, bool) or not isinstance(runs, int) or not 0 <= runs <= 64:
            raise CorruptIndexError(f"header 'runs': expected an integer from 0 to 64, got {runs!r:.80}")
        read: list[Run] = []
        first = 0
        for number in range(runs):
            high = take_tensor(tensors, f"high.{number}", np.uint32, (bands, None))
            count = high.shape[1]
            run = Run(
                high,
                take_tensor(tensors, f"low.{number}", np.uint16, (bands, count)),
                take_tensor(tensors, f"slots.{number}", np.int32, (bands, count)),
                take_tensor(tensors, f"starts.{number}", np.int32, (bands, (1 << _directory_bits(count)) + 1)),
                first,
            )
            seen = np.empty(count, np.uint8)
            for band in range(bands):
                if not count or not intact(run.table, run.starts, band, first, run.bits, seen):
                    raise CorruptIndexError(f"tensors of run {number}: band {band} is no sorted table of its slots")
            read.append(run)
            first += count
        if first != slots:
            raise CorruptIndexError(f"tensors of runs: expected {slots:,} slots, got {first:,}")
        return cls(bands, tuple(read))


def candidates(
    runs: tuple[Run, ...], keys: NDArray[np.uint64], above: NDArray[np.int32]
) -> Iterator[NDArray[np.uint64]]:
    """Which slots share a band with each query, as ascending ``query << 32 | slot``, once for each band.

    keys (q, bands), q <= MAX_QUERIES; above (q,): only slots greater than this. In parts of consecutive whole queries,
    so that popular keys take no more memory than a single query needs.
    """
    found = np.empty((len(runs), 2, *keys.shape), np.int32)
    totals = np.zeros(len(keys), np.int64)
    for run, (first, last) in zip(runs, found, strict=True):
        totals += look_up(keys, run.high, run.low, run.starts, run.bits, first, last)
    begin, ends = 0, totals.cumsum()
    everything = int(ends[-1]) if len(ends) else 0
    while begin < len(keys):
        before = int(ends[begin - 1]) if begin else 0
        stop = len(keys)
        if everything - before > _MOST_FOUND:
            stop = max(begin + 1, int(ends.searchsorted(before + _MOST_FOUND, side="right")))
        entries, size = np.empty(int(ends[stop - 1]) - before, np.uint64), 0
        for run, (first, last) in zip(runs, found, strict=True):
            size = collect(first, last, begin, stop, run.slots, above, entries, size)
        entries = entries[:size]
        entries.sort()
        yield entries
        begin = stop


def _settled(runs: tuple[Run, ...], threads: int) -> tuple[Run, ...]:
    """Merge neighbours until sizes halve from run to run, but for small ones, of which one is left."""
    settled: list[Run] = []
    for run in runs:
        settled.append(run)
        while len(settled) > 1 and settled[-2].size < max(2 * settled[-1].size, _SMALL):
            newer, older = settled.pop(), settled.pop()
            settled.append(_merged(older, newer, threads))
    return tuple(settled)


def _merged(older: Run, newer: Run, threads: int) -> Run:
    run = Run.empty(len(older.high), older.size + newer.size, older.first_slot)

    def task(first: int, last: int) -> None:
        merge_bands(older.table, newer.table, first, last, run.bits, *run[:4])

    _over_bands(task, run, threads)
    return run


def _keep(old: Run, renumbered: NDArray[np.int32], run: Run, threads: int) -> None:
    def task(first: int, last: int) -> None:
        keep_bands(old.table, first, last, old.first_slot, renumbered, run.bits, *run[:4])

    _over_bands(task, run, threads)


def _over_bands(task: Callable[[int, int], None], run: Run, threads: int) -> None:
    """Make a run, some bands a task; threads do not pay for a small one."""
    bands = len(run.high)
    run_chunks(task, bands, threads if run.high.size >= _LARGE else 1, -(-bands // threads))
