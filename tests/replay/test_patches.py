"""Code versions: ``patched`` and ``deprecate_patch`` against histories of every age."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from jetflow import activity, deprecate_patch, patched, workflow
from jetflow.core.definitions import WorkflowDefinition
from jetflow.errors import NondeterminismError
from tests.replay.driver import Run, check_prefix, check_replay, rebuild


@activity
async def old(where: str) -> int:
    raise AssertionError("resolved by the driver")


@activity
async def new(where: str) -> int:
    raise AssertionError("resolved by the driver")


async def original() -> None:
    await old("first")
    await old("second")


async def with_patch() -> None:
    await old("first")
    if patched("p"):
        await new("second")
    else:
        await old("second")


async def deprecated() -> None:
    await old("first")
    deprecate_patch("p")
    await new("second")


async def removed() -> None:
    await old("first")
    await new("second")


async def both() -> None:
    await old("first")
    deprecate_patch("p")
    if patched("p"):
        await new("second")


VERSIONS: dict[str, Callable[..., Any]] = {"original": original, "patched": with_patch, "deprecated": deprecated, "removed": removed, "both": both}
FITS = {
    "original": {"original", "patched"},
    "patched": {"patched", "deprecated", "both"},
    "deprecated": {"deprecated", "removed"},
    "removed": {"deprecated", "removed"},
    "both": {"both", "patched", "deprecated"},
}


def definition(version: str) -> WorkflowDefinition[..., Any]:
    return WorkflowDefinition(VERSIONS[version], "flow")


@pytest.mark.parametrize("later", VERSIONS)
@pytest.mark.parametrize("earlier", VERSIONS)
def test_a_history_past_the_change_fits_the_versions_it_should(earlier: str, later: str) -> None:
    run = Run(definition(earlier))
    run.complete("activity 'old'")
    if later in FITS[earlier]:
        machine = rebuild(run, definition=definition(later))
        assert [operation.event for operation in machine.pending.values()] == [operation.event for operation in run.machine.pending.values()]
        machine.dispose()
    else:
        with pytest.raises(NondeterminismError):
            rebuild(run, definition=definition(later))


@pytest.mark.parametrize("later", VERSIONS)
@pytest.mark.parametrize("earlier", VERSIONS)
def test_a_history_before_the_change_fits_every_version(earlier: str, later: str) -> None:
    run = Run(definition(earlier))
    going_on = Run(definition(later))
    going_on.machine.dispose()
    going_on.machine, going_on.commits = rebuild(run, definition=definition(later)), list(run.commits)
    going_on.complete("activity 'old'")
    going_on.complete("activity")
    assert going_on.closed
    check_replay(going_on)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_replays_itself(version: str) -> None:
    run = Run(definition(version))
    run.complete("activity")
    run.complete("activity")
    assert run.closed
    check_replay(run)


def test_the_first_answer_stays_also_in_a_loop() -> None:
    @workflow(name="loop")
    async def plain() -> None:
        for _ in range(4):
            await old("turn")

    @workflow(name="loop")
    async def changed() -> None:
        for _ in range(4):
            if patched("p"):
                await new("turn")
            else:
                await old("turn")

    run = Run(plain)
    run.complete("activity 'old'")
    run.machine.dispose()
    run.definition, run.machine = changed, rebuild(run, definition=changed)
    for _ in range(3):  # goes on as it began, also where the code decides anew
        run.complete("activity 'old'")
        for length in range(1, len(run.commits) + 1):
            check_prefix(run, length)
    assert run.closed
    assert "patch 'p'" not in run.outputs

    run = Run(changed)
    for _ in range(4):
        run.complete("activity 'new'")
    check_replay(run)
    assert run.outputs.count("patch 'p'") == 1


def test_a_deprecated_patch_in_a_loop_and_in_parallel() -> None:
    @workflow(name="wide")
    async def flow() -> None:
        async def branch(name: str) -> None:
            for _ in range(2):
                if patched(name):
                    await new(name)

        await asyncio.gather(branch("p"), branch("q"))

    @workflow(name="wide")
    async def later() -> None:
        async def branch(name: str) -> None:
            for _ in range(2):
                deprecate_patch(name)
                await new(name)

        await asyncio.gather(branch("p"), branch("q"))

    run = Run(flow)
    for _ in range(3):
        run.complete("activity")
    check_replay(run)
    machine = rebuild(run, definition=later)
    assert list(machine.pending) == list(run.machine.pending)


def test_the_record_names_the_patch_that_the_code_has_lost() -> None:
    run = Run(definition("patched"))
    run.complete("activity")
    with pytest.raises(NondeterminismError) as raised:
        rebuild(run, definition=definition("removed"))
    assert raised.value.recorded == "patch 'p'"
    assert raised.value.attempted == "activity 'new' (operation 2)"
