"""Near-duplicate removal on texts with real near-duplicates, against all pairs: ``python -m benchmarks.dedup``."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks import corpora
from benchmarks.contest import say
from benchmarks.dedup_peers import PEERS, Pairs, datasketch_pairs, joined, rensa_pairs
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, rounded, write_document, write_text
from benchmarks.tables import figure, machine_line, table

THRESHOLD, NGRAM = 0.8, 5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dedup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s; the median time counts")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--report", action="store_true", help="write the page from the figures that are there")
    options = parser.parse_args(arguments)
    path = options.results / "dedup.json"
    if not options.report:
        write_document(path, run_dedup(options.rounds))
    page = dedup_part(rounded(read_document(path)))
    write_text(options.results / "dedup.md", page)
    print(page)
    return 0


def run_dedup(rounds: int) -> Document:
    sets = {
        "SPDX licences": list(corpora.licenses().values()),
        "Debian copyright files": list(corpora.copyrights().values()),
    }
    sets["both"] = [text for texts in sets.values() for text in texts]
    results = []
    for name, texts in sets.items():
        if texts:
            results.append(_compare(name, texts, rounds))
    return {
        "kind": "dedup",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {"threshold": THRESHOLD, "ngram": NGRAM, "k": 128, "rounds": rounds, "threads": 1},
        "versions": {name: version(name) for name in PEERS},
        "sets": results,
    }


def _compare(name: str, texts: list[str], rounds: int) -> Document:
    truth, union = true_pairs(texts)
    say(f"{name}: {len(texts)} texts, {len(truth)} pairs at {THRESHOLD}")
    contestants: dict[str, Callable[[], Pairs]] = {
        "nearhash": partial(nearhash_pairs, texts, "exact"),
        'nearhash, verify="sketch"': partial(nearhash_pairs, texts, "sketch"),
        "datasketch": partial(datasketch_pairs, texts, THRESHOLD, NGRAM),
        "datasketch, candidates": partial(datasketch_pairs, texts, THRESHOLD, NGRAM, False),
        "rensa": partial(rensa_pairs, texts, THRESHOLD, NGRAM),
        "rensa, candidates": partial(rensa_pairs, texts, THRESHOLD, NGRAM, False),
    }
    if "text-dedup" in PEERS:
        contestants["text-dedup, candidates"] = partial(PEERS["text-dedup"], texts, THRESHOLD, NGRAM)
    nearhash_pairs(texts[:10], "exact")  # kernels loaded
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    found: dict[str, Pairs] = {}
    for turn in range(rounds):
        order = list(contestants)
        for contestant in order[turn % len(order) :] + order[: turn % len(order)]:
            started = time.perf_counter()
            found[contestant] = contestants[contestant]()
            seconds[contestant].append(time.perf_counter() - started)
    groups = np.array(joined(truth, len(texts)))
    rows = []
    for contestant in contestants:
        named = found[contestant]
        labels = np.array(joined(named, len(texts)))
        grouped = _together(labels)
        rows.append(
            {
                "name": contestant,
                "pairs": len(named),
                "recall": len(named & truth) / len(truth),
                "precision": len(named & truth) / max(1, len(named)),
                "group_recall": len(grouped & _together(groups)) / len(_together(groups)),
                "group_precision": len(grouped & _together(groups)) / max(1, len(grouped)),
                "kept": int((labels == np.arange(len(texts))).sum()),
                "seconds": float(np.median(seconds[contestant])),
            }
        )
        say(str(rows[-1]))
    return {
        "name": name, "documents": len(texts), "bytes": sum(len(text.encode()) for text in texts),
        "true_pairs": len(truth), "true_kept": int((groups == np.arange(len(texts))).sum()),
        "near_the_threshold": union, "contestants": rows,
    }  # fmt: skip


def true_pairs(texts: list[str]) -> tuple[Pairs, int]:
    """All pairs at the threshold by sets of Python; and how many are within .02 of it, on either side."""
    from nearhash.hashing import Shingler

    indptr, tokens = Shingler(ngram=NGRAM).shingles(texts)
    sets = [set(tokens[first:last].tolist()) for first, last in pairwise(indptr)]
    pairs: Pairs = set()
    near = 0
    for right, one in enumerate(sets):
        for left in range(right):
            other = sets[left]
            if min(len(one), len(other)) < (THRESHOLD - 0.02) * max(len(one), len(other)) or not one:
                continue
            common = len(one & other)
            similarity = common / (len(one) + len(other) - common)
            near += abs(similarity - THRESHOLD) < 0.02
            if similarity >= THRESHOLD:
                pairs.add((left, right))
    return pairs, near


def nearhash_pairs(texts: list[str], verify: str) -> Pairs:
    """The pairs that nearhash finds: in large groups those that it looks at."""
    import nearhash as nh

    found = nh.deduplicate(texts, THRESHOLD, NGRAM, verify=verify, threads=1)
    return {(left, right) for left, right in found.pairs.tolist()}


def _together(labels: np.ndarray) -> Pairs:
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return {(int(a), int(b)) for group in groups for i, a in enumerate(group) for b in group[i + 1 :]}


def dedup_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    settings = document["settings"]
    parts = []
    for data in document["sets"]:
        rows = [
            [
                entry["name"], f"{entry['pairs']:,}", f"{entry['recall']:.3f}", f"{entry['precision']:.3f}",
                f"{entry['group_recall']:.3f}", f"{entry['group_precision']:.3f}", f"{entry['kept']:,}",
                figure(entry["seconds"]), figure(data["documents"] / entry["seconds"]),
            ]
            for entry in data["contestants"]
        ]  # fmt: skip
        header = ["one thread", "pairs", "recall", "precision", "recall of groups", "precision of groups", "kept"]
        parts.append(
            f"{data['name']}: {data['documents']:,} texts, {figure(data['bytes'] / 1e6)} MB, "
            f"{data['true_pairs']:,} true pairs ({data['near_the_threshold']:,} pairs within .02 of the threshold), "
            f"{data['true_kept']:,} to keep.\n\n" + table([*header, "seconds", "documents/s"], rows)
        )
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    return f"""\
## Near-duplicates

Texts with real near-duplicates; shingles of {settings["ngram"]} words, Jaccard similarity of at least
{settings["threshold"]:g}, {settings["k"]} slots a sketch, one thread, from Python strings to pairs.
Truth: exact Jaccard similarity of all pairs. "Recall" and "precision" are of pairs, "of groups" of pairs in one
connected component, against those of the truth. Other libraries choose their own bands, "candidates" are not verified
by their estimates; their shingles are made in Python, which is part of their time. {versions};
rensa over full sets, not the mode that samples positions, which is no MinHash. text-dedup: the functions of its command
`minhash` one by one, as the command needs older libraries than these; it joins a bucket with its first document only,
so its pairs are few where groups are large.
{machine_line(document)}

{chr(10).join(parts)}"""


if __name__ == "__main__":
    sys.exit(main())
