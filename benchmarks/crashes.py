"""Kills a writing process again and again and looks at what is left: `python -m benchmarks.crashes --cycles 1000`.

Each cycle a child opens the collection and writes from two threads while segments are sealed, merged and checkpointed
all the time. It reports every write before it starts and after it was acknowledged, and is killed by SIGKILL at a
random moment. Then the collection is opened, and must hold exactly what was acknowledged: of each thread's writes all
that were acknowledged, and at most the one after them, whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record import RESULTS, write_document
from nearhash.service.engine import failpoints, kinds, maintenance
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.failpoints import EXIT_CODE
from nearhash.service.engine.kinds import FLAT_BELOW

DIM = 16
WRITERS = 2
RANGE = 600  # ids of one writer
_MOST_POINTS = 40  # of one write
SETTINGS: dict[str, Any] = {"dim": DIM, "metric": "l2", "labels": ("own",), "index": "ivf", "seal_at": 150}


class Write(NamedTuple):
    """A write that follows from (seed, writer, number): ids to be written with a version, or deleted."""

    kind: str
    ids: list[int]
    version: int


def write_of(seed: int, writer: int, number: int) -> Write:
    """The write of this number: the same whenever it is asked for."""
    draw = random.Random(f"{seed}-{writer}-{number}")
    kind = "delete" if draw.random() < 0.3 else "upsert"
    count = draw.randint(1, _MOST_POINTS)
    ids = sorted(writer * RANGE + one for one in draw.sample(range(RANGE), count))
    return Write(kind, ids, number)


def vector_of(own: int, version: int) -> Any:
    """A vector that says which point and version it is of."""
    return np.random.default_rng((own, version)).standard_normal(DIM).astype(np.float32)


def payload_of(own: int, version: int) -> dict[str, Any]:
    return {"version": version, "text": "x" * (own * 7 % 50)}


def carry_out(collection: Collection, write: Write) -> None:
    if write.kind == "delete":
        collection.delete(write.ids)
        return
    collection.upsert(
        write.ids,
        np.stack([vector_of(own, write.version) for own in write.ids]),
        labels=[float(own) for own in write.ids],
        payloads=[payload_of(own, write.version) for own in write.ids],
    )


def applied(model: dict[int, int], write: Write) -> dict[int, int]:
    """The versions of ids after a write."""
    changed = dict(model)
    for own in write.ids:
        changed.pop(own, None)
        if write.kind == "upsert":
            changed[own] = write.version
    return changed


# --- the child that is killed ---


def child(folder: Path, seed: int, done: list[int], report: int, failpoint: str | None = None) -> None:
    """Write until killed, or until `failpoint`. `done`: writes of each writer that are in the collection already."""
    failpoints.arm(failpoint)
    kinds.FLAT_BELOW = 100
    maintenance.IDLE_SECONDS, maintenance.LOG_BYTES, maintenance.IDLE_SEAL = 0.02, 1 << 18, 20
    collection = Collection(folder, threads=1)

    def write(writer: int) -> None:
        number = done[writer]
        while True:
            os.write(report, f"{writer} {number} begun\n".encode())
            carry_out(collection, write_of(seed, writer, number))
            os.write(report, f"{writer} {number} done\n".encode())
            number += 1

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    queries = np.stack([vector_of(own, 0) for own in range(8)])
    draw = random.Random(seed + sum(done))
    while True:
        collection.search(queries, k=5)
        if draw.random() < 0.02:
            collection.compact()


def run_and_kill(
    folder: Path, seed: int, done: list[int], seconds: float, failpoint: str | None = None
) -> tuple[list[int], list[bool]]:
    """Let a child write and kill it, or let it die at a failpoint within so many seconds.

    Returns how many writes of each writer are acknowledged, and of whom the next had begun.
    """
    receive, send = os.pipe()
    pid = in_child(lambda: child(folder, seed, done, send, failpoint), receive)
    os.close(send)
    text, deadline, killed = b"", time.monotonic() + seconds, False
    while True:
        left = deadline - time.monotonic()
        if left <= 0 and not killed:
            os.kill(pid, signal.SIGKILL)
            killed = True
        if select.select([receive], [], [], None if killed else left)[0]:
            part = os.read(receive, 1 << 16)
            if not part:
                break
            text += part
    os.close(receive)
    _, status = os.waitpid(pid, 0)
    expected = os.WIFSIGNALED(status) if failpoint is None else os.waitstatus_to_exitcode(status) == EXIT_CODE
    if not expected:
        raise AssertionError(f"the writing process ended with status {status}; failpoint {failpoint}")
    acknowledged, begun = list(done), [False] * WRITERS
    for line in text.decode().split("\n")[:-1]:
        writer, number, what = line.split()
        if what == "done":
            acknowledged[int(writer)] = int(number) + 1
        begun[int(writer)] = what == "begun"
    return acknowledged, begun


def in_child(work: Callable[[], None], *close: int) -> int:
    """Run something in a fork; the parent holds no threads and no collection, so that it may."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for descriptor in close:
            os.close(descriptor)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


