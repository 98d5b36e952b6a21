"""What a configuration may hold: validated whole, frozen, unknown keys refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fairness import CostError, parse_cost, parse_policy, parse_predictor

FALLBACK_SLOTS = 32
"""Running slots of a worker whose file entry and /metrics name none: few enough for a small engine to start with."""
FALLBACK_KV_TOKENS = 32_768
"""KV tokens of a worker whose file entry and /metrics name none: 1,024 tokens for each fall-back slot."""


def _worker_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected an address like http://host:8000")
    return url.rstrip("/")


def _store_url(url: str) -> str:
    """Says nothing of what it found: there may be a password in it."""
    parts = urlsplit(url)
    of_host = parts.scheme in ("redis", "rediss") and parts.hostname
    of_socket = parts.scheme == "unix" and not parts.hostname and parts.path.strip("/")
    if not of_host and not of_socket:
        raise ValueError("expected an address like redis://host:6379/0 or unix:///path/to/socket")
    return url


def _path(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("expected the path of a file")
    return path


def _policy(spec: str) -> str:
    parse_policy(spec)
    return spec


def _predict(spec: str) -> str:
    parse_predictor(spec)
    return spec


def _cost(spec: str | dict[str, Any]) -> str | dict[str, Any]:
    try:
        parse_cost(spec)
    except CostError as error:
        raise ValueError(str(error)) from None
    return spec


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,127}$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0)]
FilePath = Annotated[str, AfterValidator(_path)]
KeyHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Tls(_Section):
    """PEM files: the certificate with what leads to its root, and its private key, without a password."""

    certificate: FilePath
    key: FilePath


class Listen(_Section):
    """`unix`: path of a Unix socket to listen on in place of host and port. `tls`: only encrypted connections, TLS 1.2
    at least; the files are read again when they change, and on SIGHUP. `proxy_protocol`: every connection begins with
    the header, v1 or v2, in which a load balancer says whom it speaks for; never switch it on where clients can connect
    themselves."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    unix: FilePath | None = None
    tls: Tls | None = None
    proxy_protocol: bool = False


class WorkerConfig(_Section):
    """One engine. `slots` and `kv_tokens` are read from its /metrics when absent (`vllm:cache_config_info`)."""

    url: Annotated[str, AfterValidator(_worker_url)]
    slots: Positive | None = None
    kv_tokens: Annotated[int, Field(ge=2)] | None = None
    api_key: Annotated[str, Field(pattern=r"^[!-~]+$")] | None = Field(default=None, repr=False)


class QueueConfig(_Section):
    max_requests: Positive = 10_000
    max_requests_per_tenant: Positive = 1_000
    timeout_s: Seconds = 300.0


class PoolConfig(_Section):
    """Workers that can each run any of `models` and `adapters` (adapter = the `model` name a client asks for).

    `predict`: output tokens reserved ahead: `none`, `max_tokens`, `ewma`, `mean:8` (of the tenant's last 8 outputs) or
    `quantile:0.9` (of its last 20). `ttft_objective_s`: turn away at once (429) what is not expected to have its first
    token within so many seconds. `adapter_slots`: adapters that each worker can have in use at once (vLLM's
    `--max-loras`); a head that lacks only such a slot may then be passed within the slack of `vtc:slack=S`.
    `adapter_load`: service charged for bringing an adapter in.
    """

    models: Annotated[list[Name], Field(min_length=1)]
    adapters: list[Name] = []
    workers: Annotated[list[WorkerConfig], Field(min_length=1)]
    policy: Annotated[str, AfterValidator(_policy)] = "vtc"
    cost: Annotated[str | dict[str, Any], AfterValidator(_cost)] = "weighted:1,2"
    predict: Annotated[str, AfterValidator(_predict)] = "none"
    default_max_tokens: Positive = 512
    ttft_objective_s: Seconds | None = None
    adapter_slots: Positive | None = None
    adapter_load: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    queue: QueueConfig = QueueConfig()

    def adapters_at_once(self) -> int:
        """Adapters that each worker can have in use: all, unless the file says how many."""
        return self.adapter_slots or max(1, len(self.adapters))

    def not_shared(self) -> Iterator[tuple[str, str]]:
        """Keys that have no form in shared state, and why."""
        if reason := parse_policy(self.policy).not_shared:
            yield "policy", reason
        if self.adapter_slots is not None:
            yield "adapter_slots", "which adapters a worker holds is known to each gateway alone; leave it out"
        if self.adapter_load:
            yield "adapter_load", "which adapters a worker holds is known to each gateway alone; leave it out"
        if self.ttft_objective_s is not None:
            yield "ttft_objective_s", "an expected wait is measured by each gateway alone; leave it out"

    def served(self) -> list[str]:
        return [*self.models, *self.adapters]


