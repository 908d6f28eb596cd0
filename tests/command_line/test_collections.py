"""``nearhash collections``, ``snapshot``, ``verify`` and ``repair``, on folders and through a server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import nearhash as nh
from nearhash.command_line.app import app
from nearhash.service.background import running_server
from nearhash.service.engine.database import Database

run = CliRunner().invoke
VECTORS = np.random.default_rng(5).standard_normal((2500, 8)).astype(np.float32)


@pytest.fixture(params=["--data", "--server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Options that name a place for collections: a folder, and a server."""
    if request.param == "--data":
        yield "--data", str(tmp_path / "data")
        return
    with Database(tmp_path / "data") as database, running_server(None, database=database) as address:
        yield "--server", address


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    np.save(tmp_path / "vectors.npy", VECTORS)
    return tmp_path / "vectors.npy"


def test_a_collection_from_beginning_to_end(place, run_json, vectors, tmp_path):
    settings = ("--dim", 8, "--metric", "l2", "--label", "rank", "--index", "ivf", "--index-options", '{"lists": 4}')
    made = run_json("collections", "create", "points", *settings, *place)
    assert (made["dim"], made["labels"], made["index_options"]) == (8, ["rank"], {"lists": 4})
    assert run(app, ["collections", "create", "points", "--dim", "8", *place]).exit_code == 1
    run_json("collections", "create", "points", *settings, "--if-missing", *place)
    np.save(tmp_path / "ranks.npy", np.arange(2500))
    answer = run_json("collections", "import", "points", vectors, "--labels", tmp_path / "ranks.npy", *place)
    assert (answer["written"], answer["replaced"], answer["size"]) == (2500, 0, 2500)
    again = run_json("collections", "import", "points", vectors, "--batch", 700, *place)
    assert (again["written"], again["replaced"], again["size"]) == (2500, 2500, 2500)
    (listed,) = run_json("collections", "list", *place)["collections"]
    described = run_json("collections", "describe", "points", *place)
    assert (listed["name"], listed["size"], described["size"]) == ("points", 2500, 2500)
    copy = run_json("snapshot", "create", "points", "copy", *place)
    assert copy["bytes"] > 2500 * 32
    assert [one["name"] for one in run_json("snapshot", "list", *place)["snapshots"]] == ["copy"]
    assert run_json("snapshot", "restore", "copy", "second", *place)["size"] == 2500
    assert run_json("collections", "drop", "points", "--yes", *place)["dropped"]
    assert [one["name"] for one in run_json("collections", "list", *place)["collections"]] == ["second"]
    for words in (["collections", "list"], ["collections", "describe", "second"], ["snapshot", "list"]):
        text = run(app, [*words, *place], env={"COLUMNS": "200"})
        assert text.exit_code == 0, text.stderr
        assert (
            "2,500"
            if words[1] == "list" and words[0] == "collections"
            else "copy"
            if words[0] == "snapshot"
            else "2500"
        ) in text.stdout


def test_points_from_lines_of_json(place, run_json, tmp_path):
    run_json("collections", "create", "points", "--dim", 2, "--label", "year", "--label", "price", *place)
    file = tmp_path / "points.jsonl"
    points = [
        {"id": 7, "vector": [1, 0.5], "payload": {"a": [1, {"b": None}]}, "labels": {"year": 1999, "price": 3.5}},
        {"id": "text", "vector": [0, 1], "labels": {"year": 2001}},
        {"id": 7, "vector": [2, 2]},
        {"id": 8, "vector": [1, 1], "payload": None},
    ]
    file.write_text("\n\n".join(json.dumps(point) for point in points))
    answer = run_json("collections", "import", "points", file, *place)
    assert (answer["written"], answer["replaced"], answer["size"]) == (4, 1, 3)
    if place[0] == "--data":
        with nh.Collection(Path(place[1]) / "collections" / "points") as collection:
            seven, text = collection.get([7, "text"], vectors=True)
            assert (seven.vector.tolist(), seven.payload, seven.labels) == ([2, 2], None, {})
            assert (text.vector.tolist(), text.labels) == ([0, 1], {"year": 2001})
    numbers = tmp_path / "numbers.ndjson"
    numbers.write_text('{"id": 1, "vector": [1, 2], "labels": 5}\n{"id": 2, "vector": [1, 2]}\n')
    assert run_json("collections", "import", "points", numbers, *place)["size"] == 5


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[1]", "expected an object"),
        ('{"id": 1}', "expected an object"),
        ('{"id": 1, "vector": [1, 2], "label": 3}', "expected an object"),
        ('{"id": true, "vector": [1, 2]}', "id: expected"),
        ('{"id": 1.5, "vector": [1, 2]}', "id: expected"),
        ('{"id": 3, "vector": [1, "2"]}', "vector: expected a list of numbers"),
        ('{"id": 3, "vector": []}', "vector: expected a list of numbers"),
        ('{"id": 3, "vector": [1, 2, 3]}', "expected 2 numbers as before, got 3"),
        ('{"id": 3, "vector": [1, 2], "payload": "x"}', "payload: expected"),
        ('{"id": 3, "vector": [1, 2], "labels": "x"}', "labels: expected"),
        ('{"id": 3, "vector": [1, 2], "labels": {"year": 3}}', "labels: expected a number or an object as before"),
    ],
)
def test_lines_that_are_no_points_are_named_and_what_was_before_stays(run_json, tmp_path, line, complaint):
    place = ("--data", str(tmp_path / "data"))
    run_json("collections", "create", "points", "--dim", 2, "--label", "year", *place)
    file = tmp_path / "points.jsonl"
    good = [json.dumps({"id": own, "vector": [1, 2], "labels": 3}) for own in range(11)]
    file.write_text("\n".join([*good, line]))
    result = run(app, ["collections", "import", "points", str(file), "--batch", "5", *place])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"line 12: {complaint}" in result.stderr or (complaint in result.stderr and "line 12" in result.stderr)
    assert "10 points before that are written and stay" in result.stderr
    assert result.stderr.count("\n") == 1
    assert run_json("collections", "describe", "points", *place)["size"] == 10


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["collections", "list"], 2, "--data, --server"),
        (["collections", "list", "--data", "DATA", "--server", "localhost:1"], 2, "--data, --server"),
        (["collections", "list", "--data", "missing"], 2, "does not exist"),
        (["collections", "describe", "other", "--data", "DATA"], 1, "no collection 'other'"),
        (["collections", "create", "../up", "--dim", "3", "--data", "DATA"], 1, "name: expected"),
        (["collections", "create", "x", "--dim", "3", "--index-options", "[", "--data", "DATA"], 2, "JSON"),
        (["collections", "create", "x", "--dim", "3", "--index-options", "3", "--data", "DATA"], 2, "JSON object"),
        (["collections", "create", "x", "--data", "DATA"], 2, "--dim"),
        (["collections", "drop", "points", "--data", "DATA"], 1, "Aborted"),
        (
            ["collections", "import", "points", "VECTORS", "--ids", "SHORT", "--data", "DATA"],
            1,
            "expected 2,500 values",
        ),
        (["collections", "import", "points", "LINES", "--ids", "SHORT", "--data", "DATA"], 2, "--ids, --labels"),
        (["snapshot", "restore", "none", "x", "--data", "DATA"], 1, "no snapshot 'none'"),
        (["verify", "DATA/collections"], 1, "neither a collection nor"),
        (["repair", "DATA"], 1, "no collection here"),
    ],
)
def test_wrong_arguments(run_json, tmp_path, vectors, arguments, code, complaint):
    run_json("collections", "create", "points", "--dim", 8, "--data", tmp_path / "data")
    (tmp_path / "short.txt").write_text("1\n2\n")
    (tmp_path / "lines.jsonl").write_text("")
    files = {"DATA": "data", "VECTORS": "vectors.npy", "SHORT": "short.txt", "LINES": "lines.jsonl"}
    for name, path in files.items():
        arguments = [one.replace(name, str(tmp_path / path)) for one in arguments]
    result = run(app, arguments)
    assert (result.exit_code, result.stdout.strip()) == (code, "")
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


def test_compaction(run_json, tmp_path, vectors):
    place = ("--data", tmp_path / "data")
    run_json("collections", "create", "points", "--dim", 8, "--index", "ivf", "--seal-at", 500, *place)
    run_json("collections", "import", "points", vectors, *place)
    document = run_json("collections", "compact", "points", *place)
    assert [one["size"] for one in document["segments"]] == [2500]
    assert document["buffer"] == 0


def damage(path: Path, word: bytes) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(word)
    data[place] ^= 1
    path.write_bytes(data)


def test_verify_and_repair(run_json, tmp_path, vectors):
    data = tmp_path / "data"
    run_json("collections", "create", "points", "--dim", 8, "--data", data)
    run_json("collections", "import", "points", vectors, "--data", data)
    run_json("snapshot", "create", "points", "copy", "--data", data)
    folder = data / "collections" / "points"
    whole = run_json("verify", data)
    assert whole["intact"]
    assert [Path(one["path"]).name for one in whole["checked"]] == ["points", "copy"]
    assert [one["points"] for one in whole["checked"]] == [2500, 2500]
    text = run(app, ["verify", str(data / "snapshots" / "copy")])
    assert (text.exit_code, "intact (2,500 points" in text.stdout) == (0, True)
    with nh.Collection(folder):
        result = run(app, ["verify", str(folder)])
        assert (result.exit_code, result.stdout) == (1, "")
        assert "one writer at a time" in result.stderr
    damage(folder / "collection.db", VECTORS[1234].tobytes())
    result = run(app, ["verify", str(data), "--json"])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    damaged, copy = document["checked"]
    assert not document["intact"]
    assert (len(damaged["problems"]) > 0, damaged["repairable"], copy["problems"]) == (True, False, [])
    text = run(app, ["verify", str(data)])
    assert (text.exit_code, text.stderr) == (1, "")
    assert "nearhash repair" in text.stdout
    repaired = run_json("repair", folder)
    assert (repaired["kept"], repaired["lost"]) == (2499, [1235])
    assert Path(repaired["damaged"]).is_dir()
    assert run_json("verify", data)["intact"]
    again = run(app, ["repair", str(folder)])
    assert (again.exit_code, "2,499 points kept, 0 rows lost" in again.stdout) == (0, True)
    (folder / "collection.db").unlink()
    result = run(app, ["verify", str(data)])
    assert (result.exit_code, "no collection here" in result.stdout) == (1, True)


def test_verify_of_index_files(run_json, files, tmp_path):
    checked = run_json("verify", files.graph)["checked"]
    assert [(one["kind"], one["problems"]) for one in checked] == [("graph", [])]
    broken = tmp_path / "broken.nearhash"
    shutil.copy(files.graph, broken)
    data = bytearray(broken.read_bytes())
    data[-100] ^= 1
    broken.write_bytes(data)
    result = run(app, ["verify", str(broken)])
    assert result.exit_code == 1
    assert "broken.nearhash: damaged\n" in result.stdout
