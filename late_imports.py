"""Modules that a library imports and that nobody here uses: they are imported when somebody does.

asyncio and trio together take longer to import than all of LiteMQ, and every node would pay that at
each start. Always true: whoever uses such a module, or imports it later, gets the real one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Late(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        self.stand_back()
        return getattr(importlib.import_module(self.__name__), name)

    def stand_back(self) -> None:
        """Imports find the real module from now on."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


@contextmanager
def late(name: str) -> Iterator[None]:
    """What is imported in the block imports the module `name` at its first use only."""
    if name in sys.modules:
        yield
        return
    module = sys.modules[name] = _Late(name)
    try:
        yield
    finally:
        module.stand_back()
