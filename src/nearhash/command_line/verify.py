"""``nearhash verify`` and ``nearhash repair``: whether files are intact, and what is left of those that are not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from nearhash.command_line.report import JsonOption, print_json, progress_bar, results


def verify(
    path: Annotated[
        Path,
        typer.Argument(exists=True, help="A collection, a folder of collections, a snapshot or an index file."),
    ],
    json: JsonOption = False,
) -> None:
    """Read everything and compare checksums, references and segments. Changes nothing; exits with 1 on problems."""
    found = [_verified_file(path)] if path.is_file() else [_verified_collection(one) for one in _collections(path)]
    intact = not any(one["problems"] for one in found)
    if json:
        print_json({"path": str(path), "intact": intact, "checked": found})
    else:
        for one in found:
            _print_verified(one)
    if not intact:
        raise typer.Exit(1)


def repair(
    path: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The folder of a collection.")],
    json: JsonOption = False,
) -> None:
    """Bring a damaged collection back: all that is intact is kept, the damaged files are put aside."""
    from nearhash.service.engine.repair import repair as repair_collection

    with progress_bar("Copying") as progress:
        done = repair_collection(path, progress)
    document = {"path": str(path), "kept": done.kept, "lost": done.lost, "notes": done.notes, "damaged": done.damaged}
    if json:
        print_json(document)
        return
    console = results()
    for note in done.notes:
        console.print(f"- {note}", soft_wrap=True, markup=False)
    aside = f"; the damaged files are in {done.damaged}" if done.damaged else ""
    console.print(
        f"{path}: {done.kept:,} points kept, {len(done.lost):,} rows lost{aside}", soft_wrap=True, markup=False
    )


def _collections(path: Path) -> list[Path]:
    """The folder itself, or the collections and snapshots in it."""
    from nearhash.errors import UnknownCollectionError
    from nearhash.service.engine.database import COLLECTIONS, SNAPSHOTS
    from nearhash.service.engine.names import NAME
    from nearhash.service.engine.store import FILE

    if (path / FILE).is_file():
        return [path]
    if not (path / COLLECTIONS).is_dir():
        raise UnknownCollectionError(f"{path}: neither a collection nor a folder of collections")
    folders = [
        folder for name in (COLLECTIONS, SNAPSHOTS) if (path / name).is_dir() for folder in (path / name).iterdir()
    ]
    return sorted(folder for folder in folders if folder.is_dir() and NAME.fullmatch(folder.name))


def _verified_collection(folder: Path) -> dict[str, Any]:
    from nearhash.errors import UnknownCollectionError
    from nearhash.service.engine.verify import verify as verify_collection

    with _unwritten(folder), progress_bar(folder.name) as progress:
        try:
            found = verify_collection(folder, progress)
        except UnknownCollectionError as error:  # a folder among collections that has no database
            return {"path": str(folder), "kind": "collection", "problems": [str(error.args[0])], "repairable": False}
    return {
        "path": str(folder),
        "kind": "collection",
        "points": found.points,
        "segments": found.segments,
        "problems": found.problems,
        "repairable": found.repairable,
    }


@contextmanager
def _unwritten(folder: Path) -> Iterator[None]:
    """Raises LockedError while somebody writes to a collection, and keeps others from it; snapshots have no lock."""
    from nearhash.service.engine import lock

    if not os.access(folder / lock.FILE, os.W_OK):
        yield
        return
    held = lock.DirectoryLock(folder)
    try:
        yield
    finally:
        held.release()


def _verified_file(path: Path) -> dict[str, Any]:
    from nearhash.errors import CorruptIndexError
    from nearhash.index.storage import inspect_file, read_file

    problems, kind = [], "index"
    try:
        kind = inspect_file(path)["header"].get("kind", kind)
        read_file(path, mmap=True, verify=True)
    except CorruptIndexError as error:
        problems = [str(error)]
    return {"path": str(path), "kind": kind, "problems": problems, "repairable": False}


def _print_verified(found: dict[str, Any]) -> None:
    console = results()
    facts = f" ({found['points']:,} points, {found['segments']:,} segments)" if "points" in found else ""
    if not found["problems"]:
        console.print(f"{found['path']}: intact{facts}", soft_wrap=True, markup=False)
        return
    advice = ""
    if found["kind"] == "collection":
        again = "made again when it is opened" if found["repairable"] else f"try `nearhash repair {found['path']}`"
        advice = f" ({again})"
    console.print(f"{found['path']}: damaged{advice}", soft_wrap=True, markup=False)
    for problem in found["problems"]:
        console.print(f"- {problem}", soft_wrap=True, markup=False)
