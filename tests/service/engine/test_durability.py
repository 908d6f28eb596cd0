"""What is acknowledged stays, whatever happens to the process, the disk and the files."""

import gc
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nearhash as nh
from nearhash.errors import CorruptCollectionError, CorruptIndexError, StorageError, VersionError
from nearhash.service.engine import failpoints, store
from nearhash.service.engine.repair import repair
from nearhash.service.engine.segments import FOLDER
from nearhash.service.engine.verify import verify
from nearhash.service.engine.wal import committed_frames, lost_commits

REPOSITORY = Path(__file__).resolve().parents[3]
DIM = 4
LOG = store.FILE + "-wal"


@pytest.mark.parametrize("options", [("--cycles", "25", "--longest", "0.15"), ("--failpoints", "2")])
def test_nothing_acknowledged_is_lost_in_crashes(options, tmp_path):
    """In a process of its own, as it forks; see there for what is checked."""
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.crashes", "--seed", "7", "--result", str(result), *options]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    facts = json.loads(result.read_text())
    assert facts["cycles"] >= 22
    assert facts["recall_least"] > 0.999


def point(own, version=0):
    return np.random.default_rng((own, version)).standard_normal(DIM).astype(np.float32)


def fill(collection, ids, version=0):
    payloads = [{"v": version, "own": own} for own in ids]
    collection.upsert(ids, np.stack([point(own, version) for own in ids]), [float(own) for own in ids], payloads)


def contents(collection):
    """Everything in a collection; that searches find each point where it is, is checked."""
    found = {}
    for page in collection.scroll(vectors=True, page_size=50):
        for one in page.points:
            assert np.array_equal(one.vector, point(one.id, one.payload["v"]))
            assert one.labels == {"own": float(one.id)}
            found[one.id] = one.payload["v"]
    assert len(collection) == len(found)
    if found:
        ids = list(found)
        hits = collection.search(np.stack([point(own, found[own]) for own in ids]), k=1)
        assert hits.ids[:, 0].tolist() == ids
        assert sorted(collection.search(point(0), k=len(ids) + 5).ids[0].tolist())[-len(ids) :] == sorted(ids)
    return found


@pytest.fixture
def crashed(tmp_path):
    """A folder as a crash leaves it, with a segment, a buffer and deletions; what was in it before and after its last
    write, and where that begins in the log."""
    live = tmp_path / "live"
    with nh.Collection(live, dim=DIM, metric="l2", labels=("own",), seal_at=1000) as collection:
        fill(collection, range(40))
        collection.seal()
        collection.delete([1, 2])
        fill(collection, range(34, 45), 1)  # few enough to leave the segment as it is
        before, size = contents(collection), (live / LOG).stat().st_size
        fill(collection, [3, 100], 2)
        after = contents(collection)
        shutil.copytree(live, tmp_path / "crashed")
    return tmp_path / "crashed", before, after, size


def test_a_log_torn_anywhere_in_its_last_record_loses_that_record_alone(crashed, tmp_path):
    folder, before, after, size = crashed
    whole = (folder / LOG).read_bytes()
    frame = 24 + 4096
    assert (len(whole) - size) % frame == 0
    assert len(committed_frames(folder / LOG)) >= 4
    headers = [start + byte for start in range(size, len(whole), frame) for byte in range(0, 25, 3)]
    for stop in sorted({*headers, *range(size, len(whole), 397), len(whole) - 1, len(whole)}):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        (copy / LOG).write_bytes(whole[:stop])
        with nh.Collection(copy) as collection:
            assert contents(collection) == (after if stop == len(whole) else before), stop
        shutil.rmtree(copy)


def test_a_log_whose_end_is_zeros_loses_only_that(crashed, tmp_path):
    folder, before, _, size = crashed
    whole = bytearray((folder / LOG).read_bytes())
    whole[size + 100 :] = bytes(len(whole) - size - 100)
    (folder / LOG).write_bytes(whole)
    with nh.Collection(folder) as collection:
        assert contents(collection) == before


