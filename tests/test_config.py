"""The configuration file: what is accepted, and the line that says what is wrong with the rest."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import runpy
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port

from litemq import config as configuration
from litemq.config import Config, load, reachable, reference
from litemq.config_machine import check_paths, check_ports, prepare_directories
from litemq.config_rules import Duration, Size, parse_duration_s, parse_size_bytes, toml_text
from litemq.errors import ConfigError

REPOSITORY = Path(__file__).parents[1]

PRIMARY = """
[node]
name = "a"
data-dir = "{base}/data"
[mount]
path = "{base}/mnt"
[stream]
listen = "tcp://127.0.0.1:7100"
[election]
kind = "static"
primary = "tcp://127.0.0.1:7100"
"""


def write(base: Path, text: str = PRIMARY, *replaced: tuple[str, str]) -> Path:
    text = text.replace("{base}", str(base))
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new.replace("{base}", str(base)))
    file = base / "node.toml"
    file.write_text(text)
    return file


def refusal(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


def test_load_when_only_required_keys_are_given_then_the_rest_has_defaults(tmp_path: Path) -> None:
    """Seven lines make a node, and quantities come out as plain numbers."""
    config = load(write(tmp_path))
    assert config.node.data_dir == tmp_path / "data"
    assert config.mount.fuse
    assert not config.mount.allow_other
    assert config.stream.heartbeat_s == 0.2
    assert config.stream.inline_bytes == 32768
    assert config.retention.max_age_s == 86400
    assert config.retention.max_bytes == 1 << 30
    assert config.retention.segment_bytes == 64 << 20
    assert config.supervisor.hung_after_s == 10
    assert config.log.max_bytes == 16 << 20
    assert config.is_primary


def test_load_when_it_succeeds_or_fails_then_nothing_is_created(tmp_path: Path) -> None:
    """Reading a configuration leaves the disk as it was."""
    file = write(tmp_path)
    load(file)
    check_paths(load(file))
    refusal(write(tmp_path, PRIMARY, ('name = "a"', "name = 1")))
    assert list(tmp_path.iterdir()) == [file]


def test_addresses_when_listen_is_given_then_the_next_ports_follow(tmp_path: Path) -> None:
    """One listen address stands for three sockets, and the primary's for those of the primary."""
    config = load(
        write(
            tmp_path,
            PRIMARY,
            ('listen = "tcp://127.0.0.1:7100"', 'listen = "tcp://localhost:7110"'),
        )
    )
    assert config.stream.listen == config.stream.pub_address == "tcp://127.0.0.1:7110"
    assert config.stream.request_address == "tcp://127.0.0.1:7111"
    assert config.stream.answer_address == "tcp://127.0.0.1:7112"
    assert config.primary_pub_address == "tcp://127.0.0.1:7100"
    assert config.primary_request_address == "tcp://127.0.0.1:7101"
    assert not config.is_primary


