"""Near-duplicates among files of any size, in bounded memory; a run that was killed goes on where it was."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.arguments import check_count
from nearhash.index.dedup.durable import locked, make_folder, read_json
from nearhash.index.dedup.outcome import REPORT, Outcome
from nearhash.index.dedup.reading import Columns
from nearhash.index.dedup.settings import Settings
from nearhash.index.dedup.sources import Source, find_sources, fingerprint
from nearhash.index.dedup.stages import Stages, State
from nearhash.index.dedup.store import Store
from nearhash.kernels.threads import resolve_threads

FORMAT = 1
WORK, MANIFEST = "work", "manifest.json"
LEAST_MEMORY = 1 << 26

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FileOptions:
    """How files are read and what is written; all of it decides the output.

    Attributes
    ----------
    column : str
        Of JSONL and Parquet, that holds the text.
    id_column : str, optional
        Names the documents in reports; by default they are called by file and row.
    format : {"text", "jsonl", "parquet"}, optional
        Of all files, whatever they are called.
    lines : bool
        A text file has a document in each line; by default it is one document.
    errors : {"strict", "replace"}
        What is done about bytes that are no UTF-8.
    drop_empty : bool
        Remove documents without a word; by default all are kept.
    """

    column: str = "text"
    id_column: str | None = None
    format: str | None = None
    lines: bool = False
    errors: str = "strict"
    drop_empty: bool = False

    def __post_init__(self) -> None:
        if self.errors not in ("strict", "replace"):
            raise InvalidArgumentError(f"errors: expected 'strict' or 'replace', got {self.errors!r}")


def deduplicate_files(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    options: FileOptions | None = None,
    *,
    store: str | os.PathLike[str] | None = None,
    check_only: bool = False,
    resume: bool = False,
    memory: int = 1 << 30,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find near-duplicates in files and write what is kept.

    The folder `out` gets ``kept/`` (the documents that are kept, in files of the names and formats of the input),
    ``clusters.jsonl`` (a line for each document that is in a group) and ``report.json``. While it runs, ``work/`` there
    holds sketches, band keys, pairs and a manifest that says how far it has come.

    Parameters
    ----------
    inputs : sequence of paths
        Files, and folders, which are walked in sorted order. The first document of a group in this order is kept.
    out : path
        A folder that is new or empty; with `resume`, that of a run that was interrupted.
    settings : Settings, optional
    options : FileOptions, optional
    store : path, optional
        A folder that remembers documents: they are compared with those of earlier runs, by sketches, and added to it.
        No document of the store is removed for one that comes later.
    check_only : bool
        Add nothing to the store.
    resume : bool
        Go on with an interrupted run of the same arguments; the output is the same byte for byte.
    memory : int
        Bytes for sketches, keys and pairs; beyond them a run takes some 40 bytes a document, several times the largest
        document (with characters as units some twenty times), and the interpreter with its libraries.
    threads : int, optional
    progress : callable, optional
        ``progress(stage, done, total)``; an exception that it raises interrupts the run.

    Returns
    -------
    dict
        What ``report.json`` says.

    Raises
    ------
    InvalidArgumentError
        Impossible arguments, documents that cannot be read as said, an `out` that is not empty, other arguments than
        those of the run to resume.
    CorruptIndexError
        The store or the work of an interrupted run was damaged.
    OSError
        A file cannot be read or written. What was done is kept: `resume` goes on.
    """
    settings, options = settings or Settings.choose(), options or FileOptions()
    threads = resolve_threads(threads)
    memory = check_count(memory, "memory", least=LEAST_MEMORY)
    sources = find_sources(inputs, options.format, options.lines)
    if options.id_column is not None and all(source.kind in ("text", "lines") for source in sources):
        raise InvalidArgumentError("id_column: only JSONL and Parquet have columns")
    if check_only and store is None:
        raise InvalidArgumentError("check_only: only a store can be checked against, got none")
    folder = Path(os.path.abspath(out))
    store_folder = None if store is None else Path(os.path.abspath(store))
    _check_places(folder, store_folder, inputs)
    work = folder / WORK
    if not (resume and (work / MANIFEST).exists()):
        _check_unused(folder, resume)
    make_folder(work)
    with ExitStack() as held:
        held.enter_context(locked(work))
        known = None
        if store_folder is not None:
            make_folder(store_folder)
            held.enter_context(locked(store_folder))
            known = Store(store_folder, settings)
        state = _begin(work, sources, settings, options, known, check_only)
        if state["stage"] != "finished":
            stages = Stages(work, state, sources, settings, _columns(options), known, memory, threads, progress)
            stages.run()
            Outcome(folder, stages, options, None if check_only else known).write()
            _clear(work)
        return read_json(folder / REPORT)


