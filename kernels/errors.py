"""What the kernels refuse: one error, whose message names the argument, what it was and what was expected."""

from __future__ import annotations


class KernelError(ValueError):
    """An argument that no kernel can run on."""


def require(condition: bool, message: str) -> None:
    """Raises KernelError with the message unless the condition holds."""
    if not condition:
        raise KernelError(message)
