"""Every name in the mount is one kind of file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.fs.names import (
    Kind,
    classify,
    database_of_log,
    database_of_position,
    is_database_name,
    log_folder,
    why_no_database,
)


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
        ("app.db-pos", Kind.DATABASE, "app.db-pos"),
        ("app.db-pos-wal", Kind.WAL, "app.db-pos"),
        (".primary", Kind.PRIMARY, ""),
        (".primary-wal", Kind.OTHER, ""),
        (".hidden", Kind.DATABASE, ".hidden"),
        (".hidden-wal", Kind.WAL, ".hidden"),
        (".", Kind.OTHER, ""),
        ("..", Kind.OTHER, ""),
        ("-wal", Kind.DATABASE, "-wal"),
        ("etilqs_abc", Kind.OTHER, ""),
        ("a/b", Kind.DATABASE, "a/b"),
        ("a/b/c.db-wal", Kind.WAL, "a/b/c.db"),
        ("a.db-wal/b", Kind.DATABASE, "a.db-wal/b"),
        ("a/.primary", Kind.DATABASE, "a/.primary"),
        ("a/etilqs_1", Kind.OTHER, ""),
        ("/a", Kind.OTHER, ""),
        ("a/", Kind.OTHER, ""),
        ("a//b", Kind.OTHER, ""),
        ("../a", Kind.OTHER, ""),
        ("a/../../b", Kind.OTHER, ""),
        ("a/.", Kind.OTHER, ""),
        ("a/..-wal", Kind.OTHER, ""),
        ("a/" + "x" * 196, Kind.DATABASE, "a/" + "x" * 196),
        ("a/" + "x" * 197, Kind.OTHER, ""),
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


@pytest.mark.parametrize(
    ("name", "database"),
    [
        ("app.db-pos", "app.db"),
        ("app.db-pos-pos", "app.db-pos"),
        ("app.db", ""),
        ("-pos", ""),
        ("app.db-wal-pos", ""),
        (".primary-pos", ""),
        ("bad\udcff-pos", ""),
    ],
)
def test_position_when_a_name_is_one_then_it_is_of_a_database(name, database):
    """Only what can be a database has a position."""
    assert database_of_position(name) == database


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("audit-wal", "'-wal' at its end"),
        ("audit-wal-wal", "'-wal' at its end"),
        ("trading-journal", "'-journal' at its end"),
        ("app-mj00112E9A3", "super-journal"),
        ("etilqs_abc", "'etilqs_' begins"),
        ("a/b-wal", "adds to b for"),
        ("bad\udcff", "not UTF-8"),
        ("ä" * 101, "longer than 200 bytes"),
    ],
)
def test_name_when_it_is_no_databases_then_the_rule_is_named(name, rule):
    """Whatever holds a database under such a name is told so."""
    assert rule in why_no_database(name)


@given(st.text(min_size=1))
def test_name_when_it_is_anything_then_a_rule_forbids_it_or_it_is_a_databases(name):
    """No name is left out in silence."""
    special = name == ".primary" or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/"))
    assert special or bool(why_no_database(name)) != is_database_name(name)


@given(st.text(alphabet=st.sampled_from("a%/.25EF")) | st.text())
def test_log_when_its_folder_is_read_then_the_database_is_known(name):
    """So no two have one folder, and whatever the network says, it is a folder of that place."""
    folder = log_folder(name)
    assert database_of_log(folder) == name
    assert "/" not in folder
    assert folder not in (".", "..")
