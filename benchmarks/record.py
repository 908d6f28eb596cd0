"""Results as JSON documents."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import compare
from benchmarks.contest import Contestant

FORMAT = 1
RESULTS = Path(__file__).resolve().parent / "results"

Document = dict[str, Any]


def index_record(contestant: Contestant, subject: Contestant, targets: Sequence[float]) -> Document:
    """All that was measured of one index, and the subject's advantage over it at each target."""
    peer = contestant.peer
    return {
        "name": peer.name,
        "family": peer.family or peer.name,
        "version": peer.version(),
        "parameters": peer.parameters,
        "reference": peer.reference,
        "build_seconds": contestant.build_seconds,
        "index_bytes": peer.nbytes(),
        "resident_bytes": contestant.resident_bytes,
        "points": [
            {"effort": trial.effort, "recall": trial.recall, "qps": trial.point.qps, "rounds": trial.qps}
            for trial in contestant.trials
        ],
        "targets": [
            {**compare(contestant.trials, subject.trials, target), "latency": _latency(contestant, target)}
            for target in targets
        ],
    }


def _latency(contestant: Contestant, target: float) -> Document | None:
    seconds = contestant.latencies(target)
    if not seconds:
        return None
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    effort = contestant.latency_efforts[target]
    return {"effort": effort, "calls": len(seconds), "p50_us": float(p50), "p99_us": float(p99)}


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_document(path: Path, document: Document) -> None:
    """Write a document as JSON; figures to five significant digits, for more are noise."""
    write_text(path, json.dumps({"format": FORMAT, **rounded(document)}, indent=1, allow_nan=False) + "\n")


def read_document(path: Path) -> Document:
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise ValueError(f"{path.name}: expected format {FORMAT}, got {document.get('format')!r}")
    return document


def rounded(value: Any, digits: int = 5) -> Any:
    """The same document with every float rounded to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return value
