"""The streams and buckets of a namespace, created by the first to come and checked by everybody."""

from __future__ import annotations

import logging
import re
from typing import Any

from msgspec import Struct

from jetflow.broker.transport.codes import STREAM_NAME_IN_USE, STREAM_NOT_FOUND, SUBJECTS_OVERLAP
from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerError, InvalidInputError, TopologyError
from jetflow.protocol.subjects import DEFAULT_PARTITIONS, Names

log: logging.Logger = logging.getLogger("jetflow.broker")

SECOND = 1_000_000_000

DUPLICATE_WINDOW = 60
"""Seconds in which the inbox drops a repeated message id."""
HEARTBEAT_TTL = 30
"""Seconds a worker's last heartbeat stays in its bucket; liveness is decided much earlier, by those who listen."""

DETAILS_TTL = 86_400
"""Seconds that what a running task said last is kept for the worker that takes it over."""

MARKER_TTL = 30 * 86_400
"""Seconds that the marker of an expired state record waits for a janitor; after that only its sweep finds what the run left."""


class Topology(Struct, frozen=True):
    """What was found or created."""

    partitions: int
    replicas: int


def stream_configs(names: Names, partitions: int, replicas: int) -> dict[str, dict[str, Any]]:
    """The configuration of every stream of a namespace, by name."""
    ns = names.namespace
    inbox = {
        "subjects": [f"{ns}.*.*.>", f"{ns}_timer.>"],
        "retention": "workqueue",
        "subject_transform": {"src": f"{ns}.*.*.>", "dest": f"{ns}.{{{{partition({partitions},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.>"},
        "allow_msg_schedules": True,
        "allow_msg_ttl": True,
        "duplicate_window": DUPLICATE_WINDOW * SECOND,
        "description": "jetflow inbox: commands, by partition, task queue and workflow",
    }
    tasks = {
        "subjects": [f"{ns}_task.>"],
        "retention": "workqueue",
        "allow_msg_ttl": True,
        "duplicate_window": DUPLICATE_WINDOW * SECOND,
        "description": "jetflow tasks: attempts of activities for other workers, by task queue and activity",
    }
    dead = {
        "subjects": [f"{ns}_dead.>"],
        "retention": "limits",
        "max_age": 30 * 86_400 * SECOND,
        "allow_msg_ttl": True,
        "description": "jetflow dead letters: commands that could not be understood",
    }
    by_id = {
        "subjects": [f"{ns}_signal.>"],
        "retention": "workqueue",
        "duplicate_window": DUPLICATE_WINDOW * SECOND,
        "description": "jetflow signals by id: those that no workflow has got yet",
    }
    buckets = {
        names.state_bucket: {
            "republish": {"src": f"{names.state_prefix}>", "dest": f"{names.changed_prefix}>"},
            "subject_delete_marker_ttl": MARKER_TTL * SECOND,
            "allow_atomic": True,
            "description": "jetflow state: what a person wants to know of each workflow",
        },
        names.timeline_bucket: {"allow_atomic": True, "description": "jetflow timeline: one key is one commit"},
        names.signal_bucket: {"description": "jetflow signals that nobody waits for yet"},
        names.wait_bucket: {
            "republish": {"src": f"{names.wait_prefix}>", "dest": f"{names.waiting_prefix}>"},
            "description": "jetflow waits: which resting workflow waits for which signal",
        },
        names.worker_bucket: {"max_age": HEARTBEAT_TTL * SECOND, "description": "jetflow workers: heartbeats"},
        names.heartbeat_bucket: {"max_age": DETAILS_TTL * SECOND, "description": "jetflow heartbeats: what running tasks said last"},
    }
    common: dict[str, Any] = {"storage": "file", "num_replicas": replicas, "allow_direct": True}
    configs = {
        names.inbox_stream: common | inbox,
        names.task_stream: common | tasks,
        names.dead_stream: common | dead,
        names.by_id_stream: common | by_id,
    }
    for bucket, extra in buckets.items():
        configs[f"KV_{bucket}"] = common | {
            "subjects": [f"$KV.{bucket}.>"],
            "retention": "limits",
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_msg_ttl": True,
            **extra,
        }
    for kind, stream in names.owned_streams.items():
        configs[stream]["subjects"] = [*configs[stream]["subjects"], f"{names.tenure_prefix}{kind}.>"]
    configs[names.timeline_stream]["subjects"].append(f"{names.guard_prefix}>")
    return {name: {"name": name, **config} for name, config in configs.items()}


_MUST_MATCH = ("subjects", "retention", "subject_transform", "republish", "max_msgs_per_subject")
_MUST_BE_ON = ("allow_msg_schedules", "allow_msg_ttl", "allow_direct", "allow_rollup_hdrs")


