"""GitHub webhooks as durable workflows: one for each delivery, whatever fails on the way.

    python examples/webhooks.py                                      # 500 deliveries, an embedded nats-server
    python examples/webhooks.py --store-dir ./hooks --keep           # stays up, so that you can look around
    JETFLOW_URL=nats://127.0.0.1:4222 python examples/webhooks.py    # a server of your own

Each delivery has its signature checked, is enriched by three services that fail now and then, waits for its burst to settle,
is decided on, and has its outcome stored once. Some are delivered twice, as GitHub does: the delivery id is the workflow id, so
the second is refused. Kill the program with a ``--store-dir`` at any point and run it again: it goes on where it was.
"""

import argparse
import asyncio
import hashlib
import hmac
import os
import sys
from typing import Literal, Self

import msgspec
import nats
from msgspec import Struct
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from rich.console import Console
from webhook_deliveries import Delivery, make_deliveries, sign
from webhook_sending import Summary, send_all, show, summarise

from jetflow import (
    ActivityError,
    Client,
    NonRetryableError,
    RetryPolicy,
    Worker,
    activity,
    execute_activity,
    local,
    sleep,
    workflow,
)

QUEUE = "webhooks"
BUCKET = "webhook_outcomes"
SECURITY_EVENTS = {"code_scanning_alert", "dependabot_alert", "repository_vulnerability_alert", "security_advisory"}
REVIEW_EVENTS = {"discussion", "issue_comment", "issues", "pull_request", "pull_request_review", "pull_request_review_comment"}

Decision = Literal["page", "review", "archive", "ignore", "reject"]

# ---- what travels


class Account(Struct):
    login: str
    type: str = "User"


class Repository(Struct):
    full_name: str
    owner: Account


class Event(Struct):
    """The parts of a payload that matter here; GitHub leaves out what an event does not have."""

    name: str = ""
    action: str | None = None
    sender: Account | None = None
    repository: Repository | None = None


class Answer(Struct):
    """What a service said, and which attempt succeeded."""

    value: str
    attempt: int


class Outcome(Struct):
    delivery: str
    event: str
    decision: Decision
    action: str | None = None
    team: str | None = None
    retries: int = 0


# ---- activities: what touches the world

SERVICE = RetryPolicy(maximum_attempts=6, initial_interval="50ms", backoff_coefficient=2)


class ServiceUnavailableError(Exception):
    """Raised when a service did not answer this time."""


@activity
async def validate(delivery: Delivery) -> Event:
    """Accept only what GitHub signed."""
    if not hmac.compare_digest(delivery.signature, sign(bytes(delivery.body))):
        raise NonRetryableError("the signature does not fit the body")
    event = msgspec.json.decode(delivery.body, type=Event)
    event.name = delivery.event
    return event


@activity(retry=SERVICE, start_to_close_timeout="5s")
async def kind_of_sender(event: Event) -> Answer:
    attempt = call_service("accounts")
    return Answer("machine" if event.sender is None or event.sender.type == "Bot" else "person", attempt)


@activity(retry=SERVICE, start_to_close_timeout="5s")
async def team_of_repository(event: Event) -> Answer:
    attempt = call_service("teams")
    return Answer(f"team-{event.repository.owner.login.lower()}" if event.repository else "everyone", attempt)


@activity(retry=SERVICE, start_to_close_timeout="5s")
async def urgency_of_event(event: Event) -> Answer:
    attempt = call_service("urgency")
    return Answer("high" if event.name in SECURITY_EVENTS else "normal", attempt)


def call_service(name: str) -> int:
    """Stands for a call that fails one time in four: by delivery and attempt, so that every run meets the same failures."""
    info = activity.info()
    chance = hashlib.sha256(f"{name}/{info.workflow_id}/{info.attempt}".encode()).digest()[0]
    if info.attempt < 4 and chance < 64:
        raise ServiceUnavailableError(f"{name} did not answer attempt {info.attempt}")
    return info.attempt


