"""``nearhash dedup``, in process and as a process that is killed."""

import gzip
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nearhash.command_line.app import app
from nearhash.command_line.dedup import STAGES, parse_size
from nearhash.index.dedup.stages import STAGES as ALL_STAGES

from .conftest import Run

run = CliRunner().invoke

TEXT = "the quick brown fox jumps over the lazy dog and runs through the wood until it is dark"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    rows = [("a", TEXT), ("b", TEXT.upper() + "!"), ("c", "something else"), ("d", ""), ("e", TEXT + " again")]
    path.write_text("".join(json.dumps({"name": name, "body": text}) + "\n" for name, text in rows))
    return path


def test_every_setting_is_passed_on(documents: Path, tmp_path: Path, run_json: Run) -> None:
    common = ["dedup", documents, "--column", "body", "--id-column", "name", "--threads", 1]
    report = run_json(
        *common, "--out", tmp_path / "out", "--threshold", 0.9, "--ngram", 3, "--unit", "char", "--k", 64, "--bands", 8,
        "--rows", 8, "--verify", "none", "--seed", 7, "--memory", "64M", "--errors", "replace", "--drop-empty",
        "--format", "jsonl", "--lines",
    )  # fmt: skip
    assert report["settings"] == {
        "threshold": 0.9, "ngram": 3, "unit": "char", "k": 64, "bands": 8, "rows": 8, "verify": None, "seed": 7,
    }  # fmt: skip
    assert report["options"] == {
        "column": "body", "id_column": "name", "format": "jsonl", "lines": True, "errors": "replace",
        "drop_empty": True,
    }  # fmt: skip
    assert report["seconds"] > 0
    assert report["empty"] == 1


def test_output_and_summary(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["dedup", str(documents), "--out", str(out), "--column", "body", "--id-column", "name"]
    result = run(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "5 documents in 1 files: 3 kept, 2 removed, 1 clusters" in result.stdout
    assert "1 documents have no word in them" in result.stdout
    kept = [json.loads(line)["name"] for line in (out / "kept/in.jsonl").read_text().splitlines()]
    assert kept == ["a", "c", "d"]
    assert [json.loads(line)["id"] for line in (out / "clusters.jsonl").read_text().splitlines()] == ["a", "b", "e"]
    again = run(app, arguments)
    assert again.exit_code == 1
    assert "expected a new or empty folder" in again.stderr
    assert run(app, [*arguments, "--resume"]).exit_code == 0


def test_a_store(documents: Path, tmp_path: Path, run_json: Run) -> None:
    common = ("dedup", documents, "--column", "body", "--store", tmp_path / "store")
    assert run_json(*common, "--out", tmp_path / "1")["in_store_before"] == 0
    assert run_json(*common, "--out", tmp_path / "2", "--check-only")["in_store_before"] == 5
    report = run_json(*common, "--out", tmp_path / "3")
    assert (report["in_store_before"], report["duplicates_of_the_store"], report["kept"]) == (5, 4, 1)
    text = run(app, [*map(str, common), "--out", str(tmp_path / "4")])
    assert "4 are in a group with one of 10 in the store" in text.stdout


def test_failures_are_one_line(documents: Path, tmp_path: Path) -> None:
    missing = run(app, ["dedup", str(tmp_path / "none.txt"), "--out", str(tmp_path / "out")])
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "none.txt" in missing.stderr
    column = run(app, ["dedup", str(documents), "--out", str(tmp_path / "out2")])
    assert column.exit_code == 1
    assert "in.jsonl, line 1: no column 'text' (there are: body, name)" in column.stderr
    assert column.stderr.count("\n") == 1
    assert run(app, ["dedup", str(documents), "--out", str(tmp_path / "x"), "--memory", "much"]).exit_code == 2
    assert run(app, ["dedup", str(documents), "--out", str(documents)]).exit_code == 2


def test_sizes() -> None:
    assert [parse_size(text) for text in ("1000", "1k", "1.5M", "2G")] == [1000, 1024, 3 << 19, 2 << 30]


def test_every_stage_that_reports_has_a_bar() -> None:
    assert [*STAGES, "store", "finished"] == list(ALL_STAGES)


def test_a_full_disk_says_how_to_go_on(documents: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": f"{TEXT} {i}"}) + "\n" for i in range(300)))
    command = [sys.executable, "-m", "nearhash.command_line", "dedup", str(path), "--out", str(tmp_path / "out")]

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert "make room, then the same command with --resume goes on" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 300


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    slow = tmp_path / "slow.jsonl.gz"
    slow.write_bytes(gzip.compress(b"\n" * 2**20) * 500)  # half a billion blank lines: there is time for Ctrl-C
    path.write_text(json.dumps({"text": TEXT}) + "\n")
    command = [sys.executable, "-m", "nearhash.command_line", "dedup", str(path), str(slow)]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    manifest = tmp_path / "out/work/manifest.json"
    for _ in range(600):
        if manifest.exists():
            break
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130  # a kernel may have to be compiled first, while other tests do the same
    assert process.stderr is not None
    assert "the same command with --resume goes on" in process.stderr.read()
