"""Product codes of 8 bits: each part of a vector is replaced by the nearest of 256 codewords.

Jegou et al., "Product quantization for nearest neighbor search" (PAMI 2011). Part s of m covers the dimensions
``s d // m <= i < (s + 1) d // m``. Distances are asymmetric (sec. III-A): a query is compared with all codewords of
each part once, and its distance from a row is a sum of m look-ups, equal to its distance from the vector as read back.

Parameters: codewords (dim, 256) float32, row i holding dimension i of the 256 codewords of the part that covers it.
Row layout: m bytes; if there is an extra coordinate, zeros up to a multiple of four and a float32 with it.
"""

from typing import NamedTuple

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.scan import L2
from nearhash.kernels.simd_codes import as_floats

CODEWORDS = 256


class PQ8(NamedTuple):
    """Scheme of product codes, see kernels/codes.py; extra_at: byte where the extra coordinate stands, or 0."""

    dim: int
    width: int
    query_bytes: int
    parts: int
    extra_at: int


def pq8_scheme(dim: int, parts: int, has_extra: bool) -> PQ8:
    extra_at = -(-parts // 4) * 4 if has_extra else 0
    return PQ8(dim, extra_at + 4 if has_extra else parts, 4 * (CODEWORDS * parts + dim), parts, extra_at)


@jit_inline
def _squared_distances(vector, first, last, codewords, out):
    """Squared distances of the dimensions first <= i < last of a vector from 256 codewords; pointers."""
    for code in range(CODEWORDS):
        out[code] = np.float32(0.0)
    for i in range(first, last):
        value, line = vector[i], simd.offset(codewords, i * CODEWORDS)
        for code in range(CODEWORDS):
            difference = value - line[code]
            out[code] += difference * difference


@jit_inline
def _nearest(distances):
    """Number of the least of 256 distances, a pointer; ties to the lower."""
    least, code = simd.least_float(distances, CODEWORDS), 0
    while code < CODEWORDS - 1 and distances[code] != least:
        code += 1
    return code


@jit
def train_part(sample, rounds, codewords):
    """Lloyd's algorithm from the codewords (d, 256) given, in place, on a sample (n, d) of a part; all float32.

    A codeword that loses all its vectors moves next to the one that has most.
    """
    count, dim = sample.shape
    distances = np.empty(CODEWORDS, np.float32)
    sums, members = np.empty((CODEWORDS, dim)), np.empty(CODEWORDS, np.int64)
    for _ in range(rounds):
        sums[:] = 0
        members[:] = 0
        for row in range(count):
            vector, table = simd.pointer(sample, row * dim), simd.pointer(distances, 0)
            _squared_distances(vector, 0, dim, simd.pointer(codewords, 0), table)
            code = _nearest(table)
            members[code] += 1
            for i in range(dim):
                sums[code, i] += sample[row, i]
        for code in range(CODEWORDS):
            if members[code] > 0:
                for i in range(dim):
                    codewords[i, code] = np.float32(sums[code, i] / members[code])
        for code in range(CODEWORDS):
            if members[code] == 0:
                crowded = np.argmax(members)
                share = members[crowded] // 2
                members[crowded], members[code] = members[crowded] - share, share
                for i in range(dim):
                    nudge = np.float32(1e-3) * (np.abs(codewords[i, crowded]) + np.float32(1e-6))
                    codewords[i, code] = codewords[i, crowded] + nudge
                    codewords[i, crowded] -= nudge


@jit
def encode(vectors, codewords, parts, rows):
    """Nearest codewords, ties to the lower, of vectors (n, dim) float32 to the first `parts` bytes of each row."""
    dim = vectors.shape[1]
    distances = np.empty(CODEWORDS, np.float32)
    for row in range(vectors.shape[0]):
        for part in range(parts):
            first, last = part * dim // parts, (part + 1) * dim // parts
            vector, table = simd.pointer(vectors, row * dim), simd.pointer(distances, 0)
            _squared_distances(vector, first, last, simd.pointer(codewords, 0), table)
            rows[row, part] = _nearest(table)


@jit_inline
def _fill_table(scheme, parameters, vector, euclidean, table):
    """Distances of each part of a vector from its codewords, squared or minus inner products; pointers."""
    for part in range(scheme.parts):
        first, last = part * scheme.dim // scheme.parts, (part + 1) * scheme.dim // scheme.parts
        line = simd.offset(table, part * CODEWORDS)
        if euclidean:
            _squared_distances(vector, first, last, parameters, line)
            continue
        for code in range(CODEWORDS):
            line[code] = np.float32(0.0)
        for i in range(first, last):
            value, words = vector[i], simd.offset(parameters, i * CODEWORDS)
            for code in range(CODEWORDS):
                line[code] -= value * words[code]


@jit_inline
def prepare(scheme, parameters, rows, slot, buffer, constants):
    """Make the vector of a row the query: it is read back, and the table is made of that."""
    row, table = simd.offset(rows, slot * scheme.width), as_floats(buffer)
    vector = simd.offset(table, scheme.parts * CODEWORDS)
    for part in range(scheme.parts):
        for i in range(part * scheme.dim // scheme.parts, (part + 1) * scheme.dim // scheme.parts):
            vector[i] = parameters[i * CODEWORDS + row[part]]
    _fill_table(scheme, parameters, vector, True, table)
    constants[0] = as_floats(simd.offset(row, scheme.extra_at))[0] if scheme.extra_at > 0 else np.float32(0.0)
    constants[1] = np.float32(1.0)


@jit_inline
def prepare_query(scheme, parameters, vector, metric, buffer, constants):
    """Make a float32 vector the query; parameters: the codewords."""
    _fill_table(scheme, parameters, vector, metric == L2, as_floats(buffer))
    constants[0] = np.float32(0.0)  # extra coordinate
    constants[1] = np.float32(1.0) if metric == L2 else np.float32(0.0)  # weight of its difference


@jit_inline
def estimate(scheme, buffer, constants, rows, slot):
    """Sum of the look-ups for a row."""
    row, table = simd.offset(rows, slot * scheme.width), as_floats(buffer)
    whole = scheme.parts & ~3
    first = second = third = fourth = np.float32(0.0)
    for part in range(0, whole, 4):  # four sums: look-ups need not wait for each other's additions
        line = simd.offset(table, part * CODEWORDS)
        first += line[row[part]]
        second += line[CODEWORDS + row[part + 1]]
        third += line[2 * CODEWORDS + row[part + 2]]
        fourth += line[3 * CODEWORDS + row[part + 3]]
    for part in range(whole, scheme.parts):
        first += table[part * CODEWORDS + row[part]]
    result = (first + second) + (third + fourth)
    if scheme.extra_at > 0:
        difference = as_floats(simd.offset(row, scheme.extra_at))[0] - constants[0]
        result += constants[1] * (difference * difference)
    return result


@jit_inline
def distance(scheme, buffer, constants, rows, slot):
    """Squared Euclidean distance of a prepared row and another, both as read back."""
    return estimate(scheme, buffer, constants, rows, slot)
