"""Error of sampled attention on queries, keys and values of SmolLM2: ``python -m benchmarks.attention.tensors``.

Ten layers, all heads, several decoding steps; each estimator at several shares of tokens read, those of sink and local
window included, against dense attention. MagicPIG reads what its tables give; priority sampling and top-k are given as
many tokens as it read.
"""

import argparse
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.attention.dump import Dump, load_dump
from benchmarks.attention.evaluation_plot import plot_tensors
from benchmarks.attention.evaluation_report import tensors_part
from benchmarks.attention.partial import with_kept
from benchmarks.attention.smollm import NAME
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from nearhash.attention.estimators import make_estimator
from nearhash.attention.estimators.base import exact_tokens
from nearhash.attention.heads import ArrayHead
from nearhash.attention.store import KVStore

CONTEXTS = (2048, 4096, 8192)
SHARES = (0.025, 0.05, 0.1, 0.2)
SINK, LOCAL = 16, 128
SHORT = (4, 16)  # another sink and local window
STEPS, APART = 4, 16  # decoding steps that are measured, and the tokens between them
DRAWS = 3  # of estimators that draw
SEEDS = 64  # of draws whose mean tells the bias
CODECS = ("lvq4", "pq4", "simhash", "simhash1024")
SETTINGS = ((10, 150), (8, 75))  # K and L of MagicPIG

