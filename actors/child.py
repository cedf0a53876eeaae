"""How an actor's process begins and ends: signals, name, log, work, exit code.

In this order, for all of them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from setproctitle import setproctitle

from litemq import log
from litemq.actors import lifeline
from litemq.actors.placement import FUSE_ACTOR, place
from litemq.config import Config
from litemq.errors import LiteMQError, NoThreadError

#: exit code of an actor for which the system has no thread (sysexits.h: EX_TEMPFAIL)
NO_THREAD = 75


def run_child(
    config: Config, actor: str, make: Callable[[], Callable[[], int]], begin: Callable[[], None]
) -> int:
    """Make an actor in this process, wait for `begin`, have it work; its exit code.

    Nothing an actor raises goes further than this.
    """
    if actor != FUSE_ACTOR:  # it alone accepts commits
        lifeline.let_go()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    setproctitle(f"litemq: {actor} {config.node.name}")
    # The FUSE actor takes its CPU later, for one thread: its others stay with the rest of the node.
    place(config, actor if actor != FUSE_ACTOR else "")
    log.configure(config.log, config.node.data_dir, config.node.name, actor, stderr=True)
    try:
        work = make()
        begin()
        return work()
    except NoThreadError:
        return NO_THREAD  # the supervisor says so, once
    except LiteMQError as error:
        log.get().error("actor ends", reason=str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, it is logged and ends here
        if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
            return NO_THREAD
        log.get().critical("actor crashed", exc_info=True)
        return 1