def flipped(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_found_or_makes_no_difference(crashed, tmp_path):
    """Never a wrong answer: what is damaged is refused, or made again, or was not needed; the benchmark flips more."""
    folder, before, after, size = crashed
    draw = random.Random(4)
    outcomes = {"refused": 0, "same": 0, "last write lost": 0}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")):
        if path.name == "lock":
            continue
        name, bits = path.relative_to(folder), 8 * path.stat().st_size
        chosen = [draw.randrange(bits) for _ in range(24)] + [draw.randrange(min(bits, 8 * 200)) for _ in range(8)]
        for bit in chosen:
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            flipped(copy / name, bit)
            try:
                with nh.Collection(copy) as collection:
                    found = contents(collection)
            except (CorruptIndexError, StorageError):
                outcomes["refused"] += 1
            else:
                if found == after:
                    outcomes["same"] += 1
                else:
                    assert found == before, (name, bit)
                    assert path.name == LOG, (name, bit)
                    assert bit // 8 >= size, (name, bit)  # as if the last write had been torn: no one can tell
                    outcomes["last write lost"] += 1
            shutil.rmtree(copy)
    assert all(outcomes.values()), outcomes


def test_damage_in_the_middle_of_the_log_is_told_and_repaired(crashed):
    folder, _, after, _ = crashed
    frames = committed_frames(folder / LOG)
    flipped(folder / LOG, 8 * (32 + 24 + int(frames[0]) * (24 + 4096) + 900))
    assert lost_commits(folder / LOG, int(frames[0])) >= 1
    for _ in range(2):  # refusing it changes nothing
        with pytest.raises(CorruptCollectionError, match=r"hides .* acknowledged writes") as caught:
            nh.Collection(folder)
        del caught
        gc.collect()
    report = repair(folder)
    assert any("acknowledged writes" in note for note in report.notes)
    assert len(committed_frames(Path(report.damaged, LOG))) == len(frames)  # for whoever looks closer
    with nh.Collection(folder) as collection:
        kept = contents(collection)
        assert kept.items() - after.items() != kept.items()
    assert verify(folder).problems == []


@pytest.mark.parametrize("words", [slice(4, 8), slice(8, 16)], ids=["size", "salts"])
def test_a_commit_whose_end_is_not_to_be_recognised_is_missed_all_the_same(crashed, words):
    """The last but one: behind it is only one that ends as it should, which alone would pass for a torn one."""
    folder, _, _, _ = crashed
    data = bytearray((folder / LOG).read_bytes())
    header = 32 + (int(committed_frames(folder / LOG)[-2]) - 1) * (24 + 4096)
    changed = bytearray(data[header : header + 24])
    changed[words] = bytes(words.stop - words.start) if words.start == 4 else bytes([changed[8] ^ 4, *changed[9:16]])
    data[header : header + 24] = changed
    (folder / LOG).write_bytes(data)
    with pytest.raises(CorruptCollectionError, match=r"hides .* acknowledged writes"):
        nh.Collection(folder)


@pytest.mark.parametrize("byte", [0, 4, 9, 17, 20, 25, 31])
def test_a_log_with_a_damaged_head_is_not_taken_for_an_empty_one(crashed, byte):
    folder, _, _, _ = crashed
    flipped(folder / LOG, 8 * byte)
    with pytest.raises(CorruptCollectionError, match=r"hides .* acknowledged writes"):
        nh.Collection(folder)


def test_verify_finds_what_repair_keeps(crashed):
    folder, _, after, _ = crashed
    nh.Collection(folder).close()  # the log is merged
    assert verify(folder) == (len(after), 1, [], True)
    connection = sqlite3.connect(folder / store.FILE)
    (row,) = connection.execute("SELECT row FROM ids WHERE id = 35").fetchone()
    connection.execute("UPDATE vectors SET data = zeroblob(16) WHERE row = ?", (row,))
    connection.commit()
    connection.close()
    found = verify(folder)
    assert not found.repairable
    assert any(f"row {row}" in problem for problem in found.problems)
    report = repair(folder)
    assert report.lost == [row]
    assert report.kept == len(after) - 1
    assert Path(report.damaged, store.FILE).is_file()
    with nh.Collection(folder) as collection:
        assert contents(collection) == {own: version for own, version in after.items() if own != 35}
        fill(collection, [35], 9)
    assert verify(folder).problems == []
    assert repair(folder) == (len(after), [], [], "")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE points SET payload = '{\"v\":9}' WHERE row = 50",
        "UPDATE points SET labels = NULL WHERE row = 50",
        "UPDATE points SET row = 500 WHERE row = 50",
        "UPDATE vectors SET data = zeroblob(16) WHERE row = 50",
        "DELETE FROM vectors WHERE row = 50",
        "DELETE FROM points WHERE row = 5",
        "UPDATE ids SET row = 3 WHERE id = 40",
        "DELETE FROM ids WHERE id = 40",
        "UPDATE deaths SET row = 5 WHERE row = 2",
        "UPDATE deaths SET sequence = 1 WHERE row = 2",
        "UPDATE segments SET size = 39",
        "UPDATE segments SET crc = crc + 1",
        "UPDATE meta SET value = replace(value, '4', '5')",
        "DELETE FROM meta WHERE key = 'position'",
        "DELETE FROM meta WHERE key = 'settings'",
    ],
)
def test_records_without_their_checksum_are_refused(crashed, statement):
    folder, _, after, _ = crashed
    nh.Collection(folder).close()  # the log is merged
    connection = sqlite3.connect(folder / store.FILE)
    assert connection.execute("SELECT id FROM points WHERE row = 50").fetchone() == (43,)
    assert connection.execute(statement).rowcount >= 1
    connection.commit()
    connection.close()
    with pytest.raises(CorruptIndexError), nh.Collection(folder) as collection:
        contents(collection)
    assert verify(folder).problems
    assert not verify(folder).repairable
    if "settings" not in statement and "value" not in statement:
        repair(folder)
        with nh.Collection(folder) as collection:
            assert contents(collection).items() <= after.items()
            assert len(collection) >= len(after) - 1


