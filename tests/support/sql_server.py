"""A program that runs SQL and looks at files for a test: JSON lines in, JSON lines out.

It is what an application is: a process of its own with the standard sqlite3 module, that knows
nothing of LiteMQ. A test never opens a file of a mount itself, since POSIX locks belong to
processes and a mount may hang.
Its arguments are directories of what `image` imports. It runs without `site`, and imports little:
there are thousands of it in a run of the tests.
Always true: one answer for one request, in their order; it ends when its input does.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys

TYPE_CHECKING = False  # as type checkers know it; to import typing takes longer than the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: SQLite never writes the page that they lie in
LOCK_BYTES = 0x40000000
PAGE_1_OWN = ((18, 20), (24, 28), (92, 100))


def plain(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def real(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


class Server:
    """One connection (`None` while closed), and the requests it understands, each a method."""

    def __init__(self) -> None:
        self.db: sqlite3.Connection | None = None

    def open(self, path: str, timeout_s: float, uri: bool) -> None:
        self.close()
        self.db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, uri=uri)
        self.db.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")

    def close(self) -> None:
        if self.db is not None:
            self.db.close()
            self.db = None

    def sql(self, statement: str, values: list[Any]) -> list[list[Any]]:
        assert self.db is not None
        rows = self.db.execute(statement, [real(value) for value in values]).fetchall()
        return [[plain(value) for value in row] for row in rows]

    def attempt(self, statement: str, values: list[Any]) -> list[Any]:
        """["rows", rows] or ["error", class, message]: for comparing two databases."""
        try:
            return ["rows", self.sql(statement, values)]
        except sqlite3.Error as error:
            return ["error", type(error).__name__, str(error)]

    def attempts(self, statements: list[str]) -> list[list[Any]]:
        return [self.attempt(statement, []) for statement in statements]

    def repeat(self, statement: str, times: int) -> int:
        """Run a statement many times; how often it ran. Stops at the first error by raising it."""
        assert self.db is not None
        for _ in range(times):
            self.db.execute(statement).fetchall()
        return times

    def image(self) -> dict[str, Any]:
        """The committed pages: LTX checksums, and digests without what is each copy's own."""
        import hashlib

        from fastcrc.crc64 import go_iso

        assert self.db is not None
        self.db.execute("BEGIN")
        self.db.execute("SELECT count(*) FROM sqlite_master").fetchall()  # says what is wrong
        data = self.db.serialize()
        self.db.execute("COMMIT")
        if not data:
            return {"page_size": 0, "checksums": [], "digests": []}
        (size,) = self.db.execute("PRAGMA page_size").fetchone()
        lock = LOCK_BYTES // size + 1
        checksums, digests = [], []
        for number in range(1, len(data) // size + 1):
            page = data[(number - 1) * size : number * size]
            checksum = go_iso(page, go_iso(number.to_bytes(4, "big"))) | 1 << 63
            checksums.append("" if number == lock else f"{checksum:016x}")
            if number == 1:
                masked = bytearray(page)
                for first, end in PAGE_1_OWN:
                    masked[first:end] = bytes(end - first)
                page = bytes(masked)
            digest = hashlib.blake2b(page, digest_size=8).hexdigest()
            digests.append("" if number == lock else digest)
        return {"page_size": size, "checksums": checksums, "digests": digests}

    # --- files

    def read(self, path: str) -> dict[str, str] | None:
        try:
            with open(path, "rb") as file:
                return {"hex": file.read().hex()}
        except FileNotFoundError:
            return None

    def listing(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def write(self, path: str, data: dict[str, str], offset: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.pwrite(fd, real(data), offset)
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)

    def empty(self, path: str) -> None:
        """Empty the file; it stays open for writing until this process ends."""
        os.open(path, os.O_WRONLY | os.O_TRUNC)

    def unlink(self, path: str) -> None:
        os.unlink(path)


def main() -> None:
    sys.path += sys.argv[1:]
    server = Server()
    for line in sys.stdin:
        do, arguments = json.loads(line)
        method: Callable[..., Any] = getattr(server, do)
        answer: dict[str, Any]
        try:
            answer = {"ok": method(*arguments)}
        except (sqlite3.Error, OSError) as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
