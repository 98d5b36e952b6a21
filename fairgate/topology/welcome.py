"""What `fairgate serve` and `fairgate cluster` say once they serve: where, to whom, and what to try."""

from __future__ import annotations

from fairgate.topology.deployment import Deployment
from fairgate.topology.plan import FRONT, PROMETHEUS
from fairgate.topology.settings import DEMO_KEYS


def serve_welcome(deployment: Deployment) -> str:
    model, [url] = deployment.plan.engine.served_name, deployment.gateway_urls
    return f"""
Fairgate serves {model} at {url}/v1 to three tenants: {", ".join(DEMO_KEYS)}.
Try it:

{_curl(url, DEMO_KEYS["alice"], model, '"temperature": 0')}
Metrics: {url}/metrics   Ctrl-C ends it.
"""


def cluster_welcome(deployment: Deployment) -> str:
    """What was started, where, and how to use it."""
    plan, urls = deployment.plan, deployment.gateway_urls
    doors, model = [deployment.url(FRONT)] if plan.nginx else urls, plan.engine.served_name
    tries = [_curl(doors[n % len(doors)], key, model, '"max_tokens": 64') for n, key in enumerate(DEMO_KEYS.values())]
    pids = "\n".join(f"  {name:<12} {pid}" for name, pid in deployment.pids.items())
    tenants = ", ".join(DEMO_KEYS)
    return "\n".join(
        [
            f"\nFairgate serves {model} at {' and '.join(door + '/v1' for door in doors)}",
            f"to three tenants, {tenants}, who share {len(plan.workers)} workers over {len(urls)} gateways.",
            "carol has twice the weight of the others. Try it:\n",
            *tries,
            _around(deployment),
            f"Kill what you like and see; the programs and their process ids:\n{pids}\n",
            f"Logs: {plan.folder}   Ctrl-C ends it.",
        ]
    )


def _around(deployment: Deployment) -> str:
    """The last of the topology: the front and the monitoring, or what is missing for them."""
    lines = [f"Metrics: {'  '.join(url + '/metrics' for url in deployment.gateway_urls)}"]
    if not deployment.plan.nginx:
        lines.append("nginx is not on PATH: there is no one address in front, each gateway has its own.")
    if deployment.plan.prometheus:
        lines.append(f"Prometheus: {deployment.url(PROMETHEUS)}")
        lines.append("Grafana is not started: import deploy/grafana/dashboards/fairgate.json into yours.")
    else:
        lines.append("Prometheus is not on PATH: nothing collects the metrics.")
    return "\n".join(lines) + "\n"


def _curl(url: str, key: str, model: str, option: str) -> str:
    return f"""  curl -N {url}/v1/chat/completions \\
    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "stream": true, {option},
         "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'
"""
