"""The streams of a namespace: made once, by whoever comes first, and checked by everybody."""

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.topology import stream_configs
from jetflow.core.ids import partition_of, to_token
from jetflow.errors import BrokerError, InvalidInputError, TopologyError
from jetflow.protocol.headers import header_block
from jetflow.protocol.subjects import Names
from tests.broker.conftest import until


async def _delete(broker: Broker) -> None:
    """Removes the streams of a test's namespace from the shared server."""
    for stream in stream_configs(broker.names, 1, 1):
        await broker.lane.api(f"STREAM.DELETE.{stream}")
    await broker.close()


async def _created(broker: Broker, config: dict[str, Any]) -> None:
    await broker.lane.api(f"STREAM.CREATE.{config['name']}", config)


async def test_twenty_clients_at_once_make_one_topology(server: LocalServer, namespace: str) -> None:
    brokers = await asyncio.gather(*(Broker.connect(server.url, namespace=namespace) for _ in range(20)))
    assert {broker.topology.partitions for broker in brokers} == {64}
    names = brokers[0].names
    for stream in stream_configs(names, 64, 1):
        info = await brokers[0].lane.api(f"STREAM.INFO.{stream}")
        assert info["config"]["storage"] == "file"
        assert info["state"]["messages"] == 0
    assert (await brokers[0].lane.api(f"STREAM.INFO.{names.inbox_stream}"))["config"]["retention"] == "workqueue"
    await asyncio.gather(*(broker.close() for broker in brokers[1:]))
    await _delete(brokers[0])


async def test_those_who_name_no_partitions_adopt_what_another_makes_at_the_same_moment(server: LocalServer, namespace: str) -> None:
    named = [Broker.connect(server.url, namespace=namespace, partitions=8) for _ in range(5)]
    brokers = await asyncio.gather(*named)
    brokers += await asyncio.gather(*(Broker.connect(server.url, namespace=namespace) for _ in range(5)))
    assert {broker.topology.partitions for broker in brokers} == {8}
    await asyncio.gather(*(broker.close() for broker in brokers[1:]))
    await _delete(brokers[0])


async def test_a_race_for_the_number_of_partitions_ends_well_for_those_who_have_no_wish(server: LocalServer, namespace: str) -> None:
    outcomes = await asyncio.gather(
        *(Broker.connect(server.url, namespace=namespace, partitions=8 if number % 2 else None) for number in range(10)), return_exceptions=True
    )
    brokers = [outcome for outcome in outcomes if isinstance(outcome, Broker)]
    assert all(isinstance(outcome, Broker) for outcome in outcomes[::2])
    assert all(isinstance(outcome, Broker) or "partitions, not 8" in str(outcome) for outcome in outcomes)
    assert len({broker.topology.partitions for broker in brokers}) == 1
    await asyncio.gather(*(broker.close() for broker in brokers[1:]))
    await _delete(brokers[0])


async def test_other_partitions_than_those_of_the_namespace_are_refused(server: LocalServer, namespace: str) -> None:
    broker = await Broker.connect(server.url, namespace=namespace, partitions=16)
    with pytest.raises(TopologyError, match=f"namespace '{namespace}' has 16 partitions, not 32"):
        await Broker.connect(server.url, namespace=namespace, partitions=32)
    same = await Broker.connect(server.url, namespace=namespace, partitions=16)
    await same.close()
    await _delete(broker)


@pytest.mark.parametrize("partitions", [0, -1, 4097])
async def test_an_impossible_number_of_partitions_is_refused(server: LocalServer, namespace: str, partitions: int) -> None:
    with pytest.raises(InvalidInputError, match="partitions must be 1 to 4096"):
        await Broker.connect(server.url, namespace=namespace, partitions=partitions)


async def test_replicas_of_an_existing_namespace_are_what_they_are(server: LocalServer, namespace: str) -> None:
    broker = await Broker.connect(server.url, namespace=namespace)
    other = await Broker.connect(server.url, namespace=namespace, replicas=3)
    assert other.topology.replicas == 1
    await other.close()
    await _delete(broker)


async def test_more_replicas_than_servers_are_refused_with_the_servers_words(server: LocalServer, namespace: str) -> None:
    with pytest.raises(TopologyError, match="cannot be created"):
        await Broker.connect(server.url, namespace=namespace, replicas=3)


