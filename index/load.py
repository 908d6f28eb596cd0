"""Open an index file."""

from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.storage import read_file

if TYPE_CHECKING:
    from nearhash.index.base import VectorIndex

# Where the class of each kind of index is, so that a file loads no more code than it needs.
_HOMES = {
    "flat": ("nearhash.index.flat", "FlatIndex"),
    "graph": ("nearhash.index.graph", "GraphIndex"),
    "ivf": ("nearhash.index.ivf", "IVFIndex"),
}


def load(path: str | PathLike[str], mmap: bool = True, verify: bool = True) -> "VectorIndex":
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
        return _index_class(header)._from_file(header, tensors)
    except CorruptIndexError as error:
        raise CorruptIndexError(f"{path}: {error}") from error
    except (InvalidArgumentError, KeyError, TypeError) as error:
        # A header that the constructor refuses.
        raise CorruptIndexError(f"{path}: header: {error}") from error


def _index_class(header: dict[str, Any]) -> "type[VectorIndex]":
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in _HOMES:
        raise CorruptIndexError(f"header 'kind': expected one of {', '.join(_HOMES)}, got {kind!r:.80}")
    module, name = _HOMES[kind]
    return cast("type[VectorIndex]", getattr(import_module(module), name))
