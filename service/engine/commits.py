"""Writes of many threads, committed together: one fsync for all that wait.

Whoever comes while a commit runs waits; the first of those that waited then commits for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from nearhash.errors import InvalidArgumentError

Answer = TypeVar("Answer")


class Operation(Generic[Answer]):
    """A write on its way.

    Parameters
    ----------
    carry_out
        Makes the write part of a transaction. May raise InvalidArgumentError before it has changed anything.
    """

    def __init__(self, carry_out: Callable[[Any], Any]) -> None:
        self.carry_out = carry_out
        self.done = False
        self.answer: Answer | None = None
        self.error: BaseException | None = None

    def run(self, transaction: Any) -> Any:
        """What `carry_out` returns; None if it refuses, which is this operation's own affair."""
        try:
            return self.carry_out(transaction)
        except InvalidArgumentError as error:
            self.error = error
            return None


class GroupCommit:
    """Hands operations, as many as have come, to `commit`, which one thread at a time runs.

    Parameters
    ----------
    commit
        Commits operations and sets their answers; if it raises, none of them was carried out.
    """

    MOST = 256  # operations of one commit

    def __init__(self, commit: Callable[[Sequence[Operation[object]]], None]) -> None:
        self._commit = commit
        self._waiting: list[Operation[object]] = []
        self._queue = threading.Lock()
        self.writing = threading.Lock()

    @property
    def pending(self) -> int:
        """Operations that wait."""
        return len(self._waiting)

    def submit(self, operation: Operation[Answer]) -> Answer:
        """Return the answer of an operation once it is durable; raises if it was not carried out."""
        with self._queue:
            self._waiting.append(operation)  # type: ignore[arg-type]
        with self.writing:
            while not operation.done:  # more than once only where more wait than one commit takes
                with self._queue:
                    batch, self._waiting = self._waiting[: self.MOST], self._waiting[self.MOST :]
                self._run(batch)
        if operation.error is not None:
            raise operation.error
        return operation.answer  # type: ignore[return-value]

    def _run(self, batch: Sequence[Operation[object]]) -> None:
        error: BaseException | None = None
        try:
            self._commit(batch)
        except BaseException as raised:
            error = raised
        for operation in batch:
            operation.error = error or operation.error
            operation.done = True
