"""compose.yaml and deploy/: every file is parsed, and each names only what the others have."""

import json
import re
import tomllib
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import crossplane
import pytest
import yaml

from fairgate.topology.front import nginx_conf, prometheus_yml
from fairgate.topology.stores import StoreServer, store_binary
from gateway.app import build
from gateway.config.load import load_config, parse_config
from gateway.config.surprises import surprises

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
GATEWAYS = ["gateway-1:8080", "gateway-2:8080"]
WORKERS = ["worker-1:8100", "worker-2:8100"]
KUBERNETES = [item for file in (DEPLOY / "kubernetes").glob("*.yaml") for item in yaml.safe_load_all(file.read_text())]


def seconds(duration):
    return float(duration) if duration.isdigit() else float(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


# compose.yaml


def test_the_topology_is_all_there():
    gateways = {target.split(":")[0] for target in GATEWAYS}
    workers = {target.split(":")[0] for target in WORKERS}
    assert set(SERVICES) == {"front", "redis", "prometheus", "grafana"} | gateways | workers


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_restarted_and_ended_in_its_time(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert seconds(service["stop_grace_period"]) >= 10


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_from_this_tree_or_from_one_version_of_an_image(name):
    service = SERVICES[name]
    if "build" in service:
        dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
        assert f" AS {service['build']['target']}\n" in dockerfile
        assert re.match(r"(#.*\n)*FROM python:\d+\.\d+\.\d+-", dockerfile)
    else:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_services_that_say_when_they_are_healthy(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] == "service_healthy"
        assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_is_there(name):
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


def test_what_the_image_installs_has_every_file_that_code_reads():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    packages = [ROOT / name.rstrip("*") for name in settings["packages"]["find"]["include"]]
    files = {file for package in packages for file in package.rglob("*") if file.is_file()}
    read = {file for file in files if file.suffix not in {".py", ".pyc", ".so", ".md"}}
    homes = {file.parent for file in files if file.name == "__init__.py"}
    installed = {file for home in homes for pattern in patterns for file in home.glob(pattern)}
    assert [file for file in read if file.suffix == ".lua"]
    assert read - installed == set()


def test_only_the_front_is_reached_from_outside():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.pop("front") == ["8080:8080"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_redis_persists_and_evicts_nothing_wherever_it_runs():
    [stateful] = [item for item in KUBERNETES if item["kind"] == "StatefulSet"]
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert container["args"] == command
    assert container["image"] == SERVICES["redis"]["image"]
    assert [volume.split(":")[1] for volume in SERVICES["redis"]["volumes"]] == ["/data"]


# deploy/fairgate.yaml


@pytest.fixture(scope="module")
def config():
    return load_config(DEPLOY / "fairgate.yaml")


def test_the_gateways_configuration_is_valid_and_without_surprises(config):
    assert surprises(config) == []
    assert [urlsplit(worker.url).netloc for worker in config.pools["main"].workers] == WORKERS
    assert config.store is not None
    assert urlsplit(config.store.url).hostname in SERVICES
    assert {target.split(":")[1] for target in GATEWAYS} == {str(config.listen.port)}


@pytest.mark.parametrize("gateway", ["gateway-1", "gateway-2"])
def test_a_gateway_has_the_time_to_drain(config, gateway):
    service = SERVICES[gateway]
    assert seconds(service["stop_grace_period"]) > config.timeouts.drain_s
    assert seconds(SERVICES["front"]["stop_grace_period"]) > config.timeouts.drain_s
    assert "./deploy/fairgate.yaml:/etc/fairgate/fairgate.yaml:ro" in service["volumes"]


# deploy/nginx.conf


def directives(block, name):
    """Every directive `name` at any depth: its arguments, and its own block."""
    for item in block:
        if item["directive"] == name:
            yield item["args"], item.get("block", [])
        yield from directives(item.get("block", []), name)


def parse_nginx(path):
    """The parsed file. Raises AssertionError for an unknown directive, a wrong place or number of arguments."""
    parsed = crossplane.parse(str(path), strict=True, single=True)
    assert parsed["status"] == "ok", parsed["errors"]
    return parsed["config"][0]["parsed"]


@pytest.fixture(scope="module")
def nginx():
    return parse_nginx(DEPLOY / "nginx.conf")


def one(block, name):
    [(arguments, _)] = directives(block, name)
    return arguments


def test_the_deployed_files_are_what_the_cluster_command_writes():
    assert (DEPLOY / "nginx.conf").read_text() == nginx_conf("8080", GATEWAYS, Path("/var/cache/nginx"))
    assert (DEPLOY / "prometheus.yml").read_text() == prometheus_yml({"gateway": GATEWAYS, "worker": WORKERS})
    mounts = [volume for name in ("front", "prometheus") for volume in SERVICES[name]["volumes"]]
    assert {"./deploy/nginx.conf:/etc/nginx/nginx.conf:ro"} <= set(mounts)
    assert {"./deploy/prometheus.yml:/etc/prometheus/prometheus.yml:ro"} <= set(mounts)


def test_the_parser_refuses_what_nginx_would_refuse(tmp_path):
    broken = (DEPLOY / "nginx.conf").read_text().replace("proxy_buffering", "proxy_bufering")
    (tmp_path / "nginx.conf").write_text(broken)
    with pytest.raises(AssertionError, match="proxy_bufering"):
        parse_nginx(tmp_path / "nginx.conf")


def test_nginx_stands_in_front_of_the_gateways(nginx):
    [(name, upstream)] = directives(nginx, "upstream")
    assert [arguments[0] for arguments, _ in directives(upstream, "server")] == GATEWAYS
    assert one(nginx, "proxy_pass") == [f"http://{name[0]}"]
    assert [f"{one(nginx, 'listen')[0]}:8080"] == SERVICES["front"]["ports"]


def test_streams_pass_unbuffered_over_connections_that_are_kept(nginx):
    assert one(nginx, "proxy_buffering") == ["off"]
    assert one(nginx, "proxy_http_version") == ["1.1"]
    assert (["Connection", ""], []) in directives(nginx, "proxy_set_header")
    assert int(one(nginx, "keepalive")[0]) > 0
    assert not list(directives(nginx, "gzip"))


def test_a_request_that_was_sent_is_never_sent_again(nginx):
    assert set(one(nginx, "proxy_next_upstream")) == {"error", "timeout"}  # and without non_idempotent no POST


def test_nginx_waits_longer_and_takes_more_than_the_gateways(nginx, config):
    longest = config.pools["main"].queue.timeout_s + config.timeouts.first_byte_s
    assert seconds(one(nginx, "proxy_read_timeout")[0]) > longest
    assert int(one(nginx, "client_max_body_size")[0].rstrip("m")) * 2**20 > config.limits.max_body_bytes


def test_what_nginx_says_itself_has_the_form_of_the_gateways_errors(nginx):
    answers = [arguments for arguments, _ in directives(nginx, "return")]
    assert sorted(status for status, _ in answers) == ["404", "413", "502"]
    for _, body in answers:
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


# Prometheus and Grafana


def test_prometheus_scrapes_services_of_the_topology():
    settings = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in settings["scrape_configs"]}
    assert jobs == {"gateway": GATEWAYS, "worker": WORKERS}
    assert seconds(settings["global"]["scrape_timeout"]) < seconds(settings["global"]["scrape_interval"])


PROVISIONING = DEPLOY / "grafana" / "provisioning"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "fairgate.json").read_text())


