"""The commands of one workflow, from their delivery until they are acked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from jetflow.broker.transport.pull import Delivery
from jetflow.engine import faults
from jetflow.engine.commands import Command


class Mailbox:
    """See the module.

    Args:
        ack: tells the broker that a command is done with.

    Attributes:
        waiting: not applied yet, in the order of the inbox.
        held: applied, and acked once all that they led to is durable.
        unacked: all that the broker gives again to the next owner, by inbox sequence: those waiting, those held, and those whose signals
            are kept in memory.
    """

    __slots__ = ("_ack", "held", "unacked", "waiting")

    def __init__(self, ack: Callable[[Delivery], None]) -> None:
        self.waiting: deque[Command] = deque()
        self.held: list[Command] = []
        self.unacked: dict[int, Command] = {}
        self._ack = ack

    def receive(self, command: Command) -> bool:
        """Take a command in. Return False for one that is here already."""
        known = self.unacked.get(command.seq)
        if known is not None:
            known.came_again(command.delivery)
            return False
        self.unacked[command.seq] = command
        self.waiting.append(command)
        return True

    def next(self) -> Command:
        """Return the command to apply, which waits no more."""
        return self.waiting.popleft()

    def hold(self, command: Command) -> None:
        """Ack a command with what it leads to."""
        self.held.append(command)

    def hold_all(self, commands: Iterable[Command]) -> None:
        """Ack commands with what they lead to."""
        self.held += commands

    def ack(self, command: Command) -> None:
        """Ack a command that leads to nothing more."""
        self.unacked.pop(command.seq, None)
        self._ack(command.delivery)

    def release(self) -> None:
        """Ack what is held: all that it led to is durable."""
        if self.held:
            held, self.held = self.held, []
            self._ack_all(held)

    def release_others(self) -> None:
        """Ack what is held, apart from the first command: that one wakes the next owner."""
        if len(self.held) > 1:
            others = self.held[1:]
            del self.held[1:]
            self._ack_all(others)

    def _ack_all(self, commands: list[Command]) -> None:
        faults.reach("before_ack")
        for command in commands:
            self.ack(command)

    def in_order(self) -> list[Command]:
        """Return what is not acked, in the order of the inbox."""
        return [self.unacked[seq] for seq in sorted(self.unacked)]

    def start_over(self) -> None:
        """Let everything that is not acked wait again."""
        self.held.clear()
        self.waiting = deque(self.in_order())
