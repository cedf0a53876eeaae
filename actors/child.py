"""How an actor's process begins and ends: signals, name, log, work, exit code.

In this order, for all of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from setproctitle import setproctitle

from litemq import log
from litemq.actors.placement import cpus_for
from litemq.config import Config
from litemq.errors import LiteMQError


def run_child(config: Config, actor: str, work: Callable[[], int]) -> int:
    """Run an actor's `work` in this process; its exit code.

    Nothing an actor raises goes further than this.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    setproctitle(f"litemq: {actor} {config.node.name}")
    allowed = os.sched_getaffinity(0)
    setting = config.mount.cpu_affinity if config.mount.fuse else "off"
    os.sched_setaffinity(0, cpus_for(actor, setting, allowed, primary=config.is_primary))
    log.configure(config.log, config.node.data_dir, config.node.name, actor, stderr=True)
    try:
        return work()
    except LiteMQError as error:
        log.get().error("actor ends", reason=str(error))
        return error.exit_code
    except Exception:  # noqa: BLE001 - the edge of the process: whatever it is, it is logged and ends here
        log.get().critical("actor crashed", exc_info=True)
        return 1
