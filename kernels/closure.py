"""Which lists of a disk index a vector is written to: that of the nearest centroid, and others close to it."""

from nearhash.kernels.jit import jit
from nearhash.kernels.simd import pointer, squared_l2


@jit
def choose_closure(near, squares, centroids, reach, spacing, chosen):
    """Choose lists for vectors near the boundaries of their own.

    SPANN (Chen et al., NeurIPS 2021), sec. 3.2.1: a vector goes to every list whose centroid is at most (1 + eps) times
    as far as the nearest (eq. 2), unless that centroid is closer to one chosen before than to the vector (the rule of
    relative neighbourhood graphs): such a list would be searched together with the other one anyway. SPANN's centroids
    are vectors of the data. Means lie closer together than those do, so distances between them count `spacing`
    times here.

    near (n, m) int32: centroids nearest to each vector, nearest first, -1 for none; squares (n, m) float32, their
    squared distances; centroids (c, dim) float32; reach and spacing, float32, squared: (1 + eps)^2 and the square of
    the factor; chosen (n, most) int32, result: lists, that of the nearest centroid first, -1 after the last.
    """
    dim, most = centroids.shape[1], chosen.shape[1]
    for row in range(near.shape[0]):
        count = 0
        limit = reach * squares[row, 0]
        for j in range(near.shape[1]):
            candidate = near[row, j]
            if candidate < 0 or count == most or squares[row, j] > limit:
                break
            place = pointer(centroids, candidate * dim)
            hidden = False
            for i in range(count):
                apart = squared_l2(place, pointer(centroids, chosen[row, i] * dim), dim)
                hidden |= spacing * apart < squares[row, j]
            if not hidden:
                chosen[row, count] = candidate
                count += 1
        for i in range(count, most):
            chosen[row, i] = -1
