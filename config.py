"""The configuration file of one node: every key, its default, its limits, what is wrong with it.

Never starts anything and never changes the disk: `config_machine` prepares the directories. A
`Config` that exists has passed every check that needs no more than its own text and the parents of
its directories. Every failure is one `ConfigError` line: file, key, reason. Quantities carry a unit
in the file and are plain numbers here, with the unit last in the attribute's name.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from litemq.config_rules import (
    PORTS_PER_NODE,
    WILDCARD,
    AbsolutePath,
    Affinity,
    Choice,
    Count,
    Duration,
    DurationOrOff,
    Flag,
    FunctionOfFile,
    HttpAddress,
    KeyName,
    ListenAddress,
    Name,
    OnlyFor,
    PeerAddress,
    PeerAddresses,
    Rule,
    Secret,
    SecretText,
    Size,
    neighbour,
    split_address,
    toml_text,
)
from litemq.errors import ConfigError

# A Unix socket's path holds 107 bytes (sun_path, unix(7)); the names of the sockets need the rest.
RUN_DIR_MAX_BYTES: Final = 70

_VARIABLE: Final = re.compile(r"\$(?:\$|\{([^}]*)\}?)")


class NodeConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    name: Annotated[str, Meta(description="This node's name in logs and status."), Name()]
    data_dir: Annotated[
        Path,
        Meta(description="Log, backing files, sockets; private to the node, created, mode 0700."),
        AbsolutePath(),
    ]


class MountConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    path: Annotated[
        Path, Meta(description="Where applications open their databases; created."), AbsolutePath()
    ]
    fuse: Annotated[
        bool,
        Meta(description="false: a replica without FUSE keeps plain files at `path`."),
        Flag(),
    ] = True
    allow_other: Annotated[
        bool,
        Meta(
            description="Let other users into the mount; if the node does not run as root, "
            "/etc/fuse.conf must say user_allow_other."
        ),
        Flag(),
    ] = False
    write_back: Annotated[
        bool,
        Meta(
            description="Let the kernel keep what a primary's programs write until they ask for it "
            "to be synced: faster, and a killed node loses what a power failure would."
        ),
        Flag(),
    ] = False
    cpu_affinity: Annotated[
        str,
        Meta(
            description="The CPU that the FUSE actor keeps, left alone by the other actors; "
            "auto: one of two, none of more; off: wherever the scheduler puts them."
        ),
        Affinity(),
    ] = "auto"


def pub_address(listen: str) -> str:
    """Where a node that listens there publishes its stream."""
    return neighbour(listen, 0)


def request_address(listen: str) -> str:
    """Where a node that listens there takes requests."""
    return neighbour(listen, 1)


def reachable(address: str, peer: str) -> str:
    """An address that a node told of itself, for somebody to whom it is the host `peer`.

    What a stranger told may be anything, and stays so.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return f"tcp://{peer}:{port}" if host == WILDCARD and peer else address


class StreamConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    listen: Annotated[
        str,
        Meta(description="Replicas connect here; the next two ports up are used as well."),
        ListenAddress(),
    ]
    heartbeat_s: Annotated[
        float,
        Meta(
            description="How often the head of every database is announced. The same on all nodes: "
            "a replica counts by its own."
        ),
        Duration("10ms", "10s"),
    ] = field(default=0.2, name="heartbeat")
    inline_bytes: Annotated[
        int,
        Meta(description="Larger records are announced, and fetched by those who want them."),
        Size("1KiB", "16MiB"),
    ] = 32 << 10
    hwm: Annotated[
        int,
        Meta(description="Messages kept for a slow subscriber before it has to ask for the rest."),
        Count(1, 1_000_000),
    ] = 256
    relay: Annotated[
        bool,
        Meta(description="Whether other replicas may follow this one, as if it were the primary."),
        Flag(),
    ] = False
    upstream: Annotated[
        tuple[str, ...],
        Meta(
            description="Relays to follow instead of the primary, in the order in which they are "
            "tried; the primary comes last."
        ),
        PeerAddresses(),
    ] = ()

    @property
    def pub_address(self) -> str:
        return neighbour(self.listen, 0)

    @property
    def request_address(self) -> str:
        return neighbour(self.listen, 1)

    @property
    def answer_address(self) -> str:
        return neighbour(self.listen, 2)


class ConsulConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    address: Annotated[
        str, Meta(description="The Consul agent of this node's machine."), HttpAddress()
    ] = "http://127.0.0.1:8500"
    key: Annotated[
        str | None,
        Meta(description="The key that the nodes of this cluster contend for; one per cluster."),
        OnlyFor("consul", KeyName()),
    ] = None
    ttl_s: Annotated[
        float,
        Meta(
            description="A primary that Consul has not heard of for this long is replaced; "
            "the same on all nodes."
        ),
        Duration("200ms", "1m"),
    ] = field(default=1.0, name="ttl")
    token: Annotated[
        Secret, Meta(description="ACL token, such as `${CONSUL_TOKEN}`."), SecretText()
    ] = field(default_factory=Secret)


class ElectionConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    kind: Annotated[
        Literal["static", "file", "consul"],
        Meta(description="How the primary is found."),
        Choice(("static", "file", "consul")),
    ] = "static"
    candidate: Annotated[
        bool,
        Meta(description="Whether this node may become the primary; it needs FUSE for it."),
        Flag(),
    ] = True
    primary: Annotated[
        str | None,
        Meta(description="The primary's listen address; the node whose own it is, is the primary."),
        OnlyFor("static", PeerAddress()),
    ] = None
    path: Annotated[
        Path | None,
        Meta(description="A lock file on this machine, the same for all nodes; created."),
        OnlyFor("file", AbsolutePath()),
    ] = None
    on_change: Annotated[
        str,
        Meta(
            description="A Python function that is told this node's role, in a process of its "
            "own; the path is relative to this file's directory."
        ),
        FunctionOfFile(),
    ] = ""
    on_change_limit_s: Annotated[
        float,
        Meta(description="A call of it that takes longer is killed."),
        Duration("100ms", "1h"),
    ] = field(default=30.0, name="on-change-limit")
    consul: ConsulConfig = field(default_factory=ConsulConfig)


class AppConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    on_role_change: Annotated[
        Literal["none", "restart", "SIGHUP"],
        Meta(
            description="What the command of `litemq up -- COMMAND` gets when this node becomes "
            "the primary or a replica: nothing, a restart, or the signal."
        ),
        Choice(("none", "restart", "SIGHUP")),
    ] = "none"


class LogConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least severe lines that are kept."),
        Choice(("debug", "info", "warning", "error")),
    ] = "info"
    max_bytes: Annotated[
        int,
        Meta(description="A log file that has grown to this size is set aside."),
        Size("4KiB", "1TiB"),
    ] = 16 << 20
    keep: Annotated[
        int, Meta(description="How many log files set aside are kept."), Count(0, 100)
    ] = 4


class RetentionConfig(
    Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True
):
    max_age_s: Annotated[
        float,
        Meta(
            description="Transactions younger than this are kept, so that a replica "
            "which was away this long need not compare pages."
        ),
        Duration("10ms", "36500d"),
    ] = field(default=86400.0, name="age")
    max_bytes: Annotated[
        int,
        Meta(description="The log of one database may grow to this, however young it is."),
        Size("4KiB", "1024TiB"),
    ] = field(default=1 << 30, name="bytes")
    segment_bytes: Annotated[
        int,
        Meta(description="A log file of this size is closed; retention removes whole files."),
        Size("4KiB", "1TiB"),
    ] = 64 << 20


class VerifyConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    every_s: Annotated[
        float,
        Meta(
            description="Every database file is compared with its log this often, slowly and while "
            "the node works; a replica repairs what differs."
        ),
        DurationOrOff("1s", "365d"),
    ] = field(default=3600.0, name="every")


class SupervisorConfig(
    Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True
):
    hung_after_s: Annotated[
        float,
        Meta(description="An actor that gives no sign of life for this long is restarted."),
        Duration("100ms", "1h"),
    ] = field(default=10.0, name="hung-after")
    crash_limit: Annotated[
        int,
        Meta(description="More crashes of one actor than this within `crash-window` end the node."),
        Count(1, 1000),
    ] = 5
    crash_window_s: Annotated[
        float, Meta(description="See `crash-limit`."), Duration("1s", "7d")
    ] = field(default=60.0, name="crash-window")


@dataclass(frozen=True, slots=True)
class Config:
    """One node's file, checked. `path` is the file itself, as it was given."""

    path: Path
    node: NodeConfig
    mount: MountConfig
    stream: StreamConfig
    election: ElectionConfig
    log: LogConfig
    retention: RetentionConfig
    supervisor: SupervisorConfig
    app: AppConfig = AppConfig()  # noqa: RUF009 - frozen
    verify: VerifyConfig = VerifyConfig()  # noqa: RUF009 - frozen

    @property
    def on_change(self) -> tuple[Path, str] | None:
        """File (absolute) and name of the function that is told of changes of role."""
        file, _, name = self.election.on_change.rpartition(":")
        return (Path(os.path.abspath(self.path.parent / file)), name) if name else None

    @property
    def static_primary(self) -> str:
        """The primary's address; ConfigError where it is elected and no file can tell."""
        if self.election.primary is None:
            reason = f'"{self.election.kind}" elects the primary: ask the node who it is'
            refuse(self.path, "election", "kind", reason)
        return self.election.primary

    @property
    def is_elected(self) -> bool:
        """Whether the primary is elected, and not named by the configuration."""
        return self.election.kind != "static"

    @property
    def is_primary(self) -> bool:
        """Whether the configuration names this node; where the primary is elected, it does not."""
        return self.election.primary == self.stream.listen

    @property
    def directories(self) -> tuple[tuple[str, str, Path], ...]:
        """Section, key and path of each directory that the file names."""
        return ("node", "data-dir", self.node.data_dir), ("mount", "path", self.mount.path)

    @property
    def caches_writes(self) -> bool:
        """Whether the kernel keeps what programs write here until they ask for it to be synced.

        Where the primary is elected that is so on every candidate, also while it is a replica.
        """
        may_serve = self.election.candidate if self.is_elected else self.is_primary
        return self.mount.write_back and may_serve

    @property
    def primary_pub_address(self) -> str:
        return neighbour(self.static_primary, 0)

    @property
    def primary_request_address(self) -> str:
        return neighbour(self.static_primary, 1)

    @property
    def run_dir(self) -> Path:
        """Where the sockets are: one place for all who read this file, whatever their TMPDIR."""
        inside = self.node.data_dir / "run"
        if len(os.fsencode(inside)) <= RUN_DIR_MAX_BYTES:
            return inside
        try:
            uid = self.node.data_dir.stat().st_uid
        except OSError:
            uid = os.getuid()
        digest = hashlib.sha256(os.fsencode(self.node.data_dir)).hexdigest()[:12]
        return Path(f"/tmp/litemq-{uid}-{digest}")  # noqa: S108 - prepare_directories refuses a foreign one


