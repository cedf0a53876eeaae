"""Which actors a role consists of, and how each is started.

The nursery imports the actors' modules, so that they share them and start within milliseconds; the
supervisor stays free of FUSE and SQLite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from litemq.actors.child import run_child
from litemq.actors.nursery import Factory
from litemq.config import Config

#: makes an actor, and returns what has it work
Maker = Callable[[], Callable[[], int]]


def modules_of(config: Config) -> list[str]:
    """What the nursery imports: a node of any role may come to need any of them."""
    names = ["actors.log_writer", "actors.stream_publisher", "actors.replica_applier"]
    if config.mount.fuse:
        names = ["fs.pyfuse3_alone", *names, "actors.fuse_capture"]
    if config.is_elected:
        names.append("actors.election_watcher")
    if config.stream.relay:
        names.append("actors.relay_publisher")
    return [f"litemq.{name}" for name in names]


def _fuse_capture(config: Config, *, primary: bool, epoch: int) -> Callable[[], int]:
    from litemq.actors import fuse_capture

    return fuse_capture.make(config, primary=primary, epoch=epoch)


def _log_writer(config: Config, *, epoch: int) -> Callable[[], int]:
    from litemq.actors import log_writer

    return log_writer.make(config, epoch=epoch)


def _stream_publisher(config: Config, *, epoch: int) -> Callable[[], int]:
    from litemq.actors import stream_publisher

    return stream_publisher.make(config, epoch=epoch)


def _relay_publisher(config: Config) -> Callable[[], int]:
    from litemq.actors import relay_publisher

    return relay_publisher.make(config)


def _replica_applier(config: Config) -> Callable[[], int]:
    from litemq.actors import replica_applier

    return replica_applier.make(config)


def _election_watcher(config: Config) -> Callable[[], int]:
    from litemq.actors import election_watcher

    return election_watcher.make(config)


def actors_of(config: Config, *, primary: bool, epoch: int) -> dict[str, Factory]:
    """Actor name to factory, in the order of their start; they are stopped in this order, too."""
    work: dict[str, Maker] = {}
    if config.mount.fuse:
        work["fuse_capture"] = partial(_fuse_capture, config, primary=primary, epoch=epoch)
    if primary:
        work["log_writer"] = partial(_log_writer, config, epoch=epoch)
        work["stream_publisher"] = partial(_stream_publisher, config, epoch=epoch)
    else:
        work["replica_applier"] = partial(_replica_applier, config)
        if config.stream.relay:
            work["stream_publisher"] = partial(_relay_publisher, config)
    if config.is_elected:
        work["election_watcher"] = partial(_election_watcher, config)
    return {name: partial(run_child, config, name, each) for name, each in work.items()}
