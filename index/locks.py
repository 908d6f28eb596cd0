"""Many readers or one writer."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class _Reading:
    """``with lock.read()``, a class and shared: a generator for each search takes longer than the lock itself."""

    def __init__(self, lock: "ReadWriteLock") -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock._begin_reading()

    def __exit__(self, *exception: object) -> None:
        self._lock._end_reading()


class ReadWriteLock:
    """Searches share it, changes have it alone. A waiting writer holds back new readers, so it is never starved.

    Not re-entrant: a method that holds the lock calls only methods that do not take it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting_writers = 0
        self._reading = _Reading(self)

    def read(self) -> AbstractContextManager[None]:
        return self._reading

    def _begin_reading(self) -> None:
        with self._condition:
            while self._writing or self._waiting_writers:
                self._condition.wait()
            self._readers += 1

    def _end_reading(self) -> None:
        with self._condition:
            self._readers -= 1
            if not self._readers and self._waiting_writers:
                self._condition.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._condition:
            self._waiting_writers += 1
            try:
                self._condition.wait_for(lambda: not self._writing and not self._readers)
            finally:
                self._waiting_writers -= 1
                self._condition.notify_all()
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()
