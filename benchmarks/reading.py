"""Ways to read scattered runs of pages of a large file, cold and warm."""

import mmap
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

RUN = 1 << 16  # bytes of a run
RUNS = 32  # read together
ROUNDS = 25
PAGE = 4096

Method = Callable[[list[int]], None]


def compare_reading(path: Path) -> list[dict[str, Any]]:
    """Median milliseconds of each method to have `RUNS` runs of the file read, with nothing and everything cached."""
    size = path.stat().st_size
    random = np.random.default_rng(0)
    rows = []
    with ExitStack() as stack:
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        for name, method, forget in _methods(path, descriptor, stack):
            cold, warm = [], []
            for _ in range(ROUNDS):
                offsets = (np.sort(random.choice(size // RUN - 1, RUNS, replace=False)) * RUN).tolist()
                forget()
                cold.append(_seconds(method, offsets))
                warm.append(_seconds(method, offsets))
            rows.append({"method": name, "cold_ms": median(cold) * 1e3, "warm_ms": median(warm) * 1e3})
    return rows


def drop_cache(descriptor: int) -> None:
    """Have the page cache forget a file (that was synced and is mapped nowhere)."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _methods(path: Path, descriptor: int, stack: ExitStack) -> Iterator[tuple[str, Method, Callable[[], None]]]:
    """Name, method, and how to forget what it left in the cache."""
    buffer = memoryview(mmap.mmap(-1, RUNS * RUN))
    targets = [buffer[i * RUN : (i + 1) * RUN] for i in range(RUNS)]
    threads = stack.enter_context(ThreadPoolExecutor(32))

    def forget() -> None:
        drop_cache(descriptor)

    def announce(offsets: list[int]) -> None:
        for offset in offsets:
            os.posix_fadvise(descriptor, offset, RUN, os.POSIX_FADV_WILLNEED)

    def in_turn(offsets: list[int]) -> None:
        for target, offset in zip(targets, offsets, strict=True):
            os.preadv(descriptor, [target], offset)

    def announced(offsets: list[int]) -> None:
        announce(offsets)
        in_turn(offsets)

    def from_cache_first(offsets: list[int]) -> None:
        missing = []
        for target, offset in zip(targets, offsets, strict=True):
            try:
                if os.preadv(descriptor, [target], offset, os.RWF_NOWAIT) == RUN:
                    continue
            except BlockingIOError:
                pass
            missing.append((target, offset))
        announce([offset for _, offset in missing])
        for target, offset in missing:
            os.preadv(descriptor, [target], offset)

    def pool(file: int, workers: int) -> Method:
        def work(offsets: list[int], first: int) -> None:
            for i in range(first, RUNS, workers):
                os.preadv(file, [targets[i]], offsets[i])

        def method(offsets: list[int]) -> None:
            for future in [threads.submit(work, offsets, first) for first in range(workers)]:
                future.result()

        return method

    yield "preadv, one after the other", in_turn, forget
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    yield "preadv, announced (posix_fadvise)", announced, forget
    yield "preadv, from the cache first (RWF_NOWAIT), the rest announced", from_cache_first, forget
    for workers in (8, 32):
        yield f"preadv, {workers} threads", pool(descriptor, workers), forget
    try:
        direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pass  # a file system without
    else:
        stack.callback(os.close, direct)
        yield "preadv, O_DIRECT, 16 threads", pool(direct, 16), forget
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as pages:
        pages.madvise(mmap.MADV_RANDOM)

        def unmapped() -> None:
            pages.madvise(mmap.MADV_DONTNEED)
            drop_cache(descriptor)

        def mapped(offsets: list[int]) -> None:
            for offset in offsets:
                pages.madvise(mmap.MADV_WILLNEED, offset, RUN)
            for target, offset in zip(targets, offsets, strict=True):
                target[:] = pages[offset : offset + RUN]

        yield "mmap and copied, announced (madvise)", mapped, unmapped


def _seconds(method: Method, offsets: list[int]) -> float:
    started = time.perf_counter()
    method(offsets)
    return time.perf_counter() - started
