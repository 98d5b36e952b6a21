"""Everything that can go wrong, as a closed hierarchy: one class per HTTP status, a machine-readable `code` each.

The body is the OpenAI one, `{"error": {"message", "type", "param", "code"}}`. Why these statuses:
    404  a model that does not exist and one that the tenant may not use look the same, as with OpenAI: nobody
         learns from a refusal what others run.
    429  a limit of the tenant or a full queue: come back later, the request was never queued.
    503  the gateway cannot serve anybody now (no healthy worker, draining, engines that stay full).
    504  the request was queued and its turn did not come in time. Not 503, because the service works and others are
         served, and not 408, because the client did nothing wrong; SDKs retry it like any 5xx.
"""

from __future__ import annotations

import json
from collections.abc import Mapping


class GatewayError(Exception):
    """Base of every error of this program."""


class ConfigError(GatewayError, ValueError):
    """A configuration that cannot be used. The text names file, key, what was found and what was expected."""


class ListenError(GatewayError, OSError):
    """The address to listen on cannot be had."""


class UpstreamError(GatewayError):
    """A worker did not answer as it should. `reached` is false when not even a connection came about."""

    def __init__(self, kind: str, message: str, *, reached: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.reached = reached


class ApiError(GatewayError):
    """A request that ends in an error for the client. `retry_after` in seconds, where waiting helps."""

    status = 500
    type = "api_error"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


class Invalid(ApiError):
    status = 400
    type = "invalid_request_error"


class Unauthenticated(ApiError):
    status = 401
    type = "authentication_error"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"


class ClientTooSlow(ApiError):
    status = 408
    type = "invalid_request_error"


class BodyTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"


class UnsupportedBody(ApiError):
    status = 415
    type = "invalid_request_error"


class ExpectationFailed(ApiError):
    status = 417
    type = "invalid_request_error"


class RateLimited(ApiError):
    status = 429
    type = "rate_limit_error"


class HeadTooLarge(ApiError):
    status = 431
    type = "invalid_request_error"


class UpstreamFailed(ApiError):
    status = 502
    type = "upstream_error"


class Overloaded(ApiError):
    status = 503
    type = "overloaded_error"


class QueueTimeout(ApiError):
    status = 504
    type = "timeout_error"


class EngineRefused(ApiError):
    """An engine's own answer to a request it does not accept (400, 404, 422...), handed on as it is."""

    type = "engine_error"

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__("engine_refused", f"the engine answered with status {status}")
        self.status = status
        self._body = body

    def body(self) -> bytes:
        return self._body
