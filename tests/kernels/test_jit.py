"""The compile cache: kept between processes, aware of other kernels and of the instruction set, loud when cold."""

import fcntl
import os
import subprocess
import sys
import textwrap

import pytest

from nearhash.kernels import jit

PROGRAM = textwrap.dedent("""
    import numpy as np
    from nearhash.kernels import jit, pool
    if {change!r}:
        jit.source_fingerprint = lambda: "other sources"
    pool.unpack(np.zeros(1, np.uint64), 1, np.zeros(1, np.int32), np.zeros(1, np.float32))
    pool.unpack(np.zeros(2, np.uint64), 2, np.zeros(2, np.int32), np.zeros(2, np.float32))
    print(sum(pool.unpack.stats.cache_hits.values()), sum(pool.unpack.stats.cache_misses.values()))
""")


def start(folder, change=False, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(change=change)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, change=False, **environment):
    with start(folder, change, **environment) as process:
        found, errors = process.communicate()
    assert process.returncode == 0, errors
    return found.strip(), errors


def test_processes_take_turns(tmp_path):
    assert run(tmp_path)[0] == "0 1"
    (lock,) = tmp_path.rglob(jit.LOCK)
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with start(tmp_path) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=4)  # longer than it takes
            fcntl.flock(file, fcntl.LOCK_UN)
            assert process.communicate()[0].strip() == "1 0"


@pytest.mark.parametrize("other", [{"change": True}, {"NEARHASH_SIMD": "generic"}])
def test_machine_code_is_loaded_again_unless_it_could_be_another(tmp_path, other):
    assert run(tmp_path)[0] == "0 1"
    assert run(tmp_path)[0] == "1 0"
    assert run(tmp_path, **other)[0] == "0 1"


def test_a_cold_cache_says_once_what_takes_so_long(tmp_path):
    assert run(tmp_path)[1].count("nearhash: compiling kernels") == 1
    assert "compiling" not in run(tmp_path)[1]


def test_fingerprint_covers_every_kernel():
    jit.source_fingerprint.cache_clear()
    assert len(jit.source_fingerprint()) == 64
