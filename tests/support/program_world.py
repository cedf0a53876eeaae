"""Two nodes that elect their primary, a program on each, and what happens to them.

One program writes numbered rows without a pause while its node's FUSE actor is killed, the primary
is handed over, or its whole node is killed. Then it is tried what the program needs to work again:
nothing, a new connection, or a new process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from electorate import RETURN, Electorate, diverged_pages
from nodes import Node
from program_process import ProgramError, ProgramProcess
from program_table import Program, Recovery
from sql_process import SqlError
from waiting import eventually

DATABASE = "entry.db"
#: so often a program may fail before it is said not to go on by itself: a pool has fewer
ATTEMPTS = 20
PAUSE_S = 0.02
TURN_S = 0.002
#: a row that was acknowledged reaches a replica within this time, or a reader is stale
FRESH_S = 20.0


class Writer:
    """A thread in which a program writes rows, whatever becomes of them."""

    def __init__(self, process: ProgramProcess, name: str) -> None:
        self.process = process
        self._name = name
        self._number = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        #: marks that were acknowledged, in their order
        self.acks: list[str] = []
        self.errors: list[str] = []

    def write(self) -> None:
        """One row; ProgramError if it is refused."""
        self._number += 1
        mark = f"{self._name}.{self._number:06d}."
        self.process.write(mark)
        self.acks.append(mark)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Rows are written meanwhile, and have been before."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        try:
            before = len(self.acks)
            eventually(
                lambda: len(self.acks) > before + 5, timeout_s=60, what=f"{self._name} writes"
            )
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self.write()
            except (ProgramError, OSError) as error:
                self.errors.append(str(error))
                time.sleep(PAUSE_S)
            time.sleep(TURN_S)  # SQLite does not queue writers: without it some get no turn


class ProgramWorld:
    """A cluster of two, and the programs on it."""

    def __init__(self, cluster: Electorate, program: Program, *, writers: int = 1) -> None:
        self.cluster = cluster
        self._program = program
        self._count = writers
        self._names = iter("abcdefghijklmnopqrstuvwxyz")
        #: all that there were
        self._writers: list[Writer] = []
        cluster.announce("actor ended", "housekeeping failed", *RETURN)
        with cluster.wait_primary().connect(DATABASE) as app:
            app.sql(f"PRAGMA journal_mode={program.journal_mode}")
            app.sql("CREATE TABLE entry (id INTEGER PRIMARY KEY, mark TEXT NOT NULL)")
        cluster.agree(DATABASE)

    def programs(self, node: Node) -> list[Writer]:
        """As many as there are to be, on that node."""
        made = []
        for _ in range(self._count):
            process = ProgramProcess(self._program, node.mount / DATABASE)
            made.append(Writer(process, next(self._names)))
            self._writers.append(made[-1])
        return made

    def close(self) -> None:
        for each in self._writers:
            each.process.kill()

    # --- what is tried

    def writes_again(self, writers: Sequence[Writer]) -> Recovery:
        """What it takes until all of them write; the last that was needed."""
        return max(
            (self._tried(each.process, each.write) for each in writers),
            key=list(Recovery).index,
        )

    def reads_again(self, readers: Sequence[Writer], node: Node) -> Recovery:
        """What it takes until all of them read what is there; no old state is taken for that."""

        def read(process: ProgramProcess) -> None:
            process.read()  # an error counts, an old state is waited for
            self.sees_all(process)

        return max(
            (self._tried(each.process, lambda each=each: read(each.process)) for each in readers),
            key=list(Recovery).index,
        )

    def _tried(self, process: ProgramProcess, work: Callable[[], None]) -> Recovery:
        if self._works(work, ATTEMPTS):
            return Recovery.ITSELF
        if process.can_renew:
            with contextlib.suppress(ProgramError):  # of the old connection, when it is closed
                process.renew()
            if self._works(work, 3):
                return Recovery.CONNECTION
        process.restart()
        work()
        return Recovery.RESTART

    @staticmethod
    def _works(work: Callable[[], None], attempts: int) -> bool:
        for _ in range(attempts):
            try:
                work()
            except (ProgramError, OSError):
                time.sleep(PAUSE_S)
            else:
                return True
        return False

    def sees_all(self, process: ProgramProcess) -> None:
        """The program reads what the primary holds, in time; ProgramError if it can't."""
        with self.cluster.primary.connect(DATABASE) as app:
            ((count, newest),) = app.sql(
                "SELECT count(*), (SELECT mark FROM entry ORDER BY id DESC LIMIT 1) FROM entry"
            )
        eventually(process.read, until=(count, newest), timeout_s=FRESH_S, what="it reads all rows")

    # --- what must be true

    def wait_well(self, node: Node) -> None:
        """Until a program that is started now would be served."""

        def check() -> bool:
            status = node.status()
            assert status is not None
            assert status.ready
            try:
                with node.connect(DATABASE) as app:
                    app.sql("SELECT count(*) FROM entry")
                    if status.role == "primary":
                        app.sql("PRAGMA user_version=1")
            except SqlError as error:
                raise AssertionError(str(error)) from error
            return True

        eventually(check, timeout_s=40, what=f"{node.name} serves")

    def check_rows(self, *, lost_with: Node | None = None) -> None:
        """All nodes agree, are sound, and hold what was acknowledged.

        `lost_with` was killed: what nobody else had of it yet must be among what it has kept aside.
        """
        self.cluster.agree(DATABASE, timeout_s=40)
        acks = {mark for writer in self._writers for mark in writer.acks}
        for node in self.cluster.nodes:
            with node.connect(DATABASE) as app:
                assert app.sql("PRAGMA integrity_check") == [("ok",)], node.name
                present = {mark for (mark,) in app.sql("SELECT mark FROM entry")}
            missing = acks - present
            if missing and lost_with is not None:
                kept = b"\n".join(diverged_pages(lost_with))
                missing = {mark for mark in missing if mark.encode() not in kept}
            assert not missing, f"lost on {node.name}: {sorted(missing)[:10]}"
        if lost_with is not None:  # what is known to be kept aside is not looked for again
            for writer in self._writers:
                writer.acks = [mark for mark in writer.acks if mark in present]
