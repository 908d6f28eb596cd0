"""The file of a DiskIndex, the temporary files of its build, and the memory that both take."""

import os
import signal
import subprocess
import sys

import google_crc32c
import numpy as np
import pytest
from conftest import clustered
from hostile import damaged, extreme, inconsistent
from hypothesis import given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.disk_lists import PAGE, page_start
from nearhash.index.disk_spool import Spool
from nearhash.index.storage import Stream, inspect_file, read_file, read_file_without, write_file

MEMORY = 1 << 24


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "index"
    labels = np.arange(90) / 3
    nh.DiskIndex.build(path, clustered(90, 0, dim=6), "ip", labels=labels, lists=12, memory=MEMORY).close()
    return path


# --- the container ---


def test_a_stream_is_written_as_the_array_it_makes(tmp_path):
    whole = np.arange(300, dtype=np.int32).reshape(30, 10)
    late = np.zeros(1)
    starts = []

    def chunks(start):
        starts.append(start)
        for first in range(0, 30, 7):
            late[0] += 1
            yield whole[first : first + 7]

    write_file(tmp_path / "a", {"x": 1}, {"b": Stream(whole.dtype, whole.shape, chunks), "a": np.ones(5), "c": late})
    write_file(tmp_path / "b", {"x": 1}, {"b": whole, "a": np.ones(5), "c": late})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert late[0] == 5, "what comes of a stream can be written after it"
    assert inspect_file(tmp_path / "a")["tensors"]["b"]["offset"] == starts[0]


@pytest.mark.parametrize("rows", [0, 29, 31])
def test_a_stream_of_another_length_writes_nothing(tmp_path, rows):
    stream = Stream(np.dtype("u1"), (30, 2), lambda start: [np.zeros((rows, 2), np.uint8)])
    with pytest.raises(InvalidArgumentError, match="stream"):
        write_file(tmp_path / "a", {}, {"b": stream})
    assert list(tmp_path.iterdir()) == []


def test_a_stream_of_another_dtype_is_refused(tmp_path):
    stream = Stream(np.dtype("<i4"), (4,), lambda start: [np.zeros(4, np.float32)])
    with pytest.raises(TypeError):
        write_file(tmp_path / "a", {}, {"b": stream})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mmap", [True, False])
def test_a_tensor_left_in_the_file(tmp_path, mmap):
    tensors = {"a": np.arange(9), "b": np.arange(100, dtype=np.uint8), "empty": np.empty((0, 3))}
    write_file(tmp_path / "x", {"n": 1}, tensors)
    header, rest, left = read_file_without(tmp_path / "x", "b", mmap=mmap)
    assert header == {"n": 1}
    assert sorted(rest) == ["a", "empty"]
    assert np.array_equal(rest["a"], tensors["a"])
    assert rest["empty"].shape == (0, 3)
    assert os.pread(left.descriptor, 100, left.entry.start) == tensors["b"].tobytes()
    left.close()
    with pytest.raises(CorruptIndexError, match="'no'"):
        read_file_without(tmp_path / "x", "no")


# --- the file ---


