"""The priority estimator from codes to output."""

import numpy as np
import pytest
from attention_pages import Pages, aligned

from nearhash.kernels import attention, attention_lvq4, attention_priority, attention_sampling, reference_attention
from nearhash.kernels.attention_code_scan import LVQ4Queries
from nearhash.kernels.attention_rows import PAGE

GROUP, DIM = 3, 64


class Head:
    """Keys and values of a head, and their codes."""

    def __init__(self, count, seed, spread=3.0):
        rng = np.random.default_rng(seed)
        self.count, self.room = count, -(-count // PAGE) * PAGE
        keys, values = (rng.standard_normal((count, DIM)).astype(np.float32) for _ in range(2))
        self.queries = (rng.standard_normal((GROUP, DIM)) * spread / np.sqrt(DIM)).astype(np.float32)
        self.pages, self.keys, self.values = Pages.of("float32", keys, values)
        self.memory = [aligned(attention_lvq4.page_bytes(DIM), 0xFF) for _ in self.pages.memory]
        self.code_pages = np.array([page.ctypes.data for page in self.memory], np.int64)
        self.asked = LVQ4Queries(self.queries)
        mean = keys.mean(axis=0, dtype=np.float32) if count else np.zeros(DIM, np.float32)
        attention_lvq4.encode(self.code_pages, 0, keys, values, mean)
        self.exact = reference_attention.attend(self.queries, keys, values)

    def attend(self, first, last, budget, step, floor=0.1):
        scratch = np.full((GROUP + 2, self.room), np.nan, np.float32)
        out, lse = np.full((GROUP, DIM), np.nan, np.float32), np.full(GROUP, np.nan, np.float32)
        variance = np.full(GROUP, np.nan, np.float32)
        key = np.uint64(attention_sampling.sampling_key(1, step, 2, 3))
        reads = attention_priority.attend_priority(
            self.pages.rows, self.asked, 0, 0, GROUP, self.queries, self.pages.addresses, self.count, first, last,
            scratch, self.code_pages, attention_lvq4.norms_at(DIM), 1.0, floor, key, budget, out, lse, variance,
        )  # fmt: skip
        return out, lse, variance, reads


@pytest.mark.parametrize(("count", "first", "last"), [(0, 0, 0), (1, 0, 1), (1, 1, 1), (700, 16, 572), (700, 0, 700)])
def test_budget_of_all_tokens_is_dense(count, first, last):
    head = Head(count, 1)
    for budget in (last - first, last - first + 100):
        out, lse, variance, reads = head.attend(first, last, budget, 0)
        assert reads == count
        np.testing.assert_allclose(out, head.exact[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(lse, head.exact[1], rtol=1e-5, atol=1e-5)
        assert (variance == 0).all()


def test_budget_of_none_reads_what_is_always_read():
    head = Head(700, 2)
    out, lse, _, reads = head.attend(16, 600, 0, 0)
    assert reads == 116
    rest = np.r_[:16, 600:700]
    expected, level = reference_attention.attend(head.queries, head.keys[rest], head.values[rest])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lse, level, rtol=1e-5)


def test_numerator_and_denominator_are_unbiased():
    head, runs = Head(900, 3), 1200
    masses, errors, variances, reads = [], [], [], set()
    for step in range(runs):
        out, lse, variance, count = head.attend(16, 836, 60, step)
        mass = np.exp(lse.astype(np.float64) - head.exact[1])
        masses.append(np.concatenate([mass, (mass[:, None] * (out - head.exact[0])).ravel()]))
        errors.append(((out - head.exact[0]) ** 2).sum(axis=1))
        variances.append(variance)
        reads.add(count)
    assert reads == {16 + 60 + 64}
    masses = np.array(masses)
    z = (masses.mean(axis=0) - np.r_[np.ones(GROUP), np.zeros(GROUP * DIM)]) / (masses.std(axis=0) / np.sqrt(runs))
    assert np.abs(z[:GROUP]).max() < 4
    assert np.abs(z[GROUP:]).max() < 4.5  # the greatest of 192
    # The variance that a sample shows is the error of the output, on the average.
    np.testing.assert_allclose(np.mean(variances, axis=0), np.mean(errors, axis=0), rtol=0.15)


def test_logits_may_be_taken_in_parts():
    """More tokens than are scanned at once: the sample is that of the reference, by logits scanned together."""
    first, last, budget = 5, 2 * attention_priority.SCANNED + 801, 300
    head = Head(last + 99, 6)
    logits = np.full((GROUP, head.room), np.nan, np.float32)
    attention_lvq4.scan(head.code_pages, head.queries, first, last, logits)
    norms = reference_attention.bfloat16(np.linalg.norm(head.values, axis=1).astype(np.float32))
    key = attention_sampling.sampling_key(3, 1, 0, 0)
    weights = reference_attention.weights(logits[:, first:last], norms[first:last], 1.0, 0.1).astype(np.float32)
    uniforms = reference_attention.uniforms(np.arange(first, last), int(key))
    expected, chances = reference_attention.priority_sample(weights, uniforms, budget)
    scratch = np.full((GROUP + 2, head.room), np.nan, np.float32)
    positions, probabilities = np.full(head.count, -7, np.int32), np.full(head.count, np.nan, np.float32)
    reads = attention_priority.choose(
        head.asked, 0, 0, GROUP, scratch, head.code_pages, attention_lvq4.norms_at(DIM), head.count, first, last, 1.0,
        0.1, np.uint64(key), budget, positions, probabilities,
    )  # fmt: skip
    sampled = slice(first, first + budget)
    assert reads == head.count - (last - first) + budget
    assert len(np.setdiff1d(positions[sampled] - first, expected)) <= 1  # weights agree to 1e-5: one may be on the edge
    _, own, reference = np.intersect1d(positions[sampled] - first, expected, return_indices=True)
    np.testing.assert_allclose(probabilities[sampled][own], chances[reference], rtol=1e-4)


def test_error_is_as_great_as_the_sample_says():
    head = Head(4000, 4)
    for step in range(20):
        out, _, variance, _ = head.attend(16, 3900, 300, step)
        error = np.linalg.norm(out - head.exact[0], axis=1)
        assert (error < 2 * np.sqrt(variance)).all()
        assert (error > 0.4 * np.sqrt(variance)).all()


def test_a_part_of_the_positions_merges_to_the_whole():
    head = Head(900, 5)
    out, lse, variance, reads = head.attend(16, 836, 60, 7)
    scratch = np.full((GROUP + 2, head.room), np.nan, np.float32)
    positions, probabilities = np.full(reads, -7, np.int32), np.full(reads, np.nan, np.float32)
    key = np.uint64(attention_sampling.sampling_key(1, 7, 2, 3))
    attention_priority.choose(
        head.asked, 0, 0, GROUP, scratch, head.code_pages, attention_lvq4.norms_at(DIM), 900, 16, 836, 1.0, 0.1, key,
        60, positions, probabilities,
    )  # fmt: skip
    assert (np.diff(positions) > 0).all()
    assert (probabilities[(positions < 16) | (positions >= 836)] == 1).all()
    parts = []
    for part in (slice(0, 50), slice(50, reads)):
        arrays = np.empty((GROUP, DIM), np.float32), np.empty(GROUP, np.float32), np.empty((GROUP, DIM + 2), np.float32)
        attention.attend_tokens(
            head.pages.rows, head.queries, head.pages.addresses, positions[part], probabilities[part], *arrays
        )  # fmt: skip
        parts.append(arrays)
    merged = np.empty((GROUP, DIM), np.float32), np.empty(GROUP, np.float32), np.empty(GROUP, np.float32)
    attention.merge_samples(*(np.stack(arrays) for arrays in zip(*parts, strict=True)), *merged)
    for found, expected in zip(merged, (out, lse, variance), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
