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
        ack: acks a delivery at the broker.

    Attributes:
        waiting: commands that are not applied yet, in the order of the inbox.
        held: applied commands, acked once all their consequences are durable.
        unacked: every command that the broker would deliver to the next owner, by inbox sequence: those waiting, those held, and those whose
            signals are in memory.
    """

    __slots__ = ("_ack", "held", "unacked", "waiting")

    def __init__(self, ack: Callable[[Delivery], None]) -> None:
        self.waiting: deque[Command] = deque()
        self.held: list[Command] = []
        self.unacked: dict[int, Command] = {}
        self._ack = ack

    def receive(self, command: Command) -> bool:
        """Accept a command. Return False if it is here already."""
        known = self.unacked.get(command.seq)
        if known is not None:
            known.came_again(command.delivery)
            return False
        self.unacked[command.seq] = command
        self.waiting.append(command)
        return True

    def next(self) -> Command:
        """Remove and return the command to apply."""
        return self.waiting.popleft()

    def hold(self, command: Command) -> None:
        """Hold a command, to ack it with its consequences."""
        self.held.append(command)

    def hold_all(self, commands: Iterable[Command]) -> None:
        """Hold commands, to ack them with their consequences."""
        self.held += commands

    def ack(self, command: Command) -> None:
        """Ack a command that has no further consequences."""
        self.unacked.pop(command.seq, None)
        self._ack(command.delivery)

    def release(self) -> None:
        """Ack the held commands: all their consequences are durable."""
        if self.held:
            held, self.held = self.held, []
            self._ack_all(held)

    def release_others(self) -> None:
        """Ack the held commands except the first, which wakes the next owner."""
        if len(self.held) > 1:
            others = self.held[1:]
            del self.held[1:]
            self._ack_all(others)

    def _ack_all(self, commands: list[Command]) -> None:
        faults.reach("before_ack")
        for command in commands:
            self.ack(command)

    def in_order(self) -> list[Command]:
        """Return the un-acked commands, in the order of the inbox."""
        return [self.unacked[seq] for seq in sorted(self.unacked)]

    def start_over(self) -> None:
        """Make every un-acked command wait again."""
        self.held.clear()
        self.waiting = deque(self.in_order())
