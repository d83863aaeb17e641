"""The JetStream API of the double: JSON requests about streams and consumers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from jetflow.testing.checks import Refusal
from jetflow.testing.consumer import Consumer
from jetflow.testing.store import Message, overlap, to_text
from jetflow.testing.stream import DEFAULTS, Stream, Streams

PAGE = 256
SUBJECTS_PAGE = 100_000
Request = dict[str, Any]


def answer(server: Streams, operation: str, body: bytes) -> dict[str, Any]:
    """Return the server's answer to ``$JS.API.<operation>``."""
    for prefix, (kind, handler) in HANDLERS.items():
        if operation == prefix or operation.startswith(f"{prefix}."):
            try:
                request = json.loads(body) if body else {}
                content = handler(server, operation[len(prefix) + 1 :], request)
            except Refusal as refusal:
                content = {"error": refusal.error}
            return {"type": f"io.nats.jetstream.api.v1.{kind}_response", **content}
    raise KeyError(operation)


def knows(operation: str) -> bool:
    """Return whether the double knows an operation."""
    return any(operation == prefix or operation.startswith(f"{prefix}.") for prefix in HANDLERS)


def stream_of(server: Streams, name: str) -> Stream:
    """Return a stream, or raise Refusal if there is none."""
    stream = server.streams.get(name)
    if stream is None:
        raise Refusal(10059, "stream not found", 404)
    return stream


# ---- account and streams


def _info(server: Streams, _rest: str, _request: Request) -> dict[str, Any]:
    return {"memory": 0, "storage": 0, "streams": len(server.streams), "consumers": sum(len(stream.consumers) for stream in server.streams.values())}


def _described(stream: Stream) -> dict[str, Any]:
    return {
        "config": stream.config,
        "created": to_text(stream.created),
        "state": stream.state(),
        "cluster": {"leader": "memory"},
        "ts": to_text(stream.server.now_ns()),
    }


def _create(server: Streams, name: str, request: Request) -> dict[str, Any]:
    found = server.streams.get(name)
    if found is not None:
        if Stream(server, request).config != found.config:
            raise Refusal(10058, "stream name already in use with a different configuration")
        return _described(found)
    _check_overlap(server, name, request)
    stream = server.streams[name] = Stream(server, request)
    server.streams_changed()
    return _described(stream)


def _check_overlap(server: Streams, name: str, request: Request) -> None:
    for other in server.streams.values():
        if other.name != name and any(overlap(one, two) for one in request.get("subjects", ()) for two in other.subjects):
            raise Refusal(10065, "subjects overlap with an existing stream")


def _update(server: Streams, name: str, request: Request) -> dict[str, Any]:
    stream = stream_of(server, name)
    _check_overlap(server, name, request)
    if (request.get("retention") or DEFAULTS["retention"]) != stream.config["retention"]:
        raise Refusal(10052, "stream configuration update can not change retention policy to/from workqueue")
    stream.configure(request)
    server.streams_changed()
    return _described(stream)


def _stream_info(server: Streams, name: str, request: Request) -> dict[str, Any]:
    stream = stream_of(server, name)
    described = _described(stream)
    pattern = request.get("subjects_filter")
    found = stream.store.subjects(pattern) if pattern else []
    if not found:
        return {"total": 0, "offset": 0, "limit": 0, **described}
    offset = request.get("offset", 0)
    described["state"]["subjects"] = {subject: len(stream.store.by_subject[subject]) for subject in sorted(found)[offset : offset + SUBJECTS_PAGE]}
    return {"total": len(found), "offset": offset, "limit": SUBJECTS_PAGE, **described}


def _stream_list(server: Streams, _rest: str, request: Request) -> dict[str, Any]:
    names, offset = sorted(server.streams), request.get("offset", 0)
    page = [_described(server.streams[name]) for name in names[offset : offset + PAGE]]
    return {"total": len(names), "offset": offset, "limit": PAGE, "streams": page}


def _stream_names(server: Streams, _rest: str, request: Request) -> dict[str, Any]:
    names, offset = sorted(server.streams), request.get("offset", 0)
    return {"total": len(names), "offset": offset, "limit": 1024, "streams": names[offset : offset + 1024]}


def _delete(server: Streams, name: str, _request: Request) -> dict[str, Any]:
    stream = stream_of(server, name)
    for consumer in tuple(stream.consumers.values()):
        consumer.end("409 Consumer Deleted")
    stream.consumers.clear()
    stream.store.messages.clear()
    del server.streams[name]
    server.streams_changed()
    return {"success": True}


def _purge(server: Streams, name: str, request: Request) -> dict[str, Any]:
    stream = stream_of(server, name)
    if request.get("seq") and request.get("keep"):
        raise Refusal(10003, "bad request")
    purged = stream.purge(request.get("filter", ""), request.get("seq", 0), request.get("keep", 0))
    return {"success": True, "purged": purged}


def _message(server: Streams, name: str, request: Request) -> dict[str, Any]:
    store = stream_of(server, name).store
    message: Message | None
    if "last_by_subj" in request:
        message = store.last(request["last_by_subj"])
    elif "next_by_subj" in request:
        message = next(store.after(request.get("seq", 1), [request["next_by_subj"]]), None)
    elif request.get("seq"):
        message = store.messages.get(request["seq"])
    else:
        raise Refusal(10003, "bad request")
    if message is None:
        raise Refusal(10037, "no message found", 404)
    found: dict[str, Any] = {"subject": message.subject, "seq": message.seq, "time": to_text(message.ns)}
    if message.headers:
        found["hdrs"] = base64.b64encode(message.headers).decode()
    if message.data:
        found["data"] = base64.b64encode(message.data).decode()
    return {"message": found}


