"""Python specification of `shingles.py`: texts, n-grams of words or characters, their hashes."""

import unicodedata
from typing import Literal

import xxhash

# Han, Hiragana, and the scripts of South East Asia that are written without spaces between words.
UNSPACED = (
    (0x3005, 0x3007),
    (0x3041, 0x309F),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2FA1F),
    (0x30000, 0x3FFFD),
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x19E0, 0x19FF),
)


def kind(character: str) -> str:
    """The class of a character: "separator", "word", "single", "mark" or "space"."""
    category = unicodedata.category(character)
    if character.isspace():
        return "space"
    if category[0] == "M":
        return "mark"
    if category[0] not in "LN" and category != "Pc":
        return "separator"
    return "single" if any(low <= ord(character) <= high for low, high in UNSPACED) else "word"


def normalise(text: str, lowercase: bool = True, form: "Literal['NFC', 'NFKC'] | None" = "NFC") -> str:
    """Canonical caseless form (Unicode Standard, D145), or NFKC's."""
    if form is not None:
        text = unicodedata.normalize(form, text)
    if lowercase:
        text = text.casefold()
        if form is not None:
            text = unicodedata.normalize(form, text)
    return text


def words(text):
    """Words of a normalised text."""
    found, inside, single = [], False, False
    for character in text:
        what = kind(character)
        if what in ("separator", "space"):
            inside = False
            continue
        if inside and (what == "mark" or not (single or what == "single")):
            found[-1] += character
        else:
            found.append(character)
            single = False
        single = what == "single" or (what == "mark" and single)
        inside = True
    return found


def shingles(text, ngram=5, unit="word", lowercase=True, form="NFC"):
    """Hashes of all runs of `ngram` words or characters, in order; of all of them if there are fewer."""
    text = normalise(text, lowercase, form)
    units, glue = (words(text), " ") if unit == "word" else (" ".join(text.split()), "")
    if not units:
        return []
    count = max(len(units) - ngram + 1, 1)
    return [xxhash.xxh3_64_intdigest(glue.join(units[i : i + ngram]).encode()) for i in range(count)]
