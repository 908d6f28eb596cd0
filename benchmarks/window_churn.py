"""A `WindowIndex` after changes beside one that is built afresh, and how soon new vectors are found."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import Document
from benchmarks.window_peers import Floats, K, ladder

SHARE = 0.3  # of the vectors that is exchanged
STEP = 2000  # vectors added or removed at a time
FRACTIONS = (0, 2, 4, 6, 8, 10, 12)
SINGLE = 200  # vectors added one by one


def run_churn(base: Floats, queries: Floats, metric: str, target: float, rounds: int) -> Document:
    """Exchange a share of the vectors, then measure; labels are a random permutation."""
    import nearhash as nh

    rng = np.random.default_rng(3)
    count = int((len(base) - SINGLE) / (1 + SHARE))
    later = np.arange(count, count + int(SHARE * count))
    gone = rng.permutation(count)[: len(later)]
    labels = rng.permutation(len(base)).astype(np.float64)
    changed = nh.WindowIndex(base.shape[1], metric, threads=2)
    changed.add(base[:count], labels=labels[:count])
    for first in range(0, len(later), STEP):
        changed.remove(gone[first : first + STEP])
        part = later[first : first + STEP]
        changed.add(base[part], ids=part, labels=labels[part])
    present = np.setdiff1d(np.arange(count + len(later)), gone)
    fresh = nh.WindowIndex(base.shape[1], metric, threads=2)
    fresh.add(base[present], ids=present, labels=labels[present])
    exact = nh.FlatIndex(base.shape[1], metric)
    exact.add(base[present], ids=present, labels=labels[present])
    order = np.append(np.sort(labels[present]), np.inf)
    cases = [
        {"fraction": number, **_compared(fresh, changed, exact, queries, order, 1 << number, target, rounds)}
        for number in FRACTIONS
        if len(present) >> number >= K
    ]
    found = 0
    for new in range(len(base) - SINGLE, len(base)):
        (own,) = changed.add(base[new], labels=labels[new : new + 1])
        hits = changed.search(base[new], 1, window=(labels[new], np.nextafter(labels[new], np.inf)), threads=1)
        found += int(hits.ids[0, 0] == own)
    return {
        "present": count,
        "removed": len(gone),
        "step": STEP,
        "inserted": SINGLE,
        "found": found,
        "cases": cases,
        "info": {"segments": changed.info()["segments"], "fresh": fresh.info()["segments"]},
        "bytes": {"changed": changed.nbytes, "fresh": fresh.nbytes},
    }


def _compared(
    fresh: Any, changed: Any, exact: Any, queries: Floats, order: NDArray[np.float64], parts: int, target: float,
    rounds: int,
) -> Document:  # fmt: skip
    """Recall and time of both at the least effort that reaches the target in the fresh one."""
    width = (len(order) - 1) // parts
    first = np.random.default_rng(parts).integers(0, len(order) - width, len(queries))
    windows = np.stack([order[first], order[first + width]], axis=1)
    cut = exact.search(queries, K, window=windows).distances[:, -1] * (1 + 1e-5) + 1e-6

    def recall(index: Any, beam: int) -> float:
        distances = index.search(queries, K, window=windows, threads=1, beam=beam).distances
        return float(np.minimum((distances <= cut[:, None]).sum(axis=1) / K, 1.0).mean())

    beam = next((effort for effort in ladder(15, 1200) if recall(fresh, effort) >= target), 1200)
    case: Document = {"width": width, "beam": beam}
    for name, index in (("fresh", fresh), ("changed", changed)):
        case[name] = {"recall": recall(index, beam), "us": []}
    for _ in range(rounds):
        for name, index in (("fresh", fresh), ("changed", changed)):
            started = time.perf_counter()
            index.search(queries, K, window=windows, threads=1, beam=beam)
            case[name]["us"].append(1e6 * (time.perf_counter() - started) / len(queries))
    return case
