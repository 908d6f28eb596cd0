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
