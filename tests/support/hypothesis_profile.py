"""Importing this sets Hypothesis up: no deadlines, for the machine may be busy with nodes."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("litemq", deadline=None, print_blob=True)
settings.load_profile("litemq")
