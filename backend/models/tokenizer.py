"""The tokenizer of a Hugging Face folder: text to tokens, chats to prompts, tokens to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer

from backend.models.errors import ChatError, LoadError


class Tokenizer:
    """Safe to use from several threads at once: it calls nothing that changes the tokenizer."""

    def __init__(self, folder: Path) -> None:
        """Raises LoadError."""
        try:
            self._hf = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._backend = self._hf.backend_tokenizer
        except (OSError, ValueError, AttributeError) as error:
            raise LoadError(f"{folder}: no fast tokenizer (tokenizer.json) can be loaded ({error})") from None

    def encode(self, text: str) -> list[int]:
        """The tokens of a prompt, with those the model expects around any text."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=True).ids
        return ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a conversation, up to where the assistant's answer begins. Raises ChatError."""
        if self._hf.chat_template is None:
            raise ChatError("this model has no chat template; use /v1/completions with a prompt")
        try:
            text = self._hf.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            raise ChatError(f"the model's chat template refuses these messages: {error}") from None
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text
