"""Places where tests let the engine die or fail: ``NEARHASH_FAILPOINT=name`` or ``name=action`` in the environment.

Actions: ``exit`` (default) ends the process at once, as `kill -9` would; ``io`` and ``full`` raise what SQLite raises
for a failed fsync and for a full disk; ``error`` raises RuntimeError. ``name@3=exit`` acts at the third time.
"""

import os
import sqlite3

EXIT_CODE = 86

COMMIT = ("commit.begun", "commit.written", "commit.durable", "commit.published")
SEAL = ("seal.frozen", "seal.built", "seal.saved", "seal.written", "seal.durable", "seal.published", "seal.cleaned")
ALL = COMMIT + SEAL


class _Armed:
    """The failpoint that the environment names."""

    def __init__(self, text: str) -> None:
        place, _, action = text.partition("=")
        name, _, count = place.partition("@")
        if name not in ALL or action not in ("", "exit", "io", "full", "error") or not (count or "1").isdecimal():
            raise RuntimeError(f"NEARHASH_FAILPOINT: no such place or action: {text!r}")
        self.name, self.action, self.left = name, action or "exit", int(count or 1)

    def reach(self, name: str) -> None:
        if name != self.name:
            return
        self.left -= 1
        if self.left:
            return
        if self.action == "exit":
            os._exit(EXIT_CODE)
        if self.action == "io":
            raise sqlite3.OperationalError("disk I/O error")
        if self.action == "full":
            raise sqlite3.OperationalError("database or disk is full")
        raise RuntimeError(f"failpoint {name}")


_armed = _Armed(os.environ["NEARHASH_FAILPOINT"]) if "NEARHASH_FAILPOINT" in os.environ else None


def reach(name: str) -> None:
    """Die or fail here if a test wants it."""
    if _armed is not None:
        _armed.reach(name)


def arm(text: str | None) -> None:
    """For tests in the same process: set the failpoint, or none."""
    global _armed
    _armed = None if text is None else _Armed(text)
