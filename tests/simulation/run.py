"""One schedule: the world of a seed, from its first callback until everything has settled."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import msgspec

from jetflow import Client, Worker, worker
from jetflow.core.times import to_iso
from jetflow.engine.signals import router
from jetflow.engine.upkeep import lifecycle
from jetflow.errors import (
    BrokerError,
    ConflictError,
    FailureError,
    JetflowError,
    ResultTimeoutError,
    WorkflowAlreadyClosedError,
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
)
from jetflow.protocol.headers import EXPIRE
from jetflow.protocol.subjects import Names
from jetflow.testing.cluster import client_for
from jetflow.testing.network import Connection
from jetflow.testing.server import MemoryServer
from jetflow.testing.store import Message
from jetflow.testing.virtual import EPOCH, Process, StuckError, World
from tests.simulation import workflows
from tests.simulation.plan import BUSY, Call, Fault, Plan, draw
from tests.simulation.workflows import ACTIVITIES, QUEUE, REMOTE, REMOTE_ACTIVITIES, play

LOOK = 0.5
"""Seconds between two looks whether everything has settled."""
SETTLE = 75.0
"""Seconds of the quiet period at most."""
NUDGE = 6.0
"""Seconds after the last fault until workflows that wait for a signal that nobody sends are terminated."""
NAMES = Names()
MAY_STAY = (NAMES.tenure_prefix, NAMES.guard_prefix)


COMMITS = (NAMES.timeline_prefix, NAMES.state_prefix, f"{NAMES.namespace}.")
ENDS = (b'"type":"terminated"', b'"type":"completed"', b'"type":"failed"')


def _unstall(connection: Connection) -> None:
    connection.unstall()


def _cut_late(item: tuple[Connection, float]) -> None:
    connection, late = item
    connection.cut(deliver_late=late)


class Kept(dict[int, Message]):
    """Every message that a stream ever had, by position; stands for the list that ``MemoryServer.keep`` asks for."""

    def append(self, item: tuple[float, Message]) -> None:
        self[item[1].seq] = item[1]


class Keeps(dict[str, Kept]):
    def __contains__(self, stream: object) -> bool:
        return True

    def __missing__(self, stream: str) -> Kept:
        kept = self[stream] = Kept()
        return kept


class Asked:
    """A call of a client and what became of it.

    Attributes:
        outcome: a value, the exception, or None while there is none.
        run: the run id of the handle that a start gave.
        result: of the run, for a start: what ``handle.result()`` gave or raised.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.id = call.id
        self.begun = 0.0
        self.ended: float | None = None
        self.outcome: Any = None
        self.run: int | None = None
        self.result: Any = None
        self.result_at: float | None = None
        self.told = asyncio.Event()

    def __repr__(self) -> str:
        return f"{self.call.what} {self.id} {self.call.facts}: {self.outcome!r}, run {self.run}, result {self.result!r}"


