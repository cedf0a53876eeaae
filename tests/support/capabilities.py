"""What this machine can do: what is missing skips a test here, and fails it where CI=true."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def require_fuse() -> None:
    """For tests that mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        _missing("no usable /dev/fuse")
    if shutil.which("fusermount3") is None:
        _missing("no fusermount3 (Debian package fuse3)")


def require_root() -> None:
    """For tests that mount small file systems or change users."""
    if os.geteuid() != 0:
        _missing("not root")


def require_program(name: str) -> str:
    """Its path, from PATH or from beside the interpreter."""
    beside = str(Path(sys.executable).with_name(name))
    found = shutil.which(name) or shutil.which(beside)
    if found is None:
        _missing(f"no program {name}")
    return found


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
