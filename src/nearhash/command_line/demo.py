"""``nearhash demo``: the main job done on real data, from word vectors to answers over gRPC."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import numpy.typing as npt
import typer

from nearhash.command_line.demo_report import print_report
from nearhash.command_line.report import JsonOption, print_json, progress_bar

if TYPE_CHECKING:
    from nearhash import Client, GraphIndex, Hits

ASKED = ("frog", "paris", "physics", "guitar", "pizza", "volcano", "oxygen", "beethoven")
NEIGHBOURS = 5
WINDOW = (0.0, 3000.0)  # frequency ranks: only among the 3,000 most frequent words
SAMPLE = 1000  # words of all frequencies whose neighbours are compared with those of exact search
BEAM = 64
BATCH = 64
MEASURED_SECONDS = 0.7

Vectors = npt.NDArray[np.float32]


def demo(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Loopback port of the server.", show_default="a free one")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Search 20,000 word vectors: build, serve over gRPC, ask, and measure against exact search."""
    with tempfile.TemporaryDirectory(prefix="nearhash-demo-") as folder:
        document = run_demo(Path(folder), port)
    if json:
        print_json(document)
    else:
        print_report(document)


def run_demo(folder: Path, port: int) -> dict[str, Any]:
    """Do all of it; the index file goes into `folder`. Returns what was found and measured, ready for JSON."""
    import nearhash as nh
    from nearhash.kernels.threads import available_threads
    from nearhash.service.background import running_server
    from nearhash.service.config import ServerConfig
    from nearhash.words import load_words

    words, vectors = load_words()
    with progress_bar("Preparing kernels") as progress:
        prepare_kernels(vectors[:500], folder / "few-words.nearhash", progress)
    started = time.perf_counter()
    with progress_bar("Building the graph") as progress:
        built = build_index(vectors, progress)
    build_seconds = time.perf_counter() - started
    file = folder / "words.nearhash"
    built.save(file)
    index = cast("GraphIndex", nh.load(file, mmap=True))

    sample = np.ascontiguousarray(vectors[:: len(vectors) // SAMPLE][:SAMPLE])
    config = ServerConfig(workers=1, search_threads=1)
    with running_server(index, f"127.0.0.1:{port}", config) as address, nh.Client(address) as client:
        answers = [ask(client, words, vectors, word) for word in ASKED]
        with progress_bar("Measuring") as progress:
            recall, rates = measure(vectors, sample, index, client, progress)
    return {
        "words": len(words),
        "index": index.info(),
        "build_seconds": build_seconds,
        "build_threads": available_threads(),
        "file_bytes": file.stat().st_size,
        "bytes_per_vector": file.stat().st_size / len(words),
        "address": address,
        "window": list(WINDOW),
        "answers": answers,
        "beam": BEAM,
        "batch": BATCH,
        "recall_queries": len(sample),
        "recall_at_10": recall,
        "queries_per_second": rates,
    }


def prepare_kernels(vectors: Vectors, file: Path, progress: Callable[[int, int], None]) -> None:
    """Do once what follows with a few words, so that no compiling is measured."""
    import nearhash as nh

    progress(0, 2)
    build_index(vectors).save(file)
    progress(1, 2)
    index = nh.load(file, mmap=True)
    for queries in (vectors[:1], vectors[:BATCH]):
        index.search(queries, window=WINDOW)
        index.search(queries)
    progress(2, 2)


def build_index(vectors: Vectors, progress: Callable[[int, int], None] | None = None) -> "GraphIndex":
    """Build a graph over words; the label of a word is its frequency rank, 0 for the most frequent."""
    import nearhash as nh

    index = nh.GraphIndex(vectors.shape[1], metric="cosine")
    index.add(vectors, labels=np.arange(len(vectors)), progress=progress)
    return index


def ask(client: "Client", words: Sequence[str], vectors: Vectors, word: str) -> dict[str, Any]:
    """Ask the server for the neighbours of `word`, among all words and among the frequent ones."""
    rank = words.index(word)

    def neighbours(window: tuple[float, float] | None) -> list[dict[str, Any]]:
        # One more than wanted: a word is its own nearest neighbour.
        hits = client.search(vectors[rank], k=NEIGHBOURS + 1, window=window, beam=BEAM)
        found = [(int(id_), float(distance)) for id_, distance in zip(hits.ids[0], hits.distances[0], strict=True)]
        return [
            {"word": words[id_], "rank": id_, "distance": distance} for id_, distance in found if id_ not in (rank, -1)
        ][:NEIGHBOURS]

    return {"word": word, "rank": rank, "neighbours": neighbours(None), "neighbours_in_window": neighbours(WINDOW)}


def measure(
    vectors: Vectors, sample: Vectors, index: "GraphIndex", client: "Client", progress: Callable[[int, int], None]
) -> tuple[float, dict[str, float]]:
    """Recall@10 of the index over `sample`, and queries per second, embedded and over gRPC, on one thread each."""
    import nearhash as nh

    exact = nh.FlatIndex(vectors.shape[1], metric="cosine")
    exact.add(vectors)
    recall = recall_of(index.search(sample, k=10, beam=BEAM), exact.search(sample, k=10))
    batches = [sample[first : first + BATCH] for first in range(0, len(sample), BATCH)]
    measured: list[tuple[str, Callable[[Vectors], Hits], list[Vectors]]] = [
        ("exact_batch", lambda queries: exact.search(queries, k=10, threads=1), [sample]),
        ("embedded_batch", lambda queries: index.search(queries, k=10, threads=1, beam=BEAM), [sample]),
        ("embedded_single", lambda queries: index.search(queries, k=10, threads=1, beam=BEAM), list(sample)),
        ("grpc_batches", lambda queries: client.search(queries, k=10, beam=BEAM), batches),
        ("grpc_single", lambda queries: client.search(queries, k=10, beam=BEAM), list(sample)),
    ]
    rates = {}
    for done, (name, search, requests) in enumerate(measured):
        progress(done, len(measured))
        rates[name] = queries_per_second(search, requests)
    progress(len(measured), len(measured))
    return recall, rates


def recall_of(found: "Hits", exact: "Hits") -> float:
    """Share of the exact neighbours that were found."""
    shared = [len(np.intersect1d(a, b)) for a, b in zip(found.ids, exact.ids, strict=True)]
    return sum(shared) / exact.ids.size


def queries_per_second(search: "Callable[[Vectors], Hits]", requests: list[Vectors]) -> float:
    """Send `requests` over and over for a moment, after one that does not count."""
    search(requests[0])
    answered = sent = 0
    started = time.perf_counter()
    while (seconds := time.perf_counter() - started) < MEASURED_SECONDS:
        queries = requests[sent % len(requests)]
        search(queries)
        sent += 1
        answered += len(queries) if queries.ndim == 2 else 1
    return answered / seconds
