"""What a single configuration key accepts: how its value is checked, read, and written back.

A rule never looks at the machine or at another key. `read` gives the value in the units of its
attribute or raises ValueError; `expects` then completes the sentence "must be ...", so that every
refusal says what would have been right.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec import Struct

PORTS_PER_NODE: Final = 3
"""Live stream, requests, answers: the listen port and the two above it."""

MAX_UPSTREAM: Final = 16

WILDCARD: Final = "0.0.0.0"  # noqa: S104 - a node binds what its file says, this is not a default

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class Rule(Protocol):
    """What one key accepts."""

    @property
    def expects(self) -> str:
        """Ends the sentence "must be"."""

    def read(self, value: object) -> object:
        """The checked value, in the units of its attribute; ValueError if it is not acceptable."""


class Flag(Struct, frozen=True):
    expects: str = "true or false"

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value


class Count(Struct, frozen=True):
    least: int
    most: int

    @property
    def expects(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError
        if not self.least <= value <= self.most:
            raise ValueError
        return value


class Choice(Struct, frozen=True):
    choices: tuple[str, ...]

    @property
    def expects(self) -> str:
        return " or ".join(f'"{choice}"' for choice in self.choices)

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError
        return value


class Name(Struct, frozen=True):
    expects: str = "1 to 64 letters, digits, dots, dashes or underscores"

    def read(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
            raise ValueError
        return value


class Duration(Struct, frozen=True):
    least: str
    most: str

    @property
    def expects(self) -> str:
        return f'a duration from "{self.least}" to "{self.most}"'

    def read(self, value: object) -> float:
        seconds = parse_duration_s(value)
        if not parse_duration_s(self.least) <= seconds <= parse_duration_s(self.most):
            raise ValueError
        return seconds


class DurationOrOff(Struct, frozen=True):
    """0 stands for off."""

    least: str
    most: str

    @property
    def expects(self) -> str:
        return f'a duration from "{self.least}" to "{self.most}", or "off"'

    def read(self, value: object) -> float:
        return 0.0 if value == "off" else Duration(self.least, self.most).read(value)


class Size(Struct, frozen=True):
    least: str
    most: str

    @property
    def expects(self) -> str:
        return f'a size from "{self.least}" to "{self.most}"'

    def read(self, value: object) -> int:
        size = parse_size_bytes(value)
        if not parse_size_bytes(self.least) <= size <= parse_size_bytes(self.most):
            raise ValueError
        return size


class Affinity(Struct, frozen=True):
    expects: str = '"auto", "off" or the number of a CPU'

    def read(self, value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 4096:
            return str(value)
        if value in ("auto", "off") or (isinstance(value, str) and re.fullmatch(r"\d{1,4}", value)):
            return str(value)
        raise ValueError


class AbsolutePath(Struct, frozen=True):
    expects: str = "an absolute path"

    def read(self, value: object) -> Path:
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ValueError
        return Path(os.path.normpath(value))


class FunctionOfFile(Struct, frozen=True):
    expects: str = 'FILE:FUNCTION, such as "hooks.py:changed"'

    def read(self, value: object) -> str:
        if value == "":
            return ""
        file, _, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        if not file or file.endswith("/") or "\0" in file or not name.isidentifier():
            raise ValueError
        return f"{file}:{name}"


class ListenAddress(Struct, frozen=True):
    expects: str = 'an IPv4 address and port such as "tcp://127.0.0.1:7100"'

    def read(self, value: object) -> str:
        host, port = split_address(value)
        host = WILDCARD if host == "*" else host
        return f"tcp://{ipaddress.IPv4Address(host)}:{port}"


class PeerAddress(Struct, frozen=True):
    expects: str = 'the address other nodes connect to, such as "tcp://10.0.0.1:7100"'

    def read(self, value: object) -> str:
        host, port = split_address(value)
        if host in ("*", WILDCARD):
            raise ValueError
        return f"tcp://{host}:{port}"


class PeerAddresses(Struct, frozen=True):
    @property
    def expects(self) -> str:
        one = PeerAddress().expects
        return f"{one}, or a list of up to {MAX_UPSTREAM} different ones"

    def read(self, value: object) -> list[str]:
        """In their order; one may stand alone."""
        values = value if isinstance(value, list) else [value]
        addresses = [PeerAddress().read(each) for each in values if each != ""]
        if len(addresses) > MAX_UPSTREAM or len(set(addresses)) < len(addresses):
            raise ValueError
        return addresses


class HttpAddress(Struct, frozen=True):
    expects: str = 'an address such as "http://127.0.0.1:8500", without a path or a password'

    def read(self, value: object) -> str:
        match = (
            re.fullmatch(r"(https?)://([A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?/?", value)
            if isinstance(value, str)
            else None
        )
        if match is None or not 0 < int(match[3] or 1) <= 65535:
            raise ValueError
        host = match[2].lower()
        host = "127.0.0.1" if host == "localhost" else host
        return f"{match[1]}://{host}:{match[3] or (443 if match[1] == 'https' else 80)}"


class KeyName(Struct, frozen=True):
    expects: str = 'a name such as "litemq/main": letters, digits, ".", "_", "-", parted by "/"'

    def read(self, value: object) -> str:
        part = r"[A-Za-z0-9._-]+"
        if not isinstance(value, str) or not re.fullmatch(rf"{part}(/{part})*", value):
            raise ValueError
        if len(value) > 200:
            raise ValueError
        return value


class Secret:
    """A text that no message, log or `repr` shows; `reveal` gives it to whom it is meant for."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)" if self._text else "Secret()"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return type(self), (self._text,)


