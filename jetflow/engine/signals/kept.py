"""One signal by id in the router's memory, and what is known of it."""

from __future__ import annotations

from jetflow.broker.stores.waits import Wait
from jetflow.protocol.clock import now_ms


class Kept:
    """One signal.

    Attributes:
        number: its place in the stream of signals by id.
        expires: ms since the epoch.
        reply: where to ack it.
        unsure: whether it is to be asked what became of it.
        wait: which wait it is claimed for.
        refused: waits that turned out to be over.
        lapsed: whether it is claimed for nobody, since it has expired.
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
        """Note which wait it is for, to which it is to be forwarded."""
        self.wait, self.forwarded = wait, False

    def was_forwarded(self) -> None:
        """Note that its wait is being sent it."""
        self.forwarded = True

    def returned(self) -> None:
        """Note that its wait was over, so that another one may get it."""
        if self.wait is not None:
            self.refused.add(self.wait)
            self.wait = None

    def lapse(self) -> None:
        """Note that it is for nobody any more."""
        self.wait, self.lapsed = None, True

    def doubt(self, unsure: bool) -> None:
        """Note whether it is to be asked what became of it."""
        self.unsure = unsure

    @property
    def is_expired(self) -> bool:
        """Whether no wait that begins from now on can get it."""
        return self.expires <= now_ms()
