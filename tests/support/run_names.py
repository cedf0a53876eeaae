"""The name of a test run, from which the next one tells whether it has ended."""

from __future__ import annotations

import os

from litemq.bench import run_names

PREFIX = f"litemq-test-{os.getuid()}-"


def run_name() -> str:
    """Of this run."""
    return run_names.run_name(PREFIX)


def is_dead(name: str) -> bool:
    """Whether the run that this name begins with is gone."""
    return run_names.is_dead(PREFIX, name)
