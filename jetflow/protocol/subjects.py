"""All names on the wire: streams, buckets, subjects and keys."""

import re

from jetflow.errors import InvalidInputError

DEFAULT_NAMESPACE = "jetflow"
DEFAULT_PARTITIONS = 64
EXPIRED = "=expired"
"""Last token in the subject of an expired signal's dead letter. ``to_token`` never returns it."""


class Names:
    """Every stream, bucket and subject of one namespace.

    Args:
        namespace: 1 to 32 lower-case letters, digits, ``_`` and ``-``, beginning with a letter. A server may have several namespaces.
    """

    def __init__(self, namespace: str = DEFAULT_NAMESPACE) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", namespace):
            raise InvalidInputError(f"namespace {namespace!r} must be 1 to 32 of a-z, 0-9, '_' and '-', and begin with a letter")
        self.namespace = namespace
        upper = namespace.upper()
        self.inbox_stream = upper
        self.task_stream: str = f"{upper}_TASKS"
        self.dead_stream: str = f"{upper}_DEAD"
        self.events_stream: str = f"{upper}_EVENTS"
        self.by_id_stream: str = f"{upper}_BY_ID"
        self.state_bucket: str = f"{namespace}_state"
        self.timeline_bucket: str = f"{namespace}_timeline"
        self.signal_bucket: str = f"{namespace}_signals"
        self.wait_bucket: str = f"{namespace}_waits"
        self.worker_bucket: str = f"{namespace}_workers"
        self.heartbeat_bucket: str = f"{namespace}_heartbeats"
        self.state_stream: str = f"KV_{self.state_bucket}"
        self.timeline_stream: str = f"KV_{self.timeline_bucket}"
        self.signal_stream: str = f"KV_{self.signal_bucket}"
        self.wait_stream: str = f"KV_{self.wait_bucket}"
        self.worker_stream: str = f"KV_{self.worker_bucket}"
        self.heartbeat_stream: str = f"KV_{self.heartbeat_bucket}"
        self.state_prefix: str = f"$KV.{self.state_bucket}."
        self.timeline_prefix: str = f"$KV.{self.timeline_bucket}."
        self.signal_prefix: str = f"$KV.{self.signal_bucket}."
        self.wait_prefix: str = f"$KV.{self.wait_bucket}."
        self.worker_prefix: str = f"$KV.{self.worker_bucket}."
        self.heartbeat_prefix: str = f"$KV.{self.heartbeat_bucket}."
        self.changed_prefix: str = f"{namespace}_changed."
        self.query_prefix: str = f"{namespace}_query."
        self.timer_prefix: str = f"{namespace}_timer."
        self.task_prefix: str = f"{namespace}_task."
        self.ended_prefix: str = f"{namespace}_ended."
        self.dead_prefix: str = f"{namespace}_dead."
        self.events_prefix: str = f"{namespace}_events."
        self.by_id_prefix: str = f"{namespace}_signal."
        self.waiting_prefix: str = f"{namespace}_waiting."
        self.tenure_prefix: str = f"{namespace}_tenure."
        self.guard_prefix: str = f"{namespace}_guard.{self.timeline_bucket}."
        self.owned_streams: dict[str, str] = {
            "inbox": self.inbox_stream,
            "timeline": self.timeline_stream,
            "state": self.state_stream,
            "signals": self.signal_stream,
            "waits": self.wait_stream,
            "tasks": self.task_stream,
            "dead": self.dead_stream,
        }
        """The streams that an owner writes, by the word for them in the subjects of revocations."""

    # ---- commands, as published and as stored

    def command(self, queue_token: str, id_token: str, command: str) -> str:
        """Return the subject of a command. ``command`` is ``start.<type>``, ``signal.<name>``, ``cancel``, …"""
        return f"{self.namespace}.{queue_token}.{id_token}.{command}"

    def is_command(self, subject: str) -> bool:
        """Return whether a subject may be that of a command of this namespace."""
        return subject.startswith(f"{self.namespace}.")

    @property
    def every_command(self) -> str:
        """Filter for the stored commands of all workflows."""
        return f"{self.namespace}.*.*.>"

    def stored_commands(self, queue_token: str, id_token: str, command: str = ">", *, partition: int | None = None) -> str:
        """Return the filter for one workflow's stored commands, or those of one kind. The server is faster with the partition."""
        return f"{self.namespace}.{'*' if partition is None else partition}.{queue_token}.{id_token}.{command}"

    def pending_start(self, queue_token: str, id_token: str, *, partition: int | None = None) -> str:
        """Return the filter for the stored start commands of one workflow, of any type."""
        return self.stored_commands(queue_token, id_token, "start.>", partition=partition)

    def partition_filter(self, partition: int, queue_token: str) -> str:
        """Return the filter for the stored commands of one partition of a task queue."""
        return f"{self.namespace}.{partition}.{queue_token}.>"

    @property
    def every_timer(self) -> str:
        """Filter for the scheduled messages of all workflows."""
        return f"{self.timer_prefix}>"

    def timers(self, queue_token: str, id_token: str) -> str:
        """Return the filter for the scheduled messages of one workflow."""
        return f"{self.timer_prefix}{queue_token}.{id_token}.>"

    # ---- queries and notices

    def query(self, queue_token: str, id_token: str = "*", name_token: str = "*") -> str:
        """Return the subject on which the owner of a workflow answers a query, or the filter for a task queue's queries."""
        return f"{self.query_prefix}{queue_token}.{id_token}.{name_token}"

    @property
    def every_change(self) -> str:
        """Filter for the notices about written state records."""
        return f"{self.changed_prefix}>"

    def changed(self, queue_token: str, id_token: str = "*") -> str:
        """Return the filter for the notices about one workflow's written state records; ``*``: every workflow's."""
        return f"{self.changed_prefix}{queue_token}.{id_token}"

    def workflow_of_change(self, subject: str) -> tuple[str, str]:
        """Return the tokens of the task queue and the workflow that a notice is about."""
        queue_token, _, id_token = subject.removeprefix(self.changed_prefix).partition(".")
        return queue_token, id_token

    # ---- signals by id

    def signal_by_id(self, signal_token: str) -> str:
        """Return the subject of a signal by id; ``>``: the filter for all of them."""
        return f"{self.by_id_prefix}{signal_token}"

    def waiting(self, signal_token: str) -> str:
        """Return the filter for the notices that a wait for a signal by id has begun or ended."""
        return f"{self.waiting_prefix}{signal_token}.>"

    def wait_of_notice(self, subject: str) -> str:
        """Return the key of the wait that a notice is about."""
        return subject[len(self.waiting_prefix) :]

    # ---- records and timelines

    def states(self, queue_token: str, id_token: str = "*") -> str:
        """Return the subject of a state key; ``*``: any task queue or workflow."""
        return f"{self.state_prefix}{queue_token}.{id_token}"

    def timelines(self, queue_token: str) -> str:
        """Return the filter for the timeline keys of one task queue."""
        return f"{self.timeline_prefix}{queue_token}.*.*"

    # ---- tasks and dead letters

    def tasks(self, queue_token: str, activity_token: str) -> str:
        """Return the filter for the tasks of one activity on one task queue."""
        return f"{self.task_prefix}{queue_token}.{activity_token}.>"

    def attempts(self, queue_token: str, id_token: str, run: int | str, index: int) -> str:
        """Return the filter for the tasks of one operation of a run, on any task queue."""
        return f"{self.task_prefix}*.*.{queue_token}.{id_token}.{run}.{index}.*"

    def ended_tasks(self, queue_token: str) -> str:
        """Return the filter for the notices that a task of one task queue was withdrawn."""
        return f"{self.ended_prefix}{queue_token}.>"

    @property
    def every_dead_letter(self) -> str:
        """Filter for the dead letters of the namespace."""
        return f"{self.dead_prefix}>"

    def dead_letter(self, subject: str, *, expired: bool = False) -> str:
        """Return the subject of the dead letter for a message published on ``subject``. ``expired``: the message is an expired signal."""
        return f"{self.dead_prefix}{'.'.join([*subject.split('.')[1:3], *([EXPIRED] if expired else [])])}"

    @property
    def expired_letters(self) -> tuple[str, str]:
        """Filters for the dead letters of expired signals: those to a workflow, and those by id."""
        return f"{self.dead_prefix}*.*.{EXPIRED}", f"{self.dead_prefix}*.{EXPIRED}"

    # ---- workers and ownership

    @property
    def every_worker(self) -> str:
        """Filter for the heartbeats of all workers."""
        return f"{self.worker_prefix}>"

    def workers(self, queue_token: str) -> str:
        """Return the filter for the heartbeats of one task queue's workers."""
        return f"{self.worker_prefix}{queue_token}.*"

    @property
    def every_tenure(self) -> str:
        """Filter for a stream's messages about tenures: revocations, the registry, and the janitor's position."""
        return f"{self.tenure_prefix}>"

    @property
    def every_guard(self) -> str:
        """Filter for the guards of first commits."""
        return f"{self.guard_prefix}>"

    def revocation(self, kind: str, queue_token: str, tenure: str) -> str:
        """Return the subject of the revocation of a tenure in one of the ``owned_streams``. See ``jetflow.broker.fencing.fence``."""
        return f"{self.tenure_prefix}{kind}.{queue_token}.{tenure}"

    def registry(self, queue_token: str) -> str:
        """Return the subject of a task queue's registry, in the timeline's stream."""
        return f"{self.tenure_prefix}timeline.registry.{queue_token}.0"

    def janitor(self, queue_token: str) -> str:
        """Return the subject of the position of a task queue's janitor, in the state stream."""
        return f"{self.tenure_prefix}state.janitor.{queue_token}"

    @property
    def epoch(self) -> str:
        """Subject of the facts about the inbox, in the timeline's stream. See ``jetflow.broker.transport.epoch``."""
        return f"{self.tenure_prefix}timeline.inbox.0"

    def woken(self, queue_token: str) -> str:
        """Return the subject of the inbox for which a task queue's workflows were last woken, in the state stream."""
        return f"{self.tenure_prefix}state.woken.{queue_token}"

    def guard(self, queue_token: str, id_token: str) -> str:
        """Return the subject of the guard, which stops an earlier owner from writing a workflow's first timeline key."""
        return f"{self.guard_prefix}{queue_token}.{id_token}.0"


def inbox(token: str) -> str:
    """Return the subject for answers to one client or one request."""
    return f"_INBOX.jetflow.{token}"


def read_partition_filter(subject: str) -> tuple[str, int] | None:
    """Return the task queue (as a token) and the partition of a ``Names.partition_filter``; None for another subject."""
    match = re.fullmatch(r"[^.]+\.(\d+)\.([^.]+)\.>", subject)
    return None if match is None else (match[2], int(match[1]))
