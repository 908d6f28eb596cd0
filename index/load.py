"""Open an index file."""

from os import PathLike
from typing import TYPE_CHECKING, Any

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.storage import read_file

if TYPE_CHECKING:
    from nearhash.index.flat import FlatIndex
    from nearhash.index.graph import GraphIndex


def load(path: str | PathLike[str], mmap: bool = True, verify: bool = True) -> "FlatIndex | GraphIndex":
    """Load an index that was written by its ``save``.

    Parameters
    ----------
    path : path
    mmap : bool
        Map the file (shared between processes, loaded as it is touched) instead of reading it. An index loaded this
        way can be changed: what changes is copied to memory, the file stays as it is.
    verify : bool
        Compare all checksums, which reads the whole file once. Structure is checked in any case.

    Raises
    ------
    CorruptIndexError
        If the file is not an intact index. Nothing has been loaded then.
    """
    header, tensors = read_file(path, mmap=mmap, verify=verify)
    try:
        index: FlatIndex | GraphIndex = _index_class(header)._from_file(header, tensors)
    except CorruptIndexError as error:
        raise CorruptIndexError(f"{path}: {error}") from error
    except (InvalidArgumentError, KeyError, TypeError) as error:
        # A header that the constructor refuses.
        raise CorruptIndexError(f"{path}: header: {error}") from error
    return index


def _index_class(header: dict[str, Any]) -> Any:
    kind = header.get("kind")
    if kind == "flat":
        from nearhash.index.flat import FlatIndex

        return FlatIndex
    if kind == "graph":
        from nearhash.index.graph import GraphIndex

        return GraphIndex
    raise CorruptIndexError(f"header 'kind': expected 'flat' or 'graph', got {kind!r}")
