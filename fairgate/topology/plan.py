"""What a deployment consists of, before anything runs: workers or mock engines, gateways, and what is around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fairgate.errors import ProcessError
from fairgate.topology.settings import mock_settings

FRONT, PROMETHEUS = "front", "prometheus"


@dataclass(frozen=True)
class ModelWorker:
    """A worker with a real model. `options` of `fairgate worker`, by name."""

    model: str
    options: Mapping[str, int] = field(default_factory=dict)

    start_s: ClassVar[float] = 900.0  # the first start converts the model
    note: ClassVar[str] = "; the first start converts the model, which takes a minute"

    @property
    def served_name(self) -> str:
        return self.model.rstrip("/").rsplit("/", 1)[-1]

    def arguments(self, port: int, service_log: Path) -> list[str]:
        own = {"model": self.model, "served-name": self.served_name, "port": port}
        return ["worker", *_words({**own, **self.options})]


@dataclass(frozen=True)
class MockEngine:
    """An engine without a model that keeps to a clock of `step_s` seconds, and logs who received which tokens when."""

    slots: int = 4
    kv_tokens: int = 4096
    step_s: float = 0.02

    start_s: ClassVar[float] = 60.0
    note: ClassVar[str] = ""
    served_name: ClassVar[str] = "mock"

    def arguments(self, port: int, service_log: Path) -> list[str]:
        size = {"slots": self.slots, "kv-tokens": self.kv_tokens, "step-ms": self.step_s * 1e3}
        return ["mock-engine", *_words({"port": port, "log": service_log, "model": self.served_name, **size})]

    def part(self, parts: int) -> dict[str, int]:
        """Slots and KV tokens that each of so many gateways may use. Raises ProcessError where there are none."""
        if self.slots < parts:
            raise ProcessError(f"{self.slots} slots cannot be split over {parts} gateways; expected at least {parts}")
        return {"slots": self.slots // parts, "kv_tokens": self.kv_tokens // parts}


@dataclass(frozen=True)
class Plan:
    """`workers` that are all alike, and `gateways`, by name. Configurations, logs and service logs go to `folder`.

    `settings` are what all gateways have in common (settings.py); `room` is what each is told that it may use of a
    worker, where it is not to ask the worker. `store` are settings of that section beside the address; without it there
    is no store. `nginx` and `prometheus` are programs; without them nothing stands in front, or beside. `ports` are of
    members that must have a certain one. Each gateway is so many `processes`. Programs write to the terminal instead of
    logs with `logs=False`.
    """

    folder: Path
    engine: ModelWorker | MockEngine
    settings: Mapping[str, Any]
    workers: Sequence[str] = ("worker",)
    gateways: Sequence[str] = ("gateway",)
    room: Mapping[str, int] = field(default_factory=dict)
    store: Mapping[str, Any] | None = None
    nginx: str | None = None
    prometheus: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    processes: int = 1
    logs: bool = True

    @property
    def around(self) -> Sequence[str]:
        """What stands in front of the gateways and beside them."""
        return [name for name, program in ((FRONT, self.nginx), (PROMETHEUS, self.prometheus)) if program]

    def log(self, name: str) -> Path | None:
        return self.folder / f"{name}.log" if self.logs else None

    def service_log(self, worker: str) -> Path:
        """Of a mock engine: who received which tokens when, over all its starts."""
        return self.folder / f"{worker}.service.log"


def mock_plan(
    folder: Path,
    weights: Mapping[str, float],
    gateways: int = 4,
    *,
    engines: int = 1,
    engine: MockEngine,
    shared: bool = True,
    pool: Mapping[str, Any] | None = None,
    store: Mapping[str, Any] | None = None,
) -> Plan:
    """For trials and benchmarks: mock engines, and gateways with one queue over a store.

    `shared` False: no store, each gateway keeps a queue of its own and its part of each engine. `weights` by tenant;
    `pool` and `store` are settings of those sections. Raises ProcessError for a room that cannot be split.
    """
    return Plan(
        folder,
        engine,
        mock_settings(engine.served_name, weights, pool or {}),
        workers=numbered("engine", range(engines)),
        gateways=numbered("gateway", range(gateways)),
        room=engine.part(1 if shared else gateways),
        store=(store or {}) if shared else None,
    )


def numbered(word: str, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{word}-{number}" for number in numbers)


def _words(options: Mapping[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
