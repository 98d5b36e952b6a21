"""A client's request body, checked as far as a proxy must understand it; everything else passes through untouched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from gateway.errors import Invalid, NotFound
from gateway.openai.estimate import raw_tokens

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PATHS = (CHAT, COMPLETIONS)
COMPLETIONS_DEFAULT_MAX_TOKENS = 16
"""What OpenAI and the engines produce for a completion that names no `max_tokens`."""
_MOST = 2**31


@dataclass(frozen=True, slots=True)
class Ask:
    """`max_tokens`: the most the whole request may produce (all choices of all prompts), None where the body leaves it
    open.
    `raw_tokens`: the uncorrected estimate of its input tokens."""

    path: str
    model: str
    body: dict[str, Any]
    stream: bool
    wants_usage: bool
    wants_continuous_usage: bool
    max_tokens: int | None
    prompts: int
    choices: int
    raw_tokens: float

    def upstream_body(self, *, continuous_usage: bool) -> bytes:
        """The body an engine gets: always streamed, with the usage that metering needs."""
        options = {**(self.body.get("stream_options") or {}), "include_usage": True}
        options.pop("continuous_usage_stats", None)
        if continuous_usage:
            options["continuous_usage_stats"] = True
        body = {**self.body, "stream": True, "stream_options": options}
        return _ENCODER.encode(body).encode()


def read_ask(path: str, raw: bytes) -> Ask:
    """Parse a body. Raises Invalid (400) or NotFound (404, no model named)."""
    body = _json(raw)
    model = body.get("model")
    if model is None or model == "":
        raise NotFound("model_not_found", "The request names no model.", param="model")
    if not isinstance(model, str):
        _wrong("model", model, "a string")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        _wrong("stream_options", options, "an object")
    options = options or {}
    prompts = _prompts(body)
    choices = (_count(body, "n") or 1) * prompts
    return Ask(
        path=path,
        model=model,
        body=body,
        stream=_flag(body, "stream"),
        wants_usage=_flag(options, "include_usage"),
        wants_continuous_usage=_flag(options, "continuous_usage_stats"),
        max_tokens=_max_tokens(path, body, choices),
        prompts=prompts,
        choices=choices,
        raw_tokens=raw_tokens(body),
    )


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise Invalid("invalid_json", f"The body is not UTF-8: byte {error.start} cannot be decoded.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} (char {error.pos})"
        raise Invalid("invalid_json", f"The body is not valid JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise Invalid("invalid_json", "The body is not usable JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise Invalid("invalid_json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise Invalid("invalid_json", f"The body is a JSON {type(body).__name__}; expected an object.")
    return body


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _wrong(name: str, found: object, expected: str) -> NoReturn:
    shown = json.dumps(found)[:80]
    raise Invalid("invalid_value", f"'{name}' is {shown}; expected {expected}.", param=name)


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        _wrong(name, value, "true or false")
    return bool(value)


def _count(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= _MOST:
        _wrong(name, value, f"a whole number from 1 to {_MOST}")
    return int(value)


def _max_tokens(path: str, body: dict[str, Any], choices: int) -> int | None:
    each = _count(body, "max_completion_tokens") or _count(body, "max_tokens")
    if each is None and path == COMPLETIONS:
        each = COMPLETIONS_DEFAULT_MAX_TOKENS
    return each * choices if each is not None else None


def _prompts(body: dict[str, Any]) -> int:
    """A completion may carry several prompts: a list of strings, or a list of lists of token ids."""
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)
    return len(prompt) if several and isinstance(prompt, list) else 1
