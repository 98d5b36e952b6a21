"""The worker's settings, validated at the edge."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.worker.memory.pages import PAGE


class WorkerSettings(BaseModel):
    """Everything a worker needs to know; unknown keys are refused.

    `model` is `smollm2`, `gemma3-270m` or a local Hugging Face folder. `port` 0 takes a free port. `kv_tokens` is
    the KV cache in tokens over all requests, `max_running` the most requests that decode together, `max_len` the
    most tokens (prompt and output) of one request. A request waits until a slot and the pages of its prompt and
    `max_tokens` are free; at most `max_waiting` do. `prefill_chunk` is the most prompt tokens of one step.
    `device` is where the model, its cache and its adapters lie: `cpu`, `cuda` or `cuda:N`.
    `dtype` is that of weights, activations and KV cache. In float32 every processor chooses the same greedy tokens; in
    bfloat16 its rounding decides where two are nearly as likely, and it takes half the memory (see README, Numbers).
    `deterministic` makes a request's tokens and logits independent of what shares its batch. `threads` are torch's;
    0 leaves one core to HTTP and the gateway. `drain_s`: seconds that running requests get after SIGTERM.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "smollm2"
    served_name: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8100, ge=0, le=65535)
    dtype: Literal["bfloat16", "float32"] = "float32"
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    kv_tokens: int = Field(default=32768, ge=PAGE)
    max_running: int = Field(default=16, ge=1)
    max_waiting: int = Field(default=256, ge=0)
    max_len: int = Field(default=2048, ge=2)
    prefill_chunk: int = Field(default=128, ge=1)
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1)
    deterministic: bool = False
    adapters: dict[str, str] = Field(default_factory=dict)
    threads: int = Field(default=0, ge=0)
    drain_s: float = Field(default=30.0, ge=0)

    @model_validator(mode="after")
    def _names_the_model(self) -> Self:
        if not self.model:
            raise ValueError("model is empty; expected smollm2, gemma3-270m or the path of a Hugging Face folder")
        if self.name in self.adapters:
            raise ValueError(f"adapter {self.name!r} has the name of the base model; expected a name of its own")
        return self

    @property
    def name(self) -> str:
        """The name the base model is served under."""
        return self.served_name or self.model.rstrip("/").rsplit("/", 1)[-1]

    @property
    def pages(self) -> int:
        """Of the KV cache, PAGE tokens each."""
        return self.kv_tokens // PAGE

    @property
    def cache_tokens(self) -> int:
        """Tokens the KV cache holds, in whole pages."""
        return self.pages * PAGE

    @property
    def longest(self) -> int:
        """The most tokens, prompt and output, of a request that can ever run here."""
        return min(self.max_len, self.cache_tokens)
