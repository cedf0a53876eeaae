"""Tests for Django's own runner, which makes, clones and deletes databases for them."""

from __future__ import annotations

from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from .models import Entry


class _Rows:
    """What each class below does, in a database that a worker has for itself at that moment."""

    def test_rows_when_written_then_they_are_all_there_is(self) -> None:
        assert "test" in str(connection.settings_dict["NAME"])
        for number in range(20):
            Entry.objects.create(mark=f"{number}")
        assert Entry.objects.count() == 20

    def test_rows_when_rolled_back_then_they_are_not_there(self) -> None:
        try:
            with transaction.atomic():
                Entry.objects.create(mark="never")
                raise LookupError
        except LookupError:
            pass
        assert not Entry.objects.exists()


for _number in range(4):
    globals()[f"RolledBack{_number}"] = type(f"RolledBack{_number}", (_Rows, TestCase), {})
    globals()[f"Flushed{_number}"] = type(f"Flushed{_number}", (_Rows, TransactionTestCase), {})
