"""How a replica catches up: it asks for records or for a repair, and takes in the pieces.

Owns the transfers under way, one per database at most. Never trusts the network: pieces of another
transfer are cancelled, records are decoded and checked against the head, and a repair touches the
file only when everything has arrived and adds up.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

from litemq import log
from litemq.actors.common_point import Common
from litemq.actors.failing import FILE_ERRORS
from litemq.actors.followed import Followed
from litemq.actors.following import Phase
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.repair import Repair
from litemq.actors.set_back import SetBack
from litemq.config import Config
from litemq.errors import FormatError, GapError
from litemq.fs.comparison import BEAT_PAGES
from litemq.fs.sqlite_errors import BusyError
from litemq.transport import messages as m
from litemq.transport.sockets import Sender
from litemq.txlog.epochs import EpochTable

CREDIT_BYTES = 4 * 1024 * 1024
CHECKSUM_PART = 1024 * 1024
BUSY_RETRY_S = 0.25
#: a repair that has arrived is tried for this long while readers are in its way
BUSY_PATIENCE_S = 10.0


class CatchingUp:
    """The transfers of all databases."""

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        *,
        followed: dict[str, Followed],
        repaired: Callable[[Followed], None],
        live: Callable[[Followed], None],
        garbage: Callable[[str, int], None],
        beat: Callable[[], None],
    ) -> None:
        """`repaired` and `live` are told of databases that have caught up by pages or by records.

        `beat` is called now and then during long work.
        """
        self._node = config.node.name
        self._answer_address = config.stream.answer_address
        self._layout = Layout(config.node.data_dir)
        #: to the primary; None while there is none to follow
        self.requests: Sender | None = None
        self._reactor = reactor
        self._followed = followed
        self._repaired = repaired
        self._live = live
        self._garbage = garbage
        self._beat = beat
        self._log = log.get()
        #: counts from anywhere: pieces of a transfer before a restart are of none of these
        self._transfer = secrets.randbits(60)
        #: tells the primary, if it must move on
        self.set_back = SetBack(self._node, self._answer_address, followed=followed, send=self.send)
        #: whether the mount lets this process write; a repair waits for it
        self.admitted = False
        #: the epoch of the primary that is being followed, and its name
        self.term = 0
        self.primary = ""

    def send(self, message: m.Message, *payload: bytes) -> None:
        """Tell the primary, if there is one."""
        if self.requests is not None:
            self.requests.send(message, *payload)

    # --- asking

    def fetch(self, followed: Followed) -> None:
        """Ask for every record after the last one in the log."""
        self._transfer += 1
        followed.drop_repair()
        followed.forget_common()
        followed.parted = None
        followed.following.begin(Phase.FETCHING, self._transfer, time.monotonic())
        self.send(
            m.RequestRecords(
                self._node,
                self._answer_address,
                self._transfer,
                followed.database.name,
                m.WirePosition.of(followed.database.log.head),
                CREDIT_BYTES,
            )
        )

    def diverged(self, followed: Followed, reason: str) -> None:
        """Checksums show that this node's log is not the primary's: take over the primary's."""
        followed.parted = reason
        followed.agreed_epoch = 0
        self.begin_repair(followed)

    def log_rest(self, followed: Followed) -> bool:
        """Bring what a killed primary's file has beyond its log into the log.

        Until that is done (true), nothing is taken from the new primary.
        """
        database = followed.database
        if not self.admitted or time.monotonic() < followed.repair_after_s:
            return False
        try:
            pages = database.log_rest(self._beat)
        except BusyError:
            return False
        except FILE_ERRORS as error:
            self._failed(followed, f"can't log what the database has beyond the log: {error}")
            return False
        if pages:
            self._log.warning(
                "the database had changed without its log; logged as one transaction",
                db=database.name, txid=database.log.head.txid, pages=pages,
            )  # fmt: skip
        return True

    def needs_repair(self, followed: Followed, reason: str) -> None:
        """The file is not what the log says; the next heartbeat begins."""
        self._log.warning(
            "the database is not what the log says; repairing it",
            db=followed.database.name, reason=reason,
        )  # fmt: skip
        followed.needs_repair = True

    def begin_repair(self, followed: Followed) -> None:
        """Ask for the pages that differ from the primary's."""
        database = followed.database
        if not self.admitted:
            followed.needs_repair = True
            followed.following.done()
            return
        if followed.common is None and self._search(followed):
            return
        try:
            page_size, sums = database.file_checksums(self._beat)
            followed.drop_repair()
            followed.repair = Repair(database.directory, page_size, sums)
        except FILE_ERRORS as error:
            self._failed(followed, f"can't read the database: {error}")
            return
        followed.needs_repair = False
        self._transfer += 1
        followed.following.begin(Phase.REPAIRING, self._transfer, time.monotonic())
        followed.state = "repairing"
        self._send_checksums(database.name, page_size, sums)

    def _search(self, followed: Followed) -> bool:
        """Find out first where the histories part; false if there is nothing to compare."""
        try:
            followed.search = followed.database.common_point()
        except FILE_ERRORS as error:  # a damaged log: then the tables of epochs have to do
            self._log.info("can't compare", db=followed.database.name, reason=str(error))
            followed.search = None
        if followed.search is None:
            followed.common = Common(0, compared=False, parts=False)
            return False
        followed.needs_repair = False
        followed.drop_repair()
        self._transfer += 1
        followed.following.begin(Phase.REPAIRING, self._transfer, time.monotonic())
        followed.state = "repairing"
        self._ask_checksums(followed, followed.search.ask())
        return True

    def _ask_checksums(self, followed: Followed, txids: list[int]) -> None:
        number, name = followed.following.transfer, followed.database.name
        self.send(m.AskChecksums(self._node, self._answer_address, number, name, txids))

    def _compared(self, followed: Followed, message: m.Checksums) -> None:
        if followed.search is None:
            return
        found = {txid: int(checksum, 16) for txid, checksum in message.found}
        followed.search.told(message.first, message.head, found)
        asked = followed.search.ask()
        if asked:
            self._ask_checksums(followed, asked)
            return
        followed.common, followed.search = followed.search.found, None
        self.set_back.parted(followed, followed.common, self.term)
        self.begin_repair(followed)

    def _send_checksums(self, name: str, page_size: int, sums: bytes) -> None:
        for start in range(0, max(len(sums), 1), CHECKSUM_PART):
            self.send(
                m.RequestRepair(
                    self._node,
                    self._answer_address,
                    self._transfer,
                    name,
                    page_size,
                    len(sums) // 8,
                    start // 8 + 1,
                    start + CHECKSUM_PART >= len(sums),
                    CREDIT_BYTES,
                ),
                sums[start : start + CHECKSUM_PART],
            )

    # --- what comes

    def take(
        self,
        followed: Followed,
        first_txid: int,
        lengths: list[int],
        data: bytes,
        epoch: int,
        epochs: list[tuple[int, int]] | None = None,
    ) -> bool:
        """Take in consecutive records, live or asked for. False if they do not fit: then what is
        needed instead has been asked for.
        """
        database = followed.database
        try:
            followed.take(first_txid, lengths, data, epoch, epochs, term=self.term)
        except GapError as error:
            if database.log.trusted:
                self.diverged(followed, str(error))
            else:
                self.begin_repair(followed)
            return False
        except FormatError as error:
            self._log.warning("dropped a damaged record", db=database.name, reason=str(error))
            if followed.following.phase is Phase.FETCHING:
                self.begin_repair(followed)  # it is damaged in the primary's log
            else:
                self.fetch(followed)
            return False
        except FILE_ERRORS as error:
            self._failed(followed, f"can't take records into the log: {error}")
            return False
        return True

    def answer(self, message: m.Message, payload: list[bytes]) -> None:
        """A message from the primary to this replica alone."""
        data = payload[0] if payload else b""
        match message:
            case m.Checksums() if self.set_back.told(message):
                pass
            case (
                m.RecordsChunk()
                | m.RepairPages()
                | m.RepairDone()
                | m.RepairNeeded()
                | m.Checksums()
                | m.TransferRefused()
            ):
                followed = self._current(message.database, message.transfer, data)
                if followed is not None:
                    self._piece(followed, message, data)
            case _:
                self._garbage(f"{type(message).__name__} is not an answer", 1)

    def _current(self, name: str, transfer: int, data: bytes) -> Followed | None:
        """The database if this is a piece of its transfer; credit is granted for its bytes."""
        followed = self._followed.get(name)
        if followed is None or not followed.following.is_current(transfer):
            self.send(m.CancelTransfer(self._node, transfer))
            return None
        followed.following.heard_s = time.monotonic()
        if data:
            self.send(m.GrantCredit(self._node, transfer, len(data)))
        return followed

    def _piece(self, followed: Followed, message: m.Message, data: bytes) -> None:
        match message:
            case m.RecordsChunk():
                self._chunk(followed, message, data)
            case m.RepairPages():
                self._pages(followed, message, data)
            case m.RepairDone():
                self._arrived(followed, message)
            case m.RepairNeeded(reason=reason, parted=parted):
                if parted:
                    self.diverged(followed, reason)
                else:
                    self._log.info("repairing", db=followed.database.name, reason=reason)
                    self.begin_repair(followed)
            case m.Checksums():
                self._compared(followed, message)
            case m.TransferRefused(reason=reason):
                self._log.info(
                    "the primary refused a transfer", db=followed.database.name, reason=reason
                )
                followed.needs_repair = followed.following.phase is Phase.REPAIRING
                followed.drop_repair()
                followed.forget_common()
                followed.following.done()

    def _chunk(self, followed: Followed, message: m.RecordsChunk, data: bytes) -> None:
        if followed.repair is not None:
            at = 0
            try:
                for length in message.lengths:
                    followed.repair.add_record(data[at : at + length])
                    at += length
            except FILE_ERRORS as error:
                self._failed(followed, str(error))
            return
        if message.first_txid > followed.database.log.head.txid + 1:
            self.fetch(followed)
            return
        if (
            self.take(
                followed, message.first_txid, message.lengths, data, message.epoch, message.epochs
            )
            and message.last
        ):
            followed.following.done()
            self._live(followed)

    def _pages(self, followed: Followed, message: m.RepairPages, data: bytes) -> None:
        if followed.repair is None:
            return
        try:
            followed.repair.add_pages(message.page_size, message.numbers, data)
        except FILE_ERRORS as error:
            self._failed(followed, str(error))

    # --- the end of a repair

    def _arrived(self, followed: Followed, message: m.RepairDone) -> None:
        if followed.repair is None:
            return
        try:
            checksums = followed.repair.finish(message.head)
        except FILE_ERRORS as error:
            self._failed(followed, str(error))
            return
        self._write(followed, message, checksums, time.monotonic() + BUSY_PATIENCE_S)

    def _write(
        self, followed: Followed, message: m.RepairDone, checksums: bytes, deadline_s: float
    ) -> None:
        """Hand the pages to SQLite; again if readers are in the way."""
        repair, database = followed.repair, followed.database
        if repair is None or not followed.following.is_current(message.transfer):
            return
        now = time.monotonic()
        followed.following.heard_s = now
        try:
            page1 = repair.page1()
            if not self._keep(followed, message):
                return
            database.suspect()
            database.write_repair(self._with_beats(repair.pages()), message.head, page1)
            database.repaired(message.head, checksums, message.epochs, page1)
        except BusyError as error:
            database.wait_for_readers(True)
            if now < deadline_s:
                self._reactor.later(
                    BUSY_RETRY_S, lambda: self._write(followed, message, checksums, deadline_s)
                )
            else:
                self._failed(followed, str(error))
            return
        except FILE_ERRORS as error:
            database.close_writer()
            self._failed(followed, str(error))
            return
        self._log.info("repaired", db=database.name, pages=repair.count, txid=database.applied.txid)
        database.wait_for_readers(False)
        followed.repaired(self.term)
        self._repaired(followed)

    def _with_beats(self, pages: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        for count, page in enumerate(pages):
            if count % BEAT_PAGES == BEAT_PAGES - 1:
                self._beat()
            yield page

    def _keep(self, followed: Followed, message: m.RepairDone) -> bool:
        """Keep what the primary does not have of this log. False if that failed: it must not go."""
        database = followed.database
        try:
            kept = database.keep_diverged(
                self._layout.diverged,
                EpochTable.from_list(message.epochs),
                message.head.position.value,
                compared=followed.common,
                primary=self.primary,
                primary_epoch=self.term,
                reason=followed.parted,
                beat=self._beat,
            )
        except BusyError:
            raise
        except FILE_ERRORS as error:
            self._failed(followed, f"can't keep what the primary does not have: {error}")
            return False
        if kept is not None and kept.id != followed.kept:
            followed.kept = kept.id
            self._log.warning(
                "transactions that the primary does not have are kept aside; repairing",
                db=database.name,
                id=kept.id,
                reason=kept.reason,
                transactions=kept.transactions,
                txid=kept.head.txid,
                common=kept.last_common,
            )
        return True

    def _failed(self, followed: Followed, reason: str) -> None:
        if not followed.failure:
            self._log.warning(
                "a repair failed; trying again", db=followed.database.name, reason=reason
            )
        followed.failure = reason
        followed.repair_failed(time.monotonic())