@pytest.mark.parametrize(
    ("stream", "field", "value"),
    [
        ("inbox_stream", "retention", "limits"),
        ("state_stream", "max_msgs_per_subject", 5),
        ("state_stream", "republish", {"src": "$KV.{ns}_state.>", "dest": "elsewhere.{ns}.>"}),
        ("timeline_stream", "subjects", ["$KV.{ns}_timeline.*.*.*"]),
        ("timeline_stream", "allow_direct", False),
        ("signal_stream", "allow_msg_ttl", False),
        ("signal_stream", "allow_rollup_hdrs", False),
    ],
)
async def test_a_stream_with_another_configuration_is_named_with_its_field(
    server: LocalServer, broker: Broker, namespace: str, stream: str, field: str, value: Any
) -> None:
    names = Names(namespace)
    name = getattr(names, stream)
    config = stream_configs(names, 64, 1)[name]
    if isinstance(value, dict):
        value = {key: text.replace("{ns}", namespace) for key, text in value.items()}
    elif isinstance(value, list):
        value = [text.replace("{ns}", namespace) for text in value]
    await _created(broker, config | {field: value})
    with pytest.raises(TopologyError, match=rf"stream {name} exists with.*{field}"):
        await Broker.connect(server.url, namespace=namespace)
    for created in stream_configs(names, 64, 1):
        with suppress(BrokerError):  # those after the one with the other configuration were not created
            await broker.lane.api(f"STREAM.DELETE.{created}")


async def test_a_foreign_stream_of_the_same_name_is_left_alone(server: LocalServer, broker: Broker, namespace: str) -> None:
    stream = Names(namespace).inbox_stream
    await _created(broker, {"name": stream, "subjects": [f"{namespace}.foreign"], "storage": "memory"})
    with pytest.raises(TopologyError, match=rf"stream {stream} exists with subjects"):
        await Broker.connect(server.url, namespace=namespace)
    assert (await broker.lane.api(f"STREAM.INFO.{stream}"))["config"]["subjects"] == [f"{namespace}.foreign"]
    await broker.lane.api(f"STREAM.DELETE.{stream}")


async def test_subjects_taken_by_another_stream_are_named(server: LocalServer, broker: Broker, namespace: str) -> None:
    await _created(broker, {"name": f"{namespace}-other", "subjects": [f"{namespace}.a.b.>"], "storage": "memory"})
    with pytest.raises(TopologyError, match="another stream already takes"):
        await Broker.connect(server.url, namespace=namespace)
    await broker.lane.api(f"STREAM.DELETE.{namespace}-other")


async def test_namespaces_live_side_by_side(server: LocalServer, namespace: str) -> None:
    one = await Broker.connect(server.url, namespace=namespace, partitions=4)
    two = await Broker.connect(server.url, namespace=f"{namespace}_2", partitions=8)
    for broker in (one, two):
        ack = await broker.lane.publish(broker.names.command("q", "w", "cancel"), b"")
        assert (ack.stream, ack.seq) == (broker.names.inbox_stream, 1)
    assert (one.topology.partitions, two.topology.partitions) == (4, 8)
    await _delete(one)
    await _delete(two)


async def test_a_state_written_is_told_to_those_who_listen(broker: Broker, queue: str) -> None:
    heard: list[tuple[str, bytes]] = []
    broker.wire.listen(f"jetflow_changed.{queue}.>", lambda subject, _r, data, _h: heard.append((bytes(subject).decode(), bytes(data))))
    await broker.lane.publish(f"$KV.jetflow_state.{queue}.w", b"{}")
    await until(lambda: heard, "the notice comes")
    assert heard == [(f"jetflow_changed.{queue}.w", b"{}")]


@pytest.mark.parametrize("partitions", [1, 7, 64, 4096])
async def test_the_partition_is_what_the_server_computes(server: LocalServer, namespace: str, partitions: int) -> None:
    broker = await Broker.connect(server.url, namespace=namespace, partitions=partitions)
    chance = random.Random(partitions)
    alphabet = "abcXYZ0189_-. *>$/äß漢🎈=\n"
    pairs = {tuple(to_token("".join(chance.choices(alphabet, k=chance.randint(1, 40)))) for _ in range(2)) for _ in range(500)}
    await asyncio.gather(*(broker.lane.publish(broker.names.command(queue, workflow, "cancel"), b"") for queue, workflow in pairs))
    subjects: list[str] = []
    while len(subjects) < len(pairs):
        info = await broker.lane.api(f"STREAM.INFO.{broker.names.inbox_stream}", {"subjects_filter": ">", "offset": len(subjects)})
        subjects += info["state"]["subjects"]
    expected = {f"{namespace}.{partition_of(queue, workflow, partitions)}.{queue}.{workflow}.cancel" for queue, workflow in pairs}
    assert set(subjects) == expected
    await _delete(broker)


# ---- a namespace made by the version before tenures


def before_tenures(names: Names) -> dict[str, dict[str, Any]]:
    """The configurations of that version."""
    configs = stream_configs(names, 64, 1)
    for config in configs.values():
        config["subjects"] = [subject for subject in config["subjects"] if not subject.startswith((names.tenure_prefix, names.guard_prefix))]
    for stream in (names.task_stream, names.dead_stream):
        del configs[stream]["allow_msg_ttl"]
    return configs


async def _made_before(broker: Broker, names: Names) -> dict[str, dict[str, Any]]:
    """Makes the streams of that version, with a message in each but the inbox; gives what the server made of them."""
    made: dict[str, dict[str, Any]] = {}
    for stream, config in before_tenures(names).items():
        await _created(broker, config)
        if stream != names.inbox_stream:
            await broker.lane.publish(config["subjects"][0].replace(">", "a.b.c"), b"kept")
        made[stream] = await _config(broker, stream)
    return made


