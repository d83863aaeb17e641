"""Decides which run of an id a command is for."""

from __future__ import annotations

from jetflow.engine.commands import Command
from jetflow.engine.turn.mailbox import Mailbox
from jetflow.engine.turn.run import Run
from jetflow.protocol.commands import CancelCommand, SignalCommand, StartCommand, TerminateCommand, UpdateCommand


def is_meant(run: Run, payload: CancelCommand | TerminateCommand) -> bool:
    """Return whether a command is for this run, and not for another one of the same id."""
    if payload.parent is not None and (run.info is None or run.info.parent != payload.parent):
        return False
    return payload.run is None or payload.run == run.number


Pinned = SignalCommand | UpdateCommand | CancelCommand | TerminateCommand
"""Commands that may name the only run that is to take them."""


def is_for_another(run: Run, command: Command, payload: Pinned) -> bool:
    """Return whether a command names a run that is not this one. A command from before this run has been applied already."""
    return payload.run is not None and payload.run != run.number and command.seq > run.number


def replaces(run: Run, command: Command) -> bool:
    """Return whether a command is a start that ends this run to begin its own."""
    payload = command.payload
    return isinstance(payload, StartCommand) and payload.replace and command.seq > run.number


def ending_command(mailbox: Mailbox, run: Run) -> Command | None:
    """Return the first un-acked command that ends this run."""
    return next((command for command in mailbox.in_order() if _ends(run, command)), None)


def _ends(run: Run, command: Command) -> bool:
    if isinstance(command.payload, TerminateCommand):
        return is_meant(run, command.payload)
    return replaces(run, command)