def test_grafana_is_provisioned_with_the_source_and_the_dashboard():
    [source] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "fairgate.yaml").read_text())["providers"]
    assert urlsplit(source["url"]).hostname in SERVICES
    assert SERVICES["prometheus"]["ports"] == [f"127.0.0.1:9090:{urlsplit(source['url']).port}"]
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    used |= {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    assert used == {source["uid"]}
    mounts = [volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"]]
    assert ["./deploy/grafana/provisioning", "/etc/grafana/provisioning"] in mounts
    assert ["./deploy/grafana/dashboards", provider["options"]["path"]] in mounts
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DEPLOY / "grafana" / "dashboards" / home.relative_to(provider["options"]["path"])).exists()


def test_the_dashboards_panels_lie_beside_each_other_and_explain_themselves():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in panels)
    assert not [(a["title"], b["title"]) for a, b in combinations(panels, 2) if overlap(a["gridPos"], b["gridPos"])]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def overlap(a, b):
    return all(a[at] < b[at] + b[size] and b[at] < a[at] + a[size] for at, size in (("x", "w"), ("y", "h")))


METRIC = re.compile(r"fairgate_[a-z0-9_]+")


def metrics_of(dashboard):
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in dashboard["templating"]["list"]]
    return {name for query in queries for name in METRIC.findall(query)}


