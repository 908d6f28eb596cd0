"""Open an index file."""

from importlib import import_module
from os import PathLike
from typing import Any

from nearhash.errors import CorruptIndexError
from nearhash.index.storage import inspect_file, refusing

# Where the class of each kind of index is, so that a file loads no more code than it needs.
_HOMES = {
    "disk": ("nearhash.index.disk", "DiskIndex"),
    "flat": ("nearhash.index.flat", "FlatIndex"),
    "graph": ("nearhash.index.graph", "GraphIndex"),
    "hamming": ("nearhash.index.hamming", "HammingIndex"),
    "ivf": ("nearhash.index.ivf", "IVFIndex"),
    "lsh": ("nearhash.index.lsh", "LSHIndex"),
    "minhash-lsh": ("nearhash.index.minhash_lsh", "MinHashLSH"),
    "window": ("nearhash.index.window", "WindowIndex"),
}


def load(path: str | PathLike[str], mmap: bool = True, verify: bool = True) -> Any:
    """Load an index that was written by its ``save``, or by ``DiskIndex.build``.

    Parameters
    ----------
    path : path
    mmap : bool
        Map the file (shared between processes, loaded as it is touched) instead of reading it. An index loaded this
        way can be changed: what changes is copied to memory, the file stays as it is.
    verify : bool
        Compare all checksums, which reads the whole file once. Structure is checked in any case.

    Returns
    -------
    An index of the class that the file says: a `VectorIndex`, or `MinHashLSH`.

    Raises
    ------
    CorruptIndexError
        If the file is not an intact index. Nothing has been loaded then.
    """
    header = inspect_file(path)["header"]
    with refusing(path):
        kind = _index_class(header)
    return kind._read(path, mmap, verify)


def _index_class(header: dict[str, Any]) -> Any:
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in _HOMES:
        raise CorruptIndexError(f"header 'kind': expected one of {', '.join(_HOMES)}, got {kind!r:.80}")
    module, name = _HOMES[kind]
    return getattr(import_module(module), name)