def _delete_message(server: Streams, name: str, request: Request) -> dict[str, Any]:
    stream = stream_of(server, name)
    if stream.config["deny_delete"]:
        raise Refusal(10057, "message delete not permitted", 500)
    if stream.remove(request["seq"], "deleted") is None:
        past = request["seq"] > stream.store.last_seq
        raise Refusal(10057, "stream store EOF" if past else "no message found", 500)
    return {"success": True}


# ---- consumers


def _create_consumer(server: Streams, rest: str, request: Request) -> dict[str, Any]:
    tokens = rest.split(".", 2)
    if request["stream_name"] != tokens[0]:
        raise Refusal(10056, "stream name in subject does not match request")
    stream, config = stream_of(server, tokens[0]), request["config"]
    name = config.get("name") or config.get("durable_name") or (tokens[1] if len(tokens) > 1 else server.world.token(4))
    found = stream.consumers.get(name)
    if found is not None:
        if found.asked != config:
            if request.get("action") == "create":
                raise Refusal(10148, "consumer already exists")
            changed = Consumer(stream, name, config)
            found.asked, found.config, found.ack_wait, found.max_pending = config, changed.config, changed.ack_wait, changed.max_pending
            changed.ended = True
        return found.info()
    if request.get("action") == "update":
        raise Refusal(10149, "consumer does not exist")
    consumer = Consumer(stream, name, config)
    if stream.workqueue:
        _check_workqueue(stream, consumer)
    stream.consumers[name] = consumer
    server.note("consumer", stream.name, name, 0)
    return consumer.info()


def _check_workqueue(stream: Stream, consumer: Consumer) -> None:
    consumer.ended = True
    if not consumer.explicit:
        raise Refusal(10098, "workqueue stream requires explicit ack")
    if consumer.config["deliver_policy"] != "all":
        raise Refusal(10101, "consumer must be deliver all on workqueue stream")
    if stream.consumers and not consumer.filters:
        raise Refusal(10099, "multiple non-filtered consumers not allowed on workqueue stream")
    for other in stream.consumers.values():
        if not other.filters or any(overlap(one, two) for one in consumer.filters for two in other.filters):
            raise Refusal(10100, "filtered consumer not unique on workqueue stream")
    consumer.ended = False


def _consumer_of(server: Streams, rest: str) -> tuple[Stream, Consumer]:
    name, _, consumer_name = rest.partition(".")
    stream = stream_of(server, name)
    consumer = stream.consumers.get(consumer_name)
    if consumer is None:
        raise Refusal(10014, "consumer not found", 404)
    return stream, consumer


def _consumer_info(server: Streams, rest: str, _request: Request) -> dict[str, Any]:
    return _consumer_of(server, rest)[1].info()


def _delete_consumer(server: Streams, rest: str, _request: Request) -> dict[str, Any]:
    stream, consumer = _consumer_of(server, rest)
    del stream.consumers[consumer.name]
    consumer.end("409 Consumer Deleted")
    server.note("consumer deleted", stream.name, consumer.name, 0)
    return {"success": True}


def _consumer_list(server: Streams, name: str, request: Request) -> dict[str, Any]:
    consumers = sorted(stream_of(server, name).consumers.items())
    offset = request.get("offset", 0)
    page = [consumer.info() for _, consumer in consumers[offset : offset + PAGE]]
    return {"total": len(consumers), "offset": offset, "limit": PAGE, "consumers": page}


def _consumer_names(server: Streams, name: str, request: Request) -> dict[str, Any]:
    names, offset = sorted(stream_of(server, name).consumers), request.get("offset", 0)
    return {"total": len(names), "offset": offset, "limit": 1024, "consumers": names[offset : offset + 1024]}


HANDLERS: dict[str, tuple[str, Callable[[Streams, str, Request], dict[str, Any]]]] = {
    "INFO": ("account_info", _info),
    "STREAM.CREATE": ("stream_create", _create),
    "STREAM.UPDATE": ("stream_update", _update),
    "STREAM.INFO": ("stream_info", _stream_info),
    "STREAM.LIST": ("stream_list", _stream_list),
    "STREAM.NAMES": ("stream_names", _stream_names),
    "STREAM.DELETE": ("stream_delete", _delete),
    "STREAM.PURGE": ("stream_purge", _purge),
    "STREAM.MSG.GET": ("stream_msg_get", _message),
    "STREAM.MSG.DELETE": ("stream_msg_delete", _delete_message),
    "CONSUMER.CREATE": ("consumer_create", _create_consumer),
    "CONSUMER.INFO": ("consumer_info", _consumer_info),
    "CONSUMER.DELETE": ("consumer_delete", _delete_consumer),
    "CONSUMER.LIST": ("consumer_list", _consumer_list),
    "CONSUMER.NAMES": ("consumer_names", _consumer_names),
}
REPLICATED = ("STREAM.PURGE.", "STREAM.MSG.DELETE.")
"""Operations that a stream's log contains beside its messages."""