class SecretText(Struct, frozen=True):
    expects: str = "up to 300 printable ASCII characters without spaces (it is not shown)"

    def read(self, value: object) -> Secret:
        # It travels in an HTTP header.
        if not isinstance(value, str) or not re.fullmatch(r"[!-~]{0,300}", value):
            raise ValueError
        return Secret(value)


class OnlyFor(Struct, frozen=True):
    """A key that one kind of election needs, and that is "" or absent where it means nothing."""

    kind: str
    rule: Rule

    @property
    def expects(self) -> str:
        return self.rule.expects

    def read(self, value: object) -> object:
        return None if value == "" else self.rule.read(value)


def parse_duration_s(value: object) -> float:
    """Seconds in "200ms", "10s", "5m", "24h", "7d"; ValueError otherwise."""
    number, unit = _quantity(value, _SECONDS)
    # Divided, since 200 * 0.001 is not the float that 0.2 is.
    return number / 1000 if unit == "ms" else number * _SECONDS[unit]


def parse_size_bytes(value: object) -> int:
    """Bytes in "512B", "32KiB", "64MiB", "1GiB"; ValueError otherwise."""
    number, unit = _quantity(value, _BYTES)
    return number * _BYTES[unit]


def _quantity(value: object, units: Mapping[str, float]) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]{1,15})([A-Za-z]+)", value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError
    return int(match[1]), match[2]


def split_address(value: object) -> tuple[str, int]:
    match = (
        re.fullmatch(r"tcp://([A-Za-z0-9.-]{1,253}|\*):([0-9]{1,5})", value)
        if isinstance(value, str)
        else None
    )
    if match is None or not 0 < int(match[2]) <= 65535 - (PORTS_PER_NODE - 1):
        raise ValueError
    host = match[1].lower()
    return ("127.0.0.1" if host == "localhost" else host), int(match[2])


def neighbour(address: str, offset: int) -> str:
    host, port = split_address(address)
    return f"tcp://{host}:{port + offset}"


def toml_text(rule: Rule, value: Any) -> str:
    """The TOML text that `rule` reads as `value`, in the largest unit that divides it."""
    match rule:
        case DurationOrOff() if not value:
            return '"off"'
        case Duration() | DurationOrOff():
            units = [unit for unit in ("h", "s") if value % _SECONDS[unit] == 0]
            return (
                f'"{value / _SECONDS[units[0]]:.0f}{units[0]}"'
                if units
                else f'"{value * 1000:.0f}ms"'
            )
        case Size():
            unit = next(unit for unit in reversed(_BYTES) if value % _BYTES[unit] == 0)
            return f'"{value // _BYTES[unit]}{unit}"'
        case SecretText():
            return '""'
        case PeerAddresses():
            addresses = [f'"{each}"' for each in value]
            return f"[{', '.join(addresses)}]"
        case _:
            return f'"{value}"' if isinstance(value, str) else str(value).lower()
