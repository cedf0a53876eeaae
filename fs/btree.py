"""Pages of a database as SQLite's b-trees: which page belongs to which table, and a page's rows.

Pure: a page comes from the caller's function, which may not have it (None). Never follows a pointer
twice. Always true: what is said to be complete was followed down to the last interior page.

Source: https://www.sqlite.org/fileformat2.html#b_tree_pages
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct
from struct import error as struct_error

from litemq.errors import FormatError, NotInTheClearError
from litemq.txlog.checksums import lock_page

#: the image of a page, None if it is not known
Pages = Callable[[int], bytes | None]

SCHEMA = "sqlite_schema"
_INDEX_INTERIOR, _TABLE_INTERIOR, _INDEX_LEAF, _TABLE_LEAF = 2, 5, 10, 13
_KINDS = (_INDEX_INTERIOR, _TABLE_INTERIOR, _INDEX_LEAF, _TABLE_LEAF)
_SCHEMA_COLUMNS = 5
_MAX_DEPTH = 20  # SQLite's own limit
_ENCODINGS = {2: "utf-16-le", 3: "utf-16-be"}
_u16 = Struct(">H").unpack_from
_u32 = Struct(">I").unpack_from


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: `local` is what stands on the page of its `size` bytes, `overflow` the page where it
    goes on (0: nowhere).
    """

    rowid: int | None
    size: int
    local: bytes
    overflow: int


