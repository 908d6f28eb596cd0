"""Product codes: training of the sub-quantisers and encoding, plain or with a loss of its own for the parallel error.

Of the error e of a code only the part along the vector itself matters systematically for inner products: queries that
have a vector among their nearest neighbours point towards it. The anisotropic loss (Guo et al., ICML 2020, theorem 3.2)
is ``|e|^2 + (eta - 1) <e, u>^2`` with u the vector divided by its norm; eta > 1 asks for codes with little error along
u, eta = 1 is the plain loss.
"""

import numpy as np

from nearhash.kernels.fastscan import LEVELS
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import offset, pointer


@jit_inline
def _nearest(vector, first, last, values):
    """Code of the codeword nearest to dimensions first <= i < last of a vector; pointers, ties to the lower code."""
    best, winner = np.float32(np.inf), 0
    distances = np.empty(LEVELS, np.float32)
    distances[:] = 0
    for i in range(first, last):
        value, line = vector[i], offset(values, i * LEVELS)
        for code in range(LEVELS):
            difference = value - line[code]
            distances[code] += difference * difference
    for code in range(LEVELS):
        if distances[code] < best:
            best, winner = distances[code], code
    return winner


@jit
def train_sub_quantiser(residuals, first, last, rounds, values):
    """Lloyd's algorithm for the dimensions first <= i < last of residuals (n, d), into values (d, 16).

    The first codewords are spread over the sample in its order, which should be random. A codeword that loses all its
    vectors moves next to the one that has most.
    """
    count = residuals.shape[0]
    for code in range(LEVELS):
        row = code * count // LEVELS
        for i in range(first, last):
            values[i, code] = residuals[row, i]
    sums, members = np.empty((last - first, LEVELS)), np.empty(LEVELS, np.int64)
    dim = residuals.shape[1]
    for _ in range(rounds):
        sums[:] = 0
        members[:] = 0
        for row in range(count):
            code = _nearest(pointer(residuals, row * dim), first, last, pointer(values, 0))
            members[code] += 1
            for i in range(first, last):
                sums[i - first, code] += residuals[row, i]
        for code in range(LEVELS):
            if members[code] > 0:
                for i in range(first, last):
                    values[i, code] = np.float32(sums[i - first, code] / members[code])
        for code in range(LEVELS):
            if members[code] == 0:
                crowded = np.argmax(members)
                share = members[crowded] // 2
                members[crowded], members[code] = members[crowded] - share, share
                for i in range(first, last):
                    nudge = np.float32(1e-3) * (np.abs(values[i, crowded]) + np.float32(1e-6))
                    values[i, code] = values[i, crowded] + nudge
                    values[i, crowded] -= nudge


@jit
def encode(residuals, bounds, values, codes):
    """Plain codes (n, m) uint8 of residuals (n, d): for each sub-quantiser the nearest codeword."""
    dim = residuals.shape[1]
    for row in range(residuals.shape[0]):
        for sub in range(codes.shape[1]):
            codes[row, sub] = _nearest(pointer(residuals, row * dim), bounds[sub], bounds[sub + 1], pointer(values, 0))


@jit
def refine_anisotropic(residuals, directions, extra, bounds, values, rounds, codes):
    """Improve codes by coordinate descent on ``|e|^2 + extra <e, u>^2``, e = residual - its code.

    residuals and unit directions u (n, d) float32; extra, eta - 1, at least -1; codes (n, m), updated. Ends after
    `rounds` passes over all sub-quantisers or when one changes nothing.
    """
    count = residuals.shape[0]
    plain, along = np.empty(LEVELS, np.float32), np.empty(LEVELS, np.float32)
    for row in range(count):
        parallel = np.float32(0.0)
        for sub in range(codes.shape[1]):
            for i in range(bounds[sub], bounds[sub + 1]):
                parallel += (residuals[row, i] - values[i, codes[row, sub]]) * directions[row, i]
        for _ in range(rounds):
            changed = False
            for sub in range(codes.shape[1]):
                first, last = bounds[sub], bounds[sub + 1]
                plain[:] = 0
                along[:] = 0
                for i in range(first, last):
                    value, direction = residuals[row, i], directions[row, i]
                    for code in range(LEVELS):
                        error = value - values[i, code]
                        plain[code] += error * error
                        along[code] += error * direction
                present = codes[row, sub]
                rest = parallel - along[present]
                best, winner = np.float32(np.inf), present
                for code in range(LEVELS):
                    sideways = rest + along[code]
                    loss = plain[code] + extra * sideways * sideways
                    if loss < best:
                        best, winner = loss, code
                if winner != present:
                    codes[row, sub] = winner
                    parallel = rest + along[winner]
                    changed = True
            if not changed:
                break


@jit
def decode(codes, bounds, values, residuals):
    """Residuals (n, d) float32 that codes (n, m) stand for."""
    for row in range(codes.shape[0]):
        for sub in range(codes.shape[1]):
            for i in range(bounds[sub], bounds[sub + 1]):
                residuals[row, i] = values[i, codes[row, sub]]
