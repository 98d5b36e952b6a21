"""Hypothesis profiles: `ci` is bounded and the same every time; HYPOTHESIS_PROFILE=deep searches for long."""

import os

from hypothesis import HealthCheck, settings

CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", max_examples=60, derandomize=True, deadline=None, suppress_health_check=CALM)
settings.register_profile("deep", max_examples=3000, deadline=None, suppress_health_check=CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
