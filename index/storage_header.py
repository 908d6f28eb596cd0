"""The header of an index file: bytes to checked facts and back. No files here.

Nothing that a header says is believed before it is checked against the size of the file and the rules of
``docs/format.md``, so that no length is allocated, no offset followed and no shape built that the file cannot hold.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

from nearhash.errors import CorruptIndexError, InvalidArgumentError, VersionError
from nearhash.index.arrays import ALIGNMENT

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
MAX_NESTING = 16
# Names as safetensors spells them, for the types that NumPy has.
DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
TENSOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_LENGTH_BYTES = 8
# The checksum of the header is its first value, so that it is found, and compared, before any JSON is parsed.
_PREFIX = b'{"__metadata__":{"crc32c":"'
_CRC_START = _LENGTH_BYTES + len(_PREFIX)
_CRC_STOP = _CRC_START + 8
START_BYTES = _CRC_STOP
_PADDING = "_pad."
_FORMAT = re.compile(r"nearhash/([0-9]{1,9})")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; `start` and `stop` are offsets from the start of the file, in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Contents:
    """A checked header: what the file holds, and where."""

    header: dict[str, Any]  # the index's own
    tensors: dict[str, Entry]  # in the order of the file, without padding
    padding: list[Entry]
    checksums: dict[str, str]  # of each tensor, in hexadecimal digits


# --- encode ---


def encode_json(header: Mapping[str, Any]) -> str:
    """An index's own header as JSON; raises InvalidArgumentError if it would not come back as it is."""
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False, separators=(",", ":"))
        if json.loads(text) != header:
            raise ValueError("keys must be strings, and sequences lists, to come back as they were")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"header: expected a dict of JSON values: {error}") from error
    if not isinstance(header, dict) or _nesting_exceeds(header, MAX_NESTING):
        raise InvalidArgumentError(f"header: expected a dict nested at most {MAX_NESTING} deep")
    return text


