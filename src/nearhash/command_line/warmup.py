"""``nearhash warmup``: compile the kernels ahead of time, for container images and first requests."""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from nearhash.command_line.build import Codec
from nearhash.command_line.report import JsonOption, print_json, progress_bar, results

DIM = 16
ROWS = 400
BATCHES = (1, 40)  # a few queries are scanned, many go through a matrix product
LISTS = 8
# A graph answers filters by a walk or by a scan, as the beam makes the one or the other cheaper.
EFFORTS: dict[str, tuple[dict[str, int], ...]] = {"graph": ({"beam": 1}, {"beam": 64}), "ivf": ({"probes": 2},)}
ALLOWED = (ROWS // 4, 4)  # wide filters are tested on the way, narrow ones listed


def warmup(json: JsonOption = False) -> None:
    """Compile every kernel into the cache, or load it from there."""
    started = time.perf_counter()
    with progress_bar("Preparing kernels") as progress:
        steps = list(exercises())
        for done, step in enumerate(steps):
            progress(done, len(steps))
            step()
        progress(len(steps), len(steps))
    document = {"seconds": time.perf_counter() - started, **compiled_kernels()}
    if json:
        print_json(document)
    else:
        results().print(
            f"{document['kernels']} kernels for {document['instruction_set']} ready in {document['seconds']:.1f} s: "
            f"{document['compiled']} compiled, {document['loaded']} from the cache in {', '.join(document['caches'])}",
            soft_wrap=True,
            markup=False,
        )


def exercises() -> Iterator[Callable[[], None]]:
    """Steps which together call every kernel with every combination of types that the indexes use."""
    import nearhash as nh
    from nearhash.index.flat import DTYPES

    settings: dict[str, Any]
    for metric in ("l2", "ip", "cosine"):
        for dtype in DTYPES:
            settings = {"metric": metric, "dtype": dtype}
            yield partial(exercise, partial(nh.FlatIndex, DIM, **settings))
        for codec in ("lvq8", "f32"):
            settings = {"metric": metric, "codec": codec}
            yield partial(exercise, partial(nh.GraphIndex, DIM, **settings))
        for spill in (False, True):
            yield partial(exercise, partial(nh.IVFIndex, DIM, metric=metric, lists=LISTS, spill=spill))
    for codec in Codec:
        yield partial(exercise, partial(nh.IVFIndex, DIM, codec=codec.value, lists=LISTS))


def exercise(make: Callable[[], Any]) -> None:
    """Make an index and search it in every way: in memory, mapped from a file, and mapped and then changed."""
    import nearhash as nh

    rows = np.random.default_rng(0).integers(0, 100, (ROWS, DIM)).astype(np.float32)
    half = ROWS // 2
    index = make()
    index.add(rows[:half], labels=np.arange(half), attributes={"part": np.arange(half)})
    search_in_every_way(index, rows)
    with TemporaryDirectory(prefix="nearhash-warmup-") as folder:
        file = Path(folder) / "index.nearhash"
        index.save(file)
        mapped = nh.load(file, mmap=True)
    search_in_every_way(mapped, rows)
    ids = mapped.add(rows[half:], labels=np.arange(half), attributes={"part": np.arange(half)})
    mapped.remove(ids[:10])
    search_in_every_way(mapped, rows)


def search_in_every_way(index: Any, rows: npt.NDArray[np.float32]) -> None:
    """Search with few queries and many, of both types, and with every kind of filter."""
    import nearhash as nh

    filters: list[dict[str, Any]] = [{}]
    for allowed in ALLOWED:
        window, allow = {"window": (0, allowed)}, {"allow": index.ids[:allowed]}
        filters += [window, allow, window | allow, {"where": nh.where.range("part", 0, allowed)}]
    kind = index.info()["kind"]
    efforts: tuple[dict[str, int], ...] = EFFORTS.get(kind, ({},))
    for batch, dtype, effort in product(BATCHES, (np.float32, np.uint8), efforts):
        queries = np.resize(rows, (batch, DIM)).astype(dtype)
        for limits in filters:
            index.search(queries, k=1, threads=1, **limits, **effort)
            if kind == "flat" and batch == BATCHES[0]:
                index.range_search(queries, radius=1.0, threads=1, **limits)


def compiled_kernels() -> dict[str, Any]:
    """Count the kernels of this process by where their machine code came from."""
    from numba.core.dispatcher import Dispatcher

    from nearhash.kernels.features import LEVEL

    cached = {
        id(kernel): kernel.stats
        for name, module in list(sys.modules.items())
        if name.startswith("nearhash.kernels.")
        for kernel in vars(module).values()
        if isinstance(kernel, Dispatcher) and kernel.stats.cache_path  # the others are compiled into their callers
    }.values()
    compiled = sum(sum(kernel.cache_misses.values()) for kernel in cached)
    loaded = sum(sum(kernel.cache_hits.values()) for kernel in cached)
    return {
        "kernels": compiled + loaded,
        "compiled": compiled,
        "loaded": loaded,
        "instruction_set": LEVEL,
        "caches": sorted({kernel.cache_path for kernel in cached}),
    }
