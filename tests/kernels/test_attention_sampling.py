"""Priority sampling against its reference and its promises, on every instruction set (see test_levels)."""

from itertools import pairwise

import numpy as np
import pytest

from nearhash.kernels import attention_sampling, reference_attention
from nearhash.kernels.attention_rows import PAGE
from nearhash.kernels.attention_sampling import CHUNK
from nearhash.kernels.philox import philox_words


def norm_pages(norms):
    """Pages that hold nothing but norms, 6 bytes behind their start; NaN where there is no token."""
    pages = np.full((-(-len(norms) // PAGE), PAGE + 3), 0xFFFF, np.uint16)
    bits = reference_attention.bfloat16(norms.astype(np.float32)).view(np.uint32) >> 16
    for number, page in enumerate(pages):
        part = bits[number * PAGE : (number + 1) * PAGE]
        page[3 : 3 + len(part)] = part
    return pages, pages.ctypes.data + np.arange(len(pages), dtype=np.int64) * pages.strides[0]


def weigh(logits, norms, first, last, temperature):
    room = -(-logits.shape[1] // 16) * 16
    work, weights = np.full((len(logits), room), np.nan, np.float32), np.full(room, np.nan, np.float32)
    work[:, : logits.shape[1]] = logits
    pages, addresses = norm_pages(norms)
    state = attention_sampling.open_chunks(len(logits), first, last)
    start, stop = attention_sampling.around(first, last)
    cuts = range(start - start % (2 * CHUNK) + 2 * CHUNK, stop, 2 * CHUNK)
    for here, until in pairwise([start, *cuts, stop]):
        attention_sampling.exponentiate(work, first, last, here, until, temperature, *state)
    total = attention_sampling.mix(work, addresses, 6, first, last, temperature, *state, weights)
    del pages
    return weights, total


def draw(weights, total, first, last, floor, key, budget):
    """Final weights, positions and probabilities."""
    weights, times = weights.copy(), np.full(len(weights), np.nan, np.float32)
    attention_sampling.draw_times(weights, total, first, last, floor, np.uint64(key), times)
    return weights, *select(times, weights, first, last, budget)


def select(times, weights, first, last, budget):
    room = min(budget, int(np.isfinite(times[first:last]).sum()) if budget < last - first else last - first)
    positions, probabilities = np.full(room + 1, -7, np.int32), np.full(room + 1, np.nan, np.float32)
    taken = attention_sampling.select(times, weights, first, last, budget, positions, probabilities)
    assert taken == room
    assert positions[room] == -7
    assert np.isnan(probabilities[room])
    return positions[:room], probabilities[:room]


@pytest.mark.parametrize("group", [1, 3, 4, 16])
def test_weights(group):
    rng = np.random.default_rng(group)
    for first, last, count in (
        (0, 1, 1),
        (0, 16, 16),
        (3, 700, 801),
        (250, 260, 300),
        (16, 17, 40),
        (16, 5000, 5128),
        (4100, 9000, 9000),
    ):
        logits = (rng.standard_normal((group, count)) * 4).astype(np.float32)
        norms = rng.uniform(0.5, 2, count)
        norms[:first] = np.nan
        weights, total = weigh(logits, norms, first, last, 1.5)
        norms = reference_attention.bfloat16(norms.astype(np.float32))
        expected = reference_attention.weights(logits[:, first:last], norms[first:last], 1.5, 0)
        np.testing.assert_allclose(weights[first:last] / total, expected, rtol=4e-5, atol=1e-12)
        assert np.nansum(weights) == pytest.approx(total, rel=1e-5)  # NaN: not written


def test_weights_of_extreme_logits_are_numbers():
    for special in (np.inf, 3e38, -3e38, -np.inf, np.nan):
        logits = np.zeros((2, 64), np.float32)
        logits[0, 5] = special
        weights, total = weigh(logits, np.ones(64), 0, 64, 1.0)
        final, positions, probabilities = draw(weights, total, 0, 64, 0.1, 5, 10)
        assert np.isfinite(final).all()
        assert (final > 0).all()
        assert len(positions) == 10
        assert (probabilities > 0).all()
    logits[:] = -np.inf
    weights, total = weigh(logits, np.ones(64), 0, 64, 1.0)
    final, _, probabilities = draw(weights, total, 0, 64, 0.1, 5, 63)
    assert (final == np.float32(1 / 64)).all()
    final, _, _ = draw(*weigh(np.zeros((1, 64), np.float32), np.zeros(64), 0, 64, 1.0), 0, 64, 0.1, 5, 63)
    assert (final == np.float32(1 / 64)).all()


def test_sample_is_that_of_the_reference():
    rng = np.random.default_rng(3)
    for first, last in ((0, 1), (0, 16), (5, 6), (7, 300), (16, 5000), (16, 5001)):
        weights = rng.exponential(size=last + -last % 16).astype(np.float32) ** 4
        total = weights[first:last].sum(dtype=np.float64)
        for budget in {1, 2, (last - first) // 2, last - first - 1, last - first, 2 * last} - {0, -1}:
            key = int(rng.integers(1 << 63)) * 2 + 1
            final, positions, probabilities = draw(weights, total, first, last, 0.1, key, budget)
            own = final[first:last]
            expected = weights[first:last] / np.float64(total) + 0.1 / (last - first)
            np.testing.assert_allclose(own, expected, rtol=1e-5)
            uniforms = reference_attention.uniforms(np.arange(first, last), key)
            wanted, chances = reference_attention.priority_sample(own, uniforms, budget)
            np.testing.assert_array_equal(positions, wanted + first)
            np.testing.assert_array_equal(probabilities, chances)


def test_tokens_without_a_finite_time_are_never_taken():
    times = np.full(112, np.inf, np.float32)
    times[[3, 50, 99]] = 7, 3e38, 0
    times[60:80] = np.nan
    for budget, expected in ((1, [99]), (2, [3, 99]), (3, [3, 50, 99]), (4, [3, 50, 99]), (90, [3, 50, 99])):
        found, probabilities = select(times, np.full(112, 0.01, np.float32), 0, 100, budget)
        assert found.tolist() == expected
        assert (probabilities[1:] == 1).all()


@pytest.mark.parametrize("count", [17, 1000, 3000])
def test_ties_go_to_the_lower_position(count):
    rng = np.random.default_rng(4)
    for values in ([1.0], [0.25, 3e38], [1e-38, 1.0, 1e10]):
        times = np.full(count + -count % 16, np.inf, np.float32)
        times[:count] = rng.choice(np.array(values, np.float32), count)
        for budget in (1, 5, count // 2, count - 1):
            found, _ = select(times, np.ones_like(times), 0, count, budget)
            assert found.tolist() == sorted(np.argsort(times[:count], kind="stable")[:budget].tolist())


def test_probabilities_of_inclusion_are_right():
    """Of every token 1 / p where it is taken, and 0 where not, is 1 on the average, within what chance allows."""
    rng = np.random.default_rng(5)
    count, budget, runs = 64, 12, 4000
    weights = rng.exponential(size=count).astype(np.float32) ** 3
    total = weights.sum(dtype=np.float64)
    inverse, squares = np.zeros(count), np.zeros(count)
    for run in range(runs):
        key = attention_sampling.sampling_key(1, run, 2, 3)
        _, positions, probabilities = draw(weights, total, 0, count, 0.2, key, budget)
        inverse[positions] += 1 / probabilities
        squares[positions] += 1 / probabilities.astype(np.float64) ** 2
    mean = inverse / runs
    error = np.sqrt((squares / runs - mean**2) / runs)
    z = (mean - 1) / np.maximum(error, 1e-6)
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() < 1.6
    heaviest = weights.argmax()
    assert squares[heaviest] < 1.01 * runs  # all but certain


def test_sums_over_the_sample_are_unbiased():
    rng = np.random.default_rng(6)
    count, budget = 500, 40
    logits = (rng.standard_normal((2, count)) * 2).astype(np.float32)
    true = np.exp(logits + rng.standard_normal((2, count)))
    values = rng.standard_normal(count)
    weights, total = weigh(logits, np.ones(count), 0, count, 1.0)
    estimates = []
    for step in range(1500):
        _, positions, p = draw(weights, total, 0, count, 0.1, attention_sampling.sampling_key(7, step, 0, 0), budget)
        mass = true[:, positions] / p
        estimates.append([*mass.sum(axis=1), *(mass * values[positions]).sum(axis=1)])
    exact = np.array([*true.sum(axis=1), *(true * values).sum(axis=1)])
    z = (np.mean(estimates, axis=0) - exact) / (np.std(estimates, axis=0) / np.sqrt(len(estimates)))
    assert np.abs(z).max() < 4


def uniforms_of(count, key):
    """The kernel's own uniforms: times of equal weights."""
    times = np.empty(count, np.float32)
    attention_sampling.draw_times(np.zeros(count, np.float32), 0.0, 0, count, 0.0, np.uint64(key), times)
    return times / np.float32(count)


def test_uniforms_are_uniform_and_independent():
    count = 1 << 16
    keys = [int(attention_sampling.sampling_key(0, step, 0, 0)) for step in range(8)] + [0, 1, 1 << 32, (1 << 64) - 1]
    draws = np.array([uniforms_of(count, key) for key in keys], np.float64)
    assert draws.min() > 0
    assert draws.max() <= 1
    for line, key in zip(draws, keys, strict=True):
        np.testing.assert_allclose(line, reference_attention.uniforms(np.arange(count), key), rtol=1e-6)
        ordered = np.sort(line)
        distance = np.abs(ordered - (np.arange(count) + 0.5) / count).max()
        assert distance < 2 / np.sqrt(count)  # Kolmogorov and Smirnov: p = 0.0007
        # The least matter most: they decide who is taken. So many of them are expected below each power of two.
        for power in range(4, 11):
            expected = count / 2**power
            assert abs((line < 2.0**-power).sum() - expected) < 5 * np.sqrt(expected)
        for lag in (1, 2, 3, 16, 256, 4096):
            assert abs(np.corrcoef(line[:-lag], line[lag:])[0, 1]) < 4.5 / np.sqrt(count)
    between = np.corrcoef(draws)[np.triu_indices(len(keys), 1)]
    assert np.abs(between).max() < 4.5 / np.sqrt(count)


def test_uniforms_at_one_position_over_the_steps():
    keys = [int(attention_sampling.sampling_key(3, step, 1, 2)) for step in range(4096)]
    assert len(set(keys)) == len(keys)
    draws = np.array([reference_attention.uniforms(np.arange(3, 35), key) for key in keys])
    for position in draws.T:
        assert np.abs(np.sort(position) - (np.arange(4096) + 0.5) / 4096).max() < 2.2 / 64
        assert abs(np.corrcoef(position[:-1], position[1:])[0, 1]) < 4.5 / 64


def test_sampling_key_is_a_word_of_philox():
    words = np.empty((1, 4), np.uint32)
    philox_words(np.uint64(5), np.uint64((7 << 32) | 3), np.uint64(11), words)
    low, high = int(words[0, 0]), int(words[0, 1])
    assert attention_sampling.sampling_key(5, 11, 7, 3) == (high << 32) | low
