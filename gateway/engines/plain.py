"""An engine of which nothing is known but that it speaks the OpenAI API.

It is asked for continuous usage like the others: one that does not know it refuses once, and is asked without from then
on (see engine.py).
"""

from __future__ import annotations

from gateway.engines.dialect import Dialect

PLAIN = Dialect("plain", repeatable=False)
