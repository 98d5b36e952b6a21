"""The same tests run on the compiled law, less those that break a rule on purpose: native code cannot be patched."""

import pytest

from fairness import BUILD

PLAIN_ONLY = pytest.mark.skipif(BUILD == "compiled", reason="the law is compiled; make test-pure runs this")
