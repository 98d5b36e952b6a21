"""All that runs a model: `models`, a library, and `worker`, a program that serves one over HTTP."""

import os

# Read once, when torch loads its OpenMP runtime. By default a thread that waits for the others spins; when anything
# else wants the core (the gateway, the load generator), one token then takes 5 to 10 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