class TenantConfig(_Section):
    """`max_queued` overrides the pool's bound for this tenant; `rpm` limits accepted requests in any 60 seconds.
    `priority`: its class in pools whose policy is `priority:AGING`, 0 the first."""

    id: Name
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    keys_sha256: Annotated[list[KeyHash], Field(min_length=1)]
    models: list[Name] | Literal["all"] = "all"
    max_queued: Positive | None = None
    rpm: Positive | None = None
    priority: Annotated[int, Field(ge=0)] = 0

    def may_use(self, model: str) -> bool:
        return self.models == "all" or model in self.models


class GroupConfig(_Section):
    """An inner node of the tree of shares. A tenant id is a path (`acme/search/alice`): the groups `acme` and
    `acme/search` share by weight with their siblings, as tenants do within them; unnamed groups weigh 1."""

    id: Name
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Timeouts(_Section):
    """Seconds: to connect to a worker, to the first token of a stream, between two chunks of it, for a whole answer
    that is not streamed, for which an idle connection to a worker is used again (less than the worker keeps it: uvicorn
    5 s), and to drain at shutdown."""

    connect_s: Seconds = 5.0
    first_byte_s: Seconds = 300.0
    idle_s: Seconds = 60.0
    answer_s: Seconds = 600.0
    kept_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    drain_s: Seconds = 30.0


class Limits(_Section):
    """`max_unsent_bytes`: what a client that reads too slowly may leave unread before it is cut off.
    `max_queued_bytes_per_tenant`: of bodies that one tenant may have in the gateway, from their first byte until an
    engine works on them; the 1,000 requests it may have in a queue can be 64 KiB each, a prompt of 16,000 tokens.
    `max_queued_bytes`: of all tenants together, so that eight with all they may have fit, in a process that a small
    machine still has room for.
    `max_connections`: by default as many as half of the files that the process may open. `max_connections_per_address`:
    without it no limit, since all clients of a load balancer come from one address. In seconds: `head_s` for a
    request's head from its first byte, `body_s` for its whole body, `idle_s` between two requests of a connection.
    """

    max_head_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024
    max_body_bytes: Positive = 4 * 1024 * 1024
    max_unsent_bytes: Positive = 4 * 1024 * 1024
    max_queued_bytes_per_tenant: Positive = 64 * 1024 * 1024
    max_queued_bytes: Positive = 512 * 1024 * 1024
    max_connections: Positive | None = None
    max_connections_per_address: Positive | None = None
    head_s: Seconds = 15.0
    body_s: Seconds = 120.0
    idle_s: Seconds = 75.0


class Health(_Section):
    interval_s: Seconds = 5.0
    timeout_s: Seconds = 2.0
    max_backoff_s: Seconds = 10.0


class StoreConfig(_Section):
    """Redis or Valkey that keeps the queues of all pools, so that many gateways give one fair share.

    `namespace` begins all keys. `on_store_loss`: go on alone with a share of the room (`local`), or refuse with 503
    (`closed`). `lease_s` without a sign of life and a replica's requests are taken off its hands; `heartbeat_s` between
    such signs when idle; `flush_s` for which output tokens may go unreported; `timeout_s` for an answer before the
    store counts as lost. `replica` names this gateway in logs and keys; by default the host does.
    """

    url: Annotated[str, AfterValidator(_store_url)] = Field(repr=False)
    cluster: bool = False
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "fairgate"
    on_store_loss: Literal["local", "closed"] = "local"
    lease_s: Seconds = 5.0
    heartbeat_s: Seconds = 1.0
    flush_s: Seconds = 0.02
    timeout_s: Seconds = 1.0
    replica: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = None

    @model_validator(mode="after")
    def _a_cluster_has_hosts(self) -> StoreConfig:
        if self.cluster and self.url.startswith("unix:"):
            raise ValueError("url: a cluster cannot be found by a socket; expected an address like redis://host:6379/0")
        return self


