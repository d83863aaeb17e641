"""Real workers and clients upon the double: the same seed gives the same run, and faults do what they say."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jetflow import Client, Worker, activity, workflow
from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError
from jetflow.testing.cluster import client_for, connect
from jetflow.testing.server import MemoryServer
from jetflow.testing.trace import story
from jetflow.testing.virtual import Process, StuckError, World
from jetflow.testing.wire import MemoryWire

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = 4


@activity
async def add_one(number: int) -> int:
    await asyncio.sleep(0.05)
    return number + 1


@workflow
async def three_steps(number: int) -> int:
    for _ in range(3):
        number = await add_one(number)
    return number


class Simulation:
    """Two workers and a client that starts some workflows."""

    def __init__(self, world: World, replicas: int | None = None) -> None:
        self.world = world
        self.server = MemoryServer(world)
        self.server.trace = []
        self.replicas = replicas
        self.workers: list[Process] = []
        self.user = world.process("user")
        for _ in range(2):
            self.worker()
        self.results = self.user.spawn(self._use())

    def worker(self) -> Process:
        process = self.world.process(f"worker{len(self.workers) + 1}")
        process.spawn(self._serve(process))
        self.workers.append(process)
        return process

    async def _client(self, process: Process) -> Client:
        while True:
            try:
                return await client_for(self.server, process, partitions=4, replicas=self.replicas)
            except BrokerError:
                await asyncio.sleep(0.2)

    async def _serve(self, process: Process) -> None:
        client = await self._client(process)
        async with Worker(client, task_queue="q", workflows=[three_steps], activities=[add_one]):
            await asyncio.Event().wait()

    async def _use(self) -> list[int]:
        client = await self._client(self.user)

        async def use(number: int) -> int:
            while True:
                try:
                    handle = await client.start(three_steps, number, workflow_id=f"w{number}", task_queue="q", if_exists="attach")
                    return await handle.result()  # type: ignore[no-any-return]
                except BrokerError:
                    await asyncio.sleep(0.2)

        return await asyncio.gather(*(use(number) for number in range(WORKFLOWS)))

    def faults(self) -> None:
        """Something happens to somebody, again and again."""
        rng, world = self.world.rng, self.world

        def fault(_: object) -> None:
            if self.results.done():
                return
            world.after(rng.random(), fault)
            living = [process for process in self.workers if not process.dead]
            process = living[rng.randrange(len(living))]
            connection = self.server.connections[rng.randrange(len(self.server.connections))] if self.server.connections else None
            kind = rng.randrange(7)
            if kind == 0:
                process.kill()
                self.worker()
            elif kind == 1:
                process.pause()
                world.after(4 * rng.random(), lambda _: process.resume())
            elif kind == 2:
                self.server.restart(down=rng.random(), resurrect=True, lose=("ids",))
            elif connection is not None and kind == 3:
                connection.stall()
                world.after(9 * rng.random(), lambda _: connection.unstall())
            elif connection is not None and kind == 4:
                connection.cut(deliver_late=3 * rng.random())
            elif connection is not None and kind == 5:
                connection.deaf()
            elif connection is not None:
                connection.cut()

        world.after(rng.random() / 2, fault)

    def finish(self) -> str:
        """Runs to the end; a digest of all that happened."""
        results = self.world.finish(self.results, 300)
        assert results == [number + 3 for number in range(WORKFLOWS)]
        assert not [process.errors for process in self.world.processes if process.errors]
        return hashlib.sha256(repr((self.world.steps, self.world.now, self.server.trace)).encode()).hexdigest()


def digest(seed: int, replicas: int | None = None) -> str:
    """One run with faults."""
    with World(seed) as world:
        simulation = Simulation(world, replicas)
        simulation.faults()
        return simulation.finish()


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    assert digest(7) == digest(7)
    code = "from tests.double.test_world import digest; print(digest(5), digest(6), digest(5, 3))"
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}
        )
        runs.append(done.stdout.split())
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


@pytest.mark.parametrize("replicas", [None, 3])
@pytest.mark.parametrize("seed", range(8))
def test_faults(seed: int, replicas: int | None) -> None:
    digest(seed, replicas)


@pytest.mark.parametrize("replicas", [None, 3])
def test_a_worker_may_be_killed_at_any_callback(replicas: int | None) -> None:
    for number in range(0, 400, 37):
        with World(number) as world:
            simulation = Simulation(world, replicas)
            victim, left = simulation.workers[number % 2], number

            def strike(process: Process, simulation: Simulation = simulation) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    process.kill()
                    simulation.worker()

            victim.on_step = strike
            simulation.finish()
            assert " stored " in story(simulation.server.trace or [], "KV_jetflow_timeline")


def alone(test: Callable[[World, MemoryServer, Process, MemoryWire, Lane], Any]) -> None:
    """Runs a test with one connected process; what it returns is awaited there."""
    with World(1) as world:
        server, process = MemoryServer(world), world.process("p")

        async def begin() -> Any:
            broker = await connect(server, process, partitions=4)
            return test(world, server, process, broker.wire, broker.lane)  # type: ignore[arg-type]

        coro = world.finish(process.spawn(begin()))
        world.finish(process.spawn(coro), 120)
        assert not process.errors


KEY = "$KV.jetflow_timeline.q.a."


def stored(server: MemoryServer) -> list[str]:
    return [message.subject[len(KEY) :] for message in server.streams["KV_jetflow_timeline"].messages.values()]


def test_bytes_of_a_stalled_connection_arrive_after_those_of_its_successor() -> None:
    async def test(world: World, server: MemoryServer, _process: Process, wire: MemoryWire, lane: Lane) -> None:
        old = wire.connection
        assert old is not None
        old.stall()
        late = asyncio.ensure_future(lane.publish(f"{KEY}late", b""))
        with pytest.raises(BrokerUnavailableError):
            await late
        while wire.connection is old:
            await asyncio.sleep(0.1)  # until too many of its pings have had no answer
        await lane.publish(f"{KEY}new", b"")
        old.unstall()
        await asyncio.sleep(0.1)
        assert stored(server) == ["new", "late"]
        assert not old.open
        assert 15 <= world.now < 17

    alone(test)


def test_of_a_connection_that_is_cut_a_part_arrives_late() -> None:
    async def test(_world: World, server: MemoryServer, _process: Process, wire: MemoryWire, lane: Lane) -> None:
        connection = wire.connection
        assert connection is not None
        connection.stall()
        for number in range(10):
            wire.send(f"{KEY}{number}", b"")
        await asyncio.sleep(0.05)
        connection.cut(deliver_late=5, part=0.5)
        await asyncio.sleep(1)
        assert wire.is_connected
        await lane.publish(f"{KEY}new", b"")
        assert stored(server) == ["new"]
        await asyncio.sleep(5)
        assert stored(server) == ["new", "0", "1", "2", "3", "4"]

    alone(test)


def test_answers_can_be_lost_repeated_and_delayed() -> None:
    async def test(_world: World, server: MemoryServer, _process: Process, wire: MemoryWire, lane: Lane) -> None:
        verdicts: list[str | float | None] = ["drop", "twice", 2.0]
        server.on_reply = lambda _name, _subject, _data, _headers: verdicts.pop(0) if verdicts else None
        begun = asyncio.get_running_loop().time()
        with pytest.raises(BrokerUnavailableError):
            await lane.publish(f"{KEY}1", b"")
        assert 10 <= asyncio.get_running_loop().time() - begun < 11
        await lane.publish(f"{KEY}2", b"")
        begun = asyncio.get_running_loop().time()
        await lane.publish(f"{KEY}3", b"")
        assert asyncio.get_running_loop().time() - begun >= 2
        connection = wire.connection
        assert connection is not None
        connection.deaf()
        with pytest.raises(BrokerUnavailableError):
            await lane.publish(f"{KEY}4", b"")
        await wire.connected(30)
        assert stored(server) == ["1", "2", "3", "4"]

    alone(test)


def test_nothing_of_a_killed_process_runs_and_what_it_wrote_arrives() -> None:
    with World(3) as world:
        server, process, other = MemoryServer(world), world.process("killed"), world.process("other")
        after: list[str] = []

        async def work() -> None:
            lane = (await connect(server, process, partitions=4)).lane
            try:
                await lane.publish(f"{KEY}1", b"")
                lane.wire.send(f"{KEY}2", b"")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                process.kill()
                lane.wire.send(f"{KEY}3", b"")  # never leaves the process
                await asyncio.sleep(0)
            finally:
                after.append("finally")

        process.spawn(work())
        world.run(1)
        assert stored(server) == ["1", "2"]
        assert not server.connections
        assert not after
        assert other.errors == []
    assert not process.errors


def test_a_paused_process_stands_still_and_its_timers_fire_when_it_goes_on() -> None:
    with World(3) as world:
        process = world.process("p")
        ticks: list[float] = []

        async def tick() -> None:
            while True:
                await asyncio.sleep(1)
                ticks.append(world.now)

        process.spawn(tick())
        world.run(2.5)
        process.pause()
        world.run(10)
        assert len(ticks) == 2
        process.resume()
        world.run(10.5)
        assert len(ticks) == 3
        process.clock_skew = 100.0
        with pytest.raises(StuckError):
            world.run_until(lambda: len(ticks) > 9, 3)


def test_values_come_back_after_a_crash_once_their_marker_has_expired() -> None:
    async def test(_world: World, server: MemoryServer, _process: Process, wire: MemoryWire, lane: Lane) -> None:
        for key in ("marked", "purged", "kept"):
            await lane.publish(f"{KEY}{key}", b"1")
        await lane.publish(f"{KEY}marked", b"", b"NATS/1.0\r\nKV-Operation:PURGE\r\nNats-TTL:1s\r\n\r\n")
        await lane.api("STREAM.PURGE.KV_jetflow_timeline", {"filter": f"{KEY}purged"})
        await asyncio.sleep(3)
        assert stored(server) == ["kept"]
        server.restart(resurrect=True)
        await asyncio.sleep(0.05)
        await wire.connected(10)
        assert stored(server) == ["marked", "kept"]

    alone(test)


def test_every_message_ever_stored_is_kept_for_who_asks_for_it() -> None:
    async def test(_world: World, server: MemoryServer, _process: Process, _wire: MemoryWire, lane: Lane) -> None:
        server.keep = {"KV_jetflow_timeline": []}
        await lane.publish(f"{KEY}1", b"1")
        await lane.publish(f"{KEY}1", b"2")
        with pytest.raises(ConflictError):
            await lane.publish(f"{KEY}1", b"3", b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence:1\r\n\r\n")
        assert [message.data for _, message in server.keep["KV_jetflow_timeline"]] == [b"1", b"2"]

    alone(test)
