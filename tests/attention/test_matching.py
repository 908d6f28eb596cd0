"""Alignment of a new prompt with a cached one, against its specification."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearhash.attention import match_tokens, matching
from nearhash.errors import DimensionError, DtypeError, InvalidArgumentError
from nearhash.hashing import SimHash
from nearhash.kernels import reference_alignment

DIM = 64
VOCABULARY = np.random.default_rng(0).standard_normal((400, DIM)).astype(np.float32)
TEXT = np.random.default_rng(1).zipf(1.3, 500) % 100  # few words often, as in texts

tokens = st.lists(st.integers(0, 3), max_size=7)
costs = st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from([0, 1, 3])).map(lambda two: (two[0] / 2, sum(two) / 2))


def matched(reference, prompt, threshold=0.7, **options):
    return match_tokens(VOCABULARY[reference], VOCABULARY[prompt], threshold=threshold, **options)


def near(rows, cosine, seed=9):
    """Unit rows of this cosine to the given ones."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    other = np.random.default_rng(seed).standard_normal(rows.shape)
    other -= np.einsum("ij,ij->i", other, units)[:, None] * units
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (cosine * units + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def gains_of(reference, prompt, threshold):
    """(n, m) what pairs of tokens are worth, by exact cosines."""
    rows, others = (np.asarray(side, np.float64).reshape(-1, DIM) for side in (prompt, reference))
    lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(others, axis=1)
    scores = np.where((rows[:, None] == others[None]).all(axis=2), 1, rows @ others.T / lengths)
    return np.where(scores >= threshold, np.rint(scores * matching.UNIT), 0).astype(np.int64)


@given(tokens, tokens, costs, st.sampled_from([None, 0, 2]))
@settings(max_examples=150, deadline=None)
def test_alignments_are_those_of_the_reference(reference, prompt, both, window):
    gap, change = both
    rows = VOCABULARY[:4].copy()
    rows[3] = near(rows[:1], 0.95)[0]
    found = match_tokens(rows[reference], rows[prompt], threshold=0.9, gap=gap, change=change, window=window)
    exact = gains_of(rows[reference], rows[prompt], 0.9)
    whole = [round(cost * matching.UNIT) for cost in both]
    expected = reference_alignment.align(exact, 20 if window is None else window, *whole)
    assert found.positions.tolist() == expected.tolist()
    scores = [exact[token, place] if place >= 0 else 0 for token, place in enumerate(expected)]
    assert found.scores == pytest.approx(np.array(scores) / matching.UNIT, abs=2e-6)


@given(st.lists(st.integers(0, 1), max_size=4), st.lists(st.integers(0, 1), max_size=4), costs)
@settings(max_examples=60, deadline=None)
def test_no_alignment_is_worth_more(reference, prompt, both):
    gains = matching.UNIT * np.equal.outer(prompt, reference).astype(np.int64).reshape(len(prompt), len(reference))
    whole = [round(cost * matching.UNIT) for cost in both]
    found = matched(reference, prompt, threshold=1, gap=both[0], change=both[1]).positions
    allowed = [[-1, *(p for p in range(len(reference)) if row[p])] for row in gains]
    best = max(reference_alignment.total_of(np.array(each, int), gains, *whole) for each in itertools.product(*allowed))
    assert reference_alignment.total_of(found, gains, *whole) == best


def test_edits_are_recovered_and_equal_words_elsewhere_do_not_distract():
    numbers, new = np.arange(500), [-1, -1, -1]
    parts = [numbers[:100], new, numbers[100:180], numbers[220:300], new[:1], numbers[301:], numbers[180:220]]
    kept = np.concatenate(parts)
    prompt = np.where(kept < 0, 300 + np.cumsum(kept < 0), TEXT[kept])
    found = matched(TEXT, prompt)
    wrong = np.flatnonzero(found.positions != kept)
    # An edge of a run may lie a few tokens off where the words on both sides are the same.
    assert len(wrong) <= 6
    assert (np.diff(found.positions) != 1).sum() <= 8
    assert ((found.scores == 1) == (found.positions >= 0)).all()


def test_a_word_of_like_meaning_stands_in_for_the_one_in_its_place():
    rows = VOCABULARY[TEXT].copy()
    rows[50:60:3] = near(rows[50:60:3], 0.8)
    found = match_tokens(VOCABULARY[TEXT], rows, threshold=0.7)
    assert found.positions.tolist() == list(range(500))
    assert found.scores[50:60:3] == pytest.approx(0.8, abs=1e-6)
    for stricter in ({"threshold": 0.85}, {}):  # equal tokens only, by default
        found = match_tokens(VOCABULARY[TEXT], rows, **stricter)
        assert np.flatnonzero(found.positions < 0).tolist() == [50, 53, 56, 59]


def test_costs_decide_what_is_worth_a_run():
    words = np.arange(100, 140)
    isolated = np.concatenate([[300], words[:1], [301], words[10:14], [302]])
    assert matched(words, isolated).positions.tolist() == [-1] * 8
    assert matched(words, isolated, change=1.5).positions.tolist() == [-1, -1, -1, 10, 11, 12, 13, -1]
    assert matched(words, isolated, gap=0, change=0).positions.tolist() == [-1, 0, -1, 10, 11, 12, 13, -1]
    assert matched(words, isolated, gap=0, change=0, window=6).positions.tolist() == [-1, 0] + [-1] * 6
    # A lone word in its place earns what the interruptions around it cost, and no more.
    assert matched(words, [100, 300, 102, 301, 104, 105]).positions.tolist() == [0, -1, -1, -1, 4, 5]


def test_each_token_for_itself_gets_its_nearest():
    rng = np.random.default_rng(2)
    reference = VOCABULARY[:60]
    prompt = near(reference[rng.permutation(60)], 0.9, seed=3)
    found = match_tokens(reference, prompt, threshold=0.6, gap=0, change=0)
    units = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    assert found.positions.tolist() == (prompt @ units.T).argmax(axis=1).tolist()


def test_a_prompt_is_matched_with_itself_and_lengths_of_vectors_do_not_count():
    assert matched(TEXT, TEXT).positions.tolist() == list(range(500))
    longer = match_tokens(VOCABULARY[TEXT], 3 * VOCABULARY[TEXT], threshold=0.7)
    assert longer.positions.tolist() == list(range(500))
    assert longer.scores == pytest.approx(1)
    assert (match_tokens(VOCABULARY[:5], 3 * VOCABULARY[:5]).positions < 0).all()  # not equal
    assert matched([7], [7]).positions.tolist() == [0]
    zeros = np.zeros((3, DIM))
    assert match_tokens(zeros, -zeros).positions.tolist() == [0, 1, 2]
    assert match_tokens(zeros, VOCABULARY[:3], threshold=0.7).positions.tolist() == [-1] * 3


def test_candidates_are_found_as_often_as_the_formula_says():
    threshold, count = 0.7, 20_000
    hashes = SimHash(DIM, 256)
    radius = matching.candidate_radius(hashes, threshold)
    rows = np.random.default_rng(4).standard_normal((count, DIM)).astype(np.float32)
    for cosine in (0.55, 0.6, 0.7):
        mean = hashes.bits * (1 - float(hashes.collision_probability(cosine)))
        deviation = hashes.bits * float(np.sqrt(hashes.variance(cosine)))
        codes, others = hashes.encode(rows), hashes.encode(near(rows, cosine))
        away = np.unpackbits(codes ^ others, axis=1).sum(axis=1)
        expected = _normal_cdf((radius + 0.5 - mean) / deviation)
        assert (away <= radius).mean() == pytest.approx(expected, abs=0.012), cosine
    assert (away <= radius).mean() > 0.997  # at the threshold


def _normal_cdf(x):
    from nearhash.hashing.collisions import normal_cdf

    return float(normal_cdf(np.array([x]))[0])


@pytest.mark.parametrize("empty", [np.zeros((0, DIM)), np.zeros((0, DIM), np.float16)])
def test_prompts_may_be_empty(empty):
    assert match_tokens(empty, VOCABULARY[:4]).positions.tolist() == [-1] * 4
    found = match_tokens(VOCABULARY[:4], empty)
    assert found.positions.shape == found.scores.shape == (0,)
    assert found.positions.dtype == np.int64
    assert found.scores.dtype == np.float32


def test_the_result_depends_neither_on_threads_nor_on_the_kind_of_array():
    rows = near(VOCABULARY[TEXT], 0.8)
    first = match_tokens(VOCABULARY[TEXT], rows, threshold=0.7, threads=1)
    for reference, prompt in (
        (VOCABULARY[TEXT], rows),
        (np.asfortranarray(VOCABULARY[TEXT]), rows[:, ::-1].copy()[:, ::-1]),
        (VOCABULARY[TEXT].astype(np.float64), rows.tolist()),
    ):
        again = match_tokens(reference, prompt, threshold=0.7, threads=3)
        assert again.positions.tobytes() == first.positions.tobytes()
        assert again.scores.tobytes() == first.scores.tobytes()


def test_tensors_are_taken():
    torch = pytest.importorskip("torch")
    rows = torch.from_numpy(VOCABULARY[TEXT]).bfloat16()
    found = match_tokens(rows, rows[10:].clone().requires_grad_())
    assert found.positions.tolist() == list(range(10, 500))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"reference": VOCABULARY[0]}, DimensionError, r"reference: expected shape \(tokens, d\)"),
        ({"prompt": VOCABULARY[:2, :9]}, DimensionError, "prompt: expected 64 dimensions"),
        ({"prompt": np.zeros((3, 0))}, DimensionError, "prompt: expected shape"),
        ({"prompt": np.full((2, DIM), np.nan)}, InvalidArgumentError, "prompt: expected finite"),
        ({"reference": np.full((2, DIM), np.inf)}, InvalidArgumentError, "reference: expected finite"),
        ({"reference": np.zeros((2, DIM), complex)}, DtypeError, "reference: expected a float"),
        ({"prompt": np.full((2, DIM), "a")}, DtypeError, "prompt: expected a float"),
        ({"threshold": 0}, InvalidArgumentError, "threshold: expected a number above 0"),
        ({"threshold": 1.01}, InvalidArgumentError, "threshold: expected a number from 0 to 1, got 1.01"),
        ({"threshold": np.nan}, InvalidArgumentError, "threshold"),
        ({"threshold": True}, InvalidArgumentError, "threshold"),
        ({"gap": -1}, InvalidArgumentError, "gap"),
        ({"gap": 5}, InvalidArgumentError, "gap: expected at most the cost of a change, 4, got 5"),
        ({"change": np.inf}, InvalidArgumentError, "change"),
        ({"window": -1}, InvalidArgumentError, "window"),
        ({"window": 1.5}, InvalidArgumentError, "window"),
        ({"bits": 9}, InvalidArgumentError, "bits"),
        ({"seed": -1}, InvalidArgumentError, "seed"),
        ({"threads": 0}, InvalidArgumentError, "threads"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    given = {"reference": VOCABULARY[:5], "prompt": VOCABULARY[:5], **change}
    with pytest.raises(error, match=message):
        match_tokens(given.pop("reference"), given.pop("prompt"), **given)


def test_too_many_pairs_are_refused_and_a_window_helps(monkeypatch):
    monkeypatch.setattr(matching, "MOST_PAIRS", 100)
    same = np.zeros(11, int)
    with pytest.raises(InvalidArgumentError, match=r"at most 100 pairs of tokens are alike, got None and 121 pairs"):
        matched(same, same)
    assert matched(same, same, window=2).positions.tolist() == list(range(11))
