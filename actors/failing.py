"""A database that can't be read, opened, applied or logged: why, and when it is tried again. Pure.

Always true: a spell of failures is told once, and each attempt in vain doubles the pause before the
next. What is wrong with one file is no reason to leave the others alone.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from litemq.errors import LiteMQError

#: what a call about one database may raise
FILE_ERRORS = (LiteMQError, OSError, MemoryError)
#: what the disk says of all files alike: the log as a whole can't be appended to
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
#: pauses between attempts (seconds)
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
#: and at least so many times as long as the attempt took
IDLE_SHARE = 10
FAILING = "failing"
#: programs of its user keep a database from being applied, or from being written by others
BLOCKED = "blocked"
_LIMITS = {
    errno.EMFILE: "RLIMIT_NOFILE: raise `ulimit -n`, LimitNOFILE= of systemd, before `litemq up`",
    errno.ENFILE: "of the machine: sysctl fs.file-max",
    errno.ENOLCK: "locks: RLIMIT_LOCKS, or the file system's",
    errno.EDQUOT: "the disk quota of this user",
}


@dataclass(slots=True)
class Failing:
    """The present spell of one database; `reason` is empty while there is none."""

    reason: str = ""
    pause_s: float = 0.0
    #: the next attempt, by the caller's clock
    until_s: float = 0.0

    def failed(self, error: BaseException | str, now_s: float, took_s: float = 0.0) -> bool:
        """Once more; whether that is news. `took_s`: the attempt held up others for so long."""
        is_news = not self.reason
        self.reason = reason_of(error)
        self.pause_s = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self.pause_s = max(self.pause_s, IDLE_SHARE * took_s)
        self.until_s = now_s + self.pause_s
        return is_news

    def worked(self) -> bool:
        """The spell is over; whether there was one."""
        was_failing = bool(self.reason)
        self.reason, self.pause_s, self.until_s = "", 0.0, 0.0
        return was_failing


def of_the_disk(error: BaseException) -> bool:
    """Whether the error is of the file system rather than of one file."""
    return getattr(error, "errno", None) in DISK_ERRORS


def reason_of(error: BaseException | str) -> str:
    """One line, with the limit that was reached, if it is one."""
    reason = str(error) or type(error).__name__
    limit = _LIMITS.get(getattr(error, "errno", None) or 0)
    return f"{reason} ({limit})" if limit else reason
