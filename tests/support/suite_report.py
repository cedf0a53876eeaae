"""The report of a run of SQLite's suite, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from suite_files import Outcome

#: of what one test expected and got
MOST_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Compared:
    """One file: how it went natively and in the mount, and whether the replica followed."""

    name: str
    native: Outcome
    mounted: Outcome
    wrong: list[str] = field(default_factory=list)
    """Databases that a replica did not show as the primary did, and why."""

    @property
    def same(self) -> bool:
        return self.native.same(self.mounted) and not self.wrong


def report(title: str, files: Sequence[Compared]) -> str:
    """All files of a run: the totals, then each that differs, test by test."""
    differ = [each for each in files if not each.same]
    tests = sum(each.native.tests for each in files)
    native_s = sum(each.native.took_s for each in files)
    mounted_s = sum(each.mounted.took_s for each in files)
    lines = [
        f"# {title}",
        "",
        (
            f"{len(files)} files, {tests} tests; {len(differ)} files differ. "
            f"Natively {native_s:.0f} s, in the mount {mounted_s:.0f} s."
        ),
    ]
    for each in differ:
        lines += ["", f"## {each.name}", "", *_differences(each)]
    return "\n".join(lines) + "\n"


def _differences(each: Compared) -> list[str]:
    native, mounted = each.native, each.mounted
    lines = [f"- replica: {reason}" for reason in each.wrong]
    if native.ended != mounted.ended:
        lines.append(f"- natively: {native.ended or 'ended'}; mount: {mounted.ended or 'ended'}")
    if native.tests != mounted.tests:
        lines.append(f"- natively {native.tests} tests, in the mount {mounted.tests}")
    for name in sorted({*native.failed} ^ {*mounted.failed}):
        where, outcome = ("mount", mounted) if name in mounted.failed else ("natively", native)
        detail = outcome.details.get(name, "")
        lines.append(f"- {where} only: `{name}` {detail[:MOST_CHARACTERS]}")
    return lines