def test_config_when_sent_to_an_actor_then_it_arrives_equal(tmp_path: Path) -> None:
    """A configuration is a value that travels to child processes."""
    config = load(write(tmp_path))
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "a"', 'nmae = "a"', '[node] nmae: no such key; did you mean "name"?'),
        ('name = "a"', "name = 1", "[node] name: must be 1 to 64 letters"),
        ('name = "a"', 'name = "a/b"', "[node] name: must be"),
        ('name = "a"', 'name = ""', "[node] name: must be"),
        ('name = "a"\n', "", "[node] name: is missing"),
        ("[election]\n", "[elektion]\n", '[elektion]: no such section; did you mean "election"?'),
        ('data-dir = "{base}/data"', 'data-dir = "data"', "[node] data-dir: must be an absolute"),
        ('data-dir = "{base}/data"', 'data-dir = "/a\\u0000b"', "[node] data-dir: must be"),
        ("[stream]", "fuse = 1\n[stream]", "[mount] fuse: must be true or false, not 1"),
        ("[stream]", 'fuse = "true"\n[stream]', "[mount] fuse: must be true or false, not 'true'"),
        ("[stream]", "fuse = false\n[stream]", "[mount] fuse: must be true on the primary"),
        ("[stream]", "[stream]\nhwm = 0", "[stream] hwm: must be a whole number from 1"),
        ("[stream]", "[stream]\nhwm = true", "[stream] hwm: must be a whole number from 1"),
        ("[stream]", "[stream]\nhwm = 2.5", "[stream] hwm: must be a whole number from 1"),
        (
            "[stream]",
            "[stream]\nheartbeat = 1",
            '[stream] heartbeat: must be a duration from "10ms"',
        ),
        ("[stream]", '[stream]\nheartbeat = "1 s"', "[stream] heartbeat: must be a duration"),
        ("[stream]", '[stream]\nheartbeat = "1h"', "[stream] heartbeat: must be a duration"),
        ("[stream]", '[stream]\ninline-bytes = "1k"', "[stream] inline-bytes: must be a size"),
        ("[stream]", '[stream]\ninline_bytes = "1KiB"', "[stream] inline_bytes: no such key"),
        ("[stream]", '[log]\nlevel = "loud"\n[stream]', '[log] level: must be "debug" or "info"'),
        ('"static"', '"raft"', '[election] kind: must be "static" or "file" or "consul", not'),
        ('"static"', '"consul"', '[election] primary: means nothing with kind = "consul"'),
        ('"static"', '"file"', '[election] primary: means nothing with kind = "file"; it is for'),
        (
            'primary = "tcp://127.0.0.1:7100"\n',
            "",
            "[election] primary: is missing; it must be the",
        ),
        (
            'kind = "static"',
            "candidate = false",
            "[election] candidate: must be true on the primary",
        ),
        ('kind = "static"', 'path = "/x"', '[election] path: means nothing with kind = "static"'),
        ('kind = "static"', "consul = 1", "[election.consul]: must be a section, not 1"),
        ('kind = "static"', 'on-change = "f.py"', "[election] on-change: must be FILE:FUNCTION"),
        ('kind = "static"', 'on-change = ":f"', "[election] on-change: must be FILE:FUNCTION"),
        ('kind = "static"', 'on-change = "f.py:a b"', "[election] on-change: must be FILE:FUNC"),
        ('kind = "static"', "on-change = 1", "[election] on-change: must be FILE:FUNCTION"),
        ('kind = "static"', 'on-change-limit = "1"', "[election] on-change-limit: must be a dur"),
        (
            "[stream]",
            '[app]\non-role-change = "SIGTERM"\n[stream]',
            '[app] on-role-change: must be "none" or "restart" or "SIGHUP", not',
        ),
        (
            "[stream]",
            "[app]\non-role-chagne = 1\n[stream]",
            '[app] on-role-chagne: no such key; did you mean "on-role-change"?',
        ),
        (
            'listen = "tcp://127.0.0.1:7100"',
            'listen = "127.0.0.1:7100"',
            "[stream] listen: must be",
        ),
        (
            'listen = "tcp://127.0.0.1:7100"',
            'listen = "tcp://127.0.0.1:65534"',
            "[stream] listen: m",
        ),
        (
            'listen = "tcp://127.0.0.1:7100"',
            'listen = "tcp://127.0.0.1:0"',
            "[stream] listen: must",
        ),
        (
            'listen = "tcp://127.0.0.1:7100"',
            'listen = "tcp://[::1]:7100"',
            "[stream] listen: must be",
        ),
        (
            'listen = "tcp://127.0.0.1:7100"',
            'listen = "tcp://db1:7100"',
            "[stream] listen: must be",
        ),
        (
            'listen = "tcp://127.0.0.1:7100"',
            'listen = "tcp://127.0.0.1:7102"',
            "[stream] listen: port",
        ),
        (
            'primary = "tcp://127.0.0.1:7100"',
            'primary = "tcp://*:7100"',
            "[election] primary: must",
        ),
        ('path = "{base}/mnt"', 'path = "{base}/data"', "[mount] path: is the same directory"),
        ('path = "{base}/mnt"', 'path = "{base}/x/../data/"', "[mount] path: is the same"),
        ('path = "{base}/mnt"', 'path = "{base}/none/mnt"', "[mount] path: parent {base}/none: No"),
        (
            'data-dir = "{base}/data"',
            'data-dir = "{base}/no/a"',
            "[node] data-dir: parent {base}/no",
        ),
        (
            'path = "{base}/mnt"',
            'path = "{base}/node.toml/m"',
            "[mount] path: {base}/node.toml is not",
        ),
        (
            '"{base}/mnt"',
            '"{base}/${LITEMQ_NOT_SET}"',
            "[mount] path: the environment has no LITEMQ",
        ),
        (
            '"{base}/mnt"',
            '"{base}/${LITEMQ"',
            "[mount] path: '${LITEMQ' is not of the form ${NAME}",
        ),
        ("[node]", "[node", "is not TOML: "),
        ("[node]\n", "node = 1\n[x]\n", "[x]: no such section"),
    ],
)
def test_load_when_something_is_wrong_then_one_line_names_file_and_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    """Every mistake is one line: the file, the section and key, what would have been right."""
    text = PRIMARY.replace(old, new)
    assert text != PRIMARY
    message = refusal(write(tmp_path, text))
    assert message.startswith(said.replace("{base}", str(tmp_path))), message


