"""Copies of collections: folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path

from nearhash.errors import CollectionExistsError
from nearhash.service.engine.segments import FOLDER, files_of
from nearhash.service.engine.sqlite_store import sync_folder
from nearhash.service.engine.store import FILE, Store

INFO = "snapshot.json"


def write_snapshot(folder: Path, store: Store, connection: sqlite3.Connection, target: Path) -> None:
    """Copy what a read transaction sees of a collection to a new folder; files of segments must stay meanwhile."""
    draft = _draft(target)
    try:
        store.backup(connection, draft / FILE)
        for path in files_of(folder, store.segments(connection)):
            _copy(path, draft / FOLDER / path.name)
        facts = {"collection": folder.name, "created": time.time(), "settings": store.settings.document()}
        (draft / INFO).write_text(json.dumps(facts))
        _publish(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def copy_collection(source: Path, target: Path) -> None:
    """Copy a snapshot to a new folder."""
    draft = _draft(target)
    try:
        for path in (source / FILE, *sorted((source / FOLDER).iterdir())):
            _copy(path, draft / path.relative_to(source), link=False)
        _publish(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _draft(target: Path) -> Path:
    draft = target.parent / f".{target.name}.{os.urandom(6).hex()}.tmp"
    (draft / FOLDER).mkdir(parents=True)
    return draft


def _copy(source: Path, target: Path, link: bool = True) -> None:
    """A copy, or for files that never change another name of the same file, where the file system can."""
    if link:
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)


def _publish(draft: Path, target: Path) -> None:
    """Make everything in the draft durable and give it its name."""
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(draft / FOLDER)
    sync_folder(draft)
    try:
        os.rename(draft, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # somebody was faster
            raise CollectionExistsError(f"{target}: expected a folder that does not exist yet") from error
        raise
    sync_folder(target.parent)
