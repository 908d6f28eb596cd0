"""Which files are read: inputs, folders among them, in an order that does not depend on the file system."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nearhash.errors import InvalidArgumentError

FORMATS = {".txt": "text", ".jsonl": "jsonl", ".parquet": "parquet"}
COMPRESSED = ".gz"


@dataclass(frozen=True)
class Source:
    """A file of documents.

    Attributes
    ----------
    path : str
        Absolute.
    name : str
        Relative to the folder that all inputs share, with slashes: what reports and kept files are called by.
    kind : str
        "text" (the file is one document), "lines" (each line is one), "jsonl" or "parquet" (each row is one).
    compressed : bool
        By gzip.
    size, mtime_ns : int
        As it was found: a file that has changed since is refused.
    """

    path: str
    name: str
    kind: str
    compressed: bool
    size: int
    mtime_ns: int

    def check_unchanged(self) -> None:
        stat = os.stat(self.path)
        if (stat.st_size, stat.st_mtime_ns) != (self.size, self.mtime_ns):
            raise InvalidArgumentError(f"{self.path}: it has changed since the run began; start again in a new folder")


def find_sources(
    inputs: Sequence[str | os.PathLike[str]], form: str | None = None, lines: bool = False
) -> list[Source]:
    """All files of the inputs: files as given, folders walked in sorted order.

    Parameters
    ----------
    inputs : sequence of paths
    form : {"text", "jsonl", "parquet"}, optional
        What the files are, whatever they are called. By default the suffix tells (.txt, .jsonl, .parquet, the first two
        with .gz too); other files in folders are passed over, and other files given by name are refused.
    lines : bool
        A text file has a document in each line.

    Raises
    ------
    InvalidArgumentError
        No input, none with documents, a file that comes twice, an unknown suffix.
    FileNotFoundError
    """
    if form is not None and form not in FORMATS.values():
        raise InvalidArgumentError(f"format: expected one of {', '.join(FORMATS.values())}, got {form!r}")
    roots = [Path(os.path.abspath(path)) for path in inputs]
    if not roots:
        raise InvalidArgumentError("inputs: expected at least one file or folder, got none")
    found: list[tuple[Path, str]] = []
    for root in roots:
        if root.is_dir():
            found += [(path, kind) for path in _walk(root) if (kind := form or _kind(path)) is not None]
        elif root.exists() and not root.is_file():  # it is read more than once
            raise InvalidArgumentError(f"{root}: expected a regular file or a folder, not a pipe or device")
        else:
            given = form or _kind(root)
            if given is None:
                names = ", ".join((*FORMATS, ".txt.gz", ".jsonl.gz"))
                raise InvalidArgumentError(f"{root}: expected a file called {names}; the option `format` names others")
            found.append((root, given))
    if not found:
        raise InvalidArgumentError(f"inputs: no file of documents in {', '.join(map(str, inputs))}")
    seen: set[Path] = set()
    for path, _ in found:
        if path in seen:
            raise InvalidArgumentError(f"inputs: {path} comes twice")
        seen.add(path)
    shared = os.path.commonpath([root if root.is_dir() else root.parent for root in roots])
    return [_source(path, kind, shared, lines) for path, kind in found]


def _walk(root: Path) -> Iterable[Path]:
    def fail(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=fail):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            # Pipes, sockets and devices are no files of documents; a link to nowhere is an error when it is looked at.
            if path.is_file() or not path.exists():
                yield path


def _kind(path: Path) -> str | None:
    name = path.name.lower().removesuffix(COMPRESSED)
    kind = FORMATS.get(os.path.splitext(name)[1])
    return None if kind == "parquet" and path.name.lower().endswith(COMPRESSED) else kind


def _source(path: Path, kind: str, shared: str, lines: bool) -> Source:
    stat = path.stat()
    return Source(
        path=str(path),
        name=path.relative_to(shared).as_posix(),
        kind="lines" if kind == "text" and lines else kind,
        compressed=path.name.lower().endswith(COMPRESSED) and kind != "parquet",
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )


def encode_sources(sources: Sequence[Source]) -> bytes:
    return b"".join(json.dumps(asdict(source), ensure_ascii=True).encode() + b"\n" for source in sources)


def fingerprint(sources: Sequence[Source]) -> str:
    """SHA-256 over names, sizes and times of all files."""
    return hashlib.sha256(encode_sources(sources)).hexdigest()
