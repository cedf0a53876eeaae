"""Which rows of which tables one transaction changed: its pages, before and after it.

Pure but for the file that holds a state. Always true: a row count that is given is exact; where a
page is not known there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlean  # type: ignore[import-untyped]

from litemq.errors import FormatError
from litemq.fs import btree
from litemq.fs.btree import SCHEMA, Tree, Trees
from litemq.txlog.checksums import EMPTY, page_checksum
from litemq.txlog.ltx import Transaction


@dataclass(frozen=True, slots=True)
class TableChange:
    """What a transaction did to a table: `pages` of it and its indexes; rows None: not known."""

    table: str
    pages: int
    inserted: int | None
    deleted: int | None
    changed: int | None


class State:
    """The database after some TXID, as far as it is known, in a file without a name."""

    def __init__(self, file: int) -> None:
        self._fd = file
        self.page_size = 0
        self.commit = 0
        self.txid = 0
        #: checksum of each page that is known, 0 for one that SQLite never wrote
        self.known: dict[int, int] = {}

    def page(self, number: int) -> bytes | None:
        if number not in self.known:
            return None
        data = os.pread(self._fd, self.page_size, (number - 1) * self.page_size)
        return data.ljust(self.page_size, b"\0")

    def put(self, number: int, data: bytes) -> None:
        os.pwrite(self._fd, data, (number - 1) * self.page_size)
        self.known[number] = page_checksum(number, data)

    def apply(self, transaction: Transaction) -> None:
        """Raises FormatError if it does not follow."""
        header = transaction.header
        if header.page_size != self.page_size:
            self.known.clear()
            self.page_size = header.page_size
        for number, data in transaction.pages:
            self.put(number, data)
        if header.commit < self.commit:
            for number in [number for number in self.known if number > header.commit]:
                del self.known[number]
        self.commit, self.txid = header.commit, header.max_txid

    def is_whole(self, checksum: int) -> bool:
        """Whether all pages are known, and are those of the database with this checksum."""
        total = EMPTY
        for value in self.known.values():
            total ^= value & ~EMPTY
        return total == (checksum or EMPTY)


class _Side:
    """The database before a transaction, or after it."""

    def __init__(self, pages: btree.Pages, trees: Trees, usable: int) -> None:
        self.pages = pages
        self.trees = trees
        self.usable = usable

    def rows(self, numbers: Iterable[int], key: _Key) -> dict[object, list[bytes]] | None:
        """Rows on these pages of a tree by their key; None if one of them is not known."""
        rows: dict[object, list[bytes]] = {}
        for number in numbers:
            if self.pages(number) is None:
                return None
            for cell in btree.cells_of(number, self.pages, self.usable):
                row = btree.payload(cell, self.pages, self.usable)
                if row is None:
                    return None
                try:
                    rows.setdefault(key(cell.rowid, row), []).append(row)
                except FormatError:
                    return None
        return rows

    def overflow(self, trees: Iterable[Tree]) -> dict[int, tuple[str, int]]:
        """Tree and b-tree page of every overflow page."""
        found: dict[int, tuple[str, int]] = {}
        for tree in trees:
            for number in tree.pages:
                for cell in btree.cells_of(number, self.pages, self.usable):
                    for page, _ in btree.overflow_pages(cell, self.pages, self.usable):
                        found[page] = tree.name, number
        return found


_Key = Callable[[int | None, bytes], object]


def _usable(page1: bytes | None, page_size: int) -> int:
    return page_size - (page1[20] if page1 is not None else 0)


def trees_of(state: State) -> Trees:
    if not state.commit:
        return Trees()
    return btree.map_trees(state.page, _usable(state.page(1), state.page_size))


def compare(
    state: State, trees: Trees, transaction: Transaction
) -> tuple[tuple[list[TableChange], int, int], Trees]:
    """Apply the transaction to the state; what it did, and the trees there are now."""
    header = transaction.header
    restarted = state.page_size not in (0, header.page_size) and bool(state.commit)
    changed = {number for number, _ in transaction.pages}
    gone = range(header.commit + 1, state.commit + 1)
    old = {number: state.page(number) for number in [*changed, *gone]}
    fresh = not state.commit
    before = _Side(
        lambda number: old[number] if number in old else state.page(number),
        trees,
        _usable(state.page(1), state.page_size) if state.page_size else header.page_size,
    )
    if restarted:  # every page is another: nothing can be compared page by page
        state.apply(transaction)
        now = trees_of(state)
        owners = [now.owner.get(number) for number in changed]
        tables = _page_counts(now, [owner for owner in owners if owner])
        rest = sum(owner is None for owner in owners)
        unknown = [TableChange(each, count, None, None, None) for each, count in tables.items()]
        return (unknown, 0, rest), now
    state.apply(transaction)
    shape = fresh or not header.commit or _shape_changed(trees, changed, state, before)
    now = trees_of(state) if shape else trees
    after = _Side(state.page, now, _usable(state.page(1), state.page_size))
    return _changes(before, after, changed, state), now


def _shape_changed(trees: Trees, changed: set[int], state: State, before: _Side) -> bool:
    """Whether a tree may consist of other pages now."""
    for number in changed:
        owner = trees.owner.get(number)
        if owner is None or owner == SCHEMA:
            return True
        images = before.pages(number), state.page(number)
        if any(image is None or image[0] in (2, 5) for image in images):
            return True
    return False


def _page_counts(trees: Trees, owners: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for owner in owners:
        table = trees.by_name[owner].table
        counts[table] = counts.get(table, 0) + 1
    return counts


def _changes(
    before: _Side, after: _Side, changed: set[int], state: State
) -> tuple[list[TableChange], int, int]:
    owned: dict[int, tuple[Trees, str]] = {}
    for number in changed:
        for side in (after, before):
            if number in side.trees.owner:
                owned[number] = side.trees, side.trees.owner[number]
                break
    #: pages whose rows must be looked at although they are as they were
    also: set[int] = set()
    left = changed - set(owned)
    usable, size = after.usable, state.page_size
    page1 = state.page(1)
    vacuums = page1 is not None and any(page1[52:56])
    free = btree.free_pages(after.pages) if left else set()
    idle = {
        number
        for number in left
        if number in free or (vacuums and btree.is_pointer_map(number, usable, size))
    }
    left = _overflow_owners(before, after, left - idle, owned, also)
    counts: dict[str, int] = {}
    touched: set[str] = set()
    for trees, name in owned.values():
        touched.add(name)
        table = trees.by_name[name].table
        counts[table] = counts.get(table, 0) + 1
    gone_or_new = {
        name
        for name in set(before.trees.by_name) | set(after.trees.by_name)
        if _pages_of(before.trees, name) != _pages_of(after.trees, name)
    }
    # a page that belongs to nobody we know may hold rows of anybody whose tree is not complete
    doubtful = bool(left)
    changes = []
    for name in sorted(touched | gone_or_new, key=lambda name: (name != SCHEMA, name)):
        tree = after.trees.by_name.get(name) or before.trees.by_name[name]
        if tree.table != tree.name:
            counts.setdefault(tree.table, 0)
            continue
        rows = _row_changes(before, after, name, changed | also, doubtful)
        if rows == (0, 0, 0) and name == SCHEMA:
            idle.update(number for number, (_, owner) in owned.items() if owner == SCHEMA)
            counts.pop(name, None)
            continue
        if rows == (0, 0, 0) and not counts.get(name):
            continue
        changes.append(TableChange(name, counts.pop(name, 0), *rows))
    # only indexes of these were touched
    changes += [
        TableChange(table, pages, 0, 0, 0) for table, pages in sorted(counts.items()) if pages
    ]
    return changes, len(idle), len(left)


def _overflow_owners(
    before: _Side,
    after: _Side,
    left: set[int],
    owned: dict[int, tuple[Trees, str]],
    also: set[int],
) -> set[int]:
    """Find whose overflow pages these are; those that are nobody's."""
    for side in (after, before):
        near = {name for _, name in owned.values() if name in side.trees.by_name}
        far = set(side.trees.by_name) - near
        for names in (near, far):
            if not left:
                return left
            found = side.overflow(side.trees.by_name[name] for name in names)
            for number in left & set(found):
                name, holder = found[number]
                owned[number] = side.trees, name
                also.add(holder)
            left = left - set(found)
    return left


