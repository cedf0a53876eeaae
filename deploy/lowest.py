"""Prints pip constraints that hold every direct dependency at its lower bound."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lowest(pyproject: str) -> list[str]:
    project = tomllib.loads(pyproject)["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [re.sub(r"^([\w.-]+)>=([\w.]+).*$", r"\1==\2", each) for each in requirements]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(Path(sys.argv[1]).read_text())) + "\n")
