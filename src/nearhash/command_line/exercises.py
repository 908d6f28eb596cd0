"""What `nearhash warmup` does with indexes and hashes, so that all their kernels get compiled."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from nearhash.command_line.build import CODECS as INDEX_CODECS
from nearhash.command_line.build import IndexKind

DIM = 16
ROWS = 400
BATCHES = (1, 40)  # a few queries are scanned, many go through a matrix product
LISTS = 8
# A graph answers filters by a walk or by a scan, as the beam makes the one or the other cheaper.
EFFORTS: dict[str, tuple[dict[str, int], ...]] = {"graph": ({"beam": 1}, {"beam": 64}), "ivf": ({"probes": 2},)}
ALLOWED = (ROWS // 4, 4)  # wide filters are tested on the way, narrow ones listed
TEXTS = ["one two three four five six seven", "one two three four five six eight", "naïve café 漢字"]


def exercises() -> Iterator[Callable[[], None]]:
    """Steps which together call every kernel with every combination of types that the indexes use."""
    import nearhash as nh
    from nearhash.attention.codes import CODECS
    from nearhash.attention.warming import warm
    from nearhash.hashing.minhash import METHODS
    from nearhash.index.flat import DTYPES
    from nearhash.kernels.attention_rows import ROWS

    settings: dict[str, Any]
    for metric in ("l2", "ip", "cosine"):
        for dtype in DTYPES:
            settings = {"metric": metric, "dtype": dtype}
            yield partial(exercise, partial(nh.FlatIndex, DIM, **settings))
        yield partial(exercise, partial(nh.GraphIndex, DIM, metric=metric))
        for spill in (False, True):
            yield partial(exercise, partial(nh.IVFIndex, DIM, metric=metric, lists=LISTS, spill=spill))
    for metric in ("l2", "ip", "cosine"):
        yield partial(exercise, partial(nh.WindowIndex, DIM, metric=metric))
    for codec in INDEX_CODECS[IndexKind.graph]:
        yield partial(exercise, partial(nh.GraphIndex, DIM, codec=codec.value))
    for codec in INDEX_CODECS[IndexKind.ivf]:
        yield partial(exercise, partial(nh.IVFIndex, DIM, codec=codec.value, lists=LISTS))
    for metric in ("l2", "ip", "cosine"):
        yield partial(exercise, partial(nh.LSHIndex, DIM, metric=metric, tables=4))
    for method in METHODS:
        yield partial(sketch, method)
    yield from (hash_vectors, search_sets, search_bits, deduplicate)
    for dtype in ROWS:
        yield partial(warm, "lvq4", dtype)
    for name in CODECS:
        yield partial(warm, name, "float32")
    yield match_prompts


def match_prompts() -> None:
    """Align prompts by like tokens."""
    from nearhash.attention import match_tokens

    rows = np.random.default_rng(0).standard_normal((8, DIM))
    match_tokens(rows, rows, threshold=0.7)


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


def sketch(method: str) -> None:
    """Sketches of sets of tokens, strings and texts, with values of every size."""
    from nearhash.hashing import MinHash

    for bits in (32, 16, 8, 4):
        minhash = MinHash(16, method, bits)
        sketches = minhash.sketch_sets([["a", "b"], ["c", 4]])
        sketches.jaccard(sketches)
    minhash.minima([0, 2], [1, 2]).sketch()
    for unit in ("word", "char"):
        minhash.sketch_texts(TEXTS, ngram=2, unit=unit)


def hash_vectors() -> None:
    """Hashes of vectors of every family, and draws from their buckets."""
    from nearhash.hashing import E2LSH, CrossPolytope, KernelDensity, LSHSampler, SimHash

    rows = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    for method in ("hadamard", "gaussian"):
        SimHash(DIM, method=method).encode(rows)
    CrossPolytope(DIM).probes(rows[:2], 3)
    E2LSH(DIM).hash(rows)
    sampler, density = LSHSampler(DIM), KernelDensity(DIM)
    sampler.add(rows)
    sampler.sample(rows[:2], 3)
    density.add(rows)
    density.estimate(rows[:2])


def search_sets() -> None:
    """Tables of sketches: queries, pairs, in memory and mapped."""
    import nearhash as nh

    index = nh.MinHashLSH(threshold=0.5, k=32)
    sketches = index.minhash.sketch_texts(TEXTS * 10, ngram=2)
    ids = index.add(sketches)
    index.query(sketches)
    list(index.pairs())
    with TemporaryDirectory(prefix="nearhash-warmup-") as folder:
        file = Path(folder) / "sets.nearhash"
        index.save(file)
        mapped = nh.load(file)
        mapped.query(sketches)
        list(mapped.pairs())
        mapped.remove(ids[:1])


def search_bits() -> None:
    """Binary codes by scan and by tables."""
    import nearhash as nh

    codes = np.random.default_rng(0).integers(0, 256, (ROWS, 32), dtype=np.uint8)
    for method in ("scan", "multi-index"):
        index = nh.HammingIndex(256, method=method)
        index.add(codes)
        for batch in BATCHES:
            index.search(codes[:batch], k=2, threads=1)
            index.range_search(codes[:batch], radius=20, threads=1)


def deduplicate() -> None:
    """Near-duplicates in memory and in files."""
    import nearhash as nh
    from nearhash.index.dedup import deduplicate_files

    nh.deduplicate(TEXTS * 2)
    with TemporaryDirectory(prefix="nearhash-warmup-") as folder:
        file = Path(folder) / "texts.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 2), encoding="utf-8")
        deduplicate_files([file], Path(folder) / "out")


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
