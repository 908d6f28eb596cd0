"""Files in the layout of ann-benchmarks: ``train``, ``test``, ``neighbors`` and the attribute ``distance``."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchmarks.datasets import Dataset

# The names of https://github.com/erikbern/ann-benchmarks, ann_benchmarks/distance.py
METRICS = {"euclidean": "l2", "angular": "cosine", "dot": "ip", "ip": "ip"}


def read_hdf5(path: Path) -> "Dataset":
    """Read all of a file; the data set is named after it."""
    import h5py

    from benchmarks.datasets import Dataset

    with h5py.File(path, "r") as file:
        missing = [name for name in ("train", "test") if name not in file]
        if missing:
            raise ValueError(f"{path.name}: no array {' or '.join(missing)}; not an ann-benchmarks file")
        distance = file.attrs.get("distance")
        distance = distance.decode() if isinstance(distance, bytes) else distance
        if distance not in METRICS:
            raise ValueError(f"{path.name}: distance {distance!r}, expected one of {', '.join(METRICS)}")
        base, queries = (np.ascontiguousarray(file[name][()], np.float32) for name in ("train", "test"))
        neighbors = file["neighbors"][()].astype(np.int64) if "neighbors" in file else None
    if base.ndim != 2 or queries.ndim != 2 or base.shape[1] != queries.shape[1]:
        raise ValueError(f"{path.name}: train {base.shape} and test {queries.shape} are not matrices of one width")
    return Dataset(path.stem, base, queries, METRICS[distance], neighbors=neighbors)