async def _config(broker: Broker, stream: str) -> dict[str, Any]:
    """As the server has it, but for what it says about itself."""
    config = (await broker.lane.api(f"STREAM.INFO.{stream}"))["config"]
    return {key: value for key, value in config.items() if key != "metadata"}


@pytest.mark.parametrize("at_once", [1, 8])
async def test_a_namespace_of_before_tenures_is_given_their_subjects(server: LocalServer, broker: Broker, namespace: str, at_once: int) -> None:
    names = Names(namespace)
    made = await _made_before(broker, names)
    assert made[names.task_stream].get("allow_msg_ttl") in (None, False)
    others = await asyncio.gather(*(Broker.connect(server.url, namespace=namespace) for _ in range(at_once)))
    others.append(await Broker.connect(server.url, namespace=namespace))
    for stream, wanted in stream_configs(names, 64, 1).items():
        owned = stream in names.owned_streams.values()
        changed = {"subjects": wanted["subjects"], "allow_msg_ttl": True} if owned else {}
        assert await _config(broker, stream) == made[stream] | changed, "nothing else"
        state = (await broker.lane.api(f"STREAM.INFO.{stream}"))["state"]
        assert state["messages"] == (stream != names.inbox_stream), "and nothing of it is lost"
    assert {kind for kind in names.owned_streams if await _revokes(others[0], kind)} == set(names.owned_streams)
    await asyncio.gather(*(other.close() for other in others[1:]))
    await _delete(others[0])


async def _revokes(broker: Broker, kind: str) -> bool:
    ack = await broker.lane.publish(broker.names.revocation(kind, "q", "t"), b"", header_block(Nats_TTL="60s"))
    return ack.stream == broker.names.owned_streams[kind]


async def test_work_of_before_goes_on_when_only_some_streams_were_changed(server: LocalServer, broker: Broker, namespace: str) -> None:
    """As when the first to come was ended half-way."""
    names = Names(namespace)
    for number, (stream, config) in enumerate(before_tenures(names).items()):
        await _created(broker, config if number % 2 else stream_configs(names, 64, 1)[stream])
    other = await Broker.connect(server.url, namespace=namespace)
    for stream, wanted in stream_configs(names, 64, 1).items():
        assert (await other.lane.api(f"STREAM.INFO.{stream}"))["config"]["subjects"] == wanted["subjects"]
    await _delete(other)


@pytest.mark.parametrize(
    ("stream", "subjects"),
    [
        ("inbox_stream", ["{ns}.*.*.>"]),
        ("inbox_stream", ["{ns}.*.*.>", "{ns}_timer.>", "{ns}_more.>"]),
        ("timeline_stream", ["$KV.{ns}_timeline.>", "{ns}_tenure.timeline.>"]),
        ("timeline_stream", ["$KV.{ns}_timeline.>", "{ns}_tenure.timeline.>", "{ns}_guard.{ns}_timeline.>", "{ns}_more.>"]),
        ("state_stream", ["$KV.{ns}_state.*.*"]),
        ("task_stream", ["{ns}_task.>", "{ns}_tenure.tasks.*.>"]),
    ],
)
async def test_one_with_other_subjects_than_those_of_before_is_refused_and_left(
    server: LocalServer, broker: Broker, namespace: str, stream: str, subjects: list[str]
) -> None:
    names = Names(namespace)
    name, other = getattr(names, stream), [subject.replace("{ns}", namespace) for subject in subjects]
    configs = before_tenures(names)
    await _created(broker, configs[name] | {"subjects": other})
    with pytest.raises(TopologyError, match=rf"stream {name} exists with subjects = "):
        await Broker.connect(server.url, namespace=namespace)
    assert (await broker.lane.api(f"STREAM.INFO.{name}"))["config"]["subjects"] == other
    for created in configs:
        with suppress(BrokerError):
            await broker.lane.api(f"STREAM.DELETE.{created}")


async def test_who_may_not_change_a_stream_of_before_is_told_what_to_do(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        """authorization { users: [
            { user: admin, password: p },
            { user: client, password: p, permissions { publish { deny: "$JS.API.STREAM.UPDATE.>" } } }
        ] }"""
    )
    async with LocalServer(tmp_path / "store", config=config) as server:
        admin = await Broker.connect(server.url.replace("//", "//admin:p@"), namespace="other")
        names = Names("jetflow")
        await _made_before(admin, names)
        with pytest.raises(TopologyError) as raised:
            await Broker.connect(server.url.replace("//", "//client:p@"))
        assert "stream JETFLOW is of an earlier version and cannot get the subjects" in str(raised.value)
        assert "nats stream edit JETFLOW --subjects=jetflow.*.*.>,jetflow_timer.>,jetflow_tenure.inbox.> --allow-msg-ttl" in str(raised.value)
        assert (await admin.lane.api("STREAM.INFO.JETFLOW"))["config"]["subjects"] == ["jetflow.*.*.>", "jetflow_timer.>"]
        await admin.close()
