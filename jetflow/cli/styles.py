"""A workflow in one line: its status, the status's colour, and its failure or waits."""

from __future__ import annotations

from jetflow.protocol.record import CANCELLED, StateRecord

STYLES = {
    "running": "blue",
    "retrying": "yellow",
    "early": "cyan",
    "pending": "cyan",
    "parked": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "bright_black",
    "terminated": "magenta",
}


def status_of(record: StateRecord) -> str:
    """Return the status as shown to people, which is ``parked`` for a parked workflow."""
    return "parked" if record.parked is not None and not record.closed else record.status


def about(record: StateRecord) -> str:
    """Return its failure, or what it waits for, in a few words."""
    if record.failure is not None:
        if record.status == CANCELLED:
            return record.failure.message
        return f"{record.failure.type}: {record.failure.message}"
    if record.closed:
        return ""
    if record.parked is not None:
        return record.parked.reason
    retry = next((operation for operation in record.waiting if operation.failure is not None), None)
    if retry is not None and retry.failure is not None:
        return f"retries {retry.kind} {retry.name}, attempt {retry.attempt}, after {retry.failure.type}: {retry.failure.message}"
    waits = ", ".join(f"{operation.kind} {operation.name}".strip() for operation in record.waiting[:3])
    return f"waits for {waits}" if waits else ""
