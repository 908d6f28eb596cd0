"""Sketches of weighted sets: kernels against NumPy, estimates against the formulas of bias and variance."""

import numpy as np
import pytest
from numba import njit

from nearhash.errors import DtypeError, InvalidArgumentError, SketchMismatchError
from nearhash.hashing import WeightedMinHash
from nearhash.kernels import reference_weighted as reference
from nearhash.kernels import weighted as kernels

METHODS = {
    "icws": (reference.icws, reference.weighted_jaccard),
    "probminhash": (reference.probminhash, reference.probability_jaccard),
}
EMPTY = 2**32 - 1


def together(sets):
    """Sets (tokens, weights) as (indptr, tokens, weights)."""
    indptr = np.concatenate([[0], np.cumsum([len(tokens) for tokens, _ in sets])]).astype(np.int64)
    return indptr, *(np.concatenate(column) for column in zip(*sets, strict=True))


def random_set(rng, size, universe=60):
    """Tokens with repetitions, and weights some of which are zero, tiny or huge."""
    weights = rng.exponential(1, size) * (rng.random(size) < 0.9) * 10.0 ** rng.integers(-2, 3, size)
    return rng.integers(0, universe, size).astype(np.uint64) * np.uint64(2**58 + 1), weights


@pytest.mark.parametrize("k", [1, 3, 64])
@pytest.mark.parametrize("method", METHODS)
def test_kernels_do_what_the_reference_says(method, k):
    rng = np.random.default_rng(k)
    sets = [random_set(rng, size) for size in (0, 1, 2, 5, 40, 200)]
    sets.append((np.arange(3, dtype=np.uint64), np.array([5e-324, 1e300, 1.0])))
    sets.append((np.arange(2, dtype=np.uint64), np.array([5e-324, 1e-320])))
    sets.append((np.arange(3, dtype=np.uint64), np.zeros(3)))
    sketcher = WeightedMinHash(k, method, seed=7)
    values = sketcher.sketch(*together(sets)).values
    for own, (tokens, weights) in zip(values, sets, strict=True):
        assert own.tolist() == METHODS[method][0](tokens, weights, int(sketcher._key), k).tolist()
    assert (values == EMPTY).all(axis=1).tolist() == [not weights.any() for _, weights in sets]
    assert values.dtype == np.uint32


@njit
def call_merge(tokens, weights, own_tokens, own_weights):
    return kernels.merge_repeated(tokens, weights, 0, len(tokens), own_tokens, own_weights)


def test_the_sum_of_repeated_weights_does_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    tokens = np.array([7] * 50 + [3, 9, 9], np.uint64)
    weights = np.concatenate([rng.exponential(1, 50) * 10.0 ** rng.integers(-8, 8, 50), [2.0, 0.0, 0.0]])
    sums = set()
    for _ in range(20):
        order = rng.permutation(53)
        own_tokens, own_weights = np.full(53, 99, np.uint64), np.full(53, np.nan)
        count = call_merge(tokens[order], weights[order], own_tokens, own_weights)
        assert own_tokens[:count].tolist() == [3, 7]
        sums.add(tuple(own_weights[:count].tolist()))
    assert len(sums) == 1


def pairs(a, b, count, seed):
    """`count` copies of the sets with weights a and b, each over tokens of its own."""
    tokens = np.random.default_rng(seed).integers(0, 2**63, (count, 1, len(a))).astype(np.uint64)
    tokens = np.broadcast_to(tokens, (count, 2, len(a))).reshape(-1)
    weights = np.broadcast_to(np.stack([a, b]), (count, 2, len(a))).reshape(-1)
    return np.arange(2 * count + 1) * len(a), tokens, weights


@pytest.mark.parametrize("scale", [1.0, 7.3])
@pytest.mark.parametrize("method", METHODS)
def test_estimates_follow_the_formulas(method, scale):
    """Bias within 4 standard errors, variance within 10%, for few and many tokens and low and high similarity."""
    rng, count, k = np.random.default_rng(0), 3000, 32
    for size, shared in ((5, 0.5), (40, 0.2), (40, 0.9)):
        a = rng.exponential(1, size)
        b = scale * np.where(rng.random(size) < shared, a, rng.exponential(1, size) * (rng.random(size) < 0.7))
        sketcher = WeightedMinHash(k, method, seed=3)
        values = sketcher.sketch(*pairs(a, b, count, size)).values
        shares = (values[::2] == values[1::2]).mean(axis=1)
        similarity = METHODS[method][1](a, b)
        expected, variance = sketcher.collision_probability(similarity), sketcher.variance(similarity)
        assert abs(shares.mean() - expected) < 4 * np.sqrt(variance / count)
        assert abs(shares.var() / variance - 1) < 0.1