# --- what is left ---


class Left(NamedTuple):
    """What a collection held after a crash: which models fit, how many repairs, seconds to open, recall."""

    kept: list[int]
    size: int
    recovered: int
    seconds: float
    recall: float


def examine(folder: Path, seed: int, models: list[dict[int, int]], acknowledged: list[int], begun: list[bool]) -> Left:
    """Compare a collection with what was acknowledged; raises AssertionError where it differs."""
    started = time.perf_counter()
    with Collection(folder, threads=1) as collection:
        seconds = time.perf_counter() - started
        kept, expected = [], {}
        for writer in range(WRITERS):
            points = collection.get(range(writer * RANGE, (writer + 1) * RANGE), vectors=True)
            found = {point.id: point.payload["version"] for point in points if point is not None}
            candidates = [(acknowledged[writer], models[writer])]
            if begun[writer]:
                following = applied(models[writer], write_of(seed, writer, acknowledged[writer]))
                candidates.append((acknowledged[writer] + 1, following))
            fitting = [number for number, model in candidates if model == found]
            if not fitting:
                lost = sorted(models[writer].items() - found.items())[:5]
                extra = sorted(found.items() - models[writer].items())[:5]
                raise AssertionError(f"writer {writer}: acknowledged but not there {lost}, there but not so {extra}")
            kept.append(fitting[0])
            for point in points:
                if point is not None:
                    assert np.array_equal(point.vector, vector_of(point.id, found[point.id])), point.id
                    assert point.payload == payload_of(point.id, found[point.id]), point.id
                    assert point.labels == {"own": float(point.id)}, point.id
            expected.update(found)
        assert len(collection) == len(expected)
        recall = _recall(collection, expected) if expected else 1.0
        return Left(kept, len(collection), len(collection.stats()["recovered"]), seconds, recall)


def _recall(collection: Collection, expected: dict[int, int]) -> float:
    """Recall of searches for other vectors; results that are not there, or at a wrong distance, raise."""
    ids = np.array(sorted(expected))
    matrix = np.stack([vector_of(own, expected[own]) for own in ids.tolist()])
    queries = np.random.default_rng(5).standard_normal((20, DIM)).astype(np.float32)
    found = collection.search(queries, k=10)
    exact = ((queries[:, None] - matrix[None]) ** 2).sum(axis=2)
    nearest = ids[np.argsort(exact, axis=1, kind="stable")[:, :10]]
    for row, (own, distances) in enumerate(zip(found.ids, found.distances, strict=True)):
        for one, distance in zip(own.tolist(), distances.tolist(), strict=True):
            if one >= 0:
                assert one in expected, f"id {one} came back"
                assert abs(exact[row, np.searchsorted(ids, one)] - distance) < 1e-3
    hits = [len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), nearest.tolist(), strict=True)]
    return sum(hits) / nearest.size


