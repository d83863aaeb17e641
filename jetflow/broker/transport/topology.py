"""The streams and buckets of a namespace. The first connection creates them, and each later one checks them."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from msgspec import Struct

from jetflow.broker.transport.codes import STREAM_NAME_IN_USE, STREAM_NOT_FOUND, SUBJECTS_OVERLAP
from jetflow.broker.transport.drift import describe, strangers, takers, wrong_fields
from jetflow.broker.transport.epoch import Epoch
from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerError, InvalidInputError, TopologyError
from jetflow.protocol import clock
from jetflow.protocol.subjects import DEFAULT_PARTITIONS, Names

log: logging.Logger = logging.getLogger("jetflow.broker")

SECOND = 1_000_000_000

DUPLICATE_WINDOW = 60
"""Seconds in which the inbox drops a repeated message id."""
HEARTBEAT_TTL = 30
"""Seconds that a worker's last heartbeat stays in its bucket. The other workers notice its end much earlier."""

DETAILS_TTL = 86_400
"""Seconds that a task's heartbeat details stay for the worker that takes it over."""

MARKER_TTL = 30 * 86_400
"""Seconds that the marker of an expired state record waits for a janitor. After that, only the janitor's sweep finds the rest of the run."""


class Topology(Struct, frozen=True):
    """The streams that were found or created.

    Attributes:
        complaints: what the engine cannot work with, if that was not refused.
    """

    partitions: int
    replicas: int
    complaints: tuple[str, ...] = ()


def stream_configs(names: Names, partitions: int, replicas: int) -> dict[str, dict[str, Any]]:
    """Return the configuration of every stream of a namespace, by name."""
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


async def ensure_topology(lane: Lane, names: Names, *, partitions: int | None, replicas: int | None, refuse: bool = True) -> Topology:
    """Find or create the namespace's streams. Many processes may do this at once.

    Args:
        lane: the connection.
        names: the namespace.
        partitions: the number of partitions, 1 to 4096; None for the existing number, or the default.
        replicas: the number of copies of each new stream; None for one.
        refuse: whether a problem raises an error. Otherwise ``Topology.complaints`` has it.

    Raises:
        TopologyError: a stream exists with another configuration, or loses messages to another stream. The message says what to do.
    """
    if partitions is not None and not 1 <= partitions <= 4096:
        raise InvalidInputError(f"partitions must be 1 to 4096, not {partitions}")
    found = await _streams(lane, names)
    in_use = any(info["state"]["last_seq"] for info in found.values())
    inbox = found.get(names.inbox_stream)
    if inbox is None:
        config = stream_configs(names, partitions or DEFAULT_PARTITIONS, replicas or 1)[names.inbox_stream]
        inbox = found[names.inbox_stream] = await _create(lane, names, config, again=in_use)
    parted = _partitions_of(inbox["config"])
    if partitions is not None and parted is not None and parted != partitions:
        raise TopologyError(
            f"namespace {names.namespace!r} has {parted} partitions, not {partitions}: leave the argument out, or use another namespace"
        )
    topology = Topology(parted or partitions or DEFAULT_PARTITIONS, inbox["config"].get("num_replicas") or 1)
    configs = stream_configs(names, topology.partitions, topology.replicas)
    for name, info in found.items():
        if _is_of_before_tenures(names, configs[name], info["config"]):
            found[name] = await _add_tenures(lane, configs[name], info["config"])
    complaints = [*_differences(configs, found), *await takers(lane, names)]
    if names.timeline_stream in found and (behind := await Epoch(lane, names).complaint(inbox)) is not None:
        complaints.append(behind)
    if complaints and refuse:
        raise TopologyError("; ".join(complaints))
    for name, config in configs.items():
        if name not in found:
            found[name] = await _create(lane, names, config, again=in_use)
            complaints += _differences(configs, {name: found[name]})  # another process created it at the same moment
    if complaints and refuse:
        raise TopologyError("; ".join(complaints))
    return Topology(topology.partitions, topology.replicas, tuple(complaints))


