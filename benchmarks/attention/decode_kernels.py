"""Time of one layer of attention for one token: ``python -m benchmarks.attention.decode_kernels``.

Batch 1, 8 KV heads with 4 query heads each, 128 dimensions. The rival is Torch's scaled_dot_product_attention with the
queries of a group packed as rows of one head, its fastest form on a processor; all contestants use the same threads
and take turns. `priority` scans 4-bit codes of all keys, samples, and reads one token in twenty.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
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
from nearhash.kernels.threads import available_threads

HEADS, GROUP, DIM = 8, 4, 128
CONTEXTS = (8192, 32768, 131072)
SINK, LOCAL, SHARE = 4, 16, 0.05
CODECS = ("lvq4", "pq4")
ROUNDS, SECONDS = 9, 0.15  # turns of each contestant, and how long one lasts
REST = 0.05  # between turns: threads of Torch wait actively for a while

Task = Callable[[], Any]


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
    packed = {"float32": tensors, "bfloat16": [tensor.bfloat16() for tensor in tensors]}

    def sdpa(dtype: str) -> Any:
        query, key, value = packed[dtype]
        return scaled_dot_product_attention(query, key, value, scale=1.0)

    asked = queries.reshape(-1, DIM)
    tasks: dict[str, tuple[int, Task]] = {}
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        tokens = HEADS * count * 2 * DIM * size
        tasks[f"sdpa {dtype}"] = tokens, partial(sdpa, dtype)
        for codec in CODECS:
            store = KVStore(HEADS, DIM, codec=codec, dtype=dtype, threads=threads)
            store.append(keys, values)
            if codec == CODECS[0]:
                tasks[f"dense {dtype}"] = tokens, partial(store.attend, asked, "dense", scale=1.0)
            step = partial(sampled, store, asked, itertools.count())
            step()  # makes the codes
            tasks[f"priority {dtype}, {codec}"] = store.index_nbytes + int(tokens * SHARE), step
    error = np.abs(tasks["dense float32"][1]().output.reshape(queries.shape) - sdpa("float32")[0].numpy()).max()
    if error > 1e-5:
        raise RuntimeError(f"dense attention differs from that of Torch by {error}")
    contestants = take_turns(tasks)
    say(f"{count} tokens measured")
    return {"tokens": count, "contestants": contestants}


def sampled(store: KVStore, queries: NDArray[np.float32], steps: "itertools.count[int]") -> object:
    """A step as users ask for it; another sample each time, for rows that were read before may be in a cache."""
    return store.attend(queries, "priority", SHARE, SINK, LOCAL, 1.0, next(steps))


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

{heads}, batch 1, {document["threads"]} threads, all by `KVStore.attend`, from queries to output;
`priority` reads {settings["share"]:.0%} of the tokens, another sample each time. SDPA is Torch
{document["torch"]} with the queries of a group packed as rows. Medians of {ROUNDS} turns taken one after the other, of
their ratios the least and the greatest. The byte limit is the time that it takes to read what is read in order, at
{speed / 1e9:.1f} GB/s.
{machine_line(document)}

{table(header, rows)}"""


if __name__ == "__main__":
    raise SystemExit(main())
