"""``nearhash keys``."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nearhash.command_line.app import app
from nearhash.service.security.access import Principal
from nearhash.service.security.keys import KeyRing

run = CliRunner().invoke


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_new_key_stands_alone_on_stdout_and_is_known_to_servers(file: Path) -> None:
    result = run(app, ["keys", "add", "app", "--file", str(file), "--role", "write", "--collection", "team-*"])
    assert result.exit_code == 0
    assert re.fullmatch(r"nhk_\S{43}\n", result.stdout)
    assert "not shown again" in result.stderr
    assert KeyRing(file).authenticate(result.stdout.strip()) == Principal("app", "write", ("team-*",))


def test_keys_are_listed_without_hashes_and_removed(file: Path, run_json) -> None:
    key = run_json("keys", "add", "app", "--file", file, "--role", "read", "--expires", "2999-01-31")["key"]
    run_json("keys", "add", "other", "--file", file, "--role", "admin", "--collection", "a", "--collection", "b")
    assert run_json("keys", "list", "--file", file)["keys"] == [
        {
            "name": "app",
            "role": "read",
            "collections": ["*"],
            "expires": "2999-01-31T00:00:00+00:00",
            "expired": False,
        },
        {"name": "other", "role": "admin", "collections": ["a", "b"], "expires": None, "expired": False},
    ]
    text = run(app, ["keys", "list", "--file", str(file)])
    assert text.exit_code == 0
    assert all(part in text.stdout for part in ("app", "2999-01-31", "other", "a, b", "never"))
    assert "sha256" not in text.stdout
    assert run_json("keys", "remove", "app", "--file", file)["removed"]
    assert KeyRing(file).authenticate(key) is None
    assert [entry["name"] for entry in run_json("keys", "list", "--file", file)["keys"]] == ["other"]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["add", "app", "--role", "read"], 1, "holds a key 'app' already"),
        (["add", "../x", "--role", "read"], 1, "name: expected"),
        (["add", "x", "--role", "read", "--expires", "soon"], 1, "expires: expected a date"),
        (["add", "x", "--role", "root"], 2, "root"),
        (["add", "x"], 2, "--role"),
        (["remove", "x"], 1, "no key 'x'"),
    ],
)
def test_wrong_arguments(file: Path, run_json, arguments: list[str], code: int, complaint: str) -> None:
    run_json("keys", "add", "app", "--file", file, "--role", "read")
    result = run(app, ["keys", *arguments, "--file", str(file)])
    assert result.exit_code == code
    assert result.stdout == ""
    assert complaint in result.stderr
