"""Estimators that sample: unbiased sums, errors as the sample tells them, and errors that are kept to as promised."""

import numpy as np
import pytest
from head_data import adversarial, clustered, realistic

from nearhash.attention.estimators import NAMES, make_estimator
from nearhash.attention.estimators.base import exact_tokens, normal_quantile
from nearhash.attention.heads import ArrayHead
from nearhash.kernels.attention_sampling import sampling_key

DRAWS = 1000
SAMPLING = [
    ("priority", {}),
    ("priority", {"temperature": 2.0, "floor": 1.0}),
    ("uniform", {}),
    ("vattention", {}),
    ("vattention", {"heavy": 0.0, "oracle": True}),
]


def masses(head, queries):
    """Shares (g, n) of the tokens in the softmax."""
    tokens = np.arange(head.n)
    logits = queries.astype(np.float64) @ head.keys(tokens).T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def scores(estimates, truth):
    """How many standard errors the mean over draws (first axis) is off."""
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    return (estimates.mean(axis=0) - truth) / error


@pytest.mark.parametrize("make", [realistic, adversarial])
@pytest.mark.parametrize(("name", "options"), SAMPLING)
def test_numerator_and_denominator_are_unbiased(name, options, make):
    head, queries = make()
    estimator = make_estimator(name, **options)
    assert estimator.unbiased
    always = np.array([0, 1, head.n - 1])
    rest = np.arange(2, head.n - 1)
    shares, values = masses(head, queries), head.values(np.arange(head.n)).astype(np.float64)
    denominators, numerators = [], []
    for step in range(DRAWS):
        key = int(sampling_key(7, step, 0, 0))
        [choice] = estimator.choose(head, None, queries, always, rest, 30, key)
        weights = shares[:, choice.positions] * np.exp(-choice.log_probabilities)
        denominators.append(weights.sum(axis=1))
        numerators.append(weights @ values[choice.positions])
    assert np.abs(scores(np.array(denominators), 1.0)).max() < 4
    assert np.abs(scores(np.array(numerators), shares @ values)).max() < 4


def test_which_estimators_claim_to_be_unbiased():
    assert {name for name in NAMES if make_estimator(name).unbiased} == {"dense", *(name for name, _ in SAMPLING)}


@pytest.mark.parametrize(("name", "options"), SAMPLING)
def test_the_error_of_a_sample_is_what_it_tells(name, options):
    head, queries = realistic(800, 32)
    if name != "priority":  # a uniform sample does not see the heavy tokens that it misses: even attention
        queries = queries / 10
    exact = make_estimator("dense").attend(head, queries, 0).output
    true, told = [], []
    for step in range(150):
        got = make_estimator(name, **options).attend(
            head, queries, 150, exact_tokens(800, 4, 32), int(sampling_key(8, step, 0, 0))
        )
        true.append(((got.output - exact) ** 2).sum(axis=1))
        told.append(got.error**2 * (got.output**2).sum(axis=1))
    assert np.mean(told, axis=0) == pytest.approx(np.mean(true, axis=0), rel=0.35)


def line_values(seed):
    """All errors in one direction: where the certificate has least to spare."""
    keys, values, queries = clustered(1200, 16, 1, seed)
    values[:, 1:] = 0
    return keys, values + 1, queries


def thick_tails(seed):
    rng = np.random.default_rng(seed)
    keys, values = rng.standard_t(3, (1200, 16)), rng.standard_t(2.5, (1200, 16)).clip(-50, 50)
    return keys, values, (rng.standard_normal((1, 16)) / 3).astype(np.float32)


def noisy_logits(keys, noise, seed):
    wrong = np.random.default_rng(seed).standard_normal((2, len(keys))) * noise
    return lambda queries: queries @ keys.T + wrong[: len(queries)]


@pytest.mark.parametrize("noise", [None, 1.5])
@pytest.mark.parametrize("make", [lambda seed: clustered(1200, 16, 2, seed), line_values, thick_tails])
def test_a_certificate_is_kept(make, noise):
    missed = total = saved = 0
    for seed in range(20):
        keys, values, queries = make(seed)
        head = ArrayHead(keys, values, noise and noisy_logits(keys, noise, seed))
        exact = make_estimator("dense").attend(head, queries, 0).output
        always = exact_tokens(1200, 4, 32)
        for step in range(20):
            key = int(sampling_key(9, step, 0, seed))
            got = make_estimator("priority", eps=0.1, delta=0.1).attend(head, queries, 40, always, key)
            error = np.linalg.norm(got.output - exact, axis=1) / np.linalg.norm(exact, axis=1)
            missed, total = missed + (error > 0.1).sum(), total + len(error)
            saved += got.reads < 1200
            assert (got.error * normal_quantile(0.1) <= 0.1).all()
    assert missed / total <= 0.12
    assert saved > 100  # it does not read everything


def test_a_certificate_that_holds_at_once_reads_no_more():
    head, queries = realistic()
    key = int(sampling_key(1, 1, 0, 0))
    plain = make_estimator("priority").attend(head, queries, 60, [0, 1], key)
    sure = make_estimator("priority", eps=1e6).attend(head, queries, 60, [0, 1], key)
    for one, two in zip(plain, sure, strict=True):
        assert np.array_equal(one, two)
    assert make_estimator("priority", eps=1e6).attend(head, queries, 0, [0, 1], key).reads == 34  # 32 at least
    assert make_estimator("priority", eps=1e-9).attend(head, queries, 0, [0, 1], key).reads == 300


def test_normal_quantile():
    assert normal_quantile(0.1) == pytest.approx(1.6449, abs=1e-4)
    assert normal_quantile(0.05) == pytest.approx(1.96, abs=1e-3)


def test_vattention_enlarges_its_sample_to_what_the_denominator_asks_for():
    keys, values, queries = clustered(2000, 16, 1, 4)
    head, missed, reads = ArrayHead(keys, values), 0, []
    exact = make_estimator("dense").attend(head, queries, 0).lse
    for step in range(200):
        key = int(sampling_key(3, step, 0, 0))
        got = make_estimator("vattention", eps=0.1).attend(head, queries, 160, exact_tokens(2000, 16, 128), key)
        missed += abs(np.exp(got.lse[0] - exact[0]) - 1) > 0.1
        reads.append(got.reads)
    assert missed / 200 <= 0.12
    assert 304 <= min(reads) < max(reads) < 2000
    # Shares of the tail, as the sample would have them at its size: b = (z sigma m / (eps D))^2.
    shares = masses(head, queries)[0]
    rest = np.setdiff1d(np.arange(2000), exact_tokens(2000, 16, 128))
    top = rest[np.argsort(-head.logits(queries)[0, rest])[:80]]
    tail = shares[np.setdiff1d(rest, top)]
    assert np.median(reads) == pytest.approx(144 + 80 + (1.6449 * tail.std() * len(tail) / 0.1) ** 2, rel=0.3)
