"""What every test may count on, whatever machine it runs on.

Hypothesis profiles: `ci` is bounded, the same every time, and without a time limit or a folder of its own;
HYPOTHESIS_PROFILE=deep searches for long (pytest --timeout=0, since minutes for one test are as they should be).
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from fairgate.native import stale

CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", max_examples=60, derandomize=True, deadline=None, suppress_health_check=CALM)
settings.register_profile("deep", max_examples=3000, deadline=None, suppress_health_check=CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Set by whoever works on kernels. What checks the interpreted ones is started by name; all else is of the CPU's.
if not any("interpreted" in argument for argument in sys.argv):
    os.environ.pop("TRITON_INTERPRET", None)


def pytest_configure() -> None:
    if why := stale():
        pytest.exit(why, returncode=2)


@pytest.fixture(scope="session", autouse=True)
def _files() -> None:
    """A thousand streams at once are more open files than most systems allow at first, and fewer than on request."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536 if most == resource.RLIM_INFINITY else min(most, 65536), most))


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """What listens here is not asked by way of $http_proxy; clients and programs that tests start inherit that."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted models and compiled kernels lie below it; where it is missing or read-only, the run has its own."""
    with pytest.MonkeyPatch.context() as environment:
        if not os.access(os.path.expanduser("~"), os.W_OK):
            environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield
