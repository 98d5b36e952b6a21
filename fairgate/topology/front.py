"""What stands around the gateways: nginx in front, Prometheus beside, as configuration texts.

The files in deploy/ are these texts for the addresses of compose.yaml; `fairgate cluster` uses them for its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

SCRAPE_S = 5


def nginx_conf(listen: str, gateways: Sequence[str], temp: Path) -> str:
    """nginx in front of `gateways` (HOST:PORT each). `listen`: PORT or HOST:PORT; `temp`: a folder it may write to."""
    servers = "\n".join(f"        server {gateway} max_fails=1 fail_timeout=2s;" for gateway in gateways)
    folders = "\n".join(f"    {kind}_temp_path {temp / kind};" for kind in _TEMP)
    facts = {"LISTEN": listen, "SERVERS": servers, "FOLDERS": folders} | {code: _body(code) for code in _ERRORS}
    return reduce(lambda text, fact: text.replace(f"@{fact}@", facts[fact]), facts, _NGINX)


def prometheus_yml(jobs: Mapping[str, Sequence[str]]) -> str:
    """Prometheus that scrapes /metrics of `jobs`: targets (HOST:PORT) by job name."""
    settings: dict[str, Any] = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S - 1}s"},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
        ],
    }
    return yaml.safe_dump(settings, sort_keys=False)


def _body(code: str) -> str:
    kind, message = _ERRORS[code]
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


_ERRORS = {
    "unknown_url": ("invalid_request_error", "Metrics and books are those of one gateway: ask it directly."),
    "body_too_large": ("invalid_request_error", "The body is larger than 8 MiB, the limit here."),
    "gateway_unreachable": ("upstream_error", "No gateway answered."),
}
"""What nginx says itself, in the form of the gateways' errors: type and message by code."""

_TEMP = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

_NGINX = """\
# One address in front of the gateways. Streams pass through unbuffered, and no request is ever sent twice.
worker_processes auto;

events {
    worker_connections 8192; # a stream holds two
}

http {
@FOLDERS@

    log_format requests '$remote_addr $status $request_method $uri $request_time s to $upstream_addr '
                        'id $upstream_http_x_request_id';
    access_log /dev/stdout requests;
    server_tokens off;
    default_type application/json;

    upstream gateways {
        zone gateways 64k;
        least_conn; # streams differ too much in length for taking turns
@SERVERS@
        keepalive 64;
        keepalive_timeout 60s; # sooner than a gateway closes: a POST on a connection just closed cannot be sent again
    }

    server {
        listen @LISTEN@;
        client_max_body_size 8m; # above the gateways' own limit, so that theirs is the error a client sees

        location / {
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection ""; # all other headers pass as they are, x-request-id among them
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;

            proxy_buffering off;
            proxy_connect_timeout 2s;
            proxy_send_timeout 60s;
            proxy_read_timeout 3600s; # a request may wait long for its turn; the gateways have the timeouts

            # Without non_idempotent a POST goes to the next gateway only if none of it was sent to this one. A 502
            # is not in the list: a gateway says so when an engine failed, and is well itself.
            proxy_next_upstream error timeout;
            proxy_next_upstream_tries 2;
            proxy_next_upstream_timeout 5s;
        }

        location ~ ^/(metrics|debug/book)$ {
            return 404 '@unknown_url@';
        }

        # Only what nginx says itself; the gateways' errors pass as they are.
        error_page 413 @too_large;
        error_page 502 504 @unreachable;
        location @too_large {
            return 413 '@body_too_large@';
        }
        location @unreachable {
            add_header Retry-After 2 always;
            return 502 '@gateway_unreachable@';
        }
    }
}
"""
