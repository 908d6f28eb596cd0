"""Wrong arguments end with exit code 2 before anything is read or written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import nearhash
from nearhash.command_line.app import app
from nearhash.command_line.search import parse_window

COMMANDS = ("build", "search", "tune", "serve", "inspect", "warmup", "demo")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.npy"
    np.save(path, np.eye(4, dtype=np.float32))
    return path


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f" {command} " in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"nearhash {nearhash.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["build", "missing.npy", "--out", "new"], "missing.npy"),
        (["build", "VECTORS"], "--out"),
        (["build", "VECTORS", "--out", "VECTORS"], "--force"),
        (["build", "VECTORS", "--out", "no-such-folder/new"], "--out"),
        (["build", "VECTORS", "--out", "new", "--metric", "hamming"], "--metric"),
        (["build", "VECTORS", "--out", "new", "--index", "tree"], "--index"),
        (["build", "VECTORS", "--out", "new", "--index", "flat", "--build-beam", "9"], "--build-beam"),
        (["build", "VECTORS", "--out", "new", "--index", "flat", "--codec", "lvq8"], "--codec"),
        (["build", "VECTORS", "--out", "new", "--index", "graph", "--dtype", "int8"], "--dtype"),
        (["build", "VECTORS", "--out", "new", "--index", "graph", "--lists", "9"], "--lists"),
        (["build", "VECTORS", "--out", "new", "--index", "flat", "--spill"], "--spill"),
        (["build", "VECTORS", "--out", "new", "--index", "ivf", "--degree", "9"], "--degree"),
        (["build", "VECTORS", "--out", "new", "--index", "graph", "--codec", "pq4"], "--codec"),
        (["build", "VECTORS", "--out", "new", "--index", "ivf", "--codec", "pq5"], "--codec"),
        (["build", "VECTORS", "--out", "new", "--index", "ivf", "--codec", "lvq4x8"], "--codec"),
        (["tune", "VECTORS"], "--queries"),
        (["tune", "VECTORS", "--queries", "VECTORS", "--recall", "1"], "--recall"),
        (["tune", "VECTORS", "--queries", "VECTORS", "--plot", "curve.jpg"], "--plot"),
        (["tune", "VECTORS", "--queries", "VECTORS", "--plot", "no-such-folder/curve.png"], "--plot"),
        (["build", "VECTORS", "--out", "new", "--threads", "0"], "--threads"),
        (["build", "VECTORS", "--out", "new", "--labels", "missing.npy"], "--labels"),
        (["search", "VECTORS"], "--queries"),
        (["search", "VECTORS", "--queries", "VECTORS", "--k", "0"], "--k"),
        (["search", "VECTORS", "--queries", "VECTORS", "--window", "5"], "--window"),
        (["search", "VECTORS", "--queries", "VECTORS", "--out", "hits.npy"], "--out"),
        (["search", "missing.nearhash", "--queries", "VECTORS"], "missing.nearhash"),
        (["serve"], "--index"),
        (["serve", "--index", "VECTORS", "--max-k", "0"], "--max-k"),
        (["serve", "--index", "VECTORS", "--listen", "localhost"], "--listen"),
        (["inspect", "missing.nearhash"], "missing.nearhash"),
        (["demo", "--port", "65536"], "--port"),
        (["dance"], "dance"),
    ],
)
def test_wrong_arguments_exit_with_2(vectors: Path, arguments: list[str], complaint: str) -> None:
    arguments = [str(vectors) if argument == "VECTORS" else argument for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(vectors.parent)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stdout == ""
    assert [path.name for path in vectors.parent.iterdir()] == ["vectors.npy"]


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("0:3000", (0, 3000)),
        (":5", (-np.inf, 5)),
        ("-1.5:", (-1.5, np.inf)),
        (":", (-np.inf, np.inf)),
        ("-inf:2e3", (-np.inf, 2000)),
        ("7:7", (7, 7)),
    ],
)
def test_windows(text: str, window: tuple[float, float]) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["", "3", "a:b", "1:2:3", "nan:1", "1:nan", "5:3"])
def test_refuses_windows(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"got '{text}'"):
        parse_window(text)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; from nearhash.command_line import main; main()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "pip install nearhash[cli]" in result.stderr
