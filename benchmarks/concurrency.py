"""Writers, readers and compaction at once, every answer checked: `python -m benchmarks.concurrency --seconds 60`.

Each writer owns a range of ids and writes to nothing else, so that what its ids hold after so many of its writes is
known. A reader notes how many writes of a writer were acknowledged before it asked and how many had begun when it had
its answer: the answer must be that of the state after one number of writes in between, for all ids of the writer that
it speaks of together. Segments are sealed, merged and compacted all the time.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
import traceback
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, write_document
from nearhash.service.engine import kinds, maintenance
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.results import Found
from nearhash.service.engine.verify import verify

DIM = 16
WRITERS, READERS, FOLLOWERS = 4, 8, 2
RANGE = 300  # ids of one writer
INDEXES = ("window", "ivf", "graph")
_MOST_POINTS = 20  # of one write
_CLOSE = 2e-3  # of a distance: segments keep float16
_EFFORT = {"probes": 1000, "beam": 1000, "rerank": 1000}  # everything: what is missing then is an error


class Model:
    """What the ids of one writer hold after each number of its writes. One thread records, many ask."""

    def __init__(self, writer: int) -> None:
        self.first = writer * RANGE
        self.begun = self.done = 0  # writes
        self._numbers: list[list[int]] = [[] for _ in range(RANGE)]  # by id: writes that changed it
        self._vectors: list[list[Any]] = [[] for _ in range(RANGE)]  # what it held then; None: nothing
        self._size = 0
        self.sizes = [0]  # after each number of writes

    @property
    def ids(self) -> range:
        return range(self.first, self.first + RANGE)

    def begin(self, changes: Mapping[int, Any]) -> int:
        """A write that sets these ids to vectors, or None, begins; returns its number."""
        number = self.begun
        for own, vector in changes.items():
            place = own - self.first
            before = self._vectors[place][-1] if self._vectors[place] else None
            self._size += (vector is not None) - (before is not None)
            self._vectors[place].append(vector)
            self._numbers[place].append(number)
        self.sizes.append(self._size)
        self.begun = number + 1
        return number

    def end(self) -> None:
        self.done = self.begun

    def version(self, own: int, writes: int) -> tuple[int, Any] | None:
        """Number of the write that set an id, and its vector, after so many writes; None where it has none."""
        place = own - self.first
        behind = bisect_left(self._numbers[place], writes)
        if not behind:
            return None
        vector = self._vectors[place][behind - 1]
        return None if vector is None else (self._numbers[place][behind - 1], vector)

    def state(self, writes: int) -> dict[int, int]:
        """Version of each id that there is after so many writes."""
        found = {own: self.version(own, writes) for own in self.ids}
        return {own: one[0] for own, one in found.items() if one is not None}


class Wrong(AssertionError):
    """An answer that no state explains."""


class Trial:
    """One collection under load for some seconds."""

    def __init__(self, folder: Path, index: str, seed: int) -> None:
        self._folder = folder
        self.seed = seed
        settings: dict[str, Any] = {"dim": DIM, "metric": "l2", "labels": ("own",), "index": index, "seal_at": 150}
        self.collection = Collection(folder, threads=1, **settings)
        self.follower = Collection(folder, threads=1, read_only=True)
        self.models = [Model(writer) for writer in range(WRITERS)]
        self.counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self.failures: list[str] = []

    def run(self, seconds: float) -> Document:
        """Write, read and compact for so many seconds; raises AssertionError if anything was wrong."""
        works: list[Callable[[], None]] = [lambda model=model: self._write(model) for model in self.models]  # type: ignore[misc]
        works += [lambda reader=reader: self._read(reader) for reader in range(READERS)]  # type: ignore[misc]
        works += [self._compact, self._snapshot]
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in works]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - started
        stats = self.collection.stats()
        self.follower.close()
        self.collection.close()
        if self.failures:
            raise Wrong("\n".join(self.failures[:5]))
        self._check_left(self._folder, [model.done for model in self.models])
        background = {name: stats["background"][name] for name in ("seals", "merges", "checkpoints", "last_error")}
        if background["last_error"] is not None:
            raise Wrong(f"background work failed: {background['last_error']}")
        return {
            "index": stats["index"], "seconds": elapsed, "points": stats["size"], "counts": dict(self.counts),
            **background,
        }  # fmt: skip

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            self.failures.append(traceback.format_exc())
            self._stop.set()

    def _did(self, **counts: int) -> None:
        with self._counting:
            self.counts.update(counts)

    # --- writers ---

    def _write(self, model: Model) -> None:
        draw, random_vectors = random.Random(self.seed + model.first), np.random.default_rng((self.seed, model.first))
        while not self._stop.is_set():
            ids = draw.sample(model.ids, draw.randint(1, _MOST_POINTS))
            if draw.random() < 0.3:
                before = {own: model.version(own, model.done) for own in ids}
                model.begin(dict.fromkeys(ids))
                deleted = self.collection.delete(ids)
                model.end()
                present = {own: one[1] for own, one in before.items() if one is not None}
                _check(deleted.deleted == len(present), f"{deleted} for {len(present)} ids that were there")
                self._check_gone(ids, present)
                self._did(deletes=1, points_deleted=len(ids))
            else:
                vectors = random_vectors.standard_normal((len(ids), DIM)).astype(np.float32)
                number = model.begin(dict(zip(ids, vectors, strict=True)))
                payloads = [{"version": number, "even": number % 2 == 0} for _ in ids]
                self.collection.upsert(ids, vectors, [float(own) for own in ids], payloads)
                model.end()
                self._check_written(ids, vectors, number)
                self._did(upserts=1, points_written=len(ids))

    def _check_written(self, ids: Sequence[int], vectors: Any, number: int) -> None:
        """A writer reads what it has written: nobody else writes to its ids."""
        for own, vector, point in zip(ids, vectors, self.collection.get(ids, vectors=True), strict=True):
            _check(point is not None, f"id {own}: not there after its write")
            assert point is not None
            assert point.payload is not None
            _check(np.array_equal(point.vector, vector), f"id {own}: another vector than was written")
            _check(point.payload["version"] == number, f"id {own}: {point.payload}, written by {number}")
        found = self.collection.search(vectors, k=1, **_EFFORT)
        _check(found.ids[:, 0].tolist() == list(ids), f"{ids} found as {found.ids[:, 0].tolist()}")
        _check(bool((found.distances < _CLOSE).all()), f"distances to themselves: {found.distances.max()}")

    def _check_gone(self, ids: Sequence[int], present: Mapping[int, Any]) -> None:
        _check(self.collection.get(ids) == [None] * len(ids), f"{ids}: there after their deletion")
        if present:
            found = self.collection.search(np.stack(list(present.values())), k=5, **_EFFORT)
            back = set(ids) & set(found.ids.reshape(-1).tolist())
            _check(not back, f"{back}: found after their deletion")

    # --- readers ---

    def _read(self, reader: int) -> None:
        """The last ones follow the collection as another process would."""
        collection = self.follower if reader >= READERS - FOLLOWERS else self.collection
        draw, random_vectors = random.Random(self.seed - reader - 1), np.random.default_rng((self.seed, reader, 1))
        kinds_of_reads = [self._search, self._search, self._search_range, self._get, self._count, self._scroll]
        while not self._stop.is_set():
            read = draw.choice(kinds_of_reads)
            read(collection, draw, random_vectors.standard_normal((draw.choice((1, 3)), DIM)).astype(np.float32))

    @contextmanager
    def _meanwhile(self, models: Iterable[Model]) -> Iterator[dict[int, range]]:
        """Numbers of writes after which an answer may show each writer's ids; complete once the block has ended."""
        before = {model.first: (model, model.done) for model in models}
        possible: dict[int, range] = {}
        yield possible
        possible.update({first: range(done, model.begun + 1) for first, (model, done) in before.items()})

    def _search(self, collection: Collection, draw: random.Random, queries: Any) -> None:
        """Over everything, with or without a filter, with payloads and vectors."""
        k = draw.choice((1, 10, 50))
        even = draw.choice((None, True, False))
        with_payloads, with_vectors = draw.random() < 0.5, draw.random() < 0.3
        filter = None if even is None else {"eq": ["even", even]}
        with self._meanwhile(self.models) as possible:
            found = collection.search(queries, k, None, filter, payloads=with_payloads, vectors=with_vectors, **_EFFORT)
        least = sum(min(model.sizes[writes] for writes in possible[model.first]) for model in self.models)
        for row, query in enumerate(queries):
            answer = Found(
                found.ids[row],
                found.distances[row],
                None if found.payloads is None else [found.payloads[row]],
                None if found.vectors is None else found.vectors[row],
            )
            present = _check_form(answer.ids.tolist(), answer.distances.tolist())
            for model in self.models:
                fits = partial(_explains, model, answer, query, even)
                _check_some(fits, possible[model.first], f"search, k={k}, filter {filter}: {answer.ids.tolist()}")
            if even is None:
                _check(present >= min(k, least), f"{present} results for k={k} among at least {least} points")
        self._did(searches=1, queries=len(queries))

    def _search_range(self, collection: Collection, draw: random.Random, queries: Any) -> None:
        """For all ids of one writer: exactly those of one moment come back."""
        model = draw.choice(self.models)
        window = (model.first, model.first + RANGE)
        with self._meanwhile([model]) as possible:
            found = collection.search(queries[:1], RANGE + 20, window, **_EFFORT)
        _check_form(found.ids[0].tolist(), found.distances[0].tolist())
        distances = {
            one: far for one, far in zip(found.ids[0].tolist(), found.distances[0].tolist(), strict=True) if one >= 0
        }

        def fits(writes: int) -> bool:
            if model.sizes[writes] != len(distances) or not all(one in model.ids for one in distances):
                return False
            versions = {one: model.version(one, writes) for one in distances}
            return all(
                version is not None and _near(distances[one], queries[0], version[1])
                for one, version in versions.items()
            )

        _check_some(fits, possible[model.first], f"search for all of {model.ids}: {len(distances)} found")
        self._did(searches_of_ranges=1)

    def _get(self, collection: Collection, draw: random.Random, queries: Any) -> None:
        model = draw.choice(self.models)
        with self._meanwhile([model]) as possible:
            points = collection.get(model.ids)
        found = {one.id: one.payload["version"] for one in points if one is not None and one.payload is not None}
        _check_some(lambda writes: model.state(writes) == found, possible[model.first], f"get {model.ids}")
        self._did(gets=1)

    def _count(self, collection: Collection, draw: random.Random, queries: Any) -> None:
        model = draw.choice(self.models)
        with self._meanwhile([model]) as possible:
            count = collection.count((model.first, model.first + RANGE))
        _check_some(
            lambda writes: model.sizes[writes] == count, possible[model.first], f"count of {model.ids}: {count}"
        )
        self._did(counts=1)

    def _scroll(self, collection: Collection, draw: random.Random, queries: Any) -> None:
        """Each page shows one moment; over all of them, what was there all the time comes once."""
        ids: list[Any] = []
        with self._meanwhile(self.models) as possible:
            for page in collection.scroll(page_size=draw.choice((100, 500)), payloads=False):
                ids += [point.id for point in page.points]
        _check(ids == sorted(set(ids)), "scroll: ids not ascending")
        for model in self.models:
            states = [set(model.state(writes)) for writes in possible[model.first]]
            own = {one for one in ids if one in model.ids}
            missing, extra = set.intersection(*states) - own, own - set.union(*states)
            _check(not missing, f"scroll: {sorted(missing)[:5]} missing")
            _check(not extra, f"scroll: {sorted(extra)[:5]} were never there")
        self._did(scrolls=1)

    # --- upkeep ---

    def _compact(self) -> None:
        while not self._stop.wait(0.05):
            self.collection.compact()
            self._did(compactions=1)

    def _snapshot(self) -> None:
        """A snapshot shows one moment of each writer's ids."""
        while not self._stop.wait(1.0):
            with tempfile.TemporaryDirectory(dir=self._folder.parent) as name:
                with self._meanwhile(self.models) as possible:
                    copy = self.collection.snapshot(Path(name) / "copy")
                self._check_left(copy, [possible[model.first] for model in self.models])
            self._did(snapshots=1)

    def _check_left(self, folder: Path, writes: Sequence[int | range]) -> None:
        """A collection nobody writes to is intact and holds what it should."""
        problems = verify(folder).problems
        _check(not problems, f"{folder.name}: {problems[:3]}")
        with Collection(folder, threads=1, read_only=True) as collection:
            for model, some in zip(self.models, writes, strict=True):
                points = collection.get(model.ids)
                found = {
                    one.id: one.payload["version"] for one in points if one is not None and one.payload is not None
                }
                numbers = range(some, some + 1) if isinstance(some, int) else some
                _check_some(
                    lambda n, model=model, found=found: model.state(n) == found, numbers, f"{folder.name}: {model.ids}"
                )  # type: ignore[misc]


