"""Finds how the streams of a namespace differ from what the engine needs, and what else takes messages out of them.

People can change a stream, source from it, or add a consumer with the ``nats`` CLI while workers run. Each difference is a sentence that names the
stream and the field, and says how to mend it. Connecting refuses them, and running workers check again every few minutes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from jetflow.broker.transport.codes import STREAM_NOT_FOUND
from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol.subjects import Names

SECOND = 1_000_000_000
LIST_STREAMS = "STREAM.LIST"
"""The API call that shows which streams source or mirror another. A user may lack the right."""

AS_WANTED: dict[str, Any] = {
    "subjects": [], "retention": "limits", "subject_transform": None, "storage": "file", "max_msgs": -1, "max_bytes": -1, "max_age": 0,
    "max_msgs_per_subject": -1, "max_msg_size": -1, "max_consumers": -1, "discard": "old", "discard_new_per_subject": False, "no_ack": False,
    "deny_purge": False, "sealed": False, "mirror": None, "sources": None, "allow_msg_counter": False, "consumer_limits": None,
}  # fmt: skip
"""Fields that must have jetflow's value, with the server's default for a missing field."""
ON = ("allow_msg_schedules", "allow_msg_ttl", "allow_direct", "allow_rollup_hdrs")
"""Fields that must be on where jetflow switches them on. Elsewhere they do no harm."""
AT_LEAST = ("duplicate_window", "subject_delete_marker_ttl")
"""Fields that may be larger, in nanoseconds."""

_FLAGS: dict[str, Callable[[Any], list[str]]] = {
    "subjects": lambda wanted: [f"--subjects={','.join(wanted)}"],
    "subject_transform": lambda wanted: (
        [f"--transform-source={wanted['src']}", f"--transform-destination={wanted['dest']}"] if wanted else ["--no-transform"]
    ),
    "republish": lambda wanted: [f"--republish-source={wanted['src']}", f"--republish-destination={wanted['dest']}", "--no-republish-headers"],
    "max_msgs": lambda wanted: [f"--max-msgs={wanted}"],
    "max_bytes": lambda wanted: [f"--max-bytes={wanted}"],
    "max_age": lambda wanted: [f"--max-age={wanted // SECOND}s"],
    "max_msgs_per_subject": lambda wanted: [f"--max-msgs-per-subject={wanted}"],
    "max_msg_size": lambda wanted: [f"--max-msg-size={wanted}"],
    "max_consumers": lambda wanted: [f"--max-consumers={wanted}"],
    "discard": lambda wanted: [f"--discard={wanted}"],
    "discard_new_per_subject": lambda _: ["--no-discard-per-subject"],
    "no_ack": lambda _: ["--ack"],
    "deny_purge": lambda _: ["--no-deny-purge"],
    "deny_delete": lambda _: ["--no-deny-delete"],
    "duplicate_window": lambda wanted: [f"--dupe-window={wanted // SECOND}s"],
    "subject_delete_marker_ttl": lambda wanted: [f"--subject-del-markers-ttl={wanted // SECOND}s"],
    "allow_msg_schedules": lambda _: ["--allow-schedules"],
    "allow_msg_ttl": lambda _: ["--allow-msg-ttl"],
    "allow_direct": lambda _: ["--allow-direct"],
    "allow_rollup_hdrs": lambda _: ["--allow-rollup"],
}
"""Flags of ``nats stream edit`` that mend a field. The server refuses to change other fields."""


class Wrong(NamedTuple):
    """A field of a stream that does not have the value that jetflow needs."""

    field: str
    found: Any
    wanted: Any


def wrong_fields(wanted: dict[str, Any], found: dict[str, Any]) -> list[Wrong]:
    """Return the fields of a stream's configuration that the engine cannot work with.

    Args:
        wanted: jetflow's configuration.
        found: the server's configuration.
    """
    return list(_wrong_fields(wanted, found))


def _wrong_fields(wanted: dict[str, Any], found: dict[str, Any]) -> Iterator[Wrong]:
    for field, usual in AS_WANTED.items():
        need, has = wanted.get(field, usual), found.get(field, usual)
        if need != _plain(has, need) and (need or has):  # an empty list or object counts as missing
            yield Wrong(field, has, need)
    if "republish" in wanted and _republish(found) != wanted["republish"]:
        yield Wrong("republish", found.get("republish"), wanted["republish"])
    for field in ON:
        if wanted.get(field) and not found.get(field):
            yield Wrong(field, False, True)
    if not wanted.get("deny_delete") and found.get("deny_delete"):
        yield Wrong("deny_delete", True, False)
    for field in AT_LEAST:
        if field in wanted and found.get(field, 0) < wanted[field]:
            yield Wrong(field, found.get(field, 0), wanted[field])
    if found.get("persist_mode") == "async":
        yield Wrong("persist_mode", "async", "default")


def _plain(found: Any, wanted: Any) -> Any:
    """Return the found value without fields that the server adds, and without limits that limit nothing."""
    if isinstance(found, dict):
        return {key: found.get(key) for key in wanted} if isinstance(wanted, dict) else {key: value for key, value in found.items() if value}
    return found


def _republish(found: dict[str, Any]) -> dict[str, Any] | None:
    republish = found.get("republish")
    return republish and {key: value for key, value in republish.items() if value}  # headers_only must be off


def describe(stream: str, wrong: Iterable[Wrong]) -> str:
    """Return one sentence for a stream: the fields, what jetflow needs, and what to do."""
    wrong = list(wrong)
    fields = ", ".join(f"{each.field} = {each.found!r} (jetflow needs {each.wanted!r})" for each in wrong)
    fixed = [each.field for each in wrong if each.field not in _FLAGS]
    if fixed:
        return (
            f"stream {stream} exists with {fields}: the server cannot change {' and '.join(fixed)} of a stream; "
            "rename or remove that stream, or use another namespace"
        )
    flags = shlex.join(flag for each in wrong for flag in _FLAGS[each.field](each.wanted))
    return f"stream {stream} exists with {fields}: run `nats stream edit {stream} {flags}`, or use another namespace"


# ---- other consumers of messages


async def takers(lane: Lane, names: Names) -> list[str]:
    """Return a sentence for each stream that sources or mirrors a work queue, or nothing without the right to look.

    Raises:
        BrokerUnavailableError: the server did not answer.
    """
    found: list[str] = []
    for stream in await _all_streams(lane):
        config = stream["config"]
        origins = [(origin, "sources") for origin in config.get("sources") or ()]
        if config.get("mirror"):
            origins.append((config["mirror"], "mirrors"))
        for origin, does in origins:
            if origin.get("name") in work_queues(names) and not origin.get("external"):
                found.append(
                    f"stream {config['name']} {does} {origin['name']}, and so takes its messages before workers get them: "
                    f"remove it with `nats stream rm {config['name']}`, or without that origin"
                )
    return found


async def strangers(lane: Lane, names: Names) -> list[str]:
    """Return a sentence for each foreign consumer of a work queue, and for each of jetflow's consumers that is paused. A foreign consumer may be
    another account's stream that sources the queue. Return nothing without the right to look.

    Raises:
        BrokerUnavailableError: the server did not answer.
    """
    found: list[str] = []
    for stream in work_queues(names):
        for consumer in await _consumers(lane, stream):
            name = consumer["name"]
            if not _is_ours(names, stream, name):
                found.append(
                    f"consumer {name} of stream {stream} is not one of jetflow's, and takes messages or keeps workers from them: "
                    f"`nats consumer rm {stream} {name}`"
                )
            elif consumer.get("paused"):
                found.append(f"consumer {name} of stream {stream} is paused: `nats consumer resume {stream} {name}`")
    return found


def work_queues(names: Names) -> tuple[str, ...]:
    """Return the streams with workqueue retention: an acked message is gone."""
    return (names.inbox_stream, names.task_stream, names.by_id_stream)


def _is_ours(names: Names, stream: str, consumer: str) -> bool:
    if consumer.startswith(("JS_SRC_", "JS_MIRROR_")):
        return False
    if stream == names.task_stream:
        return consumer.startswith("task-")
    if stream == names.by_id_stream:
        return consumer.startswith("router-")
    return consumer.count("-") >= 2


async def _all_streams(lane: Lane) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = await _if_allowed(lane, LIST_STREAMS, {"offset": len(found)})
        streams = page.get("streams") or []
        found += streams
        if not streams or len(found) >= page.get("total", 0):
            return found


async def _consumers(lane: Lane, stream: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = await _if_allowed(lane, f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        consumers = page.get("consumers") or []
        found += consumers
        if not consumers or len(found) >= page.get("total", 0):
            return found


async def _if_allowed(lane: Lane, operation: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to an API call that this user may not be allowed to make, or an empty one."""
    subject = f"$JS.API.{operation}"
    lane.wire.optional.add(subject)
    try:
        return await lane.api(operation, request)  # type: ignore[no-any-return]
    except BrokerUnavailableError:
        raise
    except BrokerError as error:
        if error.err_code != STREAM_NOT_FOUND:
            lane.wire.refused.add(subject)
        return {}