def encode_header(
    header: str, tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], checksums: Mapping[str, int]
) -> bytes:
    """Everything before the first tensor, a multiple of the alignment long whatever the checksums are.

    Parameters
    ----------
    header : str
        What `encode_json` gave.
    tensors : mapping of names to (dtype, shape)
        In the order in which they follow.
    checksums : mapping of names to CRC32C
    """
    metadata = {
        "crc32c": digits(0),
        **{f"crc32c.{name}": digits(checksums[name]) for name in tensors},
        "format": f"nearhash/{FORMAT_VERSION}",
        "header": header,
    }
    document: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, (dtype, shape) in tensors.items():
        start = position + -position % ALIGNMENT
        if start > position:
            padding = {"dtype": "U8", "shape": [start - position], "data_offsets": [position, start]}
            document[_PADDING + name] = padding
        position = start + dtype.itemsize * math.prod(shape)
        document[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, position]}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidArgumentError(f"header: takes {len(text):,} bytes, expected at most {MAX_HEADER_BYTES:,}")
    head = bytearray(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    head[_CRC_START:_CRC_STOP] = _checksum(head).encode()
    return bytes(head)


# --- parse ---


def head_size(start: bytes, file_size: int) -> int:
    """Bytes before the first tensor, by the first `START_BYTES` of a file; raises CorruptIndexError."""
    if len(start) < START_BYTES or start[_LENGTH_BYTES:_CRC_START] != _PREFIX:
        raise CorruptIndexError(f"not a nearhash index, or damaged in its first {START_BYTES} bytes")
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    limit = min(MAX_HEADER_BYTES, file_size - _LENGTH_BYTES)
    if length > limit:
        raise CorruptIndexError(f"header length: expected at most {limit:,} (bytes), got {length:,}")
    return _LENGTH_BYTES + length


def parse_header(head: bytes, file_size: int) -> Contents:
    """The checked facts of the bytes before the first tensor; raises CorruptIndexError or VersionError."""
    if head[_CRC_START:_CRC_STOP] != _checksum(head).encode():
        raise CorruptIndexError("header: its checksum does not match")
    if len(head) % ALIGNMENT:
        raise CorruptIndexError(f"header: expected to end at a multiple of {ALIGNMENT} bytes, got {len(head):,}")
    try:
        text = head[_LENGTH_BYTES:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptIndexError(f"header: not valid UTF-8: {error}") from error
    document = _parse_json(text, "header")
    metadata = document.pop("__metadata__")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptIndexError("header '__metadata__': expected strings")
    _check_version(metadata.get("format"))
    entries = [(name, _parse_entry(name, entry, len(head))) for name, entry in document.items()]
    entries.sort(key=lambda item: (item[1].start, item[1].stop))
    _check_layout(entries, len(head), file_size)
    padding = [entry for name, entry in entries if name.startswith(_PADDING)]
    tensors = {name: entry for name, entry in entries if not name.startswith(_PADDING)}
    expected = {"crc32c", "format", "header", *(f"crc32c.{name}" for name in tensors)}
    if set(metadata) != expected:
        names = ", ".join(sorted(expected ^ set(metadata)))
        raise CorruptIndexError(f"header '__metadata__': missing or unknown: {names:.200}")
    checksums = {name: metadata[f"crc32c.{name}"] for name in tensors}
    return Contents(_parse_json(metadata["header"], "header of the index"), tensors, padding, checksums)


def _check_version(text: Any) -> None:
    match = _FORMAT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise CorruptIndexError(f"header 'format': expected 'nearhash/{FORMAT_VERSION}', got {text!r:.80}")
    if int(match[1]) != FORMAT_VERSION:
        raise VersionError(f"format version {int(match[1])}: this release reads only version {FORMAT_VERSION}")


def _parse_entry(name: str, entry: Any, data_start: int) -> Entry:
    """One tensor of the JSON header, its numbers consistent with each other."""
    where = f"header, tensor {name[:80]!r}"
    padding = name.startswith(_PADDING)
    if not (padding or TENSOR_NAME.fullmatch(name)):
        raise CorruptIndexError(f"{where}: not a name for a tensor")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CorruptIndexError(f"{where}: expected dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CorruptIndexError(f"{where}: expected a dtype of {', '.join(DTYPES)}, got {entry['dtype']!r:.80}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise CorruptIndexError(f"{where}: expected a shape of at most {MAX_DIMENSIONS} sizes, got {shape!r:.80}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise CorruptIndexError(f"{where}: expected two data_offsets, got {offsets!r:.80}")
    # Python's integers do not overflow; NumPy multiplies sizes even where one of them is zero.
    if dtype.itemsize * math.prod(max(size, 1) for size in shape) > np.iinfo(np.int64).max:
        raise CorruptIndexError(f"{where}: shape {shape} is too large")
    if offsets[1] - offsets[0] != dtype.itemsize * math.prod(shape):
        raise CorruptIndexError(f"{where}: data_offsets {offsets} do not fit {dtype} of shape {shape}")
    if padding and (dtype != np.uint8 or len(shape) != 1 or shape[0] >= ALIGNMENT):
        raise CorruptIndexError(f"{where}: expected fewer than {ALIGNMENT} uint8 of padding in one dimension")
    return Entry(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(entries: list[tuple[str, Entry]], position: int, file_size: int) -> None:
    """Entries, in order of offset, follow each other without hole or overlap to the end of the file, aligned."""
    for name, entry in entries:
        if entry.start != position:
            problem = "overlaps the one before" if entry.start < position else "leaves a hole before it"
            raise CorruptIndexError(f"tensor {name!r}: starts at byte {entry.start:,}, not {position:,}: {problem}")
        if not name.startswith(_PADDING) and entry.start % ALIGNMENT:
            raise CorruptIndexError(f"tensor {name!r}: starts at byte {entry.start:,}, not a multiple of {ALIGNMENT}")
        position = entry.stop
    if position != file_size:
        problem = "truncated" if file_size < position else "something was appended"
        raise CorruptIndexError(f"the file has {file_size:,} bytes, its tensors end at {position:,}: {problem}")


def _parse_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object, stricter than `json`: no duplicate keys, no NaN or infinity, limited nesting."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CorruptIndexError(f"{what}: not valid JSON: {error}") from error
    if not isinstance(value, dict) or _nesting_exceeds(value, MAX_NESTING):
        raise CorruptIndexError(f"{what}: expected a JSON object nested at most {MAX_NESTING} deep")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _nesting_exceeds(value: Any, limit: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return limit == 0 or any(_nesting_exceeds(item, limit - 1) for item in value)


# --- checksums ---


def digits(checksum: int) -> str:
    """A CRC32C as the file spells it."""
    return f"{checksum:08x}"


def _checksum(head: bytes | bytearray) -> str:
    """CRC32C of length and JSON header, its own digits taken as zeros."""
    checksum = google_crc32c.value(bytes(head[:_CRC_START]) + b"00000000")
    return digits(google_crc32c.extend(checksum, bytes(head[_CRC_STOP:])))
