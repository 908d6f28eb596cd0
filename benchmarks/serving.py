"""A server and the collection that it serves, measured side by side: ``python -m benchmarks.serving glove-100``.

The server is a second process on the same machine; the client and the embedded collection, which follows the one of
the server, are in this one. Figures of overload come from an open loop, whose requests come at fixed times.
"""

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

import nearhash as nh
from benchmarks.contest import Sample, say
from benchmarks.datasets import load
from benchmarks.machine import machine_facts
from benchmarks.recall import recall_at
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from benchmarks.service_report import serving_part
from benchmarks.tables import mebibytes
from benchmarks.truth import ground_truth
from nearhash.service.config import Limits
from nearhash.service.engine.database import COLLECTIONS
from nearhash.service.load import OK, Load, LoadResult, at_rate, run_load, summary

K, BATCH, TARGET = 10, 64, 0.9
INDEXES = {"ivf": "probes", "graph": "beam"}  # and what their effort is called
POINTS = 1000  # of an upsert
IN_FLIGHT = (8, 16, 32, 64)
TIMES_CAPACITY = 10
OVERLOAD_CAPACITY = 20.0  # batches per second, at most: their effort is raised until the server can answer no more
OVERLOAD_UPSERTS, OVERLOAD_POINTS = 0.05, 100
_EFFORTS = [4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 384, 512]
_SAMPLED = 0.1  # seconds between looks at the server's memory


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", nargs="?", default="glove-100", help="%(default)s by default")
    parser.add_argument("--queries", type=int, default=2000, help="%(default)s by default")
    parser.add_argument("--remote-points", type=int, default=100_000, help="inserted over gRPC, %(default)s by default")
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s by default")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement, %(default)s by default")
    parser.add_argument("--overload-seconds", type=float, default=20.0, help="0: not at all; %(default)s by default")
    parser.add_argument("--folder", type=Path, help="where collections are and stay; by default a temporary folder")
    parser.add_argument("--only-fill", action="store_true", help="make the collections in --folder and stop")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    if options.only_fill and options.folder is None:
        parser.error("--only-fill: expected --folder beside it")
    dataset = load(options.dataset)
    sample = Sample(dataset, ground_truth(dataset, K), K).thinned(options.queries)
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        inserted = fill(sample, folder, options.remote_points)
        if options.only_fill:
            return 0
        document = run_serving(sample, folder, inserted, options)
    path = options.results / "serving.json"
    write_document(path, document)
    text = serving_part(read_document(path))  # of rounded figures, as the report writes it
    write_text(options.results / "serving.md", text)
    print(text)
    return 0


# --- points ---


def fill(sample: Sample, folder: Path, remote: int) -> Document:
    """Make the collections, unless a run before has; how fast points came in."""
    noted = folder / "inserted.json"
    if noted.is_file():
        facts: Document = json.loads(noted.read_text())
        return facts
    base = sample.dataset.base
    rates = {}
    for index in INDEXES:
        path = folder / COLLECTIONS / index
        with nh.Collection(path, dim=base.shape[1], metric=sample.dataset.metric, index=index) as collection:
            rates[index] = len(base) / _insert(collection, base)
            started = time.perf_counter()
            collection.compact()
            say(f"{index}: {rates[index]:,.0f} points/s, compacted in {time.perf_counter() - started:.0f} s")
    some = base[:remote]
    with served(folder) as (address, _, _), nh.Client(address, timeout=300) as client:
        collection = client.create_collection("inserts", base.shape[1], sample.dataset.metric, index="ivf")
        over_grpc = len(some) / _insert(collection, some)
        client.drop_collection("inserts")
    say(f"over gRPC: {over_grpc:,.0f} points/s")
    facts = {"embedded": rates["ivf"], "embedded_points": len(base), "grpc": over_grpc, "grpc_points": len(some)}
    write_text(noted, json.dumps(facts))
    return facts


def _insert(collection: Any, rows: Any) -> float:
    """Seconds for all rows, each batch acknowledged before the next."""
    started = time.perf_counter()
    for first in range(0, len(rows), POINTS):
        stop = min(first + POINTS, len(rows))
        collection.upsert(np.arange(first, stop), rows[first:stop])
    return time.perf_counter() - started


# --- the server ---


@contextmanager
def served(folder: Path, *more: str) -> Iterator[tuple[str, int, float]]:
    """A server in a process of its own: address, process id, seconds from its start until it was ready."""
    command = [sys.executable, "-m", "nearhash.command_line", "serve", "--data", str(folder)]
    command += ["--listen", "127.0.0.1:0", "--json", *more]
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("}"):
                break
        else:
            raise OSError(f"nearhash serve ended with {process.wait()}: {text}")
        try:
            yield json.loads(text)["address"], process.pid, time.perf_counter() - started
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


