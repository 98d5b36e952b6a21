"""JSON objects as they were written: where each member stands in the bytes, so that one can be changed or taken out and
all else stays as it is. A parser and a writer would round numbers, and change what is written in more than one way.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_NAME = re.compile(rb'[\s,{]*("[^"]*")\s*:\s*')
_SIMPLE = re.compile(rb'"[^"]*"|[^\s,}]+')
_BRACKETS = re.compile(rb'"[^"]*"|[\[\]{}]')


class Member(NamedTuple):
    """Of a JSON object in bytes: all of it is `text[at:end]`, its value `text[start:end]`."""

    name: str
    at: int
    start: int
    end: int


def members(text: bytes) -> list[Member]:
    """What a JSON object consists of, as it was written. `text` has been read as such an object: nothing is checked and
    nothing can fail, however deep it is nested.

    Escaped quotes and backslashes are overwritten in a copy, in which a quote is where a string begins or ends."""
    plain = text.replace(rb"\\", b"__").replace(rb"\"", b"__")
    found, position = [], 0
    while (name := _NAME.match(plain, position)) is not None:
        at, start = name.start(1), name.end()
        position = _end_of_value(plain, start)
        found.append(Member(_string(text[at : name.end(1)]), at, start, position))
    return found


def _string(quoted: bytes) -> str:
    return str(json.loads(quoted)) if b"\\" in quoted else quoted[1:-1].decode()


def _end_of_value(plain: bytes, start: int) -> int:
    simple = _SIMPLE.match(plain, start)
    if simple is not None and plain[start] not in b"[{":
        return simple.end()
    depth = 0
    for token in _BRACKETS.finditer(plain, start):
        first = plain[token.start()]
        depth += (first in b"[{") - (first in b"]}")
        if not depth:
            return token.end()
    return len(plain)


def without(text: bytes, name: str) -> bytes:
    """An object less the members of that name, each with a comma beside it."""
    for found in reversed(members(text)):
        if found.name == name:
            before, after = text[: found.at].rstrip(), text[found.end :]
            text = before[:-1] + after if before.endswith(b",") else before + after.lstrip().removeprefix(b",")
    return text
