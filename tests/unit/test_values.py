"""Python objects to JSON and back."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetflow.core.values import Signature, TypedDecoder, args_from_body, as_json, body_of, decode, encode, encode_args
from jetflow.errors import InvalidInputError


class Item(msgspec.Struct):
    sku: str
    count: int = 1


@dataclass
class Address:
    street: str
    lines: list[str]


class Order(msgspec.Struct):
    items: list[Item]
    address: Address | None = None
    note: str | int | None = None
    kind: Literal["small", "large"] = "small"


WHEN = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Order, Order([Item("a", 2), Item("b")], Address("Main", ["1", "2"]), 5, "large")),
        (Address, Address("Main", [])),
        (dict[str, list[float]], {"a": [1.5, 2.0]}),
        (datetime, WHEN),
        (UUID, UUID(int=7)),
        (Decimal, Decimal("1.10")),
        (bytes, b"\x00\xff"),
        (int | None, None),
        (int | str, "five"),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (Any, {"a": [None, True, 1, 1.5, "é\U0001f600"]}),
        (int, 2**63),
        (Any, 2**70),
    ],
)
def test_a_value_comes_back_as_its_annotated_type(annotation: Any, value: Any) -> None:
    assert TypedDecoder(annotation, "value")(encode(value)) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_plain_json_comes_back_as_it_was(value: Any) -> None:
    assert decode(encode(value)) == value
    assert json.loads(bytes(encode(value))) == value


@pytest.mark.parametrize(
    ("annotation", "body", "path"),
    [
        (Order, b'{"items":[{"sku":"a"},{"sku":5}]}', r"\$\.items\[1\]\.sku"),
        (Order, b'{"items":[],"address":{"street":"x","lines":[1]}}', r"\$\.address\.lines\[0\]"),
        (Order, b'{"items":[],"kind":"huge"}', r"\$\.kind"),
        (dict[str, int], b'{"a":"b"}', r"\$\[\.\.\.\]"),
        (int | None, b'"x"', "Expected `int | null`"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(annotation: Any, body: bytes, path: str) -> None:
    with pytest.raises(InvalidInputError, match=f"the order: .*{path}"):
        TypedDecoder(annotation, "the order")(body)


@pytest.mark.parametrize("value", [object(), {1, object()}, lambda: 1, "\ud800", {("a", "b"): 1}])
def test_what_cannot_be_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="result cannot be written as JSON"):
        encode(value, "result")


def test_a_type_that_cannot_be_read_is_refused_when_it_is_declared() -> None:
    async def flow(thing: Item | Order) -> None: ...  # JSON cannot tell one from the other

    with pytest.raises(InvalidInputError, match=r"'flow', argument 'thing': type .* cannot be read from JSON"):
        Signature(flow, "workflow 'flow'")


def test_an_annotation_that_is_nowhere_to_be_found_is_named() -> None:
    async def flow(thing: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidInputError, match="Nowhere"):
        Signature(flow, "flow")


async def _single(order: Order) -> None: ...
async def _several(order: Order, count: int = 1) -> None: ...
async def _rest(first: str, *others: Item) -> None: ...
async def _none() -> None: ...
async def _keyword(order: int, *, currency: str = "EUR") -> None: ...


def test_arguments_are_decoded_by_their_own_types() -> None:
    assert list(Signature(_single, "f").decode_args(b'[{"items":[]}]')) == [Order([])]
    assert list(Signature(_several, "f").decode_args(b'[{"items":[]},2]')) == [Order([]), 2]
    assert list(Signature(_several, "f").decode_args(b'[{"items":[]}]')) == [Order([])]
    assert list(Signature(_rest, "f").decode_args(b'["a",{"sku":"x"},{"sku":"y"}]')) == ["a", Item("x"), Item("y")]
    assert list(Signature(_none, "f").decode_args(b"[]")) == []


@pytest.mark.parametrize(
    ("function", "body", "message"),
    [
        (_single, b"[]", r"f takes 1 argument\(s\), 0 given"),
        (_several, b"[1,2,3]", "f takes 1 to 2"),
        (_rest, b"[]", "f takes at least 1"),
        (_none, b"[1]", "f takes 0"),
        (_single, b'{"items":[]}', "not a JSON list"),
        (_several, b'[{"items":[]},"x"]', "f, argument 'count'"),
        (_rest, b'["a",{"sku":"x"},{"sku":1}]', "f, argument 'others'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(function: Any, body: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Signature(function, "f").decode_args(body)


def test_a_call_is_bound_to_positions() -> None:
    several = Signature(_several, "f")
    assert several.bind((1,), {"count": 5}) == (1, 5)
    assert several.bind((), {"count": 5, "order": 1}) == (1, 5)
    assert several.bind((1,), {}) == (1,)
    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"colour": 1})]:
        with pytest.raises(InvalidInputError, match="f: "):
            several.bind(args, kwargs)


def test_a_keyword_only_argument_is_never_lost_silently() -> None:
    signature = Signature(_keyword, "f")
    assert signature.bind((1,), {}) == (1,)
    with pytest.raises(InvalidInputError, match="keyword-only argument 'currency' cannot be given"):
        signature.bind((1,), {"currency": "USD"})

    async def needs(*, currency: str) -> None: ...

    with pytest.raises(InvalidInputError, match="keyword-only argument 'currency' needs a default"):
        Signature(needs, "f")


@given(st.lists(json_values, max_size=3), st.booleans())
def test_a_start_body_says_the_arguments_whatever_function_reads_it(args: list[Any], single: bool) -> None:
    body, tell = body_of(args)
    assert decode(bytes(args_from_body(body, single=single, told=tell))) == args


@given(json_values)
def test_one_argument_for_a_function_of_several_stays_one_argument(value: Any) -> None:
    body, tell = body_of([value])
    assert tell == (1 if isinstance(value, list) else None)
    assert decode(bytes(args_from_body(body, single=False, told=tell))) == [value]


def test_bodies_written_by_hand_are_understood() -> None:
    assert bytes(args_from_body(b"", single=True)) == b"[]"
    assert bytes(args_from_body(b"  \n", single=False)) == b"[]"
    assert bytes(args_from_body(b'{"sku":"A"}', single=False)) == b'[{"sku":"A"}]'
    assert bytes(args_from_body(b" [1, 2]", single=False)) == b" [1, 2]"
    assert bytes(args_from_body(b"[1, 2]", single=True)) == b"[[1, 2]]"
    assert bytes(as_json(b" ", "signal")) == b"null"
    for body in (b"{", b"hello", b"\xff"):
        with pytest.raises(InvalidInputError, match="is not JSON"):
            args_from_body(body, single=True)


class Reading(msgspec.Struct, rename="camel"):
    at_noon: Any = None


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), -float("nan")])
def test_a_number_that_json_does_not_have_is_refused_with_its_path(odd: float) -> None:
    shapes: list[tuple[Any, str]] = [
        (odd, "`$`"),
        ([1, odd], "`$[1]`"),
        ({"a": {"b": (1, None, odd)}}, "`$.a.b[2]`"),
        (Reading([odd]), "`$.at_noon[0]`"),
        ({"x": Address("x", [odd])}, "`$.x.lines[0]`"),  # type: ignore[list-item]
        ({1: odd, "big": 2**63}, "`$[1]`"),
        ({odd}, "`$[...]`"),
    ]
    for value, path in shapes:
        with pytest.raises(InvalidInputError, match="JSON has no number") as refused:
            encode(value, "the result")
        assert path in str(refused.value)
    with pytest.raises(InvalidInputError, match=r"charge, argument 2.*no number"):
        encode_args((None, [odd]), "charge")
    with pytest.raises(InvalidInputError, match=r"no number .*`\$\[0\]`"):
        body_of(([odd],))


@pytest.mark.parametrize(
    "value", [None, [None, 1.5], {"a": None, "b": "null", "c": 1e308, "d": msgspec.Raw(b"null")}, Reading(), {"n": None, "i": 2**63}]
)
def test_a_null_that_is_none_is_written(value: Any) -> None:
    assert b"null" in bytes(encode(value))
