"""Importing nearhash is light, and takes no name but its own."""

import json
import subprocess
import sys

import pytest

import nearhash

HEAVY = ("numba", "llvmlite", "torch", "grpc", "google", "faiss", "typer", "rich", "matplotlib")
ROOMS = ("attention", "hashing", "index", "kernels", "protos", "service", "benchmarks")


def run(code, folder):
    """What a new process prints as JSON, started in another folder."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_nothing_heavy(tmp_path):
    loaded = run("import nearhash, sys, json; print(json.dumps(sorted(sys.modules)))", tmp_path)
    assert "nearhash" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_an_index_needs_neither_server_nor_command_line(tmp_path):
    loaded = run("import nearhash, sys, json; nearhash.FlatIndex; print(json.dumps(sorted(sys.modules)))", tmp_path)
    assert "numba" in loaded
    assert [name for name in ("torch", "grpc", "faiss", "typer", "rich") if name in loaded] == []


def test_the_storage_needs_no_compiler(tmp_path):
    loaded = run("import nearhash.index.storage, sys, json; print(json.dumps(sorted(sys.modules)))", tmp_path)
    assert [name for name in HEAVY if name in loaded and name != "google"] == []


def test_rooms_are_not_importable_under_their_bare_names(tmp_path):
    code = """
import importlib.util, json
import nearhash, nearhash.index.flat, nearhash.service.client
found = {}
for name in %r:
    spec = importlib.util.find_spec(name)
    if spec is not None:  # another distribution may own the name
        found[name] = [spec.origin or "", *map(str, spec.submodule_search_locations or [])]
print(json.dumps(found))
"""
    found = run(code % (ROOMS,), tmp_path)
    here = nearhash.__file__.removesuffix("src/nearhash/__init__.py")
    ours = [
        name
        for name, places in found.items()
        if any(place.startswith(here) and "/.venv/" not in place for place in places)
    ]
    assert ours == []


def test_dir_names_the_public_face_and_each_name_loads():
    assert dir(nearhash) == sorted(nearhash.__all__)
    assert {"FlatIndex", "GraphIndex", "Client", "Hits", "load", "errors", "__version__"} <= set(dir(nearhash))
    for name in dir(nearhash):
        assert getattr(nearhash, name) is not None


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'nearhash' has no attribute 'FlatIndx'"):
        nearhash.FlatIndx  # noqa: B018
    assert not hasattr(nearhash, "kernel_launcher")


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert nearhash.__version__ == version("nearhash")
