"""What the metrics mean, and the forms in which vectors are kept for them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.index.arguments import for_kernels
from nearhash.kernels.rows import unit_rows


def norms(rows: NDArray[Any]) -> NDArray[np.float32]:
    """(n,) Euclidean norms, summed in float64 so that large or tiny values neither overflow nor vanish."""
    squares = np.zeros(len(rows))
    for first in range(0, len(rows), 8192):  # blocks: no second copy of everything in float64
        block = rows[first : first + 8192].astype(np.float64)
        squares[first : first + 8192] = np.einsum("ij,ij->i", block, block)
    return np.sqrt(squares).astype(np.float32)


def inverse_norms(rows: NDArray[Any]) -> NDArray[np.float32]:
    """(n,) factors that make unit vectors; 0 for zero vectors, whose cosine with everything is defined as 0."""
    lengths = norms(rows)
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, dim) unit vectors; zero vectors stay zero."""
    units = np.empty(rows.shape, np.float32)
    unit_rows(for_kernels(rows), units)
    return units
