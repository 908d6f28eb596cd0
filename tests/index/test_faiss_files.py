"""Files of faiss: our results in their lists are theirs."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import nearhash as nh
from nearhash import read_faiss
from nearhash.errors import CorruptIndexError, DuplicateIdError, InvalidArgumentError

faiss = pytest.importorskip("faiss")

DIM, COUNT, LISTS = 16, 3000, 25
EVERYTHING = COUNT  # reranked: every code of the lists is measured exactly


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """faiss's threads wait for each other on busy machines."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def points() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((COUNT + 50, DIM)).astype(np.float32)
    rows += 3 * generator.standard_normal((COUNT + 50, 1)).astype(np.float32)
    return rows[:COUNT], rows[COUNT:]


@cache
def trained(factory: str, metric: int) -> Any:
    """An empty index as bytes."""
    index = faiss.index_factory(DIM, factory, metric)
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None and hasattr(lists := faiss.downcast_index(lists), "do_polysemous_training"):
        lists.do_polysemous_training = False  # takes seconds and changes only the order of codewords
    index.train(points()[0])
    return faiss.serialize_index(index)


def write(path: Path, factory: str, metric: int, ids: NDArray[np.int64] | None = None, unit: bool = False) -> Any:
    rows = points()[0]
    if unit:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if "fs" in factory:  # which faiss cannot reconstruct from after it was serialised while empty
        index = faiss.index_factory(DIM, factory, metric)
        index.train(rows)
    else:
        index = faiss.deserialize_index(trained(factory, metric))
    if ids is None:
        index.add(rows)
    else:
        index.add_with_ids(rows, ids)
    faiss.write_index(index, str(path))
    return index


def assert_same(index: Any, theirs: Any, metric: int, probes: int, **effort: Any) -> None:
    queries = points()[1]
    faiss.extract_index_ivf(theirs).nprobe = probes
    distances, ids = theirs.search(queries, 10)
    ours = index.search(queries, 10, probes=probes, rerank=EVERYTHING, **effort)
    expected = -distances if metric == faiss.METRIC_INNER_PRODUCT else distances
    np.testing.assert_allclose(ours.distances, expected, rtol=2e-4, atol=2e-4)
    # Decoded vectors tie or nearly so: there the order is free, and among the last so is the choice.
    clear = expected < expected[:, -1:] - 1e-3
    for row in range(len(ids)):
        assert set(ids[row][clear[row]]) <= set(ours.ids[row])


FACTORIES = ("IVF25,Flat", "IVF25,PQ4", "IVF25,PQ4x6", "IVF25,PQ8x4")


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("codec", ["pq4", "f32"])
def test_results_are_those_of_faiss(tmp_path: Path, factory: str, metric: int, codec: str) -> None:
    ids = np.random.default_rng(1).permutation(10 * COUNT)[:COUNT]
    theirs = write(tmp_path / "index", factory, metric, ids)
    index = read_faiss(tmp_path / "index", codec=codec)
    assert index.metric == ("l2" if metric == faiss.METRIC_L2 else "ip")
    assert len(index) == COUNT
    assert index.ids.tolist() == sorted(ids)
    assert index.info()["trained_lists"] == LISTS
    for probes in (1, 4, LISTS):
        assert_same(index, theirs, metric, probes)
    index.save(tmp_path / "ours")
    assert_same(nh.load(tmp_path / "ours"), theirs, metric, 4)


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("factory", ["IVF25,PQ8x4fs", "IVF25,PQ8x4fsr"])
def test_fast_scan_files_give_the_decoded_vectors(tmp_path: Path, factory: str, metric: int) -> None:
    """Their sums are rounded, so not the results are compared but what the codes stand for."""
    theirs = write(tmp_path / "index", factory, metric)
    index = read_faiss(tmp_path / "index")
    expected = np.stack([reconstructed(theirs, number) for number in range(0, COUNT, 50)])
    np.testing.assert_allclose(index.vectors(np.arange(0, COUNT, 50)), expected, rtol=1e-5, atol=1e-5)