def test_it_is_an_index_file_like_all_others(path):
    header, tensors = read_file(path)  # all checksums
    assert header["kind"] == "disk"
    start = inspect_file(path)["tensors"]["lists"]["offset"]
    first = page_start(start) - start
    index = nh.load(path)
    layout = index._file.layout
    slots = []
    for number in range(index.lists):
        begin = first + int(layout.starts[number])
        assert (start + begin) % PAGE == 0
        block = tensors["lists"][begin : begin + int(layout.nbytes[number])]
        count = int(tensors["lists.counts"][number])
        rows = block[: 24 * count].view("<f4").reshape(count, 6)
        place = -(-24 * count // 64) * 64
        own = block[place : place + 4 * count].view("<i4")
        assert np.array_equal(rows, index.vectors(own))
        assert not block[24 * count : place].any()
        assert not block[place + 4 * count :].any()
        assert (np.diff(own) > 0).all(), "no vector twice in a list"
        assert set(np.flatnonzero(tensors["homes"] == number)) <= set(own.tolist())
        slots += own.tolist()
    assert set(slots) == set(range(90))


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_ways_to_open_it(path, mmap, verify):
    queries = clustered(9, 1, dim=6)
    with nh.DiskIndex.open(path) as first, nh.load(path, mmap=mmap, verify=verify) as second:
        assert type(second) is nh.DiskIndex
        assert second.info() == first.info()
        assert np.array_equal(second.search(queries, 4).ids, first.search(queries, 4).ids)


def refusal(path) -> str:
    """Why a file is not opened and searched through; empty if it is."""
    try:
        with nh.load(path) as index:
            index.search(np.zeros((1, index.dim)), 3, probes=100, prune=0)
    except CorruptIndexError as error:
        return str(error)
    return ""


def test_damaged_files(path, tmp_path):
    content = path.read_bytes()
    for description, changed in damaged(content, every=1501):
        (tmp_path / "x").write_bytes(changed)
        if not refusal(tmp_path / "x"):
            # Only the zeros before and after the pages are looked at by nobody but `read_file`.
            with pytest.raises(CorruptIndexError):
                read_file(tmp_path / "x")
            start = inspect_file(path)["tensors"]["lists"]
            differs = np.flatnonzero(np.frombuffer(content, np.uint8) != np.frombuffer(changed, np.uint8))
            end = start["offset"] + start["nbytes"]
            inside = page_start(start["offset"]) <= differs[0] < page_start(start["offset"]) + start["nbytes"] - PAGE
            assert start["offset"] <= differs[0] < end, description
            assert not inside, description


def test_a_damaged_list_is_named_when_it_is_read(path, tmp_path):
    content = bytearray(path.read_bytes())
    with nh.load(path) as index:
        number = int(np.argmax(index._file.layout.counts))
        other = np.flatnonzero(index._homes != number)[:1]
        victim = np.flatnonzero(index._homes == number)[:1]
        content[index._file._position(number) + 5] ^= 64
    (tmp_path / "x").write_bytes(content)
    with nh.load(tmp_path / "x") as index:
        for threads in (1, 3):
            with pytest.raises(CorruptIndexError, match=f"list {number}: checksum"):
                index.search(np.zeros(6), probes=100, prune=0, threads=threads)
        with pytest.raises(CorruptIndexError, match=f"list {number}"):
            index.vectors(victim)
        assert index.vectors(other).shape == (1, 6)
    with nh.load(tmp_path / "x", verify=False) as index:
        index.search(np.zeros(6), probes=100, prune=0)


def test_files_that_no_index_has_written(path, tmp_path):
    header, tensors = read_file(path, mmap=False)
    for description, other_header, other_tensors in inconsistent(header, tensors):
        # Numbers of the right kind and optional tensors: another index, if not this one.
        if description == "tensor 'labels' missing" or description.startswith("header 'seed' ="):
            continue
        write_file(tmp_path / "x", other_header, other_tensors)
        message = refusal(tmp_path / "x")
        if message:
            assert str(tmp_path / "x") in message or message.startswith("list "), description
        else:
            harmless = ("header 'norm_bound' =", "header 'next_id' =", "header 'replicas' = ")
            assert description.startswith(harmless), description


def test_extreme_contents_are_refused_or_harmless(path, tmp_path):
    header, tensors = read_file(path, mmap=False)
    refused = []
    cases = list(extreme(header, tensors)) + [
        (f"graph {what}", {**header, "graph": graph}, tensors) for what, graph, _ in extreme(header["graph"], {})
    ]
    for description, other_header, other_tensors in cases:
        write_file(tmp_path / "x", other_header, other_tensors)
        for options in ({"mmap": True}, {"mmap": False, "verify": False}):
            try:
                with nh.load(tmp_path / "x", **options) as index:
                    for arguments in ({}, {"window": (3, 30)}, {"allow": np.arange(20)}):
                        hits = index.search(clustered(5, 1, dim=index.dim), k=50, probes=100, **arguments)
                        assert np.isin(hits.ids, [*index.ids.tolist(), -1]).all(), description
                    index.vectors(index.ids[:9])
            except CorruptIndexError:
                refused.append(description)
    limits = np.iinfo(np.int64)
    for value in (limits.min, limits.max):
        assert f"tensor 'lists.counts': everywhere {value}" in refused
    assert "tensor 'homes': first -2147483648" in refused


@pytest.mark.parametrize("slot", [-1, 90, 2**31 - 1])
def test_a_list_with_a_slot_that_cannot_be(path, tmp_path, slot):
    """With all checksums right: only a forger writes it."""
    header, tensors = read_file(path, mmap=False)
    with nh.load(path) as index:
        number = int(np.flatnonzero(index._file.layout.counts)[0])
        layout, position = index._file.layout, index._file._position(number)
    begin = position - inspect_file(path)["tensors"]["lists"]["offset"]
    place = begin + int(layout.slots_at[number])
    tensors["lists"][place : place + 4] = np.array([slot], "<i4").view(np.uint8)
    page = tensors["lists"][begin : begin + int(layout.nbytes[number])]
    tensors["lists.checksums"][number] = google_crc32c.extend(0, np.ascontiguousarray(page))
    write_file(tmp_path / "x", header, tensors)
    with (
        nh.load(tmp_path / "x") as index,
        pytest.raises(CorruptIndexError, match=f"list {number}: expected slots from 0 to 89"),
    ):
        index.search(np.zeros(6), probes=100, prune=0)


def test_a_file_cut_after_it_was_opened(path, tmp_path):
    (tmp_path / "x").write_bytes(path.read_bytes())
    with nh.load(tmp_path / "x", mmap=False) as index:
        os.truncate(tmp_path / "x", 40 * PAGE // 10)
        with pytest.raises(CorruptIndexError, match="shrank"):
            index.search(np.zeros(6), probes=100, prune=0)


# --- building ---


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 5),
    runs=st.lists(st.lists(st.integers(0, 4), max_size=12), max_size=6),
    most=st.integers(1, 7),
)
def test_a_spool_gives_back_what_it_was_given(tmp_path_factory, groups, runs, most):
    dtype = np.dtype([("n", "<i4"), ("row", "<f4", (3,))])
    expected = [[] for _ in range(groups)]
    number = 0
    with Spool(str(tmp_path_factory.getbasetemp()), dtype, groups) as spool:
        for run in runs:
            chosen = np.array(run, np.int32) % groups
            records = np.zeros(len(run), dtype)
            records["n"] = np.arange(number, number + len(run))
            records["row"] = records["n"][:, None]
            spool.append(chosen, records)
            for group in range(groups):
                expected[group] += records["n"][chosen == group].tolist()
            number += len(run)
            for group in range(groups):
                assert spool.size(group) == len(expected[group])
                assert spool.read(group)["n"].tolist() == expected[group]
                assert spool.read(group, most)["n"].tolist() == expected[group][:most]
                pieces = list(spool.pieces(group, most))
                assert all(0 < len(piece) <= most for piece in pieces)
                assert [n for piece in pieces for n in piece["n"].tolist()] == expected[group]
                assert all((piece["row"] == piece["n"][:, None]).all() for piece in pieces)


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


