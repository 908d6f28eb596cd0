"""Time of one layer of attention for one token: ``python -m benchmarks.attention.decode_kernels``.

Batch 1, 8 KV heads with 4 query heads each, 128 dimensions. The rival is Torch's scaled_dot_product_attention with the
queries of a group packed as rows of one head, its fastest form on a processor; all contestants use the same threads
and take turns. `priority` scans 4-bit codes of all keys, samples, and reads one token in twenty.
"""

import argparse
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from copy import copy
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bandwidth import bandwidth, beyond_caches, filled, make_reader
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from benchmarks.tables import figure, machine_line, table
from nearhash.attention import KVStore
from nearhash.kernels import attention, attention_lvq4, attention_pq4, attention_priority, attention_rows, product_codes
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.attention_sampling import sampling_key
from nearhash.kernels.threads import available_threads, run_chunks

HEADS, GROUP, DIM = 8, 4, 128
CONTEXTS = (8192, 32768, 131072)
SINK, LOCAL, SHARE = 4, 16, 0.05
FLOOR, TEMPERATURE = 0.02, 1.0
SAMPLE = 4096  # keys that the codebook is trained on
ROUNDS, SECONDS = 9, 0.15  # turns of each contestant, and how long one lasts
REST = 0.05  # between turns: threads of Torch wait actively for a while

Task = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention.decode_kernels", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS), help="multiples of 256")
    parser.add_argument("--report", action="store_true", help="write the table from the figures that are there")
    options = parser.parse_args(arguments)
    path = options.results / "attention-kernels.json"
    if not options.report:
        write_document(path, run(options.contexts))
    write_text(path.with_suffix(".md"), kernels_part(read_document(path)))
    return 0


def run(contexts: Sequence[int]) -> Document:
    import torch

    threads = available_threads()
    torch.set_num_threads(threads)
    speed = bandwidth(make_reader(), filled(beyond_caches(1 << 30)), threads)
    say(f"memory is read at {speed / 1e9:.1f} GB/s")
    return {
        "kind": "attention-kernels",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "torch": torch.__version__,
        "threads": threads,
        "bytes_per_second": speed,
        "settings": {"heads": HEADS, "group": GROUP, "dim": DIM, "sink": SINK, "local": LOCAL, "share": SHARE},
        "contexts": [measure(count, threads) for count in contexts],
    }


