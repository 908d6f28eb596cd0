"""Connected components by union-find: each is named by its lowest member, whatever the order of the edges."""

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import pointer


@jit_inline
def _root(parent, node):
    """Root of a node; halves the path to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@jit
def unite(parent, edges):
    """Join the components of both ends of each edge.

    parent (n,) int32 or int64 with ``parent[i] <= i``, at first ``arange(n)``: a forest, in which no parent is greater
    than its child, so that the root of a tree is its lowest node. edges (m, 2) integers in ``range(n)``. Returns how
    many joined two components.
    """
    above, ends = pointer(parent, 0), pointer(edges, 0)
    joined = 0
    for edge in range(edges.shape[0]):
        left, right = _root(above, ends[2 * edge]), _root(above, ends[2 * edge + 1])
        if left < right:
            above[right] = left
        elif right < left:
            above[left] = right
        joined += left != right
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
