"""Prompts of about a wanted number of tokens, from real text where there is some."""

from __future__ import annotations

import random
from collections.abc import Sequence

from loadgen.workloads.arena import arena_trace

_TEXT = (
    "the river carries every letter past the old mill where a clerk keeps count of barges and bread "
    "some mornings bring fog and others bring traders who argue about salt wool copper and the price of rain "
    "nobody remembers who built the bridge but each child learns its number of stones before the alphabet"
)
WORDS = _TEXT.split()


class Prompts:
    """Builds prompts and learns from the engine's own counts how many tokens its tokenizer makes of a word.

    Each prompt starts at another word, so that a prefix cache finds nothing it would not find in real traffic.
    """

    def __init__(self, words: Sequence[str] = (), *, tokens_per_word: float = 1.3, seed: int = 0) -> None:
        self._words = words or stock_words()
        self._random = random.Random(seed)
        self._tokens = 64 * tokens_per_word
        self._of_words = 64.0

    @property
    def tokens_per_word(self) -> float:
        return self._tokens / self._of_words

    def build(self, tokens: int) -> str:
        """Text of about `tokens` tokens, at least one word."""
        wanted = max(1, round(tokens / self.tokens_per_word))
        start = self._random.randrange(len(self._words))
        return " ".join(self._words[(start + i) % len(self._words)] for i in range(wanted))

    def observe(self, words: int, tokens: int) -> None:
        """The engine counted `tokens` in a prompt of `words` words, its chat template included."""
        self._tokens += tokens
        self._of_words += words


class WordPrompts(Prompts):
    """Prompts for an engine whose tokens are words, like the mock engine: of exactly the wanted length, and of four
    bytes a token, so that who estimates by the rule of thumb is right too."""

    def __init__(self) -> None:
        super().__init__(("tok",), tokens_per_word=1.0)

    def build(self, tokens: int) -> str:
        return "tok " * tokens

    def observe(self, words: int, tokens: int) -> None:
        """There is nothing to learn."""


def stock_words() -> Sequence[str]:
    """The sonnets that lie beside the traces, where they do; else a short built-in text, over and over."""
    arena = arena_trace()
    sonnets = arena.with_name("sonnet.txt") if arena else None
    return sonnets.read_text(encoding="utf-8").split() if sonnets and sonnets.is_file() else WORDS