class Outcomes:
    """Where outcomes are stored: a NATS bucket, in which a key can be created only once."""

    def __init__(self, jetstream: JetStreamContext, bucket: KeyValue) -> None:
        self.jetstream = jetstream
        self.bucket = bucket

    @classmethod
    async def open(cls, connection: nats.NATS) -> Self:
        """Create the bucket, unless it exists."""
        jetstream = connection.jetstream()
        return cls(jetstream, await jetstream.create_key_value(bucket=BUCKET, history=5))

    async def store_outcome(self, outcome: Outcome) -> None:
        """An activity. A crash may have it run again before it is recorded; the same step then finds its own value."""
        step = activity.info().idempotency_key
        try:
            await self.bucket.create(outcome.delivery, msgspec.json.encode({"stored_by": step, "outcome": outcome}))
        except KeyWrongLastSequenceError:
            stored = msgspec.json.decode((await self.bucket.get(outcome.delivery)).value or b"")
            if stored["stored_by"] != step:
                raise NonRetryableError(f"{outcome.delivery} was stored by {stored['stored_by']} before") from None

    async def get(self, delivery_id: str) -> Outcome | None:
        try:
            entry = await self.bucket.get(delivery_id)
        except KeyNotFoundError:
            return None
        return msgspec.convert(msgspec.json.decode(entry.value or b"")["outcome"], Outcome)

    async def stored_again(self) -> int:
        """Count the values beyond the first of each key. The bucket stores history, so they would show."""
        values = (await self.jetstream.stream_info(f"KV_{BUCKET}", subjects_filter=">")).state.subjects or {}
        return sum(values.values()) - len(values)


# ---- the workflow: decides, and touches nothing itself


@workflow
async def process_delivery(delivery: Delivery) -> Outcome:
    try:
        event = await validate(delivery)
    except ActivityError:
        outcome = Outcome(delivery.id, delivery.event, "reject")
    else:
        sender, team, urgency = await asyncio.gather(kind_of_sender(event), team_of_repository(event), urgency_of_event(event))
        await sleep("200ms")  # GitHub sends bursts: let this one settle
        retries = sum(answer.attempt - 1 for answer in (sender, team, urgency))
        outcome = Outcome(delivery.id, event.name, decide(event, sender.value, urgency.value), event.action, team.value, retries)
    await execute_activity("store_outcome", outcome)
    return outcome


def decide(event: Event, sender: str, urgency: str) -> Decision:
    if urgency == "high":
        return "page"
    if sender == "machine":
        return "ignore"
    return "review" if event.name in REVIEW_EVENTS else "archive"


# ---- the program


async def run(options: argparse.Namespace, console: Console) -> Summary:
    """Serve and send until every delivery has its outcome."""
    deliveries, source = make_deliveries(options.count)
    connecting = Client.connect() if os.environ.get("JETFLOW_URL") else local(options.store_dir)
    async with connecting as client, await nats.connect(client.url) as connection:
        outcomes = await Outcomes.open(connection)
        console.print(f"payloads: {source}\nserver:   {client.url}", highlight=False, soft_wrap=True)
        steps = [validate, kind_of_sender, team_of_repository, urgency_of_event, outcomes.store_outcome]
        async with Worker(client, task_queue=QUEUE, workflows=[process_delivery], activities=steps):
            sent, seconds = await send_all(client, process_delivery, QUEUE, deliveries, options.concurrency, console)
            stored = [outcome for delivery in deliveries if (outcome := await outcomes.get(delivery.id))]
            summary = summarise(source, sent, seconds, stored, await outcomes.stored_again())
            show(summary, console)
            console.print(how_to_look(client.url, deliveries[0].id, options.keep), highlight=False, soft_wrap=True)
            if options.keep:
                await asyncio.Event().wait()
    return summary


def how_to_look(url: str, delivery_id: str, keep: bool) -> str:
    if not keep and not os.environ.get("JETFLOW_URL"):
        return "To look at single workflows, add --keep: the embedded server then stays up until Ctrl-C."
    return "\n".join(
        [
            "Look at one of them:",
            f"  export JETFLOW_URL={url} NATS_URL={url}",
            f"  nats kv get {BUCKET} {delivery_id} --raw",
            f"  nats kv get jetflow_state {QUEUE}.{delivery_id} --raw",
            f"  jetflow show {delivery_id} --task-queue {QUEUE}",
            "Ctrl-C ends the program." if keep else "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="GitHub webhooks as durable workflows.")
    parser.add_argument("--count", type=int, default=500, help="deliveries to send (default: 500)")
    parser.add_argument("--concurrency", type=int, default=100, help="deliveries under way at once (default: 100)")
    parser.add_argument("--store-dir", help="where the embedded server keeps everything, for the next run; thrown away when not given")
    parser.add_argument("--keep", action="store_true", help="stay up after the summary, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on standard output, all else on standard error")
    options = parser.parse_args()
    if min(options.count, options.concurrency) < 1:
        parser.error("--count and --concurrency must be at least 1")
    try:
        summary = asyncio.run(run(options, Console(stderr=options.json)))
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(msgspec.json.encode(summary).decode())
    return 0 if summary.good else 1


if __name__ == "__main__":
    sys.exit(main())
