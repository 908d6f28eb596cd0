"""What a new process pays: import, first answer with a warm compile cache, first answer with a cold one."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import datasets
from benchmarks.cache import save_array
from benchmarks.contest import say
from benchmarks.machine import machine_facts

REPEATS = 9

PASS = "pass"
IMPORT = "import nearhash"
# Loads an index file, answers one query and says so; the parent reads the clock.
ANSWER = """
import sys
import numpy as np
import nearhash as nh
index = nh.load(sys.argv[1])
print(index.search(np.load(sys.argv[2]), k=10).ids[0, 0], flush=True)
"""
# Builds a small index and answers one query: the whole path that has to be compiled.
BUILD = """
import sys
import numpy as np
import nearhash as nh
index = nh.GraphIndex(100)
index.add(np.load(sys.argv[3]))
print(index.search(np.load(sys.argv[2]), k=10).ids[0, 0], flush=True)
"""


def run_startup() -> dict[str, Any]:
    """Measure fresh processes and return the document of results."""
    import nearhash as nh

    data = datasets.load("glove-20k")
    with tempfile.TemporaryDirectory(prefix="nearhash-startup-") as name:
        folder = Path(name)
        index = nh.GraphIndex(data.base.shape[1], metric=data.metric)
        index.add(data.base)
        index.save(folder / "index.nearhash")
        save_array(folder / "query.npy", data.queries[:1])
        save_array(folder / "base.npy", data.base[:1000])
        files = [str(folder / file) for file in ("index.nearhash", "query.npy", "base.npy")]
        warm = {
            "interpreter": _median(PASS, files),
            "import": _median(IMPORT, files),
            "load_and_answer": _median(ANSWER, files),
            "build_and_answer": _median(BUILD, files),
        }
        say("warm cache: measured")
        cold = {"load_and_answer": _cold(ANSWER, files), "build_and_answer": _cold(BUILD, files)}
    return {
        "kind": "startup",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {"repeats": REPEATS, "index": list(data.base.shape), "built": 1000},
        "warm_seconds": {**warm, "import_alone": warm["import"] - warm["interpreter"]},
        "cold": cold,
        "imported": _imported(),
    }


def _median(program: str, files: Sequence[str]) -> float:
    _run(program, files)  # once into the page cache, and into the compile cache
    return median(_run(program, files)[0] for _ in range(REPEATS))


def _run(program: str, files: Sequence[str], cache: str | None = None) -> tuple[float, str]:
    """Seconds from the start of a process to its end, and what it said on stderr."""
    environment = dict(os.environ)
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *files], capture_output=True, text=True, check=False, env=environment
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"the measured process failed with status {done.returncode}:\n{done.stderr}")
    return seconds, done.stderr.strip()


def _cold(program: str, files: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="nearhash-cold-") as cache:
        seconds, said = _run(program, files, cache)
    say(f"cold cache: {seconds:.1f} s")
    return {"seconds": seconds, "said": said}


def _imported() -> list[str]:
    """Which of the heavy libraries a bare ``import nearhash`` loads; none, if all is well."""
    program = "import nearhash, sys; print(*({'numba', 'torch', 'grpc', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return sorted(done.stdout.split())
