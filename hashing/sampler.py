"""Drawing points that are like a query, each with a known probability."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.hashing import randomness
from nearhash.hashing.buckets import HashedPoints
from nearhash.hashing.simhash import SimHash
from nearhash.hashing.vectors import as_rows, check_whole

_DRAW_STREAM = 0x4C534801


class Samples(NamedTuple):
    """Points drawn for queries, each array (q, m).

    Attributes
    ----------
    ids : int64
        -1 where the bucket was empty: a draw that counts, with a term of 0.
    weights : float64
        The reciprocal of the probability of each, 0 where there is none: the mean over the draws of ``weights * f`` is
        an unbiased estimate of the sum of f over all points.
    """

    ids: NDArray[np.int64]
    weights: NDArray[np.float64]


class LSHSampler(HashedPoints):
    """Points in hash tables, drawn with a probability that grows with their cosine to a query.

    Spring & Shrivastava, "A new unbiased and efficient class of LSH-based samplers and estimators for partition
    function computation in log-linear models" (arXiv 1703.05160, 2017); the sampling of Adam-Hash. A draw takes a
    table, looks into the bucket of the query, and takes one of its members: a point at angle t is in it with
    probability ``p = (1 - t / pi)^bits``, over the choice of the hash function, so with b members in the bucket the
    point is drawn with probability p / b, and

        E[f(x) b / p] = sum of f over all points,

    an empty bucket giving 0. The estimate is unbiased over hash functions (seeds); draws of one sampler share its
    tables.

    Parameters
    ----------
    dim : int
        Elements of a vector.
    bits : int
        Of the key of a table, 1 to 64: more make the draws more like the query, and buckets smaller.
    tables : int
        1 to 1,024. More tables make draws less dependent.
    seed : int
        Of the hash functions, 0 to 2**64 - 1.
    """

    def __init__(self, dim: int, bits: int = 8, tables: int = 32, seed: int = 0) -> None:
        self.bits = check_whole(bits, "bits", 1, 64)
        tables = check_whole(tables, "tables", 1, 1024)
        whole = -(-self.bits * tables // 8) * 8
        # Independent projections: the bits of a key are, so that the chance of all is a power of that of one.
        self._hash = SimHash(dim, whole, seed, method="gaussian")
        self.seed = self._hash.seed
        super().__init__(self._hash.dim, tables)

    def inclusion(self, cosine: ArrayLike) -> NDArray[np.float64]:
        """Probability that a point of this cosine to a query is in its bucket of a table."""
        return np.asarray(self._hash.collision_probability(cosine) ** self.bits)

    def sample(self, queries: ArrayLike, m: int, seed: int = 0) -> Samples:
        """Draw `m` points for each query, with replacement.

        Parameters
        ----------
        queries : (q, dim) or (dim,) array
        m : int
            Draws for each, at least 1. They go through the tables in turn, from one chosen at random on.
        seed : int
            Of the draws.

        Returns
        -------
        Samples
        """
        rows, m = as_rows(queries, self.dim, "queries"), check_whole(m, "m", 1, 1 << 24)
        numbers = randomness.uniforms(randomness.check_seed(seed), _DRAW_STREAM, len(rows) * (m + 1))
        numbers = numbers.reshape(len(rows), m + 1)
        first = (numbers[:, :1] * self.tables).astype(np.int64)
        tables = (first + np.arange(m)) % self.tables
        own = np.take_along_axis(self._keys(rows), tables, axis=1)
        ids, vectors, sizes = self._buckets.draw(
            own.reshape(-1), tables.reshape(-1), np.ascontiguousarray(numbers[:, 1:]).reshape(-1)
        )
        cosines = _cosines(np.repeat(rows, m, axis=0), vectors)
        weights = np.where(ids >= 0, sizes / self.inclusion(cosines), 0.0)
        return Samples(ids.reshape(-1, m), weights.reshape(-1, m))

    def _keys(self, rows: NDArray[np.float32]) -> NDArray[np.uint64]:
        """(n, tables) keys: `bits` bits of the codes for each table."""
        codes = np.unpackbits(self._hash.encode(rows), axis=1, bitorder="little")[:, : self.bits * self.tables]
        digits = codes.reshape(len(rows), self.tables, self.bits).astype(np.uint64)
        return np.asarray((digits << np.arange(self.bits, dtype=np.uint64)).sum(axis=2, dtype=np.uint64))


def _cosines(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """(m,) cosines of rows. A zero vector, whose bits are all 1, is at a right angle to others but zero vectors."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    squares = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    lengths, dots = np.sqrt(squares[0] * squares[1]), np.einsum("ij,ij->i", a, b)
    cosines = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    return np.where((squares[0] == 0) & (squares[1] == 0), 1.0, np.clip(cosines, -1.0, 1.0))
