"""A process that holds one store and does what the benchmark asks: ``python -m benchmarks.store_peers.worker NAME``.

Times are taken here, so that pipes do not count.
"""

import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.store_peers import make_store
from benchmarks.store_peers.base import Store
from benchmarks.store_peers.pipes import Arrays, receive, send


def main(name: str) -> int:
    commands = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    try:
        store = make_store(name)
        version = store.version()
    except Exception as error:
        send(answers, _failure(error))
        return 1
    facts = {name: getattr(store, name) for name in ("durability", "configuration", "ladders")}
    send(answers, {"version": version, **facts})
    try:
        _serve(store, commands, answers)
    finally:
        store.close()
    return 0


def _serve(store: Store, commands: IO[bytes], answers: IO[bytes]) -> None:
    while True:
        try:
            message, arrays = receive(commands)
        except EOFError:
            return
        try:
            reply, results = _answer(store, message, arrays)
        except Exception as error:
            reply, results = _failure(error), {}
        send(answers, reply, **results)
        if message["do"] == "close":
            return


def _failure(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}


def _answer(store: Store, message: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    do = message["do"]
    started = time.perf_counter()
    if do == "open":
        store.open(Path(message["folder"]), message["dim"], message["metric"], message["size"])
    elif do == "insert":
        return _insert(store, message)
    elif do == "finish":
        store.finish()
    elif do == "search":
        return _search(store, message, arrays)
    elif do == "memory":
        return {"bytes": tree_bytes(os.getpid())}, {}
    elif do == "close":
        store.close()
    else:
        raise ValueError(f"do: expected a command, got {do!r}")
    return {"seconds": time.perf_counter() - started}, {}


def _insert(store: Store, message: dict[str, Any]) -> tuple[dict[str, Any], Arrays]:
    vectors = np.load(message["vectors"], mmap_mode="r")
    buckets = np.load(message["buckets"])
    seconds: list[float] = []
    for first in range(0, len(vectors), message["batch"]):
        rows = np.ascontiguousarray(vectors[first : first + message["batch"]])
        ids = np.arange(first, first + len(rows))
        started = time.perf_counter()
        store.insert(ids, rows, buckets[first : first + len(rows)])
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > message["budget"]:
            break
    return {"inserted": first + len(rows)}, {"seconds": np.array(seconds)}


def _search(store: Store, message: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """One call for each query, as many as fit in the budget of seconds, but 20 at least."""
    queries, k, effort = arrays["queries"], message["k"], message["effort"]
    buckets = arrays["buckets"].tolist() if "buckets" in arrays else [None] * len(queries)
    store.prepare(effort)
    found = np.full((len(queries), k), -1, np.int64)
    seconds: list[float] = []
    begun = time.perf_counter()
    for row, (query, bucket) in enumerate(zip(queries, buckets, strict=True)):
        started = time.perf_counter()
        ids = store.search(query, k, effort, bucket)
        seconds.append(time.perf_counter() - started)
        found[row, : len(ids)] = ids
        if row >= 19 and time.perf_counter() - begun > message["budget"]:
            break
    return {}, {"ids": found[: len(seconds)], "seconds": np.array(seconds)}


def tree_bytes(root: int) -> int:
    """Memory of a process and all that it started, what several of them share counted once."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        children.setdefault(parent, []).append(int(path.parent.name))
    total, waiting = 0, [root]
    while waiting:
        one = waiting.pop()
        waiting += children.get(one, [])
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
