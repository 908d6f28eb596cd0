"""Files that a loader must refuse: made from a valid one, by damage or by a forger who knows the checksums.

Three kinds, from the outside inwards:

`damaged`       bytes changed by accident; no checksum is right any more
`forged`        a container whose checksums are right and whose structure is wrong
`inconsistent`, `extreme`   a perfect container around a header and tensors that are wrong for an index

The checksum of the header is computed here on its own, so that these files also test how it is defined.
"""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from nearhash.index.storage import read_file, write_file

Header = dict[str, Any]
Tensors = dict[str, np.ndarray]

MARK = b'{"__metadata__":{"crc32c":"'


# --- damage ---


def truncated(file: bytes, every: int = 1) -> Iterator[tuple[str, bytes]]:
    for length in range(0, len(file), every):
        yield f"cut to {length} bytes", file[:length]


def flipped(file: bytes, every: int = 1) -> Iterator[tuple[str, bytes]]:
    """One bit flipped, in each place of the file (`every` in bits)."""
    for bit in range(0, 8 * len(file), every):
        changed = bytearray(file)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8} flipped", bytes(changed)


def damaged(file: bytes, every: int = 1) -> Iterator[tuple[str, bytes]]:
    """(description, bytes) of a file damaged by accident; `every` thins out truncations and flips."""
    yield from truncated(file, every)
    yield from flipped(file, every)
    yield "one byte appended", file + b"\0"
    yield "itself appended", file + file
    yield "first byte lost", file[1:]
    yield "64 bytes lost in the middle", file[: len(file) // 2] + file[len(file) // 2 + 64 :]
    yield "64 bytes of zeros in front", bytes(64) + file
    yield "all zeros", bytes(len(file))
    yield "text", b"not an index\n" * 100
    for length in (0, 1, len(file) - 7, 2**31, 2**63, 2**64 - 1):
        yield f"header length {length}", length.to_bytes(8, "little") + file[8:]


# --- forged containers ---


def seal(text: bytes, data: bytes) -> bytes:
    """A file around a JSON text that starts with `MARK`, with the right length, padding and checksum of the header."""
    text += b" " * (-(8 + len(text)) % 64)
    start = len(MARK)
    blank = len(text).to_bytes(8, "little") + text[:start] + b"0" * 8 + text[start + 8 :]
    checksum = b"%08x" % google_crc32c.value(blank)
    return blank[: 8 + start] + checksum + blank[8 + start + 8 :] + data


def unseal(file: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON document of a file and the bytes of its tensors."""
    length = int.from_bytes(file[:8], "little")
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def reseal(file: bytes, mutate: Callable[[dict[str, Any]], None]) -> bytes:
    """A file with its JSON document changed in place by `mutate`, and sealed again."""
    document, data = unseal(file)
    mutate(document)
    return seal(json.dumps(document).replace('{"__metadata__": {"crc32c": "', MARK.decode(), 1).encode(), data)


def forged(file: bytes) -> Iterator[tuple[str, bytes]]:
    """(description, bytes) of files with right checksums and a wrong structure. `file` needs a tensor with bytes."""
    document, data = unseal(file)
    names = [name for name in document if not name.startswith("_")]
    name = max(names, key=lambda name: document[name]["data_offsets"][1] - document[name]["data_offsets"][0])
    start, stop = document[name]["data_offsets"]
    size = stop - start

    def entry(**changes: Any) -> bytes:
        return reseal(file, lambda document: document[name].update(changes))

    def metadata(**changes: Any) -> bytes:
        return reseal(file, lambda document: document["__metadata__"].update(changes))

    for shape in ([-1], [size], [-size], [2**62, 4], [2**32, 2**32, 2**32], [0, 2**62, 2**62], [2**64], [True], [1.0]):
        yield f"shape {shape}", entry(shape=shape, dtype="I8" if shape != [size] else "I64")
    for shape in (None, 7, "7", {}, [[1]], [1] * 65, [size + 1]):
        yield f"shape {str(shape)[:40]}", entry(shape=shape, dtype="U8")
    for dtype in (None, 1, [], "", "f4", "F8_E4M3", "BF16", "O", "float32"):
        yield f"dtype {dtype!r}", entry(dtype=dtype)
    offsets: list[Any] = [
        None,
        5,
        [],
        [start],
        [start, stop, stop],
        [str(start), str(stop)],
        [float(start), float(stop)],
    ]
    offsets += [[start, stop + 1], [start + 1, stop + 1], [start - 64, stop - 64], [stop, start], [-size, 0]]
    offsets += [[2**40, 2**40 + size], [2**63 - size, 2**63], [2**64 - size, 2**64], [start + 64, stop + 64]]
    for pair in offsets:
        yield f"data_offsets {pair} instead of {[start, stop]}", entry(data_offsets=pair)
    yield "an unknown key in an entry", entry(compression="zstd")
    yield "an entry without dtype", reseal(file, lambda document: document[name].pop("dtype"))
    yield "an entry that is a list", reseal(file, lambda document: document.update({name: []}))
    yield "the largest tensor missing", reseal(file, lambda document: document.pop(name))
    yield "two entries for the same bytes", reseal(file, lambda document: document.update(copy=document[name]))
    for odd in ("", "a b", "../x", "_other", "é", "\ud800", "x" * 65, "_pad.more"):
        yield f"a tensor named {odd!a}", reseal(file, lambda document, odd=odd: _rename(document, name, odd))

    yield "bytes behind the last tensor", seal(json.dumps(document, separators=(",", ":")).encode(), data + bytes(64))
    yield "last byte of the data missing", seal(json.dumps(document, separators=(",", ":")).encode(), data[:-1])
    yield "no data at all", seal(json.dumps(document, separators=(",", ":")).encode(), b"")
    yield "tensors not aligned", _misaligned(document, data, name)
    yield "padding that is not zero", _filled_padding(document, data)
    yield "padding of 64 bytes", _long_padding(document, data)

    for version in ("nearhash/0", "nearhash/2", "nearhash/999999999"):
        yield f"format {version}", metadata(format=version)
    for version in ("", "nearhash", "nearhash/", "nearhash/-1", "nearhash/1\n", "nearhash/1.0", "nearhash/" + "9" * 99):
        yield f"format {version!r}", metadata(format=version)
    yield "format missing", reseal(file, lambda document: document["__metadata__"].pop("format"))
    yield "format a number", metadata(format=1)
    yield "unknown metadata", metadata(author="somebody")
    yield "a checksum missing", reseal(file, lambda document: document["__metadata__"].pop(f"crc32c.{name}"))
    yield "a checksum of no tensor", metadata(**{"crc32c.nothing": "00000000"})
    for checksum in ("", "00000000", "0" * 100):
        yield f"checksum {checksum[:9]!r}", metadata(**{f"crc32c.{name}": checksum})
    right = document["__metadata__"][f"crc32c.{name}"]
    yield "checksum in capitals or spaced", metadata(**{f"crc32c.{name}": f" {right.upper()}"})

    yield "index header missing", reseal(file, lambda document: document["__metadata__"].pop("header"))
    for text in _bad_json():
        yield f"index header {text[:30]!a}", metadata(header=text)
    yield "index header with a lone surrogate", metadata(header="\ud800")
    for text in _bad_json():
        raw = text.encode("utf-8", "surrogatepass")
        yield f"JSON header {text[:30]!a}", seal(MARK + b'00000000"},"x":' + raw + b"}", data)
    good = json.dumps(document, separators=(",", ":")).encode()
    yield "JSON header not UTF-8", seal(good[:-1] + b',"\xff":0}', data)
    yield "JSON header in UTF-16", seal(good[: len(MARK) + 9] + good[len(MARK) + 9 :].decode().encode("utf-16"), data)
    yield "JSON header followed by text", seal(good + b"x", data)
    yield "JSON header cut", seal(good[:-2], data)
    yield "JSON header with a tensor twice", seal(good[:-1] + b',"' + name.encode() + b'":0}', data)
    yield "JSON header with metadata twice", seal(good[:-1] + b',"__metadata__":{}}', data)
    yield "header not ending at 64", _unpadded(file)
    yield "JSON header of 17 MB", seal(good + b" " * (17 << 20), data)


def _bad_json() -> list[str]:
    deep = 100_000
    return [
        "",
        "null",
        "[]",
        "3",
        '"text"',
        "{",
        "{]",
        "{'a':1}",
        '{"a":1,}',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":1e999}',
        '{"a":1,"a":2}',
        '{"a":{"b":1,"b":1}}',
        '{"a":' + "9" * 5000 + "}",
        '{"a":' + "[" * deep + "]" * deep + "}",
        '{"a":' * deep + "1" + "}" * deep,
        "[" * deep,
        '{"a":' + "[" * 17 + "]" * 17 + "}",
        '{"a":"\x00"}',
    ]


def _rename(document: dict[str, Any], old: str, new: str) -> None:
    document[new] = document.pop(old)
    document["__metadata__"][f"crc32c.{new}"] = document["__metadata__"].pop(f"crc32c.{old}")


def _misaligned(document: dict[str, Any], data: bytes, name: str) -> bytes:
    """One byte of padding before everything, the rest moved up."""
    document = copy.deepcopy(document)
    for key, entry in document.items():
        if key != "__metadata__":
            entry["data_offsets"] = [offset + 1 for offset in entry["data_offsets"]]
    document["_pad.first"] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    return seal(json.dumps(document, separators=(",", ":")).encode(), b"\0" + data)


def _filled_padding(document: dict[str, Any], data: bytes) -> bytes:
    document = copy.deepcopy(document)
    document["_pad.last"] = {"dtype": "U8", "shape": [3], "data_offsets": [len(data), len(data) + 3]}
    return seal(json.dumps(document, separators=(",", ":")).encode(), data + b"\0\0\1")


def _long_padding(document: dict[str, Any], data: bytes) -> bytes:
    document = copy.deepcopy(document)
    document["_pad.last"] = {"dtype": "U8", "shape": [64], "data_offsets": [len(data), len(data) + 64]}
    return seal(json.dumps(document, separators=(",", ":")).encode(), data + bytes(64))


def _unpadded(file: bytes) -> bytes:
    """The header one space longer than a multiple of 64; sealed by hand since `seal` would pad it."""
    document, data = unseal(file)
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64 + 1)
    blank = len(text).to_bytes(8, "little") + MARK + b"0" * 8 + text[len(MARK) + 8 :]
    checksum = b"%08x" % google_crc32c.value(blank)
    return blank[: 8 + len(MARK)] + checksum + blank[8 + len(MARK) + 8 :] + data


# --- wrong indexes in perfect containers ---


def rewrite(source: Path, target: Path, mutate: Callable[[Header, Tensors], None]) -> None:
    """Write `target` as `source` with header and tensors changed in place by `mutate`, all checksums right."""
    header, tensors = read_file(source, mmap=False)
    mutate(header, tensors)
    write_file(target, header, tensors)


def inconsistent(header: Header, tensors: Tensors) -> Iterator[tuple[str, Header, Tensors]]:
    """(description, header, tensors) that no index can have written: each must raise CorruptIndexError.

    Header keys and tensors missing, header values of the wrong type, tensors of a wrong dtype, rank or length.
    `write_file` gives them a file. An optional tensor (labels) may be missing or stand for itself: leave it out of
    `tensors` for the variants, or skip those that speak of it.
    """
    for key, value in header.items():
        yield f"header without {key!r}", {k: v for k, v in header.items() if k != key}, tensors
        wrong: list[Any] = [None, [], {}, [value], -1, 0.5, 1e300, 2**63, 10**30, "", "no such", True]
        if not isinstance(value, str):
            wrong.append(str(value))
        for other in wrong:
            if other != value and not (isinstance(value, bool) and isinstance(other, bool)):
                yield f"header {key!r} = {other!r}", {**header, key: other}, tensors
    for name, tensor in tensors.items():
        yield f"tensor {name!r} missing", header, {k: v for k, v in tensors.items() if k != name}
        for description, other in _reshaped(tensor):
            yield f"tensor {name!r} {description}", header, {**tensors, name: other}
    yield "no tensors", header, {}
    yield "empty header", {}, tensors


def _reshaped(tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "as a scalar", np.zeros((), tensor.dtype)
    yield "with one more dimension", tensor[..., None]
    yield "flat" if tensor.ndim != 1 else "as a row", tensor.reshape(-1) if tensor.ndim != 1 else tensor[None]
    yield (
        "one longer",
        np.concatenate([tensor, tensor[:1]]) if len(tensor) else np.zeros((1, *tensor.shape[1:]), tensor.dtype),
    )
    if len(tensor):
        yield "one shorter", tensor[:-1]
        yield "empty", tensor[:0]
    if tensor.ndim > 1:
        yield "one column narrower", tensor[:, :-1]
        yield "one column wider", np.concatenate([tensor, tensor[:, :1]], axis=1)
    for dtype in (np.int8, np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_):
        if dtype != tensor.dtype:
            with np.errstate(all="ignore"):
                yield f"as {np.dtype(dtype)}", tensor.astype(dtype)


def extreme(header: Header, tensors: Tensors) -> Iterator[tuple[str, Header, Tensors]]:
    """(description, header, tensors) of the right shapes with extreme contents.

    Some are valid files. Each must either raise CorruptIndexError or give an index that can be searched, answers
    with ids of its own and reads no memory outside its tensors.
    """
    for key, value in header.items():
        if isinstance(value, int) and not isinstance(value, bool):
            for other in (0, 1, value + 1, value - 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1):
                yield f"header {key!r} = {other}", {**header, key: other}, tensors
    for name, tensor in tensors.items():
        if not tensor.size:
            continue
        if tensor.dtype.kind == "f":
            values: list[Any] = [np.nan, np.inf, -np.inf, 0, np.finfo(tensor.dtype).max, np.finfo(tensor.dtype).tiny]
        else:
            limits = np.iinfo(np.uint8 if tensor.dtype == np.bool_ else tensor.dtype)
            values = [limits.min, limits.max, 0, 1, len(tensor), len(tensor) - 1]
            values = [value for value in dict.fromkeys(values) if limits.min <= value <= limits.max]
        for value in values:
            for where in ("first", "last", "everywhere"):
                changed = tensor.copy()
                flat = changed.reshape(-1)
                flat[{"first": slice(0, 1), "last": slice(-1, None), "everywhere": slice(None)}[where]] = value
                yield f"tensor {name!r}: {where} {value}", header, {**tensors, name: changed}
