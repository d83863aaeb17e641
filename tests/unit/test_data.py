"""User data: fields and the JSON document, without a workflow around them."""

from typing import Any

import pytest

from jetflow import InvalidInputError
from jetflow.core.data import Entity, Search, UserData, look_up
from jetflow.errors import PayloadTooLargeError


@pytest.fixture
def data() -> UserData:
    return UserData(1000)


@pytest.fixture
def search(data: UserData) -> Search:
    return Search(lambda change: data)


@pytest.fixture
def entity(data: UserData) -> Entity:
    return Entity(lambda change: data)


# ---- fields


def test_set_takes_pairs_a_dict_and_keywords_and_counts_what_is_new(search: Search) -> None:
    assert search.set({"a": 1, "b": [2]}) == 2
    assert search.set("a", "x", "c", None) == 1
    assert search.set(d=4.5) == 1
    assert search.mget("a", "b", "c", "d", "e") == ["x", [2], None, 4.5, None]
    with pytest.raises(InvalidInputError, match="in turn"):
        search.set("a", 1, "b")
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        search.set(a=1, b=object())
    assert search.get("a") == "x"


def test_delete_counts_what_was_there(search: Search) -> None:
    search.set(a=1, b=2)
    assert search.delete("a", "a", "x") == 1
    assert search.get("a", "gone") == "gone"


def test_numbers_are_added_and_multiplied_exactly(search: Search) -> None:
    assert search.incr("n") == 1
    assert search.incr("n", -0.5) == 0.5
    assert search.mult("m", 3) == 3
    assert search.mult("m", 7) == 21
    search.set(text="5", word="five", truth=True)
    assert search.incr("text", 2) == 7
    for name in ("word", "truth"):
        with pytest.raises(InvalidInputError, match="not a number"):
            search.incr(name)


def test_what_is_given_out_is_a_copy(search: Search, entity: Entity) -> None:
    given = {"list": [1]}
    search.set(a=given)
    entity.set(given)
    given["list"].append(2)
    search.get("a")["list"].append(3)
    entity.get()["list"].append(3)
    entity.append("list", 4).append(5)
    assert search.get("a") == {"list": [1]}
    assert entity.get() == {"list": [1, 4]}


def test_all_of_it_has_a_limit_and_what_exceeds_it_changes_nothing(data: UserData, search: Search, entity: Entity) -> None:
    search.set(a="x" * 400)
    entity.set({"b": "y" * 400})
    with pytest.raises(PayloadTooLargeError):
        search.set(c="z" * 300)
    with pytest.raises(PayloadTooLargeError):
        entity.merge({"c": "z" * 300})
    search.set(a="")
    entity.merge({"c": "z" * 300})
    assert 700 < data.size < 1000
    assert search.delete("a") == 1
    entity.set({})
    assert data.size == 2


# ---- the document


def test_paths_are_nested(entity: Entity) -> None:
    entity.set({"order": {"id": 5, "lines": [{"sku": "A"}]}})
    assert entity.get("order.lines.0.sku") == "A"
    assert entity.get("order.lines.1.sku", "none") == "none"
    assert entity.increment("order.lines.0.count", 2) == 2
    assert entity.increment("order.total.net", 1.5) == 1.5
    assert entity.append("order.notes", "n") == ["n"]
    assert entity.prepend("order.notes", "m") == ["m", "n"]
    assert entity.remove("order.notes", 0) == ["n"]
    assert entity.remove("order.notes", 9) == ["n"]
    assert entity.toggle("order.open") is True
    assert entity.toggle("order.open") is False
    assert entity.set_if_not_exists("order.id", 9) == 5
    assert entity.set_if_not_exists("order.by", "Ann") == "Ann"
    assert entity.delete("order.lines.0") == {
        "order": {"id": 5, "lines": [], "total": {"net": 1.5}, "notes": ["n"], "open": False, "by": "Ann"},
    }  # fmt: skip
    assert entity.delete("no.such.path") == entity.get()


def test_merge_goes_to_every_depth(entity: Entity) -> None:
    entity.merge({"a": {"b": {"c": 1, "d": [1]}, "x": 1}})
    assert entity.merge({"a": {"b": {"c": 2, "d": [2]}, "y": {"z": 3}}}) == {"a": {"b": {"c": 2, "d": [2]}, "x": 1, "y": {"z": 3}}}


def test_what_cannot_be_done_is_said_and_changes_nothing(entity: Entity) -> None:
    assert entity.get() == {}
    entity.set({"text": "t", "list": [1]})
    for act in (
        lambda: entity.set([1]),  # type: ignore[arg-type]
        lambda: entity.append("text", 1),
        lambda: entity.toggle("text"),
        lambda: entity.increment("text"),
        lambda: entity.increment("text.deeper"),
        lambda: entity.increment("list.7.deeper"),
        lambda: entity.get("a..b"),
        lambda: entity.delete(""),
    ):
        with pytest.raises(InvalidInputError):
            act()
    assert entity.get() == {"text": "t", "list": [1]}


@pytest.mark.parametrize(("path", "found"), [("a", {"b": [1]}), ("a.b", [1]), ("a.b.0", 1), ("a.b.1", None), ("a.b.x", None), ("z", None)])
def test_look_up(path: str, found: Any) -> None:
    assert look_up({"a": {"b": [1]}}, path) == found


def test_a_sum_that_json_has_no_number_for_is_refused() -> None:
    data = UserData(1000)
    search, entity = Search(lambda _: data), Entity(lambda _: data)
    search.set(x=1e308)
    entity.set({"x": 1e308})
    for call in (lambda: search.mult("x", 1e10), lambda: entity.increment("x", 1e308), lambda: search.set(y=[float("nan")])):
        with pytest.raises(InvalidInputError, match="no number"):
            call()
    assert search.get("x") == 1e308
    assert entity.get("x") == 1e308
