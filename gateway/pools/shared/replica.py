"""What a link to the store asks of the replica whose operations it carries, and tells it."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.pools.shared.protocol import Decision, Op, Reply


class Replica(Protocol):
    """Whose operations these are."""

    def joining(self) -> list[Op]:
        """Begin anew: the operations that tell the store everything, `join` first."""

    def applied(self, reply: Reply, ops: list[Op]) -> None:
        """A batch was applied; with `join` in it a new epoch has begun."""

    def lost(self, reason: str) -> None:
        """The store does not answer."""

    def heard(self, decision: Decision) -> None:
        """A decision that came over the stream."""

    def adopt(self, text: str) -> bool:
        """The configuration in force. Whether the replica must join anew because of it."""

    def inspected(self, view: dict[str, Any]) -> None:
        """What the pool looks like (inspect.lua)."""

    @property
    def revision(self) -> int: ...

    @property
    def lease_s(self) -> float:
        """How long a lease lasts under the configuration in force."""
