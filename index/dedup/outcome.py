"""What a run leaves: kept files, clusters, a report, and the batch in the store."""

from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nearhash import __version__
from nearhash.index.dedup.durable import AppendFile, read_records, write_json
from nearhash.index.dedup.kept import encode_line, names, write_kept
from nearhash.index.dedup.rates import estimated_rates, similarity_shares
from nearhash.index.dedup.sources import Source
from nearhash.index.dedup.stages import COUNTS, LABELS, SHINGLES, SIMILARITIES, Stages
from nearhash.index.dedup.store import NAME_ENDS, NAMES, Store

if TYPE_CHECKING:
    from nearhash.index.dedup.files import FileOptions

REPORT, CLUSTERS, KEPT = "report.json", "clusters.jsonl", "kept"
_LARGEST = 10  # clusters in the report
_COMMIT_AFTER = 1 << 16  # documents


class Outcome:
    """Writes the output of a run whose groups are known."""

    def __init__(self, folder: Path, stages: Stages, options: "FileOptions", store: Store | None) -> None:
        self.folder, self.stages, self.state, self.store = folder, stages, stages.state, store
        self.options = options
        work, count = stages.work, stages.documents
        self.labels: NDArray[np.int64] = np.load(work / LABELS)
        self.similarities: NDArray[np.float32] = np.load(work / SIMILARITIES)
        self.empty = read_records(work / SHINGLES, np.uint32, count) == 0
        own = np.arange(stages.base, stages.base + count)
        self.new = self.labels[stages.base :]
        self.first = self.new == own
        self.keep = self.first & ~self.empty if options.drop_empty else self.first
        self.grouped = np.bincount(self.labels, minlength=len(self.labels))[self.new] > 1

    def write(self) -> None:
        if self.state["stage"] == "write":
            self._write_files()
            write_json(self.folder / REPORT, self.report())
            self.state.commit(stage="store")
        if self.store is not None and not self.store.holds_run(self.state["run"]):
            self.store.add(
                self.stages.work, self.stages.documents, self.state["sorted"], self.labels, self.state["run"]
            )
        self.state.commit(stage="finished")

    def _write_files(self) -> None:
        """Kept files and the lines of clusters, file by file."""
        counts = read_records(self.stages.work / COUNTS, np.int64, len(self.stages.sources))
        starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
        done, length, named, name_bytes = self.state.get("written", (0, 0, 0, 0))
        work = self.stages.work
        with (
            AppendFile(self.folder / CLUSTERS, length) as clusters,
            AppendFile(work / NAMES, name_bytes) as all_names,
            AppendFile(work / NAME_ENDS, 8 * named) as ends,
        ):
            committed = starts[done]
            for number, (first, last) in enumerate(pairwise(starts)):
                if number < done:
                    continue
                source = self.stages.sources[number]
                write_kept(source, self.keep[first:last], self.folder / KEPT / source.name)
                for lines, name_block, end_block in self._lines(source, first, last, all_names.length):
                    clusters.append(np.frombuffer(lines, np.uint8))
                    all_names.append(np.frombuffer(name_block, np.uint8))
                    ends.append(end_block)
                if last - committed >= _COMMIT_AFTER or number + 1 == len(counts) or number % 256 == 255:
                    for file in (clusters, all_names, ends):
                        file.sync()
                    self.state.commit(written=[number + 1, clusters.length, ends.length // 8, all_names.length])
                    committed = last
                self.stages.report("write", last, starts[-1])

    def _lines(
        self, source: Source, first: int, last: int, name_bytes: int
    ) -> Iterator[tuple[bytes, bytes, NDArray[np.int64]]]:
        """Lines of clusters, and for the store names and where they end, of the documents of a file, in blocks."""
        grouped = self.grouped[first:last]
        wanted = np.ones(last - first, bool) if self.store is not None else grouped
        lines, labels, sizes = bytearray(), bytearray(), []
        for row, name in names(source, self.stages.columns, wanted):
            if self.store is not None:
                label = str(name).encode("utf-8", "replace")
                labels += label
                sizes.append(len(label))
            if grouped[row]:
                lines += encode_line(self._line(source, row, first + row, name))
            if len(lines) + len(labels) > 1 << 22:
                block = name_bytes + np.cumsum(sizes, dtype=np.int64)
                name_bytes += len(labels)
                yield bytes(lines), bytes(labels), block
                lines, labels, sizes = bytearray(), bytearray(), []
        yield bytes(lines), bytes(labels), name_bytes + np.cumsum(sizes, dtype=np.int64)

    def _line(self, source: Source, row: int, document: int, name: Any) -> dict[str, Any]:
        cluster = int(self.new[document])
        line = {
            "cluster": cluster,
            "document": self.stages.base + document,
            "id": name,
            "file": source.name,
            "row": row + 1,
            "kept": bool(self.keep[document]),
            "similarity": 1.0 if self.first[document] else round(float(self.similarities[document]), 6),
        }
        if cluster < self.stages.base and self.stages.store is not None:
            line["in_store"] = self.stages.store.name(cluster)
        return line

    def report(self) -> dict[str, Any]:
        """Counts and estimated rates; equal runs give equal reports, so no times."""
        stages, state, settings = self.stages, self.state, self.stages.settings
        histogram = np.array(state.get("histogram", [0.0] * (settings.k + 1)))
        rates = estimated_rates(histogram, settings)
        sizes = np.bincount(self.labels, minlength=len(self.labels))
        touched = np.unique(self.new[self.grouped])
        largest = touched[np.lexsort((touched, -sizes[touched]))][:_LARGEST]
        count, kept = stages.documents, int(self.keep.sum())
        arguments = state["arguments"]
        return {
            "format": 1,
            "nearhash": __version__,
            "settings": settings.facts(),
            "options": {option.name: arguments[option.name] for option in fields(self.options)},
            "files": len(stages.sources),
            "bytes": sum(source.size for source in stages.sources),
            "documents": count,
            "kept": kept,
            "removed": count - kept,
            "empty": int(self.empty.sum()),
            "clusters": len(touched),
            "largest_clusters": [{"cluster": int(c), "documents": int(sizes[c])} for c in largest],
            "in_store_before": stages.base,
            "duplicates_of_the_store": int((self.new < stages.base).sum()),
            "compared_pairs": round(float(histogram.sum())),
            "duplicate_pairs": state["edges"],
            "not_fully_compared": state.get("skipped", 0),
            "estimated_false_positive_rate": round(rates.false_positive, 6),
            "estimated_false_negative_rate": round(rates.false_negative, 6),
            "similarities": similarity_shares(histogram),
        }  # fmt: skip