def reconstructed(theirs: Any, number: int) -> NDArray[np.float32]:
    if not theirs.direct_map.type:
        theirs.make_direct_map()
    return np.asarray(theirs.reconstruct(number))


@pytest.mark.parametrize("factory", ["IVF25,PQ8x4fs,RFlat", "IVF25,PQ4,RFlat"])
def test_of_a_refined_index_the_exact_vectors_are_read(tmp_path: Path, factory: str) -> None:
    theirs = write(tmp_path / "index", factory, faiss.METRIC_L2)
    theirs.k_factor = COUNT / 10
    index = read_faiss(tmp_path / "index")
    np.testing.assert_array_equal(index.vectors(np.arange(COUNT)), points()[0])
    assert_same(index, theirs, faiss.METRIC_L2, 3)


def test_a_read_index_can_be_changed(tmp_path: Path) -> None:
    write(tmp_path / "index", "IVF25,Flat", faiss.METRIC_L2)
    index = read_faiss(tmp_path / "index")
    rows, queries = points()
    new = index.add(queries)
    assert new.tolist() == list(range(COUNT, COUNT + 50))
    assert (index.search(queries, 1, probes=8).ids[:, 0] == new).mean() > 0.95
    index.remove(np.arange(0, COUNT, 2))
    index.compact()
    assert (index.search(rows[1::2], 1, probes=8).ids[:, 0] == np.arange(1, COUNT, 2)).mean() > 0.95


def test_cosine_is_for_unit_vectors(tmp_path: Path) -> None:
    write(tmp_path / "unit", "IVF25,Flat", faiss.METRIC_INNER_PRODUCT, unit=True)
    index = read_faiss(tmp_path / "unit", metric="cosine")
    assert index.metric == "cosine"
    assert (index.search(points()[0], 1, probes=LISTS).ids[:, 0] == np.arange(COUNT)).mean() > 0.99
    write(tmp_path / "long", "IVF25,Flat", faiss.METRIC_INNER_PRODUCT)
    with pytest.raises(InvalidArgumentError, match="'cosine' needs unit vectors"):
        read_faiss(tmp_path / "long", metric="cosine")
    for metric in ("l2", "dot"):
        with pytest.raises(InvalidArgumentError, match="metric: expected 'ip'"):
            read_faiss(tmp_path / "unit", metric=metric)


def test_the_same_file_gives_the_same_index(tmp_path: Path) -> None:
    write(tmp_path / "index", "IVF25,Flat", faiss.METRIC_L2)
    for threads in (1, 2):
        read_faiss(tmp_path / "index", threads=threads).save(tmp_path / f"{threads}")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF25,SQ8", "PCA8,IVF25,Flat", "IVF25,RaBitQ"])
def test_other_indexes_are_refused(tmp_path: Path, factory: str) -> None:
    write(tmp_path / "index", factory, faiss.METRIC_L2)
    with pytest.raises(InvalidArgumentError, match=r"expected IndexIVFFlat.*got Index"):
        read_faiss(tmp_path / "index")


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an index")
    with pytest.raises(CorruptIndexError, match="faiss cannot read it"):
        read_faiss(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        read_faiss(tmp_path / "nothing")
    empty = faiss.deserialize_index(trained("IVF25,Flat", faiss.METRIC_L2))
    faiss.write_index(empty, str(tmp_path / "empty"))
    with pytest.raises(InvalidArgumentError, match="empty"):
        read_faiss(tmp_path / "empty")
    write(tmp_path / "twice", "IVF25,Flat", faiss.METRIC_L2, np.arange(COUNT) // 2)
    with pytest.raises(DuplicateIdError):
        read_faiss(tmp_path / "twice")
    mixed = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, LISTS, faiss.METRIC_L2)
    mixed.train(points()[0])
    mixed.add(points()[0])
    faiss.write_index(mixed, str(tmp_path / "mixed"))
    with pytest.raises(InvalidArgumentError, match="alike"):
        read_faiss(tmp_path / "mixed")
