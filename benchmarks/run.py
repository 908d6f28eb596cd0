"""Compare indexes: ``python -m benchmarks.run glove-20k``; see ``--help``."""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.contest import Contestant, Sample, run_rounds, say
from benchmarks.machine import machine_facts
from benchmarks.peers import PEERS, NotInstalledError, UnsuitableError
from benchmarks.plot import plot
from benchmarks.record import RESULTS, index_record, write_document, write_text
from benchmarks.tables import cost_table, effort_table, family_table, latency_table, speed_table
from benchmarks.truth import ground_truth

APPROXIMATE = tuple(name for name in PEERS if not name.endswith("-flat"))
DEFAULT_DATASET = "glove-20k"
TARGETS = (0.9, 0.95, 0.97, 0.99)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.flat:
        from benchmarks.flat import run_flat

        write_document(options.results / "flat.json", run_flat(options.rounds))
    elif options.startup:
        from benchmarks.startup import run_startup

        write_document(options.results / "startup.json", run_startup())
    else:
        for name in options.dataset:
            document = run_dataset(name, options)
            write_results(document, options.results)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Compare indexes on real data.")
    parser.add_argument(
        "dataset",
        nargs="*",
        help="glove-20k (bundled; the default), glove-100, mnist-784, or the path of an ann-benchmarks file",
    )
    parser.add_argument("--flat", action="store_true", help="instead: exact search against faiss and memory bandwidth")
    parser.add_argument("--startup", action="store_true", help="instead: import, first answer, cold compile")
    parser.add_argument("--subject", choices=PEERS, default="nearhash-ivf", help="%(default)s by default")
    parser.add_argument(
        "--peers",
        type=lambda text: [name for name in text.split(",") if name],
        default=list(APPROXIMATE),
        help=f"separated by commas, of {', '.join(PEERS)}; by default all approximate ones",
    )
    parser.add_argument("--targets", type=float, nargs="+", default=list(TARGETS), help="recalls, %(default)s")
    parser.add_argument("-k", type=positive, default=10, help="neighbours asked for, %(default)s")
    parser.add_argument("--rounds", type=positive, default=5, help="of all indexes in turn, %(default)s")
    parser.add_argument("--queries", type=positive, default=None, help="use about so many, at even steps; default all")
    parser.add_argument("--explored-queries", type=positive, default=2000, help="to look for efforts, %(default)s")
    parser.add_argument("--build-threads", type=positive, default=2, help="%(default)s; searches always have one")
    parser.add_argument("--least-seconds", type=float, default=0.3, help="of a measurement, %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        parser.error(f"--peers: no {', '.join(unknown)}; expected of {', '.join(PEERS)}")
    if any(not 0 < target <= 1 for target in options.targets):
        parser.error(f"--targets: expected recalls in (0, 1], got {options.targets}")
    suites = [options.flat, options.startup, bool(options.dataset)]
    if sum(suites) > 1:
        parser.error("give data sets, or --flat, or --startup, not several of them")
    if not any(suites):
        options.dataset = [DEFAULT_DATASET]
    return options


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def run_dataset(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Build all indexes over one data set, measure them in turn, and return the document of results."""
    started = time.perf_counter()
    sample = load_sample(name, options.k, options.queries)
    data = sample.dataset
    say(f"{data.name}: {data.base.shape[0]:,} x {data.base.shape[1]}, {data.metric}, {len(data.queries):,} queries")
    contestants, skipped = [], {}
    for peer in [options.subject, *(name for name in options.peers if name != options.subject)]:
        try:
            contestants.append(enter(peer, sample, options))
        except (NotInstalledError, UnsuitableError) as error:
            if peer == options.subject:
                raise
            say(f"{peer}: left out, {error}")
            skipped[peer] = str(error)
    run_rounds(contestants, options.rounds, options.least_seconds, options.targets)
    say(f"{data.name}: done in {(time.perf_counter() - started) / 60:.1f} minutes")
    return {
        "kind": "dataset",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "dataset": {
            "name": data.name,
            "base": list(data.base.shape),
            "queries": len(data.queries),
            "metric": data.metric,
        },
        "settings": {
            "k": options.k,
            "targets": options.targets,
            "rounds": options.rounds,
            "build_threads": options.build_threads,
            "search_threads": 1,
            "least_seconds": options.least_seconds,
        },
        "subject": options.subject,
        "indexes": [index_record(one, contestants[0], options.targets) for one in contestants],
        "skipped": skipped,
    }


def load_sample(name: str, k: int, queries: int | None) -> Sample:
    dataset = datasets.load(name)
    sample = Sample(dataset, ground_truth(dataset), k)
    return sample if queries is None else sample.thinned(queries)


def enter(name: str, sample: Sample, options: argparse.Namespace) -> Contestant:
    """Build one index and choose the efforts at which it will be timed."""
    started = time.perf_counter()
    contestant = Contestant(PEERS[name](), sample, options.build_threads)
    say(f"{name}: built in {contestant.build_seconds:.1f} s")
    contestant.choose_efforts(options.targets, options.explored_queries)
    recalls = ", ".join(f"{trial.recall:.3f}" for trial in contestant.trials)
    say(f"{name}: efforts found after {time.perf_counter() - started:.1f} s, with recalls {recalls}")
    return contestant


def write_results(document: dict[str, Any], folder: Path) -> None:
    """Write JSON, table and plot of one data set."""
    name = document["dataset"]["name"]
    write_document(folder / f"{name}.json", document)
    tables = (speed_table, family_table, effort_table, latency_table, cost_table)
    text = "\n".join([f"# {name}\n", *(text for make in tables if (text := make(document)))])
    write_text(folder / f"{name}.md", text)
    plot(document, folder / f"{name}.png")
    print(text)


if __name__ == "__main__":
    sys.exit(main())
