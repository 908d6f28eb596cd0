"""The benchmark's side of a worker."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.store_peers.base import Effort
from benchmarks.store_peers.pipes import Arrays, receive, send

ROOT = Path(__file__).resolve().parents[2]
# Interpreter that has the libraries of peers, which need not agree with ours about theirs.
PEERS_PYTHON = os.environ.get("NEARHASH_PEERS_PYTHON", sys.executable)
QUIET = {"RUST_LOG": "error", "ANONYMIZED_TELEMETRY": "False", "GRPC_VERBOSITY": "NONE"}


class StoreError(Exception):
    """A store, or its library, failed; the text is its own."""


class Worker:
    """A process that holds one store; times are its own, except `launched`.

    Attributes
    ----------
    facts : dict
        Version, durability, configuration, ladders.
    launched : float
        `time.perf_counter` when the process was started.
    """

    def __init__(self, name: str, python: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log = folder.with_suffix(".log")
        self.launched = time.perf_counter()
        command = [python, "-m", "benchmarks.store_peers.worker", name]
        with self._log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    command, cwd=ROOT, env={**os.environ, **QUIET},
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                )  # fmt: skip
            except OSError as error:
                raise StoreError(f"{Path(python).name}: {error.strerror}") from error
        try:
            self.facts = self._received()[0]
        except StoreError:
            self.end()
            raise

    def _received(self) -> tuple[dict[str, Any], Arrays]:
        assert self._process.stdout is not None
        try:
            message, arrays = receive(self._process.stdout)
        except EOFError as error:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise StoreError(f"the process ended with {self._process.wait()}: {''.join(last)}") from error
        if "error" in message:
            raise StoreError(message["error"])
        return message, arrays

    def _ask(self, do: str, message: dict[str, Any] | None = None, **arrays: Any) -> tuple[dict[str, Any], Arrays]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it has to say is read below
            send(self._process.stdin, {"do": do, **(message or {})}, **arrays)
        return self._received()

    def open(self, dim: int, metric: str, size: int) -> float:
        """Seconds that it took."""
        message = {"folder": str(self._folder), "dim": dim, "metric": metric, "size": size}
        seconds: float = self._ask("open", message)[0]["seconds"]
        return seconds

    def insert(self, vectors: Path, buckets: Path, batch: int, budget: float) -> tuple[int, NDArray[np.float64]]:
        """Points inserted, within a budget of seconds, and the seconds of each batch."""
        message = {"vectors": str(vectors), "buckets": str(buckets), "batch": batch, "budget": budget}
        answer, arrays = self._ask("insert", message)
        return answer["inserted"], arrays["seconds"]

    def finish(self) -> float:
        seconds: float = self._ask("finish")[0]["seconds"]
        return seconds

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        effort: Effort,
        buckets: NDArray[np.int64] | None,
        budget: float,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids (m, k), -1 where there are fewer, and seconds (m,) of the first m queries, which fit in the budget."""
        more = {} if buckets is None else {"buckets": buckets}
        _, arrays = self._ask("search", {"k": k, "effort": effort, "budget": budget}, queries=queries, **more)
        return arrays["ids"], arrays["seconds"]

    def memory(self) -> int:
        answer: int = self._ask("memory")[0]["bytes"]
        return answer

    def close(self) -> float:
        """Close the store, wait for the process to end, and return the seconds of the first."""
        seconds: float = self._ask("close")[0]["seconds"]
        self.end()
        return seconds

    def end(self) -> None:
        """End the process, however it is."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


def interpreter(name: str, peers: str) -> str:
    """Our own stores run in this interpreter, peers in theirs."""
    return sys.executable if name.startswith("nearhash") else peers
