"""Sending commands to a workflow; each is stored once, however often it had to be sent."""

from __future__ import annotations

from jetflow.broker.transport.connection import Broker
from jetflow.protocol import clock
from jetflow.protocol.commands import check_body
from jetflow.protocol.reference import WorkflowRef


async def send_command(broker: Broker, ref: WorkflowRef, command: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Store a command, such as ``cancel`` or ``signal.<name>``, in a workflow's inbox.

    Raises:
        PayloadTooLargeError: the body is larger than a commit can take.
        BrokerUnavailableError: whether the command is stored is unknown.
    """
    check_body(f"the body of {command}", body, broker.max_payload)
    subject = broker.names.command(ref.queue_token, ref.id_token, command)
    await broker.lane.publish_once(subject, body, broker.lane.message_id(), **(headers or {}))


async def send_signal_by_id(broker: Broker, signal_token: str, body: bytes, headers: dict[str, str]) -> None:
    """Store a signal that is known by its id alone.

    Raises:
        PayloadTooLargeError: the body is larger than a commit can take.
        BrokerUnavailableError: whether the signal is stored is unknown.
    """
    check_body("the signal's body", body, broker.max_payload)
    await broker.lane.publish_once(broker.names.signal_by_id(signal_token), body, clock.token(8), **headers)
