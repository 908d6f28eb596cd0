"""MinHash: kernels against their NumPy specification, estimates against their formulas, datasketch's values."""

import itertools

import numpy as np
import pytest

from nearhash.errors import InvalidArgumentError, SketchMismatchError
from nearhash.hashing import MinHash, Sketches
from nearhash.kernels import reference_sketches as reference
from nearhash.kernels import set_sketches as kernels

METHODS = ("fss", "oph-optimal", "oph-reverse", "oph-rotation", "classic", "affine32")
SALT = np.uint64(12345678901234567)


def some_sets(seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 40, 30)
    sizes[:4] = [0, 1, 2, 600]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    tokens = rng.integers(0, 2**64, bounds[-1], dtype=np.uint64)
    tokens[::7] = tokens[0]
    return bounds, tokens


@pytest.mark.parametrize("k", [1, 2, 7, 64, 130])
def test_kernels(k):
    bounds, tokens = some_sets()
    for name in ("classic", "one_permutation", "fast_similarity"):
        out = np.full((30, k), 7, np.uint64)
        getattr(kernels, name)(bounds, tokens, SALT, out)
        np.testing.assert_array_equal(out, getattr(reference, name)(bounds, tokens, k, SALT))
        for way in ("densify_optimal", "densify_reverse", "densify_rotation"):
            filled = out.copy()
            getattr(kernels, way)(filled, SALT)
            np.testing.assert_array_equal(filled, getattr(reference, way)(out, SALT))
        for bits, dtype in ((32, np.uint32), (16, np.uint16), (8, np.uint8), (3, np.uint8)):
            values = np.full((30, k), 7, dtype)
            kernels.fingerprints(out, bits, values)
            np.testing.assert_array_equal(values, reference.fingerprints(out, bits))
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 2**32, k, dtype=np.uint32) for _ in range(2))
    small, out = tokens & np.uint64(0xFFFFFFFF), np.full((30, k), 7, np.uint64)
    kernels.affine32(bounds, small, a | np.uint32(1), b, out)
    np.testing.assert_array_equal(out, reference.affine32(bounds, small, a | np.uint32(1), b))
    for bits in (1, 2, 4):
        values = rng.integers(0, 1 << bits, (5, k), dtype=np.uint8)
        packed = np.full((5, -(-k * bits // 8)), 7, np.uint8)
        kernels.pack(values, bits, packed)
        np.testing.assert_array_equal(packed, reference.pack(values, bits))
        assert (Sketches(packed, {"k": k, "bits": bits}).unpacked() == values).all()


@pytest.mark.parametrize("bits", [32, 2])
@pytest.mark.parametrize("method", METHODS)
def test_bias_and_variance(method, bits):
    """Bias within 4 standard errors and variance within 10% of the formula, over seeds and sets."""
    k, seeds, rng = 64, 100, np.random.default_rng(5)
    for union, common in ((2, 0), (2, 1), (20, 10), (100, 10), (100, 50), (100, 90), (400, 200), (10_000, 5_000)):
        trials, half = 60 if union <= 400 else 20, (union - common) // 2
        estimates = []
        for seed in range(seeds):
            high = 2**32 if method == "affine32" else 2**64
            x = rng.integers(0, high, (trials, union), dtype=np.uint64)
            left, right = x[:, : common + half], np.delete(x, range(common, common + half), axis=1)
            minhash = MinHash(k, method, bits, seed)
            one, other = (
                minhash.sketch(np.arange(trials + 1) * part.shape[1], part.ravel(), threads=1) for part in (left, right)
            )
            estimates.append(one.jaccard(other))
        found, similarity = np.concatenate(estimates), common / union
        expected = minhash.variance(similarity, union)
        if expected == 0:  # disjoint sets, and all bits of each value
            assert (found == 0).all()
            continue
        assert abs(found.mean() - similarity) < 4 * found.std() / np.sqrt(len(found))
        assert abs(found.var() / expected - 1) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_set_and_another(method):
    """They agree by chance alone; two empty ones are equal."""
    minhash = MinHash(64, method, bits=2)
    indptr = np.concatenate([[0, 0], np.arange(1, 61)])
    sketches = minhash.sketch(indptr, np.arange(60))
    empty = minhash.sketch(np.zeros(62, np.int64), [])
    assert (sketches.jaccard(empty)[1:] < 0.4).all()
    assert sketches.jaccard(empty)[0] == 1


def test_fast_similarity_beats_independent_slots():
    assert MinHash(64, "fss").variance(0.5, 100) <= 0.65 * 0.25 / 64
    assert MinHash(64, "classic").variance(0.5, 100) == pytest.approx(0.25 / 64)


def test_datasketch_values():
    sketch = MinHash(4, "affine32", seed=1).sketch_sets([[b"Hello"]])
    assert sketch[0].tolist() == [3231258861, 1388533999, 831950533, 1845606703]


@pytest.mark.parametrize("method", METHODS)
def test_order_repetition_threads_and_merging(method):
    bounds, tokens = some_sets()
    tokens = tokens & np.uint64(0xFFFFFFFF)
    minhash = MinHash(100, method, bits=8)
    whole = minhash.sketch(bounds, tokens, threads=1)
    turned = np.concatenate([np.tile(tokens[a:b][::-1], 2) for a, b in itertools.pairwise(bounds)])
    assert (minhash.sketch(bounds * 2, turned, threads=3).values == whole.values).all()
    middle = (bounds[:-1] + bounds[1:]) // 2
    parts = []
    for first, last in ((bounds[:-1], middle), (middle, bounds[1:])):
        rows = [tokens[a:b] for a, b in zip(first, last, strict=True)]
        parts.append(minhash.minima(np.concatenate([[0], np.cumsum([len(r) for r in rows])]), np.concatenate(rows)))
    assert (parts[0].merge(parts[1]).sketch().values == whole.values).all()
    assert (whole[0] == 255).all()  # the empty set


def test_sketches_that_do_not_belong_together():
    bounds, tokens = some_sets()
    one = MinHash(16).sketch(bounds, tokens)
    for other in (MinHash(16, seed=2), MinHash(16, "classic"), MinHash(8), MinHash(16, bits=8)):
        with pytest.raises(SketchMismatchError):
            one.jaccard(other.sketch(bounds, tokens))
    with pytest.raises(SketchMismatchError):
        MinHash(16).minima(bounds, tokens).merge(MinHash(16, seed=2).minima(bounds, tokens))
    texts = ["a b c d e f", "g h"]
    with pytest.raises(SketchMismatchError, match="shingles"):
        MinHash(16).sketch_texts(texts, ngram=2).jaccard(MinHash(16).sketch_texts(texts, ngram=3))


def test_containment():
    minhash, numbers = MinHash(4096), [str(i) for i in range(400)]
    small, large = (minhash.sketch_sets([part]) for part in (numbers[:100], numbers[50:]))
    assert small.containment(large, 100, 350)[0] == pytest.approx(0.5, abs=0.06)
    assert np.isnan(small.containment(large, 0, 350)[0])


@pytest.mark.parametrize(
    "arguments", [{"k": 0}, {"k": 1.5}, {"method": "x"}, {"bits": 7}, {"bits": True}, {"seed": -1}, {"k": 1 << 17}]
)
def test_bad_arguments(arguments):
    with pytest.raises(InvalidArgumentError):
        MinHash(**arguments)


def test_bad_sets():
    minhash = MinHash(8)
    for bounds, tokens in (([0, 3], [1, 2]), ([1, 2], [1, 2]), ([0, 2, 1], [1]), ([0, 1], [-1]), ([0, 1], [0.5])):
        with pytest.raises(InvalidArgumentError):
            minhash.sketch(bounds, tokens)
    with pytest.raises(InvalidArgumentError, match="32 bits"):
        MinHash(8, "affine32").sketch([0, 1], [1 << 32])
    for sets in (["abc"], [[None]], [[-1]], [5]):
        with pytest.raises(InvalidArgumentError):
            minhash.sketch_sets(sets)
    with pytest.raises(InvalidArgumentError):
        minhash.variance(1.5, 10)
