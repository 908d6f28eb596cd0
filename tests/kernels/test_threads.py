"""The one helper that splits work over threads."""

import os
import threading
import time

import pytest

from nearhash.errors import InvalidArgumentError
from nearhash.kernels.threads import available_threads, resolve_threads, run_chunks


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize(("count", "chunk"), [(0, 3), (1, 3), (3, 3), (100, 7), (5, 100)])
def test_every_item_is_done_once(threads, count, chunk):
    done = []

    def task(first, last):
        assert 0 < last - first <= chunk
        done.extend(range(first, last))

    run_chunks(task, count, threads, chunk)
    assert sorted(done) == list(range(count))


def test_threads_work_at_the_same_time():
    barrier = threading.Barrier(3, timeout=20)
    run_chunks(lambda first, last: barrier.wait(), 3, 3, 1)


@pytest.mark.parametrize("failing", [0, 5, 19])
def test_an_exception_stops_the_rest_and_is_raised_when_all_have_stopped(failing):
    running, done = set(), []

    def task(first, last):
        running.add(first)
        time.sleep(0.002)
        if first == failing:
            running.discard(first)
            raise KeyError(first)
        done.append(first)
        running.discard(first)

    with pytest.raises(KeyError, match=str(failing)):
        run_chunks(task, 1000, 4, 1)
    assert not running, "a thread still worked after the call had returned"
    assert len(done) < 500


def test_many_callers_at_once():
    """More callers than the pool has threads: each works itself, so none waits for another for ever."""
    totals = []

    def call():
        done = []
        run_chunks(lambda first, last: done.extend(range(first, last)), 50, 4, 5)
        totals.append(sorted(done))

    callers = [threading.Thread(target=call) for _ in range(100)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert totals == [list(range(50))] * 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    run_chunks(lambda first, last: None, 10, 3, 1)  # the parent's pool exists now
    child = os.fork()
    if child == 0:
        code = 1
        try:
            together = threading.Barrier(2, timeout=20)
            run_chunks(lambda first, last: together.wait(), 2, 2, 1)
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, 9)
    pytest.fail("the child hangs")


def test_number_of_threads():
    assert resolve_threads(None) == available_threads() >= 1
    assert resolve_threads(3) == 3
    for bad in (0, -1, 2.0, "2", True):
        with pytest.raises(InvalidArgumentError, match="threads"):
            resolve_threads(bad)
