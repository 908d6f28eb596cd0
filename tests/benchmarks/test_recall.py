"""Recall by distance threshold: ties, repetitions, nothing found."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.datasets import Dataset
from benchmarks.distances import pair_distances
from benchmarks.recall import first_occurrence, recall_at
from benchmarks.truth import Truth, ground_truth


def line(points: list[float], queries: list[float], metric: str = "l2") -> Dataset:
    """Points and queries on a line, in two dimensions."""
    base, asked = (np.array([[x, 0.0] for x in xs], np.float32) for xs in (points, queries))
    everything = np.tile(np.arange(len(points)), (len(queries), 1))
    return Dataset("line", base, asked, metric, neighbors=everything)


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int64)


def test_exact_answer_has_recall_one() -> None:
    data = line([0, 1, 2, 3], [0.1])
    assert recall_at(data, ground_truth(data), ids([0, 1]), 2) == 1.0


def test_wrong_neighbour_counts_against() -> None:
    data = line([0, 1, 2, 3], [0.1, 3.1])
    assert recall_at(data, ground_truth(data), ids([0, 2], [3, 2]), 2) == 0.75


def test_any_of_several_tied_vectors_is_right() -> None:
    data = line([0, 1, -1, 1, -1], [0.0])
    truth = ground_truth(data)
    for second, third in ((1, 2), (3, 4), (4, 1)):
        assert recall_at(data, truth, ids([0, second, third]), 3) == 1.0


def test_repeated_id_counts_once() -> None:
    data = line([0, 1, 2], [0.0])
    assert recall_at(data, ground_truth(data), ids([0, 0]), 2) == 0.5


def test_nothing_found_counts_as_missed() -> None:
    data = line([0, 1, 2], [0.0])
    assert recall_at(data, ground_truth(data), ids([0, -1]), 2) == 0.5
    assert recall_at(data, ground_truth(data), ids([-1, -1]), 2) == 0.0


def test_only_the_first_k_columns_count() -> None:
    data = line([0, 1, 2], [0.0])
    assert recall_at(data, ground_truth(data), ids([2, 0, 1]), 1) == 0.0


def test_too_few_columns_or_too_shallow_truth_is_refused() -> None:
    data = line([0, 1, 2], [0.0])
    with pytest.raises(ValueError, match="expected"):
        recall_at(data, ground_truth(data), ids([0]), 2)
    with pytest.raises(ValueError, match="depth"):
        recall_at(data, Truth(ids([0]), np.zeros((1, 1))), ids([0, 1]), 2)


def test_first_occurrence_marks_each_id_once_per_row() -> None:
    expected = [[True, True, False, False], [True, False, False, False]]
    assert first_occurrence(ids([5, 2, 5, 2], [-1, -1, -1, -1])).tolist() == expected


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_pair_distances_follow_the_definitions(metric: str) -> None:
    generator = np.random.default_rng(0)
    base = generator.standard_normal((20, 7)).astype(np.float32)
    base[3] = 0
    queries = generator.standard_normal((4, 7)).astype(np.float32)
    found = generator.integers(0, 20, (4, 6))
    found[1, 2], found[0, 0] = -1, 3
    distances = pair_distances(base, queries, found, metric)
    for q, row in enumerate(found):
        for column, i in enumerate(row):
            x, y = queries[q].astype(float), base[i].astype(float)
            norms = np.linalg.norm(x) * np.linalg.norm(y)
            expected = {"l2": ((x - y) ** 2).sum(), "ip": -x @ y, "cosine": 1 - (x @ y / norms if norms else 0.0)}
            wanted = np.inf if i < 0 else expected[metric]
            assert distances[q, column] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_ground_truth_is_the_order_of_the_distances(metric: str) -> None:
    pytest.importorskip("faiss")
    generator = np.random.default_rng(1)
    base, queries = (generator.standard_normal((n, 5)).astype(np.float32) for n in (300, 9))
    truth = ground_truth(Dataset("random", base, queries, metric), k=12)
    everything = np.tile(np.arange(300), (9, 1))
    distances = pair_distances(base, queries, everything, metric)
    assert np.array_equal(truth.ids, np.argsort(distances, axis=1, kind="stable")[:, :12])
    assert np.allclose(truth.distances, np.sort(distances, axis=1)[:, :12], rtol=1e-12, atol=0)


def test_ground_truth_takes_the_neighbours_of_the_file() -> None:
    data = line([0, 1, 2, 3], [0.1])
    truth = ground_truth(replace(data, neighbors=ids([1, 0, 2])), k=3)
    assert truth.ids.tolist() == [[0, 1, 2]]
