"""An engine that answers with what another one was recorded to say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..engine import Engine, Json, Script
from .exchange import Exchange

OPTIONS = ("stream", "stream_options")


class Replay(Engine):
    """Knows the answers to one request, by the variant in which it is asked for. `requests` has the bodies that came.

    `cut`: send the answer in pieces of that many bytes; else as it was recorded. An engine without a recording of
    `after_one`: what it says from its second answer on. An engine without a recording of
    `continuous` usage refuses to be asked for it, as the one did that was recorded."""

    def __init__(self, exchanges: Iterable[Exchange], cut: int | None = None) -> None:
        super().__init__()
        self._by_variant = {exchange.variant: exchange for exchange in exchanges}
        self._cut = cut
        self.knows_continuous_usage = "continuous" in self._by_variant
        self.requests: list[bytes] = []
        self.after_one: Exchange | None = None

    async def _answer(self, request: web.Request, body: Json, script: Script) -> web.StreamResponse:
        self.requests.append(await request.read())
        variant = variant_of(body)
        if variant == "continuous" and not self.knows_continuous_usage:
            return await super()._answer(request, body, script)
        exchange = self._by_variant[variant]
        if self.after_one is not None and len(self.requests) > 1:
            exchange = self.after_one
        else:
            assert less_options(body) == less_options(json.loads(exchange.request)), "this request was never recorded"
        response = web.StreamResponse(status=exchange.status, headers={"Content-Type": exchange.content_type})
        await response.prepare(request)
        step = self._cut or len(exchange.answer)
        at = range(0, len(exchange.answer), step)
        for piece in [exchange.answer[a : a + step] for a in at] if self._cut else exchange.pieces:
            await response.write(piece)
        await response.write_eof()
        return response


def variant_of(body: Mapping[str, Any]) -> str:
    """As which variant a request asks for its answer."""
    options = body.get("stream_options") or {}
    if not body.get("stream"):
        return "whole"
    if options.get("continuous_usage_stats"):
        return "continuous"
    return "usage" if options.get("include_usage") else "stream"


def less_options(body: Mapping[str, Any]) -> Json:
    return {name: value for name, value in body.items() if name not in OPTIONS}
