"""Attention from a priority sample of the tokens: what `attention_sampling` chooses, read and summed.

One call for each KV head, so that short contexts are not dominated by calls.
"""

import numpy as np

from nearhash.kernels.attention import attend_tokens, merge_samples
from nearhash.kernels.attention_sampling import choose
from nearhash.kernels.jit import jit


@jit
def attend_priority(
    rows, queries, pages, count, first, last, scratch, code_pages, norms_at, temperature, floor, key, budget, out, lse,
    variance,
):  # fmt: skip
    """Attention over `count` tokens, estimated from `budget` of those in first <= position < last and all others.

    queries (g, dim) float32, times the scale of the logits; pages and code_pages int64 addresses of the pages of
    keys and values and of their codes; scratch (g + 2, room) float32 with the estimated logits of a scan of the codes
    in its first g rows. out (g, dim), lse (g,) and variance (g,) float32: see `attend_tokens` and `merge_samples`.
    Returns how many tokens were read.
    """
    group, dim = queries.shape
    most = count - (last - first) + min(budget, last - first)
    positions, probabilities = np.empty(most, np.int32), np.empty(most, np.float32)
    reads = choose(
        scratch, code_pages, norms_at, count, first, last, temperature, floor, key, budget, positions, probabilities
    )  # fmt: skip
    outputs, lses = np.empty((1, group, dim), np.float32), np.empty((1, group), np.float32)
    moments = np.empty((1, group, dim + 2), np.float32)
    attend_tokens(rows, queries, pages, positions, probabilities, outputs[0], lses[0], moments[0])
    merge_samples(outputs, lses, moments, out, lse, variance)
    return reads
