"""What goes wrong between a gateway and its store."""

from __future__ import annotations

from gateway.errors import GatewayError


class StoreError(GatewayError):
    """The store did not answer as it should. The text holds no secret."""
