"""What a seed means: which workflows run, what clients ask of them and when, and which faults strike.

A plan is data, drawn before anything runs. Nothing that happens in the run changes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

POLICIES = ("terminate", "cancel", "abandon")
BUSY = 7.0
"""Seconds in which clients begin things and faults strike."""


@dataclass
class Call:
    """Something that a client does: ``what`` to the workflow ``id`` at a time, in seconds."""

    at: float
    what: str
    id: str
    client: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Fault:
    """Something that goes wrong at a time. ``victim`` picks among those there are then; ``amount`` and ``part`` say how bad it is."""

    at: float
    what: str
    victim: int
    amount: float
    part: float


@dataclass
class Plan:
    """Everything that is drawn from a seed."""

    seed: int
    calls: list[Call]
    faults: list[Fault]
    workers: int
    clients: int
    partitions: int
    replicas: int | None
    skew: float
    grace: str
    cached: int
    remote: bool
    realistic: bool


class Drawing:
    """Draws the calls of one plan."""

    def __init__(self, rng: Random, clients: int) -> None:
        self.rng = rng
        self.clients = clients
        self.calls: list[Call] = []
        self.number = 0
        self.remote = False

    def next(self) -> int:
        """A number that no other part of the plan has."""
        self.number += 1
        return self.number

    def chance(self, part: float) -> bool:
        return self.rng.random() < part

    def ms(self, least: int, most: int) -> int:
        """Milliseconds, small ones more often."""
        return int(least + (most - least) * self.rng.random() ** 2)

    def call(self, at: float, what: str, id: str, **facts: Any) -> None:
        self.calls.append(Call(max(0.0, at), what, id, self.rng.randrange(self.clients), facts))

    # ---- programs

    def step(self, depth: int = 0) -> list[Any]:
        """An operation that ends by itself."""
        rng = self.rng
        kinds = ["work"] * 6 + ["quick", "flaky", "flaky_slowly", "flaky_for_long", "hopeless", "sleep", "sleep", "side", "until"]
        if depth < 2:
            kinds += ["all", "all", "within", "child", "child", "begin"]
        kind = rng.choice(kinds)
        match kind:
            case "work":
                return ["work", rng.randrange(100), self.ms(1, 400)]
            case "quick" | "side":
                return [kind, rng.randrange(100)]
            case "flaky":
                return ["flaky", rng.randrange(100), rng.randrange(1, 4), self.ms(1, 60)]
            case "flaky_slowly":
                return ["flaky_slowly", rng.randrange(100), self.ms(1, 60)]
            case "flaky_for_long":
                return ["flaky_for_long", rng.randrange(100), rng.randrange(1, 3), self.ms(1, 60)]
            case "hopeless":
                return ["hopeless", self.ms(1, 40)]
            case "sleep":
                return ["sleep", self.ms(5, 2500)]
            case "until":
                return ["until", 1, self.ms(50, 1500)]
            case "all":
                return ["all", [self.step(depth + 1) for _ in range(rng.randrange(2, 5))]]
            case "within":
                return ["within", self.ms(20, 1500), self.step(depth + 1)]
            case _:
                child = self.program(rng.randrange(1, 3), depth + 2)
                expire = rng.choice([None, "1s", "2s"])
                return [kind, child, rng.choice(POLICIES), f"c{self.next()}" if self.chance(0.3) else None, expire]

    def program(self, length: int, depth: int = 0) -> dict[str, Any]:
        ops = [self.step(depth) for _ in range(length)]
        if self.remote and self.chance(0.7):
            ops.insert(self.rng.randrange(len(ops) + 1), ["far", self.rng.randrange(100), self.rng.choice([0, 0, 1]), self.ms(1, 200)])
        if self.chance(0.15):
            ops.insert(self.rng.randrange(len(ops) + 1), ["again"])
        return {"ops": ops, "on_cancel": self.rng.choice(["clean", "raise"])}

    def start(self, at: float, id: str, program: dict[str, Any], **facts: Any) -> None:
        facts.setdefault("expire", self.rng.choice(["1s", "1s", "2s", "3s"]))
        self.call(at, "start", id, program={**program, "tag": self.next()}, **facts)

    # ---- stories, each of one workflow id or a few

    def simple(self, at: float, id: str) -> None:
        """Runs to its end by itself; its id is chosen or made up."""
        made_up = self.chance(0.4)
        self.start(at, id, self.program(self.rng.randrange(1, 6)), made_up=made_up)

    def chain(self, at: float, id: str) -> None:
        """One activity after the other."""
        steps = [["work", self.rng.randrange(100), self.ms(1, 300)] for _ in range(self.rng.randrange(2, 9))]
        self.start(at, id, {"ops": steps}, made_up=self.chance(0.5))

    def signaled(self, at: float, id: str) -> None:
        """Waits for signals, which come at any time: before the start, before the wait, while it waits, twice as many."""
        rng = self.rng
        program = self.program(rng.randrange(0, 3))
        for _ in range(rng.randrange(1, 4)):
            timeout = None if self.chance(0.7) else self.ms(100, 3000)
            program["ops"].insert(rng.randrange(len(program["ops"]) + 1), ["wait", "a", timeout])
        waits = sum(op[0] == "wait" for op in program["ops"])
        if self.chance(0.3):
            program["ops"].insert(rng.randrange(len(program["ops"]) + 1), ["again"])
        self.start(at, id, program)
        for _ in range(waits + rng.randrange(2)):
            self.call(at + rng.uniform(-1.5, 2.5), "signal", id, name="a", value=1000 + self.next(), expire="30s")
        for _ in range(rng.randrange(2)):
            self.call(at + rng.uniform(-1.5, 1.5), "signal", id, name="a", value=1000 + self.next(), expire="1s")

    def early(self, at: float, id: str) -> None:
        """Its signal is there before it starts, often only just."""
        program = {"ops": [["wait", "e", self.ms(300, 1500)], *self.program(1)["ops"]]}
        value = 1000 + self.next()
        self.start(at, id, program)
        for _ in range(self.rng.randrange(1, 4)):
            self.call(at - self.rng.choice([0.005, 0.02, 0.1, 1.0]) * self.rng.random(), "signal", id, name="e", value=value, expire="30s")
            value = 1000 + self.next()

    def ended(self, at: float, id: str) -> None:
        """Is cancelled or terminated at some moment, perhaps before its start; sometimes both."""
        program = self.program(self.rng.randrange(1, 5))
        if self.chance(0.6):
            program["ops"].append(self.rng.choice([["wait", "never", None], ["wait", "never", 200_000], ["sleep", 200_000]]))
        self.start(at, id, program)
        for _ in range(self.rng.randrange(1, 3)):
            self.call(at + self.rng.uniform(-0.3, 2.5), self.rng.choice(["cancel", "terminate"]), id, reason=f"reason {self.next()}")

    def updated(self, at: float, id: str) -> None:
        """Takes updates and answers queries."""
        program = self.program(self.rng.randrange(1, 4))
        program["ops"].append(["until", self.rng.randrange(1, 3), self.ms(500, 3000)])
        self.start(at, id, program)
        for _ in range(self.rng.randrange(1, 4)):
            self.call(at + self.rng.uniform(0.0, 2.5), "update", id, value=self.next())
        for _ in range(self.rng.randrange(3)):
            self.call(at + self.rng.uniform(0.0, 2.5), "query", id)

    def family(self, at: float, id: str) -> None:
        """A parent whose children may outlive it."""
        rng = self.rng
        ops = []
        for _ in range(rng.randrange(1, 4)):
            child = self.program(rng.randrange(1, 3), 1)
            if self.chance(0.3):
                child["ops"].append(["wait", "never", 2500])
            ops.append([rng.choice(["child", "begin", "begin"]), child, rng.choice(POLICIES), None, rng.choice([None, "1s"])])
            if self.chance(0.5):
                ops.append(self.step(1))
        self.start(at, id, {"ops": ops, "on_cancel": rng.choice(["clean", "raise"])})
        if self.chance(0.4):
            self.call(at + rng.uniform(0.0, 2.0), rng.choice(["cancel", "terminate"]), id, reason=f"reason {self.next()}", descend=self.chance(0.4))

    def generations(self, at: float, id: str) -> None:
        """Continues as new, with signals that must not be taken twice."""
        rng = self.rng
        ops: list[Any] = []
        for _ in range(rng.randrange(2, 4)):
            ops += [["wait", "g", None], *([self.step(1)] if self.chance(0.5) else []), ["again"]]
        ops.append(["wait", "g", 1500])
        self.start(at, id, {"ops": ops})
        for _ in range(sum(op[0] == "wait" for op in ops)):
            self.call(at + rng.uniform(-0.5, 2.5), "signal", id, name="g", value=1000 + self.next(), expire="30s")

    def replaced(self, at: float, id: str) -> None:
        """Started again in place of itself."""
        program = self.program(self.rng.randrange(1, 4))
        if self.chance(0.5):  # long enough to rest, so that compaction has to read it
            program["ops"].append(["sleep", 1100])
        self.start(at, id, program)
        first, client = self.calls[-1].facts["program"]["tag"], self.calls[-1].client
        for _ in range(self.rng.randrange(1, 3)):
            delay = self.rng.choice([self.rng.random() * 0.08, self.rng.uniform(0.046, 0.056)])  # just when the run before is compacted
            after = {"after": (first, delay)} if self.chance(0.6) else {}
            self.start(at + self.rng.uniform(0.0, 2.5), id, self.program(self.rng.randrange(1, 4)), if_exists="replace", **after)
            self.calls[-1].client = client

    def taken(self, at: float, id: str) -> None:
        """Started by several at once: one run, the others are refused or attach."""
        for _ in range(self.rng.randrange(2, 4)):
            start = at + self.rng.choice([0.0, self.rng.uniform(0.0, 0.01), self.rng.uniform(0.0, 1.5)])
            self.start(start, id, self.program(self.rng.randrange(1, 3)), if_exists=self.rng.choice(["fail", "attach"]))

    def again(self, at: float, id: str) -> None:
        """The id is used anew once its record has expired, by a signal that waits for it too."""
        rng = self.rng
        for number in range(rng.randrange(2, 4)):
            program = self.program(rng.randrange(1, 3), 1)
            if self.chance(0.4):
                program["ops"].append(["wait", "a", 600])
            self.start(at + number * rng.uniform(1.2, 2.4), id, program, expire="1s")
        for _ in range(rng.randrange(3)):
            self.call(at + rng.uniform(0.0, 4.0), "signal", id, name="a", value=1000 + self.next(), expire="2s")

    def delayed(self, at: float, id: str) -> None:
        """A start that the broker holds, and that may be taken back."""
        rng = self.rng
        self.start(at, id, self.program(rng.randrange(1, 3)), delay=self.ms(100, 2500), if_exists=rng.choice(["fail", "fail", "replace"]))
        if self.chance(0.5):
            self.call(at + rng.uniform(0.0, 2.0), rng.choice(["cancel", "terminate"]), id, reason=f"reason {self.next()}")

    def telling(self, at: float, id: str) -> None:
        """A workflow signals another one, which may not be there yet."""
        rng = self.rng
        count, receiver = rng.randrange(1, 4), f"{id}b"
        tells = [["tell", receiver, "t", 1000 + self.next(), "30s"] for _ in range(count)]
        ops: list[Any] = []
        for each in tells:
            ops += [each, *([self.step(1)] if self.chance(0.5) else [])]
        waits: list[Any] = []
        for _ in range(count):
            waits += [["wait", "t", None], *([self.step(1)] if self.chance(0.3) else [])]
        self.start(at, id, {"ops": ops})
        self.start(at + rng.uniform(-0.3, 1.0), receiver, {"ops": waits})

    def by_id(self, at: float, id: str) -> None:
        """Signals that name no workflow."""
        rng = self.rng
        for number in range(rng.randrange(1, 3)):
            ops = [
                *([self.step(1)] if self.chance(0.5) else []),
                ["wait", f"s-{id}", rng.choice([None, 4000])],
                *([self.step(1)] if self.chance(0.3) else []),
            ]
            self.start(at + rng.uniform(0.0, 1.0), f"{id}-{number}", {"ops": ops})
            self.call(at + rng.uniform(0.0, 3.0), "by_id", f"s-{id}", value=1000 + self.next(), expire="20s")

    def unheard(self, at: float, id: str) -> None:
        """Signals that expire: nobody waits for them, or only just."""
        rng = self.rng
        for _ in range(rng.randrange(1, 4)):
            kept = self.ms(20, 3000)
            self.call(at + rng.uniform(-0.3, 2.0), "signal", id, name="u", value=1000 + self.next(), expire=f"{kept}ms")
        match rng.choice(["nobody", "sleeps", "works", "waits late", "by id"]):
            case "sleeps":
                self.start(at, id, {"ops": [["sleep", rng.choice([3000, 12_000, 200_000])]]})
            case "works":
                self.start(at, id, {"ops": [["work", 1, 400] for _ in range(rng.randrange(1, 12))]})
            case "waits late":
                self.start(at, id, {"ops": [["sleep", self.ms(20, 3000)], ["wait", "u", self.ms(100, 1000)], ["sleep", rng.choice([10, 9000])]]})
            case "by id":
                self.call(at, "by_id", f"s-{id}", value=1000 + self.next(), expire=f"{self.ms(20, 3000)}ms")
                self.start(at + rng.uniform(0.0, 3.0), f"{id}-0", {"ops": [["wait", f"s-{id}", 2000]]})
            case _:
                pass

    def put_off(self, at: float, id: str) -> None:
        """A delayed start, or one that another program has scheduled, with commands of others before and after it begins."""
        rng = self.rng
        program = self.program(rng.randrange(1, 3), 1)
        if self.chance(0.5):
            program["ops"].insert(0, ["wait", "d", 3000])
        delay = self.ms(100, 2500)
        if self.chance(0.3):
            self.call(at, "schedule", id, program={**program, "tag": self.next()}, delay=delay)
        else:
            self.start(at, id, program, delay=delay)
        for _ in range(rng.randrange(1, 4)):
            later = at + rng.choice([0.0, rng.uniform(0.0, 0.01), rng.uniform(0.0, 3.0), delay / 1000 + rng.uniform(-0.02, 0.02)])
            match rng.choice(["start", "start", "signal", "signal_with_start", "update", "cancel", "terminate"]):
                case "start":
                    more = {"delay": self.ms(100, 1500)} if self.chance(0.4) else {}
                    self.start(later, id, self.program(1, 1), if_exists=rng.choice(["fail", "attach", "replace"]), **more)
                case "signal":
                    self.call(later, "signal", id, name="d", value=1000 + self.next(), expire="8s")
                case "signal_with_start":
                    given = {**self.program(1, 1), "tag": self.next()}
                    self.call(later, "signal_with_start", id, name="d", value=1000 + self.next(), expire="8s", program=given)
                case "update":
                    self.call(later, "update", id, value=1000 + self.next())
                case what:
                    self.call(later, what, id, reason=f"reason {self.next()}")


STORIES = ["simple", "simple", "chain", "chain", "signaled", "signaled", "early", "ended", "ended", "updated", "family", "family", "generations",
           "replaced", "taken", "again", "delayed", "telling", "by_id"]  # fmt: skip
FAULTS = ["pause", "pause for long", "pause for long", "kill", "kill at a step", "kill after a write", "kill after a write", "kill after a write",
          "kill after a write", "roll", "roll", "join", "leave", "stall", "cut", "cut late", "cut late", "deaf", "partition", "partition",
          "partition late", "partition late", "partition late", "restart", "restart", "replies"]  # fmt: skip


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = Random(f"{seed}/plan")
    clients = rng.choice([1, 1, 2])
    drawing = Drawing(rng, clients)
    drawing.remote = rng.random() < 0.2
    for number in range(rng.randrange(3, 7)):
        getattr(drawing, rng.choice(STORIES))(0.3 + rng.random() * 4.0, f"w{number}")
    lapsing = Drawing(Random(f"{seed}/lapsing"), clients)
    lapsing.number = 100_000
    for number in range(lapsing.rng.choice([0, 1, 1, 2])):
        lapsing.unheard(0.3 + lapsing.rng.random() * 4.0, f"u{number}")
    drawing.calls += lapsing.calls
    delaying = Drawing(Random(f"{seed}/delaying"), clients)
    delaying.number = 200_000
    for number in range(delaying.rng.choice([0, 0, 1, 2])):
        delaying.put_off(0.3 + delaying.rng.random() * 4.0, f"d{number}")
    drawing.calls += delaying.calls
    faults = []
    for _ in range(0 if rng.random() < 0.08 else rng.choice([1, 2, 2, 3, 3, 4, 5])):
        faults.append(Fault(0.3 + rng.random() * (BUSY - 1), rng.choice(FAULTS), rng.randrange(1 << 20), rng.random(), rng.random()))
    return Plan(
        seed=seed,
        calls=sorted(drawing.calls, key=lambda call: call.at),
        faults=sorted(faults, key=lambda fault: fault.at),
        workers=rng.choice([1, 2, 2, 2, 3]),
        clients=clients,
        partitions=rng.choice([1, 2, 4]),
        replicas=3 if rng.random() < 0.2 else None,
        skew=rng.choice([0.05, 0.3, 1.0]) if rng.random() < 0.2 else 0.0,
        grace=rng.choice(["0ms", "200ms", "2s"]),
        cached=rng.choice([1, 2, 5000, 5000]),
        remote=drawing.remote,
        realistic=rng.random() < 0.1,
    )
