"""Replicas that follow replicas: a tree ends as the primary is, whatever dies or is damaged."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest
from electorate import Electorate
from nodes import Cluster, Node
from sql_process import SqlProcess
from waiting import eventually

from litemq.actors.layout import Layout
from litemq.config import pub_address
from litemq.transport import messages as m
from litemq.transport.sockets import Receiver
from litemq.txlog import ltx
from litemq.txlog.segment_reader import SegmentReader

pytestmark = pytest.mark.fuse

REPAIRED = "somebody else|repairing|repair"
LOST = ("the primary is silent", "node above can't be followed")
#: segments this small are closed at once, and given up soon
FORGETFUL = {"age": "100ms", "bytes": "4KiB", "segment-bytes": "4KiB"}
INSERT = "INSERT INTO t VALUES(1, hex(zeroblob(300)))"


def create(cluster: Cluster, name: str = "a.db", mode: str = "wal") -> SqlProcess:
    app = cluster.primary.connect(name)
    app.script(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=OFF", "CREATE TABLE t(x, y)")
    return app


def fill(app: SqlProcess, rows: int) -> None:
    """One transaction of so many rows."""
    app.sql(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT ?) "
        "INSERT INTO t SELECT x, hex(zeroblob(100)) FROM c",
        rows,
    )


def add(
    cluster: Cluster, *above: Node, relay: bool = True, fuse: bool = True, start: bool = True,
    forgetful: bool = False,
) -> Node:  # fmt: skip
    """A replica that follows the first of `above` that it can."""
    stream = {"relay": relay, "upstream": [node.address for node in above]}
    sections = {"stream": stream} | ({"retention": FORGETFUL} if forgetful else {})
    return cluster.add_replica(fuse=fuse, start=start, sections=sections)


def chain(cluster: Cluster, *, fuse: bool = True) -> tuple[Node, Node]:
    """Primary, a relay, a leaf below the relay."""
    relay = add(cluster, fuse=fuse)
    return relay, add(cluster, relay, relay=False, fuse=fuse)


def follows(node: Node, above: Node) -> bool:
    """Whether it has last turned to that node, and heard it."""
    lines = node.logged("^following$")
    return bool(lines) and lines[-1]["node_above"] == above.name


def read(node: Node, name: str) -> str:
    data = node.hands.ask("read", str(node.mount / name))
    return data.decode().strip() if data else ""


# --- a tree


@pytest.mark.parametrize("fuse", [True, False], ids=["mount", "plain"])
def test_tree_when_the_primary_is_written_then_every_level_ends_as_it_is(
    new_cluster: Callable[..., Cluster], fuse: bool
) -> None:
    """Three levels below the primary, all journal modes, under load, large and small records."""
    cluster = new_cluster(replicas=0)
    relay = add(cluster, fuse=fuse)
    middle = add(cluster, relay, fuse=fuse)
    leaf = add(cluster, middle, relay=False, fuse=fuse)
    apps = {mode: create(cluster, f"{mode}.db", mode) for mode in ("wal", "delete", "persist")}
    for app in apps.values():
        app.start("repeat", INSERT, 500)
    for app in apps.values():
        assert app.finish() == 500
        fill(app, 5000)
        app.sql(INSERT)
    for mode, app in apps.items():
        cluster.agree(f"{mode}.db")
        app.close()
    assert follows(leaf, middle)
    assert follows(middle, relay)
    assert [each.node for each in cluster.primary.status().replicas] == [relay.name]
    assert [each.node for each in middle.status().replicas] == [leaf.name]
    for node in (relay, middle, leaf):
        assert not node.logged("repair")


def test_leaf_when_asked_for_the_primary_then_it_names_the_real_one(
    new_cluster: Callable[..., Cluster],
) -> None:
    """In `.primary` and in its status, with the epoch of the primary."""
    cluster = new_cluster(replicas=0)
    relay, leaf = chain(cluster)
    expected = f"{cluster.primary.name} {cluster.primary.address}"
    for node in (relay, leaf):
        assert read(node, ".primary") == expected
        assert node.status().primary == expected
        assert node.status().epoch == cluster.primary.status().epoch


def test_stream_of_a_relay_when_heard_then_it_is_the_primary_s(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Small records themselves, large ones announced, all in the primary's epoch."""
    cluster = new_cluster(replicas=0)
    relay = add(cluster)
    with create(cluster) as app:
        app.sql(INSERT)
        position = cluster.agree("a.db")
        stream = Receiver.subscribe(pub_address(relay.address), hwm=1000)
        heard: list[tuple[m.Message, list[bytes]]] = []

        def hear(kind: type[m.Message]) -> list[tuple[m.Message, list[bytes]]]:
            heard.extend(stream.drain())
            return [each for each in heard if isinstance(each[0], kind)]

        beat = eventually(lambda: hear(m.StreamHeartbeat), what="a heartbeat of the relay")[-1][0]
        assert (beat.node, beat.above) == (relay.name, [cluster.primary.name])
        assert (beat.epoch, beat.orphan, beat.settling) == (position.epoch, False, False)
        assert [head.position.value for head in beat.heads] == [position]
        app.sql(INSERT)
        small, payload = eventually(lambda: hear(m.LiveRecords), what="the record")[-1]
        assert (small.epoch, small.first_txid) == (position.epoch, position.txid + 1)
        assert small.lengths == [len(payload[0])]
        assert ltx.decode(payload[0]).header.min_txid == position.txid + 1
        app.sql("INSERT INTO t VALUES(1, randomblob(100000))")
        large, payload = eventually(lambda: hear(m.LiveRecords)[1:], what="the announcement")[-1]
        assert large.head.position.txid == position.txid + 2
        assert not payload
        stream.close()


