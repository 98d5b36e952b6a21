"""What can go wrong in the worker, as a closed set. Every message says what was wrong, where, what was expected."""

from __future__ import annotations


class WorkerError(Exception):
    """Base of every error the worker raises on purpose; `status` and `kind` are what an HTTP client sees of it."""

    status = 500
    kind = "server_error"
    code: str | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, object]:
        """The OpenAI error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class BadRequest(WorkerError):
    """The request cannot be served as it stands."""

    status = 400
    kind = "invalid_request_error"


class ContextTooLong(BadRequest):
    """Prompt and output together do not fit the model's context or the worker's KV cache."""

    code = "context_length_exceeded"


class NotFound(WorkerError):
    """No such path."""

    status = 404
    kind = "invalid_request_error"


class ModelNotFound(WorkerError):
    """No model or adapter of this name is served."""

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"


class BodyTooLarge(WorkerError):
    """The body is over the configured limit."""

    status = 413
    kind = "invalid_request_error"
    code = "request_too_large"


class Overloaded(WorkerError):
    """The queue is full, or the worker is draining."""

    status = 503
    kind = "overloaded_error"
    code = "overloaded"


class EngineDied(WorkerError):
    """The engine stopped on an unexpected error; every request in flight ends with this."""

    status = 500
    kind = "server_error"
    code = "engine_died"


class StartError(WorkerError):
    """A model, an adapter or a device that the settings name and that cannot be used."""


class ListenError(WorkerError):
    """The address cannot be listened on."""
