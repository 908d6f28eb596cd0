"""Does the installed wheel work? Run by .ci/run with the Python of a fresh environment, from outside the checkout.

Plain Python: the environment has nothing but nearhash[serve].
"""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

COMMAND = Path(sys.executable).parent / "nearhash"


def check_only_nearhash_was_installed() -> None:
    for name in ("attention", "benchmarks", "data", "hashing", "index", "kernels", "protos", "service", "tests"):
        assert importlib.util.find_spec(name) is None, f"the wheel made {name!r} importable"
    files = importlib.metadata.files("nearhash") or []
    tops = {file.parts[0] for file in files} - {".."}
    assert tops == {"nearhash", f"nearhash-{importlib.metadata.version('nearhash')}.dist-info"}, tops
    caches = [str(file) for file in files if file.suffix in (".nbi", ".nbc")]
    assert not caches, caches


def check_all_files_came_along() -> None:
    import nearhash

    home = Path(nearhash.__file__).parent
    assert Path(sys.prefix) in home.parents, f"imported from {home}, not from the environment"
    for name in ("py.typed", "kernels/simd.py", "data/vectors.npy", "data/words.txt", "data/README.md"):
        assert (home / name).is_file(), f"{name} is not in the wheel"
    stubs = [path.with_suffix(".pyi") for path in (home / "protos" / "v1").glob("*_pb2.py")]
    assert stubs, "the generated code is not in the wheel"
    assert all(path.is_file() for path in stubs), "the types of the generated code are not in the wheel"
    assert list(home.glob("data/LICENSE*")), "the licence of the bundled data is not in the wheel"
    assert importlib.metadata.metadata("nearhash")["License-Expression"] == "Apache-2.0"


def check_indexes(folder: Path) -> None:
    import nearhash as nh

    base = np.random.default_rng(0).standard_normal((500, 16), np.float32)
    truth = None
    for index in (nh.FlatIndex(16, metric="cosine"), nh.GraphIndex(16, metric="cosine", seed=1)):
        index.add(base, labels=np.arange(500))
        path = folder / f"{index.info()['kind']}.nearhash"
        index.save(path)
        for mmap in (True, False):
            hits = nh.load(path, mmap=mmap).search(base[:20], k=5)
            assert (hits.ids[:, 0] == np.arange(20)).all()
            truth = hits.ids if truth is None else truth
            assert (hits.ids == truth).mean() > 0.95, "the graph does not find what exact search finds"
        inside = nh.load(path).search(base[:20], k=5, window=(100, 200)).ids
        assert (inside >= 100).all()
        assert (inside < 200).all()


def check_service(folder: Path) -> None:
    """A server in a process of its own, asked through the client."""
    import nearhash as nh

    arguments = ["serve", "--index", folder / "graph.nearhash", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = "".join(iter(server.stdout.readline, "}\n")) + "}"  # one document, its last line a brace
            with nh.Client(json.loads(lines)["address"]) as client:
                hits = client.search(np.eye(16, dtype=np.float32), k=3)
            assert hits.ids.shape == (16, 3)
            assert (hits.ids >= 0).all()
        finally:
            server.terminate()
    assert server.returncode == 0, server.returncode


def check_command_line(folder: Path) -> None:
    def run(*arguments: object) -> str:
        done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"nearhash {arguments}: {done.stderr}"
        return done.stdout

    overview = run("--help")
    for name in ("demo", "build", "search", "serve", "inspect", "warmup"):
        assert name in overview, f"nearhash --help does not name {name}"
    facts = json.loads(run("inspect", folder / "graph.nearhash", "--json"))
    assert "graph" in json.dumps(facts)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_only_nearhash_was_installed()
        check_all_files_came_along()
        check_indexes(Path(folder))
        check_command_line(Path(folder))
        check_service(Path(folder))
    print("the wheel works")


if __name__ == "__main__":
    main()
