"""Duplicate pairs by other libraries, as their documentation says, from the same texts and the same shingles."""

import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

Pairs = set[tuple[int, int]]

K = 128


def shingle_sets(texts: Sequence[str], ngram: int) -> list[set[str]]:
    """Word n-grams by Python, as users of the other libraries make them."""
    found = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        found.append(
            {" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))} if words else set()
        )
    return found


def datasketch_pairs(texts: Sequence[str], threshold: float, ngram: int, verified: bool = True) -> Pairs:
    """MinHashLSH with its own choice of bands; candidates verified by the estimate of the sketches, or not."""
    from datasketch import MinHash, MinHashLSH

    sets = shingle_sets(texts, ngram)
    sketches = MinHash.bulk([[token.encode() for token in tokens] for tokens in sets], num_perm=K)
    lsh = MinHashLSH(threshold=threshold, num_perm=K)
    pairs: Pairs = set()
    for number, (tokens, sketch) in enumerate(zip(sets, sketches, strict=True)):
        if not tokens:
            continue
        for other in lsh.query(sketch):
            if not verified or sketch.jaccard(sketches[other]) >= threshold:
                pairs.add((other, number))
        lsh.insert(number, sketch, check_duplication=False)
    return pairs


def rensa_pairs(texts: Sequence[str], threshold: float, ngram: int, verified: bool = True) -> Pairs:
    """RMinHash over the full set of shingles, and RMinHashLSH with 16 bands (the number of its README)."""
    from rensa import RMinHash, RMinHashLSH

    sets = shingle_sets(texts, ngram)
    sketches = RMinHash.from_token_sets([list(tokens) for tokens in sets], K, 42)
    lsh = RMinHashLSH(threshold, K, 16)
    lsh.insert_many(sketches, 0)
    pairs: Pairs = set()
    for number, found in enumerate(lsh.query_all(sketches)):
        for other in found:
            if (
                other < number
                and sets[number]
                and (not verified or sketches[number].jaccard(sketches[other]) >= threshold)
            ):
                pairs.add((other, number))
    return pairs


def text_dedup_pairs(texts: Sequence[str], threshold: float, ngram: int) -> Pairs:
    """The steps of text-dedup's command `minhash`: its functions, its defaults but for K slots and short documents.

    Its words are its own (empty ones between two signs count), and it joins a bucket with its first document only. Not
    its command, which needs older libraries than the others here: what it spends on files and processes is left out.
    """
    module = _text_dedup()
    bands, rows = module.optimal_param(threshold, K, false_positive_weight=0.5, false_negative_weight=0.5)
    dtype, prime = module.np.uint64, module.np.uint64((1 << 61) - 1)
    random = module.np.random.RandomState(42)
    settings = {
        "num_perm": K, "ngram_size": ngram, "min_length": 1, "hash_func": module.sha1_hash, "dtype": dtype,
        "hashranges": [(band * rows, (band + 1) * rows) for band in range(bands)],
        "permutations": (random.randint(1, prime, size=K, dtype=dtype), random.randint(0, prime, size=K, dtype=dtype)),
        "max_hash": module.np.uint32((1 << 32) - 1), "modulo_prime": prime,
    }  # fmt: skip
    tables: list[dict[bytes, set[int]]] = [defaultdict(set) for _ in range(bands)]
    for number, text in enumerate(texts):
        if text.strip():
            found = module.embed_func(text, number, **settings)
            for table, key in zip(tables, found[module.SIGNATURE_COLUMN], strict=True):
                table[key].add(number)
    pairs: Pairs = set()
    union = module.UnionFind()
    for table in tables:
        for bucket in table.values():
            if len(bucket) > 1:
                first = min(bucket)
                for number in bucket:
                    union.union(number, first)
                    pairs.add((first, number))
    return {(first, number) for first, number in pairs if first != number}


def _text_dedup() -> Any:
    """Its module, with stand-ins for packages that only its command line and its files need."""
    for name in ("click", "click_option_group", "datasets", "ftfy", "regex", "tqdm"):
        if name not in sys.modules and find_spec(name) is None:
            sys.modules[name] = MagicMock()
            if name == "datasets":
                sys.modules |= {"datasets.utils": MagicMock(), "datasets.utils.version": MagicMock(dataclass=dataclass)}
    return importlib.import_module("text_dedup.minhash")


PEERS: dict[str, Callable[[Sequence[str], float, int], Pairs]] = {
    "datasketch": datasketch_pairs,
    "rensa": rensa_pairs,
}
if find_spec("text_dedup") is not None:  # pip install --no-deps text-dedup
    PEERS["text-dedup"] = text_dedup_pairs


def joined(pairs: Iterable[tuple[int, int]], count: int) -> list[int]:
    """The lowest member of the connected component of each."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for left, right in pairs:
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    return [root(node) for node in range(count)]