class Memory:
    """Resident bytes of a process, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self.seen: list[int] = [resident(pid)]
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(_SAMPLED):
            self.seen.append(resident(self._pid))

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- measurements ---


def run_serving(sample: Sample, folder: Path, inserted: Document, options: argparse.Namespace) -> Document:
    data, seconds = sample.dataset, options.seconds
    reopened = {index: _reopen(folder / COLLECTIONS / index, data.queries[0]) for index in INDEXES}
    efforts = {index: _effort(sample, folder / COLLECTIONS / index, index) for index in INDEXES}
    with served(folder) as (address, pid, ready):
        batches = [_batches(sample, folder, index, address, efforts[index], options) for index in INDEXES]
        single = _load(sample, address, "graph", efforts["graph"], seconds)
        closed = []
        for in_flight in IN_FLIGHT:
            result = run_load(replace(single, in_flight=in_flight))
            closed.append({"in_flight": in_flight, **_facts(result, "search")})
            say(f"single queries, {in_flight} in flight: {closed[-1]['per_second']:,.0f}/s")
        best = max(one["per_second"] for one in closed)
        half = _open_facts(run_load(at_rate(replace(single, seconds=2 * seconds), best / 2)), "search", best / 2)
        say(f"single queries at half of that: p99 {half['milliseconds']['p99']:.1f} ms")
    overload = None
    if options.overload_seconds:
        metrics = _free_address()
        with served(folder, "--metrics", metrics, "--slow-seconds", "3600") as (address, pid, _):
            overload = _overload(sample, address, pid, metrics, batches[-1], options.overload_seconds)
    return {
        "kind": "serving",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "dataset": {"name": data.name, "base": list(data.base.shape), "metric": data.metric},
        "settings": {
            "k": K, "batch": BATCH, "target": TARGET, "points": POINTS, "queries": len(data.queries),
            "rounds": options.rounds, "seconds": seconds,
        },
        "inserted": inserted,
        "efforts": efforts,
        "batches": batches,
        "single": {"closed": closed, "half": half},
        "overload": overload,
        "reopen": {"embedded_seconds": reopened, "server_seconds": ready},
    }  # fmt: skip


def _reopen(path: Path, query: Any) -> float:
    """Seconds from opening to the first answer, kernels loaded."""
    for _ in range(2):
        started = time.perf_counter()
        with nh.Collection(path) as collection:
            collection.search(query, K)
            seconds = time.perf_counter() - started
    return seconds


def _effort(sample: Sample, path: Path, index: str) -> Document:
    """The least effort that reaches the target."""
    name = INDEXES[index]
    with nh.Collection(path, read_only=True) as collection:
        for value in _EFFORTS:
            ids = collection.search(sample.dataset.queries, K, **{name: value}).ids
            recall = recall_at(sample.dataset, sample.truth, ids, K)
            if recall >= TARGET:
                say(f"{index}: recall {recall:.3f} with {name} {value}")
                return {"name": name, "value": value, "recall": recall}
    raise ValueError(f"{index}: recall {recall:.3f} with {name} {value}, expected {TARGET}")


def _load(sample: Sample, address: str, index: str, effort: Document, seconds: float, **more: Any) -> Load:
    queries = sample.dataset.queries
    efforts = {effort["name"]: effort["value"]}
    return Load(address, index, queries, k=K, effort=efforts, seconds=seconds, warmup=1.0, batch=BATCH, **more)


def _batches(
    sample: Sample, folder: Path, index: str, address: str, effort: Document, options: argparse.Namespace
) -> Document:
    """Queries per second in batches, of the collection and of the server, in turn."""
    remote = _load(sample, address, index, effort, options.seconds, mix={"batch": 1.0}, in_flight=4)
    rounds: dict[str, list[float]] = {"embedded": [], "grpc": []}
    with nh.Collection(folder / COLLECTIONS / index, read_only=True) as collection:
        for number in range(options.rounds):
            for kind in ("embedded", "grpc") if number % 2 else ("grpc", "embedded"):
                if kind == "grpc":
                    rate = _facts(run_load(remote), "batch")["per_second"] * BATCH
                else:
                    rate = _embedded_rate(collection, sample.dataset.queries, effort, options.seconds)
                rounds[kind].append(rate)
    ratio = median(rounds["grpc"]) / median(rounds["embedded"])
    say(f"{index}, batches: {median(rounds['grpc']):,.0f} of {median(rounds['embedded']):,.0f} QPS, {ratio:.2f}")
    return {"index": index, "effort": effort, "rounds": rounds, "ratio": ratio}


def _embedded_rate(collection: nh.Collection, queries: Any, effort: Document, seconds: float) -> float:
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        chosen = np.arange(count, count + BATCH) % len(queries)
        collection.search(queries[chosen], K, **{effort["name"]: effort["value"]})
        count += BATCH
    return count / elapsed


def _facts(result: LoadResult, kind: str) -> Document:
    """Of a load in which every request must be answered."""
    measured = result.kinds[kind]
    if set(measured.codes) != {OK}:
        raise RuntimeError(f"expected every request to be answered, got {dict(measured.codes)}")
    return summary(measured, result.seconds)


def _open_facts(result: LoadResult, kind: str, rate: float) -> Document:
    return {"rate": rate, "client_lag_ms": result.lag * 1e3, **_facts(result, kind)}


def _overload(sample: Sample, address: str, pid: int, metrics: str, batches: Document, seconds: float) -> Document:
    """Many times the batches that the server can answer, and writes among them.

    Batches that take long: a client beside the server on the same cores must be able to send so many more.
    """
    effort, timeout = batches["effort"], 10.0
    asked = _load(
        sample, address, batches["index"], effort, seconds, timeout=timeout, points=OVERLOAD_POINTS,
        mix={"batch": 1 - OVERLOAD_UPSERTS, "upsert": OVERLOAD_UPSERTS},
    )  # fmt: skip
    value, capacity = effort["value"], math.inf
    for times in (8.0, None):  # slower, and then as slow as it takes
        value *= max(1.0, capacity / OVERLOAD_CAPACITY) if times is None else times
        effort = {**effort, "value": min(math.ceil(value), Limits().max_effort)}
        asked = replace(asked, effort={effort["name"]: effort["value"]})
        possible = replace(asked, mix={"batch": 1.0}, in_flight=4, seconds=seconds / 2)
        capacity = _facts(run_load(possible), "batch")["per_second"]
    before = counted(metrics)
    with Memory(pid) as memory:
        result = run_load(at_rate(asked, TIMES_CAPACITY * capacity))
    after = counted(metrics)
    with nh.Client(address, timeout=60) as client:
        collection = client.collection(batches["index"])
        written = sum(stop - first for first, stop in result.written)
        there = 0
        for first, stop in result.written:
            points = collection.get(range(first, stop), vectors=False, payloads=False)
            there += sum(point is not None for point in points)
            collection.delete(range(first, stop))
    kinds = {kind: summary(measured, result.seconds) for kind, measured in result.kinds.items()}
    sent = sum(one["requests"] for one in kinds.values())
    say(f"overload: {sent / seconds:,.0f} requests/s, {sum(one['refused'] for one in kinds.values()):,} refused")
    say(f"overload: {mebibytes(memory.seen[0])} MiB before, {mebibytes(max(memory.seen))} MiB at most")
    return {
        "times_capacity": TIMES_CAPACITY,
        "index": batches["index"],
        "capacity": capacity,
        "effort": effort,
        "points": OVERLOAD_POINTS,
        "sent_per_second": sent / seconds,
        "seconds": result.seconds,
        "deadline_seconds": timeout,
        "client_lag_ms": result.lag * 1e3,
        "kinds": kinds,
        "server": {
            "waited_seconds": {
                queue: {f"p{share:g}": waited(before, after, queue, share) for share in (50, 99)}
                for queue in ("search", "write")
            },
            "refused": {
                dict(labels)["reason"]: int(value - before.get((name, labels), 0))
                for (name, labels), value in after.items()
                if name == "nearhash_refusals_total"
            },
        },
        "memory_before": memory.seen[0],
        "memory_most": max(memory.seen),
        "written": written,
        "written_there": there,
    }


# --- what the server counts ---

Counted = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""By name and labels."""


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def counted(metrics: str) -> Counted:
    """The server's own counts, of searches and everything else, since it started."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def waited(before: Counted, after: Counted, queue: str, share: float) -> float | None:
    """Seconds that so many percent of the jobs of a queue have waited at most: the bound of a bucket."""
    name, bounds = "nearhash_queue_seconds_bucket", []
    for (one, labels), value in after.items():
        named = dict(labels)
        if one == name and named["queue"] == queue:
            bounds.append((float(named["le"]), value - before.get((one, labels), 0)))
    bounds.sort()
    if not bounds or not bounds[-1][1]:
        return None
    bound = next(bound for bound, count in bounds if count >= share / 100 * bounds[-1][1])
    return bound if math.isfinite(bound) else None


if __name__ == "__main__":
    sys.exit(main())
