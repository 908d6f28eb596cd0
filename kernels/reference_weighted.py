"""What the kernels of `weighted.py` and `dwta.py` compute, in plain NumPy, and the similarities they estimate."""

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.hashes import GOLDEN
from nearhash.kernels.reference_hashes import fmix64

Sets = tuple[NDArray[np.uint64], NDArray[np.float64]]
EMPTY = np.uint32(0xFFFFFFFF)


def weighted_jaccard(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Sum of minima over sum of maxima of two vectors of weights."""
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def probability_jaccard(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """J_P of two vectors of weights (Moulton & Jiang, ICDM 2018; Ertl, TKDE 2020)."""
    common = np.flatnonzero((a > 0) & (b > 0))
    return float(sum(1 / np.maximum(a / a[i], b / b[i]).sum() for i in common))


def merged(tokens: NDArray[np.uint64], weights: NDArray[np.float64]) -> Sets:
    """Distinct tokens, ascending, with the sums of their weights; without those of weight zero."""
    distinct = np.unique(tokens)
    sums = np.array([sum(np.sort(weights[tokens == token]).tolist()) for token in distinct], np.float64)
    return distinct[sums > 0], sums[sums > 0]


def word(state: NDArray[np.uint64], number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words: NDArray[np.uint64] = fmix64(state + (number + np.uint64(1)) * GOLDEN)
    return words


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return numbers


def gamma2(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    high, low = (part.astype(np.float64) + 0.5 for part in (bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)))
    numbers: NDArray[np.float64] = -np.log(high * (low * 2.0**-64))
    return numbers


def icws(tokens: NDArray[np.uint64], weights: NDArray[np.float64], key: int, k: int) -> NDArray[np.uint32]:
    """(k,) sketch of one set by improved consistent weighted sampling."""
    tokens, weights = merged(tokens, weights)
    if not len(tokens):
        return np.full(k, EMPTY)
    state = fmix64(tokens ^ np.uint64(key))[:, None]
    number = np.uint64(3) * np.arange(k, dtype=np.uint64)[None]
    r, c = gamma2(word(state, number)), gamma2(word(state, number + np.uint64(1)))
    beta = uniform(word(state, number + np.uint64(2)))
    t = np.floor(np.log(weights)[:, None] / r + beta)
    winner = np.argmin(np.log(c) - r * (t - beta) - r, axis=0)
    chosen = t[winner, np.arange(k)].astype(np.int64).astype(np.uint64)
    sketch: NDArray[np.uint32] = (fmix64(state[winner, 0] ^ (chosen * GOLDEN)) >> np.uint64(32)).astype(np.uint32)
    return sketch


def probminhash(tokens: NDArray[np.uint64], weights: NDArray[np.float64], key: int, k: int) -> NDArray[np.uint32]:
    """(k,) sketch of one set by ProbMinHash1: every process alone, until it is later than all slots."""
    tokens, weights = merged(tokens, weights)
    out, first = np.full(k, EMPTY), np.full(k, np.inf)
    for token, weight in zip(tokens, weights / weights.max() if len(weights) else weights, strict=True):
        state, time, number = fmix64(np.array([token ^ np.uint64(key)])), 0.0, 0
        while weight > 0:
            u = uniform(word(state, np.array([number], np.uint64)))[0]
            time -= float(np.log(u)) / float(weight)
            if time >= first.max():
                break
            high = word(state, np.array([number + 1], np.uint64))[0] >> np.uint64(32)
            slot = int(high) * k >> 32
            if time < first[slot]:
                first[slot], out[slot] = time, np.uint32(fmix64(state)[0] >> np.uint64(32))
            number += 2
    return out


def dwta(
    vector: NDArray[np.float32], bins: NDArray[np.int32], places: NDArray[np.uint8], key: int, k: int
) -> NDArray[np.uint8]:
    """(k,) hash of one dense vector, see `dwta.hash_rows`."""
    values: list[int] = []
    for each in range(k):
        members = [
            (-float(vector[j]), int(places[p, j])) for p, j in np.argwhere(bins == each).tolist() if vector[j] != 0
        ]
        values.append(min(members)[1] if members else 255)
    own = list(values)
    if all(value == 255 for value in own):
        return np.full(k, 255, np.uint8)
    for each in range(k):
        attempt = 0
        while values[each] == 255:
            number = np.array([(key + attempt * k + each) % 2**64], np.uint64)
            values[each] = own[int(fmix64(number)[0] >> np.uint64(32)) * k >> 32]
            attempt += 1
    return np.array(values, np.uint8)
