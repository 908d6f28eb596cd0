"""The decorators of all kernels, and the compile cache behind it.

Numba's own cache stores machine code beside the source and looks only at the file of the function itself. Kernels
call each other across files, and their vector code depends on the instruction set chosen at import, so here
the key of a cached kernel also holds a hash of all kernel sources and the name of the instruction set.
"""

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

from nearhash.kernels.features import LEVEL

LOCK = "nearhash.lock"
"""File in a folder of the cache by which processes take turns."""

_announced = False


@cache
def source_fingerprint() -> str:
    """SHA-256 over the sources of all kernels, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _announce() -> None:
    """Say once per process why the first call takes long."""
    global _announced
    if not _announced:
        _announced = True
        print(
            "nearhash: compiling kernels for this processor; this happens once, takes up to half a minute "
            "and is cached (`nearhash warmup` does it ahead of time)",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def _turn(folder: str, kind: int) -> Iterator[None]:
    """A turn in a folder of the cache; none is needed where nothing can be written."""
    try:
        file = open(Path(folder) / LOCK, "ab")  # noqa: SIM115
    except OSError:
        yield
        return
    with file:  # closing it ends the turn
        fcntl.flock(file, kind)
        yield


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's function cache with a key that sees the other kernels and the instruction set, safe between processes.

    Numba writes which file has what before it writes the file, and two processes may choose the same name: another
    would load the code of other argument types (numba#4807). So processes that share a folder take turns.
    """

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), source_fingerprint(), LEVEL)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with _turn(self._cache_path, fcntl.LOCK_SH):
            data = super().load_overload(sig, target_context)
        if data is None:
            _announce()
        return data

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            os.makedirs(self._cache_path, exist_ok=True)
        with _turn(self._cache_path, fcntl.LOCK_EX):
            super().save_overload(sig, data)


OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# For small functions inside hot loops. There they take pointers and numbers: passing an array counts references up
# and down, inlined or not, which costs more than the work (flat scan of 100 dimensions in cache: 22 ns a row
# with arrays as arguments).
INLINE_OPTIONS: dict[str, Any] = {**OPTIONS, "forceinline": True}


def jit(function: Callable[..., Any]) -> Any:
    """Compile a kernel: releases the GIL, cached on disk, NumPy's rules for division by zero."""
    dispatcher = numba.njit(**OPTIONS)(function)
    dispatcher._cache = KernelCache(function)
    return dispatcher


def jit_with_gil(function: Callable[..., Any]) -> Any:
    """Compile a kernel that calls functions of Python, and so keeps the GIL; otherwise as `jit`."""
    dispatcher = numba.njit(**{**OPTIONS, "nogil": False})(function)
    dispatcher._cache = KernelCache(function)
    return dispatcher


def jit_inline(function: Callable[..., Any]) -> Any:
    """Compile a step of kernels into its callers; it has no cache entry of its own."""
    return numba.njit(**INLINE_OPTIONS)(function)
