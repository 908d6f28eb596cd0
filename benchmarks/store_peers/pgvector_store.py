"""pgvector in a cluster of PostgreSQL of its own, over a Unix socket."""

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector

from benchmarks.store_peers.base import FIELD, Effort, ladder

OPERATORS = {"cosine": ("<=>", "vector_cosine_ops"), "l2": ("<->", "vector_l2_ops"), "ip": ("<#>", "vector_ip_ops")}
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "2GB",
    "maintenance_work_mem": "2GB",
    "max_wal_size": "4GB",
    "fsync": "on",
    "synchronous_commit": "on",
}
USER = "postgres"
# The binary format of COPY: https://www.postgresql.org/docs/current/sql-copy.html
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"


class Pgvector:
    durability = "in the log of PostgreSQL, synced (fsync, synchronous_commit)"
    configuration = (
        "HNSW, m 16, ef_construction 64, made after all points; B-tree on the field; hnsw.iterative_scan strict_order; "
        "shared_buffers and maintenance_work_mem 2GB, max_wal_size 4GB; binary COPY"
    )

    def __init__(self) -> None:
        # The planner may take the HNSW index for rare values, too; "exact" keeps it from that.
        self.ladders = [ladder("ef_search", 10, 1000), [{"ef_search": 40, "exact": 1}]]
        self._server: subprocess.Popen[bytes] | None = None
        self._programs = _programs()

    def version(self) -> str:
        told = subprocess.run([self._programs / "postgres", "--version"], check=True, capture_output=True, text=True)
        shared = Path("/usr/share/postgresql") / self._programs.parent.name, self._programs.parent / "share"
        for path in (folder / "extension/vector.control" for folder in shared):
            if path.is_file():
                lines = dict(line.split(" = ") for line in path.read_text().splitlines() if " = " in line)
                return f"{lines['default_version'].strip(chr(39))}, PostgreSQL {told.stdout.split()[2]}"
        raise ImportError("PostgreSQL is installed, its extension pgvector is not")

    def open(self, folder: Path, dim: int, metric: str, size: int) -> None:
        self._operator, self._family = OPERATORS[metric]
        data = folder / "data"
        new = not data.exists()
        if new:
            _hand_over(folder)
            self._run("initdb", "-D", str(data), "-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C")
        self._start(data, folder)
        self._connection = self._connect(folder)
        if new:
            self._connection.execute("CREATE EXTENSION vector")
            self._connection.execute(
                f"CREATE TABLE points (id bigint PRIMARY KEY, {FIELD} integer, embedding vector({dim}) NOT NULL)"
            )
        register_vector(self._connection)
        self._connection.execute("SET hnsw.iterative_scan = strict_order")
        self._effort: Effort | None = None

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_as_user(), str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.strip()[-500:]}")

    def _start(self, data: Path, folder: Path) -> None:
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [*_as_user(), str(self._programs / "postgres"), "-D", str(data), "-k", str(folder), *settings]
        self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, cwd="/")

    def _connect(self, folder: Path) -> Any:
        assert self._server is not None
        while True:
            try:
                return psycopg.connect(host=str(folder), user=USER, dbname="postgres", autocommit=True)
            except psycopg.OperationalError:
                if self._server.poll() is not None:
                    raise
                time.sleep(0.01)

    def insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], buckets: NDArray[np.int64]) -> None:
        with self._connection.cursor().copy(f"COPY points (id, {FIELD}, embedding) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(COPY_HEADER + _rows(ids, vectors, buckets).tobytes() + COPY_END)

    def finish(self) -> None:
        self._connection.execute(f"CREATE INDEX ON points ({FIELD})")
        self._connection.execute(f"CREATE INDEX ON points USING hnsw (embedding {self._family})")
        self._connection.execute("VACUUM ANALYZE points")

    def prepare(self, effort: Effort) -> None:
        if effort != self._effort:
            self._connection.execute(f"SET hnsw.ef_search = {effort['ef_search']}")
            self._effort = effort

    def search(self, query: NDArray[np.float32], k: int, effort: Effort, bucket: int | None) -> Any:
        where, values = ("", ()) if bucket is None else (f"WHERE {FIELD} = %s", (bucket,))
        unindexed = " + 0" if "exact" in effort else ""
        found = self._connection.execute(
            f"SELECT id FROM points {where} ORDER BY (embedding {self._operator} %b){unindexed} LIMIT {k}",
            (*values, query),
            prepare=True,
            binary=True,
        )
        return [one for (one,) in found]

    def close(self) -> None:
        if self._server is not None:
            connection = self.__dict__.pop("_connection", None)
            if connection is not None:
                connection.close()
            self._server.send_signal(2)  # "fast": ends sessions, writes everything out
            self._server.wait()
            self._server = None


def _rows(ids: NDArray[np.int64], vectors: NDArray[np.float32], buckets: NDArray[np.int64]) -> NDArray[Any]:
    """Tuples of COPY: a count of fields, then of each its length and its bytes, all of them big-endian."""
    dim = vectors.shape[1]
    layout = [
        ("fields", ">i2"), ("id_length", ">i4"), ("id", ">i8"), ("bucket_length", ">i4"), ("bucket", ">i4"),
        ("length", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("vector", ">f4", (dim,)),
    ]  # fmt: skip
    rows = np.zeros(len(ids), layout)
    rows["fields"], rows["id_length"], rows["bucket_length"], rows["length"] = 3, 8, 4, 4 + 4 * dim
    rows["id"], rows["bucket"], rows["dim"], rows["vector"] = ids, buckets, dim, vectors
    return rows


def _programs() -> Path:
    """The folder of the newest PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    if program is None:
        raise ImportError("PostgreSQL is not installed")
    return Path(program).resolve().parent


def _as_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--pdeathsig=TERM", "--"]


def _hand_over(folder: Path) -> None:
    if not os.geteuid():
        user = pwd.getpwnam(USER)
        os.chown(folder, user.pw_uid, user.pw_gid)
