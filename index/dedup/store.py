"""A store of documents that were checked before: their sketches, sorted band keys, groups and names."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.dedup.durable import checksum, make_folder, read_json, sync_folder, write_array, write_json
from nearhash.index.dedup.settings import Settings
from nearhash.index.dedup.signatures import Segment

FORMAT = 1
MANIFEST = "store.json"
# Files of a segment: one document or one (key, document) after the other; names with their ends.
SIGNATURES, KEYS, DOCUMENTS, NAMES, NAME_ENDS = "signatures.bin", "keys.bin", "documents.bin", "names.bin", "ends.bin"
FILES = (SIGNATURES, KEYS, DOCUMENTS, NAMES, NAME_ENDS)
_SMALL, _LARGE = 1 << 12, 1 << 22  # documents of segments that are always merged with the next, and never
_MERGED = 1 << 20  # keys of a segment that are merged at a time


class Store:
    """A folder with a segment for each batch that was added; ``store.json`` says which there are.

    Segments are never changed. A batch is added by writing its segment and then, at once, a new ``store.json``. Before,
    neighbouring segments become one where the older is less than twice as large (O'Neil et al., "The log-structured
    merge-tree", 1996), but for large ones: so there are few, and adding takes no longer as the store grows.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self._settings = {name: value for name, value in settings.facts().items() if name != "verify"}
        self._settings |= {"sketch": settings.minhash.header, "shingles": settings.shingler.facts()}
        self.segments: list[dict[str, Any]] = []
        self._mapped: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
        self._labels: tuple[str, int] | None = None
        if (folder / MANIFEST).exists():
            self._open()
        elif folder.is_dir() and any(entry.name != "lock" for entry in folder.iterdir()):
            raise InvalidArgumentError(f"store: {folder} is neither a store nor an empty folder")

    def _open(self) -> None:
        path = self.folder / MANIFEST
        manifest = read_json(path)
        if manifest.get("format") != FORMAT:
            raise CorruptIndexError(f"{path}: expected format {FORMAT}, got {manifest.get('format')!r:.40}")
        found = manifest.get("settings")
        if found != self._settings:
            differing = [
                f"{name} {found.get(name)!r} there, {value!r} here"
                for name, value in self._settings.items()
                if isinstance(found, dict) and found.get(name) != value
            ]
            told = "; ".join(differing) or f"{found!r:.200}"
            raise InvalidArgumentError(f"store: {self.folder} was made otherwise: {told}")
        try:
            self.segments = [
                {
                    "name": str(s["name"]),
                    "documents": int(s["documents"]),
                    "records": int(s["records"]),
                    "runs": [str(run) for run in s["runs"]],
                    "crc32c": {file: int(s["crc32c"][file]) for file in FILES},
                }
                for s in manifest["segments"]
            ]
            if self.segments:
                self._labels = (str(manifest["labels"]["name"]), int(manifest["labels"]["crc32c"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptIndexError(f"{path}: not a list of segments: {error!r}") from error
        for name in (*(segment["name"] for segment in self.segments), *(self._labels or ())[:1]):
            if os.path.basename(name) != name:
                raise CorruptIndexError(f"{path}: expected a name in this folder, got {name!r:.80}")
        for segment in self.segments:
            self._check(segment)
        if self._labels is not None:
            _check_sum(self.folder / self._labels[0], self._labels[1])

    def _check(self, segment: dict[str, Any]) -> None:
        records, documents = segment["records"], segment["documents"]
        sizes = {
            SIGNATURES: documents * 2 * self._settings["k"], KEYS: 8 * records, DOCUMENTS: 4 * records,
            NAME_ENDS: 8 * documents,
        }  # fmt: skip
        for name in FILES:
            file = self.folder / segment["name"] / name
            if not file.is_file() or file.stat().st_size != sizes.get(name, file.stat().st_size):
                raise CorruptIndexError(f"{file}: expected a file of {sizes.get(name, 0):,} bytes")
            _check_sum(file, segment["crc32c"][name])

    @property
    def documents(self) -> int:
        """How many it holds."""
        return sum(segment["documents"] for segment in self.segments)

    def labels(self) -> NDArray[np.int64]:
        """The lowest document of the group of each."""
        if self._labels is None:
            return np.empty(0, np.int64)
        labels: NDArray[np.int64] = np.load(self.folder / self._labels[0], allow_pickle=False)
        numbers = np.arange(self.documents)
        if labels.shape != numbers.shape or labels.dtype != np.int64 or ((labels < 0) | (labels > numbers)).any():
            raise CorruptIndexError(f"{self.folder / self._labels[0]}: not the groups of {len(numbers):,} documents")
        return labels

    def signatures(self) -> list[Segment]:
        """Where the sketches are."""
        found, first = [], 0
        for segment in self.segments:
            found.append(Segment(self.folder / segment["name"] / SIGNATURES, first, segment["documents"]))
            first += segment["documents"]
        return found

    def matches(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """All (key, document) of the store for distinct keys."""
        found_keys, found_documents, first = [], [], 0
        for segment in self.segments:
            if segment["records"]:
                folder = self.folder / segment["name"]
                known = np.memmap(folder / KEYS, np.uint64, "r", shape=(segment["records"],))
                begin, end = np.searchsorted(known, keys, "left"), np.searchsorted(known, keys, "right")
                sizes = end - begin
                places = np.repeat(begin - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
                documents = np.memmap(folder / DOCUMENTS, np.uint32, "r", shape=(segment["records"],))
                found_keys.append(np.repeat(keys, sizes))
                found_documents.append(documents[places].astype(np.int64) + first)
            first += segment["documents"]
        if not found_keys:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        return np.concatenate(found_keys), np.concatenate(found_documents)

    def name(self, document: int) -> str:
        """What a document was called when it came."""
        for segment in self.segments:
            if document < segment["documents"]:
                names, ends = self._names(segment["name"])
                begin = int(ends[document - 1]) if document else 0
                return names[begin : int(ends[document])].tobytes().decode()
            document -= segment["documents"]
        raise InvalidArgumentError(f"document: {document} is not in the store")

    def _names(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The names of a segment, one after the other, and their ends, mapped."""
        if name not in self._mapped:
            folder = self.folder / name
            self._mapped[name] = _mapped(folder / NAMES, np.uint8), _mapped(folder / NAME_ENDS, np.int64)
        return self._mapped[name]

    def holds_run(self, run: str) -> bool:
        """Whether a run has added its batch."""
        return any(run in segment["runs"] for segment in self.segments)

    def add(self, work: Path, documents: int, records: int, labels: NDArray[np.int64], run: str) -> None:
        """Add a batch: the files of a segment are in the folder `work`."""
        if not (self.folder / MANIFEST).exists():  # what follows may be killed; then it has to be known as ours
            self._write_manifest()
        segments = list(self.segments)
        parts = [(work, documents, records, [run])]
        while segments and _worth_merging(segments[-1]["documents"], sum(part[1] for part in parts)):
            last = segments.pop()
            parts.insert(0, (self.folder / last["name"], last["documents"], last["records"], last["runs"]))
        number = 1 + max((int(segment["name"].split("-")[1]) for segment in self.segments), default=-1)
        target = self.folder / f"segment-{number:06d}"
        if target.exists():  # of a run that was killed before it counted
            shutil.rmtree(target)
        make_folder(target)
        _write_segment(target, [part[0] for part in parts], [part[1] for part in parts])
        segments.append(
            {
                "name": target.name,
                "documents": sum(part[1] for part in parts),
                "records": sum(part[2] for part in parts),
                "runs": [run for part in parts for run in part[3]],
                "crc32c": {file: checksum(target / file) for file in FILES},
            }
        )
        labels_path = self.folder / f"labels-{number:06d}.npy"
        write_array(labels_path, labels)
        self._labels = (labels_path.name, checksum(labels_path))
        self.segments = segments
        self._write_manifest()
        self._clear()

    def _write_manifest(self) -> None:
        labels = None if self._labels is None else {"name": self._labels[0], "crc32c": self._labels[1]}
        manifest = {"format": FORMAT, "settings": self._settings, "segments": self.segments, "labels": labels}
        write_json(self.folder / MANIFEST, manifest)

    def _clear(self) -> None:
        """Remove what the store is not made of any more, and what killed runs left."""
        self._mapped.clear()
        current = {segment["name"] for segment in self.segments} | ({self._labels[0]} if self._labels else set())
        for entry in self.folder.iterdir():
            if entry.name.startswith("segment-") and entry.name not in current:
                shutil.rmtree(entry)
            elif entry.name.startswith("labels-") and entry.name not in current:
                entry.unlink()


def _check_sum(path: Path, expected: int) -> None:
    if not path.is_file() or checksum(path) != expected:
        raise CorruptIndexError(f"{path}: damaged or missing: its CRC-32C is not that in {MANIFEST}")


def _worth_merging(older: int, newer: int) -> bool:
    return older < max(2 * newer, _SMALL) and older + newer <= _LARGE


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A file of records, mapped if there is something in it."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _write_segment(target: Path, folders: Sequence[Path], documents: Sequence[int]) -> None:
    """A segment of the documents of others, in order."""
    for name in (SIGNATURES, NAMES):
        with (target / name).open("wb") as file:
            for folder in folders:
                with (folder / name).open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
    firsts = np.cumsum([0, *documents[:-1]])
    with (target / NAME_ENDS).open("wb") as file:
        written = 0
        for folder in folders:
            (_mapped(folder / NAME_ENDS, np.int64) + written).tofile(file)
            written += (folder / NAMES).stat().st_size
    with (target / KEYS).open("wb") as keys_file, (target / DOCUMENTS).open("wb") as documents_file:
        keys = [_mapped(folder / KEYS, np.uint64) for folder in folders]
        numbers = [_mapped(folder / DOCUMENTS, np.uint32) for folder in folders]
        for ranges in _key_blocks(keys, _MERGED):
            some = np.concatenate([part[block] for part, block in zip(keys, ranges, strict=True)])
            order = np.argsort(some, kind="stable")
            some[order].tofile(keys_file)
            moved = [part[block] + np.uint32(first) for part, block, first in zip(numbers, ranges, firsts, strict=True)]
            np.concatenate(moved)[order].tofile(documents_file)
    for name in FILES:
        with (target / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(target)


def _key_blocks(keys: Sequence[NDArray[np.uint64]], size: int) -> Iterator[list[slice]]:
    """Ranges of sorted arrays that together hold the next lowest keys: `size` of each or less, but for equal keys."""
    places = [0] * len(keys)
    while any(place < len(part) for place, part in zip(places, keys, strict=True)):
        ahead = [part[place + size] for place, part in zip(places, keys, strict=True) if place + size < len(part)]
        ends = [len(part) if not ahead else int(np.searchsorted(part, min(ahead))) for part in keys]
        if ends == places:  # more than `size` equal keys
            ends = [int(np.searchsorted(part, min(ahead), "right")) for part in keys]
        yield [slice(place, end) for place, end in zip(places, ends, strict=True)]
        places = ends
