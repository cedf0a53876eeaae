"""Writes the generated parts of the documentation anew: the table of configuration keys."""

from __future__ import annotations

import re
from pathlib import Path

from litemq.config import reference

BEGIN = "<!-- begin: configuration keys, written by `make docs` -->"
END = "<!-- end: configuration keys -->"


def key_table() -> str:
    rows = ["| section | key | default | must be | what it is for |", "|---|---|---|---|---|"]
    for key in reference():
        default = f"`{key.default}`" if key.default else "required"
        rows.append(
            f"| `[{key.section}]` | `{key.name}` | {default} | {key.expects} | {key.description} |"
        )
    return "\n".join(rows)


def main() -> None:
    page = Path(__file__).with_name("operations.md")
    text = page.read_text()
    block = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    page.write_text(block.sub(lambda _: f"{BEGIN}\n{key_table()}\n{END}", text))


if __name__ == "__main__":
    main()
