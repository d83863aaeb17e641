"""User data: what a workflow shows of itself while it runs, as named fields and as one JSON document.

The machine holds the user data, and only the workflow's code changes it. So every replay computes it again: a change is not an event,
and nothing is read back from the broker. The state record shows the data, and the next generation starts with it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from jetflow.core.ids import to_name
from jetflow.core.values import decode, encode
from jetflow.errors import InvalidInputError, PayloadTooLargeError


class UserData:
    """The user data of one run.

    Attributes:
        fields: values by name, as JSON.
        document: the entity; None without one.
        size: approximate size of all of it as JSON, in bytes.
    """

    def __init__(self, max_bytes: int, fields: dict[str, Raw] | None = None, document: dict[str, Any] | None = None) -> None:
        self._max_bytes = max_bytes
        self.fields: dict[str, Raw] = {name: Raw(bytes(value)) for name, value in (fields or {}).items()}
        self.document = document
        self._document_size = 0 if document is None else len(msgspec.json.encode(document))
        self._fields_size = sum(map(_size, self.fields.items()))

    @property
    def size(self) -> int:
        return self._fields_size + self._document_size

    def update(self, values: dict[str, Any]) -> int:
        """Set all of these fields, or none on an error. Return how many are new."""
        given = {to_name(name, "the name of a user data field"): encode(value, f"user data {name!r}") for name, value in values.items()}
        size = self._fields_size + sum(_size(item) - _size((item[0], self.fields.get(item[0]))) for item in given.items())
        self._check(size + self._document_size)
        new = len(given.keys() - self.fields.keys())
        self.fields.update(given)
        self._fields_size = size
        return new

    def remove(self, names: tuple[str, ...]) -> int:
        """Remove fields. Return how many existed."""
        gone = [(name, self.fields.pop(name)) for name in dict.fromkeys(names) if name in self.fields]
        self._fields_size -= sum(map(_size, gone))
        return len(gone)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a copy of a field's value."""
        value = self.fields.get(name)
        return default if value is None else decode(value)

    def replace(self, document: dict[str, Any]) -> None:
        """Replace the document. The caller must not use the new one afterwards."""
        size = len(encode(document, "the entity"))
        self._check(self._fields_size + size)
        self.document, self._document_size = document, size

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise PayloadTooLargeError("the workflow's user data", size, self._max_bytes)


def _size(item: tuple[str, Raw | None]) -> int:
    return 0 if item[1] is None else len(item[0]) + len(item[1]) + 4


Access = Callable[[bool], UserData]
"""Returns the user data of the workflow whose code runs. The argument is True before a change, which is refused in a query."""


class Search:
    """Named fields of the workflow. ``handle.query_state([...])`` reads them from outside. A value is any JSON value."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def set(self, *pairs: Any, **fields: Any) -> int:
        """Set fields: ``set({"a": 1})``, ``set("a", 1, "b", 2)`` or ``set(a=1)``.

        Returns:
            How many of the fields are new.
        """
        given: dict[str, Any] = {}
        if len(pairs) == 1 and isinstance(pairs[0], dict):
            given.update(pairs[0])
        elif len(pairs) % 2 == 0:
            given.update(zip(pairs[::2], pairs[1::2], strict=True))
        else:
            raise InvalidInputError('set() takes a dict, or names and values in turn: set("a", 1, "b", 2)')
        return self._access(True).update(given | fields)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field's value, or ``default`` if it is missing."""
        return self._access(False).get(name, default)

    def mget(self, *names: str) -> list[Any]:
        """Return the values of several fields, with None for a missing one."""
        data = self._access(False)
        return [data.get(name) for name in names]

    def delete(self, *names: str) -> int:
        """Remove fields. Return how many existed."""
        return self._access(True).remove(names)

    def incr(self, name: str, by: float = 1) -> int | float:
        """Add to a field's number, 0 if it is missing, and return the sum."""
        return self._compute(name, 0, lambda value: value + _number("by", by))

    def mult(self, name: str, by: float) -> int | float:
        """Multiply a field's number, 1 if it is missing, and return the product."""
        return self._compute(name, 1, lambda value: value * _number("by", by))

    def _compute(self, name: str, initial: float, function: Callable[[Any], int | float]) -> int | float:
        data = self._access(True)
        value = function(_number(f"field {name!r}", data.get(name, initial)))
        data.update({name: value})
        return value


