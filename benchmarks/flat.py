"""Exact search: FlatIndex against faiss IndexFlat, and against the speed of memory."""

import time
from datetime import date
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bandwidth import bandwidth, beyond_caches, filled, make_reader
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.peers import PEERS, Peer, thread_limit

SIZE, DIM, METRIC, K = 300_000, 100, "l2", 10
BATCH = 1_000
SINGLES = 25  # single queries a round
THREADS = (1, 2)
NAMES = ("nearhash-flat", "faiss-flat")

Measured = dict[str, list[float]]


def run_flat(rounds: int, size: int = SIZE) -> dict[str, Any]:
    """Measure both in turn and the memory between them; return the document of results."""
    generator = np.random.default_rng(0)
    base = generator.standard_normal((size, DIM), np.float32)
    queries = generator.standard_normal((BATCH, DIM), np.float32)
    peers = [PEERS[name]() for name in NAMES]
    for peer in peers:
        peer.prepare()
        say(f"{peer.name}: added in {peer.timed_build(base, METRIC, max(THREADS)):.2f} s")
    agreement = _agreement(peers, queries)
    searches, memory = _measure(peers, base, queries, rounds)
    return {
        "kind": "flat",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "dataset": {"name": "normal", "base": [size, DIM], "queries": BATCH, "metric": METRIC},
        "settings": {"k": K, "rounds": rounds, "singles": SINGLES},
        "agreement": agreement,
        "searches": searches,
        "memory": memory,
    }


def _agreement(peers: list[Peer], queries: NDArray[Any]) -> float:
    """Share of equal ids in the answers of the two, which differ only where float32 cannot tell."""
    with thread_limit(max(THREADS)):
        first, second = (peer.search(peer.convert(queries), K, {}, max(THREADS)) for peer in peers)
    return float((first == second).mean())


def _measure(
    peers: list[Peer], base: NDArray[Any], queries: NDArray[Any], rounds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    reader = make_reader()
    arrays = {"base": filled(base.nbytes), "beyond caches": filled(beyond_caches())}
    batches: Measured = {}
    singles: Measured = {}
    speeds: Measured = {}
    for number in range(rounds):
        for threads in THREADS:
            order = peers if number % 2 == 0 else peers[::-1]
            for peer in order:
                key = f"{peer.name} {threads}"
                rows = [row % BATCH for row in range(number * SINGLES, (number + 1) * SINGLES)]
                with thread_limit(threads):
                    peer.search(queries, K, {}, threads)
                    batches.setdefault(key, []).append(_seconds(peer, queries, threads))
                    singles.setdefault(key, []).extend(_seconds(peer, queries[r : r + 1], threads) for r in rows)
            for name, array in arrays.items():
                speeds.setdefault(f"{name} {threads}", []).append(bandwidth(reader, array, threads))
        say(f"round {number + 1} of {rounds}")
    memory = [
        {
            "array": name,
            "bytes": array.nbytes,
            "threads": threads,
            "bytes_per_second": median(speeds[f"{name} {threads}"]),
        }
        for name, array in arrays.items()
        for threads in THREADS
    ]
    searches = [_search_record(p, t, batches, singles, base.nbytes, memory) for t in THREADS for p in peers]
    return searches, memory


def _search_record(
    peer: Peer, threads: int, batches: Measured, singles: Measured, nbytes: int, memory: list[dict[str, Any]]
) -> dict[str, Any]:
    key, ours = f"{peer.name} {threads}", f"{NAMES[0]} {threads}"
    single = median(singles[key])
    return {
        "name": peer.name,
        "version": peer.version(),
        "threads": threads,
        "batch_seconds": median(batches[key]),
        "batch_ratio": median(batches[key]) / median(batches[ours]),
        "batch_ratio_range": _range([theirs / own for theirs, own in zip(batches[key], batches[ours], strict=True)]),
        "single_seconds": single,
        "single_ratio": single / median(singles[ours]),
        "bandwidth_share": {
            speed["array"]: nbytes / single / speed["bytes_per_second"]
            for speed in memory
            if speed["threads"] == threads
        },
    }


def _range(values: list[float]) -> list[float]:
    return [min(values), max(values)]


def _seconds(peer: Peer, queries: NDArray[Any], threads: int) -> float:
    started = time.perf_counter()
    peer.search(queries, K, {}, threads)
    return time.perf_counter() - started
