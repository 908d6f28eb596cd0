"""Sketches of weighted sets: how likely slots agree is a similarity that weights take part in."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.hashing.randomness import check_seed, words64
from nearhash.hashing.sets import checked_sets
from nearhash.hashing.sketches import Sketches
from nearhash.hashing.vectors import check_whole
from nearhash.kernels.threads import resolve_threads, run_chunks
from nearhash.kernels.weighted import sketch_icws, sketch_probminhash

Method = Literal["icws", "probminhash"]

STREAM = 0x5745_49474854  # of the key of all random numbers
VERSION = 1  # raised when the same seed gives other sketches
_SETS = 16  # that a thread takes at a time


class WeightedMinHash:
    """Sketches of sets whose tokens have weights.

    Tokens are any uint64, such as hashes of words: no table over them is kept. The probability that a slot of two
    sketches agrees is

    - for "icws", improved consistent weighted sampling (Ioffe, "Improved consistent sampling, weighted minhash and L1
      sketching", ICDM 2010), the weighted Jaccard similarity ``J_W = sum_i min(a_i, b_i) / sum_i max(a_i, b_i)``;
    - for "probminhash" (ProbMinHash1a of Ertl, "ProbMinHash - a class of locality-sensitive hash algorithms for the
      (probability) Jaccard similarity", TKDE 2020) the probability Jaccard similarity
      ``J_P = sum_i 1 / sum_j max(a_j / a_i, b_j / b_i)`` over the i in both sets, which does not depend on the scale
      of either set.

    Both are the Jaccard similarity where all weights are equal to 1. ICWS takes time O(n k) for a set of n tokens,
    ProbMinHash O(n + k log k).

    Parameters
    ----------
    k : int
        Slots of a sketch, 1 to 65,536.
    method : {"icws", "probminhash"}
    seed : int

    Notes
    -----
    Slots are independent, so the variance of an estimate from k slots is ``J (1 - J) / k`` for both methods.
    (ProbMinHash3 and 4, whose slots are not, have less for small sets.) A slot holds a hash of 32 bits, of the token
    and, for ICWS, of its quantised weight; different ones agree with probability 2^-32, which is neglected.
    """

    def __init__(self, k: int = 128, method: Method = "icws", seed: int = 0) -> None:
        if method not in get_args(Method):
            raise InvalidArgumentError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
        self.k = check_whole(k, "k", 1, 1 << 16)
        self.method: Method = method
        self.seed = check_seed(seed)
        self._key = words64(self.seed, STREAM, 1)[0]

    @property
    def header(self) -> dict[str, Any]:
        """What two sketches must have in common to be compared."""
        return {
            "scheme": self.method,
            "version": VERSION,
            "k": self.k,
            "bits": 32,
            "seed": self.seed,
            "hash": "splitmix64",
        }

    def sketch(self, indptr: ArrayLike, tokens: ArrayLike, weights: ArrayLike, threads: int | None = None) -> Sketches:
        """Sketches of weighted sets.

        Parameters
        ----------
        indptr : (n + 1,) int64
            Set i has the tokens ``indptr[i]:indptr[i + 1]``.
        tokens : (m,) uint64
            In any order; the weights of a token that comes more than once are added.
        weights : (m,) float64
            Finite and not negative. A token of weight 0 is absent.
        threads : int, optional
            By default all cores; the result does not depend on it.

        Returns
        -------
        Sketches
            values (n, k) uint32. An empty set has 2**32 - 1 in every slot.

        Raises
        ------
        InvalidArgumentError
            A weight is NaN, infinite or negative, or the sum of a token's weights is infinite; shapes do not fit.
        """
        threads = resolve_threads(threads)
        starts, ids, values = _checked(indptr, tokens, weights)
        out = np.empty((len(starts) - 1, self.k), np.uint32)
        kernel = sketch_icws if self.method == "icws" else sketch_probminhash

        def task(first: int, last: int) -> None:
            wrong = kernel(starts, ids, values, self._key, out, first, last)
            if wrong >= 0:
                raise InvalidArgumentError(f"weights: those of a token in set {wrong} add up to infinity")

        run_chunks(task, len(out), threads, _SETS)
        return Sketches(out, self.header)

    def collision_probability(self, similarity: float) -> float:
        """Probability that a slot of two sketches agrees: the similarity itself, J_W or J_P by the method."""
        return _share(similarity)

    def variance(self, similarity: float) -> float:
        """Variance of the share of slots that agree: ``J (1 - J) / k``."""
        share = _share(similarity)
        return share * (1 - share) / self.k


def _share(similarity: float) -> float:
    if not 0 <= similarity <= 1:
        raise InvalidArgumentError(f"similarity: expected a number in [0, 1], got {similarity!r}")
    return float(similarity)


def _checked(
    indptr: ArrayLike, tokens: ArrayLike, weights: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]:
    """The arguments of `sketch` as kernels take them."""
    starts, ids = checked_sets(indptr, tokens)
    values = np.asarray(weights)
    if values.dtype.kind not in "fiu":
        raise DtypeError(f"weights: expected numbers, got {values.dtype}")
    if values.shape != ids.shape:
        raise InvalidArgumentError(
            f"weights: expected shape (m,) like tokens, got {values.shape} for tokens of {ids.shape}"
        )
    floats = np.require(values, np.float64, requirements=["C", "A", "W"])
    bad = np.flatnonzero(~(np.isfinite(floats) & (floats >= 0)))
    if len(bad):
        raise InvalidArgumentError(f"weights: expected finite numbers >= 0, got {floats[bad[0]]} at position {bad[0]}")
    return starts, ids, floats
