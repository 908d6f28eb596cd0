"""Bands: parameters from a threshold, the S-curve, keys."""

import numpy as np
import pytest

from nearhash.errors import InvalidArgumentError
from nearhash.hashing import randomness
from nearhash.hashing.banding import Banding
from nearhash.hashing.minhash import MinHash
from nearhash.kernels import reference_bands


# What datasketch 2.0.0 chooses (datasketch.lsh._optimal_param), for (threshold, k, weights).
@pytest.mark.parametrize(
    ("threshold", "k", "weights", "expected"),
    [
        (0.5, 128, (0.5, 0.5), (25, 5)),
        (0.8, 128, (0.5, 0.5), (9, 13)),
        (0.9, 128, (0.5, 0.5), (5, 25)),
        (0.8, 256, (0.5, 0.5), (17, 15)),
        (0.3, 64, (0.9, 0.1), (16, 4)),
        (0.7, 200, (0.2, 0.8), (25, 8)),
    ],
)
def test_the_same_choice_as_datasketch(threshold, k, weights, expected):
    chosen = Banding.for_threshold(threshold, k, *weights)
    assert (chosen.bands, chosen.rows) == expected


@pytest.mark.parametrize("bits", [32, 2])
@pytest.mark.parametrize(("k", "threshold", "weights"), [(1, 0.5, (1, 1)), (12, 0.6, (0.3, 0.7)), (30, 0.0, (1, 0))])
def test_no_banding_is_better(k, threshold, weights, bits):
    def cost(banding):
        s = (np.arange(20_000) + 0.5) / 20_000
        curve = banding.collision_probability(s)
        return np.where(s < threshold, weights[0] * curve, weights[1] * (1 - curve)).mean()

    chosen = Banding.for_threshold(threshold, k, *weights, bits=bits)
    assert chosen.bits == bits
    assert chosen.values <= k
    costs = [cost(Banding(bands, rows, bits)) for rows in range(1, k + 1) for bands in range(1, k // rows + 1)]
    assert cost(chosen) == pytest.approx(min(costs), abs=1e-4)


@pytest.mark.parametrize("elements", [60, 600])
def test_the_s_curve_of_sketches(elements):
    """Of real sketches: within 3 sigma where slots are independent; fast similarity sketches are steeper."""
    pairs, banding = 4000, Banding(18, 7, 16)
    rng, gained = np.random.default_rng(elements), 0.0
    for similarity in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9):
        common = round(elements * similarity)
        own = (elements - common) // 2
        tokens = rng.integers(0, 2**63, (pairs, common + 2 * own), np.uint64)
        both = tokens[:, : common + own], np.concatenate([tokens[:, :common], tokens[:, common + own :]], axis=1)
        expected = float(banding.collision_probability(common / (common + 2 * own)))
        sigma = np.sqrt(expected * (1 - expected) / pairs)
        for method in ("classic", "fss"):
            minhash = MinHash(k=128, method=method, bits=16, seed=1)
            indptr = np.arange(pairs + 1) * (common + own)
            keys = [banding.keys(minhash.sketch(indptr, each.reshape(-1)).values, seed=1) for each in both]
            found = float((keys[0] == keys[1]).any(axis=1).mean())
            if method == "classic":
                assert abs(found - expected) <= 3 * sigma
            else:
                steeper = (found - expected) * (1 if expected > 0.5 else -1)
                assert -3 * sigma <= steeper <= 0.02 + 3 * sigma
                gained += steeper
    assert gained > 0.01 or elements > 128


def test_all_values_in_one_band_and_ties():
    assert Banding.for_threshold(1.0, 8) == Banding(1, 8)
    assert Banding.for_threshold(1.0, 8, 0, 1) == Banding(1, 1)  # all cost nothing: the fewest bands, then rows
    assert Banding.for_threshold(0.0, 8, 1, 0) == Banding(1, 1)


def test_areas():
    banding = Banding(2, 1)  # 1 - (1 - s)^2 = 2 s - s^2
    assert banding.false_positive_area(0.5) == pytest.approx(0.25 - 0.125 / 3)
    assert banding.false_negative_area(0.5) == pytest.approx(0.125 / 3)
    assert banding.false_positive_area(0) == banding.false_negative_area(1) == 0
    s = (np.arange(100_000) + 0.5) / 100_000
    steep = Banding(450, 20)
    assert steep.false_positive_area(1) == pytest.approx(steep.collision_probability(s).mean(), rel=1e-6)


def test_collision_probability():
    banding = Banding(20, 5)
    s = np.array([[0, 0.3], [0.7, 1]])
    np.testing.assert_allclose(banding.collision_probability(s), 1 - (1 - s**5) ** 20)
    np.testing.assert_allclose(Banding(20, 5, bits=2).collision_probability(s), 1 - (1 - (0.25 + 0.75 * s) ** 5) ** 20)
    assert Banding(1, 40).collision_probability(1e-8) == pytest.approx(1e-320, rel=1e-3)
    assert banding.midpoint == (1 / 20) ** (1 / 5)
    chance = Banding(20, 5, bits=2)
    agree = 0.25 + 0.75 * chance.midpoint
    assert agree == pytest.approx((1 / 20) ** (1 / 5))


def planted(s, pairs, k, bits, seed):
    """Two sketches for each pair, whose values agree with probability C + (1 - C) s."""
    dtype = {32: np.uint32, 8: np.uint8, 1: np.uint8}[bits]
    drawn = randomness.words32(seed, 1, 2 * pairs * k).reshape(2, pairs, k) >> np.uint32(32 - bits)
    same = randomness.uniforms(seed, 2, pairs * k).reshape(pairs, k) < s
    left, right = drawn.astype(dtype)
    return left, np.where(same, left, right)


@pytest.mark.parametrize(
    ("bands", "rows", "bits"), [(25, 5, 32), (9, 13, 32), (20, 13, 32), (14, 8, 8), (6, 18, 1), (128, 1, 32)]
)
def test_the_s_curve_within_three_sigma(bands, rows, bits):
    pairs, banding = 3000, Banding(bands, rows, bits)
    for number, s in enumerate((0.05, 0.3, 0.5, 0.65, 0.8, 0.95)):
        left, right = planted(s, pairs, bands * rows, bits, seed=1000 * rows + number)
        found = (banding.keys(left, 1) == banding.keys(right, 1)).any(axis=1).mean()
        expected = float(banding.collision_probability(s))
        assert abs(found - expected) <= 3 * np.sqrt(expected * (1 - expected) / pairs) + 1e-12, s


def test_keys():
    values = randomness.words32(5, 0, 9000 * 7).reshape(9000, 7)
    banding = Banding(2, 3)
    keys = banding.keys(values, 11, threads=1)
    assert np.array_equal(keys, banding.keys(values, 11, threads=3))
    start = int(randomness.words64(11, 0x42414E44, 1)[0])
    assert np.array_equal(keys, reference_bands.band_keys(values, 2, 3, start))
    assert not (keys == banding.keys(values, 12)).any()
    readonly = np.asfortranarray(values)
    readonly.flags.writeable = False
    assert np.array_equal(keys, banding.keys(readonly, 11))
    assert banding.keys(values[:0], 11).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Banding(0, 1), "bands"),
        (lambda: Banding(2, 1.5), "rows"),
        (lambda: Banding(True, 1), "bands"),
        (lambda: Banding(1, 1, bits=3), "bits"),
        (lambda: Banding.for_threshold(1.1, 128), "threshold"),
        (lambda: Banding.for_threshold(float("nan"), 128), "threshold"),
        (lambda: Banding.for_threshold("x", 128), "threshold"),
        (lambda: Banding.for_threshold(0.5, 0), "rows"),
        (lambda: Banding.for_threshold(0.5, 128, -1, 1), "weights"),
        (lambda: Banding.for_threshold(0.5, 128, 0, 0), "weights"),
        (lambda: Banding(2, 3).collision_probability([0.5, 1.5]), "similarity"),
        (lambda: Banding(2, 3).collision_probability(float("nan")), "similarity"),
        (lambda: Banding(2, 3).keys(np.zeros((4, 5), np.uint32), 1), "values"),
        (lambda: Banding(2, 3).keys(np.zeros((4, 6), np.int64), 1), "values"),
        (lambda: Banding(2, 3).keys(np.zeros((4, 6), np.uint32), -1), "seed"),
        (lambda: Banding(2, 3).keys(np.zeros((4, 6), np.uint32), 1, threads=0), "threads"),
    ],
)
def test_bad_arguments(call, name):
    with pytest.raises(InvalidArgumentError, match=name):
        call()