_SECTIONS: Final[dict[str, type[Struct]]] = {
    "node": NodeConfig,
    "mount": MountConfig,
    "stream": StreamConfig,
    "election": ElectionConfig,
    "app": AppConfig,
    "log": LogConfig,
    "retention": RetentionConfig,
    "verify": VerifyConfig,
    "supervisor": SupervisorConfig,
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key as documentation sees it; `default` is TOML text, None when the key is required.

    `needed_by`: the one kind of election that requires it, "" for all.
    """

    section: str
    name: str
    expects: str
    default: str | None
    description: str
    needed_by: str = ""


def reference() -> Iterator[Key]:
    """Every key there is, in the order of the file."""
    for section, model in _SECTIONS.items():
        yield from _keys(section, model)


def _keys(section: str, model: type[Struct]) -> Iterator[Key]:
    hints = _hints(model)
    for info in _fields(model):
        if _is_section(hints[info.name]):
            yield from _keys(f"{section}.{info.encode_name}", hints[info.name])
            continue
        _, meta, rule = get_args(hints[info.name])
        optional = isinstance(rule, OnlyFor)
        default = None if info.required or optional else toml_text(rule, info.default)
        needed_by = rule.kind if optional else ""
        yield Key(section, info.encode_name, rule.expects, default, meta.description, needed_by)


@cache
def _hints(model: type[Struct]) -> dict[str, Any]:
    """Each attribute's annotation. Finding them takes longer than reading a file."""
    return get_type_hints(model, include_extras=True)


@cache
def _fields(model: type[Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(model)


def _is_section(hint: object) -> bool:
    """A table inside a section."""
    return isinstance(hint, type) and issubclass(hint, Struct)


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check the file; ConfigError names it and the key."""
    source = Path(path)
    try:
        text = source.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: is not UTF-8 at byte {error.start}") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: is not TOML: {error}") from error

    for name in raw:
        if name not in _SECTIONS:
            raise ConfigError(f"{source}: [{name}]: no such section{_nearest(name, _SECTIONS)}")
    sections = {
        name: _section(source, name, model, raw.get(name, {})) for name, model in _SECTIONS.items()
    }
    config = Config(source, **sections)
    _check_election(config)
    _check_roles(config)
    _check_relays(config)
    _check_write_back(config)
    _check_directories(config)
    return config


def _section(source: Path, section: str, model: type[Struct], raw: object) -> Any:
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: [{section}]: must be a section, not {raw!r}")
    hints = _hints(model)
    fields = {info.encode_name: info for info in _fields(model)}
    checked = {}
    for key, value in raw.items():
        if key not in fields:
            refuse(source, section, key, f"no such key{_nearest(key, fields)}")
        hint = hints[fields[key].name]
        if _is_section(hint):
            checked[key] = _section(source, f"{section}.{key}", hint, value)
            continue
        rule: Rule = get_args(hint)[2]
        secret = isinstance(rule, SecretText)
        if isinstance(value, str):
            value = _expand(source, section, key, value, secret=secret)
        elif isinstance(value, list):
            value = [
                _expand(source, section, key, each, secret=secret)
                if isinstance(each, str)
                else each
                for each in value
            ]
        try:
            checked[key] = rule.read(value)
        except ValueError:
            found = "" if secret else f", not {_shown(value)}"
            refuse(source, section, key, f"must be {rule.expects}{found}")
    for key, info in fields.items():
        if info.required and key not in checked:
            rule = get_args(hints[info.name])[2]
            refuse(source, section, key, f"is missing; it must be {rule.expects}")
    return msgspec.convert(checked, model, strict=True)


def _expand(source: Path, section: str, key: str, text: str, *, secret: bool) -> str:
    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name = match[1]
        if not match[0].endswith("}") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            found = "the text after $" if secret else repr(match[0])
            refuse(source, section, key, f"{found} is not of the form ${{NAME}}")
        if name not in os.environ:
            refuse(source, section, key, f"the environment has no {name}")
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def _check_election(config: Config) -> None:
    """Every kind has what it needs, and nothing that it would silently leave aside."""
    kind = config.election.kind
    tables = {"election": config.election, "election.consul": config.election.consul}
    for key in _keys("election", ElectionConfig):
        if not key.needed_by:
            continue
        given = getattr(tables[key.section], key.name) is not None
        if given and key.needed_by != kind:
            reason = f'means nothing with kind = "{kind}"; it is for "{key.needed_by}"'
            refuse(config.path, key.section, key.name, reason)
        if not given and key.needed_by == kind:
            refuse(config.path, key.section, key.name, f"is missing; it must be {key.expects}")
    if kind == "static":
        return
    if config.election.candidate and not config.mount.fuse:
        reason = "must be false where [mount] fuse is: a primary needs FUSE"
        refuse(config.path, "election", "candidate", reason)
    if split_address(config.stream.listen)[0] == WILDCARD:
        reason = f"must be an address that the other nodes can connect to, not {WILDCARD}"
        refuse(config.path, "stream", "listen", reason)


def _check_roles(config: Config) -> None:
    if config.election.primary is None:
        return
    if config.is_primary and not config.mount.fuse:
        refuse(config.path, "mount", "fuse", "must be true on the primary")
    if config.is_primary and not config.election.candidate:
        refuse(config.path, "election", "candidate", "must be true on the primary")
    own_host, own_port = split_address(config.stream.listen)
    host, port = split_address(config.election.primary)
    if own_host == host and 0 < abs(own_port - port) < PORTS_PER_NODE:
        reason = f"port {own_port} overlaps the primary's {port} to {port + PORTS_PER_NODE - 1}"
        refuse(config.path, "stream", "listen", reason)


def _check_relays(config: Config) -> None:
    stream = config.stream
    if config.is_elected and config.election.candidate:
        reason = "a candidate follows the primary itself; set [election] candidate = false"
        if stream.upstream:
            refuse(config.path, "stream", "upstream", f"must be left out: {reason}")
        if stream.relay:
            refuse(config.path, "stream", "relay", f"must be false: {reason}")
    if stream.upstream and config.is_primary:
        refuse(config.path, "stream", "upstream", "must be left out: this node is the primary")
    if stream.listen in stream.upstream:
        reason = f"must be other nodes; {stream.listen} is this node's own listen"
        refuse(config.path, "stream", "upstream", reason)


def _check_write_back(config: Config) -> None:
    if config.caches_writes and config.election.kind == "file":
        reason = (
            "must be false where a lock file elects: it is free when a mount is dead, and its "
            'programs go on in the kernel\'s cache for a moment; use [election] kind = "consul"'
        )
        refuse(config.path, "mount", "write-back", reason)


def _check_directories(config: Config) -> None:
    real = {}
    for section, key, path in config.directories:
        try:
            if not stat.S_ISDIR(path.parent.stat().st_mode):
                refuse(config.path, section, key, f"{path.parent} is not a directory")
        except OSError as error:
            refuse(config.path, section, key, f"parent {path.parent}: {error.strerror}")
        # Only the parent is resolved: to look at the path itself would wait for a mount that hangs.
        real[key] = path.parent.resolve() / path.name
    data_dir, mount = real["data-dir"], real["path"]
    if data_dir == mount:
        refuse(config.path, "mount", "path", f"is the same directory as data-dir, {data_dir}")
    if data_dir in mount.parents or mount in data_dir.parents:
        refuse(config.path, "mount", "path", f"{mount} and data-dir {data_dir} lie in each other")


def _nearest(word: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _shown(value: object) -> str:
    if isinstance(value, str):
        # An address may hold a password.
        return f"{re.sub(r'//[^/]*@', '//***@', value)!r:.80}"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return f"[{', '.join(map(_shown, value))}]"[:200]
    kinds: dict[type, str] = {bool: str(value).lower(), dict: "a table", list: "a list"}
    return kinds.get(type(value), f"{value!s:.80}")


def refuse(source: Path, section: str, key: str, reason: str) -> NoReturn:
    """Raise the ConfigError that names file, section and key."""
    raise ConfigError(f"{source}: [{section}] {key}: {reason}")
