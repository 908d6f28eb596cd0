"""What attention over a store gives."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Attention(NamedTuple):
    """Attention of the queries of one step.

    Attributes
    ----------
    output : (q_heads, d) float32
        ``sum softmax(s)_i v_i``, or an estimate of it; zeros of no tokens.
    lse : (q_heads,) float32
        ``ln sum exp(s_i)``, the scale included, or an estimate of it; -inf of no tokens. With it, results of disjoint
        sets of tokens are merged, see `merge`.
    reads : (kv_heads,) int64
        Tokens whose keys and values were read.
    error : (q_heads,) float32
        Estimated error of the output relative to its norm, by the sample's own variance; 0 where all tokens were read,
        NaN where nothing tells it.
    """

    output: NDArray[np.float32]
    lse: NDArray[np.float32]
    reads: NDArray[np.int64]
    error: NDArray[np.float32]


class Retrieval(NamedTuple):
    """Tokens of a KV head that are to be read for some of its queries.

    Attributes
    ----------
    head : int
        KV head.
    first, last : int
        For the query heads ``first <= h < last``.
    positions : (m,) int64
        Ascending.
    log_probabilities : (m,) float64
        Natural logarithms of the probabilities with which they were taken: softmax over the logits less these is an
        estimate of that over all tokens. 0 of tokens that are always read, and where an estimator knows none.
    """

    head: int
    first: int
    last: int
    positions: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]


def merge(*parts: Attention) -> Attention:
    """Attention over the union of disjoint sets of tokens.

    With m the greatest log-sum-exp of the parts, ``output = sum exp(l - m) o / sum exp(l - m)`` and
    ``lse = m + ln sum exp(l - m)``. Errors add up in squares, each with the share of its part; that of a part
    which tells none leaves that of the union unknown.
    """
    lses = np.stack([part.lse for part in parts]).astype(np.float64)
    top = lses.max(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(np.isneginf(lses), 0.0, np.exp(lses - top))
        total = shares.sum(axis=0)
        shares = np.where(total > 0, shares / total, 0.0)
        lse = np.where(total > 0, top + np.log(total), -np.inf)
        output = np.einsum("pq,pqd->qd", shares, np.stack([part.output for part in parts]).astype(np.float64))
        norms = np.stack([part.error * np.linalg.norm(part.output, axis=1) for part in parts]) * shares
        distance = np.sqrt(np.where(shares > 0, norms**2, 0.0).sum(axis=0))
        error = np.where(distance == 0, 0.0, distance / np.linalg.norm(output, axis=1))
    return Attention(
        output.astype(np.float32),
        lse.astype(np.float32),
        np.sum([part.reads for part in parts], axis=0),
        error.astype(np.float32),
    )
