"""Connected components by union-find: each is named by its lowest member, whatever the order of the edges."""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import exchange_if, offset, pointer


@jit_inline
def _root(parent, node):
    """Root of a node; halves the path to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@jit
def unite(parent, edges):
    """Join the components of both ends of each edge. Threads may do so at once, each with edges of its own.

    parent (n,) int32 or int64 with ``parent[i] <= i``, at first ``arange(n)``: a forest, in which no parent is greater
    than its child, so that the root of a tree is its lowest node. edges (m, 2) integers in ``range(n)``. Returns how
    many joined two components.

    A root is linked to a lower one only as long as it is a root, in one step (Anderson & Woll, "Wait-free parallel
    algorithms for the union-find problem", STOC 1991). Other writes shorten paths: they put an ancestor in place of
    another, so it does not matter which thread's is last.
    """
    above, ends = pointer(parent, 0), pointer(edges, 0)
    joined = 0
    for edge in range(edges.shape[0]):
        left, right = _root(above, ends[2 * edge]), _root(above, ends[2 * edge + 1])
        while left != right:
            low, high = min(left, right), max(left, right)
            if exchange_if(offset(above, np.int64(high)), parent.dtype.type(high), parent.dtype.type(low)):
                joined += 1
                break
            left, right = _root(above, low), _root(above, high)
    return joined


@jit
def flatten(parent):
    """Make every node of a forest of `unite` point at its root. Returns the number of trees."""
    trees = 0
    for node in range(parent.shape[0]):  # what is before it points at roots already
        parent[node] = parent[parent[node]]
        trees += parent[node] == node
    return trees


@jit
def components(parent, edges):
    """Connected components: the lowest member of each node's component.

    parent (n,), edges (m, 2): as for `unite`; on return ``parent[i]`` is the lowest node that i is connected to. Edges
    may come in several calls; the result is that of all of them in any order. Returns the number of components.
    """
    unite(parent, edges)
    return flatten(parent)
