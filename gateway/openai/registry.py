"""The endpoints that a gateway serves. To add one: a file beside this one, a line here, a test."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.openai.chat import Chat
from gateway.openai.completions import Completions
from gateway.openai.endpoint import Endpoint

_ALL: tuple[Endpoint, ...] = (Chat(), Completions())
ENDPOINTS: Mapping[str, Endpoint] = {endpoint.path: endpoint for endpoint in _ALL}
"""By path."""
