"""Window filters of every size beside other ways to answer them: ``python -m benchmarks.windows``; see ``--help``.

One search thread, k = 10. For every fraction of the labels and every contestant the least effort is sought that reaches
the recall; those are then timed in turn. Windows differ from query to query. Recall is by distance: whatever is no
farther than the k-th neighbour counts.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.peers import thread_limit
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import Document
from benchmarks.window_churn import run_churn
from benchmarks.window_peers import CAREFUL, Contestant, Floats, K, Windows, contestants, graphs_on_windows
from benchmarks.window_report import is_peer, plot_windows, windows_table

TARGET = 0.95
FRACTIONS = tuple(range(17))  # of the labels, 2^-i
LABELS = ("uniform", "correlated", "cluster")
METHODS = ("prefilter", "postfilter", "2-WST", "optimized postfilter", "three-split", "super-postfilter")
WORST = 0.7  # recall of the worst hundredth of the queries, where it is asked for
SLOW, FEW = 4e-3, 50  # seconds of a query, from which on so few are asked
BOUNDS = 4  # windows of each fraction that get a graph of their own
LEAST_BOUND = 250  # points in such a window


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=__doc__)
    parser.add_argument("dataset", nargs="?", default="mnist-784", help="%(default)s by default")
    parser.add_argument("--labels", default=",".join(LABELS), help="kinds of labels, %(default)s by default")
    parser.add_argument("--fractions", default=",".join(map(str, FRACTIONS)), help="i of 2^-i, %(default)s by default")
    parser.add_argument(
        "--methods", default=",".join(METHODS), help="those of the paper, or nothing; %(default)s by default"
    )
    parser.add_argument("--bound", action="store_true", help="also graphs over just what is in a window")
    parser.add_argument("--churn", action="store_true", help="also after changes")
    parser.add_argument("--queries", type=int, default=300, help="%(default)s by default")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s by default")
    parser.add_argument("--limit", type=int, help="of the base, only so many vectors")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    path = options.results / f"windows-{options.dataset}.json"
    with thread_limit(1):
        for document in run_windows(options):
            _write(path, document)
    return 0


def _write(path: Path, document: Document) -> None:
    """Results of other labels that are there already, measured in the same way, stay."""
    if path.is_file():
        before = read_document(path)
        if all(before[key] == rounded(document)[key] for key in ("machine", "settings")):
            measured = {entry["kind"] for entry in document["labels"]}
            kept = [entry for entry in before["labels"] if entry["kind"] not in measured]
            every = sorted([*kept, *document["labels"]], key=lambda entry: LABELS.index(entry["kind"]))
            document = {**before, **document, "labels": every}
    write_document(path, document)
    document = rounded(read_document(path))
    name = document["settings"]["dataset"]
    for entry in document["labels"]:
        plot_windows(document, entry, path.with_name(f"windows-{name}-{entry['kind']}.png"))
    write_text(path.with_suffix(".md"), f"# windows, {name}\n\n{windows_table(document, '.')}")


def run_windows(options: argparse.Namespace) -> Iterator[Document]:
    """Measure and yield the document of results after each kind of labels."""
    data = datasets.load(options.dataset)
    base = np.ascontiguousarray(data.base[: options.limit])
    # At even steps: words come by frequency, so the first are not typical.
    asked = np.ascontiguousarray(data.queries[:: max(1, len(data.queries) // options.queries)][: options.queries])
    if data.metric == "cosine":
        base, asked = _unit(base), _unit(asked)
    document: Document = {
        "kind": "windows",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "dataset": options.dataset, "base": list(base.shape), "metric": data.metric, "k": K, "target": TARGET,
            "worst": WORST, "queries": len(asked), "rounds": options.rounds,
        },
        "labels": [],
    }  # fmt: skip
    for kind in options.labels.split(","):
        document["labels"].append(_run_labels(kind, base, asked, data.metric, options))
        yield document
    if options.churn:
        say("churn")
        yield {**document, "churn": run_churn(base, asked, data.metric, TARGET, options.rounds)}


def _unit(rows: Floats) -> Floats:
    return np.ascontiguousarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def rank_labels(kind: str, base: Floats) -> NDArray[np.int64]:
    """(n,) a rank for each vector, all different."""
    rng = np.random.default_rng(0)
    if kind == "uniform":
        return rng.permutation(len(base))
    if kind == "correlated":
        keys = (base @ rng.standard_normal(base.shape[1]).astype(np.float32)).astype(np.float64)
    elif kind == "cluster":  # all of a cluster side by side: neighbours of a query are seldom in its window
        import faiss

        means = faiss.Kmeans(base.shape[1], 256, niter=8, seed=1, max_points_per_centroid=100)
        means.train(base)
        keys = means.index.search(base, 1)[1].reshape(-1) + rng.random(len(base))
    else:
        raise SystemExit(f"--labels: expected some of {', '.join(LABELS)}, got {kind!r}")
    return np.argsort(np.argsort(keys, kind="stable"), kind="stable")


def _run_labels(kind: str, base: Floats, queries: Floats, metric: str, options: argparse.Namespace) -> Document:
    import nearhash as nh

    say(f"labels {kind}")
    ranks = rank_labels(kind, base)
    methods = [name for name in options.methods.split(",") if name]
    entries = []
    for one in contestants(base, ranks, metric, methods):
        say(f"{one.name}: built in {one.build_seconds:.1f} s")
        entries.append(one)
    exact = nh.FlatIndex(base.shape[1], metric)
    exact.add(base, labels=ranks)
    cases: list[Document] = []
    starts: dict[str, int] = {}
    wanted = [number for number in map(int, options.fractions.split(",")) if len(base) >> number >= 1]
    for fraction in [*wanted, None]:
        width = None if fraction is None else len(base) >> fraction
        windows = _windows(len(base), wanted if fraction is None else [fraction], len(queries))
        found = _measured(entries, exact, queries, windows, options.rounds, starts)
        case = {"fraction": fraction, "width": width, "found": found}
        if options.bound and width is not None and width >= LEAST_BOUND:
            distinct = np.unique(windows, axis=0)
            few = distinct[np.linspace(0, len(distinct) - 1, min(BOUNDS, len(distinct))).astype(int)]
            alike = few[np.arange(len(queries)) % len(few)]
            pair = [entries[0], graphs_on_windows(base, ranks, metric, few)]
            measured = _measured(pair, exact, queries, alike, options.rounds)
            case["bound"] = {"windows": len(few), "found": measured, "build_seconds": pair[1].build_seconds}
        own, others = found[0], [one for one, entry in zip(found, entries, strict=True) if is_peer(entry.name)]
        best = min((median(one["us"]) for one in others if one["reached"]), default=float("nan"))
        say(
            f"{'mix' if fraction is None else f'2^-{fraction}'}: {1e6 / median(own['us']):,.0f} QPS, "
            f"{best / median(own['us']):.2f}x the best other"
        )
        cases.append(case)
    return {
        "kind": kind,
        "contestants": [{"name": one.name, "bytes": one.nbytes, "build_seconds": one.build_seconds} for one in entries],
        "cases": cases,
    }


def _windows(count: int, fractions: Sequence[int], queries: int) -> Windows:
    """(q, 2) windows of ranks, each of one of the fractions, drawn at random."""
    rng = np.random.default_rng(fractions[0] if len(fractions) == 1 else len(FRACTIONS))
    widths = count >> rng.permutation(np.resize(np.array(fractions), queries))
    first = rng.integers(0, count - widths + 1)
    return np.stack([first, first + widths], axis=1).astype(np.int64)


def _measured(
    entries: Sequence[Contestant],
    exact: Any,
    queries: Floats,
    windows: Windows,
    rounds: int,
    starts: dict[str, int] | None = None,
) -> list[Document]:
    """What each contestant takes for the recall; starts: where in its efforts to begin, and where it came to."""
    least = np.minimum(K, windows[:, 1] - windows[:, 0])
    farthest = exact.search(queries, K, window=windows).distances[np.arange(len(queries)), least - 1]
    cut = farthest * (1 + 1e-5) + 1e-6
    starts = {} if starts is None else starts
    found = [_reaching(one, queries, windows, cut, least, starts) for one in entries]
    _time(entries, found, queries, windows, rounds)
    return found


def _reaching(
    one: Contestant,
    queries: Floats,
    windows: Windows,
    cut: NDArray[Any],
    least: NDArray[np.int64],
    starts: dict[str, int],
) -> Document:
    """The least effort that reaches the target on some of the queries, or the greatest that was tried.

    For CAREFUL the worst hundredth of the queries has to reach WORST as well.
    """

    def tried(position: int) -> Document:
        count = len(queries)
        while True:
            started = time.perf_counter()
            distances = one.search(queries[:count], windows[:count], one.efforts[position])
            seconds = (time.perf_counter() - started) / count
            if seconds <= SLOW or count <= FEW:
                break
            count = FEW
        shares = np.minimum((distances <= cut[:count, None]).sum(axis=1) / least[:count], 1.0)
        worst = float(np.sort(shares)[: max(1, len(shares) // 100)].mean())
        return {
            "effort": one.efforts[position],
            "recall": float(shares.mean()),
            "worst": worst,
            "short": int((np.isfinite(distances).sum(axis=1) < least[:count]).sum()),
            "reached": bool(shares.mean() >= TARGET and (worst >= WORST or one.name != CAREFUL)),
            "queries": count,
            "slow": seconds > 10 * SLOW,
            "us": [],
        }

    position = starts.get(one.name, 0)
    best = tried(position)
    while not best["reached"] and not best["slow"] and position + 1 < len(one.efforts):
        position += 1
        best = tried(position)
    while best["reached"] and position > 0:
        lower = tried(position - 1)
        if not lower["reached"]:
            break
        position, best = position - 1, lower
    starts[one.name] = position
    return best


def _time(entries: Sequence[Contestant], found: list[Document], queries: Floats, windows: Windows, rounds: int) -> None:
    for number in range(rounds):
        for position in range(len(entries)):
            index = (number + position) % len(entries)
            entry = found[index]
            count = entry["queries"]
            # Once before: else a contestant pays for what the one before it left in the caches.
            entries[index].search(queries[:count], windows[:count], entry["effort"])
            started = time.perf_counter()
            entries[index].search(queries[:count], windows[:count], entry["effort"])
            entry["us"].append(1e6 * (time.perf_counter() - started) / count)


if __name__ == "__main__":
    raise SystemExit(main())
