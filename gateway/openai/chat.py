"""Chat completions: a conversation goes in, one message a choice comes out."""

from __future__ import annotations

from gateway.openai.generation import Generation


class Chat(Generation):
    path = "/v1/chat/completions"
    limits: tuple[str, ...] = ("max_completion_tokens", "max_tokens")