@dataclass(frozen=True, slots=True)
class Node:
    """A b-tree page. `children` of an interior page ascend by key."""

    leaf: bool
    index: bool
    children: tuple[int, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """A table or an index: `pages` without overflow pages; `complete` if no page can be missing."""

    name: str
    table: str
    index: bool
    sql: str
    pages: frozenset[int]
    complete: bool


@dataclass(slots=True)
class Trees:
    """All of a database, as far as its pages are known."""

    by_name: dict[str, Tree] = field(default_factory=dict)
    owner: dict[int, str] = field(default_factory=dict)


def parse(number: int, data: bytes, usable: int, *, rows: bool = True) -> Node:
    """The page as a node; `usable` is the page size less the reserved bytes. Raises FormatError.

    Without `rows` only the children are looked at.
    """
    at = 100 if number == 1 else 0
    try:
        kind = data[at]
        if kind not in _KINDS:
            raise FormatError(f"page {number} is not of a b-tree")
        leaf, index = kind in (_INDEX_LEAF, _TABLE_LEAF), kind in (_INDEX_INTERIOR, _INDEX_LEAF)
        (count,) = _u16(data, at + 3)
        pointers = at + (8 if leaf else 12)
        children, cells = [], []
        for position in range(pointers, pointers + 2 * count, 2):
            (cell,) = _u16(data, position)
            if not leaf:
                children.append(_u32(data, cell)[0])
                cell += 4
            if rows and (leaf or index):
                cells.append(_cell(data, cell, usable, index=index))
        if not leaf:
            children.append(_u32(data, at + 8)[0])
    except (IndexError, struct_error) as error:
        raise FormatError(f"page {number} is damaged") from error
    return Node(leaf, index, tuple(children), tuple(cells))


def check_schema_page(page1: bytes, usable: int) -> None:
    """Whether page 1 holds rows of a schema, as far as it shows. Raises NotInTheClearError.

    The last resort: of a page that is encrypted behind its header, the header says nothing.
    """
    try:
        node = parse(1, page1, usable)
        for cell in node.cells:
            columns = list(fields(cell.local))
            length = _varint(cell.local, 0)[0] + sum(_length(kind) for kind, _ in columns)
            if len(columns) != _SCHEMA_COLUMNS or length != cell.size:
                raise FormatError("a row of the schema is none")
    except (FormatError, IndexError) as error:
        raise NotInTheClearError(
            "it begins as a SQLite database, but its first page holds no schema: encrypted?"
        ) from error


def _cell(data: bytes, at: int, usable: int, *, index: bool) -> Cell:
    size, at = _varint(data, at)
    rowid = None
    if not index:
        rowid, at = _varint(data, at)
        rowid -= (rowid >> 63) << 64
    most = (usable - 12) * 64 // 255 - 23 if index else usable - 35
    if size <= most:
        return Cell(rowid, size, data[at : at + size], 0)
    least = (usable - 12) * 32 // 255 - 23
    local = least + (size - least) % (usable - 4)
    if local > most:
        local = least
    return Cell(rowid, size, data[at : at + local], _u32(data, at + local)[0])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at
    return value << 8 | data[at], at + 1


def overflow_pages(cell: Cell, pages: Pages, usable: int) -> Iterator[tuple[int, bytes | None]]:
    """The chain that holds the rest of a row; it ends early with an image that is not known."""
    number, left = cell.overflow, cell.size - len(cell.local)
    while number and left > 0:
        data = pages(number)
        yield number, data
        if data is None:
            return
        (number,) = _u32(data, 0)
        left -= usable - 4


def payload(cell: Cell, pages: Pages, usable: int) -> bytes | None:
    """The whole row; None if a page of it is not known."""
    parts, left = [cell.local], cell.size - len(cell.local)
    for _, data in overflow_pages(cell, pages, usable):
        if data is None:
            return None
        parts.append(data[4 : 4 + min(left, usable - 4)])
        left -= len(parts[-1])
    return None if left else b"".join(parts)


def fields(record: bytes) -> Iterator[tuple[int, bytes]]:
    """Serial type and bytes of each column. Raises FormatError."""
    try:
        header, at = _varint(record, 0)
        body = header
        while at < header:
            kind, at = _varint(record, at)
            length = _length(kind)
            yield kind, record[body : body + length]
            body += length
    except IndexError as error:
        raise FormatError("a row is damaged") from error


def _length(kind: int) -> int:
    """How many bytes a column of that serial type takes."""
    return (kind - 12) // 2 if kind > 11 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind]


def map_trees(pages: Pages, usable: int) -> Trees:
    """Every table and index that the schema names, and their pages. Damage counts as unknown."""
    trees = Trees()
    schema = _walk(trees, SCHEMA, SCHEMA, "", 1, pages, usable)
    page1 = pages(1)
    if page1 is None:
        return trees
    encoding = _ENCODINGS.get(_u32(page1, 56)[0], "utf-8")
    for number in sorted(schema.pages):
        for cell in cells_of(number, pages, usable):
            record = payload(cell, pages, usable)
            if record is None:
                continue
            try:
                columns = list(fields(record))
                name, table, sql = (columns[at][1].decode(encoding, "replace") for at in (1, 2, 4))
                root = int.from_bytes(columns[3][1], "big") if columns[3][0] != 9 else 1
            except (FormatError, IndexError):
                continue
            if root > 1:
                _walk(trees, name, table, sql, root, pages, usable)
    return trees


def _walk(
    trees: Trees, name: str, table: str, sql: str, root: int, pages: Pages, usable: int
) -> Tree:
    """All leaves of a b-tree are equally deep: one that is known tells of the whole level."""
    found: list[int] = []
    seen: set[int] = set()
    level, complete, index = [root], True, False
    for _ in range(_MAX_DEPTH):
        found += level
        seen.update(level)
        below: list[int] = []
        unknown, leaves = 0, False
        for number in level:
            node = _node(number, pages, usable)
            if node is None:
                unknown += 1
                continue
            index = node.index
            if node.leaf:
                leaves = True
                break
            below += [child for child in node.children if child not in seen]
        if leaves:
            break
        complete = complete and not unknown
        if not below:
            break
        level = below
    tree = Tree(name, table, index, sql, frozenset(found), complete)
    trees.by_name[name] = tree
    for number in found:
        trees.owner[number] = name
    return tree


def _node(number: int, pages: Pages, usable: int) -> Node | None:
    data = pages(number)
    if data is None:
        return None
    try:
        return parse(number, data, usable, rows=False)
    except FormatError:
        return None


def cells_of(number: int, pages: Pages, usable: int) -> tuple[Cell, ...]:
    """The rows on a page, none if it is unknown, damaged or of another kind."""
    data = pages(number)
    if data is None:
        return ()
    try:
        return parse(number, data, usable).cells
    except FormatError:
        return ()


def free_pages(pages: Pages) -> set[int]:
    """Pages that no b-tree uses, as far as the chain is known."""
    found: set[int] = set()
    page1 = pages(1)
    trunk = _u32(page1, 32)[0] if page1 is not None else 0
    while trunk and trunk not in found:
        found.add(trunk)
        data = pages(trunk)
        if data is None:
            break
        after, count = _u32(data, 0)[0], min(_u32(data, 4)[0], len(data) // 4 - 2)
        found.update(_u32(data, 8 + 4 * at)[0] for at in range(count))
        trunk = after
    return found


def is_pointer_map(number: int, usable: int, page_size: int) -> bool:
    """Whether the page would be one of SQLite's own notes in an auto-vacuum database."""
    if number < 2:
        return False
    every = usable // 5 + 1
    first = (number - 2) // every * every + 2
    if first == lock_page(page_size):
        first += 1
    return first == number
