"""Many readers or one writer."""

import threading
import time

from nearhash.index.locks import ReadWriteLock


def test_readers_share():
    lock, barrier = ReadWriteLock(), threading.Barrier(3, timeout=20)

    def read():
        with lock.read():
            barrier.wait()  # all three are inside at once, or this times out

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken


def test_a_writer_is_alone():
    lock, inside, worst = ReadWriteLock(), [], []

    def work(mode, name):
        for _ in range(40):
            with getattr(lock, mode)():
                inside.append((mode, name))
                time.sleep(0.0002)
                if any(m == "write" for m, _ in inside) and len(inside) > 1:
                    worst.append(list(inside))
                inside.remove((mode, name))

    threads = [threading.Thread(target=work, args=(mode, i)) for i, mode in enumerate(["read"] * 4 + ["write"] * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not worst


def test_a_waiting_writer_comes_before_new_readers():
    lock, order = ReadWriteLock(), []
    inside, wrote = threading.Event(), threading.Event()

    def first_reader():
        with lock.read():
            inside.set()
            time.sleep(0.2)

    def writer():
        with lock.write():
            order.append("write")
            wrote.set()

    def late_reader():
        with lock.read():
            order.append("read")

    threads = [threading.Thread(target=target) for target in (first_reader, writer, late_reader)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    while not lock._waiting_writers:
        time.sleep(0.001)
    threads[2].start()
    for thread in threads:
        thread.join(timeout=20)
    assert order == ["write", "read"]


def test_an_exception_releases_the_lock():
    lock = ReadWriteLock()
    for mode in (lock.read, lock.write):
        try:
            with mode():
                raise KeyError
        except KeyError:
            pass
    with lock.write():
        pass
