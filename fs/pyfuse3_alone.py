"""Imports pyfuse3 without trio, in whose place it is given `poll_loop` before it uses any of it.

To be imported before whatever else imports pyfuse3: trio is a fifth of a node's start.
"""

from __future__ import annotations

from litemq.late_imports import late

with late("trio"):
    import pyfuse3  # noqa: F401 - for the import
