"""Damages what a crash has left, in every way in turn, and looks at what opens: `python -m benchmarks.damage`.

The log is cut at every byte of its last record, or every so many: exactly that write may be missing. And a bit is
flipped in every so many bytes of every file, those of a collection that was closed as well: the collection must be
refused, or hold exactly what it held, or, where the bit is in the last record of the log, miss that write as if it had
been torn. A wrong answer ends the run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import RESULTS, Document, write_document
from nearhash.errors import CorruptIndexError, StorageError
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.store import FILE

DIM = 4
LOG = f"{FILE}-wal"
_UNCHECKED = ("lock", f"{FILE}-shm")  # who writes, and what SQLite makes anew from the log

Contents = dict[int, int]
"""Versions of points by id."""


@cache
def point(own: int, version: int) -> NDArray[np.float32]:
    """A vector that says which point and version it is of."""
    return np.random.default_rng((own, version)).standard_normal(DIM).astype(np.float32)


def fill(collection: Collection, ids: Sequence[int], version: int = 0) -> None:
    payloads = [{"v": version, "own": own} for own in ids]
    collection.upsert(ids, np.stack([point(own, version) for own in ids]), [float(own) for own in ids], payloads)


def contents(collection: Collection) -> Contents:
    """Everything in a collection; raises AssertionError where vectors, labels, payloads or searches disagree."""
    found = {}
    for page in collection.scroll(vectors=True, page_size=100):
        for one in page.points:
            assert one.payload is not None
            assert np.array_equal(np.asarray(one.vector), point(int(one.id), one.payload["v"])), one
            assert one.labels == {"own": float(one.id)}, one
            found[int(one.id)] = int(one.payload["v"])
    assert len(collection) == len(found)
    if found:
        ids = list(found)
        hits = collection.search(np.stack([point(own, found[own]) for own in ids]), k=1)
        assert hits.ids[:, 0].tolist() == ids
    return found


def leave(folder: Path, closed: bool) -> tuple[Contents, Contents, int]:
    """Make a collection with a segment, a buffer and deletions, as a crash leaves it, or `closed`, its log merged.

    Returns the contents before and after the last write, and where that begins in the log.
    """
    live = folder.with_name("live")
    with Collection(live, dim=DIM, metric="l2", labels=("own",), seal_at=1000) as collection:
        fill(collection, range(40))
        collection.seal()
        collection.delete([1, 2])
        fill(collection, range(34, 45), 1)  # few enough to leave the segment as it is
        before, size = contents(collection), (live / LOG).stat().st_size
        fill(collection, [3, 100], 2)
        after = contents(collection)
        if not closed:
            shutil.copytree(live, folder)
    if closed:
        shutil.copytree(live, folder)
    shutil.rmtree(live)
    return before, after, size


class Trial:
    """What was left, to be damaged again and again."""

    def __init__(self, folder: Path, closed: bool) -> None:
        self._folder = folder / "left"
        self._copy = folder / "copy"
        self.before, self.after, self.last = leave(self._folder, closed)
        names = sorted(path.relative_to(self._folder) for path in self._folder.rglob("*") if path.is_file())
        self.files = {name: (self._folder / name).read_bytes() for name in names if name.name not in _UNCHECKED}

    def opened(self, name: Path, data: bytes) -> Contents | None:
        """What is there if a file holds `data`; None if it is refused."""
        shutil.copytree(self._folder, self._copy)
        (self._copy / name).write_bytes(data)
        try:
            with Collection(self._copy) as collection:
                return contents(collection)
        except (CorruptIndexError, StorageError):
            return None
        finally:
            shutil.rmtree(self._copy)

    def cut(self, step: int) -> int:
        """Cut the log in its last record, at each byte or every `step`-th; how many cuts that was."""
        whole = self.files[Path(LOG)]
        stops = [*range(self.last, len(whole), step), len(whole)]
        for stop in stops:
            found = self.opened(Path(LOG), whole[:stop])
            assert found == (self.after if stop == len(whole) else self.before), f"cut at {stop}: {found}"
        return len(stops)

    def flip(self, name: Path, step: int, draw: random.Random) -> Counter[str]:
        """Flip one bit in each byte of a file, or every `step`-th; how often it had which effect."""
        whole, outcomes = self.files[name], Counter({"refused": 0, "same": 0, "last_write_lost": 0})
        for byte in range(draw.randrange(step), len(whole), step):
            data = bytearray(whole)
            data[byte] ^= 1 << draw.randrange(8)
            found = self.opened(name, bytes(data))
            if found is None:
                outcomes["refused"] += 1
            elif found == self.after:
                outcomes["same"] += 1
            else:
                assert name.name == LOG, f"{name}, byte {byte}: {found}"
                assert byte >= self.last, f"{name}, byte {byte}: {found}"
                assert found == self.before, f"{name}, byte {byte}: {found}"
                outcomes["last_write_lost"] += 1
        return outcomes


def run(cut_step: int, flip_step: int, seed: int) -> Document:
    """Cut and flip; raises AssertionError where anything but what was written is found."""
    started, draw = time.perf_counter(), random.Random(seed)
    cuts, files = 0, []
    for left in ("crashed", "closed"):
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
            trial = Trial(Path(name), closed=left == "closed")
            for path, data in trial.files.items():
                outcomes = trial.flip(path, flip_step, draw)
                facts = {"left": left, "file": path.as_posix(), "bytes": len(data)}
                files.append({**facts, "flips": outcomes.total(), **outcomes})
                print(f"{left}, {path}: {dict(outcomes)}", flush=True)
            if left == "crashed":
                cuts = trial.cut(cut_step)
                print(f"{cuts:,} cuts", flush=True)
    return {
        "kind": "damage", "seed": seed, "cut_step": cut_step, "flip_step": flip_step, "cuts": cuts, "files": files,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.damage", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cut-step", type=int, default=1, help="cut at every so many bytes, %(default)s")
    parser.add_argument("--flip-step", type=int, default=16, help="a bit in every so many bytes, %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULTS / "damage.json")
    options = parser.parse_args(arguments)
    write_document(options.result, run(options.cut_step, options.flip_step, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
