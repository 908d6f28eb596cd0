"""What each codec loses and costs: error, recall of its estimates alone, and time of an estimate."""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.distances import normalised
from benchmarks.machine import machine_facts
from benchmarks.record import read_document, rounded, write_document, write_text
from benchmarks.report import RESULTS
from benchmarks.tables import Document, figure, machine_line, table

NAMES = ("f32", "f16", "float8", "lvq8", "lvq4", "pq8", *(f"rabitq{bits}" for bits in (1, 2, 3, 4, 5, 7)))
PAGE = Path(__file__).parents[1] / "docs" / "codecs.md"
BEGIN, END = "<!-- figures: written by python -m benchmarks.codecs -->", "<!-- end of figures -->"
OTHER_DIM = 768
K, CANDIDATES = 10, 100
SAMPLE = 200  # queries


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codecs", description=__doc__)
    parser.add_argument("--dataset", default="glove-20k", help="%(default)s by default")
    parser.add_argument("--rounds", type=int, default=9, help="timings of each codec, %(default)s by default")
    parser.add_argument("--report", action="store_true", help="write the page from the figures that are there")
    options = parser.parse_args(arguments)
    path = RESULTS / "codecs.json"
    if not options.report:
        write_document(path, run_codecs(options.dataset, options.rounds))
    document = read_document(path)
    write_text(path.with_suffix(".md"), codec_table(document))
    write_text(PAGE, with_figures(PAGE.read_text(encoding="utf-8"), document))
    return 0


def run_codecs(name: str, rounds: int) -> Document:
    """Measure every codec on one thread and return the document of results."""
    data = datasets.load(name)
    base, queries = normalised(data.base), normalised(data.queries[:SAMPLE])
    products = queries.astype(np.float64) @ base.T.astype(np.float64)
    truth = np.argsort(-products, axis=1, kind="stable")[:, :K]
    codecs = []
    for each in NAMES:
        codecs.append(_measure(each, base, queries, products, truth, rounds))
        say(f"{each}: measured")
    return {
        "kind": "codecs",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "dataset": {"name": name, "base": list(base.shape), "queries": len(queries), "metric": "cosine"},
        "settings": {"k": K, "candidates": CANDIDATES, "rounds": rounds, "other_dim": OTHER_DIM},
        "codecs": codecs,
    }


def _measure(
    name: str,
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    products: NDArray[np.float64],
    truth: NDArray[np.int64],
    rounds: int,
) -> dict[str, Any]:
    from nearhash.index.arrays import aligned_empty
    from nearhash.index.codecs import make_codec
    from nearhash.kernels.codes import estimate_all
    from nearhash.kernels.scan import DOT

    dim = base.shape[1]
    codec = make_codec(name, dim, has_extra=False)
    codec.train(base)
    rows = aligned_empty((len(base), codec.width), codec.dtype)
    nothing = np.zeros(len(base), np.float32)
    encode = _seconds(lambda: codec.encode(base, nothing, rows), rounds)
    estimates = np.full((len(queries), len(base)), np.nan, np.float32)
    none = estimates[:, :0]
    scan = _seconds(lambda: estimate_all(codec.model, queries, DOT, rows, 0, len(base), estimates), rounds)
    prepare = _seconds(lambda: estimate_all(codec.model, queries, DOT, rows, 0, 0, none), rounds)
    lost = codec.decode(rows).astype(np.float64) - base
    spread = base - base.mean(axis=0, dtype=np.float64)
    order = np.argsort(estimates, axis=1, kind="stable")
    return {
        "name": name,
        "bytes": codec.bytes_per_vector,
        "bytes_other_dim": make_codec(name, OTHER_DIM, has_extra=False).bytes_per_vector,
        "relative_error": float(np.sqrt((lost**2).sum() / (spread**2).sum())),
        "product_error": float(np.sqrt(((estimates + products) ** 2).mean())),
        "recall": _recall(order[:, :K], truth),
        "recall_of_candidates": _recall(order[:, :CANDIDATES], truth),
        "encode_us": encode / len(base) * 1e6,
        "prepare_us": prepare / len(queries) * 1e6,
        "estimate_ns": (scan - prepare) / estimates.size * 1e9,
    }


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(own, others).mean() for own, others in zip(truth, found, strict=True)]))


def _seconds(step: Callable[[], None], rounds: int) -> float:
    """Least time of a call, after one that is not counted: what the work takes when nothing else gets in between."""
    step()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)


def codec_table(document: Document) -> str:
    """What was measured, and the table."""
    settings, data = document["settings"], document["dataset"]
    n, dim = data["base"]
    k, candidates, other = settings["k"], settings["candidates"], settings["other_dim"]
    header = [
        "codec", f"bytes at {dim}", f"bytes at {other}", "relative error", "error of <q, x>", f"recall@{k}",
        f"in {candidates}", "encode us", "query us", "estimate ns",
    ]  # fmt: skip
    rows = [
        [
            each["name"], f"{each['bytes']:,}", f"{each['bytes_other_dim']:,}", figure(each["relative_error"]),
            figure(each["product_error"]), f"{each['recall']:.3f}", f"{each['recall_of_candidates']:.3f}",
            figure(each["encode_us"]), figure(each["prepare_us"]), figure(each["estimate_ns"]),
        ]
        for each in document["codecs"]
    ]  # fmt: skip
    return f"""\
{n:,} vectors of {dim} dimensions ({data["name"]}, {data["metric"]}), {data["queries"]} queries, one thread.
{machine_line(document)}
Relative error: root mean square of what is lost, as a share of the deviation of the vectors from their mean. Recall: of
the {k} nearest, how many are among the {k}, and the {candidates}, of the least estimates, nothing being measured again.
Times are the least of {settings["rounds"]}, for rows in order, which fit the second-level cache where codes are short.

{table(header, rows)}"""


def with_figures(page: str, document: Document) -> str:
    """The page with its figures written anew."""
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"docs/codecs.md: expected the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{codec_table(rounded(document))}\n{END}{after}"


if __name__ == "__main__":
    raise SystemExit(main())
