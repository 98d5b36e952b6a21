"""What is wrong with a configuration, each mistake with its key path, what was found and what was expected.

Nothing that may be a secret is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gateway.config.schema import GatewayConfig


def explain(error: ValidationError) -> Iterator[str]:
    """One line for each mistake, without the name of the file."""
    for item in error.errors(include_url=False):
        path = _key_path(item["loc"])
        if item["type"] == "missing":
            yield f"{path}: missing; expected {_wanted(item['loc'])}"
        elif item["type"] == "extra_forbidden":
            yield f"{path}: unknown key; expected one of {', '.join(_siblings(item['loc'])) or 'none'}"
        elif item["type"] == "value_error":
            text = item["msg"].removeprefix("Value error, ")
            yield f"{path}: found {shown(item['input'], item['loc'])}; {text}" if path else text
        else:
            wanted = item["msg"].removeprefix("Input should be ")
            yield f"{path}: found {shown(item['input'], item['loc'])}; expected: {wanted[0].lower() + wanted[1:]}"


def _key_path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not _UNION_TAG.match(part):
            path += f".{part}" if path else part
    return path


_UNION_TAG = re.compile(r"(str|int|float|none)$|(list|dict|literal)\[|(constrained|function)-")
"""What pydantic adds to the place of a mistake inside `A | B`."""


def _wanted(loc: tuple[int | str, ...]) -> str:
    wanted = {
        "url": "an address: http://host:8000 of a worker, redis://host:6379/0 of a store",
        "keys_sha256": "a list of the SHA-256 of API keys, in hexadecimal",
    }
    return wanted.get(str(loc[-1]), "a value")


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section holding the last part of `loc` knows."""
    section: Any = GatewayConfig
    for part in loc[:-1]:
        if _is_section(section) and part in section.model_fields:
            section = section.model_fields[str(part)].annotation
            if NoneType in get_args(section):
                section = get_args(section)[0]
        elif get_args(section):
            section = get_args(section)[-1]
    return list(section.model_fields) if _is_section(section) else []


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


_SECRETS = {"keys_sha256", "api_key"}


def shown(value: object, loc: tuple[int | str, ...] = ()) -> str:
    """What was found at `loc`, short enough for a line."""
    if _SECRETS.intersection(loc) or (loc[:1] == ("store",) and not isinstance(value, int | float)):
        return "something else (not shown: it may be a secret)"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
