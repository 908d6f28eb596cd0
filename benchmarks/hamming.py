"""HammingIndex beside faiss on binary codes: ``python -m benchmarks.hamming``; see ``--help``.

Codes of real vectors, whose neighbours are far (a scan is best), and of near-duplicates (tables are).
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import product
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.peers import thread_limit
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import Document, figure, machine_line, table

K = 10
TARGETS = (0.5, 0.7, 0.9, 0.95)
BITS = 256
SUBSTRINGS, FLIPS = (14, 16, 20), (0, 1, 2)  # of nearhash
HASHES, PEER_FLIPS = ((8, 16), (16, 16), (12, 20), (14, 18)), (0, 1, 2)  # of faiss: (tables, bits of each), flips
SLOW_QUERIES = 100  # of an approximate search by faiss that takes milliseconds
PLANTED, GROUP, PLANTED_BITS, NOISE = 2_000_000, 20, 64, 0.02

Codes = NDArray[np.uint8]
Search = Callable[[Codes], NDArray[Any]]  # queries -> distances (q, K), beyond all others where there is none


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hamming", description=__doc__)
    parser.add_argument("--dataset", default="glove-100", help="vectors to make codes of, %(default)s by default")
    parser.add_argument("--queries", type=int, default=1000, help="%(default)s by default")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each search, %(default)s by default")
    parser.add_argument("--planted", type=int, default=PLANTED, help="near-duplicates, %(default)s by default")
    options = parser.parse_args(arguments)
    path = RESULTS / "hamming.json"
    with thread_limit(1):
        document = run_hamming(options.dataset, options.queries, options.rounds, options.planted)
    write_document(path, document)
    write_text(path.with_suffix(".md"), "# hamming\n\n" + hamming_table(rounded(read_document(path))))
    return 0


def run_hamming(name: str, queries: int, rounds: int, planted: int) -> Document:
    """Measure everything on one thread and return the document of results."""
    import faiss

    faiss.omp_set_num_threads(1)
    return {
        "kind": "hamming",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {"k": K, "rounds": rounds, "queries": queries, "faiss": faiss.__version__},
        "sets": [_measure(*simhash_codes(name, queries), rounds), _measure(*planted_codes(planted, queries), rounds)],
    }


def simhash_codes(name: str, queries: int) -> tuple[str, Codes, Codes]:
    import nearhash as nh

    data = datasets.load(name)
    step = max(1, len(data.queries) // queries)
    hasher = nh.hashing.SimHash(data.base.shape[1], bits=BITS, seed=1)
    asked = np.ascontiguousarray(data.queries[::step][:queries])
    return f"{name}, SimHash", hasher.encode(data.base), hasher.encode(asked)


def planted_codes(count: int, queries: int) -> tuple[str, Codes, Codes]:
    """Groups of copies of random codes, in random order, each copy with some flipped bits; more copies as queries."""
    rng = np.random.default_rng(1)
    centres = rng.integers(0, 256, (count // GROUP, PLANTED_BITS // 8)).astype(np.uint8)

    def copies(members: NDArray[np.int64]) -> Codes:
        flipped = np.packbits(rng.random((len(members), PLANTED_BITS), dtype=np.float32) < NOISE, axis=1)
        return np.ascontiguousarray(centres[members] ^ flipped)

    members = rng.permutation(np.repeat(np.arange(len(centres)), GROUP))
    return f"groups of {GROUP} near-duplicates", copies(members), copies(rng.integers(0, len(centres), queries))


def _measure(name: str, base: Codes, queries: Codes, rounds: int) -> Document:
    exact = dict(_exact_searches(base))
    distances = {label: search(queries) for label, search in exact.items()}  # compiles kernels, builds tables
    truth = distances["faiss IndexBinaryFlat"]
    for label, found in distances.items():
        if not np.array_equal(found, truth):
            raise AssertionError(f"{label}: distances differ from those of faiss IndexBinaryFlat")
    say(f"{name}: exact searches agree")
    batch = _rounds({label: (search, queries) for label, search in exact.items()}, rounds)
    single = _rounds({label: (_one_by_one(search), queries[:50]) for label, search in exact.items()}, rounds)
    approximate = list(_approximate(base, queries, truth, rounds))
    return {
        "name": name,
        "base": len(base),
        "bits": 8 * base.shape[1],
        "queries": len(queries),
        "tenth": float(np.median(truth[:, -1])),
        "read_us": 1e6 * _reading(base),
        "exact": [{"name": label, "batch_us": batch[label], "single_us": single[label]} for label in exact],
        "approximate": approximate,
    }


def _exact_searches(base: Codes) -> Iterator[tuple[str, Search]]:
    import faiss

    import nearhash as nh

    for label, method in (("nearhash", "auto"), ("nearhash, scan", "scan")):
        index = nh.HammingIndex(8 * base.shape[1], method=method)
        index.add(base)

        def own(queries: Codes, index: nh.HammingIndex = index) -> NDArray[Any]:
            return index.search(queries, K, threads=1).distances

        yield label, own
    flat = faiss.IndexBinaryFlat(8 * base.shape[1])
    flat.add(base)
    yield "faiss IndexBinaryFlat", lambda queries: flat.search(queries, K)[0]


def _one_by_one(search: Search) -> Search:
    return lambda queries: np.concatenate([search(query[None]) for query in queries])


def _rounds(searches: dict[str, tuple[Search, Codes]], rounds: int) -> dict[str, list[float]]:
    """Microseconds a query of each search in each round; each round begins with another one.

    Every search runs in the calling thread alone, so its processor time is the time without what else the machine does.
    """
    labels, times = list(searches), {label: [] for label in searches}  # type: dict[str, list[float]]
    for number in range(rounds):
        for position in range(len(labels)):
            label = labels[(number + position) % len(labels)]
            search, queries = searches[label]
            started = time.thread_time()
            search(queries)
            times[label].append(1e6 * (time.thread_time() - started) / len(queries))
    return times


def _approximate(base: Codes, queries: Codes, truth: NDArray[Any], rounds: int) -> Iterator[Document]:
    """Every combination of parameters: its recall, and its time in rounds shared with the others."""
    searches = dict(_table_searches(base))
    found, recalls = {}, {}
    for label, (search, count) in searches.items():
        found[label] = (search, queries[:count])
        recalls[label] = float((search(queries[:count]) <= truth[:count, -1:]).mean())
    times = _rounds(found, max(3, rounds // 2))
    for label in searches:
        yield {"name": label, "recall": recalls[label], "us": times[label]}


def _table_searches(base: Codes) -> Iterator[tuple[str, tuple[Search, int]]]:
    import faiss

    import nearhash as nh

    bits = 8 * base.shape[1]
    for substrings in SUBSTRINGS if bits == BITS else (3, 4):
        index = nh.HammingIndex(bits, method="multi-index", substrings=substrings)
        index.add(base)
        for flips in FLIPS:

            def own(queries: Codes, index: nh.HammingIndex = index, flips: int = flips) -> NDArray[Any]:
                return index.search(queries, K, threads=1, flips=flips).distances

            yield f"nearhash, {substrings} substrings, {flips} flips", (own, 1000)
    for (tables, length), flips in product(HASHES if bits == BITS else ((4, 16), (3, 20)), PEER_FLIPS):
        if flips == 0:
            multi = faiss.IndexBinaryMultiHash(bits, tables, length)
            multi.add(base)
            say(f"faiss IndexBinaryMultiHash({tables}, {length}): built")

        def search(queries: Codes, multi: Any = multi, flips: int = flips) -> NDArray[Any]:
            multi.nflip = flips
            distances, ids = multi.search(queries, K)
            return np.where(ids < 0, 1 << 20, distances)

        label = f"faiss IndexBinaryMultiHash, {tables} x {length} bits, {flips} flips"
        yield label, (search, SLOW_QUERIES if flips else 1000)


def _reading(base: Codes) -> float:
    """Seconds to read all codes once, as a sum of words: the floor of a scan for a single query."""
    words, times = base.reshape(-1).view(np.uint64), []
    for _ in range(20):
        started = time.thread_time()
        words.sum()
        times.append(time.thread_time() - started)
    return median(times)


def hamming_table(document: Document) -> str:
    """What was measured, and the tables."""
    return "\n".join([machine_line(document), *(_set_part(each, document) for each in document["sets"])])


def hamming_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    return f"## Binary codes\n\n{hamming_table(document)}"


def _ratio(peer: list[float], own: list[float]) -> str:
    ratios = [theirs / ours for theirs, ours in zip(peer, own, strict=False)]
    return f"{median(peer) / median(own):.2f}x ({min(ratios):.2f}–{max(ratios):.2f})"


def _set_part(data: Document, document: Document) -> str:
    own, settings = data["exact"][0], document["settings"]
    rows = [
        [
            entry["name"],
            figure(median(entry["batch_us"])),
            _ratio(entry["batch_us"], own["batch_us"]),
            figure(median(entry["single_us"])),
            _ratio(entry["single_us"], own["single_us"]),
        ]
        for entry in data["exact"]
    ]
    header = ["exact search", "us a query, in a batch", "nearhash faster", "us, one query a call", "nearhash faster"]
    return f"""\
{data["base"]:,} codes of {data["bits"]} bits ({data["name"]}), {data["queries"]:,} queries, k = {settings["k"]}, one
thread, {settings["rounds"]} rounds, processor time; faiss {settings["faiss"]}.
Half of the queries have {settings["k"]} neighbours within {figure(data["tenth"])} bits.
Reading all codes once takes {figure(data["read_us"])} us.

{table(header, rows)}
At a recall, the fastest of all parameters measured that reach it (of nearhash also exact search):

{_matched(data)}"""


def _matched(data: Document) -> str:
    header = ["recall at least", "nearhash", "us", "recall", "faiss IndexBinaryMultiHash", "us", "recall", "faster"]
    exact = {"name": "nearhash, exact", "recall": 1.0, "us": data["exact"][0]["batch_us"]}
    rows = []
    for target in TARGETS:
        sides = []
        for maker in ("nearhash", "faiss"):
            entries = [entry for entry in [exact, *data["approximate"]] if entry["name"].startswith(maker)]
            reaching = [entry for entry in entries if entry["recall"] >= target]
            sides.append(min(reaching, key=lambda entry: median(entry["us"])) if reaching else None)
        own, peer = sides
        row = [f"{target:g}"]
        for entry in (own, peer):
            row += (
                [entry["name"].split(", ", 1)[1], figure(median(entry["us"])), f"{entry['recall']:.3f}"]
                if entry
                else ["none", "–", "–"]
            )
        row.append(f"{median(peer['us']) / median(own['us']):.1f}x" if own and peer else "–")
        rows.append(row)
    return table(header, rows)


if __name__ == "__main__":
    raise SystemExit(main())
