"""The house itself: our generic package names are ours, the version is harmless, the deployment files parse."""

from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("fairgate", "gateway", "fairness", "backend", "kernels", "loadgen")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_name_resolves_to_this_tree_and_to_no_other_distribution(package):
    spec = find_spec(package)
    assert spec is not None
    assert Path(spec.origin).parent == ROOT / package
    assert set(packages_distributions().get(package, ["fairgate"])) == {"fairgate"}


def test_version_is_not_one_that_transformers_takes_for_the_kernels_package():
    major, minor = map(int, version("fairgate").split(".")[:2])
    assert (major, minor) not in {(0, 18), (0, 19)}


def test_compose_file_names_only_services_and_files_that_exist():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
        if "build" in service:
            assert (ROOT / service["build"].get("dockerfile", "Dockerfile")).exists()


def test_ci_runs_what_the_readme_says():
    assert "make check test" in (ROOT / ".ci" / "run").read_text()
    assert "make check" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
