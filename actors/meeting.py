"""A log writer and a mount agree on how things stand: what is on the disk, open, and gone.

Works at rest if the mount has not begun (nobody has a file open), else beside programs that go on.
Always true: what goes wrong with one database is left to whoever contains it, and the next follows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from litemq import log
from litemq.actors.file_capture import FileCapture
from litemq.actors.group_commit import GroupCommit
from litemq.actors.layout import Layout, is_there
from litemq.actors.tracked import Tracked
from litemq.actors.unlogged_names import UnloggedNames
from litemq.actors.wal_capture import WalCapture
from litemq.actors.withheld import Withheld
from litemq.errors import FormatError, StorageError
from litemq.fs.backing_files import walk
from litemq.fs.comparison import is_database
from litemq.fs.names import Kind, classify
from litemq.transport import messages as m


class Meeting:
    """Of a log writer, which owns what this is given."""

    def __init__(
        self,
        group: GroupCommit,
        wals: WalCapture,
        files: FileCapture,
        layout: Layout,
        tracked: dict[str, Tracked],
        unlogged: UnloggedNames,
        withheld: Withheld,
        *,
        track: Callable[[str], Tracked],
        contained: Callable[[str, Callable[[], object]], object],
        removed: Callable[[str], object],
    ) -> None:
        """`contained` carries out what may fail for one database."""
        self._group = group
        self._wals = wals
        self._files = files
        self._layout = layout
        self._tracked = tracked
        self._unlogged = unlogged
        self._withheld = withheld
        self._track = track
        self._contain = contained
        self._removed = removed
        self._log = log.get()

    def begin(self, message: m.ResyncCapture) -> None:
        """Databases and their WALs. Raises StorageError when the disk refuses."""
        if message.taken_over:
            self._take_over()
        elif not message.mounted:
            self._recover(unclean=message.unclean)
        else:
            for name in self._withheld:
                self._contain(name, partial(self.bring_back, name))
        for name in message.wals:
            self._contain(name, partial(self._open_wal, name))

    def end(self, message: m.ResyncCapture) -> None:
        """What else is open, where programs go on."""
        if message.mounted or message.taken_over:
            self._rejoin(message)

    def bring_back(self, name: str) -> None:
        """A database that is withheld: nobody has it, the file alone tells what is so.

        Raises FILE_ERRORS.
        """
        if is_there(self._layout.files / name):
            self._recover_database(name, unclean=True)
        else:
            self._removed(name)
        self._withheld.discard(name)

    def _open_wal(self, name: str) -> None:
        self._wals.open(self._track(name), made=False)

    def _open_index(self, name: str) -> None:
        self._wals.open_index(self._track(name))

    def _recover(self, *, unclean: bool) -> None:
        """A mount is about to start: nobody has a file open, the files alone tell what is so."""
        present = set()
        for name, entry in walk(self._layout.files):
            is_file = entry.is_file(follow_symlinks=False)
            if is_file and classify(name)[0] is Kind.DATABASE:
                present.add(name)
                again = unclean or name in self._unlogged
                self._contain(name, partial(self._recover_one, name, unclean=again))
        for tracked in list(self._tracked.values()):
            tracked.comparing = None
            if tracked.log.n_pages and tracked.name not in present:
                self._contain(tracked.name, partial(self._drop_if_gone, tracked))
        for name in self._withheld:
            if name not in present:
                self._contain(name, partial(self._give_if_gone, name))

    def _give_if_gone(self, name: str) -> None:
        """Raises OSError if there is a file, though no folder shows one."""
        if is_there(self._layout.files / name):
            raise StorageError("its folder can't be read")
        self._withheld.discard(name)

    def _recover_one(self, name: str, *, unclean: bool) -> None:
        self._recover_database(name, unclean=unclean)
        self._withheld.discard(name)

    def _drop_if_gone(self, tracked: Tracked) -> None:
        """Raises OSError if that can't be told: what its folder does not show has not gone."""
        if is_there(self._layout.files / tracked.name):
            return
        self._log.warning("the database file is gone; dropped", db=tracked.name)
        self._group.drop(tracked)

    def _take_over(self) -> None:
        """The mount was a replica's until now, and whoever has files open could not write."""
        for tracked in list(self._tracked.values()):
            if tracked.log.n_pages:
                self._contain(tracked.name, partial(self._take_over_one, tracked))

    def _take_over_one(self, tracked: Tracked) -> None:
        try:
            if tracked.was_replica:
                self._files.take_over(tracked)
            else:  # an earlier log writer had begun
                counts = tracked.name not in self._unlogged
                self._files.recover(tracked, compare_all=True, log_counts=counts)
        except FormatError as error:
            self._log.error(
                "can't read the database; not replicated", db=tracked.name, reason=str(error)
            )

    def _recover_database(self, name: str, *, unclean: bool) -> None:
        known = self._tracked.get(name)
        replicated = known is not None and known.log.n_pages
        if not replicated and not is_database(self._layout.files / name):
            return
        try:
            tracked = self._track(name)
            if tracked.was_replica:
                self._files.take_over(tracked, compare_all=True)
            else:
                behind = name in self._withheld
                self._files.recover(tracked, compare_all=unclean, log_counts=behind)
        except FormatError as error:
            self._log.error("can't read the database; not replicated", db=name, reason=str(error))

    def _rejoin(self, message: m.ResyncCapture) -> None:
        """The mount went on while this actor was away: open WAL indexes, look for what is gone."""
        for name in message.shms:
            self._contain(name, partial(self._open_index, name))
        for tracked in list(self._tracked.values()):
            self._contain(tracked.name, partial(self._rejoin_one, tracked))

    def _rejoin_one(self, tracked: Tracked) -> None:
        if tracked.name in self._withheld:
            return
        if tracked.log.n_pages and not is_there(self._layout.files / tracked.name):
            self._removed(tracked.name)
        elif not tracked.log.trusted or tracked.name in self._unlogged:
            self._files.request(tracked, numbers=None)
