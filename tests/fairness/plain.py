"""The same tests run on the compiled law, less those that break a rule on purpose: native code cannot be patched."""

import pytest

from fairness import scheduler

PLAIN_ONLY = pytest.mark.skipif(not str(scheduler.__file__).endswith(".py"), reason="the law is compiled")
