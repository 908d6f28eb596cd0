"""The stages of a run over files, each of which goes on where the manifest says it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.dedup.candidates import PAIR, compare_buckets, distinct, ends, estimate, sort_keys
from nearhash.index.dedup.durable import AppendFile, read_records, replacing, write_array, write_json, write_parts
from nearhash.index.dedup.groups import join
from nearhash.index.dedup.reading import Chunk, Columns, Cursor, read_chunks
from nearhash.index.dedup.settings import Settings
from nearhash.index.dedup.shingle_sets import as_sets, jaccard
from nearhash.index.dedup.signatures import Segment, Signatures
from nearhash.index.dedup.sketching import SIGNATURE, band_keys_of, sketch_utf8
from nearhash.index.dedup.sources import Source
from nearhash.index.dedup.store import DOCUMENTS, KEYS, SIGNATURES, Store
from nearhash.kernels.union_find import flatten

# Files of the folder of work besides those of a segment of a store.
SHINGLES, COUNTS, SETS, SET_SIZES, EDGES = "shingles.bin", "counts.bin", "sets.bin", "set-sizes.bin", "edges.bin"
LABELS, SIMILARITIES = "labels.npy", "similarities.npy"
RECORD = np.dtype([("key", "<u8"), ("document", "<u4")])
MOST_DOCUMENTS = 2**32 - 1
MOST_PARTITIONS = 512  # files open at once
_BYTES_TO_SORT = 56  # of a record: the record itself, keys and documents, twice to sort, marks
_BYTES_OF_PAIR = 8 * PAIR.itemsize  # of a pair: to sort it, and to merge it with those of others
_SLAB = 1 << 16  # documents

STAGES = ("sketch", "bands", "compare", "verify", "link", "group", "write", "store", "finished")

Progress = Callable[[str, int, int], None]


class State(dict[str, Any]):
    """The manifest: what was done, as of the last commit."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._path = path

    def commit(self, **changes: Any) -> None:
        """Change entries, durably and at once."""
        self.update(changes)
        write_json(self._path, self)


