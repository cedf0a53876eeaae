"""What this node says to Consul: typed questions, each over by its deadline, each with one error.

Owns the client library; nobody else speaks to Consul. Always true: what is not an answer in time
is LeaseUnavailableError, a refusal by Consul's ACL is LeaseDeniedError, and the token stands in no
message. What comes back is data of a stranger and is checked.

python-consul2 (0.1.5, the last there is) knows Consul's paths and parameters; its own HTTP client
is not used: time-outs are per system call there, and proxies and .netrc of the environment apply.
Nor are its CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN, which it prefers to what it is told.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import consul
import consul.base
from msgspec import Struct

from litemq.election.deadline_http import DeadlineClient
from litemq.election.lease import LeaseDeniedError, LeaseUnavailableError

SERVICE: Final = "litemq"
_FORGET_AFTER: Final = "1m"  # Consul's least: then it forgets a service whose node is gone
# What `CheckTTL` of Consul's agent writes when the time ran out, and nothing else writes.
_EXPIRED: Final = "TTL expired"

_T = TypeVar("_T")


class Entry(Struct, frozen=True, kw_only=True):
    """One key: who has locked it ("" if nobody), and the index of its last change."""

    key: str
    value: bytes
    session: str
    modify_index: int


class SessionGoneError(LeaseUnavailableError):
    """The session that was to lock something does not exist (any more)."""


class ConsulAgent:
    """The Consul agent at `address`, for one thread. Every call ends by the deadline set last."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token
        self._http = DeadlineClient(address)
        self._deadline_s = 0.0
        try:
            # The library warns of a part of itself that it makes and nobody here uses.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self._consul = _Consul(self)
        except consul.ConsulException as error:
            raise LeaseUnavailableError(f"unset CONSUL_HTTP_ADDR: {error!s:.100}") from error
        self._consul.token = token or None

    def end_by(self, deadline_s: float) -> None:
        """The calls that follow are over by then (boot clock)."""
        self._deadline_s = deadline_s

    def close(self) -> None:
        self._http.close()

    def abort(self) -> None:
        """From another thread: end the call that is under way, and all that follow."""
        self._http.abort()

    # --- keys

    def read(self, key: str, *, index: int = 0, wait_s: float = 0.0) -> tuple[int, Entry | None]:
        """The key as a majority of the servers knows it, and an index to wait from.

        With an index: when it has changed since, or after `wait_s` (and up to 1/16 more).
        """
        wait = f"{max(1, round(wait_s * 1000))}ms" if index else None
        found, raw = self._call(
            lambda: self._consul.kv.get(
                key, index=index or None, wait=wait, consistency="consistent"
            )
        )
        return self._checked(lambda: (int(found or 0), _entry(raw) if raw else None))

    def read_below(self, prefix: str) -> list[Entry]:
        """All keys that start with the prefix, as any server knows them."""
        _, raw = self._call(lambda: self._consul.kv.get(prefix, recurse=True))
        return self._checked(lambda: [_entry(each) for each in raw or []])

    def lock(self, key: str, value: bytes, session: str, *, unchanged_since: int) -> int:
        """Lock and write in one step, if the key's last change is still the one of that index.

        0: if there is no such key. The index of this change; 0 if the key has changed, or is locked
        by another session. Raises SessionGoneError.
        """
        return self._write("lock", key, value, session, unchanged_since)

    def unlock_unchanged(self, key: str, value: bytes, session: str, index: int) -> bool:
        """Write and unlock in one step, if the key's last change is still the one of that index and
        that session has it.
        """
        return self._write("unlock", key, value, session, index) > 0

    def _write(self, verb: str, key: str, value: bytes, session: str, unchanged_since: int) -> int:
        check = (
            {"Verb": "check-index", "Key": key, "Index": unchanged_since}
            if unchanged_since
            else {"Verb": "check-not-exists", "Key": key}
        )
        text = base64.b64encode(value).decode()
        write = {"Verb": verb, "Key": key, "Value": text, "Session": session}
        try:
            done = self._call(
                lambda: self._consul.txn.put([{"KV": check}, {"KV": write}]), raw=True
            )
        except consul.ConsulException as error:
            # 409 and a list of what failed, in English; 500 where the servers have no leader.
            reason = self._shown(error)
            if "ermission denied" in reason:
                raise self._denied(error) from error
            if "invalid session" in reason:
                raise SessionGoneError(f"Consul has forgotten the session {session}") from error
            if not reason.startswith("409"):
                raise self._strange(error) from error
            return 0
        return self._checked(lambda: int(done["Results"][-1]["KV"]["ModifyIndex"]))

    def put_locked(self, key: str, value: bytes, session: str) -> bool:
        """Lock and write, or write what is locked already; False if another session has it."""
        return self._put(key, value, acquire=session)

    def unlock(self, key: str, value: bytes, session: str) -> bool:
        """Write and unlock in one step; False if that session does not have it."""
        return self._put(key, value, release=session)

    def _put(self, key: str, value: bytes, **lock: str) -> bool:
        try:
            done = self._call(lambda: self._consul.kv.put(key, value, **lock), raw=True)
        except consul.ConsulException as error:
            if "invalid session" in str(error):
                raise SessionGoneError("Consul has forgotten this node's session") from error
            raise self._strange(error) from error
        return done is True

    # --- the life of a node, as Consul sees it

    def register(self, service_id: str, ttl_s: float, address: str) -> None:
        """A service with a check that counts as passing for `ttl_s` from now."""
        check = {
            "ttl": f"{round(ttl_s * 1000)}ms",
            "status": "passing",
            "DeregisterCriticalServiceAfter": _FORGET_AFTER,
        }
        self._call(
            lambda: self._consul.agent.service.register(
                SERVICE, service_id, check=check, meta={"address": address}
            )
        )

    def deregister(self, service_id: str) -> None:
        self._call(lambda: self._consul.agent.service.deregister(service_id))

    def keep(self, service_id: str) -> bool:
        """The check passes for another TTL; False if the agent knows no such check."""
        try:
            passed = self._call(
                lambda: self._consul.agent.check.ttl_pass(f"service:{service_id}"), raw=True
            )
        except consul.ConsulException as error:
            if "does not have associated TTL" in str(error) or "nknown check" in str(error):
                return False
            raise self._strange(error) from error
        return passed is True

    def expired(self, service_id: str) -> bool:
        """Whether the TTL of this very check ran out, as opposed to any other way to end."""
        _, checks = self._call(lambda: self._consul.health.checks(SERVICE))
        return self._checked(
            lambda: any(
                check["CheckID"] == f"service:{service_id}"
                and check["Status"] == "critical"
                and str(check["Output"]).startswith(_EXPIRED)
                for check in checks or []
            )
        )

    def new_session(self, service_id: str) -> str | None:
        """A session that ends with the check or the agent; None if the check is not known yet."""
        try:
            session = self._call(
                lambda: self._consul.session.create(
                    name=service_id,
                    checks=["serfHealth", f"service:{service_id}"],
                    lock_delay=0,
                    behavior="release",
                ),
                raw=True,
            )
        except consul.ConsulException as error:
            # The agent tells the servers of a new check a moment after it told us.
            if "issing check" in str(error) or "critical state" in str(error):
                return None
            raise self._strange(error) from error
        return self._checked(lambda: _text(session))

    def destroy(self, session: str) -> None:
        self._call(lambda: self._consul.session.destroy(session))

    # --- one way out and one way back

    def exchange(
        self,
        callback: Callable[[Any], Any],
        method: str,
        target: str,
        body: Any,
        headers: Mapping[str, str] | None,
    ) -> Any:
        """What the library wants sent; `callback` makes its sense of the answer."""
        answer = self._http.request(
            method,
            target,
            body=body.encode() if isinstance(body, str) else body or b"",
            headers=headers or {},
            deadline_s=self._deadline_s,
        )
        text = answer.body.decode("utf-8", "replace")
        return callback(consul.base.Response(answer.status, answer.headers, text, answer.body))

    def _call(self, call: Callable[[], _T], *, raw: bool = False) -> _T:
        """`raw`: errors that Consul itself answered with are for the caller, refusals aside."""
        try:
            return call()
        except (consul.ACLPermissionDenied, consul.ACLDisabled) as error:
            raise self._denied(error) from error
        except consul.ConsulException as error:
            if raw and not isinstance(error, consul.base.BadRequest):
                raise
            raise self._strange(error) from error
        except (OSError, http.client.HTTPException) as error:
            reason = f"Consul at {self._address} does not answer: {self._shown(error)}"
            raise LeaseUnavailableError(reason) from error
        except (ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
            raise self._strange(error) from error

    def _checked(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise self._strange(error) from error

    def _denied(self, error: Exception) -> LeaseDeniedError:
        return LeaseDeniedError(
            f"Consul at {self._address} refuses ({self._shown(error)}): the token of "
            "[election.consul] needs write on the key, on the service litemq and on sessions"
        )

    def _strange(self, error: Exception) -> LeaseUnavailableError:
        return LeaseUnavailableError(f"Consul at {self._address} says: {self._shown(error)}")

    def _shown(self, error: Exception) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        return (text.replace(self._token, "***") if self._token else text)[:200]


class _Http(consul.base.HTTPClient):  # type: ignore[misc]  # the library has no types
    """The library's requests, sent by the agent's own client."""

    def __init__(self, agent: ConsulAgent) -> None:
        super().__init__()
        self.base_uri = ""  # so that `uri` gives the target alone
        self._agent = agent

    def get(self, callback: Any, path: str, params: Any = None, headers: Any = None) -> Any:
        return self._agent.exchange(callback, "GET", self.uri(path, params), b"", headers)

    def put(
        self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> Any:
        return self._agent.exchange(callback, "PUT", self.uri(path, params), data, headers)

    def delete(
        self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> Any:
        return self._agent.exchange(callback, "DELETE", self.uri(path, params), data, headers)

    def post(
        self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None
    ) -> Any:
        return self._agent.exchange(callback, "POST", self.uri(path, params), data, headers)


class _Consul(consul.base.Consul):  # type: ignore[misc]  # the library has no types
    def __init__(self, agent: ConsulAgent) -> None:
        self._agent = agent
        super().__init__()

    def http_connect(self, *_: Any, **__: Any) -> _Http:
        return _Http(self._agent)


def _entry(raw: Any) -> Entry:
    value = raw["Value"]
    return Entry(
        key=_text(raw["Key"]),
        value=bytes(value) if value is not None else b"",
        session=_text(raw.get("Session", "")),
        modify_index=int(raw["ModifyIndex"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r:.40}")
    return value
