"""The benchmark that damages files: a short run of it, and that it notices a wrong answer."""

import json

import pytest

from benchmarks import damage
from nearhash.service.engine import sqlite_store


def test_a_short_run(tmp_path):
    result = tmp_path / "damage.json"
    assert damage.main(["--cut-step", "3001", "--flip-step", "1501", "--result", str(result)]) == 0
    facts = json.loads(result.read_text())
    assert facts["cuts"] == 10
    assert {one["left"] for one in facts["files"]} == {"crashed", "closed"}
    assert all(one["flips"] == one["refused"] + one["same"] + one["last_write_lost"] for one in facts["files"])


def test_damage_that_passes_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "lost_commits", lambda *arguments: 0)
    with pytest.raises(AssertionError, match=r"collection\.db-wal, byte"):
        damage.main(["--cut-step", "100000", "--flip-step", "9001", "--result", str(tmp_path / "damage.json")])
