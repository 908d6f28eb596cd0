"""Index files: what is saved is loaded, and a file that no index has written is refused before a kernel sees it."""

import numpy as np
import pytest
from conftest import DIM, KINDS, METRICS, clustered, make
from hostile import damaged, extreme, inconsistent

import nearhash as nh
from nearhash import where
from nearhash.errors import CorruptIndexError
from nearhash.index.storage import read_file, write_file


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_is_the_saved_one(built, queries, tmp_path, kind, metric, mmap):
    index = built(kind, metric)
    index.save(tmp_path / "x.nh")
    again = nh.load(tmp_path / "x.nh", mmap=mmap)
    assert type(again) is type(index)
    assert {**again.info(), "nbytes": 0} == {**index.info(), "nbytes": 0}
    for arguments in ({}, {"window": (100, 200)}, {"allow": np.arange(5, 1200)}):
        expected, found = (current.search(queries, k=10, **arguments) for current in (index, again))
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.distances, expected.distances)
    again.save(tmp_path / "y.nh")
    assert (tmp_path / "y.nh").read_bytes() == (tmp_path / "x.nh").read_bytes()


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_can_change_and_its_file_does_not(tmp_path, kind, metric, mmap):
    path = tmp_path / "x.nh"
    index = make(kind, metric)
    index.add(clustered(300, 0), labels=np.arange(300))
    index.save(path)
    before = path.read_bytes()
    loaded = nh.load(path, mmap=mmap)
    for current in (index, loaded):
        current.remove([5, 6])
        current.add(clustered(50, 1), labels=np.arange(50))
        current.add(clustered(1, 2) * 9)
    assert path.read_bytes() == before
    expected, found = (current.search(clustered(20, 3), k=5) for current in (index, loaded))
    assert np.array_equal(expected.ids, found.ids)
    loaded.save(path)  # over the file that it is mapped from
    assert np.array_equal(nh.load(path).search(clustered(20, 3), k=5).ids, found.ids)
    assert np.array_equal(loaded.search(clustered(20, 3), k=5).ids, found.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_index_can_be_saved(tmp_path, kind):
    make(kind).save(tmp_path / "x")
    again = nh.load(tmp_path / "x")
    assert (again.search(np.zeros(DIM), k=2).ids == -1).all()
    assert again.add(clustered(3, 0)).tolist() == [0, 1, 2]


@pytest.fixture(scope="module", params=KINDS)
def small_file(request, tmp_path_factory):
    """A file of an index with labels, attributes and a removed vector."""
    path = tmp_path_factory.mktemp("files") / "small"
    index = make(request.param, "cosine", dim=6)
    index.add(clustered(40, 0, dim=6), labels=np.arange(40), attributes={"color": np.arange(40) % 4})
    index.remove([11])
    index.save(path)
    return path


def refusal(path) -> str:
    """Why a file is not loaded; empty if it is."""
    try:
        nh.load(path)
    except CorruptIndexError as error:
        return str(error)
    return ""


def test_damaged_files(small_file, tmp_path):
    for description, content in damaged(small_file.read_bytes(), every=97):
        (tmp_path / "x").write_bytes(content)
        assert refusal(tmp_path / "x"), description


def test_files_that_no_index_has_written(small_file, tmp_path):
    header, tensors = read_file(small_file, mmap=False)
    optional = {"tensor 'labels' missing", "tensor 'attribute.color' missing"}
    for description, other_header, other_tensors in inconsistent(header, tensors):
        # A number of the right kind is another index, if not this one: `extreme` looks at those.
        if description in optional or description.startswith(("header 'seed' =", "header 'build_beam' =")):
            continue
        write_file(tmp_path / "x", other_header, other_tensors)
        message = refusal(tmp_path / "x")
        if message:
            assert str(tmp_path / "x") in message
        else:
            assert description.startswith(("header 'norm_bound' =", "header 'next_id' =")), description


def test_extreme_contents_are_refused_or_harmless(small_file, tmp_path):
    header, tensors = read_file(small_file, mmap=False)
    refused = []
    for description, other_header, other_tensors in extreme(header, tensors):
        write_file(tmp_path / "x", other_header, other_tensors)
        for mmap in (True, False):
            try:
                index = nh.load(tmp_path / "x", mmap=mmap)
            except CorruptIndexError:
                refused.append(description)
                continue
            for arguments in ({}, {"window": (3, 30)}, {"allow": np.arange(20)}):
                hits = index.search(clustered(5, 1, dim=index.dim), k=50, **arguments)
                assert np.isin(hits.ids, [*index.ids.tolist(), -1]).all(), description
            names = index.info()["attributes"]
            if names:
                index.search(clustered(5, 1, dim=index.dim), k=50, where=where.range(names[0], 1, 3))
            index.add(
                clustered(3, 2, dim=index.dim), ids=[9001, 9002, 9003], attributes={name: [1, 2, 3] for name in names}
            )
    if header["kind"] == "graph":
        for name in ("neighbours", "parents"):
            limits = np.iinfo(np.int32)
            for value in (limits.min, limits.max, 40):
                assert f"tensor '{name}': first {value}" in refused
        assert "header 'entry' = 2147483647" in refused


def test_a_cycle_of_parents_is_refused(tmp_path):
    """Descending through it to find a place for a new node would never end."""
    index = make("graph-f32", dim=6)
    index.add(clustered(60, 0, dim=6))
    index.save(tmp_path / "x")
    header, tensors = read_file(tmp_path / "x", mmap=False)
    a, b = np.flatnonzero(tensors["parents"] >= 0)[:2]
    tensors["parents"][[a, b]] = b, a
    tensors["neighbours"][a, 0], tensors["neighbours"][b, 0] = b, a
    write_file(tmp_path / "x", header, tensors)
    with pytest.raises(CorruptIndexError, match=r"parents|neighbours"):
        nh.load(tmp_path / "x")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        nh.load(tmp_path / "no")
    with pytest.raises(IsADirectoryError):
        nh.load(tmp_path)
    with pytest.raises(OSError, match="no"):
        make("flat").save(tmp_path / "no" / "x")
