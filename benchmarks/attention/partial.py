"""Results measured in several runs, a few contexts in each: whole evaluations take hours."""

from pathlib import Path

from benchmarks.record import Document, read_document


def with_kept(path: Path, document: Document, entries: str, names: tuple[str, ...]) -> Document:
    """The document, and those entries of the file at `path` that it does not have, by the values under `names`.

    Raises ValueError where the file was measured with other settings.
    """
    if not path.is_file():
        return document
    before = read_document(path)
    if before["settings"] != document["settings"]:
        raise ValueError(f"{path.name}: measured with other settings, {before['settings']}: run without --keep")
    found = {tuple(entry[name] for name in names): entry for entry in [*before[entries], *document[entries]]}
    return {**document, entries: [found[key] for key in sorted(found, key=lambda key: key[::-1])]}
