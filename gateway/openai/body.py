"""Reading a client's JSON body: whatever is wrong with it becomes a 400 that names the place."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson

from gateway.errors import Invalid, NotFound

_MOST = 2**31


def parse(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises Invalid.

    orjson reads it; what that refuses is read again by a parser that says where the mistake is, and that takes a few
    things which orjson does not (half a surrogate pair)."""
    try:
        body = orjson.loads(raw)
    except ValueError:
        body = _parse_slowly(raw)
    if not isinstance(body, dict):
        raise Invalid("invalid_json", f"The body is a JSON {type(body).__name__}; expected an object.")
    return body


def _parse_slowly(raw: bytes) -> Any:
    try:
        return _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise Invalid("invalid_json", f"The body is not UTF-8: byte {error.start} cannot be decoded.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} (char {error.pos})"
        raise Invalid("invalid_json", f"The body is not valid JSON: {error.msg} at {where}.") from None
    except RecursionError:
        message = "The body is not usable JSON: it is nested too deeply (levels that can be read: about a thousand)."
        raise Invalid("invalid_json", message) from None
    except ValueError as error:
        raise Invalid("invalid_json", f"The body is not valid JSON: {error}.") from None


def model_of(body: dict[str, Any]) -> str:
    """The model it names. Raises NotFound, Invalid."""
    model = body.get("model")
    if model is None or model == "":
        raise NotFound("model_not_found", "The request names no model.", param="model")
    if not isinstance(model, str):
        wrong("model", model, "a string")
    return model


def section(body: dict[str, Any], name: str) -> dict[str, Any]:
    """An object in it, empty where there is none. Raises Invalid."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        wrong(name, value, "an object")
    return value or {}


def flag(body: dict[str, Any], name: str) -> bool:
    """A flag, false where there is none. Raises Invalid."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        wrong(name, value, "true or false")
    return bool(value)


def count(body: dict[str, Any], name: str) -> int | None:
    """A number of something, at least 1, or None. Raises Invalid."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= _MOST:
        wrong(name, value, f"a whole number from 1 to {_MOST}")
    return int(value)


def wrong(name: str, found: object, expected: str) -> NoReturn:
    shown = "an object" if isinstance(found, dict) else "a list" if isinstance(found, list) else json.dumps(found)[:80]
    raise Invalid("invalid_value", f"'{name}' is {shown}; expected {expected}.", param=name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
