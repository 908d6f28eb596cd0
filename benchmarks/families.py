"""Indexes of one family side by side: what the best of them reach."""

from typing import Any

Document = dict[str, Any]


def families(document: Document) -> dict[str, list[Document]]:
    """The indexes of a document of results by family, in the order of the document."""
    grouped: dict[str, list[Document]] = {}
    for index in document["indexes"]:
        grouped.setdefault(index["family"], []).append(index)
    return grouped


def fastest(indexes: list[Document], target: float) -> tuple[Document, Document] | None:
    """The index that is fastest at a recall and its entry for it; None where none reaches it."""
    reaching = [
        (index, entry)
        for index in indexes
        for entry in index["targets"]
        if entry["recall"] == target and entry["interpolated_qps"] is not None
    ]
    return max(reaching, key=lambda pair: pair[1]["interpolated_qps"], default=None)
