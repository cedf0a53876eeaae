"""`make sqlite-suite`: SQLite's own tests, file by file, natively and in a mount with a replica.

A difference is looked at twice: a file that differs is run once more in both places, and counts if
it differs again. Always true: each file begins in an empty folder and an empty mount.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leftovers import make_run_directory, remove, sweep_dead_runs
from nodes import Cluster, Node
from sql_process import SqlError, SqlProcess
from suite_files import TESTFIXTURE, Outcome, chosen, run_file
from suite_report import Compared, report
from waiting import eventually

LIMIT_S = 120.0
AGREE_S = 30.0


class Suite:
    """Both places where a file is run."""

    def __init__(self, directory: Path, cluster: Cluster, *, limit_s: float = LIMIT_S) -> None:
        self._native = directory / "native"
        self._native.mkdir(parents=True)
        self.cluster = cluster
        self._limit_s = limit_s
        #: the files of the last one do not go: whoever comes next would find them
        self.stuck = False

    def compare(self, path: Path, *, native: Outcome | None = None) -> Compared:
        """Run a file natively (unless that is known) and in the mount; then look at the replica."""
        if native is None:
            native = run_file(path, self._native, limit_s=self._limit_s)
        _empty(self._native)
        mount = self.cluster.primary.mount
        mounted = run_file(path, mount, limit_s=self._limit_s)
        wrong = [each for name in self._databases() if (each := self._disagreement(name))]
        try:
            self._empty_mount()
        except (AssertionError, OSError) as error:
            self.stuck = True
            wrong.append(str(error)[:300])
        return Compared(path.stem, native, mounted, wrong)

    def compare_twice(self, path: Path) -> Compared:
        """A difference counts if it comes again."""
        compared = self.compare(path)
        return compared if compared.same or self.stuck else self.compare(path)

    # --- inside

    def _databases(self) -> list[str]:
        """What SQLite can read of what the file has left."""
        return [
            path.name
            for path in sorted((self.cluster.primary.data_dir / "files").iterdir())
            if path.is_file() and not path.is_symlink() and self._can_be_read(path)
        ]

    def _can_be_read(self, path: Path) -> bool:
        if path.name.endswith(("-wal", "-shm", "-journal")):
            return False
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                return False
        try:
            self.cluster.primary.image(path.name)
        except SqlError:
            return False
        return True

    def _disagreement(self, name: str) -> str:
        try:
            self.cluster.agree(name, timeout_s=AGREE_S)
        except (AssertionError, SqlError, OSError, ValueError) as error:
            return f"{name}: {str(error)[:300]}"
        return ""

    def _empty_mount(self) -> None:
        """The next file finds none of the names of this one, on no node."""
        files = self.cluster.primary.data_dir / "files"
        _empty(self.cluster.primary.mount, these=[path.name for path in files.iterdir()])
        for node in self.cluster.nodes:
            there = node.data_dir / "files"
            eventually(
                lambda there=there: not [*there.iterdir()], timeout_s=AGREE_S,
                what=f"{node.name} has no files any more",
            )  # fmt: skip


def _empty(directory: Path, these: list[str] | None = None) -> None:
    for name in these if these is not None else [path.name for path in directory.iterdir()]:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def main() -> int:
    arguments = _arguments()
    if not TESTFIXTURE.exists():
        print("sqlite-suite: there is no testfixture: run deploy/sqlite-suite.sh", file=sys.stderr)
        return 1
    files = chosen(arguments.pattern, tenth=arguments.tenth)
    if not files:
        print(f"sqlite-suite: no file is called like {arguments.pattern!r}", file=sys.stderr)
        return 1
    if arguments.list:
        print("\n".join(path.stem for path in files))
        return 0
    sweep_dead_runs()
    directory = make_run_directory()
    Node.write_back = arguments.write_back
    compared: list[Compared] = []
    try:
        while len(compared) < len(files):
            with _suite(directory / f"from-{len(compared)}", limit_s=arguments.limit) as suite:
                while len(compared) < len(files) and not suite.stuck:
                    compared.append(_tell(suite.compare_twice, files[len(compared)]))
    finally:
        remove(directory)
    mode = "write-back" if arguments.write_back else "write-through"
    title = f"SQLite's suite in a mount, {mode} (SQLite of Python: {sqlite3.sqlite_version})"
    text = report(title, compared)
    if arguments.report:
        arguments.report.write_text(text)
    print(text)
    return any(not each.same for each in compared)


@contextmanager
def _suite(directory: Path, *, limit_s: float) -> Iterator[Suite]:
    """A primary with a replica."""
    cluster = Cluster(directory / "cluster")
    cluster.add_replica(start=False)
    try:
        cluster.start()
        yield Suite(directory, cluster, limit_s=limit_s)
    finally:
        SqlProcess.end_all()
        for line in cluster.close():
            print(line, file=sys.stderr)


def _tell(compare: Callable[[Path], Compared], path: Path) -> Compared:
    began_s = time.monotonic()
    compared = compare(path)
    print(
        f"{path.stem:24} {'same' if compared.same else 'DIFFERS':8}"
        f" {compared.native.tests:6} tests, {len(compared.mounted.failed)} failed,"
        f" {compared.native.took_s:6.1f} s natively, {compared.mounted.took_s:6.1f} s here,"
        f" {time.monotonic() - began_s:6.1f} s in all",
        flush=True,
    )
    return compared


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make sqlite-suite ARGS='...'", description=__doc__)
    parser.add_argument(
        "pattern", nargs="?", default="", help="regular expression that finds names of files"
    )
    parser.add_argument("--tenth", action="store_true", help="every tenth file, always the same")
    parser.add_argument("--write-back", action="store_true", help="have the kernel cache writes")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="for one file (seconds)")
    parser.add_argument("--report", type=Path, help="write the report to this file as well")
    parser.add_argument("--list", action="store_true", help="only print the names of the files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