def _explains(model: Model, answer: Found, query: Any, even: bool | None, writes: int) -> bool:
    """Whether the state after so many writes of a writer explains what an answer to one query says of its ids."""
    for place, (own, distance) in enumerate(zip(answer.ids.tolist(), answer.distances.tolist(), strict=True)):
        if own not in model.ids:
            continue
        version = model.version(own, writes)
        if version is None or not _near(distance, query, version[1]):
            return False
        if even is not None and (version[0] % 2 == 0) != even:
            return False
        if answer.payloads is not None:
            payload = answer.payloads[0][place]
            if payload is None or payload["version"] != version[0]:
                return False
        if answer.vectors is not None and not np.array_equal(answer.vectors[place], version[1]):
            return False
    return True


def _check(right: bool, message: str) -> None:
    if not right:
        raise Wrong(message)


def _check_some(fits: Callable[[int], bool], writes: range, message: str) -> None:
    if not any(fits(number) for number in writes):
        raise Wrong(f"{message}: no state after {writes[0]} to {writes[-1]} writes explains it")


def _check_form(ids: Sequence[int], distances: Sequence[float]) -> int:
    """Results ascend, none stands twice, and nothing comes behind the last; returns how many there are."""
    present = sum(one >= 0 for one in ids)
    _check(all(one < 0 for one in ids[present:]), "a result behind one that is none")
    _check(len(set(ids[:present])) == present, f"an id twice: {ids}")
    _check(distances == sorted(distances), f"distances not ascending: {distances}")
    _check(all(far == np.inf for far in distances[present:]), "a distance where nothing was found")
    return present


