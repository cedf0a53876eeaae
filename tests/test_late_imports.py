"""Modules that nobody here uses: not imported by a node, and real for whoever uses them."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: what a node has imported when its actors start, the supervisor's part and the nursery's
NODE = """
import sys
from litemq.actors import supervisor
from litemq.actors.roles import modules_of
from types import SimpleNamespace as N
import importlib
config = N(mount=N(fuse=True), stream=N(relay=True), is_elected=True)
for name in modules_of(config):
    importlib.import_module(name)
"""

IN_THE_BLOCK = """
from litemq.late_imports import late
with late("wave"):
    from wave import open
print(open.__module__)
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_node_when_all_is_imported_then_neither_asyncio_nor_trio_is() -> None:
    """They would take longer than all the rest, at every start."""
    loaded = "print([each for each in ('asyncio', 'trio') if each in sys.modules])"
    assert run(NODE + loaded) == "[]"


@pytest.mark.parametrize(
    ("use", "shown"),
    [
        ("import structlog; print(structlog.stdlib.asyncio.Lock.__module__)", "asyncio.locks"),
        ("import pyfuse3; print(pyfuse3.trio.Lock.__module__)", "trio"),
        ("import asyncio.locks; print(asyncio.run.__module__)", "asyncio.runners"),
        ("import trio; print(trio.run.__module__)", "trio"),
        (IN_THE_BLOCK, "wave"),
    ],
    ids=["structlog", "pyfuse3", "asyncio", "trio", "in the block"],
)  # fmt: skip
def test_late_module_when_it_is_used_then_it_is_the_real_one(use: str, shown: str) -> None:
    """By the library that was given a stand-in, by a program after it, and within the block."""
    assert run(f"{NODE}\n{use}").startswith(shown)