KILLED = """
import os, signal, sys
import numpy as np
import nearhash as nh
def progress(done, total):
    if done >= float(sys.argv[2]) * total:
        os.kill(os.getpid(), signal.SIGKILL)
base = np.random.default_rng(0).standard_normal((3000, 16))
nh.DiskIndex.build(sys.argv[1], base, lists=60, memory=1 << 24, progress=progress)
"""


@pytest.mark.parametrize("share", [0.35, 0.7, 1.0])
def test_a_killed_build_leaves_no_index(tmp_path, share):
    done = run(KILLED, tmp_path / "x", share)
    assert done.returncode == -signal.SIGKILL, done.stderr
    names = [path.name for path in tmp_path.iterdir()]
    # While the file itself is written it has the name that docs/format.md speaks of; before, there is nothing at all.
    assert all(name.startswith(".nearhash-") and name.endswith(".tmp") for name in names)
    assert share > 0.8 or names == []


BUILDER = """
import resource, sys
import numpy as np
import nearhash as nh
class Made:
    shape = (30_000, 800)
    def __getitem__(self, part):
        random = np.random.default_rng(part.start)
        return random.standard_normal((part.stop - part.start, 8)) @ directions + random.random(800) / 100
directions = np.random.default_rng(1).standard_normal((8, 800))
warm = np.random.default_rng(0).standard_normal((2000, 800))
nh.DiskIndex.build(sys.argv[1], warm, lists=50, memory=1 << 24).search(warm[:5])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nh.DiskIndex.build(sys.argv[1], Made(), lists=300, memory=1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
SEARCHER = """
import sys
import numpy as np
import nearhash as nh
index = nh.load(sys.argv[1])
some = np.arange(0, len(index), len(index) // 100)
hits = index.search(index.vectors(some), 3, probes=8)
assert (hits.ids[:, 0] == some).mean() > 0.9
resident = [int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss:")]
print(resident[0], index.nbytes // 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="asks Linux for the memory of a process")
def test_memory_is_small_beside_the_data(tmp_path):
    """96 MB of vectors, 16 MiB to build with."""
    data = 30_000 * 800 * 4 // 1024
    done = run(BUILDER, tmp_path / "x")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.5 * data
    nh.DiskIndex.build(tmp_path / "small", np.random.default_rng(0).standard_normal((1000, 800)), memory=MEMORY).close()
    resident = {}
    for name in ("small", "x"):
        done = run(SEARCHER, tmp_path / name)
        assert done.returncode == 0, done.stderr
        resident[name], held = map(int, done.stdout.split())
    assert held < 0.05 * data
    assert resident["x"] - resident["small"] < held + (20 << 10), "what it holds, and a buffer of 16 MiB"
