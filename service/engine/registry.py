"""Things by name, each in a folder of its own within one: opened together, made and dropped whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from nearhash.errors import (
    ClosedError,
    CollectionExistsError,
    InvalidArgumentError,
    NearhashError,
    ReadOnlyError,
    UnknownCollectionError,
)
from nearhash.service.engine.names import NAME, check_collection_name
from nearhash.service.engine.sqlite_store import sync_folder


class Closable(Protocol):
    """What a registry holds."""

    def close(self) -> None: ...

    def check_settings(self, **given: Any) -> None: ...


Thing = TypeVar("Thing", bound=Closable)


class Registry(Generic[Thing]):
    """The collections of one kind in a folder.

    Parameters
    ----------
    folder
        Where they are.
    file
        The file by which one is known.
    opened
        Opens the one in a folder.
    created
        Makes one in a new folder, of settings.
    most
        How many there may be.
    read_only
        Another process makes and drops them.

    Notes
    -----
    One that cannot be opened does not keep the others from being used: `get` raises what opening it raised.
    """

    def __init__(
        self,
        folder: Path,
        file: str,
        opened: Callable[[Path], Thing],
        created: Callable[[Path, dict[str, Any]], None],
        most: int,
        read_only: bool = False,
    ) -> None:
        self.folder = folder
        self._file = file
        self._opening = opened
        self._creating = created
        self._most = most
        self._read_only = read_only
        self._guard = threading.RLock()
        self._open: dict[str, Thing] = {}
        self._identities: dict[str, tuple[int, int] | None] = {}  # of their files, when they were opened
        self._failed: dict[str, NearhashError] = {}
        self._closed = False
        if read_only:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        for name in self._listed():
            try:
                self._opened(name)
            except NearhashError as error:
                self._failed[name] = error

    def create(self, name: str, if_missing: bool, settings: dict[str, Any]) -> Thing:
        """Make one, or with `if_missing` take the one that is there, if all settings that are given are its own."""
        self._check_writable()
        check_collection_name(name)
        with self._guard:
            if (self._path(name) / self._file).exists():
                if not if_missing:
                    raise CollectionExistsError(f"name: there is a collection {name!r} already")
                present = self.get(name)
                present.check_settings(**settings)
                return present
            if len(self._listed()) >= self._most:
                raise InvalidArgumentError(f"max_collections: there are {self._most:,} collections, the limit")
            draft = self.folder / f".creating-{os.urandom(6).hex()}"
            try:
                self._creating(draft, settings)
                os.rename(draft, self._path(name))
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            sync_folder(self.folder)
            return self._opened(name)

    def take(self, name: str, make: Callable[[Path], None]) -> Thing:
        """Let somebody make the folder of a new one, and open it."""
        self._check_writable()
        check_collection_name(name)
        with self._guard:
            if self._path(name).exists():
                raise CollectionExistsError(f"name: there is a collection {name!r} already")
            make(self._path(name))
            return self._opened(name)

    def get(self, name: str) -> Thing:
        """The open one of a name; raises UnknownCollectionError, or what kept it from being opened."""
        opened = self._open.get(name)
        if opened is not None and (not self._read_only or self._identity(name) == self._identities.get(name)):
            return opened
        with self._guard:
            self._check_open()
            if opened is not None and self._open.get(name) is opened:
                self._forget(name)  # another process has dropped it
            if name in self._failed:
                raise self._failed[name]
            known = isinstance(name, str) and NAME.fullmatch(name) and (self._path(name) / self._file).is_file()
            if not known:
                self._forget(name)
                raise UnknownCollectionError(f"collection: no collection {name!r:.80} here")
            return self._open[name] if name in self._open else self._opened(name)

    def names(self) -> list[str]:
        """Names of all, those that could not be opened as well."""
        with self._guard:
            return self._listed()

    def failed(self) -> dict[str, NearhashError]:
        """Those that could not be opened, and why."""
        return dict(self._failed)

    def drop(self, name: str) -> None:
        """Close one and delete it."""
        self._check_writable()
        with self._guard:
            if name not in self._failed:
                self.get(name)
            self._forget(name)
            self._failed.pop(name, None)
            gone = self.folder / f".dropped-{os.urandom(6).hex()}"
            os.rename(self._path(name), gone)
            sync_folder(self.folder)
        shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        """Close all of them."""
        with self._guard:
            self._closed = True
            for name in list(self._open):
                self._forget(name)

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _listed(self) -> list[str]:
        folders = self.folder.iterdir()
        return sorted(path.name for path in folders if NAME.fullmatch(path.name) and (path / self._file).is_file())

    def _identity(self, name: str) -> tuple[int, int] | None:
        """Of the file that the name leads to: another one once it was dropped and made anew."""
        try:
            found = os.stat(self._path(name) / self._file)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _opened(self, name: str) -> Thing:
        self._identities[name] = self._identity(name)
        thing = self._open[name] = self._opening(self._path(name))
        return thing

    def _forget(self, name: str) -> None:
        thing = self._open.pop(name, None)
        if thing is not None:
            thing.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.folder.parent}: the database was closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnlyError(f"{self.folder.parent}: opened for reading only")


def remove_leftovers(folder: Path) -> None:
    """What crashes have left of things being made or dropped."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            shutil.rmtree(path, ignore_errors=True)
