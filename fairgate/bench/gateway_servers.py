"""What `fairgate bench gateway` measures side by side: the gateway, and what else can stand in front of an engine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from fairgate.errors import ProcessError
from fairgate.topology.processes import FAIRGATE, Program, lasting_port, tied, write_config

DIRECT = "engine itself"
RELAY, NGINX, ROUTER = "bare Python relay", "nginx", "vllm-router"
GATEWAY, LOGGED = "Fairgate", "Fairgate with access log"
START_S = 60.0


@dataclass(frozen=True)
class Setting:
    """What a server is told: the engine's port, its own, a folder for what it writes, and of the gateway how many
    tenants and slots it has."""

    engine: int
    port: int
    folder: Path
    tenants: int
    slots: int


@dataclass(frozen=True)
class Server:
    """One process that relays to the engine. `command` writes its configuration, if it has one; `ready` is a path that
    answers 200 when it does."""

    name: str
    command: Callable[[Setting], Sequence[str]]
    ready: str = "/health"


def key_of(tenant: int) -> str:
    return f"key-{tenant}"


def servers(nginx: str | None, router: str | None) -> list[Server]:
    """All that can be measured here. `nginx`, `router`: where these are, or None: nowhere."""
    found = [Server(RELAY, _relay)]
    if nginx is not None:
        found.append(Server(NGINX, lambda setting: _nginx(nginx, setting)))
    if router is not None:
        found.append(Server(ROUTER, lambda setting: _router(router, setting)))
    return [*found, UNLOGGED, Server(LOGGED, _logged, "/readyz")]


def program(option: str, named: str | None, name: str) -> str | None:
    """The path of a program that an option named, or else of the one on PATH, if there is one.
    Raises ProcessError when the named one is not there."""
    path = shutil.which(named or name)
    if named and path is None:
        raise ProcessError(f"{option} {named}: there is no such program; expected the path of {name}")
    return path


def needed(option: str, named: str | None, name: str) -> str:
    """As `program`, but it must be there. Raises ProcessError."""
    if (path := program(option, named, name)) is None:
        raise ProcessError(f"there is no {name} on PATH; expected it there, or its path by {option}")
    return path


@contextmanager
def running(server: Server, setting: Setting) -> Iterator[tuple[int, int]]:
    """Its process id, of the one process that it is, and its port. Raises ProcessError."""
    own = replace(setting, port=lasting_port(), folder=setting.folder / server.name.replace(" ", "-"))
    own.folder.mkdir()
    with Program(server.name, log=own.folder / "log", command=tied(server.command(own))) as program:
        program.wait_ready(f"http://127.0.0.1:{own.port}{server.ready}", START_S)
        yield program.process.pid, own.port


def repin(pid: int, cores: set[int]) -> None:
    """All threads of a process that runs."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


# -- how each is started -------------------------------------------------------------------------------------------


def _relay(setting: Setting) -> Sequence[str]:
    return [sys.executable, "-m", "fairgate.bench.gateway_relay", str(setting.engine), str(setting.port)]


def _nginx(path: str, setting: Setting) -> Sequence[str]:
    """One process (no master), so that its processor time is that of one process."""
    config = setting.folder / "nginx.conf"
    temporary = "\n".join(
        f"{kind}_temp_path {setting.folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = _NGINX.replace("@ENGINE@", str(setting.engine)).replace("@PORT@", str(setting.port))
    config.write_text(text.replace("@FOLDERS@", temporary))
    return [path, "-p", str(setting.folder), "-c", str(config), "-e", "stderr"]


def _router(path: str, setting: Setting) -> Sequence[str]:
    """Health is asked once a minute: each look of its own at the engine would count as the cost of requests."""
    where = ["--host", "127.0.0.1", "--port", str(setting.port)]
    engine = ["--worker-urls", f"http://127.0.0.1:{setting.engine}", "--policy", "round_robin"]
    quiet = ["--log-level", "error", "--prometheus-port", str(lasting_port()), "--health-check-interval-secs", "60"]
    return [path, *where, *engine, *quiet]


def _gateway(setting: Setting) -> Sequence[str]:
    return _gateway_with(setting, access_log=False)


def _logged(setting: Setting) -> Sequence[str]:
    return _gateway_with(setting, access_log=True)


def _gateway_with(setting: Setting, access_log: bool) -> Sequence[str]:
    config = write_config(gateway_config(setting, access_log), setting.folder / "gateway.yaml")
    return [*FAIRGATE, "gateway", "--config", str(config)]


def gateway_config(setting: Setting, access_log: bool) -> Mapping[str, Any]:
    """Everything is on: keys, the queue by VTC with predicted lengths, the auditor, metering, metrics."""
    worker = {"url": f"http://127.0.0.1:{setting.engine}", "slots": setting.slots, "kv_tokens": 10_000_000}
    tenants = [
        {"id": f"t{number}", "keys_sha256": [sha256(key_of(number).encode()).hexdigest()]}
        for number in range(setting.tenants)
    ]
    return {
        "listen": {"host": "127.0.0.1", "port": setting.port},
        "pools": {"main": {"models": ["m"], "workers": [worker], "policy": "vtc", "predict": "ewma"}},
        "tenants": tenants,
        "observe": {"access_log": access_log},
    }


UNLOGGED = Server(GATEWAY, _gateway, "/readyz")

_NGINX = """\
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {
    worker_connections 4096;
}
http {
    access_log off;
    @FOLDERS@
    keepalive_requests 1000000000;
    upstream engine {
        server 127.0.0.1:@ENGINE@;
        keepalive 1024;
        keepalive_requests 1000000000;
    }
    server {
        listen 127.0.0.1:@PORT@;
        tcp_nodelay on;
        location / {
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }
    }
}
"""
