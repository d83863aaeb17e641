"""Names on the wire: streams, buckets, subjects and keys, all in one place."""

import re

from jetflow.errors import InvalidInputError

DEFAULT_NAMESPACE = "jetflow"
DEFAULT_PARTITIONS = 64
EXPIRED = "=expired"
"""Last token of an expired signal's dead letter, which no text escapes to."""


class Names:
    """Every stream, bucket and subject of one namespace.

    Args:
        namespace: lower-case word, letters, digits, ``_`` and ``-``; several live side by side on a server.
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
        """Streams that an owner writes, by the word that their revocations are known by."""

    # ---- commands, as published and as stored

    def command(self, queue_token: str, id_token: str, command: str) -> str:
        """Subject of a command; ``command`` is ``start.<type>``, ``signal.<name>``, ``cancel``, …"""
        return f"{self.namespace}.{queue_token}.{id_token}.{command}"

    def is_command(self, subject: str) -> bool:
        """Return whether a subject could be that of a command of this namespace."""
        return subject.startswith(f"{self.namespace}.")

    @property
    def every_command(self) -> str:
        """The stored commands of all workflows."""
        return f"{self.namespace}.*.*.>"

    def stored_commands(self, queue_token: str, id_token: str, command: str = ">", *, partition: int | None = None) -> str:
        """The stored commands of one workflow: all of them, or those of a kind. With its partition they are found sooner."""
        return f"{self.namespace}.{'*' if partition is None else partition}.{queue_token}.{id_token}.{command}"

    def pending_start(self, queue_token: str, id_token: str, *, partition: int | None = None) -> str:
        """The stored, unconsumed start commands of one workflow, whatever their type."""
        return self.stored_commands(queue_token, id_token, "start.>", partition=partition)

    def partition_filter(self, partition: int, queue_token: str) -> str:
        """The stored commands of one partition of one task queue."""
        return f"{self.namespace}.{partition}.{queue_token}.>"

    @property
    def every_timer(self) -> str:
        """The scheduled messages of all workflows."""
        return f"{self.timer_prefix}>"

    def timers(self, queue_token: str, id_token: str) -> str:
        """The scheduled messages of one workflow."""
        return f"{self.timer_prefix}{queue_token}.{id_token}.>"

    # ---- what is asked and told

    def query(self, queue_token: str, id_token: str = "*", name_token: str = "*") -> str:
        """Subject on which the owner of a workflow answers a query; with less given, the queries of a task queue."""
        return f"{self.query_prefix}{queue_token}.{id_token}.{name_token}"

    @property
    def every_change(self) -> str:
        """Notices that the state record of any workflow was written."""
        return f"{self.changed_prefix}>"

    def changed(self, queue_token: str, id_token: str = "*") -> str:
        """Notices that the state record of a workflow was written; ``*`` for any."""
        return f"{self.changed_prefix}{queue_token}.{id_token}"

    def workflow_of_change(self, subject: str) -> tuple[str, str]:
        """Return the task queue and the workflow, as tokens, that a notice is about."""
        queue_token, _, id_token = subject.removeprefix(self.changed_prefix).partition(".")
        return queue_token, id_token

    # ---- signals by id

    def signal_by_id(self, signal_token: str) -> str:
        """Subject of a signal that is known by its id alone; ``>`` for any."""
        return f"{self.by_id_prefix}{signal_token}"

    def waiting(self, signal_token: str) -> str:
        """Notices that a wait for a signal by id has begun or ended."""
        return f"{self.waiting_prefix}{signal_token}.>"

    def wait_of_notice(self, subject: str) -> str:
        """Return the key of the wait that a notice is about."""
        return subject[len(self.waiting_prefix) :]

    # ---- records and timelines

    def states(self, queue_token: str, id_token: str = "*") -> str:
        """State keys; ``*`` for any task queue or workflow."""
        return f"{self.state_prefix}{queue_token}.{id_token}"

    def timelines(self, queue_token: str) -> str:
        """The timeline keys of one task queue."""
        return f"{self.timeline_prefix}{queue_token}.*.*"

    # ---- tasks and dead letters

    def tasks(self, queue_token: str, activity_token: str) -> str:
        """The tasks of one activity on one task queue."""
        return f"{self.task_prefix}{queue_token}.{activity_token}.>"

    def attempts(self, queue_token: str, id_token: str, run: int | str, index: int) -> str:
        """The tasks of one operation of a run, whoever works on them."""
        return f"{self.task_prefix}*.*.{queue_token}.{id_token}.{run}.{index}.*"

    def ended_tasks(self, queue_token: str) -> str:
        """Notices that a task of one task queue is not wanted any more."""
        return f"{self.ended_prefix}{queue_token}.>"

    @property
    def every_dead_letter(self) -> str:
        """The dead letters of the namespace."""
        return f"{self.dead_prefix}>"

    def dead_letter(self, subject: str, *, expired: bool = False) -> str:
        """Subject of the dead letter for a message that was published on ``subject``; an ``expired`` signal's can be told from others."""
        return f"{self.dead_prefix}{'.'.join([*subject.split('.')[1:3], *([EXPIRED] if expired else [])])}"

    @property
    def expired_letters(self) -> tuple[str, str]:
        """The dead letters of expired signals: to a workflow, and by id."""
        return f"{self.dead_prefix}*.*.{EXPIRED}", f"{self.dead_prefix}*.{EXPIRED}"

    # ---- workers and who owns what

    @property
    def every_worker(self) -> str:
        """The heartbeats of all workers."""
        return f"{self.worker_prefix}>"

    @property
    def every_tenure(self) -> str:
        """What a stream holds about tenures: revocations, and how far the janitor is."""
        return f"{self.tenure_prefix}>"

    @property
    def every_guard(self) -> str:
        """The guards of first commits."""
        return f"{self.guard_prefix}>"

    def revocation(self, kind: str, queue_token: str, tenure: str) -> str:
        """Subject of the message that ends a tenure in one of the ``owned_streams``; see ``jetflow.broker.fencing.fence``."""
        return f"{self.tenure_prefix}{kind}.{queue_token}.{tenure}"

    def registry(self, queue_token: str) -> str:
        """Subject, in the timeline's stream, of what is known of a task queue's tenures."""
        return f"{self.tenure_prefix}timeline.registry.{queue_token}.0"

    def janitor(self, queue_token: str) -> str:
        """Subject, in the state stream, of how far the janitor of a task queue is."""
        return f"{self.tenure_prefix}state.janitor.{queue_token}"

    @property
    def epoch(self) -> str:
        """Subject, in the timeline's stream, of what is known of the inbox; see ``jetflow.broker.transport.epoch``."""
        return f"{self.tenure_prefix}timeline.inbox.0"

    def woken(self, queue_token: str) -> str:
        """Subject, in the state stream, of which inbox the workflows of a task queue were last woken for."""
        return f"{self.tenure_prefix}state.woken.{queue_token}"

    def guard(self, queue_token: str, id_token: str) -> str:
        """Subject of the message that keeps an earlier owner from writing a workflow's first timeline key."""
        return f"{self.guard_prefix}{queue_token}.{id_token}.0"


def inbox(token: str) -> str:
    """Subject for answers to one client or one question."""
    return f"_INBOX.jetflow.{token}"


def read_partition_filter(subject: str) -> tuple[str, int] | None:
    """Return the task queue (as a token) and the partition of a ``Names.partition_filter``; None for another subject."""
    match = re.fullmatch(r"[^.]+\.(\d+)\.([^.]+)\.>", subject)
    return None if match is None else (match[2], int(match[1]))
