"""Scans of the codes of keys, of whichever kind they are: kernels are compiled for what is asked of them."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from nearhash.kernels import attention_lvq4, attention_pq4, attention_simhash
from nearhash.kernels.jit import INLINE_OPTIONS, jit

Floats = NDArray[np.float32]


class LVQ4Queries(NamedTuple):
    """What a scan of LVQ codes needs of the queries: themselves, (q_heads, dim)."""

    queries: Floats


class PQ4Queries(NamedTuple):
    """Queries (q_heads, dim), each turned as the keys of its head, and the codebooks of the heads.

    bounds (heads, m + 1) and codewords (heads, dim, 16): see `attention_pq4.scan`.
    """

    queries: Floats
    bounds: NDArray[np.int32]
    codewords: Floats


class SimHashQueries(NamedTuple):
    """Queries (q_heads, dim) and their codes (q_heads, B / 64)."""

    queries: Floats
    codes: NDArray[np.uint64]


AskedOfCodes = LVQ4Queries | PQ4Queries | SimHashQueries


def _scan(asked, head, start, stop, pages, first, last, logits):
    raise NotImplementedError("compiled by Numba")


@overload(_scan, jit_options=INLINE_OPTIONS)
def _scan_overload(asked, head, start, stop, pages, first, last, logits):

    def lvq4(asked, head, start, stop, pages, first, last, logits):
        attention_lvq4.scan(pages, asked.queries[start:stop], first, last, logits)

    def pq4(asked, head, start, stop, pages, first, last, logits):
        bounds, codewords = asked.bounds[head], asked.codewords[head]
        attention_pq4.scan(pages, asked.queries[start:stop], bounds, codewords, first, last, logits)

    def simhash(asked, head, start, stop, pages, first, last, logits):
        attention_simhash.scan(pages, asked.queries[start:stop], asked.codes[start:stop], first, last, logits)

    kinds = {LVQ4Queries.__name__: lvq4, PQ4Queries.__name__: pq4, SimHashQueries.__name__: simhash}
    return kinds[asked.instance_class.__name__]


@jit
def scan(asked, head, start, stop, pages, first, last, logits):
    """Estimated logits of queries ``start <= q < stop`` for tokens of one head, less those of its mean key.

    pages (p,): addresses of its codes; logits (g, room) float32, g >= stop - start: columns are positions, and groups
    of 64 tokens that hold one of ``first <= position < last`` are written.
    """
    _scan(asked, head, start, stop, pages, first, last, logits)
