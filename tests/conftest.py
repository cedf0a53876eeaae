"""Fixtures of tests that run real nodes: clusters, and what must be true when a test has ended."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from capabilities import require_fuse
from consul_cluster import ConsulCluster
from consul_server import ConsulServer
from electorate import Electorate
from leftovers import clear, in_memory, make_run_directory, mounts_below, remove, sweep_dead_runs
from namespaces import Network, sweep_dead_namespaces
from nodes import Cluster, Node, Sections
from ports import release_ports
from sql_process import SqlProcess

from litemq.transport.sockets import close_all


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-back`, for the other half of what tests with a fixed primary have to show."""
    parser.addoption(
        "--write-back", action="store_true",
        help="primaries that are fixed run with `[mount] write-back = true`",
    )  # fmt: skip


def pytest_configure() -> None:
    """What the tests start neither ignores SIGINT nor compiles LiteMQ.

    A shell has what it starts in the background ignore SIGINT. Where the environment lets no
    bytecode be kept, each of a thousand nodes would compile all its modules.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def run_directory() -> Iterator[Path]:
    """What all nodes of this run live in; a killed run's is taken away first."""
    sweep_dead_runs()
    sweep_dead_namespaces()
    directory = make_run_directory()
    yield directory
    remove(directory)
    close_all()
    release_ports()


_numbers = iter(range(1, 1 << 30))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that bear the mark `caches` run with and without `write-back`; it may name which.

    The option `--write-back` has them run with it, once.
    """
    mark = metafunc.definition.get_closest_marker("caches")
    if mark is not None:
        modes = mark.args or (False, True)
        if metafunc.config.getoption("write_back"):
            modes = (True,)
        ids = ["back" if mode else "through" for mode in modes]
        metafunc.parametrize("write_back", modes, ids=ids, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test with the marks `caches` and `diagonal`, every other combination is torture.

    Its first combination of other parameters stays without write-back, the second with it, and so
    on: all are run, and in both ways together. The option `--write-back` has all run with it.
    """
    if config.getoption("write_back"):
        return
    seen: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("diagonal"):
            rest = dict(item.callspec.params)
            cached = rest.pop("write_back", False)
            known = seen.setdefault(item.nodeid.partition("[")[0], [])
            if rest not in known:
                known.append(rest)
            if known.index(rest) % 2 != cached:
                item.add_marker("torture")


@pytest.fixture(scope="module", autouse=True)
def write_back(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the kernel caches what is written on primaries that are fixed."""
    Node.write_back = getattr(request, "param", request.config.getoption("write_back"))
    yield Node.write_back
    Node.write_back = False


def _clusters(run_directory: Path) -> Iterator[Callable[..., Cluster]]:
    require_fuse()
    directory = run_directory / str(next(_numbers))
    made: list[Cluster] = []

    def make(
        *, replicas: int = 1, plain: int = 0, start: bool = True, sections: Sections | None = None
    ) -> Cluster:
        """A primary, `replicas` with a mount and `plain` ones without."""
        cluster = Cluster(directory / f"cluster{len(made)}", sections=sections)
        made.append(cluster)
        for number in range(replicas + plain):
            cluster.add_replica(fuse=number < replicas, start=False)
        return cluster.start() if start else cluster

    yield make
    SqlProcess.end_all()
    wrong = [each for cluster in made for each in cluster.close()]
    wrong += [f"still mounted: {path}" for path in mounts_below(directory)]
    clear(directory)
    shutil.rmtree(directory, ignore_errors=True)
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture(scope="session")
def consul(run_directory: Path) -> Iterator[ConsulServer]:
    """A Consul that no test stops; each test has a key of its own."""
    server = ConsulServer(run_directory / "consul", in_memory(run_directory) / "consul").start()
    server.settle()
    yield server
    server.close()


@pytest.fixture
def own_consul(run_directory: Path) -> Iterator[Callable[..., ConsulServer]]:
    """Make a Consul for one test, which may do with it what it likes."""
    made: list[ConsulServer] = []

    def make(*, start: bool = True, **options: Any) -> ConsulServer:
        name = f"consul{next(_numbers)}"
        data = in_memory(run_directory) / name
        made.append(ConsulServer(run_directory / name, data, **options))
        return made[-1].start() if start else made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def new_consuls(run_directory: Path) -> Iterator[Callable[..., ConsulCluster]]:
    """Make three Consul servers for one test, and clients as it likes."""
    made: list[ConsulCluster] = []

    def make(**options: Any) -> ConsulCluster:
        name = f"consuls{next(_numbers)}"
        made.append(ConsulCluster(run_directory / name, in_memory(run_directory) / name))
        return made[-1].start(**options)

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture(autouse=True)
def ended_processes() -> Iterator[None]:
    """Applications end with their test."""
    yield
    SqlProcess.end_all()


@pytest.fixture
def new_cluster(run_directory: Path) -> Iterator[Callable[..., Cluster]]:
    """Make clusters that live for one test; no mount, process or unannounced warning may remain."""
    yield from _clusters(run_directory)


@pytest.fixture
def new_electorate(run_directory: Path) -> Iterator[Callable[..., Electorate]]:
    """Make clusters that elect their primary, with the same claims to what remains."""
    require_fuse()
    directory = run_directory / f"e{next(_numbers)}"  # short: sockets are below
    made: list[Electorate] = []

    def make(*arguments: Any, **options: Any) -> Electorate:
        made.append(Electorate(directory / str(len(made)), *arguments, **options))
        return made[-1]

    yield make
    for electorate in made:
        electorate.wake_all()
    SqlProcess.end_all()
    wrong = [each for electorate in made for each in electorate.close()]
    wrong += [f"still mounted: {path}" for path in mounts_below(directory)]
    clear(directory)
    shutil.rmtree(directory, ignore_errors=True)
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture
def new_network(run_directory: Path) -> Iterator[Callable[..., Network]]:
    """Make hosts that can be cut off; ask for it before what runs on them."""
    made: list[Network] = []

    def make(*names: str) -> Network:
        made.append(Network(*names))
        return made[-1]

    yield make
    for network in made:
        network.close()


@pytest.fixture(scope="module")
def new_shared_cluster(run_directory: Path, write_back: bool) -> Iterator[Callable[..., Cluster]]:
    """The same for all tests of a module, which use database names of their own."""
    del write_back  # another value, other clusters
    yield from _clusters(run_directory)


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """One primary, one replica with a mount."""
    return new_cluster()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failing test shows the log of every node."""
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    if report.failed:
        for cluster in Cluster.alive:
            for node in cluster.nodes:
                report.sections.append((f"log of {node.name} ({node.directory})", node.report()))
    return report  # type: ignore[return-value]
