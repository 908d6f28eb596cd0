import errno
import json
import mmap
import os
import resource
import tracemalloc

import numpy as np
import pytest
from hostile import unseal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file

from nearhash.errors import CorruptIndexError, DtypeError, InvalidArgumentError
from nearhash.index import storage
from nearhash.index.storage import inspect_file, read_file, write_file
from nearhash.index.storage_header import DTYPES, MAX_NESTING

HEADER = {"kind": "flat", "dim": 3, "metric": "l2", "nested": {"list": [1, 2.5, None, True, "é\ud800"]}}
TENSORS = {
    "rows": np.arange(21, dtype=np.float32).reshape(7, 3),
    "ids": np.arange(7, dtype=np.int64),
    "none": np.empty((0, 5), np.uint16),
    "live": np.array([True, False, True, True, True, True, False]),
    "one": np.array(2.5),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.nearhash"


@pytest.fixture
def small(path):
    """A small file, as bytes."""
    write_file(path, HEADER, TENSORS)
    return path.read_bytes()


def assert_same(tensors, expected):
    assert list(tensors) == sorted(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype.newbyteorder("<")
        assert tensor.shape == expected[name].shape
        assert tensor.tobytes() == expected[name].astype(tensor.dtype).tobytes(), name


# --- round trip ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)
arrays = hnp.arrays(
    dtype=st.sampled_from([*DTYPES.values(), np.dtype(">f4"), np.dtype(">i8"), np.dtype(">f2")]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
)
layouts = st.sampled_from(
    [lambda a: a, np.transpose, np.flip, lambda a: a[..., ::2] if a.ndim else a, np.asfortranarray]
)
names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}", fullmatch=True)


@settings(max_examples=150, deadline=None)
@given(
    header=st.dictionaries(st.text(), json_values, max_size=4),
    tensors=st.dictionaries(names, st.builds(lambda a, layout: layout(a), arrays, layouts), max_size=4),
    mapped=st.booleans(),
)
def test_what_is_written_comes_back(tmp_path_factory, header, tensors, mapped):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    write_file(path, header, tensors)
    got_header, got_tensors = read_file(path, mmap=mapped)
    assert got_header == header
    assert_same(got_tensors, tensors)
    for tensor in got_tensors.values():
        assert tensor.flags.c_contiguous
        assert tensor.flags.writeable
        assert tensor.ctypes.data % 64 == 0 or not tensor.size


@pytest.mark.parametrize(
    "layout", [np.ascontiguousarray, np.asfortranarray, lambda a: a[::-1], lambda a: a.astype(">f4")]
)
def test_tensors_of_several_chunks_come_back(path, monkeypatch, layout):
    monkeypatch.setattr(storage, "_CHUNK_BYTES", 64)
    rows = layout(np.random.default_rng(0).random((37, 11), np.float32))
    write_file(path, {}, {"rows": rows, "tail": rows[:3]})
    assert_same(read_file(path)[1], {"rows": rows, "tail": rows[:3]})


def test_large_tensors_are_written_without_a_copy(path):
    for rows in (np.zeros((4000, 1000), np.float32), np.zeros((1000, 4000), np.float32).T):
        tracemalloc.start()
        write_file(path, {}, {"rows": rows})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < rows.nbytes / 8


def test_equal_input_gives_equal_bytes(path, small):
    write_file(path, dict(reversed(HEADER.items())), dict(reversed(TENSORS.items())))
    assert path.read_bytes() == small


def test_mapped_tensors_share_the_pages_of_the_file(path, small):
    _, tensors = read_file(path)
    base = tensors["rows"]
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    tensors["rows"][...] += 1
    assert path.read_bytes() == small, "a write changes a private copy"


def test_mapped_tensors_outlive_a_new_file_of_that_name(path, small):
    _, tensors = read_file(path)
    write_file(path, {}, {"rows": np.zeros(3)})
    path.unlink()
    assert_same(tensors, TENSORS)


# --- the file as others see it ---


def test_the_safetensors_package_reads_our_files(path):
    tensors = {name: np.arange(11).astype(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"none": np.empty((0, 5), np.uint16), "one": np.array(2.5), "matrix": np.eye(3, dtype=np.float32)}
    write_file(path, HEADER, tensors)
    loaded = load_file(path)
    assert_same({name: loaded[name] for name in sorted(loaded) if not name.startswith("_pad.")}, tensors)
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["header"]) == HEADER


def test_every_tensor_starts_at_a_multiple_of_64_and_all_bytes_are_accounted_for(path, small):
    document, data = unseal(small)
    document.pop("__metadata__")
    spans = sorted(entry["data_offsets"] for entry in document.values())
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == len(data)
    offsets = [entry["data_offsets"][0] for name, entry in document.items() if not name.startswith("_pad.")]
    assert all((len(small) - len(data) + offset) % 64 == 0 for offset in offsets)


def test_inspect_tells_what_a_file_holds_without_reading_tensors(path, small):
    facts = inspect_file(path)
    json.dumps(facts)
    assert facts["format_version"] == 1
    assert facts["file_size"] == len(small)
    assert facts["header"] == HEADER
    assert list(facts["tensors"]) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        entry = facts["tensors"][name]
        assert (entry["dtype"], entry["shape"]) == (tensor.dtype.name, list(tensor.shape))
        assert small[entry["offset"] : entry["offset"] + entry["nbytes"]] == tensor.tobytes()
    rows = facts["tensors"]["rows"]["offset"]
    path.write_bytes(small[:rows] + bytes([small[rows] ^ 1]) + small[rows + 1 :])
    assert inspect_file(path) == facts


# --- atomic and durable ---


def leftovers(path):
    return [name for name in os.listdir(path.parent) if name != path.name]


def test_a_full_disk_leaves_the_old_file(path, small):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="large") as caught:
            write_file(path, {}, {"rows": np.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == small
    assert leftovers(path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_at_any_step_leaves_the_old_file(path, small, monkeypatch, step, error):
    def fail(*_):
        raise error("stopped")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(error, match="stopped"):
        write_file(path, {}, {"rows": np.zeros(3)})
    assert path.read_bytes() == small
    assert leftovers(path) == []


def test_the_file_is_on_disk_before_it_has_its_name_and_the_name_after(path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def recording_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    write_file(path, {}, {"rows": np.zeros(3)})
    assert events == ["file", "rename", "folder"]


def test_a_link_stays_and_its_file_is_replaced(path, small):
    link = path.parent / "link"
    link.symlink_to(path.name)
    write_file(link, {"new": True}, {})
    assert link.is_symlink()
    assert read_file(path)[0] == {"new": True}


def test_the_mode_follows_the_umask(path):
    before = os.umask(0o027)
    try:
        write_file(path, {}, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


# --- arguments ---


@pytest.mark.parametrize(
    "header",
    [
        None,
        [1],
        {1: 2},
        {"a": (1, 2)},
        {"a": np.int64(1)},
        {"a": np.nan},
        {"a": np.inf},
        {"a": b""},
        {"a": object()},
        {"a": "x" * (17 << 20)},
    ],
)
def test_a_header_that_would_not_come_back_is_refused(path, header):
    with pytest.raises(InvalidArgumentError, match="header"):
        write_file(path, header, {})
    assert leftovers(path) == []
    assert not path.exists()


def nested(depth):
    value = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_nesting_is_limited(path):
    write_file(path, nested(MAX_NESTING), {})
    assert read_file(path)[0] == nested(MAX_NESTING)
    for depth in (MAX_NESTING + 1, 5000):
        with pytest.raises(InvalidArgumentError, match="header"):
            write_file(path, nested(depth), {})


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros(3, complex),
        np.zeros(3, np.longdouble),
        np.array(["a"]),
        np.array([None]),
        np.zeros(3, "M8[s]"),
        np.zeros(3, [("a", "f4")]),
    ],
)
def test_dtypes_that_the_format_does_not_hold_are_refused(path, tensor):
    with pytest.raises(DtypeError, match="'rows'"):
        write_file(path, {}, {"rows": tensor})
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "_pad.x", "__metadata__", "a b", "a/b", "é", "x" * 65, 7])
def test_odd_tensor_names_are_refused(path, name):
    with pytest.raises(InvalidArgumentError, match="tensors"):
        write_file(path, {}, {name: np.zeros(3)})


def test_too_many_dimensions_are_refused(path):
    with pytest.raises(InvalidArgumentError, match="9 dimensions"):
        write_file(path, {}, {"rows": np.zeros((1,) * 9)})


def test_errors_of_the_file_system_stay_as_they_are(path):
    with pytest.raises(FileNotFoundError):
        read_file(path)
    with pytest.raises(IsADirectoryError):
        read_file(path.parent)
    with pytest.raises(IsADirectoryError):
        write_file(path.parent, {}, {})
    with pytest.raises(FileNotFoundError, match="missing"):
        write_file(path.parent / "missing" / "x", {}, {})


def test_a_named_pipe_is_refused_instead_of_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(CorruptIndexError):
        read_file(path)