def measure(count: int, threads: int) -> Document:
    """Milliseconds of each contestant at a context of `count` tokens, and the bytes that it has to read."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    rng = np.random.default_rng(count)
    keys, values = (rng.standard_normal((HEADS, count, DIM), dtype=np.float32) for _ in range(2))
    queries = (rng.standard_normal((HEADS, GROUP, DIM)) * 2 / np.sqrt(DIM)).astype(np.float32)
    tensors = [torch.from_numpy(array[None]) for array in (queries, keys, values)]
    halves = [tensor.bfloat16() for tensor in tensors]
    coded: dict[str, LVQ4Codes | PQ4Codes] = {"lvq4": LVQ4Codes(keys, values), "pq4": PQ4Codes(keys, values)}
    stores = {dtype: Store(dtype, keys, values, coded["lvq4"]) for dtype in ("float32", "bfloat16")}
    outputs = np.empty((HEADS, GROUP, DIM), np.float32)

    def sdpa(packed: list[Any]) -> Any:
        query, key, value = packed
        return scaled_dot_product_attention(query, key, value, scale=1.0)

    tasks: dict[str, tuple[int, Task]] = {}
    for dtype, packed in (("float32", tensors), ("bfloat16", halves)):
        store = stores[dtype]
        tasks[f"sdpa {dtype}"] = store.dense_bytes, partial(sdpa, packed)
        tasks[f"dense {dtype}"] = store.dense_bytes, partial(store.dense, queries, outputs, threads)
        for codec, codes in coded.items():
            view = copy(store)
            view.codes = codes
            tasks[f"priority {dtype}, {codec}"] = view.priority_bytes, partial(view.priority, queries, outputs, threads)
            kept = KVStore(HEADS, DIM, codec=codec, dtype=dtype, threads=threads)
            kept.append(keys, values)
            tasks[f"KVStore {dtype}, {codec}"] = view.priority_bytes, partial(attend, kept, queries, itertools.count())
    stores["float32"].dense(queries, outputs, threads)
    error = np.abs(outputs - sdpa(tensors)[0].numpy()).max()
    if error > 1e-5:
        raise RuntimeError(f"dense attention differs from that of Torch by {error}")
    contestants = take_turns(tasks)
    say(f"{count} tokens measured")
    return {"tokens": count, "contestants": contestants}


def attend(store: KVStore, queries: NDArray[np.float32], steps: "itertools.count[int]") -> object:
    """A step as users ask for it: another sample each time."""
    asked = queries.reshape(-1, DIM)
    return store.attend(asked, "priority", SHARE, SINK, LOCAL, 1.0, next(steps), floor=FLOOR)


def take_turns(tasks: dict[str, tuple[int, Task]]) -> dict[str, Document]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(ROUNDS + 1):  # the first one warms up
        for name, (_, task) in tasks.items():
            time.sleep(REST)
            task()
            calls, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < SECONDS or calls < 2:
                task()
                calls += 1
            if turn:
                times[name].append(elapsed / calls * 1e3)
    return {name: {"bytes": nbytes, "ms": times[name]} for name, (nbytes, _) in tasks.items()}


class LVQ4Codes:
    """Codes of 4 bits a dimension of all heads."""

    norms_at = attention_lvq4.norms_at(DIM)
    token_bytes: int = attention_lvq4.page_bytes(DIM) // PAGE

    def __init__(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        self._memory, self.pages = _pages(attention_lvq4.page_bytes(DIM), keys.shape[1])
        for head in range(HEADS):
            attention_lvq4.encode(self.pages[head], 0, keys[head], values[head], keys[head].mean(axis=0))

    def scan(self, head: int, queries: NDArray[np.float32], first: int, last: int, logits: NDArray[np.float32]) -> None:
        attention_lvq4.scan(self.pages[head], queries, first, last, logits)


class PQ4Codes:
    """Product codes of 4 bits for two dimensions of all heads; one codebook, for the keys are alike here."""

    norms_at = attention_pq4.norms_at(DIM // 2)
    token_bytes: int = attention_pq4.page_bytes(DIM // 2) // PAGE

    def __init__(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        self._memory, self.pages = _pages(attention_pq4.page_bytes(DIM // 2), keys.shape[1])
        self.bounds = np.arange(0, DIM + 1, 2, dtype=np.int32)
        self.codewords = np.zeros((DIM, attention_pq4.LEVELS), np.float32)
        for sub in range(DIM // 2):
            product_codes.train_sub_quantiser(keys[0, :SAMPLE], 2 * sub, 2 * sub + 2, 10, self.codewords)
        codes = np.empty((keys.shape[1], DIM // 2), np.uint8)
        for head in range(HEADS):
            product_codes.encode(keys[head], self.bounds, self.codewords, codes)
            attention_pq4.encode(self.pages[head], 0, codes, values[head])

    def scan(self, head: int, queries: NDArray[np.float32], first: int, last: int, logits: NDArray[np.float32]) -> None:
        attention_pq4.scan(self.pages[head], queries, self.bounds, self.codewords, first, last, logits)


class Store:
    """Pages of keys and values of all heads, and codes."""

    def __init__(
        self, dtype: str, keys: NDArray[np.float32], values: NDArray[np.float32], codes: LVQ4Codes | PQ4Codes
    ) -> None:
        self.count = keys.shape[1]
        self.rows = attention_rows.rows_scheme(dtype, DIM)
        self._memory, self.pages = _pages(attention_rows.page_bytes(self.rows), self.count)
        self.codes = codes
        for head in range(HEADS):
            attention_rows.write_tokens(self.rows, self.pages[head], 0, keys[head], values[head])
        self.budget = round(self.count * SHARE) - SINK - LOCAL
        self.room = self.pages.shape[1] * PAGE
        self._scratch = threading.local()
        self._steps = itertools.count()
        self.dense_bytes = HEADS * self.count * self.rows.token_bytes

    @property
    def priority_bytes(self) -> int:
        reads = int(self.count * SHARE)
        total: int = HEADS * (self.count * self.codes.token_bytes + reads * self.rows.token_bytes)
        return total

    def dense(self, queries: NDArray[np.float32], outputs: NDArray[np.float32], threads: int) -> None:
        levels = np.empty((HEADS, GROUP), np.float32)

        def task(first: int, last: int) -> None:
            for head in range(first, last):
                attention.attend_dense(
                    self.rows, queries[head], self.pages[head], 0, self.count, outputs[head], levels[head]
                )  # fmt: skip

        run_chunks(task, HEADS, threads, 1)

    def priority(self, queries: NDArray[np.float32], outputs: NDArray[np.float32], threads: int) -> None:
        levels, variances = np.empty((HEADS, GROUP), np.float32), np.empty((HEADS, GROUP), np.float32)
        first_token, last_token = SINK, self.count - LOCAL
        step = next(self._steps)  # another sample each time: rows read before may be in a cache

        def task(first: int, last: int) -> None:
            if not hasattr(self._scratch, "array"):
                self._scratch.array = np.empty((GROUP + 2, self.room), np.float32)
            scratch = self._scratch.array
            for head in range(first, last):
                self.codes.scan(head, queries[head], first_token, last_token, scratch[:GROUP])
                attention_priority.attend_priority(
                    self.rows, queries[head], self.pages[head], self.count, first_token, last_token, scratch,
                    self.codes.pages[head], self.codes.norms_at, TEMPERATURE, FLOOR,
                    np.uint64(sampling_key(0, step, 0, head)), self.budget, outputs[head], levels[head],
                    variances[head],
                )  # fmt: skip

        run_chunks(task, HEADS, threads, 1)


def _pages(size: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Memory, and the addresses (HEADS, pages) of pages of `size` bytes in it."""
    pages = -(-count // PAGE)
    memory = np.zeros(HEADS * pages * size + 64, np.uint8)
    first = memory.ctypes.data + -memory.ctypes.data % 64
    return memory, first + size * np.arange(HEADS * pages, dtype=np.int64).reshape(HEADS, pages)


def kernels_part(document: Document) -> str:
    """The table of times, advantages and shares of the byte limit."""
    settings, speed = document["settings"], document["bytes_per_second"]
    rows = []
    for context in document["contexts"]:
        contestants = context["contestants"]
        for name, entry in contestants.items():
            rival = np.array(contestants[f"sdpa {name.split()[1].rstrip(',')}"]["ms"])
            own = np.array(entry["ms"])
            middle, ratios = float(np.median(own)), rival / own
            spread = f"{np.median(rival) / middle:.1f}x ({ratios.min():.1f}–{ratios.max():.1f})"
            limit = entry["bytes"] / speed * 1e3
            rows.append(
                [f"{context['tokens']:,} tokens, {name}", figure(middle), "" if "sdpa" in name else spread,
                 f"{entry['bytes'] / 2**20:,.0f}", f"{limit / middle:.0%}"]
            )  # fmt: skip
    header = ["", "ms", "faster than SDPA", "MiB read", "of the byte limit"]
    heads = f"{settings['heads']} KV heads with {settings['group']} query heads each, {settings['dim']} dimensions"
    return f"""\
## One layer of attention for one token

{heads}, batch 1, {document["threads"]} threads; `priority` reads {settings["share"]:.0%} of the tokens,
another sample each time, by the kernels alone; `KVStore` is the same as `KVStore.attend` does it. SDPA is Torch
{document["torch"]} with the queries of a group packed as rows. Medians of {ROUNDS} turns taken one after the other, of
their ratios the least and the greatest. The byte limit is the time that it takes to read what is read in order, at
{speed / 1e9:.1f} GB/s.
{machine_line(document)}

{table(header, rows)}"""


if __name__ == "__main__":
    raise SystemExit(main())