def _pages_of(trees: Trees, name: str) -> frozenset[int]:
    tree = trees.by_name.get(name)
    return tree.pages if tree is not None else frozenset()


def _row_changes(
    before: _Side, after: _Side, name: str, changed: set[int], doubtful: bool
) -> tuple[int | None, int | None, int | None]:
    """Rows inserted, deleted and changed. A row that only moved stands on a changed page twice."""
    sides: list[dict[object, list[bytes]]] = []
    old, new = _pages_of(before.trees, name), _pages_of(after.trees, name)
    for side, own, others in ((before, old, new), (after, new, old)):
        tree = side.trees.by_name.get(name)
        if tree is None:
            sides.append({})
            continue
        if not tree.complete or doubtful:
            return None, None, None
        rows = side.rows((own & changed) | (own - others), _key_of(tree))
        if rows is None:
            return None, None, None
        sides.append(rows)
    was, now = sides
    inserted = sum(len(rows) for key, rows in now.items() if key not in was)
    deleted = sum(len(rows) for key, rows in was.items() if key not in now)
    modified = sum(1 for key, rows in now.items() if key in was and was[key] != rows)
    return inserted, deleted, modified


def _key_of(tree: Tree) -> _Key:
    """What makes a row of this table the same row."""
    if not tree.index:
        return lambda rowid, _row: rowid
    columns = _key_columns(tree.sql)
    if not columns:
        return lambda _rowid, row: row

    def key(_rowid: int | None, row: bytes) -> object:
        return tuple(value for value, _ in zip(btree.fields(row), range(columns), strict=False))

    return key


def _key_columns(sql: str) -> int:
    """Of the primary key of a table WITHOUT ROWID, which stand first; 0 if SQLite can't tell."""
    database = sqlean.connect(":memory:")
    try:
        database.execute(sql)
        (name,) = database.execute("SELECT name FROM sqlite_schema WHERE type='table'").fetchone()
        columns = database.execute("SELECT pk FROM pragma_table_info(?)", (name,)).fetchall()
    except sqlean.Error:
        return 0
    finally:
        database.close()
    return sum(bool(primary) for (primary,) in columns)
