"""Ways to answer windows: our indexes, the methods of the paper on our graphs, exact slices, and faiss."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

K = 10
SUBJECT = "nearhash WindowIndex"
CAREFUL = f"{SUBJECT}, worst 1%"  # the same index, with an effort that does well by the worst queries, too

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


def contestants(base: Floats, ranks: NDArray[np.int64], metric: str, methods: Sequence[str]) -> Iterator[Contestant]:
    """Ours first, then other ways over the same vectors, built one after another with two threads.

    base (n, dim), unit vectors for cosine; ranks (n,) the labels; methods, those of the paper.
    """
    import nearhash as nh

    dim = base.shape[1]
    for name, make, efforts, keyword in (
        (SUBJECT, lambda: nh.WindowIndex(dim, metric, threads=2), ladder(15, 1200), "beam"),
        (f"{SUBJECT}, f16", lambda: nh.WindowIndex(dim, metric, store="f16", threads=2), ladder(15, 1200), "beam"),
        ("nearhash IVFIndex", lambda: nh.IVFIndex(dim, metric, threads=2), ladder(4, 1024), "probes"),
        ("nearhash GraphIndex", lambda: nh.GraphIndex(dim, metric, threads=2), ladder(16, 2048), "beam"),
    ):
        index = make()
        started = time.perf_counter()
        index.add(base, labels=ranks)
        own = Contestant(name, efforts, _own(index, keyword), index.nbytes, time.perf_counter() - started)
        yield own
        if name == SUBJECT:
            yield own._replace(name=CAREFUL)
    order = np.argsort(ranks, kind="stable")
    ordered = np.ascontiguousarray(base[order])
    yield Contestant("exact slice, BLAS", (1,), _slices(ordered, metric), ordered.nbytes, 0.0)
    yield from _faiss(ordered, metric)
    if methods:
        yield from _methods(ordered, metric, methods)


def ladder(first: int, last: int) -> list[int]:
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
        ("faiss IVF Flat, sorted selector", partition, ladder(2, lists // 2), ordered.nbytes + 8 * len(ordered)),
        ("faiss HNSW, range selector", graph, ladder(16, 4096), ordered.nbytes + links),
    ):
        faiss.omp_set_num_threads(2)
        started = time.perf_counter()
        index.train(ordered)
        index.add(ordered)
        seconds = time.perf_counter() - started
        faiss.omp_set_num_threads(1)
        yield Contestant(name, efforts, _selected(index, cosine, index is partition), own, seconds)


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


def _methods(ordered: Floats, metric: str, names: Sequence[str]) -> Iterator[Contestant]:
    """Methods of Engels et al. (ICML 2024); graphs that several of them need are built once and counted for each."""
    from nearhash.index.window.methods import METHODS, Prefilter, search
    from nearhash.index.window.range_graphs import RangeGraphs

    graphs = RangeGraphs(ordered, np.arange(len(ordered)), metric, threads=2)
    seconds: dict[tuple[int, int], float] = {}

    def searched(method: Prefilter) -> Search:
        return lambda queries, windows, effort: search(graphs, method, queries, K, windows, effort).distances

    for name in names:
        method = METHODS[name](len(ordered))
        for node in method.ranges:
            if node not in seconds:
                started = time.perf_counter()
                graphs.build([node])
                seconds[node] = time.perf_counter() - started
        build = sum(seconds[node] for node in method.ranges)
        efforts = ladder(10, 2048) if method.ranges else [1]
        yield Contestant(f"paper: {name}", efforts, searched(method), graphs.nbytes(method.ranges), build)


def graphs_on_windows(base: Floats, ranks: NDArray[np.int64], metric: str, windows: Windows) -> Contestant:
    """The upper bound: for each distinct window a graph over just what is in it."""
    import nearhash as nh

    distinct = np.unique(windows, axis=0)
    graphs, started = [], time.perf_counter()
    for first, last in distinct.tolist():
        graphs.append(nh.GraphIndex(base.shape[1], metric, threads=2))
        graphs[-1].add(base[(ranks >= first) & (ranks < last)])
    seconds = (time.perf_counter() - started) / len(distinct)

    def search(queries: Floats, asked: Windows, effort: int) -> NDArray[np.float32]:
        out = np.empty((len(queries), K), np.float32)
        for graph, window in zip(graphs, distinct, strict=True):
            own = np.flatnonzero((asked == window).all(axis=1))
            if len(own):
                out[own] = graph.search(queries[own], K, beam=effort, threads=1).distances
        return out

    return Contestant("GraphIndex of the window", ladder(10, 2048), search, graphs[0].nbytes, seconds)
