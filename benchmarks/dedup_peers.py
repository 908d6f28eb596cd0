"""Duplicate pairs by other libraries, as their documentation says, from the same texts and the same shingles."""

import re
from collections.abc import Callable, Iterable, Sequence

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


PEERS: dict[str, Callable[[Sequence[str], float, int], Pairs]] = {
    "datasketch": datasketch_pairs,
    "rensa": rensa_pairs,
}


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