def test_load_when_a_section_is_no_table_then_it_is_named(tmp_path: Path) -> None:
    """A value where a section belongs is refused as such."""
    file = tmp_path / "node.toml"
    file.write_text("node = 1\n")
    assert refusal(file) == "[node]: must be a section, not 1"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_load_when_the_file_cannot_be_read_then_it_is_named(
    tmp_path: Path, content: bytes | None
) -> None:
    """A missing file and one that is no text are configuration errors, too."""
    file = tmp_path / "node.toml"
    if content is not None:
        file.write_bytes(content)
    assert refusal(file)


@pytest.mark.parametrize(("data", "mount"), [("data", "data/mnt"), ("mnt/data", "mnt")])
def test_load_when_one_directory_lies_in_the_other_then_it_is_refused(
    tmp_path: Path, data: str, mount: str
) -> None:
    """A mount over the data directory would hide it, and one in it would be part of it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "mnt").mkdir()
    text = PRIMARY.replace("{base}/data", f"{{base}}/{data}").replace(
        "{base}/mnt", f"{{base}}/{mount}"
    )
    assert "lie in each other" in refusal(write(tmp_path, text))


def test_load_when_a_link_leads_to_the_same_parent_then_equal_paths_are_seen(
    tmp_path: Path,
) -> None:
    """Equal directories under two names are equal."""
    (tmp_path / "link").symlink_to(tmp_path)
    file = write(
        tmp_path, PRIMARY, ("{base}/mnt".replace("{base}", str(tmp_path)), "{base}/link/data")
    )
    assert "is the same directory" in refusal(file)


def test_expansion_when_variables_are_set_then_strings_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """${NAME} is replaced once, $$ is a dollar sign, and any other $ stays."""
    monkeypatch.setenv("LITEMQ_TEST", "x${HOME}")
    file = write(tmp_path, PRIMARY, ("/mnt", "/$$-$x-${LITEMQ_TEST}"))
    assert load(file).mount.path == tmp_path / "$-$x-x${HOME}"


def test_check_ports_when_one_of_the_three_is_taken_then_it_is_named(tmp_path: Path) -> None:
    """The ports that follow from `listen` are checked as well, and free ports stay free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = load(write(tmp_path, PRIMARY, (":7100", f":{port - 1}")))
        with pytest.raises(
            ConfigError, match=rf"\[stream\] listen: port {port} on 127.0.0.1 is in use"
        ):
            check_ports(config)
    check_ports(config)
    check_ports(config)


def test_check_ports_when_the_address_is_foreign_then_it_may_come(tmp_path: Path) -> None:
    """192.0.2.0/24 is for documentation (RFC 5737): no machine has it."""
    config = load(write(tmp_path, PRIMARY, ("127.0.0.1", "192.0.2.1")))
    assert check_ports(config) == "192.0.2.1 is not an address of this machine"


