import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearhash.command_line.vector_files import read_allow, read_ids, read_labels, read_vectors
from nearhash.errors import DtypeError, InvalidArgumentError

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def texmex(matrix: np.ndarray) -> bytes:
    return b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in matrix)


def saved(folder: Path, name: str, content: bytes | str | np.ndarray | dict[str, np.ndarray]) -> Path:
    path = folder / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", MATRIX),
        ("A.NPY", None),
        ("a.npz", {"anything": MATRIX}),
        ("a.npz", {"labels": np.arange(3), "vectors": MATRIX}),
        ("a.fvecs", texmex(MATRIX)),
        ("a.csv", "\n".join(",".join(map(str, row)) for row in MATRIX)),
        ("a.csv", "\ufeffx,y,z,w\r\n" + "\r\n".join(", ".join(map(str, row)) for row in MATRIX) + "\r\n"),
        ("a.csv", "\ufeff" + "\n".join(",".join(map(str, row)) for row in MATRIX)),
        ("a.tsv", "# made by hand\n\n" + "\n".join("\t".join(map(str, row)) for row in MATRIX) + "  # the last\n"),
        ("a.txt", "\n".join("  ".join(map(str, row)) for row in MATRIX)),
    ],
)
def test_reads_every_format(tmp_path: Path, name: str, content: object) -> None:
    if content is None:
        with (tmp_path / name).open("wb") as file:
            np.save(file, MATRIX)
    else:
        saved(tmp_path, name, content)  # type: ignore[arg-type]
    vectors = read_vectors(tmp_path / name)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, MATRIX)


@pytest.mark.parametrize(("suffix", "dtype"), [(".bvecs", np.uint8), (".ivecs", np.int32)])
def test_reads_integer_vectors(tmp_path: Path, suffix: str, dtype: type) -> None:
    matrix = np.array([[0, 255, 7], [1, 2, 3]], dtype=dtype)
    vectors = read_vectors(saved(tmp_path, "a" + suffix, texmex(matrix)))
    assert vectors.dtype == dtype
    np.testing.assert_array_equal(vectors, matrix)


def test_array_files_are_mapped_not_read(tmp_path: Path) -> None:
    for path in (saved(tmp_path, "a.npy", MATRIX), saved(tmp_path, "a.fvecs", texmex(MATRIX))):
        vectors = read_vectors(path)
        assert isinstance(vectors, np.memmap)
        assert not vectors.flags.writeable


def test_one_row_and_one_column_of_text_stay_matrices(tmp_path: Path) -> None:
    assert read_vectors(saved(tmp_path, "row.csv", "1,2,3\n")).shape == (1, 3)
    assert read_vectors(saved(tmp_path, "column.csv", "1\n2\n3\n")).shape == (3, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1", r"suffix '.parquet'; expected one of .npy"),
        ("a", b"", r"suffix ''"),
        ("a.npy", b"", "not a .npy file"),
        ("a.npy", b"\x80\x04K\x01.", "not a .npy file"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': 1}", "malformed .npy"),
        ("a.npy", np.array([[1, "x"], [None, 2]], dtype=object), "malformed .npy.*[Oo]bject"),
        ("a.npz", b"PK\x03\x04", "not a .npz file"),
        ("a.npz", {"x": np.array([[{}]], dtype=object)}, "malformed .npz.*[Oo]bject"),
        ("a.npz", {"x": MATRIX, "y": MATRIX}, r"arrays x, y; expected one, or one called 'vectors'"),
        ("a.npy", np.array([["a", "b"]]), "dtype is <U1; expected a float or integer"),
        ("a.npy", np.array([[1j]]), "dtype is complex128"),
        ("a.npy", np.array([[True]]), "dtype is bool"),
        ("a.npy", np.zeros(5), r"shape is \(5,\); expected a matrix"),
        ("a.npy", np.zeros((2, 2, 2)), r"shape is \(2, 2, 2\)"),
        ("a.npy", np.zeros((0, 5)), "no vectors"),
        ("a.npy", np.zeros((5, 0)), "no vectors"),
        ("a.fvecs", b"", "0 bytes"),
        ("a.fvecs", texmex(MATRIX)[:-1], "truncated or ragged"),
        ("a.fvecs", texmex(MATRIX)[:15], "dimension 4 in a file of 15"),
        ("a.fvecs", struct.pack("<i", -3) + bytes(12), "dimension -3"),
        ("a.fvecs", struct.pack("<i", 2**31 - 1) + bytes(12), "dimension 2147483647 in a file of 16"),
        ("a.fvecs", texmex(MATRIX[:1]) + struct.pack("<i", 3) + bytes(16), "vector 1 has dimension 3, the first one 4"),
        ("a.csv", "", "no vectors"),
        ("a.csv", "# nothing\n\n", "no vectors"),
        ("a.csv", "x,y\n", "no vectors"),
        ("a.csv", "1,2\n\n3,4,5\n", "line 3 has 3 numbers, line 1 has 2"),
        ("a.csv", "1,2\n3,\n", "line 2, column 2: '' is not a number"),
        ("a.csv", "word,1,2\n", "line 1, column 1: 'word' is not a number"),
        ("a.csv", "x,y\nu,v\n1,2\n", "line 2, column 1: 'u'"),
        ("a.csv", "1;2\n3;4\n", "line 2, column 1: '3;4' is not a number"),
        ("a.tsv", b"\xff\xfe1\x00", "UTF-8"),
    ],
)
def test_refuses_malformed_vectors(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = saved(tmp_path, name, content)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=message) as raised:
        read_vectors(path)
    assert str(path) in str(raised.value)