async def _streams(lane: Lane, names: Names) -> dict[str, dict[str, Any]]:
    """Return the server's description of each existing stream of the namespace, by name."""
    wanted = list(stream_configs(names, 1, 1))
    answers = await asyncio.gather(*(stream_info(lane, name) for name in wanted))
    return {name: info for name, info in zip(wanted, answers, strict=True) if info is not None}


def _differences(configs: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> list[str]:
    wrong = {name: wrong_fields(configs[name], info["config"]) for name, info in found.items()}
    return [describe(name, fields) for name, fields in wrong.items() if fields]


async def complaints_of(lane: Lane, names: Names, topology: Topology) -> list[str]:
    """Return what the engine cannot work with now: streams that are gone or changed, and others that take messages.

    Raises:
        BrokerUnavailableError: the server did not answer.
    """
    configs, found = stream_configs(names, topology.partitions, topology.replicas), await _streams(lane, names)
    gone = [f"stream {name} is gone: the next connection creates it again, without its messages" for name in configs if name not in found]
    complaints = [*gone, *_differences(configs, found), *await takers(lane, names), *await strangers(lane, names)]
    if not gone and (behind := await Epoch(lane, names).complaint(found[names.inbox_stream])) is not None:
        complaints.append(behind)
    return complaints


def _is_of_before_tenures(names: Names, wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    """Return whether a stream is of a version without the fence, with exactly that version's subjects."""
    before = [subject for subject in wanted["subjects"] if not subject.startswith((names.tenure_prefix, names.guard_prefix))]
    return found.get("subjects") == before != wanted["subjects"]


async def _add_tenures(lane: Lane, wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add the subjects of tenures to a stream of an earlier version. Many processes may do this at once."""
    name = wanted["name"]
    log.info("stream %s of an earlier version gets the subjects that the fence needs", name)
    config = found | {"subjects": wanted["subjects"], "allow_msg_ttl": True}
    try:
        return await lane.api(f"STREAM.UPDATE.{name}", config)  # type: ignore[no-any-return]
    except BrokerError as error:
        raise TopologyError(
            f"stream {name} is of an earlier version and cannot get the subjects {wanted['subjects']}: {error}; "
            f"ask a user with the right to run: nats stream edit {name} --subjects={','.join(wanted['subjects'])} --allow-msg-ttl"
        ) from error


async def stream_info(lane: Lane, stream: str) -> dict[str, Any] | None:
    """Return the server's description of a stream, or None if there is no such stream."""
    try:
        return await lane.stream_info(stream)
    except BrokerError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return None
        raise


async def stream_config(lane: Lane, stream: str) -> dict[str, Any] | None:
    """Return a stream's configuration, or None if there is no such stream."""
    info = await stream_info(lane, stream)
    return None if info is None else info["config"]


async def _create(lane: Lane, names: Names, config: dict[str, Any], *, again: bool) -> dict[str, Any]:
    """Create a stream. ``again`` says that other streams of the namespace are in use, so that this one may have been lost."""
    name = config["name"]
    if again and name in (names.inbox_stream, names.by_id_stream):
        config = config | {"first_seq": clock.now_ms() * 1000}
    try:
        made = await lane.api(f"STREAM.CREATE.{name}", config)
    except BrokerError as error:
        code = error.err_code
        if code == STREAM_NAME_IN_USE:  # another process created it at the same moment, perhaps differently
            return await stream_info(lane, name) or {"config": config}
        if code == SUBJECTS_OVERLAP:
            raise TopologyError(f"stream {name} cannot be created: another stream already takes {config['subjects']}") from error
        raise TopologyError(f"stream {name} cannot be created: {error}") from error
    if again:
        log.warning("stream %s was missing from namespace %s, and was created again: its messages are gone", name, names.namespace)
    return made  # type: ignore[no-any-return]


def _partitions_of(config: dict[str, Any]) -> int | None:
    match = re.search(r"partition\((\d+),", str((config.get("subject_transform") or {}).get("dest", "")))
    return int(match[1]) if match else None
