"""Whether writes are carried out still, and what their failures mean for those that come after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nearhash.errors import NearhashError, StorageError


class Commit:
    """A commit under way; `durable` once it is on the disk, whatever happens then."""

    durable = False


class WriteState:
    """Kept by what writes to a folder.

    Parameters
    ----------
    folder
        For messages.
    on_stop
        Told why, when writes stop.
    """

    def __init__(self, folder: Path, on_stop: Callable[[str], None]) -> None:
        self._folder = folder
        self._on_stop = on_stop
        self._full = False  # the last write found no room; the next one may
        self.stopped: str | None = None  # why nothing is written any more

    @property
    def state(self) -> str:
        """ "ok", or why writes are refused."""
        return self.stopped or ("disk full" if self._full else "ok")

    def check(self) -> None:
        """Raise StorageError if writes have stopped."""
        if self.stopped is not None:
            raise StorageError(
                f"{self._folder}: writes have stopped ({self.stopped}); open the collection anew", "stopped"
            )

    def stop(self, reason: str) -> None:
        """Stop all writes: what is on the disk is no longer known. Opening it anew finds out."""
        if self.stopped is None:
            self.stopped = reason
            self._on_stop(reason)

    @contextmanager
    def committing(self) -> Iterator[Commit]:
        """Around a commit. After a full disk the next one may try; anything else but a caller's mistake stops all."""
        commit = Commit()
        try:
            yield commit
            self._full = False
        except StorageError as error:
            if error.reason == "disk full":
                self._full = True
            else:
                self.stop(f"{error.reason}: {error}")
            raise
        except BaseException as error:
            if commit.durable or not isinstance(error, NearhashError):
                self.stop(f"a write failed: {type(error).__name__}: {error}")
            raise
