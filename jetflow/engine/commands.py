"""Commands from the inbox."""

from __future__ import annotations

from jetflow.broker.transport.pull import Delivery
from jetflow.protocol.commands import Payload, read_command


class Command:
    """A delivery and the command in it.

    Attributes:
        delivery: the message, with its sequence and its ack subject.
        id_token, workflow_id: the workflow that the command is for.
        partition: the partition of the workflow id.
        payload: what the command asks for.
        index: the operation that one of the engine's own replies belongs to; 0 for other commands.
    """

    __slots__ = ("delivery", "id_token", "index", "partition", "payload", "seq", "workflow_id")

    def __init__(self, delivery: Delivery, id_token: str, workflow_id: str, partition: int, payload: Payload, index: int = 0) -> None:
        self.delivery: Delivery = delivery
        self.id_token: str = id_token
        self.workflow_id: str = workflow_id
        self.partition: int = partition
        self.payload: Payload = payload
        self.index: int = index
        self.seq: int = delivery.seq

    def came_again(self, delivery: Delivery) -> None:
        """Note a further delivery of the command: only its ack address is new."""
        self.delivery.reply = delivery.reply


def understand(delivery: Delivery) -> Command:
    """Return the command in a delivery.

    Raises:
        InvalidInputError: the command is malformed. The message says how, for the dead letter.
    """
    id_token, workflow_id, index, payload = read_command(delivery.subject, delivery.headers, delivery.data)
    return Command(delivery, id_token, workflow_id, int(delivery.subject.split(".", 2)[1]), payload, index)