@pytest.mark.parametrize(
    ("listen", "primary", "advice"),
    [
        ("*", "127.0.0.1", r"listen: write tcp://127\.0\.0\.1:7100: only"),
        ("*", "db1", r"listen: write tcp://127\.0\.0\.1:7100 here and as \[election\] primary"),
        ("127.0.0.1", "db1", r"primary: is this node .* write tcp://127\.0\.0\.1:7100, the text"),
    ],
)
def test_check_ports_when_the_primary_is_this_node_in_other_words_then_the_text_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: str, primary: str, advice: str
) -> None:
    """A node that is meant to be the primary must not become a replica of itself.

    What the advice says is then accepted.
    """
    known = {"db1": "127.0.0.1", "127.0.0.1": "127.0.0.1"}
    monkeypatch.setattr(socket, "gethostbyname", known.__getitem__)
    text = PRIMARY.replace('listen = "tcp://127.0.0.1:', f'listen = "tcp://{listen}:')
    text = text.replace('primary = "tcp://127.0.0.1:', f'primary = "tcp://{primary}:')
    with pytest.raises(ConfigError, match=advice):
        check_ports(load(write(tmp_path, text)))
    port = free_port()
    followed = load(write(tmp_path, PRIMARY, (":7100", f":{port}")))
    assert check_ports(followed) == ""
    assert followed.is_primary


def test_check_ports_when_the_primarys_name_is_not_known_yet_then_it_may_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica waits for it."""

    def unknown(_host: str) -> str:
        raise socket.gaierror("not yet")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    text = PRIMARY.replace('primary = "tcp://127.0.0.1:7100', 'primary = "tcp://later:7100')
    assert check_ports(load(write(tmp_path, text.replace(":7100", f":{free_port()}")))) == ""


def test_address_when_a_node_listens_on_all_then_it_is_the_one_that_others_know_it_by() -> None:
    """One that was given stays."""
    assert reachable("tcp://0.0.0.0:7102", "10.0.0.7") == "tcp://10.0.0.7:7102"
    assert reachable("tcp://0.0.0.0:7102", "") == "tcp://0.0.0.0:7102"
    assert reachable("tcp://10.0.0.1:7102", "10.0.0.7") == "tcp://10.0.0.1:7102"
    assert reachable("tcp://x:99999", "10.0.0.7") == "tcp://x:99999"


@pytest.mark.parametrize("key", ["data", "mnt"])
def test_check_paths_when_a_file_stands_in_the_way_then_it_is_named(
    tmp_path: Path, key: str
) -> None:
    """A node does not start over a file that has the name of one of its directories."""
    config = load(write(tmp_path))
    (tmp_path / key).touch()
    with pytest.raises(ConfigError, match=f"{key} is not a directory"):
        check_paths(config)


def test_run_dir_when_the_data_directory_is_short_then_it_is_inside(tmp_path: Path) -> None:
    """Sockets are in the data directory if their paths fit."""
    (tmp_path / "d").mkdir()
    short = Path("/tmp/d")  # the file is not loaded from there, only computed with
    assert with_data_dir(load(write(tmp_path)), short).run_dir == short / "run"


def test_run_dir_when_the_data_directory_is_long_then_it_is_short_stable_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long data directory has its sockets elsewhere: one place under every TMPDIR, mode 0700."""
    config = with_data_dir(load(write(tmp_path)), tmp_path / ("d" * 80))
    first = config.run_dir
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert config.run_dir == first
    assert len(os.fsencode(first)) <= configuration.RUN_DIR_MAX_BYTES
    assert re.fullmatch(rf"litemq-{os.getuid()}-[0-9a-f]{{12}}", first.name)
    try:
        prepare_directories(config)
        prepare_directories(config)
        for directory in (config.node.data_dir, first):
            assert directory.stat().st_mode & 0o777 == 0o700
        first.rmdir()
        first.symlink_to(tmp_path)
        with pytest.raises(ConfigError, match="belongs to somebody else"):
            prepare_directories(config)
    finally:
        if first.is_symlink():
            first.unlink()


