"""The `openai` SDK, pointed at the gateway, works as with OpenAI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest

from .conftest import House, MakeHouse, tenant
from .engine import Engine

MESSAGES = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def sdk(house: House, key: str = "key-a", max_retries: int = 0) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=house.url + "/v1", api_key=key, max_retries=max_retries) as client:
        yield client


async def test_chat_whole_and_streamed(make_house: MakeHouse) -> None:
    house = await make_house(Engine(text=[["Par", "is", "."]]))
    async with sdk(house) as client:
        answer = await client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[arg-type]
        assert answer.choices[0].message.content == "Paris."
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
        stream = await client.chat.completions.create(
            model="m",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},  # type: ignore[arg-type]
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Paris."
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        completion = await client.completions.create(model="m", prompt="hello")
        assert completion.choices[0].text == "Paris."
        assert [model.id async for model in client.models.list()] == ["m"]


async def test_errors_are_the_sdks_own(make_house: MakeHouse) -> None:
    house = await make_house(tenants=[tenant("a"), tenant("limited", rpm=1)])
    async with sdk(house, "wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[arg-type]
        assert caught.value.code == "invalid_api_key"
    async with sdk(house) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="absent", messages=MESSAGES)  # type: ignore[arg-type]
    async with sdk(house, "key-l") as client:
        await client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[arg-type]
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[arg-type]
        assert limited.value.code == "rate_limit_exceeded"


async def test_an_error_inside_a_stream_is_raised(make_house: MakeHouse) -> None:
    house = await make_house(Engine(die_before=3))
    async with sdk(house) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
        with pytest.raises(openai.APIError, match="engine failed"):
            async for _ in stream:
                pass
