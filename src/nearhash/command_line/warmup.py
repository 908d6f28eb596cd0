"""``nearhash warmup``: compile the kernels ahead of time, for container images and first requests."""

import sys
import time
from typing import Any

from nearhash.command_line.exercises import exercises
from nearhash.command_line.report import JsonOption, print_json, progress_bar, results


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