class Observe(_Section):
    """`max_tenant_labels`: tenants with metrics of their own, in the order of the file; the rest is `other`."""

    max_tenant_labels: Annotated[int, Field(ge=0)] = 100
    access_log: bool = True


class GatewayConfig(_Section):
    """`revision` numbers pools, tenants and groups: gateways that share a store all follow the highest."""

    listen: Listen = Listen()
    pools: Annotated[dict[Name, PoolConfig], Field(min_length=1)]
    tenants: Annotated[list[TenantConfig], Field(min_length=1)]
    groups: list[GroupConfig] = []
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    health: Health = Health()
    observe: Observe = Observe()
    store: StoreConfig | None = None
    revision: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _names_are_unique(self) -> GatewayConfig:
        _unique("tenants[].id", [tenant.id for tenant in self.tenants])
        _unique("tenants[].keys_sha256", [key for tenant in self.tenants for key in tenant.keys_sha256])
        _unique("pools.*.models and adapters", [name for pool in self.pools.values() for name in pool.served()])
        for name, pool in self.pools.items():
            _unique(f"pools.{name}.workers[].url", [worker.url for worker in pool.workers])
        return self

    @model_validator(mode="after")
    def _groups_have_members(self) -> GatewayConfig:
        inner = self.inner_groups()
        _unique("groups[].id", [group.id for group in self.groups])
        for group in self.groups:
            if group.id not in inner:
                expected = ", ".join(sorted(inner)) or "none, since no tenant id has a /"
                raise ValueError(f"groups[].id: {group.id} has no tenants in it; expected one of: {expected}")
        for tenant in self.tenants:
            if tenant.id in inner:
                raise ValueError(f"tenants[].id: {tenant.id} is a group of other tenants; expected a tenant of its own")
        return self

    @model_validator(mode="after")
    def _times_of_the_store(self) -> GatewayConfig:
        for name in ("timeout_s", "heartbeat_s"):
            if self.store is not None and (found := getattr(self.store, name)) >= self.store.lease_s:
                lease = self.store.lease_s
                raise ValueError(f"store.{name}: found {found:g}; expected less than store.lease_s, which is {lease:g}")
        return self

    @model_validator(mode="after")
    def _a_body_fits(self) -> GatewayConfig:
        names = ("max_body_bytes", "max_queued_bytes_per_tenant", "max_queued_bytes")
        for small, large in pairwise(names):
            if (found := getattr(self.limits, large)) < (least := getattr(self.limits, small)):
                raise ValueError(f"limits.{large}: found {found}; expected at least limits.{small}, which is {least}")
        return self

    @model_validator(mode="after")
    def _shared_pools_have_what_shared_state_has(self) -> GatewayConfig:
        for name, pool in self.pools.items() if self.store is not None else ():
            for key, reason in pool.not_shared():
                raise ValueError(f"pools.{name}.{key}: cannot be used together with a store: {reason}")
        return self

    def inner_groups(self) -> set[str]:
        """The inner nodes of the tree of shares: every proper prefix of a tenant's path."""
        parts = [tenant.id.split("/") for tenant in self.tenants]
        return {"/".join(path[:depth]) for path in parts for depth in range(1, len(path))}

    def weights(self) -> dict[str, float]:
        """The weight of every tenant and every inner group, by path."""
        groups = dict.fromkeys(self.inner_groups(), 1.0) | {group.id: group.weight for group in self.groups}
        return groups | {tenant.id: tenant.weight for tenant in self.tenants}


def _unique(where: str, names: Iterable[str]) -> None:
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ValueError(f"{where}: {', '.join(twice)} stands there more than once; expected each once")
