"""Service of a simulated run, booked per request when it ends: a request yields one token in every decode step from
its prefill to its end, so its service is one slice of the engine's steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairness import CostFunction
from loadgen.judge.metrics import ServiceEvents


class StepMeter:
    """The decode steps of an engine and what each tenant received in them."""

    def __init__(self, cost: CostFunction) -> None:
        self._cost = cost
        self._steps_s: list[float] = []
        self._decoded: dict[str, NDArray[np.float64]] = {}  # tenant -> (service, tokens) per step, [2, capacity]
        self._events = ServiceEvents()

    @property
    def steps(self) -> int:
        return len(self._steps_s)

    def step(self, time_s: float) -> None:
        """A decode step ended."""
        self._steps_s.append(time_s)

    def served(self, tenant: str, n_in: int, n_out: int, first_token_s: float, first_step: int) -> None:
        """A request ended: one token by its prefill, the others in the steps from `first_step` on."""
        service = np.array([self._cost.service(n_in, k) for k in range(1, n_out + 1)], dtype=np.float64)
        self._events.add(first_token_s, tenant, float(service[0]), n_in + 1)
        end = first_step + n_out - 1
        decoded = self._row(tenant, end)
        decoded[0, first_step:end] += np.diff(service)
        decoded[1, first_step:end] += 1

    def events(self) -> ServiceEvents:
        """The service of all requests that have ended, as it happened. Call it once, at the end."""
        times_s = np.array(self._steps_s, dtype=np.float64)
        for tenant, decoded in self._decoded.items():
            steps = np.flatnonzero(decoded[1])
            self._events.times_s += times_s[steps].tolist()
            self._events.tenants += [tenant] * len(steps)
            self._events.service += decoded[0, steps].tolist()
            self._events.tokens += decoded[1, steps].astype(int).tolist()
        return self._events

    def _row(self, tenant: str, length: int) -> NDArray[np.float64]:
        row = self._decoded.get(tenant)
        if row is None or row.shape[1] < length:
            grown = np.zeros((2, 2 * length))
            if row is not None:
                grown[:, : row.shape[1]] = row
            self._decoded[tenant] = row = grown
        return row
