"""Window filters of every size beside other ways to answer them: ``python -m benchmarks.windows``; see ``--help``.

One search thread, k = 10. For every fraction of the labels and every contestant the least effort is sought that reaches
the recall; those are then timed in turn. Windows differ from query to query. Recall is by distance: whatever is no
farther than the k-th neighbour counts.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.peers import thread_limit
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import MISSING, Document, figure, machine_line, table

K, TARGET = 10, 0.95
FRACTIONS = tuple(range(17))  # of the labels, 2^-i
LABELS = ("uniform", "correlated", "cluster")
SUBJECT = "nearhash WindowIndex"
SLOW = 4e-3  # seconds of a query, from which on fewer are asked

Floats = NDArray[np.float32]
Windows = NDArray[np.int64]  # (q, 2) first and last rank
Search = Callable[[Floats, Windows, int], NDArray[np.float32]]  # queries, windows, effort -> distances (q, K), inf


class Contestant(NamedTuple):
    """A way to answer windows; efforts in rising order."""

    name: str
    efforts: Sequence[int]
    search: Search
    nbytes: int
    build_seconds: float
    batch: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=__doc__)
    parser.add_argument("dataset", nargs="?", default="mnist-784", help="%(default)s by default")
    parser.add_argument("--labels", default=",".join(LABELS), help="kinds of labels, %(default)s by default")
    parser.add_argument("--queries", type=int, default=300, help="%(default)s by default")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s by default")
    options = parser.parse_args(arguments)
    path = RESULTS / f"windows-{options.dataset}.json"
    with thread_limit(1):
        document = run_windows(options.dataset, options.labels.split(","), options.queries, options.rounds)
    write_document(path, document)
    write_text(
        path.with_suffix(".md"), f"# windows, {options.dataset}\n\n" + windows_table(rounded(read_document(path)))
    )
    return 0


def run_windows(name: str, kinds: Sequence[str], queries: int, rounds: int) -> Document:
    """Measure everything and return the document of results."""
    data = datasets.load(name)
    base, asked = data.base, np.ascontiguousarray(data.queries[:queries])
    if data.metric == "cosine":
        base, asked = _unit(base), _unit(asked)
    return {
        "kind": "windows",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "dataset": name, "base": list(base.shape), "metric": data.metric, "k": K, "target": TARGET,
            "queries": len(asked), "rounds": rounds,
        },
        "labels": [_run_labels(kind, base, asked, data.metric, rounds) for kind in kinds],
    }  # fmt: skip


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


def _run_labels(kind: str, base: Floats, queries: Floats, metric: str, rounds: int) -> Document:
    import nearhash as nh

    say(f"labels {kind}")
    ranks = rank_labels(kind, base)
    contestants = list(_contestants(base, ranks, metric))
    exact = nh.FlatIndex(base.shape[1], metric)
    exact.add(base, labels=ranks)
    cases = []
    for fraction in FRACTIONS:
        width = len(base) >> fraction
        if width < 1:
            break
        first = np.random.default_rng(fraction).integers(0, len(base) - width + 1, len(queries))
        windows = np.stack([first, first + width], axis=1)
        least = min(K, width)
        cut = exact.search(queries, K, window=windows).distances[:, least - 1] * (1 + 1e-5) + 1e-6
        found = [_reaching(one, queries, windows, cut, least) for one in contestants]
        _time(contestants, found, queries, windows, rounds)
        own, others = found[0], [one for one, entry in zip(found, contestants, strict=True) if _peer(entry.name)]
        best = min(median(one["us"]) for one in others if one["reached"])
        say(f"2^-{fraction}: {1e6 / median(own['us']):,.0f} QPS, {best / median(own['us']):.2f}x the best other")
        cases.append({"fraction": fraction, "width": width, "found": found})
    return {
        "kind": kind,
        "contestants": [
            {"name": one.name, "bytes": one.nbytes, "build_seconds": one.build_seconds} for one in contestants
        ],
        "cases": cases,
    }


def _peer(name: str) -> bool:
    """Whether this is another library's, or the exact slice."""
    return not name.startswith("nearhash")


