"""Sketches of sets; `reference_sketches.py` specifies every kernel here.

Sets come as CSR: set i holds tokens[indptr[i]:indptr[i + 1]], in any order, with repetitions. Kernels fill rows of
*minima*, k keys of 64 bits, EMPTY where a slot is; `fingerprints` makes the values that are kept of them.
"""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.hashes import GOLDEN, fmix64, reduce_range
from nearhash.kernels.jit import jit, jit_inline

EMPTY = np.uint64(2**64 - 1)
_LOW32, _S32, _ZERO, _ONE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(0), np.uint64(1)
# Tokens are hashed block by block into small arrays, a loop that LLVM vectorises, and then thrown at their slots.
BLOCK = 256


@jit_inline
def _throw(tokens, count, salt, number, line, k, keys, slots):
    """One round: each of `count` tokens throws the key (number, rank) at its slot of `line`; all pointers."""
    step, base, size = number * GOLDEN, number << _S32, np.uint64(k)
    for first in range(0, count, BLOCK):
        source, n = simd.offset(tokens, first), min(count - first, BLOCK)
        for i in range(n):
            mixed = fmix64((source[i] ^ salt) + step)
            slots[i] = np.int64(reduce_range(mixed >> _S32, size))
            keys[i] = base | (mixed & _LOW32)
        for i in range(n):
            slot = slots[i]
            line[slot] = min(keys[i], line[slot])


@jit_inline
def _empty_slots(line, k):
    missing = 0
    for j in range(k):
        missing += line[j] == EMPTY
    return missing


@jit
def one_permutation(indptr, tokens, salt, out):
    """Minima (n, k) of one permutation hashing; slots that nothing hit stay EMPTY."""
    k = out.shape[1]
    keys, slots = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.int64)
    out[:] = EMPTY
    for row in range(out.shape[0]):
        first, count = indptr[row], indptr[row + 1] - indptr[row]
        _throw(
            simd.pointer(tokens, first),
            count,
            salt,
            _ZERO,
            simd.pointer(out, row * k),
            k,
            simd.pointer(keys, 0),
            simd.pointer(slots, 0),
        )


@jit
def fast_similarity(indptr, tokens, salt, out):
    """Minima (n, k) of Fast Similarity Sketching; EMPTY only for empty sets."""
    k = out.shape[1]
    keys, slots = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.int64)
    out[:] = EMPTY
    for row in range(out.shape[0]):
        count = indptr[row + 1] - indptr[row]
        source, line = simd.pointer(tokens, indptr[row]), simd.pointer(out, row * k)
        missing, number = k if count else 0, 0
        while missing:
            turn = np.uint64(number)
            if number < k:
                _throw(source, count, salt, turn, line, k, simd.pointer(keys, 0), simd.pointer(slots, 0))
                missing = _empty_slots(line, k)
            else:
                slot = number - k
                if line[slot] == EMPTY:
                    least = _LOW32
                    for i in range(count):
                        least = min(least, fmix64((source[i] ^ salt) + turn * GOLDEN) & _LOW32)
                    line[slot] = (turn << _S32) | least
                    missing -= 1
            number += 1


@jit
def classic(indptr, tokens, salt, out):
    """Minima (n, k) of k hash functions."""
    for row in range(out.shape[0]):
        count, source = indptr[row + 1] - indptr[row], simd.pointer(tokens, indptr[row])
        for j in range(out.shape[1]):
            step, least = np.uint64(j) * GOLDEN, EMPTY
            for i in range(count):
                least = min(least, fmix64((source[i] ^ salt) + step))
            out[row, j] = least


@jit
def affine32(indptr, tokens, multipliers, addends, out):
    """Minima (n, k) of datasketch's permutations of 32 bits; tokens < 2^32, multipliers and addends (k,) uint32."""
    k = out.shape[1]
    line = np.empty(k, np.uint32)
    m1, m2, high, middle = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35), np.uint32(16), np.uint32(13)
    for row in range(out.shape[0]):
        line[:] = np.uint32(0xFFFFFFFF)
        for i in range(indptr[row], indptr[row + 1]):
            x = np.uint32(tokens[i])
            x = np.uint32((x ^ (x >> high)) * m1)
            x = np.uint32((x ^ (x >> middle)) * m2)
            x = np.uint32(x ^ (x >> high))
            for j in range(k):
                line[j] = min(line[j], np.uint32(multipliers[j] * x + addends[j]))
        for j in range(k):
            out[row, j] = np.uint64(line[j]) if indptr[row + 1] > indptr[row] else EMPTY


@jit_inline
def _choice(salt, slot, attempt, size):
    mixed = fmix64(salt + ((np.uint64(slot) << _S32) | np.uint64(attempt)))
    return np.int64(reduce_range(mixed >> _S32, size))


@jit
def densify_optimal(minima, salt):
    """Fill empty slots of (n, k) minima in place by optimal densification; rows of empty sets stay."""
    k = minima.shape[1]
    size, full = np.uint64(k), np.empty(k, np.bool_)
    for row in range(minima.shape[0]):
        for j in range(k):
            full[j] = minima[row, j] != EMPTY
        missing = k - full.sum()
        if missing == 0 or missing == k:
            continue
        for j in range(k):
            attempt, source = 0, j
            while not full[source]:
                source = _choice(salt, j, attempt, size)
                attempt += 1
            minima[row, j] = minima[row, source]


@jit
def densify_reverse(minima, salt):
    """Fill empty slots of (n, k) minima in place by reverse densification; rows of empty sets stay."""
    k = minima.shape[1]
    size, donors = np.uint64(k), np.empty(k, np.int64)
    for row in range(minima.shape[0]):
        count = 0
        for j in range(k):
            donors[count] = j
            count += minima[row, j] != EMPTY
        missing, attempt = k - count if count else 0, 0
        while missing:
            for i in range(count):
                target = _choice(salt, donors[i], attempt, size)
                if minima[row, target] == EMPTY:
                    minima[row, target] = minima[row, donors[i]]
                    missing -= 1
            attempt += 1


@jit
def densify_rotation(minima, salt):
    """Fill empty slots of (n, k) minima in place from the next full one, cyclically; rows of empty sets stay."""
    k = minima.shape[1]
    for row in range(minima.shape[0]):
        first = 0
        while first < k and minima[row, first] == EMPTY:
            first += 1
        following = minima[row, first % k]
        for back in range(k if first < k else 0):
            j = k - 1 - back
            if minima[row, j] == EMPTY:
                minima[row, j] = following
            following = minima[row, j]


@jit
def fingerprints(minima, bits, out):
    """Fingerprints of `bits` bits: out (n, k) of an unsigned dtype of at least so many; all ones for EMPTY."""
    shift = np.uint64(64 - bits)
    for row in range(minima.shape[0]):
        for j in range(minima.shape[1]):
            key = minima[row, j]
            mixed = fmix64(key ^ (np.uint64(j + 1) * GOLDEN))
            out[row, j] = (EMPTY if key == EMPTY else mixed) >> shift


@jit
def pack(values, bits, out):
    """Values (n, k) uint8 of 1, 2 or 4 bits into out (n, ceil(k bits / 8)) uint8, the first in the lowest bits."""
    each = 8 // bits
    for row in range(values.shape[0]):
        for byte in range(out.shape[1]):
            total = np.uint8(0)
            for i in range(min(each, values.shape[1] - byte * each)):
                total |= values[row, byte * each + i] << np.uint8(i * bits)
            out[row, byte] = total