Floats = NDArray[np.float32]
Errors = dict[str, list[NDArray[np.float64]]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention.tensors", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS), help="tokens")
    parser.add_argument("--ways", default=".*", help="regular expression of the names of those to be measured")
    parser.add_argument("--keep", action="store_true", help="keep figures of other contexts that are there")
    parser.add_argument("--report", action="store_true", help="write table and plot from the figures that are there")
    options = parser.parse_args(arguments)
    path = options.results / "attention-tensors.json"
    if not options.report:
        document = run(load_dump(), options.contexts, options.ways)
        write_document(path, with_kept(path, document, "contexts", ("tokens",)) if options.keep else document)
    document = read_document(path)
    write_text(path.with_suffix(".md"), tensors_part(document, "."))
    plot_tensors(document, path.with_suffix(".png"))
    return 0


def run(dump: Dump, contexts: Sequence[int], wanted: str = ".*") -> Document:
    entries = []
    for count in contexts:
        ways = {name: way for name, way in ways_of(dump.keys.shape[-1]).items() if re.search(wanted, name)}
        entries.append({"tokens": count, **measure(dump, count, ways)})
        say(f"{count} tokens measured")
    return {
        "kind": "attention-tensors",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {
            "model": NAME, "layers": list(dump.layers), "steps": STEPS, "draws": DRAWS, "sink": SINK, "local": LOCAL,
            "short": list(SHORT),
        },
        "contexts": entries,
        "bias": bias(dump, min(contexts)),
    }  # fmt: skip


def ways_of(dim: int) -> dict[str, dict[str, Any]]:
    """Estimators by name: codec and options, and the bytes that they keep and scan for each token."""
    ways: dict[str, dict[str, Any]] = {f"priority, {codec}": {"codec": codec, "draws": DRAWS} for codec in CODECS}
    ways["top-k oracle"] = {"estimator": "topk_oracle", "scanned": 0.0}
    ways["priority, lvq4, short window"] = {"draws": DRAWS, "exact": SHORT}
    ways["priority, pq4, short window"] = {"codec": "pq4", "draws": DRAWS, "exact": SHORT}
    ways["top-k oracle, short window"] = {"estimator": "topk_oracle", "scanned": 0.0, "exact": SHORT}
    ways["uniform"] = {"estimator": "uniform", "scanned": 0.0, "draws": DRAWS}
    ways["vattention, lvq4"] = {"estimator": "vattention", "draws": DRAWS}
    ways["vattention, oracle"] = {
        "estimator": "vattention", "options": {"oracle": True}, "scanned": 0.0, "draws": DRAWS,
    }  # fmt: skip
    ways["hash_topk"] = {"estimator": "hash_topk", "scanned": 32.0}
    ways["quest"] = {"estimator": "quest", "scanned": 8 * dim / make_estimator("quest").page}  # type: ignore[attr-defined]
    ways["socket"] = {"estimator": "socket", "scanned": 2.0 * make_estimator("socket").L}  # type: ignore[attr-defined]
    # What it evicts is gone: each share has a cache of its own. Codes are those of the tokens that are kept.
    ways["hashevict"] = {"estimator": "hashevict", "scanned": 0.0, "forgets": True}
    return ways


def measure(dump: Dump, count: int, ways: dict[str, dict[str, Any]]) -> Document:
    """Errors of all ways at all shares that leave room for a sample, and of MagicPIG with others at equal reads."""
    shares = [share for share in SHARES if share * count >= SINK + LOCAL + 32]
    first = count - (STEPS - 1) * APART
    errors: Errors = {f"{name} at {share}": [] for name in ways for share in shares}
    pigs: dict[str, Errors] = {f"MagicPIG K{K} L{L}": {} for K, L in SETTINGS}
    kept: dict[str, float] = {}
    for at in range(len(dump.layers)):
        stores = {
            codec: _store(dump, at, first, codec) for codec in {way.get("codec", "lvq4") for way in ways.values()}
        }
        forgetful = {share: _store(dump, at, first, "lvq4") for share in shares}
        indexes: dict[Any, Any] = {}
        for step in range(STEPS):
            end = first + step * APART
            for store in [*stores.values(), *forgetful.values()]:
                store.append(dump.keys[at][:, len(store) : end], dump.values[at][:, len(store) : end])
            queries = np.array(dump.queries[at][:, end - 1])
            dense = stores["lvq4"].attend(queries, "dense")
            for name, way in ways.items():
                usual = stores[way.get("codec", "lvq4")]
                kept[name] = way.get("scanned", usual.info()["index_bytes_per_token"])
                for share in shares:
                    store = forgetful[share] if way.get("forgets") else usual
                    for draw in range(way.get("draws", 1)):
                        found = store.attend(
                            queries, way.get("estimator", "priority"), share, *way.get("exact", (SINK, LOCAL)),
                            None, step * DRAWS + draw, at, **way.get("options", {}),
                        )  # fmt: skip
                        errors[f"{name} at {share}"].append(_error(found, dense, found.reads / end))
            for K, L in SETTINGS:
                compared = _against_magicpig(dump, at, end, step, queries, dense, stores, indexes, K, L)
                for name, error in compared.items():
                    pigs[f"MagicPIG K{K} L{L}"].setdefault(name, []).append(error)
    token_bytes = 2 * dump.keys.shape[-1] * 4
    return {
        "ways": [
            {"name": name, "share": share, "index_bytes_per_token": kept[name],
             **_summary(errors[f"{name} at {share}"], count, token_bytes, kept[name])}
            for name in ways for share in shares
        ],
        "equal_reads": [
            {"name": name, "rivals": {rival: _summary(found, count, token_bytes, 0.0) for rival, found in own.items()}}
            for name, own in pigs.items()
        ],
    }  # fmt: skip


def _store(dump: Dump, at: int, count: int, codec: str) -> KVStore:
    store = KVStore(dump.keys.shape[1], dump.keys.shape[3], codec, threads=1)
    store.append(dump.keys[at][:, :count], dump.values[at][:, :count])
    return store


def _error(found: Any, dense: Any, shares: NDArray[Any]) -> NDArray[np.float64]:
    """Of each query head (rows): error relative to the norm of the dense output, |delta lse|, share of tokens read."""
    distance = np.linalg.norm(found.output - dense.output, axis=1) / np.linalg.norm(dense.output, axis=1)
    change = np.abs(found.lse - dense.lse)
    return np.stack([distance, change, np.repeat(shares, len(distance) // len(shares))], axis=1)


def _summary(errors: list[NDArray[np.float64]], count: int, token_bytes: int, scanned: float) -> Document:
    distance, change, shares = np.concatenate(errors).T
    share = float(shares.mean())
    return {
        "share_read": share,
        "bytes_read": count * (share * token_bytes + scanned),
        "error": float(np.median(distance)),
        "error_p95": float(np.percentile(distance, 95)),
        "lse_error": float(np.median(change)),
    }


class _Result:
    """Output and lse of all query heads, from those of each KV head."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.output = np.concatenate([part.output for part in parts])
        self.lse = np.concatenate([part.lse for part in parts])


def _against_magicpig(
    dump: Dump, at: int, end: int, step: int, queries: Floats, dense: Any, stores: dict[str, KVStore],
    indexes: dict[Any, Any], K: int, L: int,
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """MagicPIG, and others that read as many tokens as it does: on average for each query, and for the whole group."""
    estimator, always = make_estimator("magicpig", K=K, L=L), exact_tokens(end, SINK, LOCAL)
    heads = dump.keys.shape[1]
    group, scale = len(queries) // heads, np.float32(1 / np.sqrt(queries.shape[1]))
    found, single, union = [], [], []
    for head in range(heads):
        view = ArrayHead(dump.keys[at, head, :end], dump.values[at, head, :end], proxy=_none)
        own = queries[head * group : (head + 1) * group] * scale
        if (K, L, head) not in indexes:
            indexes[K, L, head] = estimator.index(view, always)
        index = indexes[K, L, head]
        found.append(estimator.attend(view, own, 0, always, 0, index))
        choices = estimator.retrieve(view, own, 0, always, 0, index)
        single.append(np.mean([len(choice.positions) for choice in choices]))
        union.append(found[-1].reads)
    reads = {"a query": np.array(single), "a group": np.array(union)}
    result = {"MagicPIG": _error(_Result(found), dense, reads["a query"] / end)}
    for name, tokens in reads.items():
        budget = max(round(float(tokens.mean())) - len(always), 1)
        for codec in ("lvq4", "pq4"):
            if codec in stores:
                ours = stores[codec].attend(queries, "priority", budget, SINK, LOCAL, None, step, at)
                result[f"priority, {codec}, reads of {name}"] = _error(ours, dense, ours.reads / end)
        oracle = stores["lvq4"].attend(queries, "topk_oracle", budget, SINK, LOCAL)
        result[f"top-k oracle, reads of {name}"] = _error(oracle, dense, oracle.reads / end)
    return result


def _none(queries: Floats) -> Floats:
    raise NotImplementedError("MagicPIG asks for no logits")


def bias(dump: Dump, count: int, share: float = 0.1) -> list[Document]:
    """Of estimators that claim to have none: how far the mean of many draws is from dense attention.

    ``denominator``: mean of exp(lse) relative to the true one, less 1, over all heads; ``z`` the greatest of a head in
    standard errors. ``output``: distance of the mean output, relative, beside that of single draws.
    """
    entries = []
    for name in ("priority", "uniform", "vattention"):
        ratios, outputs, singles = [], [], []
        for at in range(0, len(dump.layers), 3):
            store, queries = _store(dump, at, count, "lvq4"), np.array(dump.queries[at][:, count - 1])
            dense = store.attend(queries, "dense")
            found = [store.attend(queries, name, share, SINK, LOCAL, None, seed, at) for seed in range(SEEDS)]
            ratios.append(np.exp([one.lse.astype(np.float64) - dense.lse for one in found]))
            drawn, norms = np.stack([one.output for one in found]), np.linalg.norm(dense.output, axis=1)
            outputs.append(np.linalg.norm(drawn.mean(axis=0) - dense.output, axis=1) / norms)
            singles.append((np.linalg.norm(drawn - dense.output, axis=2) / norms).mean(axis=0))
        ratio = np.concatenate(ratios, axis=1)  # [seeds, heads]
        deviation = ratio.std(axis=0, ddof=1) / np.sqrt(SEEDS)
        z = np.divide(ratio.mean(axis=0) - 1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        entries.append(
            {
                "name": name,
                "tokens": count,
                "share": share,
                "seeds": SEEDS,
                "heads": int(ratio.shape[1]),
                "denominator": float(ratio.mean() - 1),
                "z": float(np.abs(z).max()),
                "z_root_mean_square": float(np.sqrt((z**2).mean())),
                "output": float(np.median(np.concatenate(outputs))),
                "single_output": float(np.median(np.concatenate(singles))),
            }
        )
    return entries


if __name__ == "__main__":
    raise SystemExit(main())
