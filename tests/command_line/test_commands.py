"""Commands against a small index, in process."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import nearhash as nh
from nearhash.command_line.app import app
from nearhash.command_line.build import CODECS, Codec, IndexKind, build
from nearhash.command_line.search import search
from nearhash.command_line.serve import serve
from nearhash.service.config import Limits, ServerConfig
from nearhash.service.server import DEFAULT_ADDRESS

from .conftest import Files, Run

run = CliRunner().invoke


def test_build_passes_every_setting_on(files: Files) -> None:
    graph, flat, ivf = (nh.load(path).info() for path in (files.graph, files.flat, files.ivf))
    assert (graph["kind"], graph["metric"], graph["size"], graph["labelled"]) == ("graph", "l2", 300, True)
    assert (graph["codec"], graph["degree"], graph["seed"]) == ("lvq8", 16, 3)
    assert (flat["kind"], flat["metric"], flat["size"], flat["dtype"]) == ("flat", "l2", 300, "float16")
    assert (ivf["kind"], ivf["lists"], ivf["seed"], ivf["codec"], ivf["spill"]) == ("ivf", 12, 5, "pq4", False)
    assert nh.load(files.graph).ids.tolist() == list(range(1000, 1300))


@pytest.mark.parametrize(("kind", "codec"), [(kind, codec) for kind, codecs in CODECS.items() for codec in codecs])
def test_every_codec_on_offer_is_one(files: Files, tmp_path: Path, run_json: Run, kind: str, codec: str) -> None:
    spill = ["--spill"] if kind == "ivf" else []
    arguments = ("--out", tmp_path / "new", "--index", IndexKind(kind).value, "--codec", Codec(codec).value, *spill)
    facts = run_json("build", files.vectors, *arguments)["index"]
    assert facts["codec"] == Codec(codec).value
    assert facts.get("spill", False) == bool(spill)


def test_build_reports_size_and_time(files: Files, tmp_path: Path, run_json: Run) -> None:
    out = tmp_path / "new.nearhash"
    document = run_json("build", files.vectors, "--out", out, "--codec", "f32", "--build-beam", 40)
    assert document["file_bytes"] == out.stat().st_size
    assert document["bytes_per_vector"] == out.stat().st_size / 300
    assert document["build_seconds"] > 0
    assert document["index"]["metric"] == "cosine"
    text = run(app, ["build", str(files.vectors), "--out", str(out), "--force"])
    assert text.exit_code == 0
    assert "graph index of 300 vectors, dimension 8, cosine" in text.stdout
    assert f"{out.stat().st_size:,} bytes" in text.stdout


def test_build_overwrites_only_with_force(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    out.write_text("precious")
    arguments = ["build", str(files.vectors), "--out", str(out), "--index", "flat"]
    assert run(app, arguments).exit_code == 2
    assert out.read_text() == "precious"
    assert run(app, [*arguments, "--force"]).exit_code == 0
    assert len(nh.load(out)) == 300


@pytest.mark.parametrize(
    ("option", "content", "complaint"),
    [
        ("--ids", "1\n1\n", "more than once"),
        ("--ids", "1\n2\n3\n", "ids"),
        ("--labels", "1\nx\n", "'x' is not a number"),
    ],
)
def test_a_failed_build_leaves_no_file(tmp_path: Path, option: str, content: str, complaint: str) -> None:
    vectors, column, out = tmp_path / "vectors.csv", tmp_path / "column.txt", tmp_path / "out"
    vectors.write_text("1,2\n3,4\n")
    column.write_text(content)
    result = run(app, ["build", str(vectors), "--out", str(out), "--index", "flat", option, str(column)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert re.search(complaint, result.stderr)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["graph", "flat", "ivf"])
def test_search_prints_what_the_library_finds(files: Files, run_json: Run, kind: str) -> None:
    path = getattr(files, kind)
    document = run_json("search", path, "--queries", files.vectors, "--k", 3, "--threads", 1)
    expected = nh.load(path).search(np.load(files.vectors), k=3)
    assert document["queries"] == 300
    assert document["ids"] == expected.ids.tolist()
    np.testing.assert_array_equal(np.float32(document["distances"]), expected.distances)


def test_search_in_a_window_and_among_allowed(files: Files, tmp_path: Path, run_json: Run) -> None:
    windowed = run_json("search", files.graph, "--queries", files.vectors, "--window", "10:14", "--k", 5)
    assert all(sorted(row) == [1010, 1011, 1012, 1013] for row in windowed["ids"])  # shorter rows: only four match
    allow = tmp_path / "allow.txt"
    allow.write_text("1003\n1299\n")
    allowed = run_json("search", files.flat, "--queries", files.vectors, "--allow", allow)
    assert all(sorted(row) == [1003, 1299] for row in allowed["ids"])


def test_search_writes_arrays(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "hits.npz"
    arguments = ["--queries", str(files.vectors), "--window", "0:2", "-k", "3", "--out", str(out)]
    assert run(app, ["search", str(files.graph), *arguments]).exit_code == 0
    with np.load(out) as hits:
        assert hits["ids"].shape == hits["distances"].shape == (300, 3)
        assert set(hits["ids"][:, :2].ravel()) == {1000, 1001}
        assert (hits["ids"][:, 2] == -1).all()
        assert np.isinf(hits["distances"][:, 2]).all()


def test_search_shows_a_few_queries_as_a_table(files: Files) -> None:
    result = run(app, ["search", str(files.graph), "--queries", str(files.vectors), "--k", "2"])
    assert result.exit_code == 0
    assert result.stdout.split()[:4] == ["query", "neighbour", "id", "distance"]
    assert [" 1000 " in result.stdout, " 1004 " in result.stdout] == [True, True]
    assert "295 more are not shown" in result.stdout
    nothing = run(app, ["search", str(files.graph), "--queries", str(files.vectors), "--window", "900:"])
    assert "no match" in nothing.stdout


def test_beam_reaches_the_graph_and_is_refused_for_flat(files: Files, run_json: Run) -> None:
    arguments = ("--queries", files.vectors, "--k", 10)
    narrow = run_json("search", files.graph, *arguments, "--beam", 10)
    wide = run_json("search", files.graph, *arguments, "--beam", 300)
    exact = nh.FlatIndex(8)
    exact.add(np.load(files.vectors), ids=np.arange(1000, 1300))
    truth = exact.search(np.load(files.vectors), k=10).ids.tolist()
    shared = [sum(len(set(a) & set(b)) for a, b in zip(found["ids"], truth, strict=True)) for found in (narrow, wide)]
    assert shared[0] < shared[1]
    result = run(app, ["search", str(files.flat), "--queries", str(files.vectors), "--beam", "9"])
    assert result.exit_code == 2
    assert "this one is flat" in result.stderr


def test_probes_reach_the_lists(files: Files, run_json: Run) -> None:
    arguments = ("search", files.ivf, "--queries", files.vectors, "--k", 10)
    few, many = (run_json(*arguments, "--probes", probes, "--rerank", 60)["ids"] for probes in (1, 12))
    assert few != many
    expected = nh.load(files.ivf).search(np.load(files.vectors), 10, probes=12, rerank=60).ids  # type: ignore[call-arg]
    assert many == expected.tolist()


@pytest.mark.parametrize(
    ("file", "efforts", "complaint"),
    [
        ("flat", ["--beam", "9"], "this one is flat"),
        ("flat", ["--recall", "0.9"], "this one is flat"),
        ("ivf", ["--beam", "9"], "this one is ivf"),
        ("graph", ["--probes", "9"], "this one is graph"),
        ("graph", ["--rerank", "9"], "this one is graph"),
        ("ivf", ["--recall", "0.9", "--probes", "3"], "takes its place"),
    ],
)
def test_efforts_of_other_indexes_are_refused(files: Files, file: str, efforts: list[str], complaint: str) -> None:
    result = run(app, ["search", str(getattr(files, file)), "--queries", str(files.vectors), *efforts])
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("kind", ["graph", "ivf"])
def test_tune_stores_what_search_uses(files: Files, tmp_path: Path, run_json: Run, kind: str) -> None:
    file, plot, queries = tmp_path / "index", tmp_path / "curve.png", tmp_path / "queries.npy"
    file.write_bytes(getattr(files, kind).read_bytes())
    np.save(queries, np.random.default_rng(8).standard_normal((400, 8)).astype(np.float32))
    arguments = ("tune", file, "--queries", queries, "--k", 5, "--recall", 0.8)
    before = file.read_bytes()
    dry = run_json(*arguments, "--dry-run")
    assert file.read_bytes() == before
    assert dry["stored"] is False
    untuned = run(app, ["search", str(file), "--queries", str(queries), "--recall", "0.8"])
    assert (untuned.exit_code, untuned.stdout) == (1, "")
    assert "call tune" in untuned.stderr
    pytest.importorskip("matplotlib")
    document = run_json(*arguments, "--plot", plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert document["stored"] is True
    assert document["chosen"]["effort"] == dry["chosen"]["effort"]
    assert document["chosen"]["recall_bound"] >= 0.8
    assert document["chosen"]["effort"] in [point["effort"] for point in document["curve"]]
    assert document["queries"] == 400
    tuned = nh.load(file)
    assert tuned.info()["tuned"][0]["effort"] == document["chosen"]["effort"]
    found = run_json("search", file, "--queries", queries, "--k", 5, "--recall", 0.8)["ids"]
    assert found == tuned.search(np.load(queries), 5, **document["chosen"]["effort"]).ids.tolist()
    assert '"recall": 0.8' in run(app, ["inspect", str(file)]).stdout
    text = run(app, list(map(str, arguments)))
    assert text.exit_code == 0
    assert "<- chosen" in text.stdout
    assert f"stored in {file}" in text.stdout


def test_tune_refuses_what_it_cannot_do(files: Files) -> None:
    flat = run(app, ["tune", str(files.flat), "--queries", str(files.vectors)])
    assert (flat.exit_code, flat.stdout) == (2, "")
    assert "of kind flat" in flat.stderr
    before = files.graph.read_bytes()
    certain = run(app, ["tune", str(files.graph), "--queries", str(files.vectors), "--recall", "0.99999"])
    assert (certain.exit_code, certain.stdout) == (1, "")
    assert certain.stderr.startswith("nearhash: recall: expected at most 0.99")
    assert files.graph.read_bytes() == before


@pytest.mark.parametrize(
    "command", [["search", "FILE", "--queries", "VECTORS"], ["serve", "--index", "FILE"], ["inspect", "FILE"]]
)
def test_a_file_that_is_no_index_is_one_line_on_stderr(files: Files, command: list[str]) -> None:
    names = {"FILE": str(files.labels), "VECTORS": str(files.vectors)}
    result = run(app, [names.get(part, part) for part in command])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("nearhash: ")
    assert result.stderr.count("\n") == 1
    assert files.labels.name in result.stderr


def test_queries_of_another_dimension(files: Files, tmp_path: Path) -> None:
    queries = tmp_path / "queries.csv"
    queries.write_text("1,2,3\n")
    result = run(app, ["search", str(files.graph), "--queries", str(queries)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "8" in result.stderr
    assert "3" in result.stderr


def test_inspect_lists_header_and_tensors(files: Files, run_json: Run) -> None:
    document = run_json("inspect", files.graph)
    assert document["header"]["kind"] == "graph"
    assert document["file_size"] == files.graph.stat().st_size
    assert document["verified"] is False
    text = run(app, ["inspect", str(files.graph)]).stdout
    for name in document["tensors"]:
        assert name in text


def test_inspect_verifies_checksums(files: Files, tmp_path: Path, run_json: Run) -> None:
    assert run_json("inspect", files.flat, "--verify")["verified"] is True
    damaged = bytearray(files.flat.read_bytes())
    tensor = max(run_json("inspect", files.flat)["tensors"].values(), key=lambda tensor: tensor["nbytes"])
    damaged[tensor["offset"]] ^= 1
    copy = tmp_path / "damaged.nearhash"
    copy.write_bytes(damaged)
    result = run(app, ["inspect", str(copy), "--verify", "--json"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "checksum" in result.stderr.lower() or "crc" in result.stderr.lower()


def test_defaults_that_help_names_are_those_of_the_library() -> None:
    def shown(command: Callable[..., None], option: str) -> object:
        return inspect.signature(command).parameters[option].annotation.__metadata__[0].show_default

    graph = inspect.signature(nh.GraphIndex).parameters
    for option in ("degree", "build_beam", "seed"):
        assert shown(build, option) == str(graph[option].default)
    lists = inspect.signature(nh.IVFIndex).parameters
    assert shown(build, "codec") == f"graph: {graph['codec'].default}, ivf: {lists['codec'].default}"
    assert shown(build, "spill") is lists["spill"].default
    assert lists["seed"].default == graph["seed"].default
    for option in ("probes", "rerank"):
        assert shown(search, option) == str(inspect.signature(nh.IVFIndex.search).parameters[option].default)
    assert shown(build, "dtype") == inspect.signature(nh.FlatIndex).parameters["dtype"].default
    assert shown(search, "beam") == str(inspect.signature(nh.GraphIndex.search).parameters["beam"].default)
    limits = Limits()
    for option in ("max_k", "max_rows", "max_pending", "max_message_bytes"):
        assert shown(serve, option) == str(getattr(limits, option))
    assert float(shown(serve, "grace")) == ServerConfig().grace
    assert shown(serve, "threads") == str(ServerConfig().search_threads)
    assert shown(serve, "listen") == DEFAULT_ADDRESS
