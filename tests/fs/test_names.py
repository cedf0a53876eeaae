"""Every name in the mount is one kind of file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.fs.names import Kind, classify, is_database_name


@pytest.mark.parametrize(
    ("name", "kind", "database"),
    [
        ("app.db", Kind.DATABASE, "app.db"),
        ("app", Kind.DATABASE, "app"),
        ("app.db-wal", Kind.WAL, "app.db"),
        ("app.db-shm", Kind.SHM, "app.db"),
        ("app.db-journal", Kind.JOURNAL, "app.db"),
        ("app.db-mj00112E9A3", Kind.SUPER_JOURNAL, "app.db"),
        ("app.db-mj00112E8A3", Kind.DATABASE, "app.db-mj00112E8A3"),
        ("app.db-pos", Kind.POSITION, "app.db"),
        (".primary", Kind.PRIMARY, ""),
        (".hidden", Kind.OTHER, ""),
        (".hidden-wal", Kind.OTHER, ""),
        ("-wal", Kind.DATABASE, "-wal"),
        ("etilqs_abc", Kind.OTHER, ""),
        ("a/b", Kind.OTHER, ""),
        ("", Kind.OTHER, ""),
        ("ä" * 100, Kind.DATABASE, "ä" * 100),
        ("ä" * 100 + "x", Kind.OTHER, ""),
        ("x" * 200 + "-journal", Kind.JOURNAL, "x" * 200),
        ("app.db-wal-wal", Kind.OTHER, ""),
        ("bad\udcff", Kind.OTHER, ""),
    ],
)
def test_classify_when_given_a_name_then_its_kind_and_database(name, kind, database):
    """The rules, name by name."""
    assert classify(name) == (kind, database)


@given(st.text())
def test_classify_when_given_anything_then_the_database_is_one(name):
    """Whatever belongs to a database belongs to something that is a database by its own name."""
    _, database = classify(name)
    assert database == "" or classify(database) == (Kind.DATABASE, database)
    assert database == "" or is_database_name(database)