def test_truncated_arrays_are_refused(tmp_path: Path) -> None:
    npy = saved(tmp_path, "a.npy", MATRIX).read_bytes()
    npz = saved(tmp_path, "a.npz", {"x": MATRIX}).read_bytes()
    for name, whole in (("b.npy", npy), ("b.npz", npz)):
        for length in range(0, len(whole), 7):
            with pytest.raises(InvalidArgumentError):
                read_vectors(saved(tmp_path, name, whole[:length]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from([".npy", ".npz", ".fvecs", ".bvecs", ".csv", ".tsv", ".txt"]), st.data())
def test_damage_gives_a_matrix_or_a_clear_error(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    intact = tmp_path / f"intact{suffix}"
    if not intact.exists():
        if suffix == ".npy":
            np.save(intact, MATRIX)
        elif suffix == ".npz":
            np.savez_compressed(intact, vectors=MATRIX)
        elif "vecs" in suffix:
            intact.write_bytes(texmex(MATRIX))
        else:
            intact.write_text("1,2\n3,4\n")
    damaged = bytearray(intact.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = saved(tmp_path, f"damaged{suffix}", bytes(damaged))
    try:
        vectors = read_vectors(path)
    except InvalidArgumentError:
        return
    assert vectors.ndim == 2
    vectors.tobytes()  # touches every mapped page: all must exist


def test_columns_come_from_arrays_archives_and_lines(tmp_path: Path) -> None:
    big = 2**53 + 1  # would change in float64
    for content in (np.array([3, big]), {"labels": np.zeros(9), "ids": np.array([3, big])}, f"3\n\n{big}  # last\n"):
        name = "a.npy" if isinstance(content, np.ndarray) else "a.npz" if isinstance(content, dict) else "a.txt"
        ids = read_ids(saved(tmp_path, name, content))
        assert ids.dtype == np.int64
        assert ids.tolist() == [3, big]
    labels = read_labels(saved(tmp_path, "labels.csv", "0.5\n-inf\n7\n"))
    assert labels.dtype == np.float64
    assert labels.tolist() == [0.5, -np.inf, 7.0]
    mask = np.array([True, False, True])
    allowed = read_allow(saved(tmp_path, "mask.npy", mask))
    assert allowed.dtype == np.bool_
    assert allowed.tolist() == mask.tolist()
    assert read_allow(saved(tmp_path, "allow.txt", "5\n2\n")).tolist() == [5, 2]


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (read_ids, "a.npy", np.array([1.0]), "dtype float64; expected an integer"),
        (read_ids, "a.npy", np.array([2**63], dtype=np.uint64), "9223372036854775808 does not fit"),
        (read_ids, "a.txt", "1\n9223372036854775808\n", "9223372036854775808 does not fit"),
        (read_ids, "a.txt", "1\n2.5\n", "line 2: '2.5' is not an integer"),
        (read_ids, "a.csv", "1,2,3\n", "line 1: '1,2,3' is not an integer"),
        (read_ids, "a.npy", np.array([[1], [2]]), r"shape \(2, 1\)"),
        (read_ids, "a.fvecs", b"", "suffix"),
        (read_labels, "a.npy", np.array(["x"]), "dtype <U1"),
        (read_labels, "a.txt", "rank\n1\n", "line 1: 'rank' is not a number"),
        (read_labels, "a.txt", b"\xff\xfe", "UTF-8"),
        (read_allow, "a.npy", np.array([0.0, 1.0]), "dtype float64; expected bool"),
    ],
)
def test_refuses_malformed_columns(tmp_path: Path, read: object, name: str, content: object, message: str) -> None:
    with pytest.raises((InvalidArgumentError, DtypeError), match=message):
        read(saved(tmp_path, name, content))  # type: ignore[arg-type, operator]
