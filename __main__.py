"""`python -m litemq` is the `litemq` command."""

from __future__ import annotations

from litemq.cli import main

if __name__ == "__main__":
    main()
