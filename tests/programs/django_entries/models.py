"""The table that all programs use."""

from __future__ import annotations

from django.db import models


class Entry(models.Model):
    mark = models.TextField()

    class Meta:
        db_table = "entry"
