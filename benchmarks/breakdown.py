"""Where the time of an IVFIndex goes: ``python -m benchmarks.breakdown glove-100``; see ``--help``."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bandwidth import bandwidth, filled, make_reader
from benchmarks.contest import Contestant, say
from benchmarks.machine import cache_bytes, machine_facts
from benchmarks.peers import thread_limit
from benchmarks.peers.nearhash_indexes import NearhashIvf
from benchmarks.record import RESULTS, write_document, write_text
from benchmarks.run import load_sample, positive
from benchmarks.tables import figure, machine_line, table

K = 10
TARGETS = (0.9, 0.95, 0.99)
PHASES = ("coarse", "tables", "scan", "select", "rerank", "rest")

Document = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breakdown", description="Where the time goes.")
    parser.add_argument("dataset", help="glove-20k, glove-100, mnist-784, or the path of an ann-benchmarks file")
    parser.add_argument("--queries", type=positive, default=2000, help="use about so many, at even steps; %(default)s")
    parser.add_argument("--rounds", type=positive, default=9, help="%(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    document = run_breakdown(options.dataset, options.queries, options.rounds)
    name = f"breakdown-{document['dataset']['name']}"
    write_document(options.results / f"{name}.json", document)
    text = f"# {name}\n\n{breakdown_table(document)}"
    write_text(options.results / f"{name}.md", text)
    print(text)
    return 0


def run_breakdown(name: str, queries: int, rounds: int) -> Document:
    """Time the phases of a search at the fastest efforts for some recalls; return the document of results."""
    sample = load_sample(name, K, queries)
    data, peer = sample.dataset, NearhashIvf()
    contestant = Contestant(peer, sample, 2)
    contestant.choose_efforts(TARGETS, len(data.queries))
    contestant.time_trials(0.3)
    points = []
    with thread_limit(1):
        floors = Floors(peer, data.queries)
        for target in TARGETS:
            reaching = [trial for trial in contestant.trials if trial.recall >= target]
            if not reaching:
                continue
            best = max(reaching, key=lambda trial: trial.point.qps)
            measured = [phases(peer, data.queries, best.effort) for _ in range(rounds)]
            seconds = {phase: median(one[phase] for one in measured) for phase in PHASES}
            floor = floors.of(best.effort)
            points.append(
                {
                    "target": target,
                    "recall": best.recall,
                    "effort": best.effort,
                    "phases": {phase: {"us": 1e6 * seconds[phase], "floor_us": floor.get(phase)} for phase in PHASES},
                }
            )
            say(f"{target:g}: {1e6 * sum(seconds.values()):.1f} us a query")
    return {
        "kind": "breakdown",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "dataset": {
            "name": data.name,
            "base": list(data.base.shape),
            "queries": len(data.queries),
            "metric": data.metric,
        },
        "settings": {"k": K, "rounds": rounds},
        "parameters": peer.parameters,
        "bytes_per_second": {"cache": floors.cache_speed, "memory": floors.memory_speed},
        "points": points,
    }


def phases(peer: NearhashIvf, queries: NDArray[np.float32], effort: dict[str, int]) -> dict[str, float]:
    """Seconds a query in each phase of one search of all queries on one thread.

    The search runs as always, with clocks around its parts. What keeping candidates costs is the time that the scan
    takes longer than one that keeps a single candidate.
    """
    with clocks() as plain:
        started = time.perf_counter()
        peer.search(queries, K, effort)
        whole = time.perf_counter() - started
    with clocks(want=1) as bare:
        peer.search(queries, K, effort)
    scan = max(0.0, bare["lists"] - bare["tables"])
    found = {
        "coarse": plain["coarse"],
        "tables": plain["tables"],
        "scan": scan,
        "select": max(0.0, plain["lists"] - plain["tables"] - scan),
        "rerank": plain["rerank"],
        # The tables were made once more, only to be timed.
        "rest": max(0.0, whole - plain["coarse"] - plain["tables"] - plain["lists"] - plain["rerank"]),
    }
    return {phase: seconds / len(queries) for phase, seconds in found.items()}


@contextmanager
def clocks(want: int | None = None) -> Iterator[dict[str, float]]:
    """Put clocks around the parts of a search; with `want` scans keep so many candidates instead of what was asked."""
    from nearhash.index import list_codes, list_scan
    from nearhash.index.partition import Partition
    from nearhash.kernels.lists import prepare_tables
    from nearhash.kernels.scan import L2

    spent = dict.fromkeys(("coarse", "tables", "lists", "rerank"), 0.0)

    def timed(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = call(*arguments)
            spent[phase] += time.perf_counter() - started
            return result

        return wrapped

    search_lists, rerank, nearest = list_codes.search_lists, list_scan.rerank, Partition.nearest
    scan, tables = timed("lists", search_lists), timed("tables", prepare_tables)

    def lists(*arguments: Any) -> None:
        queries, coded, codebook, _, _, metric, *_, asked, made, constants, squares, keys, sizes = arguments
        tables(coded, queries, codebook, np.float32(-2.0 if metric == L2 else -1.0), made, constants, squares)
        scan(*arguments[:-6], asked if want is None else want, made, constants, squares, keys, sizes)

    try:
        list_codes.search_lists = lists  # type: ignore[assignment]
        list_scan.rerank = timed("rerank", rerank)  # type: ignore[assignment]
        Partition.nearest = timed("coarse", nearest)  # type: ignore[method-assign]
        yield spent
    finally:
        list_codes.search_lists, list_scan.rerank = search_lists, rerank
        Partition.nearest = nearest  # type: ignore[method-assign]


class Floors:
    """The least that phases could take on this machine, in microseconds a query.

    coarse: the matrix product of queries and centroids by NumPy's BLAS. scan: reading the bytes of the codes from the
    second-level cache, for the queries of a batch share lists. rerank: reading the vectors in order from memory.
    """

    def __init__(self, peer: NearhashIvf, queries: NDArray[np.float32]) -> None:
        index = peer.index
        assert index._lists is not None
        assert index._model is not None
        reader = make_reader()
        self.cache_speed = bandwidth(reader, filled((cache_bytes(2) or 1 << 20) // 2), 1)
        self.memory_speed = bandwidth(reader, filled(max(1 << 20, index._vectors.view.nbytes)), 1)
        self._lists = index._model.partition.lists
        self._code_bytes = (
            index._lists.entries
            / self._lists
            * index._model.layout.width
            * np.dtype(index._model.layout.dtype).itemsize
        )
        self._row_bytes = index._vectors.view[:1].nbytes
        centroids = np.ascontiguousarray(index._model.partition.centroids.T)
        out = np.empty((len(queries), self._lists), np.float32)
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            np.matmul(queries, centroids, out=out)
            seconds.append(time.perf_counter() - started)
        self._product = min(seconds) / len(queries)

    def of(self, effort: dict[str, int]) -> dict[str, float]:
        """Microseconds by phase; tables, selection and the rest have no floor."""
        scanned = min(effort["probes"], self._lists) * self._code_bytes
        return {
            "coarse": 1e6 * self._product,
            "scan": 1e6 * scanned / self.cache_speed,
            "rerank": 1e6 * effort["rerank"] * self._row_bytes / self.memory_speed,
        }


def breakdown_table(document: Document) -> str:
    """Microseconds a query by phase, the floor in brackets."""
    header = ["recall", "effort", *(f"{phase}, us" for phase in PHASES), "together, us"]
    rows = []
    for point in document["points"]:
        spent = point["phases"]
        effort = ", ".join(f"{name} {value}" for name, value in point["effort"].items())
        floors = [spent[phase]["floor_us"] for phase in PHASES if spent[phase]["floor_us"] is not None]
        total = sum(spent[phase]["us"] for phase in PHASES)
        cells = [_cell(spent[phase]["us"], spent[phase]["floor_us"]) for phase in PHASES]
        rows.append([f"{point['recall']:.4f}", effort, *cells, _cell(total, sum(floors))])
    return table(header, rows)


def _cell(spent: float, floor: float | None) -> str:
    return figure(spent) if floor is None else f"{figure(spent)} ({figure(floor)})"


def breakdown_part(document: Document) -> str:
    """The part of the page of benchmarks."""
    data, settings = document["dataset"], document["settings"]
    n, dim = data["base"]
    parameters = ", ".join(f"{name} {value}" for name, value in document["parameters"].items())
    cache, memory = (figure(document["bytes_per_second"][place] / 1e9) for place in ("cache", "memory"))
    return f"""\
## Where the time of nearhash-ivf goes: {data["name"]}

{n:,} vectors of {dim} dimensions, {data["metric"]}, {data["queries"]:,} queries in one batch on one thread,
k = {settings["k"]}, medians of {settings["rounds"]} rounds; {parameters}.
{machine_line(document)}
coarse: choosing lists; tables: look-up tables of a query; scan: the codes of the lists; select: keeping the best
candidates rather than one; rerank: their exact distances; rest: Python and ids. In brackets what a phase takes at the
least: for coarse the matrix product alone by NumPy's BLAS, for scan reading the codes from the second-level cache
({cache} GB/s; the queries of a batch share lists), for rerank reading the vectors in order ({memory} GB/s).

{breakdown_table(document)}"""


if __name__ == "__main__":
    sys.exit(main())
