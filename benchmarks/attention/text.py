"""Running English prose: the proceedings of a workshop on electronic texts (Library of Congress, 1992).

A work of the government of the United States, so in the public domain; a file of the Canterbury corpus that Brotli's
source archive on PyPI carries among its tests.
"""

import re
import tempfile
from pathlib import Path

from benchmarks.cache import cache_folder
from benchmarks.pypi import Distribution, download, read_file

ARCHIVE = Distribution("brotli", "1.2.1", "02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de", True)
MEMBER = "brotli-1.2.1/tests/testdata/lcet10.txt"
_LEAST_LINE = 100  # characters of a paragraph: shorter ones are headings, lists of names, rules of stars


def prose() -> str:
    """About 75,800 tokens, a paragraph a line; fetched once into the cache of the benchmarks."""
    path = cache_folder() / "workshop-prose-1.txt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            content = read_file(download(ARCHIVE, Path(folder)), MEMBER)
            temporary = Path(folder) / path.name
            temporary.write_text(paragraphs(content.decode("latin-1")), encoding="utf-8")
            temporary.replace(path)
    return path.read_text(encoding="utf-8")


def paragraphs(text: str) -> str:
    """The paragraphs of a text that is broken into short lines, each on one line; headings and lists are left out."""
    pieces = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
    lines = [" ".join(piece.split()) for piece in pieces]
    return "\n".join(line for line in lines if len(line) >= _LEAST_LINE and line.count("*") < 2) + "\n"
