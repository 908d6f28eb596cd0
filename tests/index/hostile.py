"""Files that a loader must refuse: made from a valid one, by damage or by a forger who knows the checksums.

Three kinds, from the outside inwards:

`damaged`       bytes changed by accident; no checksum is right any more
`forged`        a container whose checksums are right and whose structure is wrong
`inconsistent`, `extreme`   a perfect container around a header and tensors that are wrong for an index

The checksum of the header is computed here on its own, so that these files also test how it is defined.
"""

import json
import math
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


def seal(text: bytes, data: bytes, length: int | None = None) -> bytes:
    """A file around a JSON text that starts with `MARK`, with the right length, padding and checksum of the header."""
    text = text.ljust(len(text) + -(8 + len(text)) % 64 if length is None else length)
    blank = len(text).to_bytes(8, "little") + MARK + b"0" * 8 + text[len(MARK) + 8 :]
    checksum = b"%08x" % google_crc32c.value(blank)
    return blank[: 8 + len(MARK)] + checksum + blank[8 + len(MARK) + 8 :] + data


def unseal(file: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON document of a file and the bytes of its tensors."""
    length = int.from_bytes(file[:8], "little")
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def compact(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def reseal(file: bytes, mutate: Callable[[dict[str, Any]], Any]) -> bytes:
    """A file with its JSON document changed in place by `mutate`, and sealed again."""
    document, data = unseal(file)
    mutate(document)
    return seal(compact(document), data)


def forged(file: bytes) -> Iterator[tuple[str, bytes]]:
    """(description, bytes) of files with right checksums and a wrong structure. `file` needs a tensor with bytes."""
    document, _ = unseal(file)
    sizes = {
        name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in document.items() if "_" not in name
    }
    largest = max(sizes, key=sizes.__getitem__)
    yield from _forged_entries(file, largest)
    yield from _forged_layouts(file, largest)
    yield from _forged_metadata(file, largest)
    yield from _forged_json(file, largest)


def _forged_entries(file: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    start, stop = unseal(file)[0][name]["data_offsets"]
    size = stop - start

    def entry(**changes: Any) -> bytes:
        return reseal(file, lambda document: document[name].update(changes))

    shapes: list[Any] = [[-1], [-size], [-1, -size], [2**62, 4], [2**32, 2**32, 2**32], [2**64], [True, size]]
    shapes += [[float(size)], [[size]], [size, *[1] * 8], [size, *[1] * 64], [size + 1], [size - 1], [0]]
    for shape in [*shapes, None, 7, "7", {}]:
        yield f"shape {str(shape)[:40]}", entry(shape=shape, dtype="U8")
    for dtype in (None, 1, [], "", "f4", "F8_E4M3", "BF16", "O", "float32"):
        yield f"dtype {dtype!r}", entry(dtype=dtype)
    yield "a dtype that the bytes are too few for", entry(shape=[size], dtype="F16")
    pairs: list[Any] = [None, 5, [], [start], [start, stop, stop], [str(start), str(stop)]]
    pairs += [[float(start), float(stop)], [start, stop + 1], [start + 1, stop + 1], [start - 64, stop - 64]]
    pairs += [[stop, start], [-size, 0], [start + 64, stop + 64], [2**40, 2**40 + size], [2**64 - size, 2**64]]
    for pair in pairs:
        yield f"data_offsets {pair} instead of {[start, stop]}", entry(data_offsets=pair)
    yield "an unknown key in an entry", entry(compression="zstd")
    yield "an entry without dtype", reseal(file, lambda document: document[name].pop("dtype"))
    yield "an entry that is a list", reseal(file, lambda document: document.update({name: []}))
    for odd in ("", "a b", "../x", "_other", "é", "\ud800", "x" * 65, "_pad.more"):
        yield f"a tensor named {odd!a}", reseal(file, lambda document, odd=odd: _rename(document, name, odd))


def _rename(document: dict[str, Any], old: str, new: str) -> None:
    document[new] = document.pop(old)
    document["__metadata__"][f"crc32c.{new}"] = document["__metadata__"].pop(f"crc32c.{old}")


def _forged_layouts(file: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    document, data = unseal(file)
    checksum = document["__metadata__"][f"crc32c.{name}"]
    yield "the largest tensor missing", reseal(file, lambda document: document.pop(name))
    yield "two entries for the same bytes", _with_entry(file, document[name], checksum)
    for shape in ([0, 2**62, 2**62], [2**61, 0], [2**64, 0]):
        empty = {"dtype": "I64", "shape": shape, "data_offsets": [0, 0]}
        yield f"an empty tensor of shape {shape}", _with_entry(file, empty, "00000000")
    yield "bytes behind the last tensor", seal(compact(document), data + bytes(64))
    yield "last byte of the data missing", seal(compact(document), data[:-1])
    yield "no data at all", seal(compact(document), b"")
    yield "a hole before the first tensor", _in_front(file, bytes(64))
    yield "tensors not aligned", _in_front(file, bytes(1), ("U8", [1]))
    yield "padding of 64 bytes", _in_front(file, bytes(64), ("U8", [64]))
    yield "padding that is not zero", _in_front(file, bytes(63) + b"\1", ("U8", [62]), ("U8", [2]))
    yield "padding of two dimensions", _in_front(file, bytes(64), ("U8", [62]), ("U8", [2, 1]))
    yield "padding of no dimension", _in_front(file, bytes(64), ("U8", [63]), ("U8", []))
    yield "padding of int16", _in_front(file, bytes(64), ("U8", [62]), ("I16", [1]))


def _with_entry(file: bytes, entry: dict[str, Any], checksum: str) -> bytes:
    """One more tensor, without more data."""

    def mutate(document: dict[str, Any]) -> None:
        document["more"] = entry
        document["__metadata__"]["crc32c.more"] = checksum

    return reseal(file, mutate)


def _in_front(file: bytes, raw: bytes, *padding: tuple[str, list[int]]) -> bytes:
    """Bytes before the first tensor, and (dtype, shape) of padding that covers them one after the other."""
    document, data = unseal(file)
    for name, entry in document.items():
        if name != "__metadata__":
            entry["data_offsets"] = [offset + len(raw) for offset in entry["data_offsets"]]
    position = 0
    for number, (dtype, shape) in enumerate(padding):
        stop = position + math.prod(shape) * {"U8": 1, "I16": 2}[dtype]
        document[f"_pad.{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    return seal(compact(document), raw + data)


def _forged_metadata(file: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    def metadata(**changes: Any) -> bytes:
        return reseal(file, lambda document: document["__metadata__"].update(changes))

    def without(key: str) -> bytes:
        return reseal(file, lambda document: document["__metadata__"].pop(key))

    for version in ("nearhash/0", "nearhash/2", "nearhash/999999999", "", "nearhash", "nearhash/", "nearhash/-1"):
        yield f"format {version!r}", metadata(format=version)
    for version in ("nearhash/1\n", "nearhash/1.0", "nearhash/" + "9" * 99, 1, None):
        yield f"format {version!r}", metadata(format=version)
    for key in ("format", "header", f"crc32c.{name}"):
        yield f"metadata without {key}", without(key)
    yield "unknown metadata", metadata(author="somebody")
    yield "a sum for no tensor", metadata(**{"crc32c.nothing": "00000000"})
    right = unseal(file)[0]["__metadata__"][f"crc32c.{name}"]
    for checksum in ("", "00000000", "0" * 100, f" {right}", right.upper() + " "):
        yield f"checksum {checksum[:9]!r}", metadata(**{f"crc32c.{name}": checksum})
    for text in [*_bad_json(), "\ud800"]:
        yield f"index header {text[:30]!a}", metadata(header=text)


def _forged_json(file: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    document, data = unseal(file)
    good = compact(document)
    head = good[: len(MARK) + 8]
    for text in _bad_json():
        yield f"JSON header {text[:30]!a}", seal(head + b'"},"x":' + text.encode() + b"}", data)
    yield "JSON header not UTF-8", seal(good[:-1] + b',"\xff":0}', data)
    yield "JSON header in UTF-16", seal(head + good[len(head) :].decode().encode("utf-16"), data)
    yield "JSON header followed by text", seal(good + b"x", data)
    yield "JSON header cut", seal(good[:-2], data)
    yield "JSON header with a tensor twice", seal(good[:-1] + b',"' + name.encode() + b'":0}', data)
    yield "JSON header with metadata twice", seal(good[:-1] + b',"__metadata__":{}}', data)
    yield "JSON header of 17 MB", seal(good + b" " * (17 << 20), data)
    yield "header not ending at a multiple of 64", seal(good, data, length=1 + len(good) + -(8 + len(good)) % 64)


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
