"""How fast one core, or several, can read memory in order: the bound of an exhaustive scan."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import cache_bytes

LEAST_BYTES = 2 << 30  # read in one measurement; a thread needs milliseconds to find a core of its own


def make_reader() -> Callable[[NDArray[np.int64], int], int]:
    """A compiled, repeated sum that releases the GIL. Integers: their sum may be reordered, so it is vectorised."""
    import numba

    @numba.njit(nogil=True)  # type: ignore[misc, unused-ignore]
    def total(array, repeats):  # type: ignore[no-untyped-def]
        result = 0
        for r in range(repeats):
            for i in range(array.size):
                result += array[i] ^ r  # depends on r, or one pass would do for all
        return result

    total(np.zeros(8, np.int64), 1)
    reader: Callable[[NDArray[np.int64], int], int] = total
    return reader


def bandwidth(reader: Callable[[NDArray[np.int64], int], int], array: NDArray[np.int64], threads: int) -> float:
    """Bytes per second at which `threads` threads, each its part again and again, read `array`."""
    repeats = max(1, LEAST_BYTES // array.nbytes)
    parts = np.array_split(array, threads)
    workers = [threading.Thread(target=reader, args=(part, repeats)) for part in parts[1:]]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    reader(parts[0], repeats)
    for worker in workers:
        worker.join()
    return repeats * array.nbytes / (time.perf_counter() - started)


def beyond_caches(limit: int = 4 << 30) -> int:
    """Bytes of an array of which the caches hold at most a quarter, or `limit`."""
    return min(limit, max(1 << 30, 4 * (cache_bytes(3) or 0)))


def filled(nbytes: int) -> NDArray[Any]:
    """An array whose pages exist: reading untouched zeros would read one page again and again."""
    return np.ones(nbytes // 8, np.int64)
