"""Sketches of weighted sets beside datasketch's: ``python -m benchmarks.weighted``; see ``--help``."""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.peers import thread_limit
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import Document, figure, machine_line, table

K, UNIVERSE = 128, 10_000
PEER = "datasketch WeightedMinHash"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weighted", description=__doc__)
    parser.add_argument("--sets", type=int, default=400, help="%(default)s by default")
    parser.add_argument("--tokens", type=int, default=500, help="of a set, %(default)s by default")
    parser.add_argument("--rounds", type=int, default=7, help="%(default)s by default")
    options = parser.parse_args(arguments)
    with thread_limit(1):
        document = run_weighted(options.sets, options.tokens, options.rounds)
    path = RESULTS / "weighted.json"
    write_document(path, document)
    write_text(path.with_suffix(".md"), "# weighted\n\n" + weighted_table(rounded(read_document(path))))
    return 0


def run_weighted(sets: int, tokens: int, rounds: int) -> Document:
    """Time every sketcher in every round on one thread, and return the document of results."""
    from datasketch import WeightedMinHashGenerator

    import nearhash as nh

    rng = np.random.default_rng(1)
    dense = np.zeros((sets, UNIVERSE))
    for row in dense:
        row[rng.choice(UNIVERSE, tokens, replace=False)] = rng.exponential(1, tokens)
    members, columns = np.nonzero(dense)
    indptr = np.searchsorted(members, np.arange(sets + 1))
    values, ids = dense[members, columns], columns.astype(np.uint64)
    peer = WeightedMinHashGenerator(UNIVERSE, sample_size=K, seed=1)
    searches: dict[str, Callable[[], Any]] = {}
    for method in ("icws", "probminhash"):
        hasher = nh.hashing.WeightedMinHash(K, method=method, seed=1)
        searches[f"nearhash {method}"] = partial(hasher.sketch, indptr, ids, values, threads=1)
    searches[PEER] = partial(peer.minhash_many, dense)
    labels, times = list(searches), {label: [] for label in searches}  # type: dict[str, list[float]]
    for label in labels:
        searches[label]()
    say("warm")
    for number in range(rounds):
        for position in range(len(labels)):
            label = labels[(number + position) % len(labels)]
            started = time.thread_time()
            searches[label]()
            times[label].append(1e6 * (time.thread_time() - started) / sets)
    return {
        "kind": "weighted",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "k": K,
            "sets": sets,
            "tokens": tokens,
            "universe": UNIVERSE,
            "rounds": rounds,
            "datasketch": version("datasketch"),
        },
        "sketchers": [{"name": label, "us": times[label]} for label in labels],
    }


def weighted_table(document: Document) -> str:
    """What was measured, and the table."""
    settings = document["settings"]
    peer = next(entry["us"] for entry in document["sketchers"] if entry["name"] == PEER)
    rows = [
        [
            entry["name"],
            figure(median(entry["us"])),
            figure(1e3 * median(entry["us"]) / settings["tokens"]),
            f"{median(peer) / median(entry['us']):.1f}x",
        ]
        for entry in document["sketchers"]
    ]
    return f"""\
{settings["sets"]:,} sets of {settings["tokens"]} tokens with weights, k = {settings["k"]}, one thread,
{settings["rounds"]} rounds, processor time.
{machine_line(document)}
datasketch {settings["datasketch"]} (ICWS) takes vectors over a fixed universe, here of {settings["universe"]:,} tokens,
in bulk.

{table(["sketcher", "us a set", "ns a token", "as fast as datasketch"], rows)}"""


def weighted_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    return f"## Weighted sets\n\n{weighted_table(document)}"


if __name__ == "__main__":
    raise SystemExit(main())
