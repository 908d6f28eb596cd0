"""Kernel sums by hashing against uniform sampling at equal reads: ``python -m benchmarks.sampling``."""

import argparse
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import Document, figure, machine_line, table

TABLES, QUERIES = 64, 50
BANDWIDTHS = {"gaussian": (0.5, 0.35, 0.25, 0.2), "laplace": (0.3, 0.15, 0.1, 0.07)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--dataset", default="glove-100", help="%(default)s by default")
    parser.add_argument("--points", type=int, default=20_000, help="%(default)s by default")
    parser.add_argument("--seeds", type=int, default=20, help="of the hash functions, %(default)s by default")
    options = parser.parse_args(arguments)
    path = RESULTS / "sampling.json"
    write_document(path, run_sampling(options.dataset, options.points, options.seeds))
    write_text(path.with_suffix(".md"), "# sampling\n\n" + sampling_table(rounded(read_document(path))))
    return 0


def run_sampling(name: str, count: int, seeds: int) -> Document:
    """Errors over seeds, and the document of results."""
    from nearhash.hashing import KernelDensity

    data = datasets.load(name)
    points, queries = _unit(data.base[:count]), _unit(data.queries[:QUERIES])
    apart = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * queries.astype(np.float64) @ points.T))
    cases = []
    for kernel, bandwidths in BANDWIDTHS.items():
        for bandwidth in bandwidths:
            scaled = apart / bandwidth
            values = np.exp(-0.5 * scaled**2) if kernel == "gaussian" else np.exp(-scaled)
            truth = values.sum(axis=1)
            uniform = np.sqrt(np.maximum(0, count * (values**2).sum(axis=1) - truth**2) / TABLES) / truth
            found = []
            for seed in range(seeds):
                density = KernelDensity(points.shape[1], kernel, bandwidth, TABLES, seed=seed)
                density.add(points)
                found.append(density.estimate(queries, seed).sums / truth)
            own = np.sqrt(np.square(np.array(found) - 1).mean(axis=0))
            say(f"{kernel} {bandwidth}: {np.median(own):.3f}, uniform {np.median(uniform):.3f}")
            cases.append(
                {
                    "kernel": kernel,
                    "bandwidth": bandwidth,
                    "density": float(np.median(truth / count)),
                    "error": float(np.median(own)),
                    "uniform": float(np.median(uniform)),
                    "mean": float(np.mean(found)),
                }
            )
    return {
        "kind": "sampling",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {"dataset": name, "points": count, "queries": QUERIES, "draws": TABLES, "seeds": seeds},
        "cases": cases,
    }


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def sampling_table(document: Document) -> str:
    """What was measured, and the table."""
    settings = document["settings"]
    rows = [
        [
            f"{case['kernel']}, {case['bandwidth']:g}",
            f"{case['density']:.1e}",
            figure(case["error"]),
            figure(case["uniform"]),
            f"{(case['uniform'] / case['error']) ** 2:.2f}x",
            f"{case['mean']:.2f}",
        ]
        for case in document["cases"]
    ]
    header = [
        "kernel, bandwidth", "median of the mean kernel", "relative error", "of uniform sampling", "reads saved",
        "mean of estimate / truth",
    ]  # fmt: skip
    return f"""\
{settings["points"]:,} unit vectors of {settings["dataset"]}, {settings["queries"]} queries; {settings["draws"]} points
read for an estimate. Relative root-mean-square error of `KernelDensity` over {settings["seeds"]} seeds and of uniform
sampling by its formula, medians over the queries; *reads saved* is how many times as many points uniform sampling has
to read for the same error (below 1: it is better). {machine_line(document)}

{table(header, rows)}"""


def sampling_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    return f"## Kernel sums\n\n{sampling_table(document)}"


if __name__ == "__main__":
    raise SystemExit(main())