class Stages:
    """From files to groups. Everything that takes more than a few bytes a document is in files of the folder `work`."""

    def __init__(
        self,
        work: Path,
        state: State,
        sources: Sequence[Source],
        settings: Settings,
        columns: Columns,
        store: Store | None,
        memory: int,
        threads: int,
        progress: Progress | None,
    ) -> None:
        self.work, self.state, self.sources, self.settings, self.columns = work, state, sources, settings, columns
        self.store, self.memory, self.threads = store, memory, threads
        self.report = progress or (lambda stage, done, total: None)
        self.base: int = state["base"]

    @property
    def documents(self) -> int:
        """How many there are in the files."""
        return int(self.state["documents"])

    def run(self) -> None:
        """All stages up to the groups."""
        for stage in (self.sketch, self.bands, self.compare, self.verify, self.link, self.group):
            if self.state["stage"] == stage.__name__:
                stage()
                self.state.commit(stage=STAGES[STAGES.index(stage.__name__) + 1])

    def sketch(self) -> None:
        """Read all documents; write their sketches, sizes, and how many there are in each file."""
        cursor = Cursor(*self.state.get("cursor", (0, 0, 0)))
        documents = self.state.get("documents", 0)
        row = SIGNATURE.itemsize * self.settings.k
        lengths = {SIGNATURES: documents * row, SHINGLES: documents * 4, COUNTS: cursor.source * 8}
        with ExitStack() as held:
            signatures, shingles, counts = (
                held.enter_context(AppendFile(self.work / name, length)) for name, length in lengths.items()
            )
            for chunk in self._chunks(cursor):
                if len(chunk.offsets) > 1:
                    sketches, sizes = sketch_utf8(chunk.text, chunk.offsets, self.settings, self.threads)
                    signatures.append(sketches)
                    shingles.append(np.minimum(sizes, 2**32 - 1).astype(np.uint32))
                    documents += len(sketches)
                    if self.base + documents > MOST_DOCUMENTS:
                        raise InvalidArgumentError(f"inputs: expected at most {MOST_DOCUMENTS:,} documents in all")
                counts.append(np.array(chunk.counts, np.int64))
                for file in (signatures, shingles, counts):
                    file.sync()
                self.state.commit(cursor=list(chunk.cursor), documents=documents)
                self._report_bytes("sketch", chunk.cursor)
        self.state.commit(documents=documents)

    def _chunks(self, cursor: Cursor, needed: NDArray[np.bool_] | None = None) -> Iterator[Chunk]:
        most = min(1 << 24, self.memory >> 5)
        return read_chunks(self.sources, self.columns, cursor, most_bytes=most, needed=needed)

    def _report_bytes(self, stage: str, cursor: Cursor) -> None:
        """Progress in bytes of the files; within a compressed file or Parquet only whole files count."""
        done = sum(source.size for source in self.sources[: cursor.source])
        if cursor.source < len(self.sources):
            source = self.sources[cursor.source]
            if source.kind != "parquet" and not source.compressed:
                done += cursor.offset
        self.report(stage, done, sum(source.size for source in self.sources))

    def bands(self) -> None:
        """Write the keys of all bands, in partitions by their high bits, each of which can be sorted in memory."""
        records = self.documents * self.settings.bands
        partitions = self.state.get("partitions")
        if partitions is None:
            partitions = 1
            while partitions < MOST_PARTITIONS and records * _BYTES_TO_SORT > partitions * self.memory // 2:
                partitions *= 2
            self.state.commit(partitions=partitions, banded=0, lengths=[0] * partitions)
        signatures = self._signatures(0)
        with ExitStack() as held:
            files = [
                held.enter_context(AppendFile(self._partition(number), length * RECORD.itemsize))
                for number, length in enumerate(self.state["lengths"])
            ]
            for first in range(self.state["banded"], self.documents, _SLAB):
                last = min(first + _SLAB, self.documents)
                filled = first + np.flatnonzero(read_records(self.work / SHINGLES, np.uint32, last - first, first))
                keys = band_keys_of(signatures.rows(filled + self.base), self.settings, self.threads).reshape(-1)
                slab = np.empty(len(keys), RECORD)
                slab["key"], slab["document"] = keys, np.repeat(filled, self.settings.bands)
                number = (keys >> np.uint64(32)).astype(np.int64) * partitions >> 32
                order = np.argsort(number.astype(np.uint16), kind="stable")
                ends = np.cumsum(np.bincount(number, minlength=partitions))
                for file, part in zip(files, np.split(slab[order], ends[:-1]), strict=True):
                    file.append(part)
                    file.sync()
                self.state.commit(banded=last, lengths=[file.length // RECORD.itemsize for file in files])
                self.report("bands", last, self.documents)

    def _partition(self, number: int) -> Path:
        return self.work / f"band-keys-{number:04d}.bin"

    def _pairs(self, number: int) -> Path:
        return self.work / f"pairs-{number:04d}.bin"

    def _signatures(self, memory: int) -> Signatures:
        before = [] if self.store is None else self.store.signatures()
        segments = [segment for segment in before if segment.first < self.base]
        return Signatures(
            [*segments, Segment(self.work / SIGNATURES, self.base, self.documents)], self.settings.k, memory
        )

    def compare(self) -> None:
        """Sort each partition; compare documents that share a key, with each other and with those of the store."""
        signatures = self._signatures(self.memory // 3)
        labels = None if self.store is None else self.store.labels()
        partitions = self.state["partitions"]
        done = self.state.get("compared", 0)
        sorted_records = self.state.get("sorted", 0)
        with ExitStack() as held:
            keys_file = held.enter_context(AppendFile(self.work / KEYS, 8 * sorted_records))
            documents_file = held.enter_context(AppendFile(self.work / DOCUMENTS, 4 * sorted_records))
            for number in range(done, partitions):
                records = read_records(self._partition(number), RECORD, self.state["lengths"][number])
                keys, documents = records["key"].copy(), records["document"].astype(np.int64)
                del records
                sort_keys(keys, documents)
                if self.store is not None:
                    keys_file.append(keys)
                    documents_file.append(documents.astype(np.uint32))
                    keys_file.sync()
                    documents_file.sync()
                    sorted_records += len(keys)
                documents += self.base
                if self.base and self.store is not None:
                    keys, documents = _with_known(keys, documents, self.store)
                runs: list[int] = []
                with replacing(self._pairs(number)) as pairs_file:

                    def spill(pairs: NDArray[Any], runs: list[int] = runs, file: Any = pairs_file) -> None:
                        file.write(pairs.view(np.uint8).data)
                        runs.append(len(pairs))

                    found = compare_buckets(
                        keys, documents, signatures.rows, self.settings, self.base, labels,
                        threads=self.threads, most=self._block(4), spill=spill,
                    )  # fmt: skip
                    spill(found.pairs)
                before = np.array(self.state.get("histogram", [0.0] * len(found.histogram)))
                self.state.commit(
                    compared=number + 1,
                    sorted=sorted_records,
                    histogram=(before + found.histogram).tolist(),
                    skipped=self.state.get("skipped", 0) + found.skipped,
                    runs=[*self.state.get("runs", []), runs],
                )
                self._partition(number).unlink()
                self.report("compare", number + 1, partitions)

    def _block(self, share: int) -> int:
        """Pairs that may be in memory at once if they are to take so small a share of it."""
        return max(1, self.memory // share // _BYTES_OF_PAIR)

    def candidates(self) -> Iterator[NDArray[Any]]:
        """All distinct pairs of `compare` in order, a block at a time: the runs are merged."""
        runs: list[NDArray[Any]] = []
        for number, sizes in enumerate(self.state["runs"]):
            if sum(sizes):
                file = np.memmap(self._pairs(number), PAIR, "r", shape=(sum(sizes),))
                runs += [run for run in np.split(file, np.cumsum(sizes[:-1])) if len(run)]
        share = max(1, self._block(1) // max(1, len(runs)))
        while runs:
            # Pairs below those that come next in a run: at most `share` of each.
            ahead = [run["pair"][share] for run in runs if share < len(run)]
            sizes = [int(np.searchsorted(run["pair"], min(ahead))) if ahead else len(run) for run in runs]
            yield distinct(np.concatenate([run[:size] for run, size in zip(runs, sizes, strict=True)]))
            runs = [run[size:] for run, size in zip(runs, sizes, strict=True) if size < len(run)]

    def verify(self) -> None:
        """Read all files again; keep the sets of shingles of new documents that are in a pair with a new one."""
        if self.settings.verify != "exact":
            return
        needed = self._needed()
        cursor = Cursor(*self.state.get("verify_cursor", (0, 0, 0)))
        document, sets, tokens = self.state.get("verified", (0, 0, 0))
        with ExitStack() as held:
            token_file = held.enter_context(AppendFile(self.work / SETS, 8 * tokens))
            size_file = held.enter_context(AppendFile(self.work / SET_SIZES, 8 * sets))
            for chunk in self._chunks(cursor, needed[document:]) if needed.any() else iter(()):
                count = len(chunk.offsets) - 1
                wanted = np.flatnonzero(needed[document : document + count])
                document += count
                if len(wanted):
                    starts, found = as_sets(
                        self.settings.shingler.shingles_utf8(*_some(chunk, wanted), self.threads), self.threads
                    )
                    token_file.append(found)
                    size_file.append(np.diff(starts))
                    sets, tokens = sets + len(wanted), tokens + len(found)
                    token_file.sync()
                    size_file.sync()
                self.state.commit(verify_cursor=list(chunk.cursor), verified=[document, sets, tokens])
                self._report_bytes("verify", chunk.cursor)
        if needed.any() and document != self.documents:
            raise CorruptIndexError(
                f"{self.work}: {self.documents:,} documents were sketched, now there are {document:,}"
            )

    def _needed(self) -> NDArray[np.bool_]:
        needed = np.zeros(self.documents, bool)
        for pairs in self.candidates():
            low, high = ends(pairs)
            new = low >= self.base
            needed[low[new] - self.base] = True
            needed[high[new] - self.base] = True
        return needed

    def link(self) -> None:
        """Write the pairs that are duplicates."""
        counted = 0

        def edges() -> Iterator[NDArray[Any]]:
            nonlocal counted
            exact = self.settings.verify == "exact"
            places, sets = (_places(self._needed()), self._sets()) if exact else (None, None)
            total = sum(map(sum, self.state["runs"]))
            seen = 0
            for pairs in self.candidates():
                seen += len(pairs)
                if places is not None and sets is not None:
                    low, high = ends(pairs)
                    new = np.flatnonzero(low >= self.base)
                    left, right = (places[numbers[new] - self.base] for numbers in (low, high))
                    pairs["similarity"][new] = jaccard(sets, left, right, self.threads)
                    pairs = pairs[pairs["similarity"] >= self.settings.threshold]
                counted += len(pairs)
                yield pairs
                self.report("link", seen, total)
            self.report("link", total, total)

        write_parts(self.work / EDGES, edges())
        self.state.commit(edges=counted)

    def _sets(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The sets of shingles, mapped: the system takes pages back when it needs them."""
        _, sets, tokens = self.state.get("verified", (0, 0, 0))
        starts = np.zeros(sets + 1, np.int64)
        np.cumsum(read_records(self.work / SET_SIZES, np.int64, sets), out=starts[1:])
        if not tokens:
            return starts, np.empty(0, np.uint64)
        # A private map counts as writable, which is what kernels are compiled for.
        return starts, np.memmap(self.work / SETS, np.uint64, "c", shape=(tokens,)).view(np.ndarray)

    def group(self) -> None:
        """Connected components, the lowest document of each, and how similar the others are to it."""
        labels = np.arange(self.base + self.documents)
        if self.store is not None:
            labels[: self.base] = self.store.labels()
        for first in range(0, self.state["edges"], 1 << 20):
            part = read_records(self.work / EDGES, PAIR, min(1 << 20, self.state["edges"] - first), first)
            join(labels, np.stack(ends(part), axis=1), self.threads)
        flatten(labels)
        signatures = self._signatures(self.memory // 3)
        members = self.base + np.flatnonzero(labels[self.base :] != np.arange(self.base, len(labels)))
        similarities = np.full(self.documents, np.nan, np.float32)
        exact = self.settings.verify == "exact"
        places, sets = (_places(self._needed()), self._sets()) if exact else (None, None)
        for first in range(0, len(members), _SLAB >> 1):
            some = members[first : first + (_SLAB >> 1)]
            first_of = labels[some]
            needed, where = np.unique(np.concatenate([first_of, some]), return_inverse=True)
            sketches = signatures.rows(needed)
            agreeing = (sketches[where[: len(some)]] == sketches[where[len(some) :]]).sum(axis=1)
            similarity = estimate(agreeing, self.settings.k)
            if places is not None and sets is not None:
                new = np.flatnonzero(first_of >= self.base)
                low, high = (places[numbers[new] - self.base] for numbers in (first_of, some))
                similarity[new] = jaccard(sets, low, high, self.threads)
            similarities[some - self.base] = similarity
            self.report("group", first + len(some), len(members))
        write_array(self.work / SIMILARITIES, similarities)
        write_array(self.work / LABELS, labels)


def _with_known(
    keys: NDArray[np.uint64], documents: NDArray[np.int64], store: Store
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sorted records of a partition with those of the store that share a key with one of them."""
    known_keys, known = store.matches(np.unique(keys))
    keys, documents = np.concatenate([known_keys, keys]), np.concatenate([known, documents])
    order = np.lexsort((documents, keys))
    return keys[order], documents[order]


def _places(needed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the set of each document that has one."""
    places: NDArray[np.int64] = np.cumsum(needed) - 1
    return places


def _some(chunk: Chunk, wanted: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Some documents of a chunk."""
    if len(wanted) == len(chunk.offsets) - 1:
        return chunk.text, chunk.offsets
    begin, end = chunk.offsets[wanted], chunk.offsets[wanted + 1]
    offsets = np.zeros(len(wanted) + 1, np.int64)
    np.cumsum(end - begin, out=offsets[1:])
    text = np.empty(offsets[-1], np.uint8)
    for place, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        text[offsets[place] : offsets[place + 1]] = chunk.text[first:last]
    return text, offsets
