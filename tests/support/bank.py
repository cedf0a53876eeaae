"""A bank, as programs that know nothing of LiteMQ: tellers move money, auditors count it.

    bank.py teller PATH ACKS NUMBER MODE SYNCHRONOUS     moves money until it is killed
    bank.py auditor PATH FINDINGS                        counts until it is killed

A teller writes the number of a transfer to ACKS after SQLite has acknowledged it. An auditor writes
a line to FINDINGS for everything that must not be: a changed sum, half a transfer, time that runs
backwards; and `audits N` now and then. Both go on after any error of SQLite's, as an application
that reconnects does.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

ACCOUNTS = 50
START = 100
RETRY_S = 0.02
PAUSE_S = 0.002


def open_bank(path: str, mode: str, synchronous: str) -> None:
    """Make the bank; every account has the same."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("BEGIN")
        db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, note BLOB)")
        db.execute("CREATE TABLE transfer (teller INTEGER, number INTEGER, amount INTEGER)")
        db.execute("CREATE INDEX transfers ON transfer (teller, number)")
        for number in range(ACCOUNTS):
            db.execute("INSERT INTO account VALUES (?, ?, zeroblob(100))", (number, START))
        db.execute("COMMIT")


def tell(path: str, acks: Path, number: int, mode: str, synchronous: str) -> None:
    chance = random.Random(number)
    done = 0
    with acks.open("a", buffering=1) as out:
        while True:
            try:
                with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
                    db.execute(f"PRAGMA synchronous={synchronous}")
                    if mode != "WAL":
                        # Not in WAL mode: after a spill and a ROLLBACK TO, SQLite leaves frame
                        # headers blank, and its recovery loses what was committed behind them.
                        db.execute("PRAGMA cache_size=8")
                    (last,) = db.execute(
                        "SELECT max(number) FROM transfer WHERE teller=?", (number,)
                    ).fetchone()
                    done = max(done, last or 0)
                    while True:
                        done += 1
                        transfer(db, chance, number, done)
                        out.write(f"{done}\n")
                        # SQLite's locks are not fair: without a pause one teller keeps the others
                        # out, also natively (9 to 1 in 6 s, measured)
                        time.sleep(chance.random() * PAUSE_S)
            except sqlite3.Error:
                time.sleep(RETRY_S)


def transfer(db: sqlite3.Connection, chance: random.Random, teller: int, number: int) -> None:
    first, second = chance.sample(range(ACCOUNTS), 2)
    amount = chance.randrange(1, 20)
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute(
            "UPDATE account SET balance=balance-?, note=randomblob(?) WHERE id=?",
            (amount, chance.randrange(2000), first),
        )
        if chance.random() < 0.1:  # somebody thinks better of it
            db.execute("SAVEPOINT doubt")
            db.execute("UPDATE account SET balance=0, note=zeroblob(3000)")
            db.execute("ROLLBACK TO doubt")
        db.execute("UPDATE account SET balance=balance+? WHERE id=?", (amount, second))
        db.execute("INSERT INTO transfer VALUES (?, ?, ?)", (teller, number, amount))
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def audit(path: str, findings: Path) -> None:
    seen: dict[int, int] = {}
    audits = 0
    with findings.open("a", buffering=1) as out:
        while True:
            try:
                with closing(
                    sqlite3.connect(
                        f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=5
                    )
                ) as db:
                    while True:
                        count(db, seen, out.write)
                        audits += 1
                        if audits % 20 == 1:
                            out.write(f"audits {audits}\n")
                        time.sleep(0.002)
            except sqlite3.DatabaseError as error:
                if "malformed" in str(error) or "not a database" in str(error):
                    out.write(f"wrong: {error}\n")
                time.sleep(RETRY_S)


def count(db: sqlite3.Connection, seen: dict[int, int], report: object) -> None:
    assert callable(report)
    db.execute("BEGIN")
    try:
        (total,) = db.execute("SELECT sum(balance) FROM account").fetchone()
        if total != ACCOUNTS * START:
            report(f"wrong: the sum is {total}\n")
        for teller, last, many in db.execute(
            "SELECT teller, max(number), count(*) FROM transfer GROUP BY teller"
        ).fetchall():
            if last < seen.get(teller, 0):
                report(f"wrong: teller {teller} went back from {seen[teller]} to {last}\n")
            if many > last:
                report(f"wrong: teller {teller} has {many} transfers up to number {last}\n")
            seen[teller] = last
    finally:
        with suppress(sqlite3.Error):
            db.execute("COMMIT")


def main() -> None:
    role, path, file, *rest = sys.argv[1:]
    if role == "teller":
        number, mode, synchronous = rest
        tell(path, Path(file), int(number), mode, synchronous)
    else:
        audit(path, Path(file))


if __name__ == "__main__":
    main()
