"""Which CPUs an actor runs on."""

from __future__ import annotations

import pytest

from litemq.actors.placement import cpus_for


@pytest.mark.parametrize(
    ("actor", "setting", "allowed", "primary", "expected"),
    [
        ("fuse_capture", "auto", {0, 1}, True, {0}),
        ("log_writer", "auto", {0, 1}, True, {1}),
        ("fuse_capture", "auto", {0, 1}, False, {1}),
        ("replica_applier", "auto", {0, 1}, False, {1}),
        ("fuse_capture", "auto", {3}, True, {3}),
        ("fuse_capture", "auto", {0, 1, 2, 3}, True, {0, 1, 2, 3}),
        ("fuse_capture", "off", {0, 1}, True, {0, 1}),
        ("fuse_capture", "2", {0, 1, 2, 3}, True, {2}),
        ("log_writer", "2", {0, 1, 2, 3}, True, {0, 1, 3}),
        ("fuse_capture", "9", {0, 1}, True, {0, 1}),
    ],
)
def test_placement_when_asked_then_never_empty_and_fuse_alone(
    actor: str, setting: str, allowed: set[int], primary: bool, expected: set[int]
) -> None:
    """The FUSE actor of a primary has a CPU of its own; a CPU that is not there is ignored."""
    assert cpus_for(actor, setting, allowed, primary=primary) == expected
