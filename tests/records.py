"""State records that a test writes itself, as an owner would, but without one."""

import msgspec

from jetflow import Client
from jetflow.core.ids import to_token
from jetflow.protocol.headers import header_block, ttl_of
from jetflow.protocol.record import StateRecord


async def put_record(client: Client, record: StateRecord) -> None:
    """Stores a record; a closed one with ``expire`` (ms) goes when that time is over."""
    subject = client.states.subject(to_token(record.task_queue), to_token(record.workflow_id))
    expires = record.closed and record.expire is not None
    headers = header_block(Nats_TTL=ttl_of(record.expire)) if expires and record.expire is not None else None
    await client.broker.lane.publish(subject, msgspec.json.encode(record), headers)
