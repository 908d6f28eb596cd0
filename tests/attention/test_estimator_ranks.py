"""Estimators that rank tokens, against rankings by definition; and the bounded cache."""

import numpy as np
import pytest
from head_data import realistic

from nearhash.attention.estimators import make_estimator
from nearhash.attention.heads import ArrayHead
from nearhash.errors import InvalidArgumentError

ALWAYS, REST = np.array([0, 1, 299]), np.arange(2, 299)


def chosen(name, head, queries, budget=40, **options):
    estimator = make_estimator(name, **options)
    choices = estimator.choose(head, estimator.index(head, ALWAYS), queries, ALWAYS, REST, budget, 0)
    return [np.setdiff1d(choice.positions, ALWAYS) for choice in choices]


def best(scores, budget=40):
    """Of REST, by scores (297,)."""
    return np.sort(REST[np.argsort(-np.asarray(scores), kind="stable")[:budget]])


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_topk_oracle():
    head, queries = realistic()
    logits = queries.astype(np.float64) @ head.keys(REST).T
    [shared] = chosen("topk_oracle", head, queries)
    assert np.array_equal(shared, best(softmax(logits).mean(axis=0)))
    for own, line in zip(chosen("topk_oracle", head, queries, shared=False), logits, strict=True):
        assert np.array_equal(own, best(line))


def test_hash_topk():
    head, queries = realistic()
    estimator = make_estimator("hash_topk", bits=104, seed=4)
    index = estimator.index(head, ALWAYS)
    keys = head.keys(np.arange(300))
    hashing = index.hashing
    bits, own = (
        np.unpackbits(hashing.encode(lines), axis=1)
        for lines in (keys - keys.mean(axis=0, dtype=np.float64).astype(np.float32), queries)
    )
    same = (bits[None, REST] == own[:, None]).sum(axis=2)  # [g, 297]
    assert np.array_equal(index.matches(queries, REST), same)
    [got] = chosen("hash_topk", head, queries, bits=104, seed=4)
    assert np.array_equal(got, best(same.sum(axis=0)))
    assert index.nbytes == 300 * 13


@pytest.mark.parametrize("page", [1, 16, 70, 1000])
def test_quest(page):
    head, queries = realistic()
    keys = head.keys(np.arange(300))
    pages = [keys[first : first + page] for first in range(0, 300, page)]
    bounds = np.array(
        [[np.maximum(query * part.min(axis=0), query * part.max(axis=0)).sum() for part in pages] for query in queries]
    )
    scores = softmax(bounds).mean(axis=0)
    order = sorted(REST, key=lambda token: (-scores[token // page], token // page, token))
    [got] = chosen("quest", head, queries, page=page)
    assert np.array_equal(got, np.sort(order[:40]))
    assert make_estimator("quest", page=page).index(head, ALWAYS).nbytes == len(pages) * 16 * 2 * 4


def test_quest_bounds_no_key_too_low():
    head, queries = realistic()
    index = make_estimator("quest").index(head, ALWAYS)
    bounds = np.maximum(queries, 0) @ index.greatest.T + np.minimum(queries, 0) @ index.least.T
    logits = queries @ head.keys(np.arange(300)).T
    assert (logits <= bounds[:, np.arange(300) // 16] + 1e-4).all()


def test_socket():
    head, queries = realistic()
    K, L, tau = 4, 6, 0.5
    hashing = make_estimator("socket", K=K, L=L, tau=tau, seed=2).index(head, ALWAYS).hashing
    corners = np.array([[1 if code >> bit & 1 else -1 for bit in range(K)] for code in range(1 << K)])
    codes = hashing.codes(head.keys(REST))
    turns = np.tanh(hashing.projections(queries * np.float32(4))) / 4  # d = 16
    chances = np.array([softmax(line @ corners.T / tau) for line in turns])  # [g, L, 2^K]
    scores = sum(chances[query, table, codes[:, table]] for query in range(3) for table in range(L))
    [got] = chosen("socket", head, queries, K=K, L=L, tau=tau, seed=2)
    assert np.array_equal(got, best(scores * np.linalg.norm(head.values(REST), axis=1)))


def test_vattention_takes_the_heaviest_and_draws_the_others():
    head, queries = realistic()
    for oracle in (False, True):
        logits = queries @ head.keys(REST).T if oracle else head.logits(queries)[:, REST]
        top = best(softmax(logits.astype(np.float64)).mean(axis=0), 10)
        estimator = make_estimator("vattention", heavy=0.25, oracle=oracle)
        [choice] = estimator.choose(head, None, queries, ALWAYS, REST, 40, 5)
        sure = choice.positions[choice.log_probabilities == 0]
        assert np.array_equal(sure, np.union1d(ALWAYS, top))
        drawn = choice.log_probabilities[choice.log_probabilities < 0]
        assert len(drawn) == 30
        assert np.exp(drawn) == pytest.approx(30 / 287)


def test_hashevict_keeps_its_size_and_what_it_evicted_stays_away():
    keys, values = (realistic(400, seed=seed)[0].keys(np.arange(400)) for seed in (1, 2))
    estimator = make_estimator("hashevict", bits=64)
    cache, seen = estimator.index(ArrayHead(keys[:0], values[:0]), np.arange(0)), set()
    rng = np.random.default_rng(3)
    for count in [5, 50, 50, *range(120, 400, 7), 400]:
        head, always = ArrayHead(keys[:count], values[:count]), np.arange(4)
        queries = rng.standard_normal((2, 16)).astype(np.float32)
        before, first = set(cache.positions), cache.tokens
        got = estimator.attend(head, queries, 60, always, index=cache)
        kept = set(cache.positions)
        assert got.reads == len(kept) <= 64
        assert kept <= before | set(range(first, count))
        assert set(range(4)) <= kept
        assert cache.nbytes == len(kept) * (8 + 8)
        there = np.array(sorted(before | set(range(first, count))))
        others = there[there >= 4]
        bits, own = (np.unpackbits(cache.codes.hashing.encode(lines), axis=1) for lines in (keys[others], queries))
        same = (bits[None] == own[:, None]).sum(axis=(0, 2))
        assert kept == {0, 1, 2, 3, *others[np.argsort(-same, kind="stable")[:60]]}
        seen |= kept
    with pytest.raises(InvalidArgumentError, match="index: expected one of at most 399 tokens, got one of 400"):
        estimator.attend(ArrayHead(keys[:399], values[:399]), queries, 60, index=cache)