def test_a_message_of_sqlite_that_is_no_text_is_about_damage(crashed):
    folder, _, _, _ = crashed
    nh.Collection(folder).close()  # the log is merged
    data = (folder / store.FILE).read_bytes()
    name = b"pointspoints"  # of the table, which SQLite names where it cannot read how it was made
    assert data.count(name) == 1
    (folder / store.FILE).write_bytes(
        data.replace(name, b"p\xccintspoints").replace(b"CREATE TABLE poi", b"CREATE TABEL poi")
    )
    with pytest.raises(CorruptCollectionError):
        nh.Collection(folder)


def test_an_answer_without_its_checksum_is_refused(tmp_path):
    with nh.Collection(tmp_path / "c", dim=DIM) as collection:
        collection.delete([1], request_id="a")
        collection._store._writer.execute("UPDATE requests SET answer = '[7, 7]'")
        with pytest.raises(CorruptCollectionError, match="request a"):
            collection.delete([1], request_id="a")


@pytest.mark.parametrize("suffix", ["index", "rows"])
@pytest.mark.parametrize("damage", ["missing", "empty", "of another"])
def test_segments_are_made_again_from_the_store(crashed, suffix, damage):
    folder, _, after, _ = crashed
    (path,) = (folder / FOLDER).glob(f"*.{suffix}")
    good = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        other = nh.FlatIndex(DIM + 1, metric="l2")
        other.add(np.zeros((3, DIM + 1)))
        other.save(path)
    assert len(verify(folder).problems) == 1
    assert verify(folder).repairable
    with nh.Collection(folder) as collection:
        assert len(collection.stats()["recovered"]) == 1
        assert contents(collection) == after
    assert path.read_bytes() == good


def test_orphans_are_removed(crashed):
    folder, _, after, _ = crashed
    for name in ("00000099.index", ".nearhash-12.tmp"):
        (folder / FOLDER / name).write_bytes(b"x")
    with nh.Collection(folder) as collection:
        assert len(collection.stats()["recovered"]) == 2
        assert contents(collection) == after
    assert len(list((folder / FOLDER).iterdir())) == 2


@pytest.fixture
def armed():
    yield failpoints.arm
    failpoints.arm(None)


