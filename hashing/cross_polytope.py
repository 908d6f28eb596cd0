"""Cross-polytope hashes: buckets for the directions of vectors."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import randomness
from nearhash.hashing.collisions import as_cosines, normal_cdf, normal_density
from nearhash.hashing.vectors import MAX_DIM, as_rows, check_whole
from nearhash.kernels.cross_polytope import ROUNDS, hash_rows, probe_rows
from nearhash.kernels.rows import unit_rows
from nearhash.kernels.threads import resolve_threads, run_chunks

MOST_TABLES, MOST_HASHES = 1024, 64
_SIGN_STREAM = 0x43505001
_CHUNK = 256
_NODES, _REACH = 512, 7.0  # of the numeric integration: midpoints, and where the normal density ends
_STEP = 0.05  # of the angle, for the second derivative
_LEAST_ROTATION = 64  # below it rotations are too few, and too unlike Gaussian projections, for the formulas
_NEAR = 0.999  # cosine above which the chance is continued as a straight line of the angle


class Probes(NamedTuple):
    """Buckets in the order in which they are worth a look, each array (q, n).

    tables int32, -1 where there are no more buckets; keys uint64; scores float32 ascending, inf where there are no
    more.
    """

    tables: NDArray[np.int32]
    keys: NDArray[np.uint64]
    scores: NDArray[np.float32]


class CrossPolytope:
    """Nearest vertices of randomly rotated cross-polytopes.

    Andoni, Indyk, Laarhoven, Razenshteyn & Schmidt, "Practical and optimal LSH for angular distance", NIPS 2015. The
    hash of a table is the tuple of the nearest vertices (the element of greatest magnitude, with its sign) in `hashes`
    pseudo-random rotations, each three rounds of random signs and Hadamard transform. Only the
    direction of a vector counts. The zero vector has vertex 0 everywhere.

    Parameters
    ----------
    dim
        Elements of a vector, 1 to 32,768.
    tables
        Independent keys of a vector, 1 to 1,024.
    hashes
        Polytopes of a key, 1 to 64. More make smaller buckets.
    seed
        A whole number in [0, 2**64): the same gives the same keys.
    last_dims
        Dimensions of the last polytope, by default as many as the others have: for a number of buckets in between.
    dims
        Dimensions of all polytopes but the last, 1 to `dimension`, by default `dim` or the next power of two.
        Polytopes of dimension 1 are hyperplanes (Charikar, STOC 2002); as many polytopes as fit share a rotation.

    Raises
    ------
    InvalidArgumentError
        If an argument is none of the above, or a key does not fit 63 bits.
    """

    def __init__(
        self, dim: int, tables: int = 16, hashes: int = 2, seed: int = 0, last_dims: int | None = None,
        dims: int | None = None,
    ) -> None:  # fmt: skip
        self.dim = check_whole(dim, "dim", 1, MAX_DIM)
        self.tables = check_whole(tables, "tables", 1, MOST_TABLES)
        self.hashes = check_whole(hashes, "hashes", 1, MOST_HASHES)
        self.seed = randomness.check_seed(seed)
        whole = 1 << (self.dim - 1).bit_length()
        self.dimension = max(whole, _LEAST_ROTATION)
        """Elements of a rotation: the next power of two, at least 64."""
        self.dims = whole if dims is None else check_whole(dims, "dims", 1, self.dimension)
        self.last_dims = self.dims if last_dims is None else check_whole(last_dims, "last_dims", 1, self.dimension)
        self.buckets = math.prod(2 * own for own in self._dimensions)
        """Different keys that a table can have."""
        if self.buckets >= 1 << 63:
            raise InvalidArgumentError(
                f"hashes: expected so few that a key fits 63 bits, got {self.hashes} polytopes of {2 * self.dims} "
                "vertices"
            )
        self._plan = _plan(self._dimensions, self.dimension)
        rotations = int(self._plan[-1, 0]) + 1
        count = self.tables * rotations * ROUNDS * self.dimension
        drawn = randomness.signs(self.seed, _SIGN_STREAM, count)
        self._signs: NDArray[np.float32] = drawn.reshape(self.tables, rotations, ROUNDS, self.dimension)

    @property
    def _dimensions(self) -> list[int]:
        return [self.dims] * (self.hashes - 1) + [self.last_dims]

    @property
    def plan(self) -> NDArray[np.int64]:
        """Where each polytope of a table reads, for kernels (see kernels/cross_polytope.py)."""
        return self._plan

    @property
    def vertices(self) -> int:
        """Vertices of all polytopes of a table."""
        return 2 * sum(self._dimensions)

    @property
    def signs(self) -> NDArray[np.float32]:
        """(tables, rotations, 3, dimension) random signs, for kernels."""
        return self._signs

    def __repr__(self) -> str:
        return (
            f"CrossPolytope(dim={self.dim}, tables={self.tables}, hashes={self.hashes}, seed={self.seed}, "
            f"last_dims={self.last_dims}, dims={self.dims})"
        )

    def hash(self, X: ArrayLike, threads: int | None = None) -> NDArray[Any]:
        """Keys of vectors.

        Parameters
        ----------
        X
            (n, dim) or (dim,) of a float or integer dtype, computed in float32.
        threads
            Threads to use, all cores by default. The keys do not depend on it.

        Returns
        -------
        (n, tables), uint32 where `buckets` fit, else uint64: the vertices as digits of a number, the first the highest.
        Vertex i of a polytope of D dimensions is element i, positive; D + i is element i, negative.

        Raises
        ------
        DimensionError, DtypeError
            For another shape or dtype.
        InvalidArgumentError
            For NaN, infinity or values beyond 1e15 in magnitude.
        """
        vectors, threads = as_rows(X, self.dim, "X"), resolve_threads(threads)
        keys = np.empty((len(vectors), self.tables), np.uint64)

        def task(first: int, last: int) -> None:
            hash_rows(_units(vectors[first:last]), self._signs, self._plan, keys[first:last])

        run_chunks(task, len(vectors), threads, _CHUNK)
        return keys.astype(np.uint32) if self.buckets <= 1 << 32 else keys

    def probes(self, q: ArrayLike, n: int, threads: int | None = None) -> Probes:
        """The `n` buckets that are worth a look first, over all tables.

        The score of a bucket is the sum, over the polytopes of its table, of the squared difference between the
        greatest element and that of the bucket's vertex, for the unit vector of the query; the buckets of the query
        itself score 0 and come first. Ties go to the lower table.

        Parameters
        ----------
        q
            (q, dim) or (dim,) vectors.
        n
            Buckets for each, at least 1.
        """
        vectors, threads = as_rows(q, self.dim, "q"), resolve_threads(threads)
        n = check_whole(n, "n", 1, 1 << 24)
        tables = np.empty((len(vectors), n), np.int32)
        keys, scores = np.empty((len(vectors), n), np.uint64), np.empty((len(vectors), n), np.float32)

        def task(first: int, last: int) -> None:
            block = slice(first, last)
            probe_rows(
                _units(vectors[block]), self._signs, self._plan, self.tables, scores[block], tables[block], keys[block]
            )

        run_chunks(task, len(vectors), threads, 16)
        return Probes(tables, keys, scores)

    def collision_probability(self, cosine: ArrayLike) -> NDArray[np.float64]:
        """Chance that two vectors of this cosine share the key of a table.

        For Gaussian projections a polytope of D dimensions has at the angle t the chance

            P(t) = 2 D * integral over x, y > 0 of phi_r(x, y) P(|X| < x, |Y| < y)^(D - 1),

        with phi_r the density of the standard bivariate normal distribution of correlation r = cos t and (X, Y)
        distributed so: by the midpoint rule with 512 x 512 nodes on [0, 7]^2, beyond a cosine of .999 by a straight
        line of the angle to chance 1. D = 1 has ``1 - t / pi``. A rotation keeps angles, where n Gaussian projections
        spread them by sin(t) / sqrt(n): with Q the product over the polytopes in one rotation of n elements the chance
        is ``Q(t) - sin(t)^2 Q''(t) / (2 n)``, to the first order of 1 / n, and that of a table the product over
        rotations.
        """
        cosines = as_cosines(cosine)
        angles = np.arccos(cosines).reshape(-1)
        chances = np.array([self._chance_at(angle) for angle in angles.tolist()], np.float64)
        return chances.reshape(cosines.shape)

    def _chance_at(self, angle: float) -> float:
        """Chance that vectors at this angle share the key of a table."""
        total = 1.0
        for rotation in range(int(self._plan[-1, 0]) + 1):
            dims = self._plan[self._plan[:, 0] == rotation, 2].tolist()

            def product(at: float, dims: list[int] = dims) -> float:
                return math.prod(_chance(math.cos(at), dim) for dim in dims)

            step = min(_STEP, angle, math.pi - angle)
            own = product(angle)
            if step > 0:
                curvature = (product(angle - step) - 2 * own + product(angle + step)) / step**2
                own -= math.sin(angle) ** 2 * curvature / (2 * self.dimension)
            total *= min(max(own, 0.0), 1.0)
        return total

    def variance(self, cosine: ArrayLike) -> NDArray[np.float64]:
        """Variance of the share of tables in which two vectors of this cosine collide: tables are independent."""
        chance = self.collision_probability(cosine)
        variances: NDArray[np.float64] = chance * (1.0 - chance) / self.tables
        return variances


def _units(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    units = np.empty(vectors.shape, np.float32)
    unit_rows(vectors, units)
    return units


def _plan(dimensions: list[int], size: int) -> NDArray[np.int64]:
    """Rotation, first element and dimension of each polytope: the next one where a polytope fits no more."""
    plan, rotation, first = [], 0, 0
    for own in dimensions:
        if first + own > size:
            rotation, first = rotation + 1, 0
        plan.append((rotation, first, own))
        first += own
    return np.array(plan, np.int64)


@lru_cache(maxsize=4096)
def _chance(cosine: float, dim: int) -> float:
    """Chance that two vectors share the nearest vertex of one polytope."""
    if dim == 1:
        return 1.0 - math.acos(cosine) / math.pi
    if cosine > _NEAR:
        return 1.0 - (1.0 - _chance(_NEAR, dim)) * math.acos(cosine) / math.acos(_NEAR)
    if cosine < -_NEAR:  # opposite vectors share no vertex
        return 0.0
    step = _REACH / _NODES
    x = ((np.arange(_NODES) + 0.5) * step).astype(np.float64)
    spread = math.sqrt(1.0 - cosine**2)
    density = normal_density(x)

    def inside(u: NDArray[np.float64]) -> NDArray[np.float64]:
        """(u, y): density of X at u and chance of |Y| < y then."""
        centre = cosine * u[:, None]
        chance = normal_cdf((x - centre) / spread) - normal_cdf((-x - centre) / spread)
        own: NDArray[np.float64] = density[:, None] * chance
        return own

    both = inside(x) + inside(-x)
    within = (np.cumsum(both, axis=0) - 0.5 * both) * step  # up to the middle of a cell
    joint = density[:, None] * normal_density((x - cosine * x[:, None]) / spread) / spread
    return float(2 * dim * np.sum(joint * np.clip(within, 0.0, 1.0) ** (dim - 1)) * step**2)
