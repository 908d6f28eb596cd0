"""NumPy specification of the hashes of dense vectors: `hadamard.py`, `simhash.py`, `e2lsh.py`."""

import numpy as np


def hadamard(rows):
    """Walsh-Hadamard transform of the rows (n, size), in their dtype, size a power of two.

    Rounds of stride 1, 2, 4, ...: x and y that are a stride apart become x + y and x - y.
    """
    rows = np.array(rows)
    count, size = rows.shape
    stride = 1
    while stride < size:
        pairs = rows.reshape(count, size // (2 * stride), 2, stride)
        x, y = pairs[:, :, 0], pairs[:, :, 1]
        rows = np.stack([x + y, x - y], axis=2).reshape(count, size)
        stride *= 2
    return rows


def simhash(vectors, signs, bits):
    """(n, bits // 8) uint8: signs (>= 0) of H D3 H D2 H D1 x, D given by signs (blocks, 3, size)."""
    vectors = np.asarray(vectors, np.float32)
    blocks, rounds, size = signs.shape
    padded = np.zeros((len(vectors), size), np.float32)
    padded[:, : vectors.shape[1]] = vectors
    projections = np.empty((len(vectors), blocks, size), np.float32)
    for block in range(blocks):
        work = padded
        for turn in range(rounds):
            work = hadamard(work * signs[block, turn])
        projections[:, block] = work
    return np.packbits(projections.reshape(len(vectors), -1)[:, :bits] >= 0, axis=1, bitorder="little")