def test_equal_weights_give_the_jaccard_similarity():
    a, b = np.array([1.0] * 60 + [0.0] * 20), np.array([0.0] * 20 + [1.0] * 60)
    for _, similarity in METHODS.values():
        assert similarity(a, b) == pytest.approx(0.5)


def test_probminhash_does_not_see_the_scale():
    tokens, weights = random_set(np.random.default_rng(0), 50)
    sets = [(tokens, weights), (tokens, weights * 2.0**40)]
    same = WeightedMinHash(64, "probminhash").sketch(*together(sets)).values
    assert np.array_equal(*same)
    other = WeightedMinHash(64, "icws").sketch(*together(sets)).values
    assert (other[0] != other[1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_order_repetition_zeros_and_threads_do_not_matter(method):
    rng = np.random.default_rng(1)
    sets = [random_set(rng, int(size)) for size in rng.integers(0, 80, 70)]
    sketcher = WeightedMinHash(16, method, seed=5)
    values = sketcher.sketch(*together(sets), threads=1).values
    assert np.array_equal(values, sketcher.sketch(*together(sets), threads=3).values)
    shuffled = [(tokens[order], weights[order]) for tokens, weights in sets for order in [rng.permutation(len(tokens))]]
    assert np.array_equal(values, sketcher.sketch(*together(shuffled)).values)
    merged = [reference.merged(*each) for each in sets]
    assert np.array_equal(values, sketcher.sketch(*together(merged)).values)
    assert not np.array_equal(values, WeightedMinHash(16, method, seed=6).sketch(*together(sets)).values)


def test_headers_keep_different_sketches_apart():
    one = [(np.arange(3, dtype=np.uint64), np.ones(3))]
    base = WeightedMinHash(8, "icws", seed=1).sketch(*together(one))
    assert base.header["scheme"] == "icws"
    base.check(WeightedMinHash(8, "icws", seed=1).sketch(*together(one)))
    for other in (WeightedMinHash(8, "icws", 2), WeightedMinHash(8, "probminhash", 1), WeightedMinHash(9, "icws", 1)):
        with pytest.raises(SketchMismatchError):
            base.check(other.sketch(*together(one)))


@pytest.mark.parametrize("method", METHODS)
def test_bad_input(method):
    sketcher = WeightedMinHash(4, method)
    for bad in (np.nan, np.inf, -np.inf, -1.0):
        with pytest.raises(InvalidArgumentError, match=r"weights: expected finite numbers >= 0, got .* at position 1"):
            sketcher.sketch([0, 2], [1, 2], [1.0, bad])
    with pytest.raises(InvalidArgumentError, match="add up to infinity"):
        sketcher.sketch([0, 2], [1, 1], [1.5e308, 1.5e308])
    for indptr in ([], [0, 1], [1, 2], [0, 3], [0, 2, 1, 2], [[0, 2]], [0.0, 2.0]):
        with pytest.raises(InvalidArgumentError, match="indptr"):
            sketcher.sketch(indptr, [1, 2], [1.0, 1.0])
    with pytest.raises(DtypeError, match="tokens"):
        sketcher.sketch([0, 2], [1.5, 2], [1.0, 1.0])
    with pytest.raises(DtypeError, match="tokens"):
        sketcher.sketch([0, 2], [-1, 2], [1.0, 1.0])
    with pytest.raises(DtypeError, match="weights"):
        sketcher.sketch([0, 2], [1, 2], ["a", "b"])
    with pytest.raises(InvalidArgumentError, match="weights: expected shape"):
        sketcher.sketch([0, 2], [1, 2], [1.0])
    assert (sketcher.sketch([0, 0], [], []).values == EMPTY).all()
    assert sketcher.sketch([0], [], []).values.shape == (0, 4)


def test_bad_settings():
    for k in (0, -1, 65_537, 2.0, True, None):
        with pytest.raises(InvalidArgumentError, match="k: "):
            WeightedMinHash(k)
    with pytest.raises(InvalidArgumentError, match="method: expected one of icws, probminhash"):
        WeightedMinHash(method="minhash")
    with pytest.raises(InvalidArgumentError, match="seed"):
        WeightedMinHash(seed=-1)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidArgumentError, match="similarity"):
            WeightedMinHash().variance(bad)
