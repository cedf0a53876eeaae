"""docs/architecture.md against the tree: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
INVARIANTS = re.findall(r"^\| (\d) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)


def test_invariants_when_counted_then_all_nine_are_there() -> None:
    """None is dropped without a word."""
    assert [number for number, _, _ in INVARIANTS] == list("123456789")


@pytest.mark.parametrize(("number", "claim", "tests"), INVARIANTS)
def test_invariant_when_it_names_tests_then_they_exist(number: str, claim: str, tests: str) -> None:
    """A test that was renamed or removed must not go on being named as a proof."""
    sources = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", tests)
    assert named, claim
    missing = [name for name in named if f"def {name}(" not in sources]
    assert not missing, f"invariant {number}"


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_when_followed_then_they_lead_somewhere(page: Path) -> None:
    """Between the pages, headings included."""
    for target, _, heading in re.findall(r"\]\(([\w.-]+\.md)?(#([\w-]+))?\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in titles]
            assert heading in slugs, f"{target}#{heading}"