class Entity:
    """One JSON document of the workflow. A path is dotted: in ``"order.lines.0.price"``, ``0`` is an index in a list.

    Every call returns a copy. Setting a value creates the missing objects on its path.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    def set(self, document: dict[str, Any]) -> dict[str, Any]:
        """Replace the whole document and return it."""
        return self._put(_object(document))

    def merge(self, values: dict[str, Any]) -> dict[str, Any]:
        """Merge an object into the document at every depth, and return the document. Lists and plain values are replaced."""
        return self._put(_merged(self._draft(), _object(values)))

    def get(self, path: str | None = None, default: Any = None) -> Any:
        """Return the value at a path, or ``default`` if it is missing. Without a path return the document, or ``{}`` if there is none."""
        document = self._access(False).document
        if path is None:
            return {} if document is None else copy.deepcopy(document)
        return copy.deepcopy(look_up(document, path, default))

    def delete(self, path: str) -> dict[str, Any]:
        """Remove the value at a path and return the document."""
        draft = self._draft()
        parent, key = _place(draft, path, make=False)
        if isinstance(parent, list) and isinstance(key, int):
            del parent[key]
        elif isinstance(parent, dict):
            parent.pop(key, None)
        return self._put(draft)

    def append(self, path: str, value: Any) -> list[Any]:
        """Add to the end of the list at a path, an empty one if it is missing, and return the list."""
        return self._list(path, lambda items: items.append(_plain(value)))

    def prepend(self, path: str, value: Any) -> list[Any]:
        """Add to the beginning of the list at a path, an empty one if it is missing, and return the list."""
        return self._list(path, lambda items: items.insert(0, _plain(value)))

    def remove(self, path: str, index: int) -> list[Any]:
        """Remove one item of the list at a path by its index, from 0, and return the list. An index past the end changes nothing."""
        return self._list(path, lambda items: items.pop(index) if -len(items) <= index < len(items) else None)

    def increment(self, path: str, by: float = 1) -> int | float:
        """Add to the number at a path, 0 if it is missing, and return the sum."""

        def added(value: Any) -> Any:
            return _plain(_number(f"entity {path!r}", 0 if value is None else value) + _number("by", by))

        return self._change(path, added)  # type: ignore[no-any-return]

    def toggle(self, path: str) -> bool:
        """Invert the boolean at a path, False if it is missing, and return it."""

        def turned(value: Any) -> bool:
            if not isinstance(value, bool | None):
                raise InvalidInputError(f"entity {path!r} must be true or false, not {value!r}")
            return not value

        return self._change(path, turned)  # type: ignore[no-any-return]

    def set_if_not_exists(self, path: str, value: Any) -> Any:
        """Set the value at a path if it is missing. Return the value at the path."""
        there = look_up(self._access(False).document, path, _MISSING)
        return copy.deepcopy(there) if there is not _MISSING else self._change(path, lambda _: _plain(value))

    def _draft(self) -> dict[str, Any]:
        return copy.deepcopy(self._access(True).document) or {}

    def _put(self, document: dict[str, Any]) -> dict[str, Any]:
        self._access(True).replace(document)
        return copy.deepcopy(document)

    def _list(self, path: str, function: Callable[[list[Any]], Any]) -> list[Any]:
        def changed(items: Any) -> list[Any]:
            items = [] if items is None else items
            if not isinstance(items, list):
                raise InvalidInputError(f"entity {path!r} must be a list, not {type(items).__name__}")
            function(items)
            return items

        return self._change(path, changed)  # type: ignore[no-any-return]

    def _change(self, path: str, function: Callable[[Any], Any]) -> Any:
        draft = self._draft()
        parent, key = _place(draft, path, make=True)
        value = function(parent.get(key) if isinstance(parent, dict) else parent[key])
        parent[key] = value
        self._put(draft)
        return copy.deepcopy(value)


_MISSING = object()


def look_up(document: Any, path: str, default: Any = None) -> Any:
    """Return the value at a dotted path of a document, or ``default`` if it is missing."""
    value = document
    for step in _steps(path):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return default
    return value


def _place(document: dict[str, Any], path: str, *, make: bool) -> tuple[Any, Any]:
    """Return the object or list that holds a path's last key, and that key. Return (None, None) if it is missing and ``make`` is False."""
    steps = _steps(path)
    here: Any = document
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if isinstance(here, list) and step.isdecimal() and int(step) < len(here):
            key: Any = int(step)
        elif isinstance(here, dict):
            key = step
            if make and not last and here.get(step) is None:
                here[step] = {}
        elif make:
            raise InvalidInputError(f"entity path {path!r} goes through {'.'.join(steps[:number])!r}, which has no {step!r}")
        else:
            return None, None
        if last:
            return here, key
        here = here.get(key) if isinstance(here, dict) else here[key]
    return None, None


def _steps(path: Any) -> list[str]:
    if not isinstance(path, str) or not path or not all(steps := path.split(".")):
        raise InvalidInputError(f"an entity path must be names joined by dots, not {path!r}")
    if not path.isascii():
        to_name(path, "an entity path")
    return steps


def _merged(into: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        there = into.get(key)
        into[key] = _merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return into


def _plain(value: Any) -> Any:
    return decode(encode(value, "entity value"))


def _object(value: Any) -> dict[str, Any]:
    plain = _plain(value)
    if not isinstance(plain, dict):
        raise InvalidInputError(f"an entity must be a JSON object, not {type(value).__name__}")
    return plain


def _number(what: str, value: Any) -> int | float:
    if isinstance(value, str):  # such as a seed from a command line
        with contextlib.suppress(ValueError):
            value = float(value) if "." in value or "e" in value.lower() else int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInputError(f"{what} is not a number: {value!r}")
    return value
