"""Whether SmolLM2 still finds what it is asked for, under sampled attention: ``python -m benchmarks.attention.tasks``.

A context is read densely. The question is then read in two ways: densely, and token by token through the sampled
attention; the answer is generated through it, greedily. The first two layers stay dense.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention.evaluation_report import tasks_part
from benchmarks.attention.partial import with_kept
from benchmarks.attention.smollm import NAME, load_model, load_tokenizer
from benchmarks.attention.task_cases import TASKS, Case, Question
from benchmarks.contest import say
from benchmarks.machine import machine_facts
from benchmarks.record import RESULTS, Document, read_document, write_document, write_text
from nearhash.kernels.threads import available_threads

CONTEXTS, CASES = (2048, 4096, 8192), 4
DENSE_LAYERS = frozenset({0, 1})
LEAST_DENSE = 0.6  # a score of dense attention below which a task tells nothing
WAYS: dict[str, dict[str, Any]] = {
    "priority, lvq4, 5%": {"budget": 0.05},
    "priority, lvq4, 10%": {"budget": 0.1},
    "priority, pq4, 10%": {"budget": 0.1, "codec": "pq4"},
    "priority, simhash, 10%": {"budget": 0.1, "codec": "simhash"},
    "top-k oracle, 5%": {"estimator": "topk_oracle", "budget": 0.05},
    "top-k oracle, 10%": {"estimator": "topk_oracle", "budget": 0.1},
    # With sink and local window as its authors have them.
    "MagicPIG K10 L150": {"estimator": "magicpig", "sink": 4, "local": 64},
    "MagicPIG K8 L75": {"estimator": "magicpig", "options": {"K": 8, "L": 75}, "sink": 4, "local": 64},
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention.tasks", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS), help="tokens")
    parser.add_argument("--cases", type=int, default=CASES, help="contexts of each task and length")
    parser.add_argument("--tasks", default=".*", help="regular expression of the names of tasks")
    parser.add_argument("--ways", default=".*", help="regular expression of the names of ways to attend")
    parser.add_argument("--threads", type=int, help="one is fastest on a machine that does other work, too")
    parser.add_argument("--keep", action="store_true", help="keep figures of other contexts that are there")
    parser.add_argument("--report", action="store_true", help="write the table from the figures that are there")
    options = parser.parse_args(arguments)
    ways = {name: way for name, way in WAYS.items() if re.search(options.ways, name)}
    tasks = [name for name in TASKS if re.search(options.tasks, name)]
    path = options.results / "attention-tasks.json"
    if not options.report:
        keep = options.keep
        for document in run(options.contexts, options.cases, tasks, ways, options.threads):
            # Each task is written as it is done: all of them take hours.
            write_document(path, with_kept(path, document, "tasks", ("task", "tokens")) if keep else document)
            keep = True
    write_text(path.with_suffix(".md"), tasks_part(read_document(path)))
    return 0


def run(
    contexts: Sequence[int], cases: int, tasks: Sequence[str], ways: dict[str, dict[str, Any]], threads: int | None
) -> Iterator[Document]:
    """A document for each task and context, with that alone."""
    import torch

    import nearhash as nh

    torch.set_num_threads(threads or available_threads())
    nh.attention.register()
    model, tokenizer = load_model("nearhash"), load_tokenizer()
    facts = {
        "kind": "attention-tasks",
        "date": date.today().isoformat(),
        "machine": machine_facts(),
        "settings": {"model": NAME, "dense_layers": sorted(DENSE_LAYERS)},
    }
    for count in contexts:
        for task in tasks:
            scores: list[dict[str, float]] = []
            for number in range(cases):
                case = TASKS[task](tokenizer, count, np.random.default_rng([count, number]))
                scores += ask(model, tokenizer, case, ways, threads)
                if np.mean([score["dense"] for score in scores]) < LEAST_DENSE / 2:
                    break  # nor will it come to what is asked for
            entry = {"task": task, "tokens": count, **summary(scores)}
            say(f"{task}, {count} tokens: {entry['scores']}")
            yield {**facts, "tasks": [entry]}


def ask(
    model: Any, tokenizer: Any, case: Case, ways: dict[str, dict[str, Any]], threads: int | None = None
) -> list[dict[str, float]]:
    """Scores of each question by "dense", and by each way with ", question dense" and ", question sparse"."""
    from benchmarks.attention.side_by_side import SideBySide
    from nearhash.attention.decoder import as_options

    base = {"dense_layers": DENSE_LAYERS, "dense_below": 0, "threads": threads}
    dense = as_options({**base, "estimator": "dense"})
    sparse = [as_options({**base, **way}) for way in ways.values()]
    names = ["dense", *(f"{name}, question {how}" for how in ("dense", "sparse") for name in ways)]
    context = SideBySide(model, case.context)
    found = []
    for question in case.questions:
        cache = context.fork([dense, *sparse, *sparse])
        reading = [dense, *(as_options({"codec": way.codec}, dense) for way in sparse), *sparse]
        answers = answer(model, tokenizer, cache, question, reading, [dense, *sparse, *sparse])
        found.append({name: question.score(text, question.answer) for name, text in zip(names, answers, strict=True)})
    return found


def answer(
    model: Any, tokenizer: Any, cache: Any, question: Question, reading: Sequence[Any], writing: Sequence[Any]
) -> list[str]:
    """What each row generates after the question, as many tokens as the answer has and a few more."""
    from benchmarks.attention.side_by_side import step

    for layer in cache.layers:
        layer.ways = list(reading)
    for token in tokenizer(question.prompt).input_ids:
        logits = step(model, cache, [token] * len(writing))
    for layer in cache.layers:
        layer.ways = list(writing)
    written = [logits.argmax(dim=1)]
    for _ in range(len(tokenizer(question.answer).input_ids) + 1):
        written.append(step(model, cache, written[-1].tolist()).argmax(dim=1))
    rows = np.stack([tokens.numpy() for tokens in written], axis=1)
    return [tokenizer.decode(row) for row in rows.tolist()]


def summary(scores: Sequence[dict[str, float]]) -> Document:
    """Mean scores in percent, and the standard error of the difference to dense attention, which pairs answers."""
    dense = np.array([score["dense"] for score in scores])
    result: Document = {"questions": len(scores), "scores": {}, "difference_errors": {}}
    for name in scores[0]:
        own = np.array([score[name] for score in scores])
        result["scores"][name] = float(100 * own.mean())
        result["difference_errors"][name] = float(100 * (own - dense).std() / np.sqrt(len(own)))
    return result


if __name__ == "__main__":
    raise SystemExit(main())
