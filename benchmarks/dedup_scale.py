"""A million documents with planted near-duplicates, killed and resumed: ``python -m benchmarks.dedup_scale``."""

import argparse
import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import corpora
from benchmarks.cache import cache_folder
from benchmarks.contest import say
from benchmarks.dedup_peers import PEERS
from benchmarks.machine import machine_facts, resident_bytes
from benchmarks.record import RESULTS, Document, read_document, rounded, write_document, write_text
from benchmarks.tables import figure, machine_line, mebibytes, table

THRESHOLD, NGRAM = 0.8, 5
SUBSET = 20_000
STAGES = ("sketch", "bands", "compare", "verify", "link", "group", "write")
BINS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dedup_scale", description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000, help="%(default)s")
    parser.add_argument("--threads", type=int, default=2, help="%(default)s; the other libraries have one")
    parser.add_argument("--memory", type=int, default=512, help="in MiB, %(default)s")
    parser.add_argument("--subset", type=int, default=SUBSET, help="documents for other libraries, %(default)s")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "dedup-scale", help="for texts and output")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--report", action="store_true", help="write the page from the figures that are there")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # a child process and its settings
    options = parser.parse_args(arguments)
    if options.step:
        print(json.dumps(run_child(json.loads(options.step))))
        return 0
    path = options.results / "dedup-scale.json"
    if not options.report:
        write_document(path, run_scale(options))
    page = scale_part(rounded(read_document(path)))
    write_text(options.results / "dedup-scale.md", page)
    print(page)
    return 0


def run_scale(options: argparse.Namespace) -> Document:
    folder: Path = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = folder / "documents.jsonl"
    pairs = corpora.write_planted(source, options.documents)
    say(f"{options.documents:,} documents, {source.stat().st_size / 1e6:,.0f} MB, {len(pairs):,} planted copies")
    settings = {"memory": options.memory << 20, "threads": options.threads, "input": str(source)}
    _start({**settings, "input": str(_head(source, 500)), "out": str(folder / "warm")}).wait()
    whole = json.loads(_start({**settings, "out": str(folder / "whole")}).communicate()[0])
    say(f"whole: {whole['seconds']:.0f} s, peak of {whole['peak_bytes'] / 2**20:,.0f} MiB")

    child = _start({**settings, "out": str(folder / "killed")})
    documents = _kill_half_way(child, folder / "killed" / "work" / "manifest.json", options.documents)
    say(f"killed after {documents:,} documents")
    resumed = json.loads(_start({**settings, "out": str(folder / "killed"), "resume": True}).communicate()[0])
    same = _digest(folder / "whole") == _digest(folder / "killed")
    say(f"resumed: {resumed['seconds']:.0f} s, peak of {resumed['peak_bytes'] / 2**20:,.0f} MiB, same: {same}")

    document = {
        "kind": "dedup-scale",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "versions": {name: version(name) for name in PEERS},
        "settings": {
            "threshold": THRESHOLD, "ngram": NGRAM, "memory": options.memory << 20, "threads": options.threads,
            "documents": options.documents, "bytes": source.stat().st_size, "planted": len(pairs),
        },
        "whole": whole,
        "killed": {"documents": documents, "resumed": resumed, "same": same},
        "curve": recall_curve(source, pairs, folder / "whole" / "clusters.jsonl", whole["report"]["settings"]),
        "subset": {"documents": options.subset, "libraries": compare(options.subset)},
    }  # fmt: skip
    shutil.rmtree(folder)
    return document


def _head(source: Path, lines: int) -> Path:
    target = source.with_name("warm.jsonl")
    with source.open(encoding="utf-8") as file:
        target.write_text("".join(islice(file, lines)), encoding="utf-8")
    return target


