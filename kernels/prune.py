"""Robust pruning: which candidates become the neighbours of a node.

Subramanya et al., "DiskANN" (NeurIPS 2019), algorithm 2: go through the candidates from near to far and keep one unless
a kept one is much closer to it than the node is: drop c if alpha * d(s, c) <= d(p, c) for a kept s. Distances here
are squared, so `alpha` is the square of the paper's. A duplicate of a kept candidate has d(s, c) = 0 and is always
dropped: duplicates cannot fill the list of a node.
"""

import numpy as np

from nearhash.kernels.codes import distance, prepare
from nearhash.kernels.jit import jit_inline
from nearhash.kernels.pool import key_distance, key_slot


@jit_inline
def robust_prune(
    scheme, parameters, buffer, constants, rows, node, candidates, count, alpha, degree, parents, kept
):  # fmt: skip
    """Select at most `degree` of the candidates as neighbours of `node`; returns how many.

    candidates: pointer to `count` ascending keys, none of them `node`; kept (degree,) int32, result, near to far. A
    candidate whose parent (see build.py) is `node` is kept whatever the rule says: that link keeps it reachable.
    """
    protected = 0
    for i in range(count):
        protected += 1 if parents[key_slot(candidates[i])] == node else 0
    selected = 0
    for i in range(count):
        if selected == degree:
            break
        slot = key_slot(candidates[i])
        if parents[slot] == node:
            protected -= 1
        else:
            if selected + protected >= degree:
                continue
            limit = key_distance(candidates[i])
            if selected > 0:
                prepare(scheme, parameters, rows, slot, buffer, constants)
            occluded = False
            for j in range(selected):
                if alpha * distance(scheme, buffer, constants, rows, np.int64(kept[j])) <= limit:
                    occluded = True
                    break
            if occluded:
                continue
        kept[selected] = slot
        selected += 1
    return selected
