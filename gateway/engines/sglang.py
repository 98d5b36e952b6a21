"""SGLang. It tells how many requests wait, and nothing of its size that the gateway reads."""

from __future__ import annotations

from gateway.engines.dialect import Dialect

SGLANG = Dialect("sglang", prefix="sglang:", waiting="sglang:num_queue_reqs")