class Logged(logging.Handler):
    """Log lines of the run that is under way."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self.simulation = simulation
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        world = self.simulation.world
        if self.simulation.over:
            return
        name = world.current.name if world.current is not None else "-"
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" [{type(record.exc_info[1]).__name__}: {record.exc_info[1]}]"
        if record.levelno >= logging.ERROR:
            self.errors.append(f"{name}: {text}")
        self.simulation.note(name, record.levelname.lower(), text)


class Simulation:
    """Workers, clients and a server in the world of one seed.

    Attributes:
        trace: everything that happened, in order: tuples (time, process, what, stream, subject, …).
        kept: every message ever stored, by stream and position.
        asked: what clients asked for.
        skews: by how much the clock of each process is wrong, in seconds.
        calm_at: when the last fault was over.
    """

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.server = server = MemoryServer(world)
        self.trace: list[tuple[Any, ...]] = []
        self.kept = Keeps()
        server.trace, server.keep = self.trace, self.kept  # type: ignore[assignment]
        self.asked: list[Asked] = []
        self.workers: list[Process] = []
        self.far_workers: list[Process] = []
        self.all_workers: list[tuple[Process, Worker]] = []
        self.stops: dict[Process, asyncio.Event] = {}
        self.leaving: dict[Process, asyncio.Task[None]] = {}
        self.skews: dict[str, float] = {}
        self.stalled: list[Connection] = []
        self.resumed: dict[str, list[tuple[float, float]]] = {}
        self.paused_at: dict[Process, float] = {}
        self.clients: list[Client | None] = [None] * plan.clients
        self.client_tasks: list[asyncio.Task[None]] = []
        self.calm_at: float | None = None
        self.probed: list[asyncio.Task[Any]] = []
        self.crashes: list[str] = []
        self.over = False
        self.settled = False
        self.logged = Logged(self)
        workflows.journal.note, workflows.journal.chance = self.note, Random(f"{plan.seed}/activities").random
        if not plan.realistic:
            world.replace(worker, "SWEEP_EVERY", 0.25)
            world.replace(router, "LOOK", 0.5)
            world.replace(lifecycle, "LOOK_EVERY", 60)
        for _ in range(plan.workers):
            self.add_worker()
        if plan.remote:
            self.add_far_worker()
        for number in range(plan.clients):
            process = world.process(f"user{number + 1}")
            self.client_tasks.append(process.spawn(self._use(process, number)))
        for fault in plan.faults:
            world.at(fault.at, self._strike, fault)
        world.at(BUSY, self._heal)

    def note(self, process: str, what: str, subject: str, *facts: Any) -> None:
        """Writes a line of the story."""
        self.trace.append((round(self.world.now, 6), process, what, "", subject, *facts))

    # ---- processes

    def _skew(self, process: Process) -> None:
        if self.plan.skew:
            process.clock_skew = self.skews[process.name] = (2 * self.world.rng.random() - 1) * self.plan.skew

    def add_worker(self) -> None:
        process = self.world.process(f"worker{len(self.all_workers) + len(self.stops) + 1}")
        self._skew(process)
        stop = self.stops[process] = asyncio.Event()
        self.workers.append(process)
        process.spawn(self._serve(process, stop, QUEUE))

    def add_far_worker(self) -> None:
        process = self.world.process(f"far{len(self.far_workers) + 1}")
        self._skew(process)
        stop = self.stops[process] = asyncio.Event()
        self.far_workers.append(process)
        process.spawn(self._serve(process, stop, REMOTE))

    async def _client(self, process: Process) -> Client:
        while True:
            try:
                return await client_for(self.server, process, partitions=self.plan.partitions, replicas=self.plan.replicas)
            except BrokerError:
                await asyncio.sleep(0.2)

    async def _serve(self, process: Process, stop: asyncio.Event, queue: str) -> None:
        client = await self._client(process)
        own = {"workflows": [play], "activities": ACTIVITIES} if queue == QUEUE else {"activities": REMOTE_ACTIVITIES}
        serving = Worker(
            client, task_queue=queue, max_cached_workflows=self.plan.cached, graceful_timeout=self.plan.grace, activity_lease="2s", **own  # type: ignore[arg-type]
        )  # fmt: skip
        self.all_workers.append((process, serving))
        try:
            await serving.run(stop)
        except Exception as error:
            self.crashes.append(f"{process.name} ended: {error!r}")
            raise
        await client.close()
        self.note(process.name, "stopped", "")
        process.kill()

    def living(self, processes: list[Process]) -> list[Process]:
        return [process for process in processes if not process.dead]

    # ---- faults

    def _strike(self, fault: Fault) -> None:
        world, server, far = self.world, self.server, self.far_workers
        pool = self.living(self.workers if not far or fault.victim % 5 else far)
        process = pool[fault.victim % len(pool)] if pool else None
        connections = [connection for connection in server.connections if not connection.lost]
        connection = connections[fault.victim % len(connections)] if connections else None
        name = process.name if process is not None else "-"
        match fault.what:
            case "pause" | "pause for long" if process is not None:
                length = fault.amount * 2.5 + 0.05 if fault.what == "pause" else 3.1 + 6 * fault.amount
                self.note(name, "FAULT", f"paused for {length:.3f} s")
                self._pause(process)
                world.after(length, self._resume, process)
            case "kill" if process is not None:
                self._kill(process, fault)
            case "kill at a step" if process is not None:
                left = int(600 * fault.amount**2)

                def strike(victim: Process) -> None:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        self._kill(victim, fault)

                process.on_step = strike
            case "kill after a write" if process is not None:
                self._kill_after_a_write(process, fault)
            case "partition" | "partition late" if process is not None:
                mine = [one for one in connections if one.wire.process is process]
                length = 3 + 4 * fault.amount**2 if fault.what == "partition" else 4 * fault.amount**2
                late = 0.05 + 8 * fault.part**2
                ends = f", then is cut off; the rest arrives {late:.3f} s later" if fault.what == "partition late" else ""
                self.note(name, "FAULT", f"sends nothing for {length:.3f} s{ends}")
                for one in mine:
                    one.stall()
                    if fault.what == "partition":
                        self.stalled.append(one)
                        world.after(length, _unstall, one)
                    else:
                        world.after(length, _cut_late, (one, late))
            case "roll" if process is not None:
                self.note(name, "FAULT", "is replaced")
                self._stop(process)
                self._another(process)
            case "leave" if process is not None and len(pool) > 1:
                self.note(name, "FAULT", "stops")
                self._stop(process)
            case "join":
                self.note("-", "FAULT", "another worker")
                self.add_worker()
            case "stall" if connection is not None:
                length = fault.amount**2 * 12
                self.note(connection.name, "FAULT", f"connection {connection.number} stalls for {length:.3f} s")
                connection.stall()
                self.stalled.append(connection)
                world.after(length, lambda _: connection.unstall())
            case "cut" if connection is not None:
                self.note(connection.name, "FAULT", f"connection {connection.number} is cut")
                connection.cut()
            case "cut late" if connection is not None:
                stalls, late = 0.3 * fault.part, 0.05 + 6 * fault.amount**2
                self.note(
                    connection.name,
                    "FAULT",
                    f"connection {connection.number} stalls {stalls:.3f} s, then is cut; the rest arrives {late:.3f} s later",
                )
                connection.stall()
                world.after(stalls, lambda _: connection.cut(deliver_late=late))
            case "deaf" if connection is not None:
                self.note(connection.name, "FAULT", f"connection {connection.number} is deaf")
                connection.deaf()
            case "restart":
                lose = ("ids",) if fault.part < 0.5 else ()
                self.note("-", "FAULT", f"server restarts, loses {lose}")
                server.restart(down=fault.amount**2 * 2, resurrect=True, lose=lose)
            case "replies":
                length, part = 0.2 + 2 * fault.amount, 0.02 + 0.4 * fault.part
                self.note("-", "FAULT", f"answers go wrong for {length:.3f} s, {part:.2f} of them")
                server.on_reply = lambda _name, subject, _data, headers: (
                    self._verdict(part) if headers is None and subject.startswith("_INBOX.") else None
                )
                world.after(length, self._answer_again)

    def _kill_after_a_write(self, process: Process, fault: Fault) -> None:
        """Kills a process a few callbacks after something of it was stored, an end of a run often: between a commit and what follows from it."""
        seen, left, ends = len(self.trace), -1, fault.victim % 2

        def is_meant(line: tuple[Any, ...], victim: Process) -> bool:
            if line[2] != "stored" or line[1] != victim.name or not line[4].startswith(COMMITS):
                return False
            return not ends or any(word in self.kept[line[3]][line[5]].data for word in ENDS)

        def strike(victim: Process) -> None:
            nonlocal seen, left
            if left < 0:
                stored = any(is_meant(line, victim) for line in self.trace[seen:])
                seen = len(self.trace)
                if not stored:
                    return
                left = int(24 * fault.amount**2)
            left -= 1
            if left < 0:
                self._kill(victim, fault)

        process.on_step = strike

    def _verdict(self, part: float) -> str | float | None:
        chance = self.world.rng.random()
        if chance > part:
            return None
        return ("drop", "twice", 3.0 * self.world.rng.random())[int(3 * chance / part)]

    def _answer_again(self, _: object) -> None:
        self.server.on_reply = None

    def _pause(self, process: Process) -> None:
        if not process.paused and not process.dead:
            process.pause()
            self.paused_at[process] = self.world.now

    def _resume(self, process: Process) -> None:
        if process.paused and not process.dead:
            self.note(process.name, "resumed", "")
            self.resumed.setdefault(process.name, []).append((self.paused_at.pop(process), self.world.now))
            process.resume()

    def _kill(self, process: Process, fault: Fault) -> None:
        self.note(process.name, "FAULT", "killed")
        process.kill()
        again = fault.part * 2
        self.world.after(again, lambda _: self._another(process))

    def _another(self, process: Process) -> None:
        if process in self.far_workers:
            self.add_far_worker()
        else:
            self.add_worker()

    def _stop(self, process: Process) -> None:
        process.loop.call_soon(self.stops[process].set)

    def _heal(self, _: object) -> None:
        """All faults are over, and workers are up."""
        self.note("-", "CALM", "all faults are over")
        self.calm_at = self.world.now
        for process in self.workers + self.far_workers:
            process.on_step = None
            self._resume(process)
        for connection in self.stalled:
            connection.unstall()
        self.server.on_reply = None
        self.server.start()
        staying = [process for process in self.living(self.workers) if not self.stops[process].is_set()]
        if not staying:
            self.add_worker()
        if self.plan.remote and not self.living(self.far_workers):
            self.add_far_worker()
        self.world.after(NUDGE, self._nudge)

    # ---- clients

    async def _use(self, process: Process, number: int) -> None:
        client = self.clients[number] = await self._client(process)
        calls = [call for call in self.plan.calls if call.client == number]
        asked = [Asked(call) for call in calls]
        self.asked += asked
        await asyncio.gather(*(self._ask(process, client, one) for one in asked))

    async def _ask(self, process: Process, client: Client, asked: Asked) -> None:
        call = asked.call
        await asyncio.sleep(max(0.0, call.at - self.world.now))
        if "after" in call.facts:
            tag, delay = call.facts["after"]
            first = next(other for other in self.asked if other.call.facts.get("program", {}).get("tag") == tag)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, BUSY - self.world.now)):
                    await first.told.wait()
            await asyncio.sleep(delay)
        asked.begun = self.world.now
        self.note(process.name, call.what, call.id, call.facts)
        handle = None
        try:
            if call.what == "start":
                facts = call.facts
                options = {} if facts.get("made_up") else {"workflow_id": call.id}
                if facts.get("delay"):
                    options["start_delay"] = f"{facts['delay']}ms"
                handle = await client.start(
                    play, facts["program"], task_queue=QUEUE, expire=facts["expire"], if_exists=facts.get("if_exists", "fail"), **options
                )
                asked.id, asked.run = handle.workflow_id, None if handle.run_id is None else int(handle.run_id)
                asked.outcome = "started"
            elif call.what == "by_id":
                await client.signal(call.id, call.facts["value"], expire=call.facts["expire"])
                asked.outcome = "done"
            else:
                asked.outcome = await self._command(client, call)
        except (
            WorkflowAlreadyStartedError,
            WorkflowNotFoundError,
            WorkflowAlreadyClosedError,
            ResultTimeoutError,
            BrokerError,
            FailureError,
        ) as error:
            asked.outcome = error
        asked.ended = self.world.now
        self.note(process.name, f"{call.what}ed", asked.id, asked.outcome, asked.run)
        if handle is not None:
            while asked.result is None:
                try:
                    asked.result = await handle.result()
                except BrokerError:
                    await asyncio.sleep(0.1)
                except JetflowError as error:
                    asked.result = error
            asked.result_at = self.world.now
            asked.told.set()
            self.note(process.name, "result", asked.id, asked.run, asked.result)

    async def _command(self, client: Client, call: Call) -> Any:
        handle, facts = client.get_handle(call.id, task_queue=QUEUE), call.facts
        match call.what:
            case "signal":
                await handle.signal(facts["name"], facts["value"], expire=facts["expire"])
            case "cancel":
                await handle.cancel(facts["reason"])
            case "terminate":
                await handle.terminate(facts["reason"], descend=facts.get("descend", False))
            case "update":
                return await handle.update("add", facts["value"], update_id=f"u{facts['value']}", timeout="60s")
            case "query":
                return await handle.query("place")
            case "signal_with_start":
                await client.signal_with_start(
                    play, facts["program"], signal=facts["name"], data=facts["value"], signal_expire=facts["expire"], workflow_id=call.id,
                    task_queue=QUEUE, expire="2s",
                )  # fmt: skip
            case "schedule":
                return await self._schedule(client, call.id, facts)
        return "done"

    async def _schedule(self, client: Client, id: str, facts: dict[str, Any]) -> str:
        """Schedule a start as another program does."""
        lane, at = client.broker.lane, to_iso(int((EPOCH + self.world.now) * 1000) + facts["delay"])
        target = NAMES.command(QUEUE, id, f"start.{play.name}")
        schedule = {"Nats_Schedule": f"@at {at}", "Nats_Schedule_Target": target, "Nats_Expected_Last_Subject_Sequence": "0", EXPIRE: "2s"}
        body = msgspec.json.encode(facts["program"])
        try:
            await lane.publish_once(f"{NAMES.timer_prefix}{QUEUE}.{id}.start.at", body, lane.message_id(), **schedule)
        except ConflictError:
            return "refused"
        return "done"

    def _nudge(self, _: object) -> None:
        """Terminates workflows that wait for a signal without a limit, since nobody sends one any more."""
        client = self.clients[0]
        if client is None:
            return
        for subject, seqs in list(self.server.streams[NAMES.state_stream].store.by_subject.items()):
            message = self.server.streams[NAMES.state_stream].messages[seqs[-1]]
            if not message.data or not subject.startswith(NAMES.state_prefix):
                continue
            record = msgspec.json.decode(message.data)
            late = (EPOCH + self.world.now + 60) * 1000
            waiting = record.get("waiting", [])
            for_ever = [one.get("due", late) >= late and one["kind"] in ("signal", "sleep", "timer") for one in waiting]
            if record["status"] == "running" and waiting and all(for_ever):
                self.client_tasks.append(self._user(0).spawn(self._end(client, record["workflow_id"])))
        self.world.after(NUDGE, self._nudge)

    def _user(self, number: int) -> Process:
        return next(process for process in self.world.processes if process.name == f"user{number + 1}")

    async def _end(self, client: Client, workflow_id: str) -> None:
        self.note("user1", "terminate", workflow_id, "nobody signals it")
        with suppress(BrokerError, WorkflowNotFoundError):
            await client.get_handle(workflow_id, task_queue=QUEUE).terminate("nobody signals it", suppress=True)

    # ---- the run

    def left(self) -> list[str]:
        """Messages that are still there, and must go."""
        found = []
        for name in (
            NAMES.inbox_stream,
            NAMES.timeline_stream,
            NAMES.state_stream,
            NAMES.signal_stream,
            NAMES.wait_stream,
            NAMES.task_stream,
            NAMES.by_id_stream,
        ):
            stream = self.server.streams.get(name)
            if stream is None:
                return ["no streams"]
            for subject in stream.store.by_subject:
                if not subject.startswith(MAY_STAY) and ".=cancel." not in subject and not (name == NAMES.wait_stream and self.came_back(subject)):
                    found.append(subject)
        return found

    def came_back(self, subject: str) -> bool:
        """Whether a killed server has brought back what was removed. Waits may come back: whoever is sent a signal for one says that it is over."""
        return any(line[2] == "back" and line[4] == subject for line in self.trace)

    def open_clients(self) -> bool:
        return not all(task.done() for task in self.client_tasks)

    def unowned(self) -> set[int]:
        """Partitions without an owner."""
        owned: set[int] = set()
        for process, serving in self.all_workers:
            if not process.dead and serving._supervisor is not None and serving.task_queue == QUEUE:
                owned |= serving._ownership.partitions
        return set(range(self.plan.partitions)) - owned

    def is_settled(self) -> bool:
        stopping = any(stop.is_set() and not process.dead for process, stop in self.stops.items())
        return self.calm_at is not None and not stopping and not self.open_clients() and not self.left() and not self.unowned()

    def run(self) -> None:
        """Runs to the end."""
        self.world.run(BUSY + 0.001)
        limit = self.world.now + SETTLE
        while not self.is_settled():
            if self.world.now >= limit:
                return
            self.world.run_for(LOOK)
        self._probe()
        try:
            self.world.run_until(lambda: all(task.done() for task in self.probed), 30)
        except StuckError:
            return
        self.settled = True

    def _probe(self) -> None:
        """Workflows that show that every partition is served."""
        client = self.clients[0]
        assert client is not None

        async def probe(number: int) -> Any:
            return await client.execute(play, {"ops": [["work", number, 1]]}, task_queue=QUEUE, workflow_id=f"probe{number}", timeout="25s")

        self.probed = [self._user(0).spawn(probe(number)) for number in range(2 * self.plan.partitions)]

    def digest(self) -> str:
        """Of all that happened."""
        return hashlib.sha256(repr((self.world.steps, self.world.now, self.trace)).encode()).hexdigest()[:16]


@contextmanager
def simulate(seed: int, *, tell: bool = False) -> Iterator[Simulation]:
    """Runs a seed's schedule; its world is closed with the block. ``tell`` adds log lines to the trace."""
    logger = logging.getLogger("jetflow")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG if tell else logging.ERROR)
    logger.propagate = False
    world = World(seed)
    simulation = None
    try:
        with world:
            simulation = Simulation(world, draw(seed))
            logger.addHandler(simulation.logged)
            simulation.run()
            yield simulation
            simulation.over = True
    finally:
        if simulation is not None:
            simulation.over = True
            logger.removeHandler(simulation.logged)
        logger.setLevel(level)
        logger.propagate = propagate