def _columns(options: FileOptions) -> Columns:
    return Columns(options.column, options.id_column, options.errors)


def _check_places(folder: Path, store: Path | None, inputs: Sequence[str | os.PathLike[str]]) -> None:
    """Nothing that is written may be read as input, whatever links lead there."""
    folder, store = Path(os.path.realpath(folder)), None if store is None else Path(os.path.realpath(store))
    for given in inputs:
        place = Path(os.path.realpath(given))
        for name, written in (("out", folder), ("store", store)):
            if written is not None and (written == place or place in written.parents):
                raise InvalidArgumentError(f"{name}: {written} is inside of the input {place}")
    if store is not None and (store == folder or folder in store.parents or store in folder.parents):
        raise InvalidArgumentError(f"store: {store} and out, {folder}, have to be apart")


def _check_unused(folder: Path, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InvalidArgumentError(f"out: {folder} is not a folder")
    if folder.is_dir():
        # A run may have been killed before its first manifest: then there is a folder of work with no word in it.
        ours = {WORK}
        found = sorted(entry.name for entry in folder.iterdir() if not (resume and entry.name in ours))
        if found:
            unfinished = (folder / WORK).exists()
            hint = "; --resume goes on with the run in it" if unfinished else ""
            raise InvalidArgumentError(f"out: expected a new or empty folder, {folder} has {found[0]!r} in it{hint}")


def _begin(
    work: Path, sources: list[Source], settings: Settings, options: FileOptions, store: Store | None, check_only: bool
) -> State:
    """The state of a run: where it was, or the start."""
    arguments = {
        **settings.facts(), **asdict(options), "inputs": fingerprint(sources),
        "store": None if store is None else str(store.folder), "check_only": check_only,
    }  # fmt: skip
    path = work / MANIFEST
    if path.exists():
        state = State(path, read_json(path))
        if state.get("format") != FORMAT:
            raise InvalidArgumentError(f"resume: {path} is of another release, start again in a new folder")
        before = state.get("arguments")
        if not isinstance(before, dict) or not all(name in state for name in ("run", "base", "stage")):
            raise CorruptIndexError(f"{path}: not the manifest of a run")
        differing = [name for name in arguments if before.get(name) != arguments[name]]
        if differing:
            told = ", ".join(
                f"{name} (files, their sizes or times)"
                if name == "inputs"
                else f"{name} {before.get(name)!r}, not {arguments[name]!r}"
                for name in differing
            )
            raise InvalidArgumentError(f"resume: the run in {work.parent} had other arguments: {told}")
        run = state["run"]
        base = state["base"]
        if store is not None and store.documents != base and not (store.holds_run(run) or state["stage"] == "finished"):
            raise InvalidArgumentError(f"resume: the store {store.folder} has changed since the run began")
        return state
    base = 0 if store is None else store.documents
    run = sha256(dumps([arguments, base, str(work)], sort_keys=True).encode()).hexdigest()
    state = State(path, {"format": FORMAT, "arguments": arguments, "run": run, "base": base, "stage": "sketch"})
    state.commit()
    return state


def _clear(work: Path) -> None:
    """Leave only the manifest of a finished run."""
    for entry in work.iterdir():
        if entry.name not in (MANIFEST, "lock"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
