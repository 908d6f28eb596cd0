"""Searches under filters of every selectivity: ``python -m benchmarks.filters glove-100``; see ``--help``."""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest import Contestant, Sample, say
from benchmarks.filter_cases import Case, Filter, FilteredTruth, cases
from benchmarks.filter_report import filter_tables, plot_filters
from benchmarks.filtered_peers import FaissFiltered, FilteredPeer, NearhashFiltered
from benchmarks.machine import machine_facts
from benchmarks.peers import Effort, UnsuitableError, thread_limit
from benchmarks.record import RESULTS, write_document, write_text
from benchmarks.run import load_sample, positive

TARGET = 0.95
K = 10


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description="Search under filters.")
    parser.add_argument("dataset", help="glove-20k, glove-100, mnist-784, or the path of an ann-benchmarks file")
    parser.add_argument("--queries", type=positive, default=500, help="use about so many, at even steps; %(default)s")
    parser.add_argument("--rounds", type=positive, default=5, help="of all indexes in turn, %(default)s")
    parser.add_argument("--least-seconds", type=float, default=0.2, help="of a measurement, %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    document = run_filters(options.dataset, options.queries, options.rounds, options.least_seconds)
    name = f"filters-{document['dataset']['name']}"
    write_document(options.results / f"{name}.json", document)
    text = f"# {name}\n\n{filter_tables(document)}"
    write_text(options.results / f"{name}.md", text)
    plot_filters(document, options.results / f"{name}.png")
    print(text)
    return 0


def run_filters(name: str, queries: int, rounds: int, least_seconds: float) -> dict[str, Any]:
    """Measure every case at every selectivity and return the document of results."""
    sample = load_sample(name, K, queries)
    data = sample.dataset
    peers: list[FilteredPeer] = [NearhashFiltered(), FaissFiltered()]
    efforts = {peer.name: unfiltered_effort(peer, sample, least_seconds) for peer in peers}
    truth = FilteredTruth(data)
    say(f"{data.name}: all base vectors ranked for {len(data.queries)} queries")
    measured = []
    for case in cases(data.base):
        takers = [peer for peer in peers if case.kind in peer.kinds]
        for peer in takers:
            peer.prepare(data, case)
        points = []
        for wanted in case.filters(len(data.queries)):
            nearest = truth.nearest(wanted, case.labels, K)
            found = {peer.name: reach(peer, efforts[peer.name], truth, wanted, nearest, case) for peer in takers}
            seconds = time_in_turn(takers, data.queries, wanted, found, efforts, rounds, least_seconds)
            points.append({"share": wanted.share, "matches": round(wanted.share * len(data.base)), "indexes": {}})
            for peer in takers:
                points[-1]["indexes"][peer.name] = {**found[peer.name], **seconds[peer.name]}
        measured.append({"name": case.name, "kind": case.kind, "points": points})
        say(f"{case.name}: done")
    return {
        "kind": "filters",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "dataset": {
            "name": data.name,
            "base": list(data.base.shape),
            "queries": len(data.queries),
            "metric": data.metric,
        },
        "settings": {"k": K, "target": TARGET, "rounds": rounds, "least_seconds": least_seconds},
        "subject": peers[0].name,
        "unfiltered_efforts": efforts,
        "cases": measured,
    }


def unfiltered_effort(peer: FilteredPeer, sample: Sample, least_seconds: float) -> Effort:
    """The fastest effort that reaches the target without a filter."""
    contestant = Contestant(peer.peer, sample, 2)
    contestant.choose_efforts([TARGET], len(sample.dataset.queries))
    contestant.time_trials(least_seconds)
    reaching = [trial for trial in contestant.trials if trial.recall >= TARGET]
    if not reaching:
        raise UnsuitableError(f"{peer.name} does not reach recall {TARGET:g} without a filter")
    effort = max(reaching, key=lambda trial: trial.point.qps).effort
    say(f"{peer.name}: {TARGET:g} at {effort}")
    return effort


def reach(
    peer: FilteredPeer, effort: Effort, truth: FilteredTruth, wanted: Filter, nearest: NDArray[np.int64], case: Case
) -> dict[str, Any]:
    """The effort that reaches the target under a filter, rising from the one without a filter."""
    found: dict[str, Any] = {}
    expected = (nearest >= 0).sum(axis=1)
    with thread_limit(1):
        for tried in peer.wider(effort):
            ids = peer.search(peer.peer.convert(truth.data.queries), K, wanted, tried)
            recall = truth.recall(ids, nearest, wanted, case)
            complete = float(((ids >= 0).sum(axis=1) == expected).mean())
            if not found or recall > found["recall"]:
                found = {"effort": tried, "recall": recall, "complete": complete}
            if recall >= TARGET:
                break
    return found


def time_in_turn(
    peers: Sequence[FilteredPeer],
    queries: NDArray[np.float32],
    wanted: Filter,
    found: dict[str, dict[str, Any]],
    efforts: dict[str, Effort],
    rounds: int,
    least_seconds: float,
) -> dict[str, dict[str, Any]]:
    """Queries per second, and how many times as long as without a filter, of each; all in turn, one thread."""
    filtered: dict[str, list[float]] = {peer.name: [] for peer in peers}
    plain: dict[str, list[float]] = {peer.name: [] for peer in peers}
    with thread_limit(1):
        for number in range(rounds):
            for peer in peers if number % 2 == 0 else peers[::-1]:
                converted = peer.peer.convert(queries)
                plain[peer.name].append(_seconds(peer, converted, None, efforts[peer.name], least_seconds))
                effort = found[peer.name]["effort"]
                filtered[peer.name].append(_seconds(peer, converted, wanted, effort, least_seconds))
    return {
        peer.name: {
            "qps": 1 / median(filtered[peer.name]),
            "slower": median(f / p for f, p in zip(filtered[peer.name], plain[peer.name], strict=True)),
        }
        for peer in peers
    }


def _seconds(
    peer: FilteredPeer, queries: NDArray[Any], wanted: Filter | None, effort: Effort, least_seconds: float
) -> float:
    """Seconds of a query in a batch."""
    done, started = 0, time.perf_counter()
    while True:
        peer.search(queries, K, wanted, effort)
        done += len(queries)
        if (seconds := time.perf_counter() - started) >= least_seconds:
            return seconds / done


if __name__ == "__main__":
    sys.exit(main())
