"""Typed values: Python objects to JSON and back. Errors name the path of the part that does not fit."""

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
    """Return a value as JSON.

    Raises:
        InvalidInputError: a part of it cannot be written as JSON.
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
    """Return plain JSON types from JSON text; None from empty text.

    Raises:
        InvalidInputError: it is not JSON.
    """
    if not body:
        return None
    try:
        return _plain.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{what} is not JSON: {error}") from error


def shown(body: bytes | Raw) -> Any:
    """Return a stored payload for display: plain JSON types, or the text itself if Python cannot decode it."""
    try:
        return decode(body)
    except InvalidInputError:
        return bytes(body).decode(errors="backslashreplace")


def as_json(body: bytes, what: str) -> Raw:
    """Check that a body is JSON and return it; return ``null`` for an empty one.

    Raises:
        InvalidInputError: it is not JSON.
    """
    if not body.strip():
        return Raw(b"null")
    decode(body, what)
    return Raw(body)


def json_list(items: Sequence[Raw]) -> Raw:
    """Return a JSON list of parts that are JSON already."""
    return Raw(b"[%b]" % b",".join(items)) if items else EMPTY_LIST


def encode_args(args: Sequence[Any], name: str) -> Raw:
    """Return the JSON list of a call's arguments.

    Raises:
        InvalidInputError: an argument cannot be written as JSON. The message names it.
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
        """Return the decoded value.

        Raises:
            InvalidInputError: a field does not fit the type. The message has its path.
        """
        try:
            return self._decoder.decode(body)
        except BaseException as error:  # the type's own ``__post_init__`` may raise anything
            if is_interrupt(error):
                raise
            raise InvalidInputError(f"{self.what}: {_why(error)}") from error


class Signature:
    """The arguments and the result of a workflow or activity function: decoders, created once from its annotations."""

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
                raise InvalidInputError(f"{name}: keyword-only argument {parameter.name!r} needs a default, because arguments are sent as a list")
        self.single: bool = len(self._each) == 1 and self._rest is None
        self._whole = msgspec.json.Decoder(tuple[tuple(types)]) if types and self._rest is None else None  # type: ignore[misc]
        self.result: TypedDecoder = TypedDecoder(hints.get("return", Any), f"{name}, result")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return a call's arguments as positional ones.

        Raises:
            InvalidInputError: the call does not fit the function.
        """
        if not kwargs and self.required <= len(args) and (self._rest is not None or len(args) <= len(self._each)):
            return args
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidInputError(f"{self.name}: {error}") from error
        lost = [name for name in kwargs if name not in self._positional]
        if lost:
            raise InvalidInputError(f"{self.name}: keyword-only argument {lost[0]!r} cannot be given, because arguments are sent as a list")
        bound.apply_defaults()
        return bound.args

    def decode_args(self, body: bytes | Raw) -> Sequence[Any]:
        """Return typed arguments from their JSON list.

        Raises:
            InvalidInputError: an argument does not fit. The message has its name and the path of the field.
        """
        if self._whole is not None:
            try:
                return self._whole.decode(body)  # type: ignore[no-any-return]
            except BaseException as error:
                if is_interrupt(error):
                    raise
                # arguments with defaults may be missing; otherwise the code below finds the wrong argument
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
    """Return the body of a start command, and the number of arguments if a header must say it.

    One argument is its own JSON, none is an empty body, several are a list. What a list means depends on the function that reads it, which
    may change after the command is stored. So the number goes with every body that is a list.
    """
    if not args:
        return b"", None
    if len(args) == 1:
        body = bytes(encode(args[0], "argument"))
        return body, 1 if body[:1] == b"[" else None
    return bytes(encode(list(args), "arguments")), len(args)


def args_from_body(body: bytes, *, single: bool, told: int | None = None) -> Raw:
    """Return the JSON list of arguments from the body of a start command. It is the inverse of ``body_of``.

    Args:
        body: what was sent.
        single: whether the function takes exactly one parameter; decides on a list whose sender has not told the number.
        told: how many arguments it says.

    Raises:
        InvalidInputError: the body is not JSON.
    """
    if not body.strip():
        return EMPTY_LIST
    decode(body, "start body")
    is_list = body.lstrip()[:1] == b"["
    if is_list and (not single if told is None else told > 1):
        return Raw(body)
    return json_list([Raw(body)])
