"""Near-duplicates in files: formats, kills at every step, stores, and input that cannot be read."""

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import nearhash as nh
from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.dedup import FileOptions, Settings, deduplicate_files, durable, stages
from nearhash.index.dedup import store as dedup_store
from nearhash.index.dedup.candidates import distinct
from nearhash.index.dedup.reading import Columns, Cursor, read_chunks
from nearhash.index.dedup.signatures import Segment, Signatures
from nearhash.index.dedup.sources import find_sources
from nearhash.index.dedup.stages import State
from nearhash.index.dedup.store import Store

SETTINGS = Settings.choose(ngram=2, k=64)
WORDS = [f"w{i}" for i in range(400)]


def corpus(seed=0, families=40, words=40):
    random = np.random.default_rng(seed)
    texts = []
    for number in range(families):
        text = [WORDS[i] for i in random.integers(0, len(WORDS), words)]
        texts.append(" ".join(text))
        for edits in range(number % 4):
            copy = list(text)
            for place in random.integers(0, words, edits):
                copy[place] = "new"
            texts.append(" ".join(copy))
    texts += ["", "..."]
    return [texts[i] for i in random.permutation(len(texts))]


def write_jsonl(path, texts, **columns):
    rows = [{"text": text, **{name: values[i] for name, values in columns.items()}} for i, text in enumerate(texts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(inputs, out, chosen=SETTINGS, options=None, **rest):
    return deduplicate_files([inputs] if isinstance(inputs, Path) else inputs, out, chosen, options, threads=1, **rest)


def clusters(out):
    return [json.loads(line) for line in (out / "clusters.jsonl").read_text().splitlines()]


def tree(folder):
    """All files but the folder of work, with their bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock" and "work" not in path.relative_to(folder).parts
    }


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks of a few documents, partitions of a few keys, and files that are committed one by one."""
    monkeypatch.setattr(stages, "read_chunks", partial(read_chunks, most_documents=17))
    monkeypatch.setattr(stages, "_BYTES_TO_SORT", 1 << 16)
    monkeypatch.setattr(stages, "_SLAB", 40)
    monkeypatch.setattr(stages, "_BYTES_OF_PAIR", 1 << 20)
    monkeypatch.setattr("nearhash.index.dedup.outcome._COMMIT_AFTER", 1)


# --- formats ---


def test_files_give_what_memory_gives(tmp_path, small_steps):
    texts = corpus()
    report = run(write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out")
    expected = nh.deduplicate(texts, ngram=2, k=64)
    lines = (tmp_path / "in.jsonl").read_text().splitlines()
    kept = [line for line, keep in zip(lines, expected.keep, strict=True) if keep]
    assert (tmp_path / "out/kept/in.jsonl").read_text().splitlines() == kept
    found = clusters(tmp_path / "out")
    assert {entry["document"]: entry["cluster"] for entry in found} == {
        int(i): int(group[0]) for group in expected.groups for i in group
    }
    assert [entry["document"] for entry in found] == sorted(entry["document"] for entry in found)
    similarity = {
        tuple(pair): value for pair, value in zip(expected.pairs.tolist(), expected.similarities.tolist(), strict=True)
    }
    for entry in found:
        assert entry["kept"] == (entry["cluster"] == entry["document"])
        assert (entry["file"], entry["row"]) == ("in.jsonl", entry["document"] + 1)
        pair = entry["cluster"], entry["document"]
        if pair in similarity:
            assert entry["similarity"] == pytest.approx(similarity[pair], abs=1e-6)
    facts = expected.statistics
    for name in ("documents", "kept", "removed", "empty", "clusters"):
        assert report[name] == facts[name]
    assert report["duplicate_pairs"] == facts["pairs"]
    assert report["estimated_false_negative_rate"] == pytest.approx(facts["false_negative_rate"], abs=1e-6)
    assert report == json.loads((tmp_path / "out/report.json").read_text())


@pytest.mark.parametrize(("threshold", "words"), [(0.7, 7), (0.9, 9), (0.8, 8), (0.6, 6), (0.3, 3)])
def test_a_pair_right_at_the_threshold_is_a_duplicate(tmp_path, threshold, words):
    texts = [" ".join(WORDS[:words]), " ".join(WORDS[:10])]
    chosen = Settings.choose(threshold, 1, k=64, bands=64, rows=1)
    report = run(write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out", chosen)
    assert len(nh.deduplicate(texts, threshold, 1, k=64, bands=64, rows=1)) == 1
    assert (report["kept"], report["duplicate_pairs"]) == (1, 1)


def test_pairs_beyond_memory_are_written_in_runs(tmp_path, small_steps, monkeypatch):
    monkeypatch.setattr("nearhash.index.dedup.candidates._GATHERED", 500)
    monkeypatch.setattr(stages, "_BYTES_OF_PAIR", 1 << 17)
    random = np.random.default_rng(3)
    texts = [text for text in [" ".join(random.choice(WORDS, 40)) for _ in range(12)] for _ in range(25)]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    sizes = []

    def look(stage, done, total):
        if stage == "compare":
            sizes.append(json.loads((tmp_path / "out/work/manifest.json").read_text())["runs"])

    merged = []
    monkeypatch.setattr(stages, "distinct", lambda pairs: merged.append(len(pairs)) or distinct(pairs))
    report = run(source, tmp_path / "out", memory=1 << 26, progress=look)
    assert len(merged) > 10
    assert max(merged) <= max(1 << 26 >> 17, sum(map(len, sizes[-1])))
    assert any(len([size for size in runs if size]) > 1 for runs in sizes[-1])
    assert report["duplicate_pairs"] == 12 * 300
    assert report["compared_pairs"] == 12 * 300
    assert report["kept"] == 12


@pytest.mark.parametrize("verify", ["sketch", None])
def test_other_verification_gives_what_memory_gives(tmp_path, small_steps, verify):
    texts = corpus(1)
    chosen = Settings.choose(ngram=2, k=64, verify=verify)
    run(write_jsonl(tmp_path / "in.jsonl", texts), tmp_path / "out", chosen)
    expected = nh.deduplicate(texts, ngram=2, k=64, verify=verify)
    assert {entry["document"]: entry["cluster"] for entry in clusters(tmp_path / "out")} == {
        int(i): int(group[0]) for group in expected.groups for i in group
    }


def test_a_text_file_is_a_document(tmp_path):
    texts = corpus(2, families=8)
    source = tmp_path / "in"
    (source / "b").mkdir(parents=True)
    names = [f"b/{i:02}.txt" if i % 2 else f"a{i:02}.txt" for i in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        (source / name).write_text(text)
    (source / "passed-over.bin").write_bytes(b"\xff")
    report = run(source, tmp_path / "out")
    order = sorted(range(len(names)), key=lambda i: ("b/" in names[i], names[i]))
    expected = nh.deduplicate([texts[i] for i in order], ngram=2, k=64)
    kept = {names[i] for i, keep in zip(order, expected.keep, strict=True) if keep}
    assert {path.removeprefix("kept/") for path in tree(tmp_path / "out") if path.startswith("kept/")} == kept
    assert report["files"] == len(texts)
    assert all((tmp_path / "out/kept" / name).read_text() == texts[names.index(name)] for name in kept)
    assert {entry["id"] for entry in clusters(tmp_path / "out")} <= set(names)


def test_a_document_of_100_megabytes(tmp_path):
    numbers = np.char.zfill(np.arange(1 << 17).astype(str), 7).astype(bytes)
    block = b" ".join(numbers.tolist()) + b"\n"
    content = b"".join(block.replace(b"00", b"%02d" % i) for i in range(100, 196))
    assert len(content) > 100 * 2**20
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_bytes(content)
    (tmp_path / "in/b.txt").write_bytes(b"one two three four five six seven")
    (tmp_path / "in/c.txt").write_bytes(b"One, two, three, four, five, six, seven!")
    report = run(tmp_path / "in", tmp_path / "out", Settings.choose(), memory=1 << 26)
    assert (report["documents"], report["kept"], report["duplicate_pairs"]) == (3, 2, 1)
    assert (tmp_path / "out/kept/a.txt").stat().st_size == len(content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_lines_of_text(tmp_path, suffix):
    texts = corpus(3, families=10)
    content = "\r\n".join(texts).encode()  # the last line has no end
    path = tmp_path / f"in.txt{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    run(path, tmp_path / "out", options=FileOptions(lines=True))
    keep = nh.deduplicate(texts, ngram=2, k=64).keep
    expected = b"".join(line for line, kept in zip(content.splitlines(True), keep, strict=True) if kept)
    found = (tmp_path / f"out/kept/in.txt{suffix}").read_bytes()
    assert (gzip.decompress(found) if suffix else found) == expected


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_rows_of_parquet(tmp_path, small_steps, kind):
    texts = [text or None for text in corpus(4)]
    names = [f"name {i}" for i in range(len(texts))]
    numbers = list(range(len(texts)))
    table = pa.table({"n": numbers, "content": pa.array(texts).cast(kind), "name": names})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=30, compression="zstd")
    run(tmp_path / "in.parquet", tmp_path / "out", options=FileOptions("content", "name"))
    keep = nh.deduplicate([text or "" for text in texts], ngram=2, k=64).keep
    assert pq.read_table(tmp_path / "out/kept/in.parquet").equals(table.filter(pa.array(keep)))
    assert all(entry["id"] == names[entry["row"] - 1] for entry in clusters(tmp_path / "out"))


@pytest.mark.parametrize("limit", [1 << 26, 1000])
def test_row_groups_stay_as_large_as_they_were(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("nearhash.index.dedup.kept._ROW_GROUP_BYTES", limit)
    table = pa.table({"text": [f"a{i} b{i} c{i}" for i in range(12_000)], "n": range(12_000)})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=10_000)
    run(tmp_path / "in.parquet", tmp_path / "out")
    kept = pq.ParquetFile(tmp_path / "out/kept/in.parquet")
    sizes = [kept.metadata.row_group(group).num_rows for group in range(kept.num_row_groups)]
    assert sizes == ([10_000, 2000] if limit > 1000 else [4096, 4096, 3808])
    assert kept.read().equals(table)


def test_a_damaged_page_of_parquet_names_the_file(tmp_path):
    texts = [f"a{i} b{i * i} c{i}" for i in range(5000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet", use_dictionary=False)
    content = bytearray((tmp_path / "in.parquet").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(range(200)) + bytes(100)
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=r"in\.parquet: not a Parquet file, or damaged: Corrupt snappy"):
        run(tmp_path / "in.parquet", tmp_path / "out")


def test_clusters_are_json_whatever_the_ids_are(tmp_path):
    ids = ["NaN", "[1, null]", '{"a": 1e999}', "null", "7", '"\\ud800"']
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"text": "a b c d", "id": {each}}}\n' for each in ids))
    run(path, tmp_path / "out", options=FileOptions(id_column="id"), store=tmp_path / "store")

    def refuse(name):
        raise AssertionError(name)

    lines = (tmp_path / "out/clusters.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=refuse)["id"] for line in lines]
    assert found == ["nan", "[1, None]", "{'a': inf}", None, 7, "\ud800"]


def test_several_files_blank_lines_and_files_without_documents(tmp_path, small_steps):
    texts = corpus(5)
    write_jsonl(tmp_path / "in/a.jsonl", texts[:50], key=list(range(50)))
    (tmp_path / "in/b.jsonl").write_text("\n\n")
    (tmp_path / "in/c.jsonl").write_text("")
    rows = [json.dumps({"text": text, "key": str(i)}) for i, text in enumerate(texts[50:])]
    (tmp_path / "in/d.jsonl.gz").write_bytes(gzip.compress(("\n \n".join(rows) + "\n").encode()))
    report = run(tmp_path / "in", tmp_path / "out", options=FileOptions(id_column="key"))
    expected = nh.deduplicate(texts, ngram=2, k=64)
    assert report["documents"] == len(texts)
    assert report["kept"] == expected.keep.sum()
    written = gzip.decompress((tmp_path / "out/kept/d.jsonl.gz").read_bytes()).decode().splitlines()
    assert written == [row for row, keep in zip(rows, expected.keep[50:], strict=True) if keep]
    for entry in clusters(tmp_path / "out"):
        assert entry["id"] == (entry["document"] if entry["document"] < 50 else str(entry["document"] - 50))


def test_empty_documents_are_dropped_if_asked(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", ["", "one two", "", None, "..."])
    assert run(path, tmp_path / "kept")["kept"] == 5
    report = run(path, tmp_path / "dropped", options=FileOptions(drop_empty=True))
    assert (report["empty"], report["kept"], report["clusters"]) == (4, 1, 0)


def test_memory_and_threads_do_not_matter(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(6))
    run(path, tmp_path / "much")
    monkeypatch.setattr(stages, "_BYTES_TO_SORT", 1 << 16)
    monkeypatch.setattr(stages.Signatures, "__init__", partial_init(stages.Signatures.__init__))
    deduplicate_files([path], tmp_path / "little", SETTINGS, threads=3, memory=1 << 26)
    assert tree(tmp_path / "much") == tree(tmp_path / "little")


def partial_init(original):
    return lambda self, segments, k, memory: original(self, segments, k, 0)


def test_signatures_by_reads_are_those_in_memory(tmp_path):
    random = np.random.default_rng(9)
    rows = random.integers(0, 2**16, (4000, 64), np.uint16)
    rows[:1500].tofile(tmp_path / "one")
    rows[1500:].tofile(tmp_path / "two")
    parts = [
        Segment(tmp_path / "one", 0, 1500),
        Segment(tmp_path / "none", 1500, 0),
        Segment(tmp_path / "two", 1500, 2500),
    ]
    for memory in (0, 1500 * 128, 1 << 30):
        signatures = Signatures(parts, 64, memory)
        for count in (0, 1, 7, 3000):
            wanted = np.sort(random.permutation(4000)[:count])
            assert np.array_equal(signatures.rows(wanted), rows[wanted])


# --- kills ---


class Killed(BaseException):
    pass


def kill_at_commit(monkeypatch, number):
    """Stop at the commit of that number, when all before it is on disk and it is not."""
    original, count = State.commit, [0]

    def commit(self, **changes):
        count[0] += 1
        if count[0] == number:
            raise Killed
        original(self, **changes)

    monkeypatch.setattr(State, "commit", commit)
    return count


def several_files(folder, seed=7):
    texts = corpus(seed, families=25)
    write_jsonl(folder / "a.jsonl", texts[:30])
    (folder / "b.txt").write_text(texts[30])
    (folder / "c.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts[31:45]).encode())
    )
    pq.write_table(pa.table({"text": texts[45:]}), folder / "d.parquet", row_group_size=9)
    return folder


@pytest.mark.parametrize("verify", ["exact", "sketch"])
def test_a_run_killed_at_any_commit_resumes_to_the_same_bytes(tmp_path, small_steps, monkeypatch, verify):
    source, chosen = several_files(tmp_path / "in"), Settings.choose(ngram=2, k=64, verify=verify)
    run(source, tmp_path / "whole", chosen)
    with monkeypatch.context() as patch:
        count = kill_at_commit(patch, -1)
        run(source, tmp_path / "counted", chosen)
    commits = count[0]
    assert commits > 20
    for number in range(1, commits + 1):
        out = tmp_path / f"out-{number}"
        with monkeypatch.context() as patch:
            kill_at_commit(patch, number)
            with pytest.raises(Killed):
                run(source, out, chosen)
        run(source, out, chosen, resume=True)
        assert tree(out) == tree(tmp_path / "whole")
        assert [path.name for path in sorted((out / "work").iterdir())] == ["lock", "manifest.json"]
        shutil.rmtree(out)


def test_a_run_killed_again_and_again(tmp_path, small_steps, monkeypatch):
    source = several_files(tmp_path / "in")
    run(source, tmp_path / "whole")
    for _ in range(200):
        with monkeypatch.context() as patch:
            kill_at_commit(patch, 4)
            try:
                run(source, tmp_path / "out", resume=True)
                break
            except Killed:
                pass
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_process_killed_while_it_reads(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(8))
    run(path, tmp_path / "whole")
    code = f"""
import os, signal
from functools import partial
from itertools import pairwise
from pathlib import Path
from nearhash.index.dedup import Settings, deduplicate_files, stages
from nearhash.index.dedup.reading import read_chunks
stages.read_chunks = partial(read_chunks, most_documents=17)
seen = []
def progress(*step):
    seen.append(step)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
deduplicate_files([{str(path)!r}], {str(tmp_path / "out")!r}, Settings.choose(ngram=2, k=64), progress=progress)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    manifest = json.loads((tmp_path / "out/work/manifest.json").read_text())
    assert manifest["documents"] == 51
    run(path, tmp_path / "out", resume=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_full_disk_loses_nothing(tmp_path):
    texts = corpus(8)
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    run(path, tmp_path / "whole")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            run(path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    run(path, tmp_path / "out", resume=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_run_says_the_same_again(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(9))
    report = run(path, tmp_path / "out")
    before = tree(tmp_path / "out")
    assert run(path, tmp_path / "out", resume=True) == report
    assert tree(tmp_path / "out") == before


def test_other_arguments_do_not_resume(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(9))
    with monkeypatch.context() as patch:
        kill_at_commit(patch, 3)
        with pytest.raises(Killed):
            run(path, tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match=r"in it; --resume goes on with the run in it|has 'work' in it"):
        run(path, tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match=r"had other arguments: threshold 0.8, not 0.7"):
        run(path, tmp_path / "out", Settings.choose(0.7, ngram=2, k=64, bands=9, rows=7), resume=True)
    with pytest.raises(InvalidArgumentError, match="lines False, not True"):
        run(path, tmp_path / "out", options=FileOptions(lines=True), resume=True)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InvalidArgumentError, match="inputs"):
        run(path, tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not a JSON document"), ("{}", "another release"), ('{"format": 1}', "not the manifest of a run")],
)
def test_a_damaged_manifest_of_a_run(tmp_path, content, message):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(9))
    run(path, tmp_path / "out")
    (tmp_path / "out/work/manifest.json").write_text(content)
    with pytest.raises((CorruptIndexError, InvalidArgumentError), match=rf"manifest\.json.*{message}"):
        run(path, tmp_path / "out", resume=True)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, small_steps):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(9))

    def touch(stage, done, total):
        if stage == "compare":
            path.write_text(path.read_text() + "\n")

    with pytest.raises(InvalidArgumentError, match=r"in\.jsonl: it has changed since the run began"):
        run(path, tmp_path / "out", progress=touch)


def test_one_process_at_a_time(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", ["a b"])
    (tmp_path / "out/work").mkdir(parents=True)
    with durable.locked(tmp_path / "out/work"), pytest.raises(InvalidArgumentError, match="another process"):
        run(path, tmp_path / "out", resume=True)


# --- stores ---


def test_batches_through_a_store_group_as_one_run(tmp_path, small_steps):
    texts = corpus(10, families=60)
    chosen = Settings.choose(ngram=2, k=64, verify="sketch")
    parts = [write_jsonl(tmp_path / f"{i}.jsonl", texts[i::3]) for i in range(3)]
    labels = {}
    for i, part in enumerate(parts):
        report = run(part, tmp_path / f"out{i}", chosen, store=tmp_path / "store")
        assert report["in_store_before"] == sum(len(texts[j::3]) for j in range(i))
        labels.update({e["document"]: e["cluster"] for e in clusters(tmp_path / f"out{i}")})
    whole = nh.deduplicate([text for i in range(3) for text in texts[i::3]], ngram=2, k=64, verify="sketch")
    store = Store(tmp_path / "store", chosen)
    assert store.labels().tolist() == whole.labels.tolist()
    assert store.documents == len(texts)
    name = clusters(tmp_path / "out2")
    assert any("in_store" in entry for entry in name)
    for entry in name:
        if "in_store" in entry:
            assert not entry["kept"]
            assert entry["in_store"] == store.name(entry["cluster"])
            part, row = entry["in_store"].split(":")
            before = sum(len(texts[j::3]) for j in range(int(part[0])))
            assert before + int(row) - 1 == entry["cluster"]


def test_the_same_batch_twice_is_removed_whole_and_the_store_is_never(tmp_path):
    texts = [text for text in corpus(11) if text not in ("", "...")]
    path = write_jsonl(tmp_path / "in.jsonl", texts)
    first = run(path, tmp_path / "one", store=tmp_path / "store")
    second = run(path, tmp_path / "two", store=tmp_path / "store")
    assert first["kept"] > 0
    assert (second["kept"], second["duplicates_of_the_store"]) == (0, len(texts))
    assert not list((tmp_path / "two").rglob("in.jsonl"))


def test_check_only_adds_nothing(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(11))
    run(path, tmp_path / "one", store=tmp_path / "store")
    before = tree(tmp_path / "store")
    checked = run(path, tmp_path / "two", store=tmp_path / "store", check_only=True)
    assert checked["kept"] == checked["empty"]
    assert tree(tmp_path / "store") == before


def test_a_run_with_a_store_killed_at_any_commit(tmp_path, small_steps, monkeypatch):
    texts = corpus(12, families=20)
    one, two = write_jsonl(tmp_path / "1.jsonl", texts[::2]), write_jsonl(tmp_path / "2.jsonl", texts[1::2])
    run(one, tmp_path / "first", store=tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "whole-store")
    run(two, tmp_path / "whole", store=tmp_path / "whole-store")
    labels = Store(tmp_path / "whole-store", SETTINGS).labels()
    with monkeypatch.context() as patch:
        count = kill_at_commit(patch, -1)
        run(two, tmp_path / "counted", store=tmp_path / "base", check_only=True)
    for number in [2, 5, *range(count[0] - 6, count[0] + 1)]:
        out, store = tmp_path / f"out-{number}", tmp_path / f"store-{number}"
        shutil.copytree(tmp_path / "base", store)
        with monkeypatch.context() as patch:
            kill_at_commit(patch, number)
            with pytest.raises(Killed):
                run(two, out, store=store)
        if Store(store, SETTINGS).documents < len(texts):  # as a kill while the batch is copied would leave it
            (store / "segment-000001").mkdir()
            (store / "segment-000001/keys.bin").write_bytes(b"half")
            (store / "segment-000007").mkdir()
            (store / "labels-000009.npy").write_bytes(b"half")
        run(two, out, store=store, resume=True)
        assert tree(out) == tree(tmp_path / "whole")
        found = Store(store, SETTINGS)
        assert np.array_equal(found.labels(), labels)
        assert found.documents == len(texts)
        assert tree(store).keys() == tree(tmp_path / "whole-store").keys()


@pytest.mark.parametrize("step", ["_write_segment", "checksum", "write_array", "write_json"])
def test_the_first_batch_of_a_store_is_added_after_a_kill(tmp_path, monkeypatch, step):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(11))

    def fail(*arguments):
        if step != "write_json" or arguments[1]["segments"]:
            raise Killed
        plain(*arguments)

    with monkeypatch.context() as patch:
        plain = getattr(dedup_store, step)
        patch.setattr(dedup_store, step, fail)
        with pytest.raises(Killed):
            run(path, tmp_path / "out", store=tmp_path / "store")
    assert Store(tmp_path / "store", SETTINGS).documents == 0
    run(path, tmp_path / "out", store=tmp_path / "store", resume=True)
    assert Store(tmp_path / "store", SETTINGS).documents == len(corpus(11))


def test_a_store_of_other_settings_or_a_damaged_one_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(11))
    store = tmp_path / "store"
    run(path, tmp_path / "one", store=store)
    with pytest.raises(InvalidArgumentError, match=r"store: .* made otherwise: seed 1 there, 2 here"):
        run(path, tmp_path / "two", Settings.choose(ngram=2, k=64, seed=2), store=store)
    shutil.rmtree(tmp_path / "two")
    with (store / "segment-000000/keys.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptIndexError, match=r"keys\.bin: expected"):
        run(path, tmp_path / "two", store=store)
    (store / "store.json").write_text("[]")
    with pytest.raises(CorruptIndexError, match="expected a JSON object, got list"):
        run(path, tmp_path / "three", store=store)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious").write_text("")
    with pytest.raises(InvalidArgumentError, match="neither a store nor an empty folder"):
        run(path, tmp_path / "four", store=tmp_path / "other")


def test_segments_that_become_one_say_what_they_said_before(tmp_path, monkeypatch):
    texts = [text for seed in range(4) for text in corpus(seed, families=12)] + ["a b c d e"] * 9
    cuts = [0, 1, 3, 4, 5, 9, 30, 31, 33, 60, 64, 64, 65, len(texts)]
    parts = [write_jsonl(tmp_path / f"{i}.jsonl", texts[a:b]) for i, (a, b) in enumerate(pairwise(cuts))]
    monkeypatch.setattr(dedup_store, "_SMALL", 1)
    monkeypatch.setattr(dedup_store, "_MERGED", 3)
    for i, part in enumerate(parts):
        merged = run(part, tmp_path / f"merged-{i}", store=tmp_path / "merged")
        with monkeypatch.context() as patch:
            patch.setattr(dedup_store, "_worth_merging", lambda older, newer: False)
            assert run(part, tmp_path / f"apart-{i}", store=tmp_path / "apart") == merged
        assert tree(tmp_path / f"merged-{i}") == tree(tmp_path / f"apart-{i}")
        found, expected = Store(tmp_path / "merged", SETTINGS), Store(tmp_path / "apart", SETTINGS)
        sizes = [segment["documents"] for segment in found.segments]
        assert all(older >= 2 * newer for older, newer in pairwise(sizes))
        assert found.documents == expected.documents == cuts[i + 1]
        assert found.labels().tolist() == expected.labels().tolist()
        assert [found.name(d) for d in range(found.documents)] == [expected.name(d) for d in range(found.documents)]
        everything = np.arange(found.documents)
        rows, others = (Signatures(each.signatures(), SETTINGS.k, 0).rows(everything) for each in (found, expected))
        assert np.array_equal(rows, others)
        keys = np.unique(
            np.concatenate([np.fromfile(file, np.uint64) for file in (tmp_path / "apart").rglob("keys.bin")])
        )
        for every in (1, 7):
            pairs, other_pairs = (
                sorted(zip(*map(list, each.matches(keys[::every])), strict=True)) for each in (found, expected)
            )
            assert pairs == other_pairs
        stored = {path.name for path in (tmp_path / "merged").iterdir()} - {"lock", "store.json"}
        assert stored == {
            *(segment["name"] for segment in found.segments),
            found.segments[-1]["name"].replace("segment", "labels") + ".npy",
        }
    assert len(found.segments) < len(expected.segments) // 2
    report = run(parts[0], tmp_path / "again", store=tmp_path / "merged", check_only=True)
    assert report["duplicates_of_the_store"] == report["documents"]


def test_large_segments_stay_apart():
    assert dedup_store._worth_merging(1 << 20, 1 << 20)
    assert not dedup_store._worth_merging(1 << 22, 1)
    assert dedup_store._worth_merging(4000, 1)
    assert not dedup_store._worth_merging(5000, 2000)


@pytest.mark.parametrize("name", ["signatures.bin", "keys.bin", "documents.bin", "names.bin", "ends.bin", "labels"])
def test_a_changed_byte_of_a_store_is_noticed(tmp_path, name):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(11))
    run(path, tmp_path / "one", store=tmp_path / "store")
    damaged = tmp_path / "store" / ("labels-000000.npy" if name == "labels" else f"segment-000000/{name}")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CorruptIndexError, match=rf"{damaged.name}: damaged or missing"):
        run(path, tmp_path / "two", store=tmp_path / "store")
    damaged.unlink()
    with pytest.raises(CorruptIndexError, match=rf"{damaged.name}: "):
        run(path, tmp_path / "three", store=tmp_path / "store")


@pytest.mark.parametrize("change", ["name", "crc32c", "labels", "runs"])
def test_a_manifest_of_a_store_is_checked(tmp_path, change):
    path = write_jsonl(tmp_path / "in.jsonl", corpus(11))
    run(path, tmp_path / "one", store=tmp_path / "store")
    manifest = json.loads((tmp_path / "store/store.json").read_text())
    if change == "labels":
        manifest["labels"]["name"] = "../labels-000000.npy"
    elif change == "name":
        manifest["segments"][0]["name"] = "../segment-000000"
    else:
        del manifest["segments"][0][change]
    (tmp_path / "store/store.json").write_text(json.dumps(manifest))
    with pytest.raises(
        CorruptIndexError, match=r"store\.json: (expected a name in this folder|not a list of segments)"
    ):
        run(path, tmp_path / "two", store=tmp_path / "store")


# --- input that cannot be read ---

BAD = {
    "no column": (
        "a.jsonl",
        b'{"text": "a"}\n\n{"other": 1}\n',
        r"a\.jsonl, line 3: no column 'text' \(there are: other",
    ),
    "no text": ("a.jsonl", b'{"text": 5}', r"line 1: expected text in 'text', got int"),
    "no object": ("a.jsonl", b'{"text": "a"}\n[1]', r"line 2: expected a JSON object, got list"),
    "no JSON": ("a.jsonl", b'{"text": "a"}\n{"text"', r"line 2: not a JSON value"),
    "deep JSON": ("a.jsonl", b'{"text": ' + b"[" * 100_000, r"line 1: not a JSON value"),
    "half a pair": ("a.jsonl", b'{"text": "\\ud800"}', r"line 1: half a surrogate pair"),
    "UTF-8 in JSONL": ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"line 2: invalid UTF-8"),
    "UTF-8 in text": (
        "a.txt",
        b"one\ntwo\n\xc3(",
        r"a\.txt, line 3: invalid UTF-8 \(invalid continuation byte, byte 8",
    ),
    "gzip": ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9)[:-9], r"a\.jsonl\.gz: damaged gzip"),
    "no gzip": ("a.txt.gz", b"plain", r"a\.txt\.gz: damaged gzip file"),
    "no Parquet": ("a.parquet", b"PAR1 no", r"a\.parquet: not a Parquet file"),
    "suffix": ("a.csv", b"1", r"a\.csv: expected a file called \.txt, \.jsonl, \.parquet"),
}


@pytest.mark.parametrize("case", BAD)
def test_input_that_cannot_be_read(tmp_path, case):
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=message):
        run(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out/report.json").exists()


def test_input_that_is_not_there_or_not_right(tmp_path):
    path = write_jsonl(tmp_path / "in/a.jsonl", ["a"])
    pq.write_table(pa.table({"text": [1, 2], "other": ["a", "b"]}), tmp_path / "a.parquet")
    for inputs, options, error, message in [
        ([tmp_path / "no.txt"], None, FileNotFoundError, r"no\.txt"),
        ([], None, InvalidArgumentError, "at least one file or folder"),
        ([path, tmp_path / "in"], None, InvalidArgumentError, "comes twice"),
        ([tmp_path / "a.parquet"], None, InvalidArgumentError, "expected text in column 'text', got int64"),
        (
            [tmp_path / "a.parquet"],
            FileOptions("none"),
            InvalidArgumentError,
            r"no column 'none' \(there are: text, other",
        ),
        ([tmp_path / "a.parquet"], FileOptions("other", "key"), InvalidArgumentError, "no column 'key'"),
        ([path], FileOptions(id_column="key"), InvalidArgumentError, "line 1: no column 'key'"),
        ([path], FileOptions(format="text", id_column="key"), InvalidArgumentError, "only JSONL and Parquet"),
        ([path], FileOptions(format="csv"), InvalidArgumentError, "format: expected one of"),
    ]:
        with pytest.raises(error, match=message):
            run(inputs, tmp_path / "out", options=options)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArgumentError, match="no file of documents"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match="is inside of the input"):
        run(tmp_path / "in", tmp_path / "in/out")
    with pytest.raises(InvalidArgumentError, match="memory: expected"):
        run(path, tmp_path / "out", memory=1000)
    with pytest.raises(InvalidArgumentError, match="check_only"):
        run(path, tmp_path / "out", check_only=True)
    with pytest.raises(InvalidArgumentError, match="have to be apart"):
        run(path, tmp_path / "out", store=tmp_path / "out/store")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(InvalidArgumentError, match="is inside of the input"):
        run(tmp_path / "link", tmp_path / "in/out")
    (tmp_path / "in/nowhere.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        run(tmp_path / "in", tmp_path / "out")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InvalidArgumentError, match=r"pipe\.txt: expected a regular file or a folder"):
        run(tmp_path / "pipe.txt", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("x")
    with pytest.raises(InvalidArgumentError, match=r"expected a new or empty folder, .* has 'precious' in it"):
        run(path, tmp_path / "full", resume=True)
    assert (tmp_path / "full/precious").read_text() == "x"


def test_folders_are_walked_in_sorted_order(tmp_path):
    names = ["a.txt", "z.txt", "b/c/x.txt", "b/d/x.txt", "b/e/a.txt", "f/x.txt"]
    for name in reversed(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("")
    os.mkfifo(tmp_path / "in/pipe.txt")  # passed over
    assert [source.name for source in find_sources([tmp_path / "in"])] == names
    assert [source.name for source in find_sources([tmp_path / "in/f", tmp_path / "in/a.txt"])] == ["f/x.txt", "a.txt"]


def test_bytes_that_are_no_utf8_can_be_replaced(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_bytes(b"one \xff two three")
    (tmp_path / "in/b.txt").write_bytes("one � two three".encode())
    report = run(tmp_path / "in", tmp_path / "out", options=FileOptions(errors="replace"))
    assert (report["documents"], report["kept"]) == (2, 1)
    assert (tmp_path / "out/kept/a.txt").read_bytes() == b"one \xff two three"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(
        st.lists(st.sampled_from(["", "a", "bb\u00e9", "c d e f", " "]), max_size=6), min_size=1, max_size=4
    ),
    most=st.integers(1, 5),
    most_bytes=st.integers(1, 12),
    stop=st.integers(0, 20),
    unneeded=st.sets(st.integers(0, 24)) | st.none(),
)
@example(files=[["a"], ["b"], ["c"]], most=1, most_bytes=9, stop=2, unneeded={2})
def test_reading_goes_on_at_any_place(tmp_path, files, most, most_bytes, stop, unneeded):
    folder = tmp_path / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, texts in enumerate(files):
        name = ["jsonl", "txt", "jsonl.gz", "parquet"][number % 4]
        path = folder / f"{number}.{name}"
        if name == "jsonl":
            write_jsonl(path, texts)
        elif name == "txt":
            texts[:] = ["".join(texts)]
            path.write_text(texts[0])
        elif name == "parquet":
            pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=2)
        else:
            path.write_bytes(gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in texts).encode()))
    sources, expected = find_sources([folder]), [text for texts in files for text in texts]
    needed = None if unneeded is None else np.isin(np.arange(len(expected)), list(unneeded), invert=True)
    start, found, counts = Cursor(0, 0, 0), [], []
    for number, chunk in enumerate(read_chunks(sources, Columns(), start, most, most_bytes, needed)):
        if number == stop:
            break
        found += documents(chunk)
        counts += chunk.counts
        start = chunk.cursor
    rest = None if needed is None else needed[len(found) :]
    for chunk in read_chunks(sources, Columns(), start, most, most_bytes, rest):
        found += documents(chunk)
        counts += chunk.counts
        start = chunk.cursor
    assert len(found) == len(expected)
    wanted = range(len(expected)) if needed is None else np.flatnonzero(needed)
    assert all(found[i] == expected[i] for i in wanted)
    assert counts == [len(texts) for texts in files]
    assert start == (len(files), 0, 0)


def documents(chunk):
    return [bytes(chunk.text[a:b]).decode() for a, b in zip(chunk.offsets[:-1], chunk.offsets[1:], strict=True)]


# --- files that survive a kill ---


def test_what_was_appended_after_the_last_commit_is_cut_off(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with durable.AppendFile(path, 4) as file:
        assert path.read_bytes() == b"0123"
        file.append(np.array([65, 66], np.uint8))
        file.sync()
        assert (file.length, path.read_bytes()) == (6, b"0123AB")
    with pytest.raises(CorruptIndexError, match="expected at least 7 bytes, it has 6"):
        durable.AppendFile(path, 7)
    with pytest.raises(CorruptIndexError, match="expected 4 records of 2 bytes, it is shorter"):
        durable.read_records(path, np.uint16, 4)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail():
        with durable.replacing(path) as file:
            file.write(b"new")
            raise Killed

    with pytest.raises(Killed):
        write_and_fail()
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]
    with durable.replacing(path) as file:
        file.write(b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"new")]


def test_everything_is_on_disk_before_it_counts(tmp_path, small_steps, monkeypatch):
    """A loss of power after a commit loses no file: names and contents were synchronised before."""
    source = several_files(tmp_path / "in")
    names, contents, missing = {}, {}, []

    def sync_folder(folder):
        names[str(folder)] = set(os.listdir(folder))

    def fsync(descriptor):
        status = os.fstat(descriptor)
        contents[status.st_ino] = status.st_size

    def look():
        for folder, _, files in os.walk(tmp_path / "run"):
            missing.extend(set(os.listdir(folder)) - names.get(folder, set()) - {"lock"})
            for status in (os.stat(os.path.join(folder, name)) for name in files):
                if status.st_size != contents.get(status.st_ino, 0):
                    missing.append((folder, status.st_size, contents.get(status.st_ino)))

    def commit(self, **changes):
        plain_commit(self, **changes)
        look()

    def write_json(path, document):
        plain_write(path, document)
        look()

    plain_commit, plain_write = State.commit, durable.write_json
    monkeypatch.setattr(State, "commit", commit)
    monkeypatch.setattr(dedup_store, "write_json", write_json)
    monkeypatch.setattr(os, "fsync", fsync)
    for module in (durable, dedup_store):
        monkeypatch.setattr(module, "sync_folder", sync_folder)
    (tmp_path / "run").mkdir()
    run(source, tmp_path / "run/deep/out", store=tmp_path / "run/store")
    assert missing == []
    assert str(tmp_path / "run/deep/out/kept") in names
    assert len(contents) > 20
