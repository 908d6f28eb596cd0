"""What all estimators share: which tokens are theirs to choose from, and attention from what they chose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from statistics import NormalDist
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.attention.heads import Floats, KVHead, Positions, finite_floats
from nearhash.errors import DimensionError, InvalidArgumentError
from nearhash.index.arguments import check_count, check_number
from nearhash.kernels import reference_attention

Doubles = NDArray[np.float64]


class Choice(NamedTuple):
    """Tokens that are read, ascending, and the logarithms of the probabilities (m,) with which they were taken.

    0 for those that are always read, and for estimators that know no probabilities.
    """

    positions: Positions
    log_probabilities: Doubles


class Estimate(NamedTuple):
    """Attention of the queries of one KV head.

    Attributes
    ----------
    output : (g, d) float32
        Zeros of no tokens.
    lse : (g,) float32
        Natural logarithm of the sum of ``exp(q.k)``, -inf of no tokens.
    reads : int
        Distinct tokens whose keys and values were read.
    error : (g,) float32
        Estimated error of the output relative to its norm; 0 where all tokens were read, NaN where nothing tells it.
    """

    output: Floats
    lse: Floats
    reads: int
    error: Floats


class Estimator(ABC):
    """Chooses what is read of the tokens of a KV head.

    Attributes
    ----------
    name : str
    unbiased : bool
        Sums over the tokens chosen, divided by the probabilities, are unbiased for sums over all tokens: so are
        numerator and denominator of the softmax.
    """

    name: ClassVar[str]
    unbiased: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    """The probabilities are those of inclusion in a sample, and the sample tells its error."""
    uses_codes: ClassVar[bool] = False
    """Asks the head for logits or norms that its codes tell."""

    def index(self, head: KVHead, always: Positions) -> Any:
        """What is kept beside keys and values: None, or an object with `tokens`, their number, and `nbytes`."""
        return None

    @abstractmethod
    def choose(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> list[Choice]:
        """What to read, for all queries together or for each of them; the tokens of `always` among it.

        rest: the other tokens, ascending, of which `budget` may be chosen.
        """

    def attend(
        self,
        head: KVHead,
        queries: ArrayLike,
        budget: int,
        always: ArrayLike = (),
        key: int = 0,
        index: Any = None,
    ) -> Estimate:
        """Attention over all tokens of a head, exact or estimated.

        Parameters
        ----------
        head : KVHead
        queries : (g, d)
            Finite, the scale of the logits included: queries that share the KV head.
        budget : int
            Tokens to read beside those of `always`, from 0 on.
        always : (m,) integers
            Positions of tokens that are read in any case, in any order; see `exact_tokens`.
        key : int
            Of the draw, 64 bits, see `kernels.attention_sampling.sampling_key`.
        index : optional
            What `index` gave before, for this head. Tokens that came later are always read.

        Returns
        -------
        Estimate

        Raises
        ------
        DimensionError, DtypeError, InvalidArgumentError
            For arguments that are not as above.
        """
        return self._attend(head, *self._checked(head, queries, budget, always, key, index))

    def retrieve(
        self,
        head: KVHead,
        queries: ArrayLike,
        budget: int,
        always: ArrayLike = (),
        key: int = 0,
        index: Any = None,
    ) -> list[Choice]:
        """What `attend` would read, given the same: one choice for all queries, or one for each of them.

        Of an error that is wished for (`eps`) nothing is known before keys and values are read: the budget is kept to.
        """
        return self.choose(head, *self._checked(head, queries, budget, always, key, index))

    def _checked(
        self, head: KVHead, queries: ArrayLike, budget: int, always: ArrayLike, key: int, index: Any
    ) -> tuple[Any, Floats, Positions, Positions, int, int]:
        """Index, queries, tokens of `always`, the others, budget and key; raises as `attend` does."""
        lines = finite_floats(queries, "queries")
        if lines.ndim != 2 or lines.shape[1] != head.d or not len(lines):
            raise DimensionError(f"queries: expected shape (g, {head.d}) with g >= 1, got {lines.shape}")
        budget = check_count(budget, "budget", least=0)
        key = check_count(key, "key", least=0, most=2**64 - 1)
        exact = _as_positions(always, head.n)
        if index is None:
            index = self.index(head, exact)
        elif index.tokens > head.n:
            raise InvalidArgumentError(f"index: expected one of at most {head.n} tokens, got one of {index.tokens}")
        if index is not None:
            exact = np.union1d(exact, self._later(index, head.n))
        rest = np.setdiff1d(np.arange(head.n), exact, assume_unique=True)
        return index, lines, exact, rest, budget, key

    def _later(self, index: Any, count: int) -> Positions:
        """Tokens, of `count`, that came after the index was made."""
        return np.arange(index.tokens, count)

    def _attend(
        self, head: KVHead, index: Any, queries: Floats, always: Positions, rest: Positions, budget: int, key: int
    ) -> Estimate:
        choices = self.choose(head, index, queries, always, rest, budget, key)
        return estimate(head, queries, choices, self.samples)


def exact_tokens(n: int, sink: int = 4, local: int = 16) -> Positions:
    """Positions of the first `sink` and the last `local` of n tokens, ascending."""
    first = min(check_count(sink, "sink", least=0), n)
    return np.concatenate([np.arange(first), np.arange(max(first, n - check_count(local, "local", least=0)), n)])


def _as_positions(values: ArrayLike, n: int) -> Positions:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InvalidArgumentError(f"always: expected integers of shape (m,), got {array.dtype} {array.shape}")
    if array.size and not 0 <= array.min() <= array.max() < n:
        raise InvalidArgumentError(f"always: expected positions 0 to {n - 1}, got {array.min()} to {array.max()}")
    positions = np.unique(array.astype(np.int64))
    if len(positions) < len(array):
        raise InvalidArgumentError(f"always: expected each position once, got {len(array) - len(positions)} again")
    return positions


def with_always(always: Positions, chosen: Positions, log_probabilities: Doubles | None = None) -> Choice:
    """A choice of the tokens of `always`, and `chosen`, in any order, with their probabilities, 1 by default."""
    positions = np.concatenate([always, chosen])
    own = np.zeros(len(chosen)) if log_probabilities is None else log_probabilities
    logs = np.concatenate([np.zeros(len(always)), own])
    order = np.argsort(positions)
    return Choice(positions[order], logs[order])


def group_weights(logits: NDArray[Any]) -> Doubles:
    """Mean over the queries of the softmax of logits (g, m): what a group as a whole thinks of the tokens."""
    return reference_attention.weights(logits, np.ones(logits.shape[1]), 1.0, 0.0) if logits.size else np.zeros(0)


def greatest(scores: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Indices of the `count` greatest scores (m,), ties to the lower index."""
    return np.argsort(-scores, kind="stable")[:count]


