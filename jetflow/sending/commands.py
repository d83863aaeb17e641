"""Sending commands to a workflow. The broker stores each command once, even if the client sends it several times."""

from __future__ import annotations

from jetflow.broker.transport.connection import Broker
from jetflow.protocol import clock
from jetflow.protocol.commands import check_body
from jetflow.protocol.reference import WorkflowRef


async def send_command(broker: Broker, ref: WorkflowRef, command: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Store a command, such as ``cancel`` or ``signal.<name>``, in a workflow's inbox.

    Raises:
        PayloadTooLargeError: the body does not fit into a commit.
        BrokerUnavailableError: the broker gave no answer in time. The command may or may not be stored.
    """
    check_body(f"the body of {command}", body, broker.max_payload)
    subject = broker.names.command(ref.queue_token, ref.id_token, command)
    await broker.lane.publish_once(subject, body, broker.lane.message_id(), **(headers or {}))


async def send_signal_by_id(broker: Broker, signal_token: str, body: bytes, headers: dict[str, str]) -> None:
    """Store a signal by id.

    Raises:
        PayloadTooLargeError: the body does not fit into a commit.
        BrokerUnavailableError: the broker gave no answer in time. The signal may or may not be stored.
    """
    check_body("the signal's body", body, broker.max_payload)
    await broker.lane.publish_once(broker.names.signal_by_id(signal_token), body, clock.token(8), **headers)
