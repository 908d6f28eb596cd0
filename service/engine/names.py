"""Names of collections, snapshots and label fields: what they may be, so that none leads out of its folder."""

import re
from typing import Any

from nearhash.errors import InvalidArgumentError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_collection_name(name: Any, argument: str = "name") -> str:
    """A name that a collection or a snapshot may have."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{argument}: expected 1 to 64 letters, digits, '_', '-' and '.', a letter or digit first, got {name!r:.80}"
        )
    return name
