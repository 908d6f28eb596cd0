"""Facts about the machine, and nothing that names it."""

import json
import os
import platform
import socket

import numpy as np
import pytest

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
