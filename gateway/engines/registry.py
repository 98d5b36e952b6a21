"""The kinds of engines that are told apart. To add one: a file beside this one, a line here, a test."""

from __future__ import annotations

from gateway.engines.dialect import Dialect
from gateway.engines.plain import PLAIN
from gateway.engines.sglang import SGLANG
from gateway.engines.vllm import VLLM

_TOLD_APART: tuple[Dialect, ...] = (VLLM, SGLANG)
HEALTH_PATHS = tuple(dict.fromkeys(dialect.health_path for dialect in (PLAIN, *_TOLD_APART)))
"""Where an engine of any kind may say that it is well."""


def dialect_of(metrics: str) -> Dialect:
    """What an engine with these metrics speaks."""
    return next((dialect for dialect in _TOLD_APART if dialect.speaks(metrics)), PLAIN)
