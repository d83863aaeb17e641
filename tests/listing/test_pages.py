"""Pages that stay right while workflows come, change and go."""

import random
from collections import Counter

import pytest

from jetflow.broker.transport import walk
from jetflow.errors import InvalidInputError

from .conftest import Shelf, ids


async def test_pages_together_are_the_list(shelf: Shelf) -> None:
    await shelf.put(*(f"w{number}" for number in range(25)))
    found, cursor, sizes = [], None, []
    while True:
        page = await shelf.client.list_page(limit=10, cursor=cursor)
        found += [record.workflow_id for record in page.workflows]
        sizes.append(len(page.workflows))
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [f"w{number}" for number in range(24, -1, -1)]
    assert sizes == [10, 10, 5]


async def test_what_changes_between_pages_is_given_once(shelf: Shelf) -> None:
    await shelf.put(*"abcdefgh")
    first = await shelf.client.list_page(limit=3)
    assert [record.workflow_id for record in first.workflows] == ["h", "g", "f"]
    await shelf.put("g", "a", "new", "c", "c")  # one that was given, two that were not, and one that was not there
    await shelf.remove("b")
    second = await shelf.client.list_page(limit=3, cursor=first.cursor)
    assert [record.workflow_id for record in second.workflows] == ["e", "d", "a"]
    await shelf.put("a", "h", status="completed")
    third = await shelf.client.list_page(limit=3, cursor=second.cursor)
    assert ([record.workflow_id for record in third.workflows], third.cursor) == (["c"], None)


async def test_a_page_can_be_asked_for_again(shelf: Shelf) -> None:
    await shelf.put(*"abcd")
    first = await shelf.client.list_page(limit=2)
    twice = [await shelf.client.list_page(limit=2, cursor=first.cursor) for _ in range(2)]
    assert [[record.workflow_id for record in page.workflows] for page in twice] == [["b", "a"], ["b", "a"]]


async def test_a_change_during_a_list_is_given_once(shelf: Shelf) -> None:
    await shelf.put(*(f"w{number:03}" for number in range(300)))
    found = []
    async for record in shelf.client.list():
        found.append(record.workflow_id)
        if len(found) in (1, 100):
            await shelf.put(f"w00{len(found) % 9}", "w299", "w000")
    assert Counter(found) == Counter(f"w{number:03}" for number in range(300))


@pytest.mark.parametrize("seed", range(4))
async def test_any_changes_between_any_pages(shelf: Shelf, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there all the time is given exactly once, and nothing else twice, whatever happens between."""
    chance = random.Random(seed)
    monkeypatch.setattr(walk, "FIRST_ROWS", 4)
    monkeypatch.setattr(walk, "MOST_ROWS", 16)
    there = [f"w{number}" for number in range(120)]
    await shelf.put(*there)
    await shelf.put(*chance.choices(there, k=60))
    stay, found, cursor, came = set(there), Counter[str](), None, 0
    while True:
        page = await shelf.client.list_page(limit=chance.randint(1, 15), cursor=cursor, examine=chance.choice([None, 5, 40]))
        found.update(record.workflow_id for record in page.workflows)
        cursor = page.cursor
        if cursor is None:
            break
        await shelf.put(*chance.choices(sorted(stay), k=chance.randint(0, 12)))
        for _ in range(chance.randint(0, 2)):
            await shelf.put(f"new{came}")
            came += 1
        if chance.random() < 0.3:
            gone = chance.choice(sorted(stay))
            stay.remove(gone)
            await shelf.remove(gone)
    assert {workflow_id: found[workflow_id] for workflow_id in stay} == dict.fromkeys(stay, 1)
    assert max(found.values()) == 1
    assert not [workflow_id for workflow_id in found if workflow_id.startswith("new")]


async def test_many_overwritten_positions(shelf: Shelf) -> None:
    """A few records in a stream whose other positions are all gone, and then many side by side."""
    await shelf.put(*(f"old{number}" for number in range(150)))
    for _ in range(15):
        await shelf.put(*["busy"] * 100)
    await shelf.put("last")
    assert await ids(shelf.client.list(limit=3)) == ["last", "busy", "old149"]
    page = await shelf.client.list_page(limit=1000)
    assert len(page.workflows) == 152
    assert page.examined == 152


async def test_large_records(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are cut by their bytes, and windows that would be too much are read in parts."""
    monkeypatch.setattr(walk, "MOST_BYTES", 10_000)
    await shelf.put(*(f"w{number}" for number in range(100)), data={"text": "x" * 4000})
    assert await ids(shelf.client.list()) == [f"w{number}" for number in range(99, -1, -1)]


async def test_a_page_may_end_before_it_is_full(shelf: Shelf) -> None:
    await shelf.put("wanted", status="failed")
    await shelf.put(*(f"w{number}" for number in range(200)))
    page = await shelf.client.list_page(status="failed", examine=10)
    assert page.workflows == []
    assert page.cursor is not None
    assert page.examined < 200
    page = await shelf.client.list_page(status="failed", cursor=page.cursor)
    assert ([record.workflow_id for record in page.workflows], page.cursor) == (["wanted"], None)


async def test_old_records_are_not_read_for_new_ones(shelf: Shelf) -> None:
    """What was changed last before a time cannot have been started after it, nor can anything below."""
    await shelf.put(*(f"w{number}" for number in range(1000)))
    page = await shelf.client.list_page(limit=5, started_after=4_000_000_000_000)
    assert page.workflows == []
    assert page.examined < 1000


async def test_a_cursor_of_another_list_is_refused(shelf: Shelf) -> None:
    await shelf.put("a", "b")
    page = await shelf.client.list_page(limit=1)
    with pytest.raises(InvalidInputError, match="other filters"):
        await shelf.client.list_page(limit=1, cursor=page.cursor, status="running")
    for rubbish in ("", "x", "AAAA", "né", page.cursor[:-6] if page.cursor else ""):
        with pytest.raises(InvalidInputError, match="is not the cursor"):
            await shelf.client.list_page(cursor=rubbish)
    for wrong in ({"limit": 0}, {"examine": 0}):
        with pytest.raises(InvalidInputError, match="at least 1"):
            await shelf.client.list_page(**wrong)


async def test_a_cursor_is_small(shelf: Shelf) -> None:
    """A byte or so for each workflow that was given."""
    await shelf.put(*(f"w{number}" for number in range(400)))
    page = await shelf.client.list_page(limit=350)
    assert page.cursor is not None
    assert len(page.cursor) < 350


async def test_a_replica_that_lags_is_made_good_at_the_end(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """With replicas the walk's end looks again at what was stored shortly before its beginning, and gives nothing twice."""
    topology = shelf.client.broker.topology
    monkeypatch.setattr(shelf.client.broker, "topology", type(topology)(topology.partitions, 3))
    await shelf.put(*"abcde")
    assert await ids(shelf.client.list()) == ["e", "d", "c", "b", "a"]
    first = await shelf.client.list_page(limit=2)
    await shelf.put("a", "e")
    rest = await shelf.client.list_page(limit=9, cursor=first.cursor)
    assert [record.workflow_id for record in rest.workflows] == ["c", "b", "a"]
