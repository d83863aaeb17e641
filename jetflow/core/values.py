"""Typed values at the edge: Python objects to JSON and back, with the path of what does not fit."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from jetflow.core.failures import to_failure
from jetflow.core.interrupts import is_interrupt
from jetflow.errors import InvalidInputError

EMPTY_LIST = Raw(b"[]")


def _refuse(value: Any) -> Any:
    raise TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} cannot be written as JSON; use a msgspec Struct, a dataclass, "
        "plain JSON types, datetime, UUID, Decimal or bytes"
    )


# JSON has no NaN and no infinity, and the encoder writes null for them. Only what has a null may hold one; then MessagePack, which writes them
# as they are, shows whether there is anything like it. So a payload without a null costs one search through its bytes.
_numbers = msgspec.msgpack.Encoder(enc_hook=_refuse, decimal_format="string", uuid_format="canonical")
_null = re.compile(b"null").search
_odd_number = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
_encoder = msgspec.json.Encoder(enc_hook=_refuse, decimal_format="string", uuid_format="canonical")
_plain = msgspec.json.Decoder()
_list_of_raw = msgspec.json.Decoder(list[Raw])


def encode(value: Any, what: str = "value") -> Raw:
    """The JSON of a value.

    Raises:
        InvalidInputError: if it has a part that cannot be JSON, with the path of a number that is none.
    """
    try:
        body = _encoder.encode(value)
        if _null(body) is not None and value is not None:
            _check_numbers(value)
        return Raw(body)
    except BaseException as error:  # encoding looks at attributes, which user code may define
        if is_interrupt(error):
            raise
        raise InvalidInputError(f"{what} cannot be written as JSON: {_why(error)}") from error


def _check_numbers(value: Any) -> None:
    try:
        if _odd_number(_numbers.encode(value)) is None:
            return
    except (TypeError, ValueError, OverflowError):  # what only JSON can hold
        pass
    odd = _path_of_odd_number(value, "$")
    if odd is not None:
        raise ValueError(odd)


def _path_of_odd_number(value: Any, path: str) -> str | None:
    """Return what a value has that JSON has no number for, and where, in the words of msgspec."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"JSON has no number {value} - at `{path}`"
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = ((f"{path}[{key!r}]" if not isinstance(key, str) else f"{path}.{key}", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        parts = ((f"{path}[{place}]", part) for place, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        parts = ((f"{path}[...]", part) for part in value)
    elif names := _fields_of(type(value)):
        parts = ((f"{path}.{name}", getattr(value, name, None)) for name in names)
    return next((odd for place, part in parts if (odd := _path_of_odd_number(part, place)) is not None), None)


def _fields_of(cls: Any) -> Sequence[str]:
    for attribute in ("__struct_fields__", "__dataclass_fields__"):
        if hasattr(cls, attribute):
            return tuple(getattr(cls, attribute))
    return tuple(field.name for field in getattr(cls, "__attrs_attrs__", ()))


def decode(body: bytes | Raw, what: str = "value") -> Any:
    """Plain JSON types from JSON text; ``None`` from empty text.

    Raises:
        InvalidInputError: if it is not JSON.
    """
    if not body:
        return None
    try:
        return _plain.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{what} is not JSON: {error}") from error


def shown(body: bytes | Raw) -> Any:
    """A stored payload for somebody who only looks: plain JSON types, or its text if that is no JSON that Python can hold."""
    try:
        return decode(body)
    except InvalidInputError:
        return bytes(body).decode(errors="backslashreplace")


def as_json(body: bytes, what: str) -> Raw:
    """The body itself once it is known to be JSON; ``null`` for an empty one.

    Raises:
        InvalidInputError: if it is not JSON.
    """
    if not body.strip():
        return Raw(b"null")
    decode(body, what)
    return Raw(body)


def json_list(items: Sequence[Raw]) -> Raw:
    """A JSON list of parts that are JSON already."""
    return Raw(b"[%b]" % b",".join(items)) if items else EMPTY_LIST


def encode_args(args: Sequence[Any], name: str) -> Raw:
    """The JSON list of a call's arguments.

    Raises:
        InvalidInputError: naming the argument that cannot be JSON.
    """
    try:
        body = _encoder.encode(args)
        if _null(body) is not None:
            _check_numbers(args)
        return Raw(body)
    except BaseException as error:
        if is_interrupt(error):
            raise
        return json_list([encode(arg, f"{name}, argument {place}") for place, arg in enumerate(args, 1)])


_ATOMS = frozenset((str, int, float, bool, bytes))
_USUAL = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


def _why(error: BaseException) -> str:
    """Return what JSON's reader or writer says, or what user code has raised into it."""
    if type(error) in _USUAL or isinstance(error, msgspec.MsgspecError):
        return str(error)
    failure = to_failure(error)
    return f"{failure.type}: {failure.message}" if failure.message else failure.type


class TypedDecoder:
    """Decodes one value of an annotated type."""

    def __init__(self, annotation: Any, what: str) -> None:
        self.what = what
        self._annotation = annotation
        try:
            self._decoder = _plain if annotation is Any else msgspec.json.Decoder(annotation)
        except TypeError as error:
            raise InvalidInputError(f"{what}: type {annotation!r} cannot be read from JSON: {error}") from error

    def check(self, value: Any, body: bytes | Raw) -> None:
        """Check that a value, which ``body`` was made of, comes back from it.

        Raises:
            InvalidInputError: with the path of the field that does not fit.
        """
        if self._decoder is not _plain and (type(value) is not self._annotation or type(value) not in _ATOMS):
            self(body)

    def __call__(self, body: bytes | Raw) -> Any:
        """The value.

        Raises:
            InvalidInputError: with the path of the field that does not fit.
        """
        try:
            return self._decoder.decode(body)
        except BaseException as error:  # the type's own ``__post_init__`` may raise anything
            if is_interrupt(error):
                raise
            raise InvalidInputError(f"{self.what}: {_why(error)}") from error


class Signature:
    """What a workflow or activity function takes and gives, as decoders made once from its annotations."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        hints = _hints(function)
        parameters = list(inspect.signature(function).parameters.values())
        self._signature = inspect.signature(function)
        self._rest: TypedDecoder | None = None
        self._each: list[TypedDecoder] = []
        self._positional: set[str] = set()
        types: list[Any] = []
        self.required: int = 0
        for parameter in parameters:
            what = f"{name}, argument {parameter.name!r}"
            annotation = hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = TypedDecoder(annotation, what)
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                self._each.append(TypedDecoder(annotation, what))
                types.append(annotation)
                self._positional.add(parameter.name)
                self.required += parameter.default is parameter.empty
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise InvalidInputError(f"{name}: keyword-only argument {parameter.name!r} needs a default, arguments travel as a list")
        self.single: bool = len(self._each) == 1 and self._rest is None
        self._whole = msgspec.json.Decoder(tuple[tuple(types)]) if types and self._rest is None else None  # type: ignore[misc]
        self.result: TypedDecoder = TypedDecoder(hints.get("return", Any), f"{name}, result")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Positional arguments of a call, keywords put in their places.

        Raises:
            InvalidInputError: if the call does not fit the function.
        """
        if not kwargs and self.required <= len(args) and (self._rest is not None or len(args) <= len(self._each)):
            return args
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidInputError(f"{self.name}: {error}") from error
        lost = [name for name in kwargs if name not in self._positional]
        if lost:
            raise InvalidInputError(f"{self.name}: keyword-only argument {lost[0]!r} cannot be given, arguments travel as a list")
        bound.apply_defaults()
        return bound.args

    def decode_args(self, body: bytes | Raw) -> Sequence[Any]:
        """Typed arguments from their JSON list.

        Raises:
            InvalidInputError: with the argument's name and the path of the field that does not fit.
        """
        if self._whole is not None:
            try:
                return self._whole.decode(body)  # type: ignore[no-any-return]
            except BaseException as error:
                if is_interrupt(error):
                    raise
                # defaults may be left out; or the slow way tells which argument is wrong
        try:
            parts = _list_of_raw.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidInputError(f"{self.name}: arguments are not a JSON list: {error}") from error
        given, known = len(parts), len(self._each)
        if given < self.required or (given > known and self._rest is None):
            wanted = str(self.required) if self.required == known else f"{self.required} to {known}"
            if self._rest is not None:
                wanted = f"at least {self.required}"
            raise InvalidInputError(f"{self.name} takes {wanted} argument(s), {given} given")
        if given <= known:
            return [decoder(part) for decoder, part in zip(self._each, parts, strict=False)]
        rest = typing.cast(TypedDecoder, self._rest)
        return [self._each[i](part) if i < known else rest(part) for i, part in enumerate(parts)]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidInputError(
            f"{function.__qualname__}: annotation not found: {error}; types must be importable where the function is defined"
        ) from error


def body_of(args: Sequence[Any]) -> tuple[bytes, int | None]:
    """A start command's body, the plainest JSON that says the arguments, and the number of them where a reader needs to be told.

    One argument is its own JSON, none is empty, several are a list. A list might be either, and which one depends on the function that reads
    it, which may change after the command is stored. So whatever begins with a bracket goes with its number.
    """
    if not args:
        return b"", None
    if len(args) == 1:
        body = bytes(encode(args[0], "argument"))
        return body, 1 if body[:1] == b"[" else None
    return bytes(encode(list(args), "arguments")), len(args)


def args_from_body(body: bytes, *, single: bool, told: int | None = None) -> Raw:
    """The JSON list of arguments of a start command's body; the other side of ``body_of``.

    Args:
        body: what was sent.
        single: whether the function takes exactly one parameter; decides on a list whose sender has not told the number.
        told: how many arguments it says.

    Raises:
        InvalidInputError: if the body is not JSON.
    """
    if not body.strip():
        return EMPTY_LIST
    decode(body, "start body")
    is_list = body.lstrip()[:1] == b"["
    if is_list and (not single if told is None else told > 1):
        return Raw(body)
    return json_list([Raw(body)])