def cycles(
    folder: Path, seed: int, deaths: Sequence[tuple[float, str | None]], each: Callable[[int, Left], None]
) -> list[Left]:
    """Let a child die and examine what is left, for each of `deaths`: (seconds, failpoint or None)."""
    _load_kernels()
    Collection(folder, **SETTINGS).close()
    models: list[dict[int, int]] = [{} for _ in range(WRITERS)]
    done = [0] * WRITERS
    lefts = []
    for number, (seconds, failpoint) in enumerate(deaths, 1):
        acknowledged, begun = run_and_kill(folder, seed, done, seconds, failpoint)
        for writer in range(WRITERS):
            for one in range(done[writer], acknowledged[writer]):
                models[writer] = applied(models[writer], write_of(seed, writer, one))
        left = _examined_in_child(folder, seed, models, acknowledged, begun)
        for writer in range(WRITERS):
            if left.kept[writer] > acknowledged[writer]:
                models[writer] = applied(models[writer], write_of(seed, writer, acknowledged[writer]))
        done = left.kept
        lefts.append(left)
        each(number, left)
    return lefts


def _load_kernels() -> None:
    """Here, so that no child spends its short life on it; the threads of it have ended when children are made."""
    with tempfile.TemporaryDirectory() as name, Collection(Path(name) / "points", **SETTINGS) as collection:
        for first in range(0, 2 * FLAT_BELOW, FLAT_BELOW):
            ids = range(first, first + FLAT_BELOW)
            vectors = np.random.default_rng(first).standard_normal((FLAT_BELOW, DIM))
            collection.upsert(ids, vectors, labels=ids, payloads=[payload_of(own, 0) for own in ids])
            collection.search(vectors[:20], k=10)
            collection.seal()
        collection.delete([1, 2])
        collection.search(vectors[:20], k=10)
        collection.compact()


def _examined_in_child(
    folder: Path, seed: int, models: list[dict[int, int]], acknowledged: list[int], begun: list[bool]
) -> Left:
    receive, send = os.pipe()

    def work() -> None:
        os.write(send, json.dumps(examine(folder, seed, models, acknowledged, begun)).encode())

    pid = in_child(work, receive)
    os.close(send)
    text = b""
    while part := os.read(receive, 1 << 16):
        text += part
    os.close(receive)
    _, status = os.waitpid(pid, 0)
    if status:
        raise AssertionError("what was left is not what was acknowledged; see above")
    return Left(*json.loads(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=0.4, help="seconds a child may write")
    parser.add_argument("--failpoints", type=int, default=0, help="instead: die so often at each step")
    parser.add_argument("--result", type=Path, default=RESULTS / "crashes.json")
    arguments = parser.parse_args()
    started = time.perf_counter()
    draw = random.Random(arguments.seed)
    deaths: list[tuple[float, str | None]]
    if arguments.failpoints:
        deaths = [
            (30.0, f"{name}@{draw.randint(1, 4)}") for _ in range(arguments.failpoints) for name in failpoints.ALL
        ]
    else:
        deaths = [(draw.uniform(0.0, arguments.longest), None) for _ in range(arguments.cycles)]

    def each(number: int, left: Left) -> None:
        if number % 50 == 0 or number == len(deaths):
            writes = sum(left.kept)
            print(f"{number} cycles, {writes:,} writes, {left.size} points, recall {left.recall:.3f}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        lefts = cycles(Path(name) / "points", arguments.seed, deaths, each)
    write_document(
        arguments.result,
        {
            "kind": "crashes",
            "cycles": len(lefts),
            "failpoints": bool(arguments.failpoints),
            "seed": arguments.seed,
            "writes": sum(lefts[-1].kept),
            "repairs": sum(left.recovered for left in lefts),
            "open_seconds_median": float(np.median([left.seconds for left in lefts])),
            "open_seconds_most": max(left.seconds for left in lefts),
            "recall_least": min(left.recall for left in lefts),
            "seconds": time.perf_counter() - started,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
