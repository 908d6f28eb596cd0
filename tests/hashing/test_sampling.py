"""Draws from buckets, and the estimates that they make: unbiased, with the spread that is said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.errors import InvalidArgumentError, UnknownIdError
from nearhash.hashing import KernelDensity, LSHSampler
from nearhash.hashing.buckets import Buckets
from nearhash.kernels.reference_buckets import draw_members


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 400), st.tuples(st.floats(0, 1), st.integers(1, 60))), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_draws_are_those_of_the_reference(changes, seed):
    """After any insertions and removals."""
    rng = np.random.default_rng(seed)
    buckets, keys, alive = Buckets(2, 3), np.empty((0, 3), np.uint64), np.empty(0, np.uint8)
    for change in changes:
        if isinstance(change, int):
            new = rng.integers(0, 6, (change, 3)).astype(np.uint64)
            own = buckets.add(np.zeros((change, 2), np.float32), new)
            assert own.tolist() == list(range(len(keys), len(keys) + change))
            keys, alive = np.concatenate([keys, new]), np.concatenate([alive, np.ones(change, np.uint8)])
        elif alive.any():
            chosen = rng.permutation(np.flatnonzero(alive))[: change[1]]
            buckets.remove(chosen)
            alive[chosen] = 0
    assert buckets.ids.tolist() == np.flatnonzero(alive).tolist()
    assert len(buckets) == alive.sum()
    own, tables, uniforms = rng.integers(0, 7, 50).astype(np.uint64), rng.integers(0, 3, 50), rng.random(50)
    ids, _, sizes = buckets.draw(own, tables, uniforms)
    expected = draw_members(keys, alive, own, tables, uniforms)
    assert ids.tolist() == expected[0].tolist()
    assert sizes.tolist() == expected[1].tolist()


def test_removal_refuses():
    sampler = LSHSampler(4)
    ids = sampler.add(np.eye(4))
    sampler.remove([ids[1]])
    for bad, error in (
        ([1], UnknownIdError),
        ([9], UnknownIdError),
        ([0, 0], InvalidArgumentError),
        ([0.5], InvalidArgumentError),
    ):
        with pytest.raises(error, match="ids"):
            sampler.remove(bad)
    assert sampler.ids.tolist() == [0, 2, 3]
    sampler.remove([])


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(3)
    return np.concatenate([rng.standard_normal((300, 6)), rng.standard_normal((300, 6)) * 0.3 + 1])


def test_weights_of_draws_are_unbiased(points):
    """Over seeds: the mean of weight times f is the sum of f, within 4 standard errors, for f of every kind."""
    queries = np.concatenate([points[:2] * 3, points[400:402], np.zeros((1, 6))])
    functions = (np.ones(600), np.exp(points[:, 0]), np.arange(600.0))
    estimates = []
    for seed in range(400):
        sampler = LSHSampler(6, bits=3, tables=8, seed=seed)
        sampler.add(points[:200])
        sampler.add(points[200:])
        samples = sampler.sample(queries, 16, seed)
        assert samples.ids.shape == samples.weights.shape == (5, 16)
        estimates.append([(samples.weights * f[samples.ids]).mean(axis=1) for f in functions])
    found = np.array(estimates)  # (seeds, f, q)
    truth = np.array([np.full(5, f.sum()) for f in functions])
    assert (np.abs(found.mean(axis=0) - truth) < 4 * found.std(axis=0) / 20).all()


def test_variance_of_a_draw_is_that_of_the_formula(points):
    """E[Z^2] = sum over x, y of f(x)^2 P(y in bucket | x in it) / P(x)^2 P(x): by a simulation of the hash alone."""
    query, others = points[:1] * 2, points[1:7]
    values = np.linspace(1, 2, 6)
    sampler = LSHSampler(6, bits=2, tables=1, seed=0)
    inside, estimates = [], []
    for seed in range(3000):
        sampler = LSHSampler(6, bits=2, tables=1, seed=seed)
        sampler.add(others)
        samples = sampler.sample(query, 1, seed)
        estimates.append(float(samples.weights[0, 0] * values[samples.ids[0, 0]]))
        keys = sampler._keys(np.concatenate([query, others]).astype(np.float32))[:, 0]
        inside.append(keys[1:] == keys[0])
    together = np.array(inside, float).T @ np.array(inside, float) / 3000  # chance that both are in the bucket
    cosines = others @ query[0] / (np.linalg.norm(others, axis=1) * np.linalg.norm(query))
    chance = sampler.inclusion(cosines)
    # x, drawn with probability 1 / b, has weight b / P(x): E[Z^2] = sum f(x)^2 E[b; x inside] / P(x)^2.
    second = (values**2 * together.sum(axis=1) / chance**2).sum()
    assert np.var(estimates) == pytest.approx(second - values.sum() ** 2, rel=0.1)


@pytest.mark.parametrize("kernel", ["gaussian", "laplace"])
def test_kernel_sums_are_unbiased(points, kernel):
    """Over seeds within 4 standard errors, while points come and go; and the standard error says the spread."""
    queries = np.concatenate([points[[0, 350, 590]], [[3.0] * 6]])
    apart = np.linalg.norm(queries[:, None] - points[None, 100:500], axis=2) / 0.9
    truth = (np.exp(-0.5 * apart**2) if kernel == "gaussian" else np.exp(-apart)).sum(axis=1)
    sums, errors = [], []
    for seed in range(200):
        density = KernelDensity(6, kernel, bandwidth=0.9, tables=32, hashes=4, seed=seed)
        ids = density.add(points)
        density.remove(ids[:100])
        density.remove(ids[500:])
        assert len(density) == 400
        found = density.estimate(queries, seed)
        sums.append(found.sums)
        errors.append(found.errors)
    spread = np.std(sums, axis=0, ddof=1)
    assert (np.abs(np.mean(sums, axis=0) - truth) < 4 * spread / np.sqrt(200)).all()
    assert np.sqrt(np.mean(np.square(errors), axis=0)) == pytest.approx(spread, rel=0.25)


def test_nothing_and_bad_arguments():
    density = KernelDensity(3)
    assert density.estimate([[0, 0, 0]]).sums.tolist() == [0]
    assert LSHSampler(3).sample([[1, 2, 3]], 4).ids.tolist() == [[-1] * 4]
    assert density.estimate(np.empty((0, 3))).sums.shape == (0,)
    for arguments in ({"kernel": "box"}, {"bandwidth": 0}, {"tables": 1}, {"hashes": 0}, {"width": -1}):
        with pytest.raises(InvalidArgumentError):
            KernelDensity(3, **arguments)
    for arguments in ({"bits": 0}, {"bits": 65}, {"tables": 0}):
        with pytest.raises(InvalidArgumentError):
            LSHSampler(3, **arguments)
    with pytest.raises(InvalidArgumentError, match="m:"):
        LSHSampler(3).sample([[1, 2, 3]], 0)
    for bad in ([[np.nan, 0, 0]], [[1, 2]]):
        with pytest.raises(InvalidArgumentError):
            density.add(bad)


def test_same_draws_at_any_time(points):
    one, other = LSHSampler(6, seed=4), LSHSampler(6, seed=4)
    one.add(points)
    for part in np.array_split(points, 7):
        other.add(part)
    for left, right in zip(one.sample(points[:9], 20, 5), other.sample(points[:9], 20, 5), strict=True):
        assert (left == right).all()
