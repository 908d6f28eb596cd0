"""NumPy specification of `set_sketches.py`: sketches of sets given as CSR (indptr, tokens).

A sketch starts as *minima*: k keys of 64 bits, each the least of the keys that the elements of the set throw at a slot,
EMPTY where none came. Minima of a union are the elementwise least of the minima, so they merge. A finished sketch
keeps a fingerprint of each key (after empty slots were filled, where the method leaves some).
"""

import itertools

import numpy as np

from nearhash.kernels.reference_hashes import fmix64, reduce_range

EMPTY = np.uint64(2**64 - 1)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW32, _S32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def _sets(indptr, tokens):
    return [np.unique(tokens[first:last]) for first, last in itertools.pairwise(indptr)]


def _round(tokens, salt, number):
    """Hash of each token in round `number`, a multiple of GOLDEN apart."""
    with np.errstate(over="ignore"):
        return fmix64((tokens ^ np.uint64(salt)) + np.uint64(number) * GOLDEN)


def classic(indptr, tokens, k, salt):
    """MinHash (Broder 1997): slot j keeps the least hash of round j."""
    out = np.full((len(indptr) - 1, k), EMPTY)
    for row, members in zip(out, _sets(indptr, tokens), strict=True):
        for j in range(k if len(members) else 0):
            row[j] = _round(members, salt, j).min()
    return out


def one_permutation(indptr, tokens, k, salt):
    """One permutation hashing (Li, Owen & Zhang, NIPS 2012): one hash gives slot (high half) and rank (low half)."""
    out = np.full((len(indptr) - 1, k), EMPTY)
    for row, members in zip(out, _sets(indptr, tokens), strict=True):
        hashes = _round(members, salt, 0)
        np.minimum.at(row, reduce_range(hashes >> _S32, k).astype(np.int64), hashes & _LOW32)
    return out


def fast_similarity(indptr, tokens, k, salt):
    """Fast Similarity Sketching (Dahlgaard, Knudsen & Thorup, FOCS 2017): rounds of one permutation hashing.

    Keys are (round, rank), so that earlier rounds win. It ends after a round that has filled all slots; from round k on
    all elements throw at slot round - k, so that 2k rounds suffice.
    """
    out = np.full((len(indptr) - 1, k), EMPTY)
    for row, members in zip(out, _sets(indptr, tokens), strict=True):
        for number in range(2 * k if len(members) else 0):
            hashes = _round(members, salt, number)
            slots = reduce_range(hashes >> _S32, k).astype(np.int64)
            if number >= k:
                slots[:] = number - k
            np.minimum.at(row, slots, (np.uint64(number) << _S32) | (hashes & _LOW32))
            if (row != EMPTY).all():
                break
    return out


def fmix32(x):
    """MurmurHash3's finaliser of 32 bits, on uint32 arrays."""
    x = np.asarray(x, np.uint32).copy()
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(multiplier)
    return x ^ (x >> np.uint32(16))


def affine32(indptr, tokens, multipliers, addends):
    """datasketch's scheme "affine32": least of ``a_j fmix32(x) + b_j mod 2^32``; tokens < 2^32, a and b (k,) uint32."""
    out = np.full((len(indptr) - 1, len(multipliers)), EMPTY)
    for row, members in zip(out, _sets(indptr, tokens), strict=True):
        if len(members):
            mixed = fmix32(members.astype(np.uint32))
            row[:] = (multipliers * mixed[:, None] + addends).min(axis=0)
    return out


def choice(salt, slot, attempt, k):
    """The slot that densification tries for `slot` at `attempt`: the same for all sets."""
    with np.errstate(over="ignore"):
        return int(reduce_range(fmix64(np.uint64(salt) + ((np.uint64(slot) << _S32) | np.uint64(attempt))) >> _S32, k))


def densify_optimal(minima, salt):
    """Optimal densification (Shrivastava, ICML 2017): an empty slot tries slots until one was full from the start."""
    out = minima.copy()
    for row, full in zip(out, minima != EMPTY, strict=True):
        for slot in np.flatnonzero(~full) if full.any() else ():
            attempt, source = 0, choice(salt, slot, 0, len(row))
            while not full[source]:
                attempt += 1
                source = choice(salt, slot, attempt, len(row))
            row[slot] = row[source]
    return out


def densify_reverse(minima, salt):
    """Reverse densification (Mai et al., UAI 2019): in rounds, full slots offer their key to one slot each."""
    out = minima.copy()
    for row, full in zip(out, minima != EMPTY, strict=True):
        attempt = 0
        while full.any() and (row == EMPTY).any():
            for slot in np.flatnonzero(full):
                target = choice(salt, slot, attempt, len(row))
                if row[target] == EMPTY:
                    row[target] = row[slot]
            attempt += 1
    return out


def densify_rotation(minima, salt):
    """Rotation densification (Shrivastava & Li, ICML 2014): an empty slot takes the next full one, cyclically."""
    out = minima.copy()
    k = out.shape[1]
    for row, full in zip(out, minima != EMPTY, strict=True):
        for slot in np.flatnonzero(~full) if full.any() else ():
            row[slot] = row[next(i % k for i in range(slot + 1, slot + k) if full[i % k])]
    return out


def fingerprints(minima, bits):
    """(n, k) uint64 below 2^bits: the high bits of a hash of (slot, key); all ones for EMPTY."""
    with np.errstate(over="ignore"):
        mixed = fmix64(minima ^ (np.arange(1, minima.shape[1] + 1, dtype=np.uint64) * GOLDEN))
    return np.where(minima == EMPTY, EMPTY, mixed) >> np.uint64(64 - bits)


def pack(values, bits):
    """Values of 1, 2 or 4 bits into bytes (n, ceil(k bits / 8)), the first in the lowest bits."""
    ones = (values[:, :, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(ones.reshape(len(values), -1).astype(np.uint8), axis=1, bitorder="little")