def test_after_a_failed_sync_nothing_is_written_until_it_is_opened_again(tmp_path, armed):
    with nh.Collection(tmp_path / "c", dim=DIM, metric="l2", labels=("own",)) as collection:
        fill(collection, range(5))
        armed("commit.written=io")
        with pytest.raises(StorageError, match="disk I/O error") as caught:
            fill(collection, range(5, 9))
        assert caught.value.reason == "disk failed"
        armed(None)
        for write in (lambda: fill(collection, [50]), lambda: collection.delete([1]), collection.seal):
            with pytest.raises(StorageError, match="writes have stopped"):
                write()
        assert "disk I/O error" in collection.state
        assert contents(collection) == dict.fromkeys(range(5), 0)
    with nh.Collection(tmp_path / "c") as collection:
        assert collection.state == "ok"
        assert set(contents(collection)) in (set(range(5)), set(range(9)))  # not acknowledged: either is right
        fill(collection, [50])


def test_a_write_that_is_durable_but_cannot_be_shown_stops_writes(tmp_path, armed):
    with nh.Collection(tmp_path / "c", dim=DIM, metric="l2", labels=("own",)) as collection:
        armed("commit.durable=error")
        with pytest.raises(RuntimeError, match="failpoint"):
            fill(collection, [1])
        armed(None)
        with pytest.raises(StorageError, match="writes have stopped"):
            fill(collection, [2])
    with nh.Collection(tmp_path / "c") as collection:
        assert contents(collection) == {1: 0}


def test_a_full_disk_refuses_writes_and_loses_nothing(tmp_path):
    with nh.Collection(tmp_path / "c", dim=DIM, metric="l2", labels=("own",)) as collection:
        fill(collection, range(10))
        (pages,) = collection._store._writer.execute("PRAGMA page_count").fetchone()
        collection._store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StorageError, match="full") as caught:
            fill(collection, range(100, 2000))
        assert caught.value.reason == "disk full"
        assert collection.state == "disk full"
        assert contents(collection) == dict.fromkeys(range(10), 0)
        collection._store._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
        fill(collection, [100])
        assert collection.state == "ok"
    with nh.Collection(tmp_path / "c") as collection:
        assert contents(collection) == dict.fromkeys([*range(10), 100], 0)


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int failing(void) { const char *path = getenv("FAIL_WHEN"); return path && access(path, F_OK) == 0; }
int fsync(int fd) {
    static int (*real)(int); if (!real) real = dlsym(RTLD_NEXT, "fsync");
    if (failing()) { errno = EIO; return -1; } return real(fd);
}
int fdatasync(int fd) {
    static int (*real)(int); if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (failing()) { errno = EIO; return -1; } return real(fd);
}
"""

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_durability import contents, fill
import nearhash as nh
from nearhash.errors import StorageError
with nh.Collection(sys.argv[1], dim=4, metric="l2", labels=("own",)) as collection:
    fill(collection, range(5))
    Path(sys.argv[2]).touch()
    for own in (5, 6):
        try:
            fill(collection, [own])
        except StorageError as error:
            print(error.reason)
    Path(sys.argv[2]).unlink()
    assert contents(collection) == dict.fromkeys(range(5), 0)
"""


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler and Linux")
def test_real_sync_errors(tmp_path):
    """The C library itself reports that syncing has failed."""
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True)
    flag = tmp_path / "fail"
    command = [sys.executable, "-c", WRITER, str(tmp_path / "c"), str(flag), str(Path(__file__).parent)]
    environment = {**os.environ, "LD_PRELOAD": str(shim), "FAIL_WHEN": str(flag)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:2] == ["disk failed", "stopped"]
    with nh.Collection(tmp_path / "c") as collection:
        assert set(range(5)) <= set(contents(collection)) <= set(range(6))


def test_newer_formats_are_refused_and_older_ones_upgraded(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    with nh.Collection(folder, dim=DIM, metric="l2", labels=("own",)) as collection:
        fill(collection, range(5))
    for version, message in ((store.FORMAT + 1, "use a newer one"), (0, "cannot upgrade")):
        connection = sqlite3.connect(folder / store.FILE)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        with pytest.raises(VersionError, match=message):
            nh.Collection(folder)
    with pytest.raises(VersionError, match="upgraded"):
        nh.Collection(folder, read_only=True)

    def step(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS added (a)")

    monkeypatch.setitem(store.UPGRADES, 0, step)
    with nh.Collection(folder) as collection:
        assert contents(collection) == dict.fromkeys(range(5), 0)
    assert sqlite3.connect(folder / store.FILE).execute("SELECT count(*) FROM added").fetchone() == (0,)
