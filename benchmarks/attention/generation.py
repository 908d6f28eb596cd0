"""Tokens per second of SmolLM2 at long contexts: ``python -m benchmarks.attention.generation``.

Attention of Torch (sdpa, the stock cache of transformers) against the decoder backend, dense and sampled, on the same
threads, in turns. All are given the tokens that sdpa generated, so that their work is the same; how often they would
have said the same is told beside. The rest of the model takes what it takes at a context of a few tokens: that is the
limit of what faster attention can gain.
"""

import argparse
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention.evaluation_report import generation_part
from benchmarks.attention.smollm import NAME, load_model
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from nearhash.kernels.threads import available_threads

CONTEXTS, GENERATED, ROUNDS = (2048, 4096, 8192), 48, 5
SHORT = 16  # tokens of the context in which attention costs nothing
WAYS: dict[str, dict[str, Any]] = {
    "nearhash, dense": {"estimator": "dense"},
    "nearhash, priority 10%": {"budget": 0.1},
    "nearhash, priority 5%": {"budget": 0.05},
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention.generation", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS), help="tokens, those generated too")
    parser.add_argument("--generated", type=int, default=GENERATED, help="tokens that are timed")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each contestant, and one to warm up")
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--report", action="store_true", help="write the table from the figures that are there")
    options = parser.parse_args(arguments)
    threads = options.threads or available_threads()
    path = options.results / "attention-generation.json"
    if not options.report:
        write_document(path, run(options.contexts, options.generated, options.rounds, threads))
    write_text(path.with_suffix(".md"), generation_part(read_document(path)))
    return 0


def run(contexts: Sequence[int], generated: int, rounds: int, threads: int) -> Document:
    import torch

    import nearhash as nh
    from benchmarks.attention.dump import text_tokens

    torch.set_num_threads(threads)
    nh.attention.register()
    stock, ours = load_model("sdpa"), load_model("nearhash")
    entries = []
    for count in contexts:
        entries.append(
            {"tokens": count, "contestants": measure(stock, ours, text_tokens(0, count), generated, rounds, threads)}
        )
        say(f"{count} tokens measured")
    return {
        "kind": "attention-generation",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "torch": torch.__version__,
        "threads": threads,
        "settings": {"model": NAME, "generated": generated, "rounds": rounds, "short": SHORT},
        "contexts": entries,
    }


def measure(
    stock: Any, ours: Any, tokens: Sequence[int], generated: int, rounds: int, threads: int
) -> dict[str, Document]:
    """Milliseconds a token of each contestant in each round, and how often it says what sdpa says."""
    import torch
    from transformers import DynamicCache

    import nearhash as nh

    prompt = list(tokens[:-generated])
    caches: dict[str, tuple[Any, Any]] = {
        "sdpa, a few tokens": (stock, DynamicCache(config=stock.config)),
        "sdpa": (stock, DynamicCache(config=stock.config)),
        **{name: (ours, nh.attention.KVCache(ours.config, threads=threads, **way)) for name, way in WAYS.items()},
    }
    first = 0
    for name, (model, cache) in caches.items():
        some = prompt[:SHORT] if name == "sdpa, a few tokens" else prompt
        with torch.no_grad():
            logits = model(torch.tensor([some]), past_key_values=cache, logits_to_keep=1).logits[0, -1]
        if name == "sdpa":
            first = int(logits.argmax())
    script = _decode(stock, caches["sdpa"][1], [first], generated)[0]  # what sdpa generates
    caches["sdpa"][1].crop(-generated)
    given = [first, *script[:-1]]
    times: dict[str, list[float]] = {name: [] for name in caches}
    said: dict[str, list[int]] = {}
    for turn in range(rounds + 1):  # the first one warms up, and makes the codes
        for name, (model, cache) in caches.items():
            said[name], seconds = _decode(model, cache, given, generated)
            cache.crop(-generated)
            if turn:
                times[name].append(seconds / generated * 1e3)
    return {
        name: {
            "ms": times[name],
            "agreement": float(np.mean([own == other for own, other in zip(said[name], script, strict=True)])),
            "read_share": cache.stats()["read_share"] if hasattr(cache, "stats") else None,
        }
        for name, (_, cache) in caches.items()
    }


def _decode(model: Any, cache: Any, given: Sequence[int], count: int) -> tuple[list[int], float]:
    """What a model says to each of the given tokens, or, where they end, to what it said itself; and seconds."""
    import torch

    said: list[int] = []
    started = time.perf_counter()
    with torch.no_grad():
        for at in range(count):
            token = given[at] if at < len(given) else said[-1]
            said.append(int(model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1].argmax()))
    return said, time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
