"""A store of documents that were checked before: their sketches, sorted band keys, groups and names."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError
from nearhash.index.dedup.durable import read_json, read_records, sync_folder, write_array, write_json
from nearhash.index.dedup.settings import Settings
from nearhash.index.dedup.signatures import Segment

FORMAT = 1
MANIFEST = "store.json"
# Files of a segment: one document or one (key, document) after the other; names with their ends.
SIGNATURES, KEYS, DOCUMENTS, NAMES, NAME_ENDS = "signatures.bin", "keys.bin", "documents.bin", "names.bin", "ends.bin"
FILES = (SIGNATURES, KEYS, DOCUMENTS, NAMES, NAME_ENDS)


class Store:
    """A folder with a segment for each batch that was added; ``store.json`` says which there are.

    Segments are never changed. A batch is added by writing its segment and then, at once, a new ``store.json``.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self._settings = {name: value for name, value in settings.facts().items() if name != "verify"}
        self._settings |= {"sketch": settings.minhash.header, "shingles": settings.shingler.facts()}
        self.segments: list[dict[str, Any]] = []
        self._labels: str | None = None
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
                    "run": s["run"],
                }
                for s in manifest["segments"]
            ]
            self._labels = None if manifest["labels"] is None else str(manifest["labels"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptIndexError(f"{path}: not a list of segments: {error!r}") from error
        for segment in self.segments:
            records, documents = segment["records"], segment["documents"]
            sizes = {SIGNATURES: documents * 2 * self._settings["k"], KEYS: 8 * records, DOCUMENTS: 4 * records}
            for name, size in {**sizes, NAME_ENDS: 8 * documents}.items():
                file = self.folder / segment["name"] / name
                if os.path.basename(segment["name"]) != segment["name"] or file.stat().st_size != size:
                    raise CorruptIndexError(f"{file}: expected {size:,} bytes")

    @property
    def documents(self) -> int:
        """How many it holds."""
        return sum(segment["documents"] for segment in self.segments)

    def labels(self) -> NDArray[np.int64]:
        """The lowest document of the group of each."""
        if self._labels is None:
            return np.empty(0, np.int64)
        labels: NDArray[np.int64] = np.load(self.folder / self._labels, allow_pickle=False)
        numbers = np.arange(self.documents)
        if labels.shape != numbers.shape or labels.dtype != np.int64 or ((labels < 0) | (labels > numbers)).any():
            raise CorruptIndexError(f"{self.folder / self._labels}: not the groups of {len(numbers):,} documents")
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
                folder = self.folder / segment["name"]
                ends = read_records(folder / NAME_ENDS, np.int64, min(document, 1) + 1, max(document - 1, 0))
                begin = int(ends[0]) if document else 0
                return read_records(folder / NAMES, np.uint8, int(ends[-1]) - begin, begin).tobytes().decode()
            document -= segment["documents"]
        raise InvalidArgumentError(f"document: {document} is not in the store")

    def holds_run(self, run: str) -> bool:
        """Whether a run has added its batch."""
        return any(segment["run"] == run for segment in self.segments)

    def add(self, work: Path, documents: int, records: int, labels: NDArray[np.int64], run: str) -> None:
        """Add a batch: the files of a segment are in the folder `work`."""
        name = f"segment-{len(self.segments):06d}"
        target = self.folder / name
        if target.exists():  # of a run that was killed before it counted
            shutil.rmtree(target)
        target.mkdir()
        for file in FILES:
            shutil.copyfile(work / file, target / file)
            with (target / file).open("rb+") as written:
                os.fsync(written.fileno())
        sync_folder(target)
        old = self._labels
        self._labels = f"labels-{len(self.segments):06d}.npy"
        write_array(self.folder / self._labels, labels)
        self.segments.append({"name": name, "documents": documents, "records": records, "run": run})
        write_json(
            self.folder / MANIFEST,
            {"format": FORMAT, "settings": self._settings, "segments": self.segments, "labels": self._labels},
        )
        if old is not None:
            (self.folder / old).unlink(missing_ok=True)
