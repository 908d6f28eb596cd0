"""Tables of the benchmarks of binary codes and of weighted sets."""

import numpy as np

from benchmarks.blocking import chosen, count, fewest, matches, most
from benchmarks.hamming import _matched, hamming_part, planted_codes, run_hamming
from benchmarks.machine import machine_facts
from benchmarks.weighted import PEER, weighted_part


def test_the_fastest_that_reaches_a_recall_is_compared():
    data = {
        "exact": [{"batch_us": [50.0]}],
        "approximate": [
            {"name": "nearhash, a", "recall": 0.95, "us": [10.0]},
            {"name": "nearhash, b", "recall": 0.6, "us": [2.0]},
            {"name": "faiss IndexBinaryMultiHash, c", "recall": 0.8, "us": [100.0]},
            {"name": "faiss IndexBinaryMultiHash, d", "recall": 0.5, "us": [20.0]},
        ],
    }
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in _matched(data).splitlines()[2:]]
    assert lines == [
        ["0.5", "b", "2", "0.600", "d", "20", "0.500", "10.0x"],
        ["0.7", "a", "10", "0.950", "c", "100", "0.800", "10.0x"],
        ["0.9", "a", "10", "0.950", "none", "–", "–", "–"],
        ["0.95", "a", "10", "0.950", "none", "–", "–", "–"],
    ]


def test_planted_codes_have_near_duplicates():
    _, base, queries = planted_codes(2000, 30)
    away = np.unpackbits(queries[:, None] ^ base[None], axis=-1).sum(-1, dtype=np.int64)
    assert ((away < 12).sum(axis=1) >= 19).all()


def test_a_small_run_has_its_page(monkeypatch):
    monkeypatch.setattr("benchmarks.hamming.simhash_codes", lambda name, queries: planted_codes(400, queries))
    monkeypatch.setattr("benchmarks.hamming.HASHES", ((4, 16),))
    monkeypatch.setattr("benchmarks.hamming.SUBSTRINGS", (4,))
    page = hamming_part(run_hamming("any", 5, 1, 400))
    assert page.startswith("## Binary codes")
    assert page.count("| faiss IndexBinaryFlat |") == 2


def test_weighted_sets_are_compared_with_the_peer():
    settings = {"sets": 1, "tokens": 10, "k": 4, "rounds": 1, "universe": 20, "datasketch": "2"}
    sketchers = [{"name": "nearhash icws", "us": [5.0]}, {"name": PEER, "us": [15.0]}]
    document = {"date": "2026-01-01", "machine": machine_facts(), "settings": settings, "sketchers": sketchers}
    assert "| nearhash icws | 5 | 500 | 3.0x |" in weighted_part(document)


def test_blocking_is_chosen_by_some_people_and_others_by_hindsight():
    def point(completeness, candidates, choice):
        return {"completeness": completeness, "candidates": candidates, "choice": choice}

    def told(completeness, candidates):
        return {"completeness": completeness, "candidates": candidates}

    points = [
        point(0.99, 9.0, told(0.94, 1.0)),
        point(0.5, 8.0, told(0.95, 3.0)),
        point(0.98, 7.0, told(0.97, 2.0)),
    ]
    assert chosen(points, 0.95) is points[2]  # what is reported has no say in it
    assert chosen(points, 0.99) is points[2]
    others = [told(0.9, 1.0), told(0.95, 4.0), told(0.96, 3.0)]
    assert fewest(others, 0.95) == 3.0
    assert fewest(others, 0.96) == 3.0
    assert fewest(others, 0.97) is None
    assert most(others, 3.0) == 0.96
    assert most(others, 0.9) is None


def test_candidates_are_pairs_that_share_a_key():
    keys = np.array([[1, 2], [1, 3], [4, 2], [5, 6], [1, 2]])
    found = count(keys, np.array([[0, 1], [1, 2], [0, 3]]))
    assert found == {"completeness": 1 / 3, "candidates": 5 / 5}
    assert sorted(map(tuple, matches(np.array([7, 8, 7, 7])).tolist())) == [(0, 2), (0, 3), (2, 3)]
