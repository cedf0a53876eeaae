"""One line about an error of a user's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from litemq.actors.user_error import MAX_CHARACTERS, described, place


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
        (UnspeakableError(), "UnspeakableError: (it can't be shown)"),
    ],
)
def test_error_when_described_then_it_is_one_line(error: BaseException, said: str) -> None:
    """Whatever the message holds, and even if there is none to be had."""
    assert described(error) == said


def test_error_when_it_is_long_then_it_is_cut() -> None:
    """A message travels in a datagram."""
    assert len(described(ValueError("x" * 10_000))) == MAX_CHARACTERS


def test_place_when_a_library_raises_then_it_is_the_line_that_called_it(tmp_path: Path) -> None:
    """The user's own line tells more than the library's."""
    file = tmp_path / "hooks.py"
    file.write_text("import json\n\ndef f():\n    json.loads('{')\n")
    names: dict[str, object] = {}
    exec(compile(file.read_text(), file, "exec"), names)
    with pytest.raises(ValueError) as caught:
        names["f"]()  # type: ignore[operator]
    assert place(caught.value, str(file)) == f"{file}:4"
    assert "json" in place(caught.value, "/other.py")


def test_place_when_the_file_does_not_parse_then_it_is_the_line(tmp_path: Path) -> None:
    """No frame of the file has run then."""
    with pytest.raises(SyntaxError) as caught:
        compile("x = 1\ndef f(:\n", "/hooks.py", "exec")
    assert place(caught.value, "/hooks.py") == "/hooks.py:2"
    assert place(ValueError(), "/hooks.py") == ""
