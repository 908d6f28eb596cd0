"""SimHash beside faiss and a matrix product of NumPy: ``python -m benchmarks.simhash``; see ``--help``."""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.peers import thread_limit
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import Document, figure, machine_line, table

BITS = 256
SUBJECT = "nearhash hadamard"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simhash", description=__doc__)
    parser.add_argument("--dataset", default="glove-100", help="%(default)s by default")
    parser.add_argument("--vectors", type=int, default=100_000, help="%(default)s by default")
    parser.add_argument("--rounds", type=int, default=9, help="%(default)s by default")
    options = parser.parse_args(arguments)
    path = RESULTS / "simhash.json"
    with thread_limit(1):
        document = run_simhash(options.dataset, options.vectors, options.rounds)
    write_document(path, document)
    write_text(path.with_suffix(".md"), "# simhash\n\n" + simhash_table(rounded(read_document(path))))
    return 0


def run_simhash(name: str, count: int, rounds: int) -> Document:
    """Time every encoder in every round on one thread, and return the document of results."""
    import faiss

    from nearhash.hashing import SimHash

    faiss.omp_set_num_threads(1)
    vectors = np.ascontiguousarray(datasets.load(name).base[:count])
    dim = vectors.shape[1]
    peer = faiss.IndexLSH(dim, BITS, True, False)
    peer.train(vectors)
    projections = np.random.default_rng(1).standard_normal((dim, BITS)).astype(np.float32)
    encoders: dict[str, Callable[[], Any]] = {
        SUBJECT: partial(SimHash(dim, BITS).encode, vectors, threads=1),
        "nearhash gaussian": partial(SimHash(dim, BITS, method="gaussian").encode, vectors, threads=1),
        "faiss IndexLSH": partial(peer.sa_encode, vectors),
        "NumPy, product and packbits": lambda: np.packbits(vectors @ projections >= 0, axis=1),
    }
    names, times = list(encoders), {name: [] for name in encoders}  # type: dict[str, list[float]]
    for label in names:
        encoders[label]()
    say("warm")
    for number in range(rounds):
        for position in range(len(names)):
            label = names[(number + position) % len(names)]
            started = time.perf_counter()
            encoders[label]()
            times[label].append(1e9 * (time.perf_counter() - started) / len(vectors))
    return {
        "kind": "simhash",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {"dataset": name, "vectors": list(vectors.shape), "bits": BITS, "rounds": rounds},
        "encoders": [{"name": label, "ns": times[label]} for label in names],
    }


def simhash_table(document: Document) -> str:
    """What was measured, and the table."""
    settings = document["settings"]
    count, dim = settings["vectors"]
    fastest = next(median(entry["ns"]) for entry in document["encoders"] if entry["name"] == SUBJECT)
    rows = [
        [
            entry["name"],
            figure(1e3 / median(entry["ns"])),
            figure(median(entry["ns"])),
            f"{median(entry['ns']) / fastest:.2f}x",
        ]
        for entry in document["encoders"]
    ]
    return f"""\
{count:,} vectors of {dim} dimensions ({settings["dataset"]}), codes of {settings["bits"]} bits, one thread, medians of
{settings["rounds"]} rounds. {machine_line(document)}

{table(["encoder", "million vectors/s", "ns a vector", "time of nearhash's"], rows)}"""


def simhash_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    return f"## SimHash\n\n{simhash_table(document)}"


if __name__ == "__main__":
    raise SystemExit(main())
