"""Sketches of weighted sets: improved consistent weighted sampling, and ProbMinHash.

All random numbers belong to (key, token, number), so that the same token meets the same ones in every set and no
table over the tokens is needed. `reference_weighted.py` says the same in NumPy.
"""

import math

import numpy as np

from nearhash.kernels.hashes import GOLDEN, fmix64, reduce_range
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import pointer

_S11, _S32 = np.uint64(11), np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@jit_inline
def word(state, number):
    """Word `number` of the stream of a token: SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), any word at once."""
    return fmix64(state + (number + _ONE) * GOLDEN)


@jit_inline
def uniform(bits):
    """53 bits of a uint64 as a float64 in (0, 1)."""
    return (np.float64(bits >> _S11) + 0.5) * 2.0**-53


@jit_inline
def gamma2(bits):
    """Gamma(2, 1) from the halves of a uint64: the sum of two exponential numbers."""
    return -math.log((np.float64(bits >> _S32) + 0.5) * ((np.float64(bits & _LOW32) + 0.5) * 2.0**-64))


@jit_inline
def merge_repeated(tokens, weights, first, last, own_tokens, own_weights):
    """Distinct tokens of tokens[first:last] with weight > 0, ascending, and the sum of each one's weights.

    All but first and last are arrays. The order of the input does not matter, not even to the rounding of a sum.
    Returns how many there are.
    """
    order = np.argsort(tokens[first:last], kind="mergesort")
    count, i = 0, 0
    size = last - first
    while i < size:
        token, j = tokens[first + order[i]], i + 1
        while j < size and tokens[first + order[j]] == token:
            j += 1
        total = weights[first + order[i]]
        if j - i > 1:
            same = np.sort(weights[first + order[i:j]])
            total = 0.0
            for value in same:
                total += value
        if total > 0:
            own_tokens[count], own_weights[count] = token, total
            count += 1
        i = j
    return count


@jit
def sketch_icws(indptr, tokens, weights, key, out, row_first, row_last):
    """Rows of out (n, k) uint32 by ICWS (Ioffe, ICDM 2010), in logarithms; empty sets get 2^32 - 1.

    indptr (n + 1,) int64, tokens (m,) uint64, weights (m,) float64, finite and not negative. Returns the first row
    whose weights overflow when those of a repeated token are added, or -1.
    """
    k = out.shape[1]
    longest = 0
    for row in range(row_first, row_last):
        longest = max(longest, indptr[row + 1] - indptr[row])
    own_tokens, own_weights = np.empty(longest, np.uint64), np.empty(longest, np.float64)
    best = np.empty(k, np.float64)
    for row in range(row_first, row_last):
        count = merge_repeated(tokens, weights, indptr[row], indptr[row + 1], own_tokens, own_weights)
        values = pointer(out, row * k)
        for slot in range(k):
            best[slot] = np.inf
            values[slot] = np.uint32(_LOW32)
        for i in range(count):
            if own_weights[i] == np.inf:
                return row
            state, log_weight = fmix64(own_tokens[i] ^ key), math.log(own_weights[i])
            for slot in range(k):
                number = _THREE * np.uint64(slot)
                r = gamma2(word(state, number))
                beta = uniform(word(state, number + _TWO))
                t = math.floor(log_weight / r + beta)
                # ln a of the paper is ln c - ln y - r with ln y = r (t - beta).
                score = math.log(gamma2(word(state, number + _ONE))) - r * (t - beta) - r
                if score < best[slot]:
                    best[slot] = score
                    values[slot] = np.uint32(fmix64(state ^ (np.uint64(np.int64(t)) * GOLDEN)) >> _S32)
    return -1


@jit_inline
def lower(tree, k, slot, value):
    """Lower a leaf of a tree of maxima: tree (2 k,) float64, root 1, leaves k to 2 k - 1."""
    i = k + slot
    while True:
        tree[i] = value
        parent = i >> 1
        if parent == 0:
            return
        value = max(value, tree[i ^ 1])
        if value >= tree[parent]:
            return
        i = parent


@jit
def sketch_probminhash(indptr, tokens, weights, key, out, row_first, row_last):
    """Rows of out (n, k) uint32 by ProbMinHash1a (Ertl, TKDE 2020); as `sketch_icws` otherwise.

    Each token is a Poisson process of its weight's rate whose points fall into random slots; a slot keeps the token
    of its first point. The processes advance together, and one ends when its next point comes after the first points
    of all slots.
    """
    k = out.shape[1]
    longest = 0
    for row in range(row_first, row_last):
        longest = max(longest, indptr[row + 1] - indptr[row])
    own_tokens, own_weights = np.empty(longest, np.uint64), np.empty(longest, np.float64)
    times, active = np.empty(longest, np.float64), np.empty(longest, np.int64)
    tree = np.empty(2 * k, np.float64)
    for row in range(row_first, row_last):
        count = merge_repeated(tokens, weights, indptr[row], indptr[row + 1], own_tokens, own_weights)
        greatest = 0.0
        for i in range(count):
            greatest = max(greatest, own_weights[i])
            own_tokens[i] = fmix64(own_tokens[i] ^ key)
            times[i], active[i] = 0.0, i
        if greatest == np.inf:
            return row
        tree[:] = np.inf
        values = pointer(out, row * k)
        for slot in range(k):
            values[slot] = np.uint32(_LOW32)
        number, left = np.uint64(0), count
        while left > 0:
            still = 0
            for j in range(left):
                i = active[j]
                state, weight = own_tokens[i], own_weights[i] / greatest  # the scale of the weights does not matter
                u = uniform(word(state, number))
                latest = tree[1]
                if weight == 0 or times[i] + (1.0 - u) / weight >= latest:  # -ln u >= 1 - u: no logarithm needed
                    continue
                time = times[i] - math.log(u) / weight
                if time >= latest:
                    continue
                slot = np.int64(reduce_range(word(state, number + _ONE) >> _S32, np.uint64(k)))
                if time < tree[k + slot]:
                    lower(tree, k, slot, time)
                    values[slot] = np.uint32(fmix64(state) >> _S32)
                times[i] = time
                active[still] = i
                still += 1
            number, left = number + _TWO, still
    return -1
