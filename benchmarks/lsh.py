"""LSHIndex beside FALCONN: ``python -m benchmarks.lsh``; see ``--help``.

FALCONN 1.3.1 has no wheels, and its build needs an older pybind11 than its setup asks for; without it the benchmark
measures nearhash alone and says so.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.peers import thread_limit
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import MISSING, Document, figure, machine_line, table
from benchmarks.truth import ground_truth

K, TARGET = 10, 0.9
TABLES, LAST_DIMS = (10, 20, 50), (16, 32, 64, 128)
GROWTH = 1.25  # of the probes, until the target is reached
SLOW_QUERIES = 300  # of FALCONN, which takes one query at a time
SUBJECT, PEER = "nearhash LSHIndex", "FALCONN"

Floats = NDArray[np.float32]
Search = Callable[[Floats, int], Any]  # unit queries and probes -> ids (q, K), any below 0 where there are fewer


class Contestant(NamedTuple):
    """A built index of a library."""

    library: str
    tables: int
    last_dims: int
    build_seconds: float
    nbytes: int | None
    search: Search
    queries: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lsh", description=__doc__)
    parser.add_argument("--dataset", default="glove-100", help="%(default)s by default")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each, %(default)s by default")
    options = parser.parse_args(arguments)
    path = RESULTS / "lsh.json"
    with thread_limit(1):
        document = run_lsh(options.dataset, options.rounds)
    write_document(path, document)
    write_text(path.with_suffix(".md"), "# lsh\n\n" + lsh_table(rounded(read_document(path))))
    return 0


def run_lsh(name: str, rounds: int) -> Document:
    """Find the least effort of every configuration for the target, then time them all in turn, on one thread."""
    data = datasets.load(name)
    if data.metric != "cosine":
        raise SystemExit(f"--dataset: expected one under cosine, got {data.metric}")
    truth = ground_truth(data, K).ids[:1000]
    base, queries = _unit(data.base), _unit(data.queries[:1000])
    contestants: list[tuple[Contestant, int, float]] = []
    for library, make in ((SUBJECT, _nearhash), (PEER, _falconn)):
        if library == PEER and importlib.util.find_spec("falconn") is None:
            say("falconn is not installed: left out")
            continue
        for tables in TABLES:
            for last_dims in LAST_DIMS:
                contestant = make(base, tables, last_dims)
                probes, recall = _effort(contestant, queries, truth)
                say(f"{library}, {tables} tables, last polytope {last_dims}: recall {recall:.3f} at {probes} probes")
                contestants.append((contestant, probes, recall))
    times: list[list[float]] = [[] for _ in contestants]
    for number in range(rounds):
        for position in range(len(contestants)):
            index = (number + position) % len(contestants)
            contestant, probes, _ = contestants[index]
            part = queries[: contestant.queries]
            started = time.perf_counter()
            contestant.search(part, probes)
            times[index].append(1e6 * (time.perf_counter() - started) / len(part))
    return {
        "kind": "lsh",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "dataset": name,
            "base": list(base.shape),
            "k": K,
            "target": TARGET,
            "rounds": rounds,
            "falconn": version("falconn") if len(contestants) > len(TABLES) * len(LAST_DIMS) else None,
        },
        "indexes": [
            {
                "library": contestant.library,
                "tables": contestant.tables,
                "last_dims": contestant.last_dims,
                "build_seconds": contestant.build_seconds,
                "bytes": contestant.nbytes,
                "probes": probes,
                "recall": recall,
                "us": own,
            }
            for (contestant, probes, recall), own in zip(contestants, times, strict=True)
        ],
    }


def _unit(rows: Floats) -> Floats:
    return np.ascontiguousarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _nearhash(base: Floats, tables: int, last_dims: int) -> Contestant:
    import nearhash as nh

    index = nh.LSHIndex(base.shape[1], "cosine", tables=tables, hashes=2, last_dims=last_dims, seed=1, threads=1)
    started = time.perf_counter()
    index.add(base)
    seconds = time.perf_counter() - started

    def search(queries: Floats, probes: int) -> Any:
        return index.search(queries, K, probes=probes, threads=1).ids

    return Contestant(SUBJECT, tables, last_dims, seconds, index.nbytes, search, 1000)


def _falconn(base: Floats, tables: int, last_dims: int) -> Contestant:
    import falconn

    parameters = falconn.LSHConstructionParameters()
    parameters.dimension = base.shape[1]
    parameters.lsh_family = falconn.LSHFamily.CrossPolytope
    parameters.distance_function = falconn.DistanceFunction.NegativeInnerProduct
    parameters.storage_hash_table = falconn.StorageHashTable.BitPackedFlatHashTable
    parameters.k, parameters.l, parameters.last_cp_dimension = 2, tables, last_dims
    parameters.num_rotations, parameters.seed, parameters.num_setup_threads = 1, 1, 1  # dense data: as it advises
    index = falconn.LSHIndex(parameters)
    started = time.perf_counter()
    index.setup(base)
    seconds = time.perf_counter() - started
    asked = index.construct_query_object()

    def search(queries: Floats, probes: int) -> Any:
        asked.set_num_probes(probes)
        found = [asked.find_k_nearest_neighbors(query, K) for query in queries]
        return [list(ids) + [-1] * (K - len(ids)) for ids in found]

    return Contestant(PEER, tables, last_dims, seconds, None, search, SLOW_QUERIES)


def _effort(contestant: Contestant, queries: Floats, truth: NDArray[np.int64]) -> tuple[int, float]:
    """The least probes, in steps of GROWTH, whose recall reaches the target."""
    probes = contestant.tables
    part = queries[:SLOW_QUERIES]
    while True:
        found = np.asarray(contestant.search(part, probes))
        recall = float(np.mean([np.isin(row, own).mean() for row, own in zip(truth, found, strict=False)]))
        if recall >= TARGET or probes > 100_000:
            return probes, recall
        probes = int(np.ceil(probes * GROWTH))


def lsh_table(document: Document) -> str:
    """What was measured, and the tables."""
    settings = document["settings"]
    n, dim = settings["base"]
    indexes = sorted(document["indexes"], key=lambda index: median(index["us"]))
    best = {
        library: next((index for index in indexes if index["library"] == library), None) for library in (SUBJECT, PEER)
    }
    peer = (
        f"FALCONN {settings['falconn']}, built from source,"
        if settings["falconn"]
        else "FALCONN is not installed here; it"
    )
    subject, other = best[SUBJECT], best[PEER]
    verdict = ""
    if subject is not None and other is not None:
        verdict = f"\nThe best of each: nearhash is {median(other['us']) / median(subject['us']):.1f} times as fast.\n"
    rows = [
        [
            index["library"],
            str(index["tables"]),
            str(index["last_dims"]),
            f"{index['probes']:,}",
            f"{index['recall']:.3f}",
            figure(1e6 / median(index["us"])),
            figure(index["build_seconds"]),
            MISSING if index["bytes"] is None else figure(index["bytes"] / (4 * n * dim)),
        ]
        for index in indexes
    ]
    header = ["index", "tables", "last polytope", "probes", "recall@10", "QPS", "build, s", "bytes / vectors"]
    return f"""\
{settings["dataset"]}: {n:,} vectors of {dim} dimensions, k = {settings["k"]}, two polytopes a table, one thread for
building and searching, medians of {settings["rounds"]} rounds; the least probes, in steps of {GROWTH}, that reach
a recall of {settings["target"]:g}. {machine_line(document)}
{peer} answers one query a call and keeps no vectors of its own; nearhash takes them in one batch.
{verdict}
{table(header, rows)}"""


def lsh_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    return f"## Hash tables of vectors\n\n{lsh_table(document)}"


if __name__ == "__main__":
    raise SystemExit(main())
