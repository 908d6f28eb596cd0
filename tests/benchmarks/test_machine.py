"""Facts about the machine, and nothing that names it."""

import json
import os
import platform
import socket

import numpy as np
import pytest

from benchmarks import bandwidth as bandwidth_module
from benchmarks.bandwidth import make_reader
from benchmarks.machine import machine_facts, release_freed_memory, resident_bytes


def test_facts_are_json_and_name_nobody() -> None:
    facts = machine_facts()
    text = json.dumps(facts)
    assert facts["cores"] >= 1
    assert facts["versions"]["numpy"] == np.__version__
    host = socket.gethostname()
    assert host not in facts.values()
    assert os.getcwd() not in text
    assert os.path.expanduser("~") not in text or os.path.expanduser("~") == "/"


@pytest.mark.skipif(platform.system() != "Linux", reason="resident memory is read from /proc")
def test_resident_bytes_see_an_array() -> None:
    release_freed_memory()
    before = resident_bytes()
    array = np.ones(1 << 23)
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before > 0.9 * array.nbytes


def test_the_reader_reads_every_element_in_every_pass() -> None:
    reader = make_reader()
    values = np.arange(10)
    assert reader(values, 1) == 45
    assert reader(values, 3) == 45 + (values ^ 1).sum() + (values ^ 2).sum()


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_counts_all_bytes_of_all_passes(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth_module, "LEAST_BYTES", 8000)
    read: list[int] = []

    def reader(array: np.ndarray, repeats: int) -> int:
        read.append(array.nbytes * repeats)
        return 0

    assert bandwidth_module.bandwidth(reader, np.zeros(100, np.int64), threads) > 0
    assert sum(read) == 8000
    assert len(read) == threads


def test_an_array_beyond_the_caches_is_large_but_bounded() -> None:
    assert 1 << 30 <= bandwidth_module.beyond_caches() <= 4 << 30
