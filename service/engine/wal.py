"""Looks at SQLite's write-ahead log before SQLite does: damage in its middle would otherwise pass for a torn end.

SQLite takes the frames of the log up to the first whose checksum is wrong and forgets the rest. After a crash that is
right: what is torn was never acknowledged. But every commit is synced before the next one starts, so if another
commit lies behind a bad frame, the frame was intact once, and what follows it was acknowledged. Format:
https://www.sqlite.org/fileformat2.html#walformat
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = (0x377F0682, 0x377F0683)


def committed_frames(path: Path) -> NDArray[np.int64]:
    """Numbers, from 1, of the frames that end a commit of the log's present run, whether or not they are intact."""
    none = np.empty(0, np.int64)
    if not path.exists() or path.stat().st_size < _HEADER + _FRAME_HEADER:
        return none
    raw = np.memmap(path, np.uint8, mode="r")
    header = raw[:_HEADER].view(">u4")
    intact = _header_is_intact(header)
    page = int(header[2])
    if not 512 <= page <= 65_536 or page & (page - 1):
        page = 4096
    step = _FRAME_HEADER + page
    count = (len(raw) - _HEADER) // step
    frames = raw[_HEADER : _HEADER + count * step].reshape(count, step)[:, :_FRAME_HEADER]
    words = np.ascontiguousarray(frames).view(">u4")  # page number, pages after the commit or 0, salts, checksums
    if not count:
        return none
    salts = header[4:6] if intact else words[0, 2:4]
    same_run = (words[:, 2] == salts[0]) & (words[:, 3] == salts[1])
    return np.flatnonzero(same_run & (words[:, 1] > 0)) + 1


def lost_commits(path: Path, recovered_frames: int) -> int:
    """How many acknowledged commits SQLite gave up: those behind its last frame, but for one torn by a crash."""
    behind = int((committed_frames(path) > recovered_frames).sum())
    return max(0, behind - 1)


def recovered_frames(index: Path) -> int:
    """Frames that SQLite takes the log to have, as its index beside the log says once a connection has read."""
    with index.open("rb") as file:
        return int(np.frombuffer(file.read(20), np.uint32)[4])


def _header_is_intact(header: NDArray[np.uint32]) -> bool:
    """Its checksum is that of its first 24 bytes, in the byte order that the magic number says."""
    if int(header[0]) not in _MAGIC:
        return False
    words = header[:6] if int(header[0]) & 1 else header[:6].byteswap()
    first = second = 0
    for a, b in words.reshape(3, 2).tolist():
        first = (first + a + second) & 0xFFFFFFFF
        second = (second + b + first) & 0xFFFFFFFF
    return (first, second) == (int(header[6]), int(header[7]))