def _reaching(one: Contestant, queries: Floats, windows: Windows, cut: NDArray[Any], least: int) -> Document:
    """The least effort that reaches the target on some of the queries, or the greatest."""
    count = len(queries)
    for effort in one.efforts:
        started = time.perf_counter()
        distances = one.search(queries[:count], windows[:count], effort)
        seconds = (time.perf_counter() - started) / count
        shares = (distances[:, :least] <= cut[:count, None]).sum(axis=1) / least
        if shares.mean() >= TARGET or seconds > 10 * SLOW:
            break
        if seconds > SLOW:
            count = min(count, 50)
    return {
        "effort": effort,
        "recall": float(shares.mean()),
        "worst": float(np.sort(shares)[: max(1, len(shares) // 100)].mean()),
        "short": int(np.isinf(distances[:, :least]).any(axis=1).sum()),
        "reached": bool(shares.mean() >= TARGET),
        "queries": min(count, 50) if seconds > SLOW else count,
        "us": [],
    }


def _time(
    contestants: Sequence[Contestant], found: list[Document], queries: Floats, windows: Windows, rounds: int
) -> None:
    for number in range(rounds):
        for position in range(len(contestants)):
            index = (number + position) % len(contestants)
            entry = found[index]
            count = entry["queries"]
            started = time.perf_counter()
            contestants[index].search(queries[:count], windows[:count], entry["effort"])
            entry["us"].append(1e6 * (time.perf_counter() - started) / count)


# --- contestants ---


def _contestants(base: Floats, ranks: NDArray[np.int64], metric: str) -> Iterator[Contestant]:
    import nearhash as nh

    dim = base.shape[1]
    for name, make, efforts, keyword in (
        (SUBJECT, lambda: nh.WindowIndex(dim, metric, threads=2), _ladder(15, 1200), "beam"),
        ("nearhash IVFIndex", lambda: nh.IVFIndex(dim, metric, threads=2), _ladder(4, 1024), "probes"),
        ("nearhash GraphIndex", lambda: nh.GraphIndex(dim, metric, threads=2), _ladder(16, 2048), "beam"),
    ):
        index = make()
        started = time.perf_counter()
        index.add(base, labels=ranks)
        yield Contestant(name, efforts, _own(index, keyword), index.nbytes, time.perf_counter() - started)
    order = np.argsort(ranks, kind="stable")
    ordered = np.ascontiguousarray(base[order])
    yield Contestant("exact slice, BLAS", (1,), _slices(ordered, metric), ordered.nbytes, 0.0, batch=False)
    yield from _faiss(ordered, metric)


def _ladder(first: int, last: int) -> list[int]:
    """Efforts that grow by a quarter."""
    efforts = [first]
    while efforts[-1] < last:
        efforts.append(max(efforts[-1] + 1, round(efforts[-1] * 1.25)))
    return efforts


def _own(index: Any, keyword: str) -> Search:
    def search(queries: Floats, windows: Windows, effort: int) -> NDArray[np.float32]:
        more = {"rerank": max(40, effort)} if keyword == "probes" else {}
        found: NDArray[np.float32] = index.search(
            queries, K, window=windows, threads=1, **{keyword: effort}, **more
        ).distances
        return found

    return search


def _slices(ordered: Floats, metric: str) -> Search:
    squares = np.einsum("ij,ij->i", ordered, ordered)

    def search(queries: Floats, windows: Windows, effort: int) -> NDArray[np.float32]:
        out = np.full((len(queries), K), np.inf, np.float32)
        for row, (query, (first, last)) in enumerate(zip(queries, windows.tolist(), strict=True)):
            products = ordered[first:last] @ query
            away = 1 - products if metric == "cosine" else squares[first:last] - 2 * products + query @ query
            k = min(K, len(away))
            out[row, :k] = np.sort(np.partition(away, k - 1)[:k])
        return out

    return search


def _faiss(ordered: Floats, metric: str) -> Iterator[Contestant]:
    import faiss

    dim, cosine = ordered.shape[1], metric == "cosine"
    kind = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
    lists = round(2 * len(ordered) ** 0.5)
    quantiser = faiss.IndexFlatIP(dim) if cosine else faiss.IndexFlatL2(dim)
    partition, graph = faiss.IndexIVFFlat(quantiser, dim, lists, kind), faiss.IndexHNSWFlat(dim, 32, kind)
    graph.hnsw.efConstruction = 128
    links = 4 * 2 * 32 * len(ordered)
    for name, index, efforts, own in (
        ("faiss IVF Flat, sorted selector", partition, _ladder(2, lists // 2), ordered.nbytes + 8 * len(ordered)),
        ("faiss HNSW, range selector", graph, _ladder(16, 4096), ordered.nbytes + links),
    ):
        faiss.omp_set_num_threads(2)
        started = time.perf_counter()
        index.train(ordered)
        index.add(ordered)
        seconds = time.perf_counter() - started
        faiss.omp_set_num_threads(1)
        yield Contestant(name, efforts, _selected(index, cosine, index is partition), own, seconds, batch=False)


def _selected(index: Any, cosine: bool, lists: bool) -> Search:
    import faiss

    def search(queries: Floats, windows: Windows, effort: int) -> NDArray[np.float32]:
        out = np.full((len(queries), K), np.inf, np.float32)
        for row, (first, last) in enumerate(windows.tolist()):
            selector = faiss.IDSelectorRange(first, last, lists)
            if lists:
                parameters = faiss.SearchParametersIVF(sel=selector, nprobe=effort)
            else:
                parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=effort)
            found, ids = index.search(queries[row : row + 1], K, params=parameters)
            out[row] = np.where(ids[0] >= 0, 1 - found[0] if cosine else found[0], np.inf)
        return out

    return search


# --- tables ---


def windows_table(document: Document) -> str:
    """What was measured, and the tables."""
    settings = document["settings"]
    n, dim = settings["base"]
    parts = [
        f"""\
{settings["dataset"]}: {n:,} vectors of {dim} dimensions, {settings["metric"]}, k = {settings["k"]}, one search thread,
{settings["queries"]} queries, each with a window of its own, medians of {settings["rounds"]} rounds. Queries per second
at the least effort with a recall of {settings["target"]:g} by distance, efforts in steps of a quarter; in brackets the
recall where none reached it. nearhash takes the queries in one batch, the others one by one.
{machine_line(document)}
"""
    ]
    for entry in document["labels"]:
        names = [one["name"] for one in entry["contestants"]]
        rows, ratios = [], []
        for case in entry["cases"]:
            speeds = [1e6 / median(one["us"]) for one in case["found"]]
            pairs = zip(speeds, case["found"], names, strict=True)
            others = [speed for speed, one, name in pairs if one["reached"] and _peer(name)]
            ratios.append(speeds[0] / max(others))
            own = case["found"][0]
            rows.append(
                [
                    f"2^-{case['fraction']} ({case['width']:,})",
                    *(_cell(one, speed) for one, speed in zip(case["found"], speeds, strict=True)),
                    f"{ratios[-1]:.1f}x",
                    f"{own['recall']:.3f} / {own['worst']:.2f}",
                ]
            )
        costs = []
        for one in entry["contestants"]:
            seconds = figure(one["build_seconds"]) if one["build_seconds"] else MISSING
            costs.append([one["name"], figure(one["bytes"] / (4 * n * dim)), seconds])
        short = sum(case["found"][0]["short"] for case in entry["cases"])
        header = ["window", *names, "to the best of others", "recall / of the worst 1%"]
        parts.append(f"""\
### {settings["dataset"]}, labels {entry["kind"]}

Geometric mean of {names[0]} to the best of others: {np.exp(np.mean(np.log(ratios))):.1f}x, least
{min(ratios):.2f}x, most {max(ratios):.0f}x; results short of min(k, matches): {short}.

{table(header, rows)}
{table(["index", "bytes / vectors", "build with 2 threads, s"], costs)}""")
    return "\n".join(parts)


def _cell(one: Document, speed: float) -> str:
    return figure(speed) if one["reached"] else f"({one['recall']:.2f}) {figure(speed)}"


def windows_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    return f"## Windows: {document['settings']['dataset']}\n\n{windows_table(document)}"


if __name__ == "__main__":
    raise SystemExit(main())