def normal_quantile(delta: float) -> float:
    """z such that a standard normal number is beyond it, on either side, with probability delta."""
    return NormalDist().inv_cdf(1 - delta / 2)


def estimate(head: KVHead, queries: Floats, choices: list[Choice], samples: bool) -> Estimate:
    """Gather, softmax, correction: attention of queries (g, d) from one choice for all, or one for each of them.

    With weights ``e_i = exp(s_i - ln p_i)`` of the logits s, ``D = sum e_i``: ``output = sum e_i v_i / D`` and
    ``lse = ln D``, estimates by Horvitz and Thompson (J. Amer. Statist. Assoc. 1952) of numerator and denominator.
    The variance of their ratio, linearised (Särndal, Swensson and Wretman, "Model Assisted Survey Sampling" 1992,
    section 5.6, for independent inclusion), is ``V = sum (1 - p_i) (e_i / D)^2 |v_i - output|^2`` over all dimensions.
    """
    output, lse = np.zeros(queries.shape, np.float32), np.full(len(queries), -np.inf, np.float32)
    error = np.zeros(len(queries), np.float32)
    parts = [slice(None)] if len(choices) == 1 else [slice(i, i + 1) for i in range(len(queries))]
    read = np.zeros(head.n, bool)
    for part, (positions, logs) in zip(parts, choices, strict=True):
        if not len(positions):
            error[part] = 0.0 if head.n == 0 else np.nan
            continue
        read[positions] = True
        result, sums, variance = _softmax(queries[part], head.keys(positions), head.values(positions), logs)
        output[part], lse[part] = result, sums
        if len(positions) < head.n:
            known = samples and bool((logs < 0).any())
            with np.errstate(divide="ignore", invalid="ignore"):
                relative = np.where(variance > 0, np.sqrt(variance) / np.linalg.norm(result, axis=1), 0.0)
            error[part] = relative if known else np.nan
    return Estimate(output, lse, int(read.sum()), error)


def _softmax(queries: Floats, keys: Floats, values: Floats, logs: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Output (g, d), log-sum-exp (g,) and variance (g,), see `estimate`."""
    logits = queries.astype(np.float64) @ keys.T.astype(np.float64) - logs  # [g, m]
    top = logits.max(axis=1, keepdims=True)
    shares = np.exp(logits - top)
    total = shares.sum(axis=1, keepdims=True)
    shares /= total
    output = shares @ values
    chances = np.exp(logs)
    sampled = chances < 1
    squares = (1 - chances[sampled]) * shares[:, sampled] ** 2  # [g, sampled]
    drawn = values[sampled].astype(np.float64)
    # |v - o|^2 = |v|^2 - 2 v.o + |o|^2, so that no array of g x m x d is made
    distances = (drawn**2).sum(axis=1) - 2 * output @ drawn.T + (output**2).sum(axis=1, keepdims=True)
    return output, (top + np.log(total))[:, 0], (squares * np.maximum(distances, 0.0)).sum(axis=1)


def check_certainty(eps: float | None, delta: float) -> tuple[float | None, float]:
    """A wished relative error and the probability that it may be missed."""
    # For greater delta the quantile of one normal number does not bound those of vectors, see `Priority`.
    return None if eps is None else check_number(eps, "eps", 0.0, 1e6), check_number(delta, "delta", 0.0, 0.2)
