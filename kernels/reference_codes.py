"""What the codecs compute, in plain NumPy: their specification, and what tests hold them against."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.scan import L2

Floats = NDArray[np.float64]


def distances(queries: NDArray[Any], vectors: NDArray[Any], metric: int) -> Floats:
    """(q, n) squared Euclidean distances (L2) or minus inner products (DOT)."""
    left, right = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == L2:
        result: Floats = ((left[:, None] - right[None]) ** 2).sum(axis=-1)
        return result
    return -left @ right.T


def quantise_query(query: NDArray[Any]) -> tuple[NDArray[np.int64], float]:
    """(k (dim,), t): the query is read back as t k."""
    scale = float(np.abs(query).max(initial=0.0)) / 127
    if scale == 0:
        return np.zeros(len(query), np.int64), 0.0
    return np.floor(query / scale + 0.5).astype(np.int64), scale


def _float8_values() -> Floats:
    """The value of each of the 256 codes of e4m3; NaN for the two that have none."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    size[exponent * 8 + mantissa == 127] = np.nan
    values: Floats = np.where(code < 128, size, -size)
    return values


FLOAT8_VALUES: Floats = _float8_values()


def float8_encode(vectors: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(codes (n, dim), scale (n,)): nearest values, ties to the even code."""
    scale = (np.abs(vectors).max(axis=1, initial=0.0) / np.float32(448)).astype(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    sizes = np.abs((vectors * inverse[:, None]).astype(np.float64))
    table = FLOAT8_VALUES[:127]
    above = np.clip(np.searchsorted(table, sizes), 1, 126)
    low, high = sizes - table[above - 1], table[above] - sizes
    codes = np.where((high < low) | ((high == low) & (above % 2 == 0)), above, above - 1)
    return (codes | np.where(np.signbit(vectors), 128, 0)).astype(np.uint8), scale


def lvq4_encode(
    vectors: NDArray[np.float32], mean: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """(codes (n, dim), lower (n,), step (n,)): as `reference.lvq_encode` with 15 steps."""
    centred = vectors - mean
    lower = centred.min(axis=1)
    step = ((centred.max(axis=1) - lower) / np.float32(15)).astype(np.float32)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    codes = np.floor((centred - lower[:, None]) * inverse[:, None] + np.float32(0.5))
    return np.clip(codes, 0, 15).astype(np.uint8), lower, step


def lvq4x8_encode(
    vectors: NDArray[np.float32],
    mean: NDArray[np.float32],
    codes: NDArray[Any],
    lower: NDArray[Any],
    step: NDArray[Any],
) -> tuple[NDArray[np.uint8], Floats]:
    """Second level (n, dim) of LVQ-4x8, and the vectors less the mean that both levels are read back as.

    Aguerrebere et al. (VLDB 2023), sec. 3.2: what the first level leaves, from - step / 2 to step / 2, in 255 steps.
    """
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    rest = (vectors - mean - lower[:, None]) * inverse[:, None] - codes.astype(np.float32)
    fine = np.clip(np.floor((rest + np.float32(0.5)) * np.float32(255) + np.float32(0.5)), 0, 255)
    wide = step.astype(np.float64)[:, None]
    read = lower.astype(np.float64)[:, None] - wide / 2 + wide / 255 * (255.0 * codes + fine)
    return fine.astype(np.uint8), read


def pq8_encode(vectors: NDArray[np.float32], codewords: NDArray[np.float32], parts: int) -> NDArray[np.uint8]:
    """(n, parts) nearest codewords of (dim, 256), ties to the lower code."""
    dim = vectors.shape[1]
    codes = np.empty((len(vectors), parts), np.uint8)
    for part in range(parts):
        own = slice(part * dim // parts, (part + 1) * dim // parts)
        codes[:, part] = distances(vectors[:, own], codewords[own].T, L2).argmin(axis=1)
    return codes


def hadamard(size: int) -> Floats:
    """Normalised Hadamard matrix of a power of two, Sylvester's construction."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    normalised: Floats = matrix / np.sqrt(size)
    return normalised


def rotation_matrix(signs: NDArray[Any]) -> Floats:
    """(D, D) matrix of the rotation with these signs (rounds, D): row vectors are multiplied from the left."""
    width = signs.shape[1]
    size = 1 << (width.bit_length() - 1)
    half = width // 2
    matrix = np.eye(width)
    for turn, line in enumerate(signs.astype(np.float64)):
        matrix = matrix * line
        own = slice(0, size) if turn % 2 == 0 else slice(width - size, width)
        matrix[:, own] = matrix[:, own] @ hadamard(size)
        if size < width:
            left, right = matrix[:, :half], matrix[:, half:]
            matrix = np.concatenate([left + right, left - right], axis=1) / np.sqrt(2)
    return matrix


def rabitq_cosine(residual: NDArray[Any], bits: int) -> float:
    """Largest cosine that a code of so many bits can have with a residual.

    The best code is floor(t |r|) for some t, so it is enough to look at the values of t at which a level changes
    (Gao et al., SIGMOD 2025, sec. 3.2).
    """
    size = np.abs(residual.astype(np.float64))
    size = size[size > 0]
    most = (1 << (bits - 1)) - 1
    scales = np.unique(np.concatenate([[0.0], (np.arange(1, most + 1)[:, None] / size).ravel()]))
    zeros = len(residual) - len(size)
    best = 0.0
    for scale in scales:
        levels = np.minimum(np.floor(size * scale * (1 + 1e-12)), most) + 0.5
        best = max(best, float(levels @ size / np.sqrt((levels**2).sum() + zeros / 4)))
    return best / float(np.linalg.norm(size))


def rabitq_estimate(codes: NDArray[Any], residual: NDArray[Any], query: NDArray[Any], bits: int) -> float:
    """Estimate of <r, q> for rotated r and q: |r|^2 / <y, r> <y, q>."""
    y = codes.astype(np.float64) - ((1 << bits) - 1) / 2
    r, q = residual.astype(np.float64), query.astype(np.float64)
    return float((r @ r) / (y @ r) * (y @ q))
