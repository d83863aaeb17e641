"""One signal by id in the router's memory."""

from __future__ import annotations

from jetflow.broker.stores.waits import Wait
from jetflow.protocol.clock import now_ms


class Kept:
    """One signal.

    Attributes:
        number: its position in the stream of signals by id.
        expires: ms since the epoch.
        reply: its ack subject.
        unsure: whether the router must look up what happened to it.
        wait: the wait that it is claimed for.
        refused: waits that proved to be over.
        lapsed: whether it has expired and is claimed for no wait.
    """

    __slots__ = ("expires", "forwarded", "lapsed", "number", "refused", "reply", "unsure", "wait")

    def __init__(self, number: int, expires: int, reply: str, *, unsure: bool) -> None:
        self.number: int = number
        self.expires: int = expires
        self.reply: str = reply
        self.wait: Wait | None = None
        self.refused: set[Wait] = set()
        self.forwarded: bool = False
        self.unsure: bool = unsure
        self.lapsed: bool = False

    def claimed(self, wait: Wait) -> None:
        """Note the wait that the signal is claimed for. It is not forwarded yet."""
        self.wait, self.forwarded = wait, False

    def was_forwarded(self) -> None:
        """Note that the signal was sent to its wait."""
        self.forwarded = True

    def returned(self) -> None:
        """Note that its wait was over. Another wait may get it."""
        if self.wait is not None:
            self.refused.add(self.wait)
            self.wait = None

    def lapse(self) -> None:
        """Note that it has expired and is for no wait."""
        self.wait, self.lapsed = None, True

    def doubt(self, unsure: bool) -> None:
        """Note whether the router must look up what happened to it."""
        self.unsure = unsure

    @property
    def is_expired(self) -> bool:
        """Whether it has expired, so that no new wait can get it."""
        return self.expires <= now_ms()
