"""Random SQL that gives the same results wherever it runs: seeded, without clocks or paths.

Always true: two databases that began alike and ran the same workload hold the same bytes. With
journal_mode=OFF nothing is rolled back, since SQLite promises nothing about that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

JOURNAL_MODES = ("delete", "truncate", "persist", "memory", "off", "wal")
PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
AUTO_VACUUM = (0, 1, 2)
SYNCHRONOUS = ("off", "normal", "full", "extra")
CACHE_SIZES = (2, 5, -2000)
LOCKING = ("normal", "exclusive")
CHECKPOINTS = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
#: SQLite waits to be told where the second database is
OTHER = "{other}"


@dataclass(frozen=True, slots=True)
class Case:
    """One way to use a database."""

    journal_mode: str
    page_size: int
    auto_vacuum: int
    synchronous: str
    cache_size: int
    locking: str

    def __str__(self) -> str:
        return (
            f"{self.journal_mode}-{self.page_size}-vacuum{self.auto_vacuum}-{self.synchronous}"
            f"-cache{self.cache_size}-{self.locking}"
        )

    def opening(self) -> list[str]:
        """What a connection says first, on an empty database."""
        return [
            f"PRAGMA page_size={self.page_size}",
            f"PRAGMA auto_vacuum={self.auto_vacuum}",
            f"PRAGMA locking_mode={self.locking}",
            f"PRAGMA journal_mode={self.journal_mode}",
            f"PRAGMA synchronous={self.synchronous}",
            f"PRAGMA cache_size={self.cache_size}",
        ]


class Workload:
    """An endless supply of statements for one connection."""

    def __init__(self, case: Case, seed: int) -> None:
        self._case = case
        self._random = random.Random(f"{case}{seed}")
        self._mode = case.journal_mode
        self._columns = 0
        self._next = 1

    def schema(self) -> list[str]:
        return [
            "CREATE TABLE t(id INTEGER PRIMARY KEY, k TEXT, v TEXT)",
            "CREATE INDEX t_k ON t(k)",
            "CREATE TABLE u(a INTEGER UNIQUE NOT NULL, b TEXT CHECK (length(b) < 100000))",
            "CREATE VIRTUAL TABLE f USING fts5(body)",
            "CREATE TABLE log(what)",
            "CREATE TRIGGER t_log AFTER DELETE ON t BEGIN INSERT INTO log VALUES(old.id); END",
        ]

    def statements(self, transactions: int) -> list[str]:
        """So many transactions, and what goes on between them."""
        found: list[str] = []
        for _ in range(transactions):
            found += self._transaction()
            if self._random.random() < 0.35:
                found += self._maintenance()
        return found

    @staticmethod
    def questions() -> list[str]:
        """What must be answered alike at the end."""
        return [
            "PRAGMA integrity_check",
            "PRAGMA page_count",
            "PRAGMA freelist_count",
            "PRAGMA page_size",
            "SELECT id, k, length(v), v FROM t ORDER BY id",
            "SELECT count(*), total(length(k)) FROM t INDEXED BY t_k WHERE k > ''",
            "SELECT * FROM u ORDER BY a",
            "SELECT rowid, body FROM f ORDER BY rowid",
            "SELECT rowid FROM f WHERE f MATCH 'apple OR pear' ORDER BY rowid",
            "SELECT * FROM log ORDER BY rowid",
            "SELECT type, name, sql FROM sqlite_master ORDER BY rowid",
        ]

    # --- inside

    @property
    def _may_roll_back(self) -> bool:
        return self._mode != "off"

    def _transaction(self) -> list[str]:
        kind = self._random.random()
        if kind < 0.2:
            return [self._change()]
        if kind < 0.25:
            return ["BEGIN IMMEDIATE", "COMMIT"]
        found = [f"BEGIN {self._random.choice(['', 'IMMEDIATE', 'EXCLUSIVE'])}"]
        found += self._body(depth=0)
        roll_back = self._may_roll_back and self._random.random() < 0.3
        return [*found, "ROLLBACK" if roll_back else "COMMIT"]

    def _body(self, depth: int) -> list[str]:
        found: list[str] = []
        for _ in range(self._random.randint(1, 4)):
            if depth < 3 and self._may_roll_back and self._random.random() < 0.3:
                name = f"s{depth}"
                found.append(f"SAVEPOINT {name}")
                found += self._body(depth + 1)
                if self._random.random() < 0.5:
                    found.append(f"ROLLBACK TO {name}")
                    if self._random.random() < 0.5:
                        found.append(self._change())
                found.append(f"RELEASE {name}")
            else:
                found.append(self._change())
        return found

    def _text(self, length: int) -> str:
        """An SQL expression: text that does not compress to nothing and differs from row to row."""
        word = self._random.choice(["apple", "pear", "plum", "fig"])
        return f"substr(replace(hex(zeroblob({length})), '00', '{word} '||x||' '), 1, {length})"

    def _rows(self, count: int) -> str:
        return (
            f"WITH RECURSIVE c(x) AS (SELECT {self._next} UNION ALL SELECT x+1 FROM c "
            f"LIMIT {count})"
        )

    def _change(self) -> str:
        choose = self._random
        kind = choose.randrange(14)
        low = choose.randrange(max(1, self._next))
        high = low + choose.randrange(1, 60)
        length = choose.choice([3, 40, 200, 900, 5000, 30000])
        count = max(1, min(choose.choice([1, 1, 5, 40]), 60000 // length))
        if kind < 5:
            statement = (
                f"{self._rows(count)} INSERT INTO t(id, k, v) "
                f"SELECT x, 'k'||(x*7919 % 1000), {self._text(length)} FROM c"
            )
            self._next += count
            return statement
        if kind == 5:
            return f"UPDATE t SET v = v || id WHERE id BETWEEN {low} AND {high}"
        if kind == 6:
            return f"UPDATE t SET k = 'm'||(id*{choose.randrange(1, 99)} % 1000) WHERE id > {low}"
        if kind == 7:
            return f"DELETE FROM t WHERE id BETWEEN {low} AND {high}"
        if kind == 8:
            return f"DELETE FROM t WHERE id > {low} AND length(v) > 800"
        if kind == 9:
            return (
                f"{self._rows(choose.choice([1, 20]))} INSERT INTO f(body) "
                f"SELECT 'apple '||x||' {choose.choice(['pear', 'plum'])} '||x*x FROM c"
            )
        if kind == 10:
            return f"DELETE FROM f WHERE rowid % 3 = {choose.randrange(3)}"
        if kind == 11:
            return f"UPDATE f SET body = 'pear '||rowid WHERE rowid % 5 = {choose.randrange(5)}"
        if kind == 12 and self._may_roll_back:
            return self._failing()
        return f"INSERT OR REPLACE INTO u(a, b) VALUES({choose.randrange(50)}, 'b{length}')"

    def _failing(self) -> str:
        """A statement that breaks a rule half-way, with the conflict clauses that there are."""
        choose = self._random
        clause = choose.choice(["ABORT", "ABORT", "FAIL", "IGNORE", "ROLLBACK"])
        return choose.choice(
            [
                f"{self._rows(60)} INSERT OR {clause} INTO u SELECT x % 30, 'c'||x FROM c",
                f"INSERT OR {clause} INTO u VALUES(NULL, 'null')",
                "INSERT INTO u VALUES(1000000, hex(zeroblob(60000)))",
                f"UPDATE OR {clause} t SET id = 1",
                "INSERT INTO f(rowid, body) SELECT 1 + rowid % 2, body FROM f",
                "INSERT INTO nowhere VALUES(1)",
            ]
        )

    def _maintenance(self) -> list[str]:
        return self._random.choice(
            [
                self._vacuum,
                self._vacuum,
                self._incremental_vacuum,
                self._checkpoint,
                self._checkpoint,
                self._change_mode,
                self._attach,
                self._reshape,
                self._shrink,
            ]
        )()

    def _vacuum(self) -> list[str]:
        if self._random.random() < 0.5:
            return ["VACUUM"]
        size = self._random.choice(PAGE_SIZES[:5])
        vacuum = self._random.choice(AUTO_VACUUM)
        return [f"PRAGMA page_size={size}", f"PRAGMA auto_vacuum={vacuum}", "VACUUM"]

    def _incremental_vacuum(self) -> list[str]:
        return [f"PRAGMA incremental_vacuum({self._random.choice([0, 1, 3])})"]

    def _checkpoint(self) -> list[str]:
        return [f"PRAGMA wal_checkpoint({self._random.choice(CHECKPOINTS)})"]

    def _change_mode(self) -> list[str]:
        """Away and, most of the time, back."""
        other = self._random.choice(["wal", "delete", "truncate", "persist", "memory"])
        found = [f"PRAGMA journal_mode={other}"]
        before, self._mode = self._mode, other
        found += self._transaction()
        if self._random.random() < 0.7:
            self._mode = before
            found.append(f"PRAGMA journal_mode={before}")
        return found

    def _attach(self) -> list[str]:
        """A transaction over two databases, with a super-journal where there are journals."""
        number = self._next
        end = "ROLLBACK" if self._may_roll_back and self._random.random() < 0.3 else "COMMIT"
        return [
            f"ATTACH '{OTHER}' AS o",
            "CREATE TABLE IF NOT EXISTS o.p(x, y)",
            "BEGIN",
            f"INSERT INTO o.p VALUES({number}, hex(zeroblob(700)))",
            f"INSERT INTO u VALUES(5000+{number}, 'both')",
            "UPDATE o.p SET y = y || x",
            end,
            "SELECT count(*), total(length(y)) FROM o.p",
            "DETACH o",
        ]

    def _reshape(self) -> list[str]:
        self._columns += 1
        number = self._columns
        return [
            f"ALTER TABLE u ADD COLUMN c{number} DEFAULT 'c'",
            f"CREATE TABLE extra{number} AS SELECT * FROM t",
            f"CREATE INDEX extra{number}_v ON extra{number}(v)",
            f"DROP TABLE extra{number}",
            f"PRAGMA user_version={number}",
            "REINDEX",
        ]

    def _shrink(self) -> list[str]:
        return [f"DELETE FROM t WHERE id % 4 <> {self._random.randrange(4)}", "DELETE FROM log"]


def pairwise(choices: dict[str, tuple[object, ...]], seed: int = 1) -> Iterator[dict[str, object]]:
    """Rows in which every two values of different columns meet at least once (greedy, seeded)."""
    chosen = random.Random(seed)
    names = list(choices)
    open_pairs = {
        (a, va, b, vb)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        for va in choices[a]
        for vb in choices[b]
    }

    def gain(row: dict[str, object]) -> int:
        return len(_pairs(row) & open_pairs)

    def _pairs(row: dict[str, object]) -> set[tuple[str, object, str, object]]:
        return {
            (a, row[a], b, row[b])
            for i, a in enumerate(names)
            for b in names[i + 1 :]
            if a in row and b in row
        }

    while open_pairs:
        a, va, b, vb = min(open_pairs, key=repr)
        row: dict[str, object] = {a: va, b: vb}
        for name in names:
            if name not in row:
                values = chosen.sample(choices[name], len(choices[name]))
                row[name] = max(values, key=lambda v, name=name, row=row: gain({**row, name: v}))
        open_pairs -= _pairs(row)
        yield {name: row[name] for name in names}
