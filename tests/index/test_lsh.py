"""LSHIndex beyond what all indexes have in common."""

import numpy as np
import pytest
from conftest import clustered, exact_distances, recall

import nearhash as nh
from nearhash.errors import InvalidArgumentError
from nearhash.index.storage import read_file, write_file

DIM, COUNT = 24, 3000


@pytest.fixture(scope="module")
def data():
    return clustered(COUNT, 3), clustered(60, 4)


@pytest.mark.parametrize("family", ["cross-polytope", "simhash"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_recall_grows_with_probes(data, family, metric):
    base, queries = data
    index = nh.LSHIndex(DIM, metric, family, tables=12, hashes=2 if family == "cross-polytope" else 12)
    index.add(base)
    truth = np.argsort(exact_distances(base, queries, metric), axis=1)[:, :10]
    found = [recall(index.search(queries, probes=probes).ids, truth) for probes in (12, 100, 1000, 1 << 20)]
    assert found[0] < found[2] <= found[3] + 0.01
    assert found[2] > 0.8
    assert found[3] > 0.99  # every bucket; what codes of one byte a dimension get wrong is left


@pytest.mark.parametrize("family", ["cross-polytope", "simhash"])
def test_same_bytes_at_any_number_of_threads(data, family, tmp_path):
    base, queries = data
    files, answers = [], []
    for threads in (1, 2, 5):
        index = nh.LSHIndex(DIM, family=family, tables=5, hashes=2, seed=7, threads=threads)
        for part in np.array_split(base, 4):
            index.add(part)
        index.remove(np.arange(0, 900, 3))
        index.compact()
        index.save(tmp_path / "x")
        files.append((tmp_path / "x").read_bytes())
        answers.append(index.search(queries, threads=threads).ids.tolist())
    assert files[0] == files[1] == files[2]
    assert answers[0] == answers[1] == answers[2]


def test_new_vectors_are_found_before_they_are_in_tables(data):
    base, _ = data
    index = nh.LSHIndex(DIM, tables=4)
    index.add(base)
    built = index._tables.built
    for vector in clustered(40, 9):
        (own,) = index.add(vector)
        assert index.search(vector, k=1, probes=1).ids[0, 0] == own
    assert index._tables.built == built


def test_a_longer_vector_under_inner_product(data):
    """All directions change with the bound of the norms: everything is hashed anew."""
    base, queries = data
    index = nh.LSHIndex(DIM, "ip", tables=16)
    index.add(base)
    index.add(base[:50] * 30, ids=np.arange(50) + 10_000)
    every = np.concatenate([base, base[:50] * 30])
    truth = np.argsort(exact_distances(every, queries, "ip"), axis=1)[:, :10]
    found = index.search(queries, probes=4000).ids
    assert recall(np.where(found >= 10_000, found - 10_000 + COUNT, found), truth) > 0.9


def test_a_file_whose_tables_are_empty(tmp_path):
    """Vectors that no table holds are all candidates; there is no bucket that could be read."""
    index = nh.LSHIndex(6, tables=3)
    index.add(clustered(40, 0, dim=6))
    index.save(tmp_path / "x")
    header, tensors = read_file(tmp_path / "x", mmap=False)
    tensors["entries"], tensors["starts"] = np.empty((3, 0), np.int32), np.zeros((3, 1), np.int32)
    write_file(tmp_path / "y", header, tensors)
    other, queries = nh.load(tmp_path / "y"), clustered(5, 1, dim=6)
    truth = np.argsort(exact_distances(clustered(40, 0, dim=6), queries, "cosine"), axis=1)[:, :10]
    assert recall(other.search(queries, threads=1).ids, truth) == 1.0
    # So few probes that the tables are asked, and not what passes scanned: there every vector is a candidate.
    assert (other.search(queries, k=1, probes=1, threads=1).ids[:, 0] == truth[:, 0]).all()


def test_tune(data):
    base, queries = data
    index = nh.LSHIndex(DIM, tables=16)
    index.add(base)
    tuning = index.tune(queries, recall=0.9)
    assert set(tuning.chosen.effort) == {"probes"}
    truth = np.argsort(exact_distances(base, queries, "cosine"), axis=1)[:, :10]
    assert recall(index.search(queries, recall=0.9).ids, truth) >= 0.9


@pytest.mark.parametrize(
    "arguments",
    [{"family": "e8"}, {"tables": 0}, {"hashes": 65}, {"last_dims": 3, "family": "simhash"}, {"last_dims": 1000}],
)
def test_bad_arguments(arguments):
    with pytest.raises(InvalidArgumentError):
        nh.LSHIndex(DIM, **arguments)