def with_data_dir(config: Config, data_dir: Path) -> Config:
    node = configuration.NodeConfig(name=config.node.name, data_dir=data_dir)
    return Config(
        config.path, node, config.mount, config.stream, config.election,
        config.log, config.retention, config.supervisor,
    )  # fmt: skip


def test_example_when_read_then_every_key_stands_in_it_with_its_default() -> None:
    """deploy/node.toml loads as it is, and with every default written out; no key is left out."""
    file = REPOSITORY / "deploy" / "node.toml"
    text = file.read_text()
    sections = dict(re.findall(r"^\[([\w.]+)\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S))
    for key in reference():
        lines = re.findall(rf"^(#?){key.name} = (.*)$", sections[key.section], re.M)
        assert len(lines) == 1, key
        assert lines[0] == ("#", key.default) or key.default is None, key
    assert load(file).is_primary


def test_example_when_defaults_are_written_out_then_nothing_changes(tmp_path: Path) -> None:
    """What the example shows as a default is the default."""
    text = (REPOSITORY / "deploy" / "node.toml").read_text()
    spelled_out = tmp_path / "node.toml"
    spelled_out.write_text(re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.M))
    plain = load(REPOSITORY / "deploy" / "node.toml")
    full = load(spelled_out)
    for section in (
        "node", "mount", "stream", "election", "app", "log", "retention", "supervisor"
    ):  # fmt: skip
        assert getattr(plain, section) == getattr(full, section)


def test_operations_page_when_read_then_it_holds_the_generated_table() -> None:
    """docs/operations.md describes the keys of this version; `make docs` writes the table anew."""
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    table = runpy.run_path(str(REPOSITORY / "docs" / "generate.py"))["key_table"]()
    assert table in page
    assert table.count("\n") == len(list(reference())) + 1


@given(st.integers(0, 10**9))
def test_durations_when_written_and_read_then_they_are_equal(milliseconds: int) -> None:
    """The text of a duration stands for exactly that duration."""
    text = toml_text(Duration("1ms", "1d"), milliseconds / 1000)
    assert parse_duration_s(text.strip('"')) == milliseconds / 1000


@given(st.integers(0, 10**15 - 1))
def test_sizes_when_written_and_read_then_they_are_equal(size: int) -> None:
    """The text of a size stands for exactly that size."""
    assert parse_size_bytes(toml_text(Size("1B", "1TiB"), size).strip('"')) == size


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_quantities_when_given_anything_then_they_are_read_or_refused(value: object) -> None:
    """Nothing but ValueError comes out of a strange value."""
    for parse in (parse_duration_s, parse_size_bytes):
        with contextlib.suppress(ValueError):
            assert parse(value) >= 0


ELECTED = PRIMARY.replace('kind = "static"\nprimary = "tcp://127.0.0.1:7100"\n', 'kind = "file"\n')
CONSUL = ELECTED.replace('kind = "file"', 'kind = "consul"\n[election.consul]\nkey = "litemq/main"')


def test_election_when_it_is_by_consul_then_a_key_is_all_it_needs(tmp_path: Path) -> None:
    """The rest has defaults, and a local agent's name is its address."""
    election = load(write(tmp_path, CONSUL)).election
    assert election.kind == "consul"
    assert election.candidate
    assert election.consul.key == "litemq/main"
    assert election.consul.address == "http://127.0.0.1:8500"
    assert election.consul.ttl_s == 1.0
    assert not election.consul.token
    with_address = CONSUL + 'address = "https://localhost"\nttl = "500ms"\n'
    consul = load(write(tmp_path, with_address)).election.consul
    assert (consul.address, consul.ttl_s) == ("https://127.0.0.1:443", 0.5)


def test_election_when_it_is_by_a_file_then_its_path_is_needed(tmp_path: Path) -> None:
    """The lock file has no default: all nodes of the machine must name the same one."""
    assert refusal(write(tmp_path, ELECTED)) == (
        "[election] path: is missing; it must be an absolute path"
    )
    file = write(tmp_path, ELECTED + 'path = "{base}/lock"\n')
    assert load(file).election.path == tmp_path / "lock"


def test_primary_when_it_is_elected_then_the_file_is_not_asked_for_it(tmp_path: Path) -> None:
    """Whoever asks the configuration of an elected primary is told that it cannot know."""
    config = load(write(tmp_path, CONSUL))
    for name in ("static_primary", "primary_pub_address", "primary_request_address"):
        with pytest.raises(ConfigError, match=r"\[election\] kind: \"consul\" elects the primary"):
            getattr(config, name)
    check_ports(load(write(tmp_path, CONSUL, (":7100", f":{free_port()}"))))


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("hooks.py:f", "{base}/hooks.py"),
        ("../etc/hooks.py:f", "{base}/../etc/hooks.py"),
        ("/etc/a:b.py:f", "/etc/a:b.py"),
    ],
)
def test_hook_when_its_path_is_relative_then_it_is_meant_from_the_files_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, file: str
) -> None:
    """Wherever the node is started; without the key there is none."""
    write(tmp_path, PRIMARY, ("[election]", f'[election]\non-change = "{given}"'))
    monkeypatch.chdir(tmp_path)
    config = load("node.toml")
    expected = os.path.normpath(file.replace("{base}", str(tmp_path)))
    assert config.on_change == (Path(expected), "f")
    assert config.election.on_change_limit_s == 30
    none = load(write(tmp_path))
    assert none.on_change is None
    assert none.app.on_role_change == "none"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('key = "litemq/main"', "", "[election.consul] key: is missing; it must be a name such as"),
        ("litemq/main", "/litemq", "[election.consul] key: must be a name such as"),
        ("litemq/main", "a//b", "[election.consul] key: must be a name such as"),
        ("litemq/main", "a?b", "[election.consul] key: must be a name such as"),
        ('key = "', 'kye = "', '[election.consul] kye: no such key; did you mean "key"?'),
        ("key =", 'ttl = "100ms"\nkey =', "[election.consul] ttl: must be a duration from"),
        ("key =", "ttl = 1\nkey =", "[election.consul] ttl: must be a duration from"),
        ("key =", 'address = "10.0.0.1"\nkey =', "[election.consul] address: must be an address"),
        ("key =", 'address = "http://c:0"\nkey =', "[election.consul] address: must be an address"),
        ("[stream]", "fuse = false\n[stream]", "[election] candidate: must be false where [mount]"),
        ("tcp://127.0.0.1", "tcp://*", "[stream] listen: must be an address that the other nodes"),
        (
            "[election.consul]",
            'primary = "tcp://127.0.0.1:7100"\n[election.consul]',
            '[election] primary: means nothing with kind = "consul"',
        ),
    ],
)
def test_election_when_something_is_wrong_then_one_line_names_file_and_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    """The keys of an election are checked together: nothing missing, nothing left aside."""
    message = refusal(write(tmp_path, CONSUL, (old, new)))
    assert message.startswith(said), message


