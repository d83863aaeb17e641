"""Names on the wire: streams, buckets, subjects and keys, all in one place."""

import re

from jetflow.errors import InvalidInputError

DEFAULT_NAMESPACE = "jetflow"
DEFAULT_PARTITIONS = 64


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

    def command(self, queue_token: str, id_token: str, command: str) -> str:
        """Subject of a command; ``command`` is ``start.<type>``, ``signal.<name>``, ``cancel``, …"""
        return f"{self.namespace}.{queue_token}.{id_token}.{command}"

    def query(self, queue_token: str, id_token: str, name_token: str) -> str:
        """Subject on which the owner of a workflow answers a query."""
        return f"{self.query_prefix}{queue_token}.{id_token}.{name_token}"

    def signal_by_id(self, signal_token: str) -> str:
        """Subject of a signal that is known by its id alone."""
        return f"{self.by_id_prefix}{signal_token}"

    def partition_filter(self, partition: int, queue_token: str) -> str:
        """The stored commands of one partition of one task queue."""
        return f"{self.namespace}.{partition}.{queue_token}.>"

    def revocation(self, kind: str, queue_token: str, tenure: str) -> str:
        """Subject of the message that ends a tenure in one of the ``owned_streams``; see ``jetflow.broker.fencing.fence``."""
        return f"{self.tenure_prefix}{kind}.{queue_token}.{tenure}"

    def registry(self, queue_token: str) -> str:
        """Subject, in the timeline's stream, of what is known of a task queue's tenures."""
        return f"{self.tenure_prefix}timeline.registry.{queue_token}.0"

    def guard(self, queue_token: str, id_token: str) -> str:
        """Subject of the message that keeps an earlier owner from writing a workflow's first timeline key."""
        return f"{self.guard_prefix}{queue_token}.{id_token}.0"

    def pending_start(self, queue_token: str, id_token: str) -> str:
        """The stored, unconsumed start commands of one workflow, whatever its partition and type."""
        return f"{self.namespace}.*.{queue_token}.{id_token}.start.>"

    def start_in_partition(self, partition: int, queue_token: str, id_token: str) -> str:
        """As ``pending_start``, for a publish that expects none: the server compares what it has stored, so it wants the partition."""
        return f"{self.namespace}.{partition}.{queue_token}.{id_token}.start.>"
