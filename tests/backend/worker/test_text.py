"""Detokenizing piece by piece, stop strings, and sampling."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from backend.worker.sampling import SamplingParams, generator, sample
from backend.worker.text import REPLACEMENT, Detokenizer, StopFinder, TextStream

from ..tiny import byte_tokenizer


def sentencepiece_like() -> Tokenizer:
    """Words with a leading mark, and bytes for the rest: the other way in which models spell characters."""
    words = ["<unk>", "▁hello", "▁world", "▁", "!", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@given(st.lists(st.integers(0, 257), max_size=40))
def test_pieces_join_to_the_decoding_of_the_whole_even_for_bytes_that_are_no_text(ids: list[int]) -> None:
    assert "".join(pieces(byte_tokenizer(), ids)) == byte_tokenizer().decode(ids)


@given(st.text(max_size=30))
def test_whole_characters_only(text: str) -> None:
    ids = byte_tokenizer().encode(text).ids
    got = pieces(byte_tokenizer(), ids)
    assert "".join(got) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in got)


@pytest.mark.parametrize("text", ["日本語 🎉 naïve", "👩‍👩‍👧", "é"])
def test_a_character_of_several_tokens_comes_when_it_is_whole(text: str) -> None:
    got = pieces(byte_tokenizer(), byte_tokenizer().encode(text).ids)
    assert [piece for piece in got if piece] == list(text)


def test_a_character_cut_by_the_end_shows_once_at_the_end() -> None:
    ids = byte_tokenizer().encode("ab€").ids[:-1]
    assert pieces(byte_tokenizer(), ids) == ["a", "b", "", "", REPLACEMENT]


def test_leading_spaces_survive_a_tokenizer_that_strips_the_first() -> None:
    tokenizer = sentencepiece_like()
    vocab = tokenizer.get_vocab()
    euro = [vocab[f"<0x{byte:02X}>"] for byte in "€".encode()]
    ids = [vocab["▁hello"], vocab["▁world"], vocab["▁"], *euro, vocab["!"], vocab["▁hello"]]
    got = pieces(tokenizer, ids)
    assert got == ["hello", " world", " ", "", "", "€", "!", " hello", ""]
    assert "".join(got) == tokenizer.decode(ids)


alphabet = st.text("ab", max_size=4)


@given(st.lists(alphabet, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_found_wherever_it_is_cut_and_nothing_of_it_is_emitted(
    texts: list[str], stops: list[str]
) -> None:
    finder, emitted, whole = StopFinder(stops), "", "".join(texts)
    for text in texts:
        piece = finder.push(text)
        emitted += piece.text
        if piece.stopped:
            break
    else:
        emitted += finder.flush()
    # The stop string that is complete first counts; of two that are, the one that begins first.
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    if not ends:
        assert emitted == whole
    else:
        assert not any(stop in emitted for stop in stops)
        assert whole.startswith(emitted)
        assert any(whole[len(emitted) :].startswith(stop) for stop in stops)


def test_text_is_held_back_no_longer_than_needed() -> None:
    finder = StopFinder(["END", "stop"])
    assert [finder.push(text).text for text in ("xE", "N", "x", "sto", "ne")] == ["x", "", "ENx", "", "stone"]


def test_stop_strings_count_only_after_the_least_number_of_tokens() -> None:
    stream = TextStream(byte_tokenizer(), ["a"], min_tokens=2)
    letter = byte_tokenizer().encode("a").ids[0]
    assert [stream.push(letter) for _ in range(3)] == [("a", False), ("a", False), ("", True)]


def test_held_text_comes_at_the_end() -> None:
    stream = TextStream(byte_tokenizer(), ["abc"], min_tokens=0)
    for token in byte_tokenizer().encode("xab").ids:
        stream.push(token)
    assert stream.flush() == ("ab", False)


CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, float("-inf")])


def counts(params: SamplingParams, draws: int = 4000) -> torch.Tensor:
    source = generator(params, CPU)
    return torch.bincount(torch.tensor([sample(LOGITS, params, source) for _ in range(draws)]), minlength=5) / draws


def test_greedy_takes_the_best() -> None:
    params = SamplingParams(1, temperature=0.0)
    assert sample(LOGITS, params, generator(params, CPU)) == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, -1)
    got = counts(SamplingParams(1, temperature=temperature, seed=3))
    assert (got - expected).abs().max() < 5 * math.sqrt(0.25 / 4000)
    assert got[4] == 0


@pytest.mark.parametrize(("top_p", "kept"), [(1e-6, 1), (0.6, 1), (0.62, 2), (0.8, 2), (0.99, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    # probabilities .61 .22 .14 .03 0
    got = counts(SamplingParams(1, top_p=top_p, seed=3), draws=1000)
    assert (got > 0).tolist() == [True] * kept + [False] * (5 - kept)


def test_a_nucleus_of_a_flat_distribution_is_wide() -> None:
    flat = torch.zeros(2000)
    source = generator(params := SamplingParams(1, top_p=0.5, seed=3), CPU)
    assert len({sample(flat, params, source) for _ in range(3000)}) > 700  # of the 1000 it holds


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    def draw(seed: int | None) -> list[int]:
        params = SamplingParams(1, temperature=2.0, seed=seed)
        source = generator(params, CPU)
        return [sample(LOGITS, params, source) for _ in range(64)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_the_json_of_a_piece_is_valid_utf8() -> None:
    for piece in pieces(byte_tokenizer(), range(256)):
        json.dumps(piece, ensure_ascii=False).encode()