async def ensure_topology(lane: Lane, names: Names, *, partitions: int | None, replicas: int | None) -> Topology:
    """Finds or creates the namespace's streams; safe to run by many at once.

    Args:
        lane: where to ask.
        names: the namespace.
        partitions: wanted number, 1 to 4096; None takes what exists, or the default.
        replicas: copies of each stream when they are created; None for one.

    Raises:
        TopologyError: a stream exists with another configuration; says which field and what to do.
    """
    if partitions is not None and not 1 <= partitions <= 4096:
        raise InvalidInputError(f"partitions must be 1 to 4096, not {partitions}")
    inbox = await stream_config(lane, names.inbox_stream)
    if inbox is None:
        inbox = await _create(lane, stream_configs(names, partitions or DEFAULT_PARTITIONS, replicas or 1)[names.inbox_stream])
    found = _partitions_of(inbox)
    if partitions is not None and found is not None and found != partitions:
        raise TopologyError(
            f"namespace {names.namespace!r} has {found} partitions, not {partitions}: leave the argument out, or use another namespace"
        )
    topology = Topology(found or partitions or DEFAULT_PARTITIONS, inbox.get("num_replicas") or 1)
    for name, config in stream_configs(names, topology.partitions, topology.replicas).items():
        current = inbox if name == names.inbox_stream else await stream_config(lane, name)
        if current is None:
            current = await _create(lane, config)
        elif _is_of_before_tenures(names, config, current):
            current = await _add_tenures(lane, config, current)
        _check(name, config, current)
    return topology


def _is_of_before_tenures(names: Names, wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a stream was made by a version whose owners were not fenced, and has all the subjects of that version and no other."""
    before = [subject for subject in wanted["subjects"] if not subject.startswith((names.tenure_prefix, names.guard_prefix))]
    return found.get("subjects") == before != wanted["subjects"]


async def _add_tenures(lane: Lane, wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Adds the subjects of tenures to a stream of before; safe to do by many at once."""
    name = wanted["name"]
    log.info("stream %s is given the subjects by which owners are fenced", name)
    config = found | {"subjects": wanted["subjects"], "allow_msg_ttl": True}
    try:
        return (await lane.api(f"STREAM.UPDATE.{name}", config))["config"]  # type: ignore[no-any-return]
    except BrokerError as error:
        raise TopologyError(
            f"stream {name} is of an earlier version and cannot be given the subjects {wanted['subjects']}: {error}; "
            f"have someone who may do it: nats stream edit {name} --subjects={','.join(wanted['subjects'])} --allow-msg-ttl"
        ) from error


async def stream_config(lane: Lane, stream: str) -> dict[str, Any] | None:
    """A stream's configuration; None if there is no such stream."""
    try:
        answer = await lane.api(f"STREAM.INFO.{stream}")
    except BrokerError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return None
        raise
    return answer["config"]  # type: ignore[no-any-return]


async def _create(lane: Lane, config: dict[str, Any]) -> dict[str, Any]:
    name = config["name"]
    try:
        return (await lane.api(f"STREAM.CREATE.{name}", config))["config"]  # type: ignore[no-any-return]
    except BrokerError as error:
        code = error.err_code
        if code == STREAM_NAME_IN_USE:  # somebody created it at the same moment, perhaps otherwise
            return await stream_config(lane, name) or config
        if code == SUBJECTS_OVERLAP:
            raise TopologyError(f"stream {name} cannot be created: another stream already takes {config['subjects']}") from error
        raise TopologyError(f"stream {name} cannot be created: {error}") from error


def _check(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    for field in _MUST_MATCH:
        if field in wanted and wanted[field] != _plain(found.get(field), wanted[field]):
            raise TopologyError(
                f"stream {name} exists with {field} = {found.get(field)!r}, jetflow needs {wanted[field]!r}: "
                "rename or remove that stream, or use another namespace"
            )
    for field in _MUST_BE_ON:
        if wanted.get(field) and not found.get(field):
            raise TopologyError(f"stream {name} exists without {field}: switch it on with `nats stream edit {name}`, or use another namespace")


def _plain(found: Any, wanted: Any) -> Any:
    """The found value without fields that the server adds."""
    return {key: found.get(key) for key in wanted} if isinstance(wanted, dict) and isinstance(found, dict) else found


def _partitions_of(config: dict[str, Any]) -> int | None:
    match = re.search(r"partition\((\d+),", str((config.get("subject_transform") or {}).get("dest", "")))
    return int(match[1]) if match else None