@pytest.mark.parametrize("value", ['"sesame street"', '"sesame\\u0000"', '"a${sesame"', "5"])
def test_token_when_it_is_wrong_then_it_is_not_shown(tmp_path: Path, value: str) -> None:
    """A secret stands in no message, not even in the one that refuses it."""
    message = refusal(write(tmp_path, CONSUL + f"token = {value}\n"))
    assert message.startswith("[election.consul] token: ")
    assert "sesame" not in message
    address = 'address = "http://:sesame@10.0.0.1:8500"\n'
    assert "sesame" not in refusal(write(tmp_path, CONSUL + address))


def test_token_when_the_configuration_is_shown_then_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from the environment, goes to Consul, and stands in no repr; it can be sent on."""
    monkeypatch.setenv("LITEMQ_TEST", "sesame")
    config = load(write(tmp_path, CONSUL + 'token = "${LITEMQ_TEST}"\n'))
    assert config.election.consul.token.reveal() == "sesame"
    token = config.election.consul.token
    assert "sesame" not in f"{config!r} {config} {token} {token!r}"
    assert pickle.loads(pickle.dumps(config)) == config


RELAYED = PRIMARY.replace('primary = "tcp://127.0.0.1:7100"', 'primary = "tcp://127.0.0.1:7000"')


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('"tcp://localhost:7010"', ("tcp://127.0.0.1:7010",)),
        ('["tcp://b:7100", "tcp://a:7100"]', ("tcp://b:7100", "tcp://a:7100")),
        ("[]", ()),
        ('""', ()),
        ('["tcp://${HOST_OF_RELAY}:7100"]', ("tcp://10.0.0.7:7100",)),
    ],
)
def test_upstream_when_given_then_it_is_a_list_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, found: tuple[str, ...]
) -> None:
    """One address may stand alone; without the key a node follows the primary."""
    monkeypatch.setenv("HOST_OF_RELAY", "10.0.0.7")
    file = write(tmp_path, RELAYED, ("[election]", f"upstream = {value}\n[election]"))
    assert load(file).stream.upstream == found
    stream = load(write(tmp_path, RELAYED)).stream
    assert (stream.upstream, stream.relay) == ((), False)


ADDRESSES = (
    'the address other nodes connect to, such as "tcp://10.0.0.1:7100", or a list of up to 16 '
    "different ones"
)
CANDIDATE = "a candidate follows the primary itself; set [election] candidate = false"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (RELAYED, 'upstream = "10.0.0.2"', f"upstream: must be {ADDRESSES}, not '10.0.0.2'"),
        (
            RELAYED,
            'upstream = ["tcp://a:7100", "tcp://a:7100"]',
            f"upstream: must be {ADDRESSES}, not ['tcp://a:7100', 'tcp://a:7100']",
        ),
        (RELAYED, 'upstream = ["tcp://*:1"]', f"upstream: must be {ADDRESSES}, not ['tcp://*:1']"),
        (RELAYED, "upstream = [1]", f"upstream: must be {ADDRESSES}, not a list"),
        (
            RELAYED,
            'upstream = ["tcp://a:7100", "tcp://127.0.0.1:7100"]',
            "upstream: must be other nodes; tcp://127.0.0.1:7100 is this node's own listen",
        ),
        (
            PRIMARY,
            'upstream = "tcp://a:7100"',
            "upstream: must be left out: this node is the primary",
        ),
        (
            ELECTED + 'path = "{base}/lock"\n',
            'upstream = "tcp://a:7100"',
            f"upstream: must be left out: {CANDIDATE}",
        ),
        (CONSUL, "relay = true", f"relay: must be false: {CANDIDATE}"),
        (RELAYED, 'relay = "yes"', "relay: must be true or false, not 'yes'"),
    ],
)
def test_relay_when_it_can_t_be_then_the_line_says_what_to_change(
    tmp_path: Path, text: str, line: str, reason: str
) -> None:
    """A node that follows itself, a primary that follows others, a candidate in a tree."""
    file = write(tmp_path, text, ("[election]\n", f"{line}\n[election]\n"))
    assert refusal(file) == f"[stream] {reason}"


def test_relay_when_the_node_is_no_candidate_then_it_may_be_one(tmp_path: Path) -> None:
    """Also below another one."""
    lines = 'relay = true\nupstream = "tcp://a:7100"\n[election]\ncandidate = false'
    stream = load(write(tmp_path, CONSUL, ("[election]\n", lines + "\n"))).stream
    assert stream.relay
    assert stream.upstream == ("tcp://a:7100",)


def test_write_back_when_the_primary_is_elected_then_every_candidate_caches(
    tmp_path: Path,
) -> None:
    """But for a lock file, which is free before a dead mount's programs are stopped."""
    cached = ("[mount]", "[mount]\nwrite-back = true")
    assert load(write(tmp_path, CONSUL, cached)).caches_writes
    bystander = ("[election.consul]", "candidate = false\n[election.consul]")
    assert not load(write(tmp_path, CONSUL, cached, bystander)).caches_writes
    path = ('kind = "file"', f'kind = "file"\npath = "{tmp_path}/lease"')
    message = refusal(write(tmp_path, ELECTED, cached, path))
    assert message.startswith("[mount] write-back: must be false where a lock file elects")
