"""Commands as processes: what a shell sees."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nearhash as nh

from .conftest import Files

COMMAND = [sys.executable, "-m", "nearhash.command_line"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_stops_on_a_signal(files: Files, stop: signal.Signals) -> None:
    arguments = ["serve", "--index", str(files.graph), "--listen", "127.0.0.1:0", "--max-k", "7", "--json"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        text = next(lines)
        while not text.endswith("\n}\n"):
            text += next(lines)
        ready = json.loads(text)
        assert ready["pid"] == server.pid
        assert ready["index"]["size"] == 300
        queries = np.load(files.vectors)[:5]
        with nh.Client(ready["address"]) as client:
            assert client.search(queries, k=3).ids.tolist() == nh.load(files.graph).search(queries, k=3).ids.tolist()
            with pytest.raises(nh.errors.InvalidArgumentError, match="7"):
                client.search(queries, k=8)
        server.send_signal(stop)
        rest, notices = server.communicate(timeout=60)
    assert server.returncode == 0
    assert rest == ""
    assert "stopped" in notices
    assert "Traceback" not in notices


def test_inspect_needs_no_numba(files: Files) -> None:
    script = "import sys; sys.modules['numba'] = None; from nearhash.command_line import main; main()"
    arguments = ["inspect", str(files.graph), "--verify", "--json"]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["header"]["kind"] == "graph"


def test_serve_without_grpc_names_the_extra(files: Files) -> None:
    script = "import sys; sys.modules['grpc'] = None; from nearhash.command_line import main; main()"
    arguments = ["serve", "--index", str(files.flat)]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "pip install nearhash[serve]" in result.stderr
    assert result.stderr.count("\n") == 1


def test_after_warmup_nothing_compiles(tmp_path: Path) -> None:
    """In a process of its own: in this one other tests have compiled kernels already."""
    script = """
import tempfile, numpy as np, nearhash as nh
from nearhash.command_line.warmup import compiled_kernels, warmup

warmup(json=True)
rows = np.random.default_rng(1).standard_normal((3000, 24)).astype(np.float32)
column = {"column": np.arange(3000)}
for index in (
    nh.GraphIndex(24), nh.GraphIndex(24, metric="l2", codec="f32"), nh.FlatIndex(24, dtype="float16"),
    nh.GraphIndex(24, codec="lvq4x8"),
    nh.IVFIndex(24), nh.IVFIndex(24, metric="l2", codec="rabitq", spill=True), nh.IVFIndex(24, codec="lvq8"),
):
    index.add(rows, labels=np.arange(3000), attributes=column)
    index.save(tempfile.gettempdir() + "/warm.nearhash")
    for each in (index, nh.load(tempfile.gettempdir() + "/warm.nearhash")):
        for queries in (rows[0], rows[:100]):
            each.search(queries)
            each.search(queries, window=(0, 2500))
            each.search(queries, allow=np.arange(3000) % 3 > 0)
            each.search(queries, where=nh.where.range("column", 5, 2000), window=(0, 2500))
        each.add(rows[:50], attributes={"column": np.zeros(50, int)})
        each.remove([7])
        each.search(rows[:9], window=(0, 9))
texts = [f"{i % 7} words of a text, naïve or not, number {i}" for i in range(200)]
nh.deduplicate(texts)
tables = nh.MinHashLSH(threshold=0.7)
tables.add_texts(texts)
tables.query_texts(texts[:3])
list(tables.pairs())
bits = nh.HammingIndex(64)
bits.add(nh.hashing.SimHash(24, bits=64).encode(rows))
bits.search(nh.hashing.SimHash(24, bits=64).encode(rows[:5]))
print(compiled_kernels()["kernels"])
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    document, _, later = result.stdout.rstrip().rpartition("\n")
    warm = json.loads(document)
    assert warm["compiled"] + warm["loaded"] == warm["kernels"] == int(later)
    assert warm["kernels"] > 10
    assert warm["caches"]


def test_progress_goes_to_a_terminal_only(files: Files, tmp_path: Path) -> None:
    arguments = ["build", str(files.vectors), "--out", str(tmp_path / "new"), "--threads", "1", "--json"]
    for forced in (False, True):
        environment = {**os.environ, "FORCE_COLOR": "1"} if forced else dict(os.environ)
        result = subprocess.run(
            [*COMMAND, *arguments, "--force"], capture_output=True, text=True, timeout=60, check=True, env=environment
        )
        assert ("Building" in result.stderr) is forced
        assert json.loads(result.stdout)["index"]["size"] == 300
