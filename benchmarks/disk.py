"""DiskIndex over more than 2 GB of vectors: ``python -m benchmarks.disk``; see ``--help``.

The index is built in one process and searched in another, so that the memory of each is its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache import cache_folder
from benchmarks.contest import say
from benchmarks.jitter import jittered_mnist
from benchmarks.machine import machine_facts, resident_bytes
from benchmarks.reading import RUN, RUNS, compare_reading, drop_cache
from benchmarks.recall import recall_at
from benchmarks.record import RESULTS, Document, write_document, write_text
from benchmarks.tables import figure, mebibytes, table

K = 10
PROBES = (8, 16, 32, 64, 128)
TARGET = 0.9
COPIES, QUERIES = 12, 500
CODECS = ("f32", "u8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disk", description="Search on disk, with little memory."
    )
    parser.add_argument("--folder", type=Path, default=cache_folder() / "disk", help="for 2 GB of data and the indexes")
    parser.add_argument("--copies", type=int, default=COPIES, help="of the 60,000 images, %(default)s")
    parser.add_argument("--queries", type=int, default=QUERIES, help="%(default)s")
    parser.add_argument("--codecs", nargs="+", default=list(CODECS), help="%(default)s")
    parser.add_argument("--threads", type=int, default=2, help="for building, %(default)s; searches have one")
    parser.add_argument("--memory", type=int, default=512, help="to build with, in MiB, %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # a child process: what to do, and its settings
    options = parser.parse_args(arguments)
    if options.step:
        settings = json.loads(options.step[1])
        print(json.dumps({"warm": warm, "build": build, "search": search}[options.step[0]](settings)))
        return 0
    document = run_disk(options)
    write_document(options.results / "disk.json", document)
    text = disk_page(document)
    write_text(options.results / "disk.md", text)
    print(text)
    return 0


def run_disk(options: argparse.Namespace) -> Document:
    data, truth = jittered_mnist(options.folder, options.copies, options.queries)
    say(f"{data.name}: {data.base.shape[0]:,} x {data.base.shape[1]}, {data.base.nbytes / 1e9:.2f} GB")
    np.save(options.folder / "queries.npy", data.queries)
    indexes, reading = [], None
    for codec in options.codecs:
        settings = {
            "data": str(data.base.filename), "shape": list(data.base.shape), "codec": codec,
            "index": str(options.folder / "index.nearhash"), "folder": str(options.folder),
            "threads": options.threads, "memory": options.memory << 20,
        }  # fmt: skip
        try:
            _child("warm", settings)
            built = _child("build", settings)
            say(f"{codec}: built in {built['seconds']:.0f} s, peak of {built['peak_bytes'] / 2**20:,.0f} MiB")
            _child("warm", settings)  # in case that the sources changed meanwhile
            found = _child("search", settings)
            for point in found["points"]:
                ids = np.load(options.folder / f"found-{point['probes']}.npy")
                point["recall"] = recall_at(data, truth, ids, K)
                say(f"{codec}: {point}")
            if reading is None:
                reading = compare_reading(Path(settings["index"]))
        finally:
            for path in (Path(settings["index"]), *options.folder.glob("found-*.npy")):
                path.unlink(missing_ok=True)
        indexes.append({"codec": codec, "build": built, **found})
    return {
        "kind": "disk",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "dataset": {
            "name": data.name, "base": list(data.base.shape), "nbytes": data.base.nbytes, "metric": data.metric,
        },
        "settings": {
            "k": K, "queries": len(data.queries), "build_threads": options.threads, "search_threads": 1,
            "memory": options.memory << 20, "runs": RUNS, "run_bytes": RUN,
        },
        "indexes": indexes,
        "reading": reading,
    }  # fmt: skip


def _child(step: str, settings: dict[str, Any]) -> Any:
    command = [sys.executable, "-m", "benchmarks.disk", "--step", step, json.dumps(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


class Rows:
    """Rows of an .npy file by reads: mapped pages would count as memory of the process."""

    def __init__(self, path: str, shape: list[int]) -> None:
        self.shape = tuple(shape)
        mapped = np.load(path, mmap_mode="r")
        self._path, self._start, self._row = path, mapped.offset, shape[1] * 4

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        count = (rows.stop - rows.start) * self.shape[1]
        values: NDArray[np.float32] = np.fromfile(
            self._path, np.float32, count, offset=self._start + rows.start * self._row
        )
        return values.reshape(-1, self.shape[1])


def warm(settings: dict[str, Any]) -> None:
    """Compile the kernels: a compiler would be a large part of the memory of the processes that are measured."""
    import nearhash as nh

    path, rows = Path(settings["folder"]) / "warm.nearhash", Rows(settings["data"], settings["shape"])[0:10_000]
    with nh.DiskIndex.build(path, rows, codec=settings["codec"], threads=settings["threads"]) as index:
        index.search(rows[:20])
    path.unlink()


def build(settings: dict[str, Any]) -> dict[str, Any]:
    """Build the index; seconds, memory and sizes."""
    import faiss  # noqa: F401  # loaded by the build anyway, and no part of its memory

    import nearhash as nh

    path, rows = settings["index"], Rows(settings["data"], settings["shape"])
    options = {"codec": settings["codec"], "threads": settings["threads"], "memory": settings["memory"]}
    nh.DiskIndex.build(path, rows[0:3000], **options).close()  # kernels loaded
    before = resident_bytes()
    started = time.perf_counter()
    with nh.DiskIndex.build(path, rows, **options) as index:
        seconds = time.perf_counter() - started
        info = index.info()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "before_bytes": before, "peak_bytes": peak, **info}


def search(settings: dict[str, Any]) -> dict[str, Any]:
    """Open the index and search it, a query at a time; ids go to files."""
    import nearhash as nh

    queries = np.load(Path(settings["folder"]) / "queries.npy")
    before = resident_bytes()
    started = time.perf_counter()
    index = nh.DiskIndex.open(settings["index"], mmap=False)
    opened = time.perf_counter() - started
    index.search(queries[:20])  # kernels loaded
    descriptor = os.open(settings["index"], os.O_RDONLY)
    points = []
    for probes in PROBES:
        # The last pass of each kind counts: warm means that everything was read before.
        drop_cache(descriptor)
        cold, read_before = [], index.traffic
        ids = np.empty((len(queries), K), np.int64)
        for row, query in enumerate(queries):
            drop_cache(descriptor)
            begun = time.perf_counter()
            ids[row] = index.search(query, K, threads=1, probes=probes).ids[0]
            cold.append(time.perf_counter() - begun)
        read = index.traffic
        for query in queries:
            index.search(query, K, threads=1, probes=probes)
        warm = []
        for query in queries:
            begun = time.perf_counter()
            index.search(query, K, threads=1, probes=probes)
            warm.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        index.search(queries, K, threads=1, probes=probes)
        batch = (time.perf_counter() - begun) / len(queries)
        np.save(Path(settings["folder"]) / f"found-{probes}.npy", ids)
        points.append(
            {
                "probes": probes,
                "reads": (read.reads - read_before.reads) / len(queries),
                "bytes": (read.nbytes - read_before.nbytes) / len(queries),
                "cold": _percentiles(cold),
                "warm": _percentiles(warm),
                "warm_batch_ms": batch * 1e3,
            }
        )
    os.close(descriptor)
    return {"before_bytes": before, "resident_bytes": resident_bytes(), "open_seconds": opened, "points": points}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def disk_page(document: Document) -> str:
    """The results in words and tables."""
    data, settings, machine = document["dataset"], document["settings"], document["machine"]
    sizes = [
        [
            index["codec"],
            figure(index["build"]["lists"]),
            figure(index["build"]["entries"] / data["base"][0]),
            mebibytes(index["build"]["disk_bytes"]),
            figure(index["build"]["seconds"]),
            mebibytes(index["build"]["peak_bytes"]),
            mebibytes(index["build"]["nbytes"]),
            mebibytes(index["resident_bytes"]),
            f"{index['resident_bytes'] / data['nbytes']:.1%}",
        ]
        for index in document["indexes"]
    ]
    searches = [
        [
            index["codec"],
            str(point["probes"]),
            f"{point['recall']:.3f}",
            figure(point["reads"]),
            figure(point["bytes"] / 1e3),
            *(figure(point[cache][name]) for cache in ("cold", "warm") for name in ("p50_ms", "p99_ms")),
            figure(point["warm_batch_ms"]),
        ]
        for index in document["indexes"]
        for point in index["points"]
    ]
    reading = [[row["method"], figure(row["cold_ms"]), figure(row["warm_ms"])] for row in document["reading"]]
    shape, gigabytes = f"{data['base'][0]:,} vectors of {data['base'][1]} dimensions", figure(data["nbytes"] / 1e9)
    size_header = ["codec", "lists", "copies of a vector", "on disk, MiB", "build, s", "build peak, MiB", "held, MiB"]
    size_header += ["resident, MiB", "of the data"]
    search_header = ["codec", "probes", "recall", "reads", "kB read", "cold p50", "cold p99", "warm p50", "warm p99"]
    return f"""\
# DiskIndex

{data["name"]}: {shape}, {gigabytes} GB as float32, {data["metric"]}, {settings["queries"]} held-out queries, k = {settings["k"]}.
Built with {settings["build_threads"]} threads and `memory` of {mebibytes(settings["memory"])} MiB, searched with one thread.
Measured on {document["date"]}: {machine["cpu"]}, {machine["cores"]} cores, {machine["system"]}, Python {machine["python"]}.

{table(size_header, sizes)}
Peak and resident memory are those of the whole process, Python and its libraries included; "resident" after all
searches; "held" is the index's own account.

One query a call. "Cold": nothing of the file is in the page cache before each query. "Warm": all of it is. "Batch": all
queries in one call, warm. Times in milliseconds.

{table([*search_header, "batch"], searches)}
Ways to read {settings["runs"]} runs of {settings["run_bytes"] // 1024} KiB, milliseconds (median):

{table(["", "cold", "warm"], reading)}"""  # noqa: E501


if __name__ == "__main__":
    sys.exit(main())