async def exposed(settings):
    """Names of all series that a gateway with these settings can have."""
    gateway = build(parse_config(settings))
    await gateway.start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{gateway.port}/metrics") as answer,
        ):
            types = re.findall(r"^# TYPE (\S+) (\S+)$", await answer.text(), re.MULTILINE)
    finally:
        await gateway.close()
    return {
        name + suffix
        for name, kind in types
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }


async def test_a_gateway_has_every_metric_that_the_dashboard_shows(tmp_path):
    settings = yaml.safe_load((DEPLOY / "fairgate.yaml").read_text())
    settings["listen"] = {"host": "127.0.0.1", "port": 0}
    with StoreServer(store_binary(), tmp_path) as store:
        settings["store"]["url"] = store.url
        names = await exposed(settings)
    assert "fairgate_no_such_thing" not in names
    assert metrics_of(DASHBOARD) - names == set()


def test_the_dashboard_shows_what_an_operator_asks_for():
    asked = {
        "service_total",
        "counter_gap",
        "counter_bound",
        "queue_requests",
        "time_to_first_token_seconds_bucket",
        "worker_reserved_kv_tokens",
        "store_up",
        "replicas",
    }
    assert {f"fairgate_{name}" for name in asked} <= metrics_of(DASHBOARD)


# deploy/kubernetes


def kubernetes(kind, name):
    [found] = [item for item in KUBERNETES if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def test_services_reach_pods():
    for kind, name in (("Deployment", "fairgate"), ("StatefulSet", "redis")):
        spec = kubernetes(kind, name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        service = kubernetes("Service", name)["spec"]
        assert service["selector"] == labels
        ports = {port["name"] for port in spec["template"]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= ports


def test_a_pod_is_ready_alive_and_drained_as_a_gateway_means_it():
    deployment = kubernetes("Deployment", "fairgate")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["image"].split(":")[0] == SERVICES["gateway-1"]["image"]
    command, wait_s = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pod["terminationGracePeriodSeconds"] > int(wait_s) + deployed_config().timeouts.drain_s


def test_a_pods_configuration_is_valid_and_mounted_where_it_is_read():
    [container] = kubernetes("Deployment", "fairgate")["spec"]["template"]["spec"]["containers"]
    [volume] = kubernetes("Deployment", "fairgate")["spec"]["template"]["spec"]["volumes"]
    [mount] = container["volumeMounts"]
    config_map = kubernetes("ConfigMap", volume["configMap"]["name"])
    assert {f"{mount['mountPath']}/{file}" for file in config_map["data"]} == {container["args"][-1]}
    config = deployed_config()
    assert surprises(config) == []
    assert config.listen.port == container["ports"][0]["containerPort"]
    assert kubernetes("Service", urlsplit(config.store.url).hostname)


def deployed_config():
    return parse_config(yaml.safe_load(kubernetes("ConfigMap", "fairgate")["data"]["fairgate.yaml"]))
