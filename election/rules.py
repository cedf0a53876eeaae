"""The limits of an election, in one place. All times are seconds on the boot clock."""

from __future__ import annotations

from msgspec import Struct


class Rules(Struct, frozen=True):
    """What a node is, and how long it waits for what."""

    node: str
    candidate: bool = True
    #: commits stop this long before the lease can end
    margin_s: float = 0.05
    #: a renewal is sent this often; less than half of the lease, so that one may fail
    renew_s: float = 0.25
    #: a question to the lease service is given up after this
    answer_s: float = 1.0
    #: a replica looks at the lease this often, whatever it is told
    look_s: float = 1.0
    #: how long to wait for announcements of other candidates, and how often to look for them
    settle_s: float = 0.1
    relook_s: float = 0.02
    #: each place in the ranking waits this much longer; longer than an acquisition takes
    step_s: float = 0.15
    #: added to every wait for others, a different one on each node
    jitter_s: float = 0.0
    #: a node that is not fit, or could not be promoted, gives others this long
    unfit_s: float = 2.0
    #: others leave a free lease to its named successor for this long
    grace_s: float = 1.0
    #: a node that may not candidate says so when nobody has been primary for this long
    vacant_s: float = 5.0
    #: a successor must have everything within this, or writes open again
    drain_s: float = 5.0
    #: actors must have become those of a primary within this, or another may try
    promote_s: float = 60.0
    #: a node that stops waits this long for its release to be answered
    release_s: float = 1.0
