"""What all estimators have in common: exact with all tokens, the same for the same key, clear about bad input."""

import itertools

import numpy as np
import pytest
from head_data import adversarial, realistic

from nearhash.attention.estimators import NAMES, make_estimator
from nearhash.attention.estimators.base import Choice, estimate, exact_tokens, with_always
from nearhash.attention.heads import ArrayHead
from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.kernels import reference_attention
from nearhash.kernels.attention_sampling import sampling_key

BUDGETED = [name for name in NAMES if name != "magicpig"]
TOP = ("topk_oracle", "hash_topk", "quest", "socket", "hashevict")


def dense_of(head, queries):
    tokens = np.arange(head.n)
    return reference_attention.attend(queries, head.keys(tokens), head.values(tokens))


@pytest.mark.parametrize("make", [realistic, adversarial])
@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_of_all_tokens_is_dense(name, make):
    head, queries = make()
    output, lse = dense_of(head, queries)
    for budget, always in ((head.n, []), (head.n - 13, [*range(8), *range(head.n - 5, head.n)]), (0, range(head.n))):
        got = make_estimator(name).attend(head, queries, budget, list(always), key=3)
        assert np.linalg.norm(got.output - output, axis=1) == pytest.approx(0, abs=1e-5 * np.linalg.norm(output))
        assert got.lse == pytest.approx(lse, abs=1e-5)
        assert got.reads == head.n
        assert (got.error == 0).all()
        assert got.output.dtype == got.lse.dtype == got.error.dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_what_is_always_read_is_read_and_nothing_twice(name):
    head, queries = realistic()
    always, rest = np.array([0, 1, 7, 150, 299]), np.setdiff1d(np.arange(300), [0, 1, 7, 150, 299])
    estimator = make_estimator(name)
    index = estimator.index(head, always)
    for choice in estimator.choose(head, index, queries, always, rest, 40, 9):
        assert (np.diff(choice.positions) > 0).all()
        assert np.isin(always, choice.positions).all()
        assert len(choice.log_probabilities) == len(choice.positions)
        assert (choice.log_probabilities <= 1e-4).all()
        assert (choice.log_probabilities[np.isin(choice.positions, always)] == 0).all()
        if name not in ("dense", "magicpig"):
            assert len(choice.positions) == 45


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_gives_the_same_and_draws_of_another_key_differ(name):
    head, queries = realistic()
    options = {"K": 5, "L": 20} if name == "magicpig" else {}
    first, again, other = (make_estimator(name, **options).attend(head, queries, 40, [0, 1], key) for key in (5, 5, 6))
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one, two, equal_nan=True)
    assert np.array_equal(first.output, other.output) == (name not in ("priority", "uniform", "vattention"))


@pytest.mark.parametrize("name", NAMES)
def test_small_stores(name):
    for count in (0, 1, 2, 5):
        head, queries = realistic(count)
        output, lse = dense_of(head, queries)
        got = make_estimator(name).attend(head, queries, 0, exact_tokens(count, 4, 64))
        assert got.output == pytest.approx(output, abs=1e-5)
        assert np.array_equal(np.isneginf(got.lse), np.isneginf(lse))
        assert got.reads == count
        nothing = make_estimator(name).attend(head, queries, 0)
        if name not in ("dense", "magicpig"):
            assert nothing.reads == 0
            assert (nothing.output == 0).all()
            assert np.isneginf(nothing.lse).all()
            assert (nothing.error == 0).all() if count == 0 else np.isnan(nothing.error).all()


@pytest.mark.parametrize("name", TOP)
def test_top_k_tells_no_error_and_too_little_mass(name):
    head, queries = realistic()
    got = make_estimator(name).attend(head, queries, 40)
    assert np.isnan(got.error).all()
    assert (got.lse < dense_of(head, queries)[1]).all()
    assert got.reads == 40


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_came_after_the_index_are_read(name):
    head, queries = realistic(320)
    estimator = make_estimator(name)
    tokens = np.arange(300)
    index = estimator.index(ArrayHead(head.keys(tokens), head.values(tokens)), np.arange(4))
    if index is None:
        return
    got = estimator.attend(head, queries, 320, np.arange(4), index=index)
    if name != "magicpig":
        assert got.output == pytest.approx(dense_of(head, queries)[0], abs=1e-5)
    assert got.reads >= 24
    if name != "hashevict":  # there they have come with the call
        with pytest.raises(InvalidArgumentError, match="index: expected one of at most 299 tokens, got one of 300"):
            estimator.attend(ArrayHead(head.keys(tokens[1:]), head.values(tokens[1:])), queries, 9, index=index)


def test_exact_tokens():
    assert exact_tokens(10, 2, 3).tolist() == [0, 1, 7, 8, 9]
    assert exact_tokens(10, 4, 8).tolist() == list(range(10))
    assert exact_tokens(3, 16, 128).tolist() == [0, 1, 2]
    assert exact_tokens(0).tolist() == exact_tokens(5, 0, 0).tolist() == []
    with pytest.raises(InvalidArgumentError, match="sink: expected an integer of at least 0, got -1"):
        exact_tokens(3, -1)


def test_estimate_is_the_reference():
    head, queries = realistic()
    rng = np.random.default_rng(2)
    positions = np.sort(rng.choice(300, 70, replace=False))
    chances = np.minimum(1, rng.uniform(0.01, 1.4, 70))
    output, lse, variance = reference_attention.attend_sample(
        queries, head.keys(positions), head.values(positions), chances
    )
    error = np.sqrt(variance) / np.linalg.norm(output, axis=1)
    one = estimate(head, queries, [Choice(positions, np.log(chances))], samples=True)
    each = estimate(head, queries, [Choice(positions, np.log(chances))] * 3, samples=True)
    for got in (one, each):
        assert got.output == pytest.approx(output, rel=1e-5, abs=1e-6)
        assert got.lse == pytest.approx(lse, rel=1e-5)
        assert got.error == pytest.approx(error, rel=1e-4)
        assert got.reads == 70


