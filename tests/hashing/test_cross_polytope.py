"""Cross-polytope hashes: chances and variances against simulation, order of probes, what is refused."""

import numpy as np
import pytest

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import CrossPolytope


def pairs(count, dim, cosine, seed):
    """Unit vectors in random directions, and others at this cosine."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, count, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y -= np.einsum("ij,ij->i", x, y)[:, None] * x
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return x, cosine * x + np.sqrt(1 - cosine**2) * y


@pytest.mark.parametrize(
    ("dim", "hashes", "last_dims", "dims"),
    [(64, 1, None, None), (128, 2, 4, None), (100, 2, None, None), (64, 8, 1, 1), (8, 2, None, None)],
)
@pytest.mark.parametrize("cosine", [-0.3, 0.0, 0.5, 0.8, 0.95, 0.9995])
def test_chance_and_variance(dim, hashes, last_dims, dims, cosine):
    """Share of tables that agree: mean within 4 standard errors of the formula, variance within 10% of it."""
    tables, each, seeds = 16, 400, 40
    shares = []
    for seed in range(seeds):
        family = CrossPolytope(dim, tables, hashes, seed, last_dims, dims)
        x, y = pairs(each, dim, cosine, seed)
        shares.append((family.hash(x) == family.hash(y)).mean(axis=1))
    found = np.concatenate(shares)
    chance, variance = family.collision_probability(cosine), family.variance(cosine)
    means = [part.mean() for part in shares]  # pairs of a seed share its tables
    error = max(np.sqrt(variance / len(found)), np.std(means, ddof=1) / np.sqrt(seeds))
    assert abs(found.mean() - chance) <= 4 * error + 1e-6
    if chance > 0.01:
        assert found.var() == pytest.approx(variance, rel=0.1)


def test_chance_at_the_ends():
    for family in (CrossPolytope(16), CrossPolytope(16, dims=1, hashes=5)):
        assert family.collision_probability(1.0) == pytest.approx(1.0)
        assert family.collision_probability(-1.0) == pytest.approx(0.0, abs=1e-12)
        chances = family.collision_probability(np.linspace(-1, 1, 21))
        assert (np.diff(chances) >= -1e-9).all()
    assert CrossPolytope(16, dims=1, hashes=1).collision_probability(0.5) == pytest.approx(1 - np.arccos(0.5) / np.pi)
    with pytest.raises(InvalidArgumentError):
        CrossPolytope(16).collision_probability(1.1)


def test_keys_and_probes():
    family, rng = CrossPolytope(50, tables=6, hashes=2, seed=3), np.random.default_rng(0)
    x = rng.standard_normal((30, 50))
    keys = family.hash(x)
    assert keys.dtype == np.uint32
    assert keys.max() < family.buckets == 128**2
    assert (family.hash(1000 * x, threads=3) == keys).all()  # only directions count
    probes = family.probes(x, 40)
    assert (np.diff(probes.scores, axis=1) >= 0).all()
    for row in range(30):  # its own buckets first, no bucket twice
        first = dict(zip(probes.tables[row, :6].tolist(), probes.keys[row, :6].tolist(), strict=True))
        assert first == dict(enumerate(keys[row].tolist()))
        assert len({*zip(probes.tables[row].tolist(), probes.keys[row].tolist(), strict=True)}) == 40
    few = CrossPolytope(1, tables=2, hashes=1).probes([[1.0]], 6)  # there are 4 buckets
    assert few.tables[0, 4:].tolist() == [-1, -1]
    assert np.isinf(few.scores[0, 4:]).all()
    assert (family.hash(np.zeros((1, 50))) == 0).all()


@pytest.mark.parametrize(
    "arguments",
    [{"tables": 0}, {"hashes": 65}, {"seed": -1}, {"last_dims": 129}, {"dims": 0}, {"hashes": 9}, {"dim": 0}],
)
def test_bad_arguments(arguments):
    with pytest.raises(InvalidArgumentError):
        CrossPolytope(**{"dim": 100, **arguments})


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20])
def test_bad_vectors(bad):
    with pytest.raises(InvalidArgumentError):
        CrossPolytope(3).hash([[1.0, bad, 2.0]])
    with pytest.raises(InvalidArgumentError):
        CrossPolytope(3).hash([[1.0, 2.0]])
