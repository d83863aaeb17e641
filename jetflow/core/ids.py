"""Ids, and their subject tokens.

A workflow id, task queue or signal name may be any non-empty text. On the wire it is one subject token, which is also a
valid part of a KV key. Letters, digits, ``-`` and ``_`` stay as they are. Every other UTF-8 byte becomes ``=XX`` (two
upper-case hex digits). ``order-456`` stays ``order-456``; ``order 4.5`` becomes ``order=204=2E5``.
"""

import hashlib
import re
from functools import lru_cache

from jetflow.errors import InvalidInputError

MAX_TOKEN = 256

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_SAFE_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def to_token(text: str, what: str = "name") -> str:
    """Return the subject token of a text.

    Raises:
        InvalidInputError: the text is empty, not valid unicode, or longer than 256 bytes as a token.
    """
    if type(text) is str and len(text) <= MAX_TOKEN and _PLAIN.fullmatch(text):
        return text
    if not isinstance(text, str) or not text:
        raise InvalidInputError(f"{what} must be a non-empty string, not {text!r}")
    token = text if _PLAIN.fullmatch(text) else _escaped(text, what)
    if len(token) > MAX_TOKEN:
        raise InvalidInputError(f"{what} is too long: {len(token)} bytes on the wire, at most {MAX_TOKEN}: {text[:40]!r}…")
    return token


@lru_cache(maxsize=4096)
def _escaped(text: str, what: str) -> str:
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} {text!r} is not valid unicode text: {error}") from error
    return "".join(chr(byte) if byte in _SAFE_BYTES else f"={byte:02X}" for byte in raw)


def from_token(token: str) -> str:
    """Return the text of a subject token.

    Raises:
        InvalidInputError: ``to_token`` does not return this token for its text. It could name the same workflow in two partitions. The
            message shows the token to use.
    """
    if _PLAIN.fullmatch(token) and len(token) <= MAX_TOKEN:
        return token
    return _unescaped(token)


@lru_cache(maxsize=4096)
def _unescaped(token: str) -> str:
    if _TOKEN.fullmatch(token):
        try:
            raw = re.sub(rb"=([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), token.encode())
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"subject token {token!r} does not decode to unicode text: {error}") from error
        if to_token(text) == token:
            return text
        raise InvalidInputError(f"subject token {token!r} must be written {to_token(text)!r}")
    raise InvalidInputError(f"subject token {token!r} has characters to escape; write {to_token(token)!r}")


def child_id(parent_id: str, run: int, index: int) -> str:
    """Return the id of a child that was given none. A parent's id that is too long is replaced by its digest."""
    made = f"{parent_id}-{run}-{index}"
    try:
        to_token(made)
    except InvalidInputError:
        return f"{hashlib.blake2b(parent_id.encode(), digest_size=16).hexdigest()}-{run}-{index}"
    return made


def partition_of(queue_token: str, id_token: str, partitions: int) -> int:
    """Return the partition that nats-server computes with ``{{partition(P,1,2)}}``: 32-bit FNV-1a over the two tokens."""
    value = _hash_of_queue(queue_token)
    for byte in id_token.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % partitions


@lru_cache(maxsize=256)
def _hash_of_queue(queue_token: str) -> int:
    value = 2166136261
    for byte in queue_token.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value