def test_databases_when_made_and_dropped_then_the_leaf_follows(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Also under a name that there was before."""
    cluster = new_cluster(replicas=0)
    chain(cluster)
    for rows in (10, 3):
        with create(cluster) as app:
            fill(app, rows)
            cluster.agree("a.db")
        os.unlink(cluster.primary.mount / "a.db")
        cluster.gone("a.db")


# --- catching up


@pytest.mark.parametrize(
    ("fuse", "mode"),
    [
        pytest.param(True, "wal", id="mount-wal"),
        pytest.param(False, "delete", id="plain-delete"),
        pytest.param(True, "delete", id="mount-delete", marks=pytest.mark.torture),
        pytest.param(False, "wal", id="plain-wal", marks=pytest.mark.torture),
    ],
)
def test_leaf_when_it_joins_while_the_primary_is_written_then_the_relay_gives_it_everything(
    new_cluster: Callable[..., Cluster], fuse: bool, mode: str, write_back: bool
) -> None:
    """The relay's log no longer reaches back: pages, then the records made meanwhile."""
    cluster = new_cluster(replicas=0)
    relay = add(cluster, fuse=fuse, forgetful=True)
    with create(cluster, mode=mode) as app:
        for _ in range(30):
            fill(app, 1000)
            if write_back:  # else all of it may be one transaction, which every log keeps
                cluster.captured("a.db")
        cluster.agree("a.db")
        kept = SegmentReader(relay.data_dir / "databases" / "a.db" / "log")

        def has_forgotten() -> bool:
            fill(app, 10)  # the newest segment stays, and may be the one that has taken everything
            return kept.range()[0] > 1

        eventually(
            has_forgotten,
            timeout_s=30,
            what="the relay's log no longer reaches back to the beginning",
        )
        app.start("repeat", INSERT, 1500)
        leaf = add(cluster, relay, relay=False, fuse=fuse)
        leaf.announce(REPAIRED)
        assert app.finish() == 1500
        cluster.agree("a.db", timeout_s=60)
        fill(app, 10)
        cluster.agree("a.db")
    assert leaf.logged("^repaired$")
    assert relay.logged("repairing a replica", replica=leaf.name)
    assert not cluster.primary.logged("repairing a replica")


def test_leaf_when_it_was_away_then_the_relay_s_log_has_what_it_misses(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Records, no pages, also those of an earlier epoch."""
    cluster = new_cluster(replicas=0)
    relay, leaf = chain(cluster)
    relay.announce(*LOST)
    with create(cluster) as app:
        fill(app, 1000)
        cluster.agree("a.db")
        leaf.stop()
        app.ask("repeat", INSERT, 50)
        cluster.agree("a.db")
    cluster.primary.stop()
    cluster.primary.start()
    with cluster.primary.connect("a.db") as app:
        app.ask("repeat", INSERT, 50)
    cluster.agree("a.db")
    leaf.start()
    cluster.agree("a.db")
    assert follows(leaf, relay)
    assert not leaf.logged("repair")
    tables = [
        json.loads((node.data_dir / "databases/a.db/state.json").read_text())["epochs"]
        for node in (cluster.primary, relay, leaf)
    ]
    assert tables[0] == tables[1] == tables[2], "who wrote what"


# --- nodes that die


def test_leaf_when_the_relay_is_killed_then_it_finds_another_parent(
    new_cluster: Callable[..., Cluster],
) -> None:
    """The next in its list; when that dies, too, the primary, which is in no list."""
    cluster = new_cluster(replicas=0)
    first, second = add(cluster), add(cluster)
    leaf = add(cluster, first, second, relay=False)
    leaf.announce(*LOST)
    with create(cluster) as app:
        fill(app, 100)
        cluster.agree("a.db")
        assert follows(leaf, first)
        for dead, heir in ((first, second), (second, cluster.primary)):
            app.start("repeat", INSERT, 300)
            dead.kill()
            assert app.finish() == 300
            eventually(lambda heir=heir: follows(leaf, heir), what=f"it follows {heir.name}")
            cluster.agree("a.db")
        for node in (first, second):
            node.announce("stale", REPAIRED)
        cluster.start()
        fill(app, 10)
        cluster.agree("a.db")
        assert follows(leaf, cluster.primary), "it does not go back by itself"
    assert not leaf.logged("repair")


def test_leaf_when_the_relay_stops_then_it_goes_on_at_once(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A relay that leaves says so: nothing is missed, and nobody is warned."""
    cluster = new_cluster(replicas=0)
    relay, leaf = chain(cluster)
    with create(cluster) as app:
        fill(app, 10)
        cluster.agree("a.db")
        relay.stop()
        eventually(lambda: follows(leaf, cluster.primary), what="it follows the primary")
        fill(app, 10)
        cluster.agree("a.db")


def test_tree_when_the_primary_is_restarted_then_the_new_epoch_reaches_the_leaf(
    new_cluster: Callable[..., Cluster],
) -> None:
    """TXIDs go on, the leaf stays with its relay, and nothing is repaired."""
    cluster = new_cluster(replicas=0)
    relay, leaf = chain(cluster)
    for node in (relay, leaf):
        node.announce(*LOST)
    with create(cluster) as app:
        fill(app, 10)
        before = cluster.agree("a.db")
    cluster.primary.stop()
    cluster.primary.start()
    with cluster.primary.connect("a.db") as app:
        fill(app, 10)
        after = cluster.agree("a.db")
    assert (after.epoch, after.txid) == (before.epoch + 1, before.txid + 1)
    eventually(lambda: leaf.status().epoch, until=after.epoch)
    assert not leaf.logged("repair")


def test_actors_of_a_relay_when_killed_under_load_then_the_leaf_ends_the_same(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Applier and publisher, one after the other."""
    cluster = new_cluster(replicas=0)
    relay, leaf = chain(cluster)
    relay.announce("actor ended", "stale", "can.t apply", REPAIRED)
    leaf.announce(*LOST)
    with create(cluster) as app:
        for actor in ("stream_publisher", "replica_applier", "fuse_capture"):
            app.start("repeat", INSERT, 500)
            relay.kill_actor(actor)
            assert app.finish() == 500
            cluster.agree("a.db")
    assert not leaf.logged("repair")


def test_tree_when_another_primary_is_elected_then_its_epoch_and_name_reach_the_leaf(
    new_electorate: Callable[..., Electorate],
) -> None:
    """The relay follows whoever is elected; the leaf follows the relay."""
    cluster = new_electorate(size=2)
    election = cluster.sections["election"] | {"candidate": False}
    relay = cluster.add(name="relay", election=election, stream={"relay": True})
    leaf = cluster.add(name="leaf", election=election, stream={"upstream": [relay.address]})
    leaf.announce(*LOST)
    cluster.start()
    cluster.write()
    cluster.wait_acks(100)
    old = cluster.primary
    cluster.kill(old)
    new = cluster.wait_primary(other_than=old)
    cluster.wait_acks(50, nodes=[new])
    eventually(
        lambda: read(leaf, ".primary"),
        until=f"{new.name} {new.address}",
        what="the leaf names the new primary",
    )
    old.start()
    cluster.settle()
    assert follows(leaf, relay)


# --- a relay that is wrong


def test_relay_when_its_file_is_damaged_then_it_and_the_leaf_end_as_the_primary(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A leaf that asks it for pages meanwhile gets none that are wrong."""
    cluster = new_cluster(replicas=0)
    relay = add(cluster, fuse=False)
    with create(cluster) as app:
        fill(app, 5000)
        cluster.agree("a.db")
        relay.announce(REPAIRED)
        relay.stop()
        with open(relay.mount / "a.db", "r+b") as file:
            file.seek(4096 * 9 + 50)
            file.write(b"tampered")
        leaf = add(cluster, relay, relay=False, start=False)
        leaf.announce(REPAIRED)
        cluster.start()
        eventually(lambda: relay.logged("^repaired$"), what="the relay is repaired")
        cluster.agree("a.db")
        fill(app, 10)
        cluster.agree("a.db")


def test_relay_when_its_history_is_another_then_it_is_repaired_and_so_is_the_leaf(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Both had followed a primary that was replaced by one with other transactions."""
    cluster = new_cluster(replicas=0)
    relay, leaf = chain(cluster)
    other = cluster.add_replica()
    for node in cluster.nodes:
        node.announce(*LOST, "kept aside; repairing", "stale", REPAIRED)
    with create(cluster) as app:
        fill(app, 100)
        cluster.agree("a.db")
        other.stop()
        app.ask("repeat", INSERT, 20)
        cluster.agree("a.db")
    for node in cluster.nodes:
        if node.running:
            node.stop()
    old, cluster.primary = cluster.primary, other
    cluster.replicas = [relay, leaf]
    Layout(other.data_dir).write_epoch(10)
    other.configure(other.address, {})
    relay.configure(other.address, {"stream": {"relay": True}})
    leaf.configure(other.address, {"stream": {"upstream": relay.address}})
    try:
        other.start()
        with other.connect("a.db") as app:
            app.ask("repeat", "INSERT INTO t VALUES(2, 'other')", 5)
            relay.start()
            leaf.start()
            cluster.agree("a.db")
            assert follows(leaf, relay)
            fill(app, 10)
            cluster.agree("a.db")
    finally:
        assert not old.running


def test_leaf_when_the_relay_has_less_then_it_is_not_set_back(
    new_cluster: Callable[..., Cluster],
) -> None:
    """It had followed the primary; the relay's applier hangs, so its heartbeats tell old heads."""
    cluster = new_cluster(replicas=0)
    relay = add(cluster)
    leaf = add(cluster, relay=False)
    relay.configure(
        cluster.primary.address,
        {"stream": {"relay": True}, "supervisor": {"hung-after": "8s"}},
    )
    relay.stop()
    relay.start()
    relay.announce("no sign of life", "actor ended", "stale")
    with create(cluster) as app:
        fill(app, 100)
        cluster.agree("a.db")
        relay.kill_actor("replica_applier", signal.SIGSTOP)
        app.ask("repeat", INSERT, 20)
        position = cluster.captured("a.db")
        eventually(lambda: leaf.position("a.db"), until=position)
    leaf.stop()
    leaf.configure(cluster.primary.address, {"stream": {"upstream": relay.address}})
    leaf.announce(*LOST)
    leaf.start(ready=False)
    eventually(lambda: relay.logged("no sign of life"), timeout_s=30, what="the applier is killed")
    assert leaf.position("a.db") == position
    cluster.agree("a.db")
    assert relay.logged("replica connected", replica=leaf.name), "it had followed the relay"
    assert not leaf.logged("repair")


# --- parents that can't be


def test_relays_when_they_follow_each_other_then_one_line_says_so_and_they_go_on(
    new_cluster: Callable[..., Cluster],
) -> None:
    """The loop closes when the way to the primary is lost; it opens again with the primary."""
    cluster = new_cluster(replicas=0)
    first = add(cluster, start=False)
    second = add(cluster, first, start=False)
    stream = {"relay": True, "upstream": [cluster.primary.address, second.address]}
    first.configure(cluster.primary.address, {"stream": stream})
    for node in (first, second):
        node.announce(*LOST, "a relay can't be followed")
    cluster.start()
    with create(cluster) as app:
        fill(app, 10)
        cluster.agree("a.db")
    assert follows(first, cluster.primary)
    assert follows(second, first)
    cluster.primary.announce("had changed without its log", "stale")
    cluster.primary.kill()
    eventually(
        lambda: first.logged("a relay can't be followed", relay=second.name),
        timeout_s=40,
        what="the loop is found",
    )
    cluster.primary.start()
    with cluster.primary.connect("a.db") as app:
        fill(app, 10)
        cluster.agree("a.db", timeout_s=60)


def test_relays_when_they_have_only_each_other_then_they_end_with_the_primary(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Neither has heard the primary, so neither says anything; both then ask the primary."""
    cluster = new_cluster(replicas=0)
    first = add(cluster, start=False)
    second = add(cluster, first, start=False)
    first.configure(
        cluster.primary.address, {"stream": {"relay": True, "upstream": second.address}}
    )
    for node in (first, second):
        node.announce(*LOST, "a relay can't be followed")
    with create(cluster) as app:
        fill(app, 10)
        cluster.start()
        cluster.agree("a.db")


def test_leaf_when_its_parent_is_no_relay_then_it_follows_the_primary(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A node that does not relay is silent."""
    cluster = new_cluster(replicas=1)
    leaf = add(cluster, cluster.replicas[0], relay=False, start=False)
    leaf.announce(*LOST)
    leaf.start()
    with create(cluster) as app:
        fill(app, 10)
        cluster.agree("a.db")
    assert follows(leaf, cluster.primary)
