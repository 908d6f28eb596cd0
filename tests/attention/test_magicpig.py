"""MagicPIG against its formula and against a search without tables."""

import numpy as np
import pytest
from head_data import realistic

from nearhash.attention.estimators import make_estimator
from nearhash.attention.estimators.magicpig import cosines, inclusion
from nearhash.attention.heads import ArrayHead

COSINES = np.array([0.98, 0.9, 0.8, 0.65, 0.5, 0.3, 0.1, -0.3])
SEEDS = 1500


def at_cosines():
    """Keys whose mean is 0, at COSINES from a query and, the second half, opposite to these."""
    rng = np.random.default_rng(5)
    query = np.zeros(16, np.float32)
    query[0] = 2
    across = rng.standard_normal((len(COSINES), 16))
    across[:, 0] = 0
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    keys = (COSINES[:, None] * query / 2 + np.sqrt(1 - COSINES[:, None] ** 2) * across) * rng.uniform(0.5, 3, (8, 1))
    return np.concatenate([keys, -keys]).astype(np.float32), query[None]


@pytest.fixture(scope="module")
def draws():
    """Which keys each seed includes (SEEDS, 16), and the probabilities that it states."""
    keys, queries = at_cosines()
    head, tokens = ArrayHead(keys, np.ones((16, 16))), np.arange(16)
    included, stated = np.zeros((SEEDS, 16), bool), np.full((SEEDS, 16), np.nan)
    for seed in range(SEEDS):
        estimator = make_estimator("magicpig", K=4, L=12, seed=seed)
        index = estimator.index(head, tokens[:0])
        [choice] = estimator.choose(head, index, queries, tokens[:0], tokens, 0, 0)
        included[seed, choice.positions] = True
        stated[seed, choice.positions] = np.exp(choice.log_probabilities)
    return included, stated


def test_inclusion_rates_are_those_of_the_formula(draws):
    included, stated = draws
    chance = inclusion(np.concatenate([COSINES, -COSINES]), 4, 12)
    assert (np.abs(included.mean(axis=0) - chance) <= 3 * np.sqrt(chance * (1 - chance) / SEEDS) + 1e-12).all()
    differences = np.where(included, stated - chance - 1e-4, 0)
    assert np.abs(differences).max() < 1e-4  # the cosine is computed in float32


def test_sums_are_unbiased_but_for_the_offset(draws):
    included, stated = draws
    chance = inclusion(np.concatenate([COSINES, -COSINES]), 4, 12)
    masses = np.exp(np.concatenate([COSINES, -COSINES]))
    sums = np.where(included, masses / stated, 0).sum(axis=1)
    truth = (masses * chance / (chance + 1e-4)).sum()
    assert abs(sums.mean() - truth) < 4 * sums.std() / np.sqrt(SEEDS)


def test_inclusion_is_the_chance_of_two_tables():
    P = (1 - np.arccos(0.4) / np.pi) ** 3
    none, one = (1 - P) ** 9, 9 * P * (1 - P) ** 8
    assert inclusion(np.array([0.4]), 3, 9) == pytest.approx(1 - none - one)
    assert inclusion(np.array([1.0, 1.0000001, -1.0]), 10, 150).tolist() == [1, 1, 0]


def test_the_tables_find_what_codes_in_common_say():
    head, queries = realistic(700)
    always, rest = np.array([0, 1, 2, 699]), np.arange(3, 699)
    estimator = make_estimator("magicpig", K=6, L=25, seed=3)
    index = estimator.index(head, always)
    keys = head.keys(rest)
    mean = keys.mean(axis=0, dtype=np.float64).astype(np.float32)
    assert index.mean == pytest.approx(mean)
    codes = index.hashing.codes(keys - mean)
    choices = estimator.choose(head, index, queries, always, rest, 0, 0)
    for query, choice in zip(queries, choices, strict=True):
        found = rest[(codes == index.hashing.codes(query[None])).sum(axis=1) >= 2]
        assert 0 < len(found) < 600
        assert choice.positions.tolist() == sorted([*always, *found])
        chances = inclusion(cosines(query, head.keys(found) - mean), 6, 25)
        logs = choice.log_probabilities[np.isin(choice.positions, found)]
        assert logs == pytest.approx(np.log(chances + 1e-4))
    got = estimator.attend(head, queries, 0, always, index=index)
    assert got.reads == len(np.unique(np.concatenate([choice.positions for choice in choices])))
    later = estimator.attend(head, queries, 0, [*always, *range(100, 200)], index=index)
    expected = [*always, *range(100, 200), *np.concatenate([choice.positions for choice in choices])]
    assert later.reads == len(np.unique(expected))
    assert (np.diff(np.sort(expected)) == 0).any()  # some of those that are always read are in the tables, too
    [one] = estimator.choose(head, index, queries[:1], np.arange(100, 200), np.arange(200, 699), 0, 0)
    assert (np.diff(one.positions) > 0).all()
    assert index.nbytes == 2 * 25 * 696 + 4 * 25 * 65 + 64  # table entries, starts, mean


def test_bits_of_codes_are_signs_of_projections():
    head, _ = realistic(50)
    hashing = make_estimator("magicpig", K=5, L=3).index(head, np.arange(0)).hashing
    keys = head.keys(np.arange(50))
    bits = hashing.projections(keys) >= 0
    assert np.array_equal(hashing.codes(keys), (bits * 2 ** np.arange(5)).sum(axis=2))


def test_cosines_of_nothing_are_zero():
    assert cosines(np.ones(4, np.float32), np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.float32)).tolist() == [0, 1]
    assert cosines(np.zeros(4, np.float32), np.ones((1, 4), np.float32)).tolist() == [0]
