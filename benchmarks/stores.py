"""Durable stores of vectors beside each other: ``python -m benchmarks.stores glove-100``; see ``--help``.

Each store runs in a process of its own, peers in the interpreter of ``--peers-python``, which needs `lancedb`,
`chromadb`, `pymilvus`, `milvus-lite`, `psycopg[binary]` and `pgvector`; the last also wants PostgreSQL with the
extension pgvector on the machine. What is not installed is left out, and said so.

One after another is filled in batches, each acknowledged before the next, and its index built; for each the least
effort is sought that reaches the recall. Then all are opened anew, in turn, in processes of their own, and asked in
turn: one client, one query a call. Recall is by distance: whatever is no farther than the k-th neighbour counts.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.distances import normalised
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.store_peers import STORES
from benchmarks.store_peers.base import Effort
from benchmarks.store_peers.remote import PEERS_PYTHON, StoreError, Worker, interpreter
from benchmarks.store_report import plot_stores, stores_table
from benchmarks.tables import Document

K = 10
TARGET = 0.95
BUCKETS = 100  # values of the payload field: a filter leaves 1% of the points
PROBED = 200  # queries with which efforts are sought
KINDS = ("all", "filtered")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=__doc__)
    parser.add_argument("dataset", nargs="?", default="glove-100", help="%(default)s by default")
    parser.add_argument("--size", type=int, help="of the base, only so many vectors, at even steps")
    parser.add_argument("--stores", default=";".join(STORES), help="which, separated by semicolons; all by default")
    parser.add_argument("--peers-python", default=PEERS_PYTHON, help="by default this one, or $NEARHASH_PEERS_PYTHON")
    parser.add_argument("--batch", type=int, default=1000, help="points of an insertion, %(default)s by default")
    parser.add_argument("--queries", type=int, default=1000, help="%(default)s by default")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s by default")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round of a store at most")
    parser.add_argument("--insert-seconds", type=float, default=600.0, help="a store that takes longer stops there")
    parser.add_argument("--folder", type=Path, help="where the stores are, by default a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.stores.split(";")]
    unknown = [name for name in names if name not in STORES]
    if unknown:
        parser.error(f"--stores: expected some of {'; '.join(STORES)}, got {unknown[0]!r}")
    with tempfile.TemporaryDirectory(prefix="nearhash-stores-", dir=options.folder) as folder:
        Path(folder).chmod(0o755)  # a server may run as another user
        document = run_stores(options, names, Path(folder))
    _write(options.results / "stores.json", document)
    return 0


def _write(path: Path, document: Document) -> None:
    """Runs with another number of vectors that are there already, measured in the same way, stay."""
    if path.is_file():
        before = read_document(path)
        if all(before[key] == rounded(document)[key] for key in ("machine", "settings")):
            sizes = {run["size"] for run in document["runs"]}
            runs = [*document["runs"], *(run for run in before["runs"] if run["size"] not in sizes)]
            document = {**document, "runs": sorted(runs, key=lambda run: -int(run["size"]))}
    write_document(path, document)
    document = read_document(path)
    plot_stores(document["runs"][0], path.with_suffix(".png"))
    write_text(path.with_suffix(".md"), f"# stores\n\n{stores_table(document, '.')}")


@dataclass
class Task:
    """Points, queries, and what the answers must be.

    Attributes
    ----------
    cuts : dict of kind to (q,) float64
        Distance of the k-th neighbour, with room for rounding.
    """

    base: NDArray[np.float32]
    queries: NDArray[np.float32]
    metric: str
    buckets: NDArray[np.int64]
    wanted: NDArray[np.int64]
    cuts: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def asked(self, kind: str) -> NDArray[np.int64] | None:
        return self.wanted if kind == "filtered" else None


def make_task(name: str, size: int | None, count: int) -> Task:
    data = datasets.load(name)
    # At even steps: words come by frequency, so the first are not typical.
    base = data.base if size is None else data.base[_even(len(data.base), size)]
    queries = np.ascontiguousarray(data.queries[_even(len(data.queries), count)])
    rng = np.random.default_rng(0)
    buckets = (rng.permutation(len(base)) % BUCKETS).astype(np.int64)
    task = Task(np.ascontiguousarray(base), queries, data.metric, buckets, rng.integers(0, BUCKETS, len(queries)))
    for kind in KINDS:
        task.cuts[kind] = _cuts(task, task.asked(kind)) * (1 + 1e-5) + 1e-5
    return task


def _even(length: int, count: int) -> NDArray[np.int64]:
    return np.linspace(0, length - 1, min(length, count)).astype(np.int64)


def _cuts(task: Task, wanted: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """(q,) the distance of the farthest of the min(k, matches) nearest, by exhaustive search."""
    cuts = np.empty(len(task.queries))
    groups = [None] if wanted is None else np.unique(wanted).tolist()
    for group in groups:
        rows = np.arange(len(task.base)) if group is None else np.flatnonzero(task.buckets == group)
        own = np.arange(len(task.queries)) if group is None else np.flatnonzero(wanted == group)
        for part in np.array_split(own, max(1, len(own) // 100)):
            away = pair_matrix(task.queries[part], task.base[rows], task.metric)
            k = min(K, len(rows))
            cuts[part] = np.partition(away, k - 1, axis=1)[:, k - 1]
    return cuts


def pair_matrix(queries: NDArray[np.float32], rows: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """Distances (q, n) of all queries to all rows."""
    if metric == "cosine":
        return 1 - normalised(queries) @ normalised(rows).T
    if metric == "ip":
        return -queries @ rows.T
    squares = np.einsum("ij,ij->i", rows, rows) - 2 * queries @ rows.T
    return squares + np.einsum("ij,ij->i", queries, queries)[:, None]


def judge(task: Task, kind: str, ids: NDArray[np.int64]) -> Document:
    """Recall of answers (m, k) to the first m queries, and how many of them are short or wrong."""
    shares, short, wrong = [], 0, 0
    for row, answer in enumerate(ids):
        found = answer[answer >= 0]
        matches = len(task.base)
        if kind == "filtered":
            matches = int((task.buckets == task.wanted[row]).sum())
            wrong += int((task.buckets[found] != task.wanted[row]).any())
            found = found[task.buckets[found] == task.wanted[row]]
        least = min(K, matches)
        short += int(len(found) < least)
        found = np.unique(found)
        away = pair_matrix(task.queries[row : row + 1], task.base[found], task.metric)[0]
        shares.append(min(1.0, int((away <= task.cuts[kind][row]).sum()) / least))
    return {"recall": float(np.mean(shares)), "queries": len(ids), "short": short, "wrong": wrong}


def run_stores(options: argparse.Namespace, names: Sequence[str], folder: Path) -> Document:
    """Measure all stores that are installed."""
    task = make_task(options.dataset, options.size, options.queries)
    np.save(folder / "vectors.npy", task.base)
    np.save(folder / "buckets.npy", task.buckets)
    run: Document = {"size": len(task.base), "stores": [], "left_out": {}}
    contestants = []
    for name in names:
        one = Contestant(name, task, folder / f"store-{len(contestants)}-{len(run['left_out'])}", options)
        try:
            one.fill()
            contestants.append(one)
        except StoreError as error:
            say(f"{name} left out: {error}")
            # Paths say where things happen to lie, not what went wrong.
            run["left_out"][name] = re.sub(r"(?<!\w)/[\w./+-]{2,}", "...", str(error))[:300]
    try:
        for measure in (Contestant.reopen, Contestant.ask):
            for number in range(options.rounds):
                last = number == options.rounds - 1
                for position in range(len(contestants)):
                    measure(contestants[(number + position) % len(contestants)], last)
        for one in contestants:
            one.record["memory_bytes"] = one.memory()
    finally:
        for one in contestants:
            one.end()
    run["stores"] = [one.record for one in contestants]
    return {
        "kind": "stores",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "dataset": options.dataset, "dim": task.base.shape[1], "metric": task.metric, "k": K, "target": TARGET,
            "batch": options.batch, "queries": len(task.queries), "rounds": options.rounds,
            "seconds": options.seconds, "share": 1 / BUCKETS,
        },
        "runs": [run],
    }  # fmt: skip


class Contestant:
    """A store in the run, and what has been measured of it."""

    def __init__(self, name: str, task: Task, folder: Path, options: argparse.Namespace) -> None:
        self.name = name
        self.record: Document = {"name": name, "searches": {}, "reopen": []}
        self._task, self._folder, self._options = task, folder, options
        self._worker: Worker | None = None

    def fill(self) -> None:
        """Insert all points, build the index, find the efforts, and close."""
        with self._start() as worker:
            facts = worker.facts
            for fact in ("version", "durability", "configuration"):
                self.record[fact] = facts[fact]
            self._open(worker)
            source = self._folder.parent
            inserted, seconds = worker.insert(
                source / "vectors.npy", source / "buckets.npy", self._options.batch, self._options.insert_seconds
            )
            self.record["insert"] = {
                "points": inserted,
                "seconds": float(seconds.sum()),
                "median_ms": 1e3 * float(np.median(seconds)),
                "p99_ms": 1e3 * float(np.percentile(seconds, 99)),
            }
            say(f"{self.name}: {inserted:,} points acknowledged in {seconds.sum():.1f} s")
            if inserted < len(self._task.base):
                raise StoreError(f"{inserted:,} of {len(self._task.base):,} points inserted in {seconds.sum():.0f} s")
            self.record["insert"]["index_seconds"] = worker.finish()
            say(f"{self.name}: index after {self.record['insert']['index_seconds']:.1f} s more")
            for kind in reversed(KINDS):  # what is asked last is what reopening begins with
                self.record["searches"][kind] = self._reaching(worker, kind, facts["ladders"])
                found = self.record["searches"][kind]
                say(f"{self.name}, {kind}: recall {found['recall']:.3f} with {found['effort']}")
            worker.close()
        self.record["disk_bytes"] = folder_bytes(self._folder)

    def _start(self) -> Worker:
        return Worker(self.name, interpreter(self.name, self._options.peers_python), self._folder)

    def _open(self, worker: Worker) -> float:
        return worker.open(self._task.base.shape[1], self._task.metric, len(self._task.base))

    def _search(
        self, worker: Worker, kind: str, effort: Effort, count: int, seconds: float
    ) -> tuple[Document, NDArray[np.float64]]:
        wanted = self._task.asked(kind)
        ids, times = worker.search(
            self._task.queries[:count], K, effort, None if wanted is None else wanted[:count], seconds
        )
        return judge(self._task, kind, ids), times

    def _reaching(self, worker: Worker, kind: str, ladders: list[list[Effort]]) -> Document:
        """The least effort that reaches the target, of several ladders the fastest; else the best recall seen."""
        tried: list[Document] = []
        for ladder in ladders:
            step = _least(lambda step, own=ladder: self._reaches(worker, kind, own[step]), len(ladder))
            tried.append(self._up(worker, kind, ladder, step))
        reached = [one for one in tried if one["reached"]]
        if reached:
            return min(reached, key=lambda one: float(one["tried_us"]))
        return max(tried, key=lambda one: float(one["recall"]))

    def _reaches(self, worker: Worker, kind: str, effort: Effort) -> bool:
        recall: float = self._search(worker, kind, effort, PROBED, self._options.seconds)[0]["recall"]
        return recall >= TARGET

    def _up(self, worker: Worker, kind: str, ladder: list[Effort], step: int) -> Document:
        """From a step on, the first that reaches the target with all queries."""
        while True:
            found, times = self._search(worker, kind, ladder[step], len(self._task.queries), self._options.seconds)
            reached = found["recall"] >= TARGET
            if reached or step + 1 >= len(ladder):
                return {
                    "effort": ladder[step], **found, "reached": reached, "us": [],
                    "tried_us": 1e6 * float(np.mean(times)),
                }  # fmt: skip
            step += 1

    def reopen(self, stays: bool) -> None:
        """Open it in a new process until it answers; how it answers is looked at afterwards."""
        worker = self._worker = self._start()
        ready = time.perf_counter()
        opened = self._open(worker)
        effort = self.record["searches"]["all"]["effort"]
        first, times = self._search(worker, "all", effort, 1, 0.0)
        answered = time.perf_counter()
        more, _ = self._search(worker, "all", effort, PROBED, self._options.seconds)
        self.record["reopen"].append(
            {
                "seconds": opened + float(times[0]),
                "process_seconds": answered - worker.launched,
                "first_recall": first["recall"],
                "recall": more["recall"],
            }
        )
        say(f"{self.name}: answers {opened + times[0]:.2f} s after opening, {answered - ready:.2f} s with the pipe")
        if not stays:
            worker.close()

    def ask(self, last: bool) -> None:
        """A round: each kind of search once untimed, then timed."""
        assert self._worker is not None
        for kind in KINDS:
            entry = self.record["searches"][kind]
            count = entry["queries"]
            self._search(self._worker, kind, entry["effort"], count, self._options.seconds)
            found, times = self._search(self._worker, kind, entry["effort"], count, self._options.seconds)
            entry["us"].append(1e6 * float(np.mean(times)))
            entry.update(found)
            if last:
                entry["p99_us"] = 1e6 * float(np.percentile(times, 99))
                say(f"{self.name}, {kind}: {1e6 / median(entry['us']):,.0f} QPS, recall {found['recall']:.3f}")

    def memory(self) -> int:
        assert self._worker is not None
        return self._worker.memory()

    def end(self) -> None:
        if self._worker is not None:
            self._worker.end()


def _least(reaches: Callable[[int], bool], steps: int) -> int:
    """The first of the steps that reaches, by bisection; the last if none does."""
    low, high = 0, steps - 1
    while low < high:
        middle = (low + high) // 2
        if reaches(middle):
            high = middle
        else:
            low = middle + 1
    return low


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder, as the disk holds them."""
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    raise SystemExit(main())
