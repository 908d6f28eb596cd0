"""MinHashLSH against datasketch and rensa: ``python -m benchmarks.banding``; see ``--help``.

Each library runs in a process of its own, so that its memory is its own, on one thread, over its own sketches of the
same sets and with the same bands and rows.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest import say
from benchmarks.machine import machine_facts, resident_bytes
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from benchmarks.tables import figure, machine_line, table

PAGE = Path(__file__).parents[1] / "docs" / "minhash-lsh.md"
BEGIN, END = "<!-- figures: written by python -m benchmarks.banding -->", "<!-- end of figures -->"
K, BANDS, ROWS = 128, 16, 8
TOKENS, SHARED = 45, {"0.8": 40, "0.5": 30}  # tokens of a set, and those that the two of a pair have in common
SINGLE = 2000  # queries of one sketch a call
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.banding", description="Banded indexes of sketches.")
    parser.add_argument("--sets", type=int, default=100_000, help="%(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="of each library, %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--report", action="store_true", help="write the page from the figures that are there")
    parser.add_argument("--step", choices=sorted(LIBRARIES), help=argparse.SUPPRESS)  # a child process
    options = parser.parse_args(arguments)
    if options.step:
        print(json.dumps(_measure(LIBRARIES[options.step], options.sets)))
        return 0
    path = options.results / "banding.json"
    if not options.report:
        write_document(path, run_banding(options.sets, options.rounds))
    document = read_document(path)
    write_text(path.with_suffix(".md"), banding_table(document))
    write_text(PAGE, with_figures(PAGE.read_text(encoding="utf-8"), document))
    return 0


# --- data ---


class Sets(NamedTuple):
    """Sets of tokens (n, TOKENS) uint32, all alike in size, and planted pairs (p, 2) by their similarity."""

    tokens: NDArray[np.uint32]
    planted: dict[str, NDArray[np.int64]]


def make_sets(count: int) -> Sets:
    """A fifth of the sets are in pairs of similarity .8, a fifth in pairs of .5, the others are alone."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 2**32, (count, TOKENS), np.uint32)
    order, planted = rng.permutation(count), {}
    for number, (name, shared) in enumerate(SHARED.items()):
        pairs = order[number * (count // 5) : (number + 1) * (count // 5)]
        pairs = np.sort(pairs[: len(pairs) // 2 * 2].reshape(-1, 2), axis=1)
        tokens[pairs[:, 1], :shared] = tokens[pairs[:, 0], :shared]
        planted[name] = pairs
    return Sets(tokens, planted)


# --- libraries ---


class Library(NamedTuple):
    """What is measured of a library; sketches are made beforehand.

    sketches(tokens) -> sketches; new() -> index; insert(index, sketches); pairs(index, sketches) -> (p, 2) of each
    candidate pair once; query_one(index, sketches, i).
    """

    package: str
    sketches: Callable[[NDArray[np.uint32]], Any]
    new: Callable[[], Any]
    insert: Callable[[Any, Any], None]
    pairs: Callable[[Any, Any], NDArray[np.int64]]
    query_one: Callable[[Any, Any, int], Any]


def _nearhash(verify: bool) -> Library:
    import nearhash as nh

    def sketches(tokens: NDArray[np.uint32]) -> Any:
        indptr = np.arange(len(tokens) + 1) * tokens.shape[1]
        return nh.hashing.MinHash(K).sketch(indptr, tokens.reshape(-1).astype(np.uint64), threads=1)

    def new() -> Any:
        return nh.MinHashLSH(0.7, K, BANDS, ROWS, threads=1, keep_sketches=verify)

    def pairs(index: Any, _: Any) -> NDArray[np.int64]:
        blocks = [np.stack([block.left, block.right], axis=1) for block in index.pairs(verify=verify, threads=1)]
        return np.concatenate(blocks)

    def query_one(index: Any, sketches: Any, i: int) -> Any:
        return index.query(sketches[i : i + 1], verify=verify, threads=1)

    warm = new()
    few = sketches(np.zeros((300, 3), np.uint32))
    for part in (few, few):
        warm.add(part)
    warm.query(few, verify=verify, threads=1)
    pairs(warm, None)
    return Library("nearhash", sketches, new, lambda index, sketches: index.add(sketches), pairs, query_one)


def _datasketch() -> Library:
    import datasketch

    def sketches(tokens: NDArray[np.uint32]) -> Any:
        return list(datasketch.MinHash.generator([[t.tobytes() for t in row] for row in tokens], num_perm=K))

    def insert(index: Any, sketches: Any) -> None:
        with index.insertion_session() as session:
            for key, sketch in enumerate(sketches):
                session.insert(key, sketch, check_duplication=False)

    def pairs(index: Any, sketches: Any) -> NDArray[np.int64]:
        found = [(i, j) for i, sketch in enumerate(sketches) for j in index.query(sketch) if j > i]
        return np.array(found, np.int64).reshape(-1, 2)

    return Library(
        "datasketch",
        sketches,
        lambda: datasketch.MinHashLSH(params=(BANDS, ROWS), num_perm=K),
        insert,
        pairs,
        lambda index, sketches, i: index.query(sketches[i]),
    )


def _rensa() -> Library:
    import rensa

    def sketches(tokens: NDArray[np.uint32]) -> Any:
        return rensa.RMinHash.from_token_sets([[str(t) for t in row] for row in tokens.tolist()], K, 1)

    def pairs(index: Any, sketches: Any) -> NDArray[np.int64]:
        found = [(i, j) for i, row in enumerate(index.query_all(sketches)) for j in row if j > i]
        return np.array(found, np.int64).reshape(-1, 2)

    return Library(
        "rensa",
        sketches,
        lambda: rensa.RMinHashLSH(0.7, K, BANDS),
        lambda index, sketches: index.insert_many(sketches),
        pairs,
        lambda index, sketches, i: index.query(sketches[i]),
    )


LIBRARIES: dict[str, Callable[[], Library]] = {
    "nearhash": lambda: _nearhash(False),
    "nearhash, verified": lambda: _nearhash(True),
    "datasketch": _datasketch,
    "rensa": _rensa,
}


# --- measure ---


def run_banding(sets: int, rounds: int) -> Document:
    """Run all libraries in turn, several times, and return the document of results."""
    runs: dict[str, list[Document]] = {name: [] for name in LIBRARIES}
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    for number in range(rounds):
        for name, found in runs.items():
            command = [sys.executable, "-m", "benchmarks.banding", "--step", name, "--sets", str(sets)]
            child = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(child.stdout.splitlines()[-1]))
            say(f"round {number + 1}, {name}: measured")
    return {
        "kind": "banding",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {"sets": sets, "tokens": TOKENS, "k": K, "bands": BANDS, "rows": ROWS, "rounds": rounds},
        "libraries": [
            {
                "name": name,
                "version": found[0]["version"],
                **{
                    key: statistics.median(run[key] for run in found)
                    for key in found[0]
                    if key not in ("version", "found")
                },
                "found": found[0]["found"],
            }
            for name, found in runs.items()
        ],
    }


def _measure(make: Callable[[], Library], count: int) -> Document:
    data, library = make_sets(count), make()
    sketches = library.sketches(data.tokens)
    gc.collect()
    gc.disable()  # pauses that grow with the number of Python objects are not held against anybody
    before = _held_bytes()
    started = time.perf_counter()
    index = library.new()
    library.insert(index, sketches)
    inserted = time.perf_counter()
    grown = _held_bytes() - before
    queried = time.perf_counter()
    pairs = library.pairs(index, sketches)
    done = time.perf_counter()
    for i in range(SINGLE):
        library.query_one(index, sketches, i)
    single = time.perf_counter() - done
    found = set(map(tuple, pairs.tolist()))
    planted = {name: {tuple(pair) for pair in own.tolist()} for name, own in data.planted.items()}
    return {
        "version": version(library.package),
        "insert_per_second": count / (inserted - started),
        "pairs_seconds": done - queried,
        "query_per_second": count / (done - queried),
        "query_one_us": single / SINGLE * 1e6,
        "bytes_per_band": grown / (count * BANDS),
        "own_bytes_per_band": (index.nbytes - index.sketch_nbytes) / (count * BANDS) if hasattr(index, "nbytes") else 0,
        "found": {
            **{name: len(own & found) / len(own) for name, own in planted.items()},
            "others": len(found - set().union(*planted.values())),
        },
    }


def _held_bytes() -> int:
    """Memory of this process, without what its allocator only keeps for later."""
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes() or 0


def banding_table(document: Document) -> str:
    """The results in words and a table."""
    settings, libraries = document["settings"], document["libraries"]
    subject = libraries[0]
    rows = [
        [
            f"{own['name']} {own['version']}",
            *(
                f"{figure(own[key])} ({own[key] / subject[key]:.2g}x)"
                for key in ("insert_per_second", "pairs_seconds", "query_one_us")
            ),
            figure(own["bytes_per_band"]),
            *(f"{own['found'][name]:.3f}" for name in SHARED),
            str(own["found"]["others"]),
        ]
        for own in libraries
    ]
    header = ["", "inserted per second", "all pairs, s", "one query a call, us", "bytes / (set, band)"]
    header += [*(f"found of pairs at {name}" for name in SHARED), "other pairs"]
    return f"""\
{settings["sets"]:,} sets of {settings["tokens"]} tokens, {settings["bands"]} bands of {settings["rows"]} values of k = {settings["k"]}; each library over its own
sketches, which were made beforehand; one thread, median of {settings["rounds"]} runs. In brackets: times that of the first row.
{machine_line(document)}

{table(header, rows)}
"All pairs": every candidate pair in the index, once. "Verified": sketches are kept, and only pairs of an estimated
similarity of at least .7 are given; the other rows are candidates as they come. Bytes are what the process grew by
during insertion; by nearhash's own account, without sketches, {figure(subject["own_bytes_per_band"])}.
"""  # noqa: E501


def banding_part(document: Document) -> str:
    """The part of the page of benchmarks."""
    return f"## MinHashLSH\n\n{banding_table(document)}"


def with_figures(page: str, document: Document) -> str:
    """The page with its figures written anew."""
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"docs/minhash-lsh.md: expected the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{banding_table(document)}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
