"""Logs the outages of a connection: once when it is lost, once for each reason, once when it is back."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from nats.errors import NoServersError, UnexpectedEOF

from jetflow.protocol import clock

log: logging.Logger = logging.getLogger("jetflow.broker")

_ORDINARY = (ConnectionError, TimeoutError, NoServersError, UnexpectedEOF)
"""Failures to reconnect that only mean that the server is not there."""
_REFUSED = re.compile("authoriz|authentic|credential|account|user|expired|revoked|nkey|jwt|permission", re.IGNORECASE)


class Outage:
    """The log lines of one connection.

    Args:
        secondary: whether another connection of the process logs the same outages, so that this one logs them at debug level.
    """

    def __init__(self, *, secondary: bool = False) -> None:
        self.level: int = logging.DEBUG if secondary else logging.WARNING
        self._since: float | None = None
        self._told: set[str] = set()

    def begins(self, address: str) -> None:
        """Log that the connection broke and that jetflow reconnects."""
        if self._since is None:
            self._since = clock.monotonic()
            log.log(self.level, "Lost connection to %s; reconnecting", address)

    def ends(self, address: str) -> None:
        """Log that the connection is back."""
        if self._since is not None:
            log.log(self.level, "Reconnected to %s after %.0f s", address, clock.monotonic() - self._since)
        self._since = None
        self._told.clear()

    def failed(self, problem: Exception, address: str) -> None:
        """Log why reconnecting fails, each reason once until the connection is back."""
        text = str(problem).removeprefix("nats: ").strip("'\" ") or type(problem).__name__
        if self._since is None or isinstance(problem, _ORDINARY) or text in self._told:
            log.debug("nats: %r", problem)
            return
        self._told.add(text)
        if _REFUSED.search(text):
            log.log(self.level, "nats-server at %s refuses the credentials: %s; trying again until it takes them", address, text)
        else:
            log.log(self.level, "Cannot reconnect to %s: %s; trying again", address, text)


def shown(addresses: Sequence[str]) -> str:
    """Return addresses for a message, without user and password."""
    return ", ".join(re.sub(r"^((?:\w+://)?)[^/]*@", r"\1", address) for address in addresses)
