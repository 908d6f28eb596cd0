"""The exceptions that nearhash raises. A leaf module: every room may import it, it imports nothing.

Each class is also a ``ValueError``, ``KeyError`` or ``RuntimeError`` where Python's conventions ask for one,
so code that does not know nearhash catches it too.
"""


class NearhashError(Exception):
    """Base class of all errors raised by nearhash.

    ``written`` is None except where a client sent an upsert in several requests and one of them failed: then it is how
    many points, from the first on, are known to be written.
    """

    written: int | None = None


class InvalidArgumentError(NearhashError, ValueError):
    """An argument has an impossible value; the message names it, what came and what was expected."""


class DimensionError(InvalidArgumentError):
    """Vectors do not have the dimension of the index."""


class DtypeError(InvalidArgumentError, TypeError):
    """An array has a dtype that cannot be used here without losing information."""


class MetricError(InvalidArgumentError):
    """The metric is unknown, or the vectors cannot be measured by it."""


class DuplicateIdError(InvalidArgumentError):
    """An id is given twice or is already in the index."""


class NotTrainedError(NearhashError, RuntimeError):
    """An index or codec has learned nothing yet that the call needs; add vectors, or call ``train``."""


class UnknownIdError(NearhashError, KeyError):
    """An id is not in the index."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class ReadOnlyError(NearhashError, RuntimeError):
    """This kind of index does not change after it was built."""


class ClosedError(NearhashError, ValueError):
    """The index was closed."""


class SketchMismatchError(InvalidArgumentError):
    """Two sketches were made in different ways: their values cannot be compared."""


class CorruptIndexError(NearhashError, RuntimeError):
    """A file is not an intact nearhash index; nothing was loaded from it."""


class VersionError(CorruptIndexError):
    """A file was written in a format version that this release does not read."""


class CorruptCollectionError(CorruptIndexError):
    """A collection is damaged; ``nearhash verify`` tells where, ``nearhash repair`` keeps what is intact."""


class LockedError(NearhashError, RuntimeError):
    """Another process writes to the collection; the message names it."""


class StorageError(NearhashError, OSError):
    """Writes to a collection have stopped, as the disk is full or has failed; nothing acknowledged is lost.

    ``reason`` says why. Searches go on.
    """

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason


class UnknownCollectionError(NearhashError, KeyError):
    """There is no collection, or no snapshot, of that name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnknownSessionError(NearhashError, KeyError):
    """There is no session of that id: it was freed, its lease has run out, or it belongs to another key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CollectionExistsError(NearhashError, ValueError):
    """There is a collection, or a snapshot, of that name already."""


class MemoryLimitError(NearhashError, MemoryError):
    """A store of keys and values would hold more bytes than it may; nothing has changed."""


class MissingExtraError(NearhashError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class ServiceError(NearhashError, RuntimeError):
    """A server refused or failed a request; ``code`` holds the gRPC status name."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class AccessError(ServiceError):
    """The server does not know the API key of the caller, or the key does not allow the call; ``code`` tells which."""
