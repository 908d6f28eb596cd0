"""Near-duplicates in memory: against all pairs, against the formulas, and with arguments that are wrong."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash.errors import DtypeError, InvalidArgumentError
from nearhash.hashing.texts import Shingler
from nearhash.index.dedup.candidates import ALL_PAIRS, PAIR, compare_buckets, distinct, ends, estimate, pack, sort_keys
from nearhash.index.dedup.rates import estimated_rates, similarity_shares
from nearhash.index.dedup.settings import Settings, choose_banding
from nearhash.index.dedup.shingle_sets import as_sets, jaccard
from nearhash.index.dedup.sketching import band_keys_of

WORDS = [f"w{i}" for i in range(700)]


def corpus(seed=0, families=120, words=60):
    """Texts and edited copies of some, and copies of copies, in random order."""
    random = np.random.default_rng(seed)
    texts = []
    for number in range(families):
        text = [WORDS[i] for i in random.integers(0, len(WORDS), words)]
        texts.append(text)
        for edits in (1, 2, 4, 8)[: number % 5]:
            text = list(texts[-1])
            for place in random.integers(0, words, edits):
                text[place] = WORDS[random.integers(len(WORDS))]
            texts.append(text)
    return [" ".join(texts[i]) for i in random.permutation(len(texts))]


def exact_pairs(texts, threshold, ngram):
    """All pairs at or above the threshold, by sets."""
    indptr, tokens = Shingler(ngram=ngram).shingles(texts)
    sets = [set(tokens[a:b].tolist()) for a, b in itertools.pairwise(indptr)]
    return {
        (i, j)
        for j in range(len(sets))
        for i in range(j)
        if sets[i] and sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    }


def components(count, pairs):
    labels = list(range(count))
    changed = True
    while changed:
        changed = False
        for i, j in pairs:
            low = min(labels[i], labels[j])
            changed |= labels[i] != low or labels[j] != low
            labels[i] = labels[j] = low
    return labels


def test_pairs_are_those_of_all_pairs():
    texts = corpus()
    truth = exact_pairs(texts, 0.8, 2)
    found = nh.deduplicate(texts, 0.8, ngram=2)
    pairs = set(map(tuple, found.pairs.tolist()))
    assert len(truth) > 150
    assert pairs <= truth
    assert len(pairs) >= 0.97 * len(truth)
    assert found.labels.tolist() == components(len(texts), pairs)
    assert found.similarities.min() >= np.float32(0.8)
    for group in found.groups:
        assert len(group) > 1
        assert (np.diff(group) > 0).all()
        assert (found.labels[group] == group[0]).all()
    assert found.keep.tolist() == [label == i for i, label in enumerate(found.labels)]
    facts = found.statistics
    assert facts["kept"] + facts["removed"] == facts["documents"] == len(texts)
    assert facts["clusters"] == len(found) == len(found.groups)
    assert facts["largest_cluster"] == max(map(len, found.groups))
    assert facts["pairs"] == len(pairs)
    assert facts["false_positive_rate"] == 0
    assert facts["false_negative_rate"] < 0.03


def test_sketches_decide_nearly_the_same_and_no_verification_takes_all_candidates():
    texts = corpus(1)
    truth = exact_pairs(texts, 0.8, 2)
    by_sketch = set(map(tuple, nh.deduplicate(texts, 0.8, ngram=2, verify="sketch", k=512).pairs.tolist()))
    assert len(by_sketch & truth) >= 0.85 * max(len(by_sketch), len(truth))
    unverified = nh.deduplicate(texts, 0.8, ngram=2, verify=None)
    candidates = set(map(tuple, unverified.pairs.tolist()))
    assert set(map(tuple, nh.deduplicate(texts, 0.8, ngram=2).pairs.tolist())) < candidates
    assert unverified.statistics["false_positive_rate"] == pytest.approx(1 - len(truth) / len(candidates), abs=0.1)


def test_threads_and_iterables_do_not_matter():
    texts = corpus(2)
    one = nh.deduplicate(texts, ngram=2, threads=1)
    for other in (nh.deduplicate(iter(texts), ngram=2, threads=3), nh.deduplicate(np.array(texts), ngram=2, threads=2)):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.pairs, other.pairs)
        assert one.similarities.tobytes() == other.similarities.tobytes()


def test_chunks_do_not_matter(monkeypatch):
    texts = corpus(2)
    whole = nh.deduplicate(texts, ngram=2)
    monkeypatch.setattr("nearhash.index.dedup.memory._DOCUMENTS", 7)
    monkeypatch.setattr("nearhash.index.dedup.memory._BYTES", 1500)
    parts = nh.deduplicate(texts, ngram=2)
    assert np.array_equal(whole.labels, parts.labels)
    assert whole.similarities.tobytes() == parts.similarities.tobytes()


def test_empty_and_short_texts():
    texts = ["", " \n", "one", "two", "One!", "", "...", "one two"]
    found = nh.deduplicate(texts)
    assert [group.tolist() for group in found.groups] == [[2, 4]]
    assert found.empty.tolist() == [True, True, False, False, False, True, True, False]
    assert found.keep.tolist() == [True, True, True, True, False, True, True, True]
    nothing = nh.deduplicate([])
    assert (nothing.groups, len(nothing.labels), nothing.statistics["documents"]) == ([], 0, 0)
    assert nh.deduplicate(["", ""]).groups == []


def test_equal_texts_by_the_thousand_are_one_group_and_few_comparisons():
    texts = corpus(3, families=5)
    many = [texts[0]] * 3000 + texts[1:]
    calls = []
    chosen = Settings.choose(ngram=2)
    sketches = chosen.minhash.sketch(*Shingler(ngram=2).shingles(many)).values
    keys, documents = keyed(sketches, chosen)
    found = compare_buckets(keys, documents, lambda d: calls.append(len(d)) or sketches[d], chosen)
    assert sum(calls) < 5 * chosen.bands * len(many)
    assert len(found.pairs) < 3 * len(many)
    group = nh.deduplicate(many, ngram=2).groups[0]
    assert group[:3000].tolist() == list(range(3000))


def keyed(sketches, chosen):
    keys = band_keys_of(sketches, chosen, 1).reshape(-1)
    documents = np.repeat(np.arange(len(sketches)), chosen.bands)
    sort_keys(keys, documents)
    return keys, documents


def agreeing_sketches(random, count, k, similarity):
    """Pairs of sketches, rows 2 i and 2 i + 1, of which each slot agrees with a probability."""
    sketches = random.integers(0, 2**16, (2 * count, k), np.uint16)
    same = random.random((count, k)) < np.asarray(similarity)[..., None]
    sketches[1::2] = np.where(same, sketches[::2], sketches[1::2])
    return sketches


@pytest.mark.parametrize(("bands", "rows"), [(18, 7), (9, 13), (32, 4)])
@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8])
def test_the_share_of_pairs_compared_is_that_of_the_s_curve(bands, rows, similarity):
    random, count = np.random.default_rng(bands), 4000
    chosen = Settings.choose(bands=bands, rows=rows, verify=None)
    sketches = agreeing_sketches(random, count, chosen.k, np.full(count, similarity))
    found = compare_buckets(*keyed(sketches, chosen), lambda d: sketches[d], chosen)
    expected = float(chosen.collision_probability(similarity))
    left, right = ends(found.pairs)
    planted = found.pairs[left // 2 == right // 2]
    assert abs(len(planted) / count - expected) <= 3 * np.sqrt(expected * (1 - expected) / count) + 1e-9
    assert found.histogram.sum() == pytest.approx(len(found.pairs))


def test_comparison_finds_every_pair_that_shares_a_band():
    random = np.random.default_rng(5)
    chosen = Settings.choose(k=8, bands=4, rows=2, verify=None)
    sketches = random.integers(0, 12, (300, 8)).astype(np.uint16)
    found = compare_buckets(*keyed(sketches, chosen), lambda d: sketches[d], chosen)
    equal = sketches[:, None] == sketches[None]
    shared = equal.reshape(300, 300, 4, 2).all(axis=3).any(axis=2)
    low, high = np.nonzero(np.triu(shared, 1))
    assert list(zip(*ends(found.pairs), strict=True)) == list(zip(low, high, strict=True))
    assert np.allclose(found.histogram, np.bincount(equal.sum(axis=2)[low, high], minlength=9))
    assert np.allclose(found.pairs["similarity"], estimate(equal.sum(axis=2)[low, high], 8))
    later = compare_buckets(*keyed(sketches, chosen), lambda d: sketches[d], chosen, first=250)
    assert list(zip(*ends(later.pairs), strict=True)) == [
        pair for pair in zip(low, high, strict=True) if pair[1] >= 250
    ]


def test_keys_that_meet_by_chance_make_no_pair():
    chosen = Settings.choose(k=8, bands=4, rows=2, verify=None)
    sketches = np.arange(16, dtype=np.uint16).reshape(2, 8)
    found = compare_buckets(np.zeros(2, np.uint64), np.arange(2), lambda d: sketches[d], chosen)
    assert len(found.pairs) == 0
    assert found.histogram.sum() == 0


@pytest.mark.parametrize("first", [0, 60])
def test_a_large_bucket_of_several_families_keeps_them_apart(first):
    random = np.random.default_rng(6)
    chosen = Settings.choose(k=64, bands=1, rows=4, verify="sketch")
    families = random.integers(0, 2**16, (4, 64)).astype(np.uint16)
    of = random.integers(0, 4, 50 * ALL_PAIRS)
    sketches = families[of]
    sketches[:, :4] = 7  # all share the only band
    labels = np.array([int(np.flatnonzero(of == of[i])[0]) for i in range(first)], np.int64)
    found = compare_buckets(*keyed(sketches, chosen), lambda d: sketches[d], chosen, first, labels)
    pairs = list(zip(*(end.tolist() for end in ends(found.pairs)), strict=True))
    assert all(of[i] == of[j] and j >= first for i, j in pairs)
    joined = components(len(of), [*pairs, *((int(label), i) for i, label in enumerate(labels))])
    assert joined == [int(np.flatnonzero(of == family)[0]) for family in of]
    assert found.skipped == 0
    assert len(found.pairs) < 5 * len(of)


def test_old_documents_of_a_large_bucket_are_not_compared_with_each_other():
    chosen = Settings.choose(k=64, bands=1, rows=4, verify="sketch")
    sketches = np.random.default_rng(8).integers(0, 2**16, (1, 64)).astype(np.uint16).repeat(3 * ALL_PAIRS, axis=0)
    first = 2 * ALL_PAIRS
    arguments = (*keyed(sketches, chosen), lambda d: sketches[d], chosen, first)
    found = compare_buckets(*arguments, np.arange(first))  # each a group of its own
    assert (ends(found.pairs)[1] >= first).all()
    assert found.histogram.sum() == len(found.pairs)


def test_what_leaves_a_large_bucket_is_near_its_leader():
    """b is like the second document alone, which is like the first: it would be lost if that left with the first."""
    random, chosen = np.random.default_rng(8), Settings.choose(k=64, bands=1, rows=4, verify="sketch")
    sketches = random.integers(0, 2**16, (3 * ALL_PAIRS, 64)).astype(np.uint16)
    sketches[1] = np.where(np.arange(64) < 54, sketches[0], sketches[1])  # .84
    sketches[-1] = np.where(np.arange(64) >= 10, sketches[1], sketches[-1])  # .84 of the second, .69 of the first
    sketches[:, :4] = 7
    sketches[-1, 4:10] = sketches[1, 4:10]
    found = compare_buckets(*keyed(sketches, chosen), lambda d: sketches[d], chosen)
    last = len(sketches) - 1
    expected = [
        (i, j)
        for i in range(len(sketches))
        for j in range(i + 1, len(sketches))
        if estimate((sketches[i] == sketches[j]).sum(), 64) >= 0.8
    ]
    assert (0, 1) in expected
    assert (1, last) in expected
    assert list(zip(*(end.tolist() for end in ends(found.pairs)), strict=True)) == expected


def test_equal_sketches_reach_any_threshold():
    assert [group.tolist() for group in nh.deduplicate(["a b c d"] * 2, 1.0, verify="sketch").groups] == [[0, 1]]


@pytest.mark.parametrize("verify", ["exact", "sketch", None])
def test_estimated_rates_are_those_of_a_simulation(verify):
    random, count = np.random.default_rng(7), 20_000
    chosen = Settings.choose(bands=9, rows=13, verify=verify)
    similarity = random.random(count)
    sketches = agreeing_sketches(random, count, chosen.k, similarity)
    found = compare_buckets(*keyed(sketches, chosen), lambda d: sketches[d], chosen)
    number = ends(found.pairs)[0] // 2
    if verify == "exact":
        number = number[similarity[number] >= 0.8]
    true = similarity >= 0.8
    false_positive = 1 - true[number].mean()
    false_negative = 1 - true[number].sum() / true.sum()
    rates = estimated_rates(found.histogram, chosen)
    assert rates.false_positive == pytest.approx(false_positive, abs=0.02)
    assert rates.false_negative == pytest.approx(false_negative, abs=0.03)
    assert false_negative > 0.1
    assert sum(entry["pairs"] for entry in similarity_shares(found.histogram)) == pytest.approx(
        found.histogram.sum(), abs=20
    )


@pytest.mark.parametrize(("threshold", "k"), [(0.8, 128), (0.5, 128), (0.95, 64), (0.2, 16), (1.0, 32), (0.8, 1)])
def test_banding_is_the_most_selective_that_misses_little(threshold, k):
    bands, rows = choose_banding(threshold, k)
    assert bands * rows <= k
    if rows > 1:
        assert 1 - (1 - threshold**rows) ** bands >= 0.98
    if rows < k:
        assert 1 - (1 - threshold ** (rows + 1)) ** (k // (rows + 1)) < 0.98
    assert choose_banding(0.8, 128) == (18, 7)


def test_sets_and_their_similarity_are_those_of_python():
    random = np.random.default_rng(8)
    rows = [random.integers(0, 50, n, np.uint64) for n in (0, 1, 2, 200, 0, 33, 7, 1000, 5)]
    rows += [random.integers(0, 2**64, 100, np.uint64)] * 2
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    for threads in (1, 3):
        starts, tokens = as_sets((indptr, np.concatenate(rows)), threads)
        sets = [tokens[a:b].tolist() for a, b in itertools.pairwise(starts)]
        assert sets == [sorted(set(row.tolist())) for row in rows]
        left, right = np.divmod(np.arange(len(rows) ** 2), len(rows))
        found = jaccard((starts, tokens), left, right, threads)
        for i, j, value in zip(left, right, found, strict=True):
            one, other = set(sets[i]), set(sets[j])
            assert value == (len(one & other) / len(one | other) if one | other else 1.0)


NUMBERS = [0, 1, 2, 3, 2**31, 2**32 - 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)), max_size=30))
def test_distinct_pairs(pairs):
    low, high = np.array(pairs, np.int64).reshape(-1, 2).T
    records = np.zeros(len(pairs), PAIR)
    records["pair"], records["similarity"] = pack(low, high), (low % 97 + high % 97) / 200
    found = distinct(records)
    assert list(zip(*(end.tolist() for end in ends(found)), strict=True)) == sorted(set(pairs))
    assert found["similarity"].tolist() == [(i % 97 + j % 97) / 200 for i, j in sorted(set(pairs))]


def test_pairs_that_are_too_many_are_spilled_in_order(monkeypatch):
    random = np.random.default_rng(9)
    chosen = Settings.choose(k=8, bands=4, rows=2, verify=None)
    sketches = random.integers(0, 8, (600, 8)).astype(np.uint16)
    whole = compare_buckets(*keyed(sketches, chosen), lambda d: sketches[d], chosen)
    assert len(whole.pairs) > 3000
    monkeypatch.setattr("nearhash.index.dedup.candidates._GATHERED", 500)
    monkeypatch.setattr("nearhash.index.dedup.candidates._BATCH", 100)
    blocks = []
    part = compare_buckets(
        *keyed(sketches, chosen), lambda d: sketches[d], chosen, most=400, spill=lambda pairs: blocks.append(pairs)
    )
    blocks.append(part.pairs)
    assert len(blocks) > 2
    for block in blocks:
        assert (np.diff(block["pair"].astype(np.int64)) > 0).all()
        assert len(block) <= 400 + 100
    found = distinct(np.concatenate(blocks))
    assert np.array_equal(found["pair"], whole.pairs["pair"])
    assert np.array_equal(found["similarity"], whole.pairs["similarity"])
    assert np.array_equal(part.histogram, whole.histogram)


def test_a_pair_of_many_buckets_is_compared_once():
    chosen = Settings.choose(k=32, bands=16, rows=2, verify="sketch")
    sketches = np.random.default_rng(3).integers(0, 2**16, (50, 32), np.uint16).repeat(20, axis=0)
    compared = []
    found = compare_buckets(*keyed(sketches, chosen), lambda d: compared.append(len(d)) or sketches[d], chosen)
    assert len(found.pairs) == 50 * 190
    assert found.histogram[32] == pytest.approx(50 * 190)
    assert sum(compared) == len(sketches)  # all in one batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0}, r"threshold: expected a number in \(0, 1\], got 0"),
        ({"threshold": float("nan")}, "threshold: .* got nan"),
        ({"threshold": "0.8"}, "threshold"),
        ({"ngram": 0}, "ngram: expected an integer of at least 1"),
        ({"unit": "line"}, "unit: expected one of word, char, got 'line'"),
        ({"k": 0}, "k: expected"),
        ({"bands": 4}, "bands, rows: expected both or neither, got 4 and None"),
        ({"bands": 20, "rows": 7}, "20 bands of 7 rows do not fit k = 128"),
        ({"verify": "maybe"}, "verify: expected 'exact', 'sketch' or None, got 'maybe'"),
        ({"seed": -1}, "seed"),
        ({"threads": 0}, "threads"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        nh.deduplicate(["a"], **arguments)


def test_impossible_texts():
    for texts in ("a text", b"a text", 5, None):
        with pytest.raises(DtypeError, match=f"texts: expected an iterable of str, got {type(texts).__name__}"):
            nh.deduplicate(texts)
    with pytest.raises(DtypeError, match="texts: expected str, got bytes in position 1"):
        nh.deduplicate(["a", b"b"])
    with pytest.raises(InvalidArgumentError, match="half a surrogate pair in position 2"):
        nh.deduplicate(["a", "b", "\ud800"])


def test_progress_and_its_exceptions():
    seen = []
    nh.deduplicate(corpus(4, families=10), ngram=2, progress=lambda *step: seen.append(step))
    assert {stage for stage, _, _ in seen} == {"sketch", "compare", "verify"}
    assert all(0 <= done <= total for _, done, total in seen)

    def stop(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nh.deduplicate(["a"], progress=stop)
