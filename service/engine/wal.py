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
_FLIPPED = 3  # bits of 64 by which a frame's salts may differ from the run's: those of another run differ by a dozen


def committed_frames(path: Path) -> NDArray[np.int64]:
    """Numbers, from 1, of the frames that end a commit of the log's present run, whether or not they are intact."""
    words = _frames(path)
    ends: NDArray[np.int64] = words[words[:, 2] > 0, 0]
    return ends


def lost_commits(path: Path, recovered_frames: int) -> int:
    """How many acknowledged commits SQLite gave up: those behind its last frame, but for one torn by a crash."""
    words = _frames(path)
    behind = words[words[:, 0] > recovered_frames]
    (ends,) = np.nonzero(behind[:, 2])
    if not len(ends):
        return 0
    # A commit has each page once. Where the frame that ended one is damaged as well, its pages come again.
    _, times = np.unique(behind[: ends[-1] + 1, 1], return_counts=True)
    return max(len(ends), int(times.max())) - 1


def _frames(path: Path) -> NDArray[np.int64]:
    """Frames of the present run (n, 3): number, page, and pages of the file after the commit that it ends, or 0."""
    none = np.empty((0, 3), np.int64)
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
    if not count:
        return none
    frames = np.array(raw[_HEADER : _HEADER + count * step].reshape(count, step)[:, :_FRAME_HEADER])
    salts = raw[16:24] if intact else frames[0, 8:16]
    differing = np.unpackbits(frames[:, 8:16] ^ salts, axis=1).sum(axis=1)
    words = frames[:, :8].view(">u4").astype(np.int64)  # page number, pages after the commit
    numbered: NDArray[np.int64] = np.column_stack([np.arange(1, count + 1), words])[differing <= _FLIPPED]
    return numbered


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
