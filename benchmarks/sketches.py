"""Sketches of sets beside datasketch, rensa and FastSketchLSH: ``python -m benchmarks.sketches``; see ``--help``."""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contest import say
from benchmarks.corpora import copyrights, glosses
from benchmarks.machine import machine_facts
from benchmarks.peers import thread_limit
from benchmarks.record import RESULTS, read_document, rounded, write_document, write_text
from benchmarks.tables import Document, figure, machine_line, table

K, NGRAM = 128, 5
METHODS = ("fss", "oph-optimal", "oph-reverse", "oph-rotation", "classic", "affine32")
SUBJECT, BULK, FULL = "nearhash fss", "datasketch, bulk", "rensa, full set"
Jobs = dict[str, Callable[[], Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sketches", description=__doc__)
    parser.add_argument("--sets", type=int, default=2000, help="%(default)s by default")
    parser.add_argument("--tokens", type=int, default=500, help="of a set, %(default)s by default")
    parser.add_argument("--rounds", type=int, default=9, help="%(default)s by default")
    options = parser.parse_args(arguments)
    with thread_limit(1):
        document = run_sketches(options.sets, options.tokens, options.rounds)
    path = RESULTS / "sketches.json"
    write_document(path, document)
    write_text(path.with_suffix(".md"), "# sketches\n\n" + sketches_table(rounded(read_document(path))))
    return 0


def run_sketches(sets: int, tokens: int, rounds: int) -> Document:
    """Time everything on one thread, and return the document of results."""
    corpora = _texts()
    return {
        "kind": "sketches",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "k": K,
            "ngram": NGRAM,
            "sets": sets,
            "tokens": tokens,
            "rounds": rounds,
            "versions": {name: version(name) for name in ("datasketch", "rensa", "FastSketchLSH")},
        },
        "tokens": _seconds(_of_tokens(sets, tokens), rounds),
        "strings": _seconds(_of_strings(sets, tokens), rounds),
        "texts": [
            {
                "name": name,
                "bytes": sum(len(text.encode()) for text in texts),
                "texts": len(texts),
                "seconds": _seconds(_of_texts(texts), rounds)[0]["seconds"],
            }
            for name, texts in corpora.items()
        ],
        "rho": _rho_agreement(sets, tokens),
        "variance": _variance(),
    }


def _seconds(jobs: Jobs, rounds: int) -> list[Document]:
    """Processor time of each job in each round, every round beginning with another one."""
    names, times = list(jobs), {name: [] for name in jobs}  # type: dict[str, list[float]]
    for name in names:
        jobs[name]()
    say(f"warm: {', '.join(names)}")
    for number in range(rounds):
        for position in range(len(names)):
            name = names[(number + position) % len(names)]
            started = time.process_time()
            jobs[name]()
            times[name].append(time.process_time() - started)
    return [{"name": name, "seconds": times[name]} for name in names]


def _of_tokens(sets: int, tokens: int) -> Jobs:
    """Sketches of hashes of 64 bits."""
    import rensa
    from FastSketchLSH import FastSimilaritySketch

    from nearhash.hashing import MinHash

    rng = np.random.default_rng(1)
    indptr, ids = np.arange(sets + 1) * tokens, rng.integers(0, 2**64, sets * tokens, dtype=np.uint64)
    low = ids & np.uint64(0xFFFFFFFF)
    jobs: Jobs = {}
    for method in METHODS:
        jobs[f"nearhash {method}"] = partial(
            MinHash(K, method).sketch, indptr, low if method == "affine32" else ids, threads=1
        )
    listed, offsets, rows = ids.tolist(), indptr.tolist(), ids.reshape(sets, tokens).tolist()
    jobs["rensa, full set"] = partial(rensa.RMinHash.digest_matrix_from_flat_token_hashes, listed, offsets, K, 1)
    jobs["FastSketchLSH"] = partial(FastSimilaritySketch(K, 1).batch, rows, prehashed=True, num_threads=1)
    return jobs


def _strings(sets: int, tokens: int) -> list[list[str]]:
    """Real shingles of words."""
    words = " ".join(glosses()).split()[: sets * tokens + NGRAM]
    strings = [" ".join(words[at : at + NGRAM]) for at in range(sets * tokens)]
    return [strings[at : at + tokens] for at in range(0, len(strings), tokens)]


def _rho_agreement(sets: int, tokens: int) -> float:
    """Share of values that are the same for the same sets in reverse order, by rensa's faster way."""
    import rensa

    rows = _strings(sets, tokens)[:100]
    one, other = (
        np.array(rensa.RMinHash.digest_matrix_from_token_sets_rho(turned, K, 1).to_rows())
        for turned in (rows, [members[::-1] for members in rows])
    )
    return float((one == other).mean())


def _of_strings(sets: int, tokens: int) -> Jobs:
    """Sketches of Python's strings."""
    import rensa
    from datasketch import MinHash as Peer
    from FastSketchLSH import FastSimilaritySketch

    from nearhash.hashing import MinHash

    rows = _strings(sets, tokens)
    few = rows[: max(len(rows) // 20, 1)]  # of the slowest
    return {
        SUBJECT: partial(MinHash(K).sketch_sets, rows, threads=1),
        FULL: partial(rensa.RMinHash.digest_matrix_from_token_sets, rows, K, 1),
        "rensa, rho": partial(rensa.RMinHash.digest_matrix_from_token_sets_rho, rows, K, 1),
        "FastSketchLSH": partial(FastSimilaritySketch(K, 1).batch, rows, prehashed=False, num_threads=1),
        BULK: lambda: [
            None
            for _ in range(len(rows) // len(few))
            for _ in Peer.bulk([[member.encode() for member in members] for members in few], num_perm=K)
        ],
    }


def _texts() -> dict[str, list[str]]:
    """Texts of about 500 words, in ASCII and not, and those of this machine."""
    pieces, texts = glosses(), list(copyrights().values())
    plain = [" ".join(pieces[at : at + 45]) for at in range(0, 45 * 2000, 45)]
    corpora = {
        "glosses of WordNet, joined": plain,
        "the same, é for every twentieth e": [_accented(text) for text in plain],
    }
    return corpora | ({"Debian's copyright files": texts} if texts else {})


def _accented(text: str) -> str:
    pieces = text.split("e")
    return "".join(piece + ("é" if number % 20 == 0 else "e") for number, piece in enumerate(pieces[:-1])) + pieces[-1]


def _of_texts(texts: list[str]) -> Jobs:
    from nearhash.hashing import MinHash

    return {SUBJECT: partial(MinHash(K).sketch_texts, texts, ngram=NGRAM, threads=1)}


def _variance(k: int = 64, trials: int = 4000) -> list[Document]:
    """Variance of the estimate at J = 1/2 against the formula and against independent slots."""
    from nearhash.hashing import MinHash

    found, rng = [], np.random.default_rng(5)
    for union in (20, 100, 400, 10_000):
        common = union // 2
        half = (union - common) // 2
        for method in METHODS[:-1]:
            minhash, estimates = MinHash(k, method), []
            for seed in range(10):
                minhash = MinHash(k, method, seed=seed)
                tokens = rng.integers(0, 2**64, (trials // 10, union), dtype=np.uint64)
                sides = tokens[:, : common + half], np.delete(tokens, range(common, common + half), axis=1)
                one, other = (
                    minhash.sketch(np.arange(len(side) + 1) * side.shape[1], side.ravel(), threads=1) for side in sides
                )
                estimates.append(one.jaccard(other))
            similarity = common / union
            binomial = similarity * (1 - similarity) / k
            found.append(
                {
                    "method": method,
                    "union": union,
                    "measured": float(np.concatenate(estimates).var() / binomial),
                    "formula": float(minhash.variance(similarity, union) / binomial),
                }
            )
    return found


# --- tables ---


def sketches_table(document: Document) -> str:
    """What was measured, and the tables."""
    settings, versions = document["settings"], document["settings"]["versions"]
    work = settings["sets"] * settings["tokens"]
    hashed = [
        [entry["name"], figure(work / median(entry["seconds"]) / 1e6), figure(1e9 * median(entry["seconds"]) / work)]
        for entry in document["tokens"]
    ]
    strings = {entry["name"]: median(entry["seconds"]) for entry in document["strings"]}
    from_strings = [
        [name, figure(settings["sets"] / seconds), figure(1e9 * seconds / work), f"{seconds / strings[SUBJECT]:.2f}x"]
        for name, seconds in strings.items()
    ]
    texts = [
        [entry["name"], f"{entry['texts']:,}", figure(entry["bytes"] / 1e6),
         figure(entry["bytes"] / median(entry["seconds"]) / 1e6)]
        for entry in document["texts"]
    ]  # fmt: skip
    unions = sorted({entry["union"] for entry in document["variance"]})
    spread = [
        [method, *(_ratio(document, method, union) for union in unions)]
        for method in dict.fromkeys(entry["method"] for entry in document["variance"])
    ]
    return f"""\
{settings["sets"]:,} sets of {settings["tokens"]} shingles, k = {settings["k"]}, one thread, processor time, medians of
{settings["rounds"]} rounds. {machine_line(document)}
datasketch {versions["datasketch"]}, rensa {versions["rensa"]}, FastSketchLSH {versions["FastSketchLSH"]}.

Sets of hashes of 64 bits (Python lists for rensa and FastSketchLSH, which take nothing else that is faster):

{table(["sketcher", "million shingles/s", "ns a shingle"], hashed)}

The same Python strings for all, {settings["ngram"]} words of WordNet's glosses each (encoded for datasketch, which
takes bytes). rensa's `rho` does not read all of a set: of the values of the same sets in reverse order,
{document["rho"]:.0%} agree.

{table(["sketcher", "sets/s", "ns a string", "time of nearhash's"], from_strings)}

Texts to sketches: normalisation, words, {settings["ngram"]}-grams, hashes, sketches (`MinHash.sketch_texts`):

{table(["texts", "number", "MB", "MB/s"], texts)}

Variance of the estimate at J = 1/2 and k = 64, as a multiple of that of independent slots, J (1 - J) / k: measured, and
by `MinHash.variance` in brackets. Columns: elements of both sets together.

{table(["method", *(f"{union:,}" for union in unions)], spread)}"""


def _ratio(document: Document, method: str, union: int) -> str:
    entry = next(e for e in document["variance"] if (e["method"], e["union"]) == (method, union))
    return f"{entry['measured']:.2f} ({entry['formula']:.2f})"


def sketches_part(document: Document) -> str:
    """The section of the page of benchmarks."""
    return f"## Sketches of sets\n\n{sketches_table(document)}"


if __name__ == "__main__":
    raise SystemExit(main())
