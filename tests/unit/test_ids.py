"""Names on the wire."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jetflow.core.ids import MAX_TOKEN, from_token, partition_of, to_token
from jetflow.errors import InvalidInputError
from jetflow.protocol.subjects import Names

texts = st.text(min_size=1, max_size=24).filter(lambda text: len(text.encode()) * 3 <= MAX_TOKEN)


@given(texts)
def test_a_token_stands_for_its_text_and_for_no_other(text: str) -> None:
    token = to_token(text)
    assert from_token(token) == text
    assert token.isascii()
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=")


@given(st.text(alphabet="aZ09_-=.é23F \U0001f600", max_size=12))
def test_only_the_canonical_spelling_is_read(token: str) -> None:
    try:
        text = from_token(token)
    except InvalidInputError:
        assume(token)
        return
    assert to_token(text) == token


@given(texts, texts)
def test_two_texts_never_share_a_token(one: str, other: str) -> None:
    assert (to_token(one) == to_token(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "token"),
    [("order-456", "order-456"), ("order 4.5", "order=204=2E5"), ("a=b", "a=3Db"), ("*", "=2A"), (">", "=3E"), ("é", "=C3=A9"), ("a\n", "a=0A")],
)
def test_plain_words_stay_and_the_rest_is_escaped(text: str, token: str) -> None:
    assert to_token(text) == token
    assert from_token(token) == text


@pytest.mark.parametrize(
    ("token", "hint"),
    [
        ("order=2d1", "write"),  # lower-case hex
        ("order=2D1", "'order-1'"),  # an escaped plain character
        ("a.b", "'a=2Eb'"),
        ("=FF", "does not decode"),
        ("=4", "write"),
        ("", "non-empty"),
        ("x" * (MAX_TOKEN + 1), "too long"),
    ],
)
def test_other_spellings_are_refused_with_the_one_to_use(token: str, hint: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        from_token(token)
    assert hint in str(raised.value)


@pytest.mark.parametrize("text", ["", None, 7, "x" * (MAX_TOKEN + 1), "é" * 60, "\ud800"])
def test_what_cannot_be_a_name_is_refused(text: object) -> None:
    with pytest.raises(InvalidInputError, match="workflow id"):
        to_token(text, "workflow id")  # type: ignore[arg-type]


def test_the_longest_name_fits() -> None:
    assert from_token(to_token("x" * MAX_TOKEN)) == "x" * MAX_TOKEN


@given(st.text("ab-_09", min_size=1), st.text("ab-_09", min_size=1), st.integers(1, 1000))
def test_a_partition_is_one_of_those_there_are(queue: str, workflow: str, partitions: int) -> None:
    assert 0 <= partition_of(queue, workflow, partitions) < partitions


def test_partitions_are_fnv_1a() -> None:
    assert partition_of("", "foobar", 1 << 32) == 0xBF9CF968  # a published test vector


@pytest.mark.parametrize("namespace", ["", "Upper", "1st", "a.b", "a b", "x" * 33])
def test_a_namespace_is_one_lower_case_word(namespace: str) -> None:
    with pytest.raises(InvalidInputError, match="namespace"):
        Names(namespace)


def test_two_namespaces_share_no_stream_nor_bucket() -> None:
    one, other = vars(Names("one")), vars(Names("two"))
    streams = one.pop("owned_streams"), other.pop("owned_streams")
    assert not set(one.values()) & set(other.values())
    assert not set(streams[0].values()) & set(streams[1].values())