def _near(distance: float, query: Any, vector: Any) -> bool:
    exact = float(((query - vector) ** 2).sum())
    return abs(exact - distance) <= _CLOSE * max(1.0, exact)


@contextmanager
def restless() -> Iterator[None]:
    """Background work that begins at once and at small sizes."""
    before = kinds.FLAT_BELOW, maintenance.IDLE_SECONDS, maintenance.LOG_BYTES, maintenance.IDLE_SEAL
    kinds.FLAT_BELOW = 100
    maintenance.IDLE_SECONDS, maintenance.LOG_BYTES, maintenance.IDLE_SEAL = 0.02, 1 << 18, 20
    try:
        yield
    finally:
        kinds.FLAT_BELOW = before[0]
        maintenance.IDLE_SECONDS, maintenance.LOG_BYTES, maintenance.IDLE_SEAL = before[1:]


def run_trial(index: str, seconds: float, seed: int) -> Document:
    """One index kind for so many seconds."""
    with restless(), tempfile.TemporaryDirectory() as name:
        return Trial(Path(name) / "points", index, seed).run(seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.concurrency", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60, help="for each kind of index, %(default)s")
    parser.add_argument("--indexes", nargs="+", default=list(INDEXES), help="%(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULTS / "concurrency.json")
    options = parser.parse_args(arguments)
    runs = []
    for index in options.indexes:
        runs.append(run_trial(index, options.seconds, options.seed))
        print(f"{index}: {runs[-1]}", flush=True)
    document = {
        "kind": "concurrency",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "writers": WRITERS, "readers": READERS, "followers": FOLLOWERS, "seed": options.seed,
            "ids": WRITERS * RANGE, "dim": DIM,
        },
        "runs": runs,
    }  # fmt: skip
    write_document(options.result, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