def test_reads_count_the_union_of_the_queries():
    head, queries = realistic()
    choices = [with_always(np.array([0]), np.array(own)) for own in ([5, 6], [6, 7], [9])]
    assert estimate(head, queries, choices, samples=False).reads == 5


def test_a_larger_sample_of_the_same_key_contains_the_smaller():
    head, queries = realistic()
    always, rest = np.arange(4), np.arange(4, 300)
    key = int(sampling_key(1, 2, 3, 4))
    for name in ("priority", "uniform"):
        samples = [
            make_estimator(name).choose(head, None, queries, always, rest, budget, key)[0].positions
            for budget in (0, 10, 20, 100, 296, 1000)
        ]
        for small, large in itertools.pairwise(samples):
            assert np.isin(small, large).all()


def test_extreme_logits_and_values():
    keys = np.array([[300.0] * 8, [-300.0] * 8, [0.0] * 8] * 20, np.float32)
    values = np.arange(480, dtype=np.float32).reshape(60, 8) - 240
    head, queries = ArrayHead(keys, values), np.full((2, 8), 5, np.float32)
    lse = dense_of(head, queries)[1]
    for name in NAMES:
        got = make_estimator(name).attend(head, queries, 30)
        assert np.isfinite(got.output).all()
    got = make_estimator("priority").attend(head, queries, 25, key=1)
    assert got.lse == pytest.approx(lse, rel=1e-3)


def test_bad_input():
    head, queries = realistic()
    attend = make_estimator("uniform").attend
    cases = [
        (DimensionError, r"queries: expected shape \(g, 16\) with g >= 1, got \(3, 15\)", (head, queries[:, 1:], 4)),
        (DimensionError, r"got \(16,\)", (head, queries[0], 4)),
        (DimensionError, r"got \(0, 16\)", (head, queries[:0], 4)),
        (DtypeError, "queries: expected a float or integer dtype, got complex", (head, queries + 1j, 4)),
        (InvalidArgumentError, r"queries: expected finite .*, got nan at \[0, 0\]", (head, queries * np.nan, 4)),
        (InvalidArgumentError, "budget: expected an integer of at least 0, got -1", (head, queries, -1)),
        (InvalidArgumentError, "budget: expected an integer of at least 0, got 0.5", (head, queries, 0.5)),
        (InvalidArgumentError, "always: expected positions 0 to 299, got 3 to 300", (head, queries, 4, [300, 3])),
        (InvalidArgumentError, "always: expected each position once, got 1 again", (head, queries, 4, [3, 3])),
        (InvalidArgumentError, r"always: expected integers of shape \(m,\), got float64", (head, queries, 4, [0.5])),
        (InvalidArgumentError, "key: expected an integer of at least 0", (head, queries, 4, [], -1)),
    ]  # fmt: skip
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            attend(*arguments)


def test_bad_heads():
    good = np.ones((3, 8))
    with pytest.raises(DimensionError, match=r"keys: expected shape \(n, d\), got \(3,\)"):
        ArrayHead(good[:, 0], good)
    with pytest.raises(DimensionError, match=r"values: expected the shape of keys, \(3, 8\), got \(2, 8\)"):
        ArrayHead(good, good[:2])
    with pytest.raises(DimensionError, match="keys: expected a multiple of 8 dimensions for LVQ-4 codes, got 7"):
        ArrayHead(good[:, 1:], good[:, 1:])
    with pytest.raises(InvalidArgumentError, match=r"values: expected finite numbers of float32, got inf at \[1, 2\]"):
        ArrayHead(good, np.where(np.arange(24).reshape(3, 8) == 10, np.inf, good))
    head = ArrayHead(good, good, lambda queries: np.zeros((1, 2)))
    with pytest.raises(DimensionError, match=r"proxy: expected logits of shape \(1, 3\), got \(1, 2\)"):
        make_estimator("priority").attend(head, np.ones((1, 8)), 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("best", {}, "estimator: expected one of priority, dense, .*, got 'best'"),
        ("dense", {"eps": 0.1}, "eps: the estimator 'dense' has options none"),
        ("priority", {"K": 3}, "K: the estimator 'priority' has options one of temperature, floor, eps, delta"),
        ("priority", {"floor": 0}, "floor: expected a number above 0 and up to 1e[+]06, got 0"),
        ("priority", {"temperature": "1"}, "temperature: expected a number, got '1'"),
        ("priority", {"eps": 0.0}, "eps: expected a number above 0"),
        ("vattention", {"delta": 0.5}, "delta: expected a number above 0 and up to 0.2, got 0.5"),
        ("vattention", {"heavy": 1.5}, "heavy: expected a number from 0 to 1, got 1.5"),
        ("magicpig", {"K": 17}, "K: expected an integer of at least 1 and at most 16, got 17"),
        ("magicpig", {"L": 1}, "L: expected an integer of at least 2 and at most 4,096, got 1"),
        ("magicpig", {"seed": -1}, "seed: expected a whole number"),
        ("socket", {"tau": 0}, "tau: expected a number above 0"),
        ("hash_topk", {"bits": 12}, "bits: expected a multiple of 8, got 12"),
        ("hashevict", {"bits": 4}, "bits: expected an integer of at least 8"),
        ("quest", {"page": 0}, "page: expected an integer of at least 1, got 0"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make_estimator(name, **options)
