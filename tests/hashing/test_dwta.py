"""Densified winner-take-all hashes: the kernel against NumPy, the formula against simulation, what must not matter."""

from types import SimpleNamespace

import numpy as np
import pytest

from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.hashing import DWTA
from nearhash.kernels import reference_weighted


def sparse(rng, count, dim, share):
    return (rng.standard_normal((count, dim)) * (rng.random((count, dim)) < share)).astype(np.float32)


def as_csr(dense):
    """The attributes of a SciPy matrix, with a stored zero."""
    rows, columns = np.nonzero((dense != 0) | (np.arange(dense.shape[1]) == 3))
    indptr = np.searchsorted(rows, np.arange(len(dense) + 1))
    return SimpleNamespace(indptr=indptr, indices=columns, data=dense[rows, columns], shape=dense.shape)


@pytest.mark.parametrize(("dim", "k", "window"), [(20, 30, 4), (20, 5, 4), (23, 17, 8), (8, 9, 8), (40, 40, 2)])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.05])
def test_kernel_does_what_the_reference_says(dim, k, window, share):
    vectors = sparse(np.random.default_rng(k), 40, dim, share)
    vectors[0] = 0
    vectors[1] = 2.5  # ties
    hasher = DWTA(dim, k, window, seed=3)
    hashes = hasher.hash(vectors)
    for vector, own in zip(vectors, hashes, strict=True):
        expected = reference_weighted.dwta(vector, hasher._bins, hasher._places, int(hasher._key), k)
        assert own.tolist() == expected.tolist()
    assert (hashes[0] == 255).all()
    assert np.array_equal(hasher.hash(as_csr(vectors)), hashes)
    assert np.array_equal(hasher.hash(vectors, threads=1), hasher.hash(np.tile(vectors, (20, 1)), threads=3)[-40:])
    assert np.array_equal(hasher.hash(vectors[5]), hashes[5:6])


def test_every_window_is_a_permutation_of_different_coordinates():
    hasher = DWTA(50, 20, 8, seed=1)
    assert hasher._bins.shape == (4, 50)  # six windows each, the last permutation two
    for number in range(20):
        permutation, coordinates = np.nonzero(hasher._bins == number)
        assert len(set(permutation.tolist())) == 1
        assert sorted(hasher._places[permutation, coordinates].tolist()) == list(range(8))
    assert not np.array_equal(hasher._places[0], hasher._places[1])


def test_only_the_order_of_values_matters():
    vectors = sparse(np.random.default_rng(0), 50, 60, 0.4)
    hasher = DWTA(60, 64, 8)
    hashes = hasher.hash(vectors)
    for same in (vectors * 1e-3, vectors * 1e6, np.cbrt(vectors), np.expm1(vectors), vectors.astype(np.float64)):
        assert np.array_equal(hasher.hash(same), hashes)
    assert not np.array_equal(hasher.hash(-vectors), hashes)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("window", [2, 4, 8])
def test_collisions_follow_the_formula(window, share):
    """Over seeds, for windows in which both vectors have a coordinate: within 4 standard errors."""
    rng, dim, k, seeds = np.random.default_rng(window), 32, 4, 800
    x = rng.standard_normal(dim) * (rng.random(dim) < share)
    y = (x + 0.5 * rng.standard_normal(dim)) * (rng.random(dim) < share)
    equal = met = 0
    for seed in range(seeds):
        hasher = DWTA(dim, k, window, seed)
        hashes = hasher.hash(np.stack([x, y]))
        filled = np.ones(k, bool)
        for number in range(k):
            members = (hasher._bins == number).any(axis=0)
            filled[number] = x[members].any() and y[members].any()
        met += int(filled.sum())
        equal += int(((hashes[0] == hashes[1]) & filled).sum())
    probability = hasher.collision_probability(x, y)
    assert 0.1 < probability < 0.9
    assert abs(equal / met - probability) < 4 * np.sqrt(probability * (1 - probability) / met)
    assert hasher.collision_probability(x, x) == pytest.approx(1)
    if window == 2 and share == 1:  # share of pairs of coordinates in the same order
        i, j = np.triu_indices(dim, 1)
        assert probability == pytest.approx((np.sign(x[i] - x[j]) == np.sign(y[i] - y[j])).mean())


def test_densified_hashes_keep_sparse_vectors_apart():
    """Borrowed hashes agree where vectors are the same and are as good as random where they share nothing."""
    rng = np.random.default_rng(2)
    x, y = np.zeros((2, 4000), np.float32)
    x[:40], y[40:80] = rng.random(40) + 1, rng.random(40) + 1
    near = x.copy()
    near[rng.integers(0, 40, 4)] += 0.05
    hasher = DWTA(4000, 400, 8)
    hashes = hasher.hash(np.stack([x, y, near]))
    assert (hashes < 8).all()
    assert hasher.similarity(hashes[0], hashes[2])[0] > 0.9
    assert hasher.similarity(hashes[0], hashes[1])[0] < 0.3
    assert hasher.similarity(hashes[:2], hashes[:2]).tolist() == [1, 1]


def test_variance_is_that_of_independent_hashes():
    assert DWTA(100, 50).variance(0.3) == pytest.approx(0.3 * 0.7 / 50)
    with pytest.raises(InvalidArgumentError, match="probability"):
        DWTA(100).variance(1.5)


def test_bad_input():
    hasher = DWTA(10, 5, 4)
    for bad in (np.zeros((2, 9)), np.zeros((1, 1, 10)), np.float32(3)):
        with pytest.raises(DimensionError, match="vectors"):
            hasher.hash(bad)
    for bad in (np.nan, np.inf, 1e39):
        with pytest.raises(InvalidArgumentError, match="vectors"):
            hasher.hash(np.full((1, 10), bad))
    with pytest.raises(DtypeError, match="vectors"):
        hasher.hash(np.array([["a"] * 10]))
    good = as_csr(np.eye(10, dtype=np.float32))
    for name, bad in (
        ("shape", (10, 11)), ("indptr", good.indptr[::-1]), ("indptr", good.indptr[:-1]), ("indptr", good.indptr + 1),
        ("indices", good.indices + 5), ("indices", good.indices - 5), ("indices", good.indices[:-1]),
        ("indices", good.indices.astype(float)), ("data", good.data[:-1]), ("data", good.data * np.nan),
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match="vectors"):
            hasher.hash(SimpleNamespace(**{**vars(good), name: bad}))
    for arguments in ({"dim": 3}, {"k": 0}, {"window": 1}, {"window": 256}, {"dim": 8.0}, {"seed": -1}):
        with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
            DWTA(**{"dim": 300, **arguments})
    with pytest.raises(InvalidArgumentError, match="x"):
        hasher.collision_probability(np.zeros(9), np.zeros(10))
    assert hasher.collision_probability(np.zeros(10), np.ones(10)) == 0
    assert hasher.hash(np.empty((0, 10))).shape == (0, 5)