def _start(settings: dict[str, Any]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.dedup_scale", "--step", json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run_child(settings: dict[str, Any]) -> dict[str, Any]:
    """Deduplicate; seconds of each stage and memory of the process."""
    from nearhash.index.dedup import Settings, deduplicate_files

    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[stage] = seconds.get(stage, 0.0) + now - last
        last = now

    started = time.perf_counter()
    report = deduplicate_files(
        [settings["input"]], settings["out"], Settings.choose(THRESHOLD, NGRAM), memory=settings["memory"],
        threads=settings["threads"], resume=settings.get("resume", False), progress=progress,
    )  # fmt: skip
    return {
        "seconds": time.perf_counter() - started,
        "stages": seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "resident_bytes": resident_bytes(),
        "report": report,
    }


def _kill_half_way(child: "subprocess.Popen[str]", manifest: Path, documents: int) -> int:
    """Kill a child as soon as it has committed half of the documents; how many those were."""
    while child.poll() is None:
        time.sleep(0.05)
        done = json.loads(manifest.read_text()).get("documents", 0) if manifest.exists() else 0
        if done >= documents // 2:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            return int(done)
    raise RuntimeError("the run ended before it was killed")


def _digest(folder: Path) -> str:
    """SHA-256 over the output but its folder of work."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] != "work":
            digest.update(str(name).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def recall_curve(
    source: Path, pairs: NDArray[np.int64], clusters: Path, chosen: dict[str, Any]
) -> list[dict[str, Any]]:
    """Of planted copies by exact similarity: how many are in one group with their original, and the S-curve's share."""
    from nearhash.index.dedup import Settings

    labels = {}
    with clusters.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            labels[entry["document"]] = entry["cluster"]
    wanted = set(pairs.reshape(-1).tolist())
    texts = {}
    with source.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number in wanted:
                texts[number] = json.loads(line)["text"]
    similarity = _similarities(texts, pairs)
    found = np.array([labels.get(a, -1) == labels.get(b, -2) for a, b in pairs.tolist()])
    settings = Settings(**chosen)
    rows = []
    for low, high in zip(BINS, [*BINS[1:], np.inf], strict=True):
        inside = (similarity >= low) & (similarity < high)
        count = int(inside.sum())
        if not count:
            continue
        # Below the threshold nothing is to be found.
        chance = settings.collision_probability(similarity[inside]) * (low >= THRESHOLD)
        rows.append(
            {
                "from": low, "to": min(high, 1.0), "pairs": count, "found": int(found[inside].sum()),
                "expected": float(chance.sum()), "sigma": float(np.sqrt((chance * (1 - chance)).sum())),
            }
        )  # fmt: skip
    return rows


def _similarities(texts: dict[int, str], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact Jaccard similarity of pairs by sets of Python, in blocks."""
    from nearhash.hashing import Shingler

    shingler = Shingler(ngram=NGRAM)
    out = np.empty(len(pairs))
    for first in range(0, len(pairs), 5000):
        block = pairs[first : first + 5000]
        indptr, tokens = shingler.shingles([texts[number] for number in block.reshape(-1).tolist()])
        sets = [set(tokens[a:b].tolist()) for a, b in pairwise(indptr)]
        for row in range(len(block)):
            left, right = sets[2 * row], sets[2 * row + 1]
            out[first + row] = len(left & right) / len(left | right)
    return out


def compare(count: int) -> list[dict[str, Any]]:
    """Documents a second of each library on a part of the corpus, one thread, from Python strings to pairs."""
    import nearhash as nh

    texts, original = zip(*islice(corpora.planted(count), count), strict=True)
    planted = np.array([(a, b) for b, a in enumerate(original) if a >= 0], np.int64)
    similarity = _similarities(dict(enumerate(texts)), planted)
    sure = {tuple(pair) for pair in planted[similarity >= THRESHOLD].tolist()}
    rows = []
    for name, verify in (("nearhash", "exact"), ('nearhash, verify="sketch"', "sketch")):
        nh.deduplicate(texts[:100], THRESHOLD, NGRAM, verify=verify, threads=1)
        started = time.perf_counter()
        groups = nh.deduplicate(texts, THRESHOLD, NGRAM, verify=verify, threads=1)
        rows.append((name, {tuple(pair) for pair in groups.pairs.tolist()}, time.perf_counter() - started))
    for name, peer in PEERS.items():
        started = time.perf_counter()
        found = peer(texts, THRESHOLD, NGRAM)
        rows.append((name, found, time.perf_counter() - started))
    return [
        {
            "name": name, "seconds": seconds, "documents_per_second": count / seconds, "pairs": len(found),
            "recall": len(found & sure) / len(sure), "precision": len(found & sure) / max(1, len(found)),
        }
        for name, found, seconds in rows
    ]  # fmt: skip


def scale_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    settings, whole, killed = document["settings"], document["whole"], document["killed"]
    runs = [
        [
            name, figure(run["seconds"]), figure(count / run["seconds"]), mebibytes(run["peak_bytes"]),
            *(figure(run["stages"].get(stage)) for stage in STAGES),
        ]
        for name, run, count in (
            ("uninterrupted", whole, settings["documents"]),
            (f"resumed after {killed['documents']:,}", killed["resumed"], settings["documents"] - killed["documents"]),
        )
    ]  # fmt: skip
    curve = [
        [
            f"{row['from']:g} to {row['to']:g}", f"{row['pairs']:,}", f"{row['found']:,}", f"{row['expected']:,.1f}",
            f"{row['sigma']:.1f}",
        ]
        for row in document["curve"]
    ]  # fmt: skip
    libraries = [
        [
            entry["name"], figure(entry["seconds"]), figure(entry["documents_per_second"]), f"{entry['recall']:.4f}",
            f"{entry['precision']:.4f}",
        ]
        for entry in document["subset"]["libraries"]
    ]  # fmt: skip
    report = whole["report"]
    same = "byte for byte the same" if killed["same"] else "NOT THE SAME"
    header = [
        "run",
        "seconds",
        "documents/s",
        "peak MiB",
        "sketch",
        "bands",
        "compare",
        "read again",
        "verify",
        "group",
    ]
    return f"""\
## Near-duplicates in a large corpus

{settings["documents"]:,} documents, {figure(settings["bytes"] / 1e6)} MB of JSONL: definitions of WordNet, drawn at
random, with {settings["planted"]:,} planted copies in which up to {corpora.MOST_EDITS} words were replaced. `nearhash
dedup`, verified exactly, with {settings["threads"]} threads and `--memory` of {mebibytes(settings["memory"])} MiB:
{report["removed"]:,} documents removed. Peak memory is that of the whole process.
{machine_line(document)}

{table([*header, "write"], runs)}
Killed half-way (SIGKILL) and resumed, the output is {same}.

Planted copies by their exact similarity, how many were put into one group with their original, how many the S-curve
of the bands lets expect, and the standard deviation of that. The curve is that of independent slots; those of fast
similarity sketches vary less together, so a little more is found near the threshold:

{table(["similarity", "pairs", "found", "expected", "sigma"], curve)}
The first {document["subset"]["documents"]:,} of the documents in memory, one thread, from Python strings to pairs;
recall of the planted pairs at the threshold, and how many of the pairs found are such (text-dedup, candidates that are
not verified, by the functions of its command one by one):

{table(["library", "seconds", "documents/s", "recall", "precision"], libraries)}"""


if __name__ == "__main__":
    sys.exit(main())
