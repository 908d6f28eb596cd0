"""``nearhash warmup``: compile the kernels ahead of time, for container images and first requests."""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from nearhash.command_line.report import JsonOption, print_json, progress_bar, results

DIM = 16
ROWS = 400
BATCHES = (1, 64, 2000)  # single queries, small batches and large ones take different kernels


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


def exercise(make: Callable[[], Any]) -> None:
    """Make an index, fill it in two calls, remove from it, and search it in every way."""
    import nearhash as nh

    rows = np.random.default_rng(0).integers(0, 100, (ROWS, DIM)).astype(np.float32)
    index = make()
    index.add(rows[: ROWS // 2], labels=np.arange(ROWS // 2))
    ids = index.add(rows[ROWS // 2 :], labels=np.arange(ROWS // 2))
    index.remove(ids[:10])
    for batch in BATCHES:
        for dtype in (np.float32, np.uint8):
            queries = np.resize(rows, (batch, DIM)).astype(dtype)
            index.search(queries, k=5)
            index.search(queries, k=5, window=(0, 100))
            index.search(queries, k=5, allow=ids)
    if isinstance(index, nh.FlatIndex):
        index.range_search(rows[:2], radius=1.0)


def compiled_kernels() -> dict[str, Any]:
    """Count the kernels of this process by where their machine code came from."""
    from numba.core.dispatcher import Dispatcher

    from nearhash.kernels.features import LEVEL

    kernels = {
        id(kernel): kernel
        for name, module in list(sys.modules.items())
        if name.startswith("nearhash.kernels.")
        for kernel in vars(module).values()
        if isinstance(kernel, Dispatcher) and kernel.signatures
    }.values()
    statistics = [kernel.stats for kernel in kernels]
    return {
        "kernels": sum(len(kernel.signatures) for kernel in kernels),
        "compiled": sum(sum(each.cache_misses.values()) for each in statistics),
        "loaded": sum(sum(each.cache_hits.values()) for each in statistics),
        "instruction_set": str(LEVEL),
        "caches": sorted({str(each.cache_path) for each in statistics}),
    }
