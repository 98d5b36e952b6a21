"""Plain Python unless FAIRGATE_COMPILE=1: then the law's hot modules become native code, by mypyc, same source.

FAIRGATE_COMPILE=1 pip install --no-build-isolation .        (setuptools and mypy must be installed)
"""

import os
from glob import glob

from setuptools import setup

# Not `room` and `predict`: other packages derive classes of their own from theirs.
LAW = (
    "cost",
    "ticket",
    "shares",
    "auditor",
    "exposure",
    "ledger",
    "forest",
    "integrity",
    "deadlines",
    "queue",
    "admission",
    "locality",
    "scheduler",
)

if os.environ.get("FAIRGATE_COMPILE") == "1":
    from mypyc.build import mypycify

    modules = [f"fairness/{name}.py" for name in LAW] + sorted(glob("fairness/policies/*.py"))
    setup(ext_modules=mypycify(modules))
else:
    setup()
