import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from nearhash.command_line.app import app


class Files(NamedTuple):
    """Files that commands read: 300 vectors with ids 1000, 1001, ... and labels 0, 1, ..., and indexes over them."""

    vectors: Path
    ids: Path
    labels: Path
    graph: Path
    flat: Path
    ivf: Path


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def run_json() -> Run:
    """Run a command with ``--json`` and give its document: stdout must hold nothing else."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert result.exit_code == 0, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, run_json: Run) -> Files:
    folder = tmp_path_factory.mktemp("command-line")
    made = Files(
        *(folder / name for name in ("vectors.npy", "ids.txt", "labels.npy")),
        *(folder / f"{kind}.nearhash" for kind in ("graph", "flat", "ivf")),
    )
    np.save(made.vectors, np.random.default_rng(7).standard_normal((300, 8)).astype(np.float32))
    made.ids.write_text("".join(f"{1000 + row}\n" for row in range(300)))
    np.save(made.labels, np.arange(300))
    common = ("build", made.vectors, "--ids", made.ids, "--labels", made.labels, "--metric", "l2", "--threads", 1)
    run_json(*common, "--out", made.graph, "--degree", 16, "--seed", 3)
    run_json(*common, "--out", made.flat, "--index", "flat", "--dtype", "float16")
    run_json(*common, "--out", made.ivf, "--kind", "ivf", "--lists", 12, "--seed", 5)
    return made
